"""What sums over the same terms have in common adds up over places: in weight gradients, and in attention."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from tests.signals.agreement import DRAWS, disagreement
from tests.zoos.member import array


@pytest.mark.parametrize("places", [10, 100, 1000])
@pytest.mark.parametrize("count", [10, 40])
def test_gradient_of_the_weights_of_squares(count, places):
    """Of `Σ_p (x_p w)² v` it is `2 v S w`, `S = Σ_p x_p x_pᵀ`: of mean square `4 E[v²] σ² tr(S²)/n`."""
    outputs = 8

    def apply(p, x):
        return ((x @ p["a"]) ** 2).sum(0) @ p["b"]

    shapes = {
        "a": jax.ShapeDtypeStruct((count, 64), "float32"),
        "b": jax.ShapeDtypeStruct((64, outputs), "float32"),
    }
    x = array(places, count)
    records = jinit.predict(apply, weights=lambda path: {"a": 1 / count, "b": 0.5}[path])(shapes, x)
    s = np.asarray(x).T @ np.asarray(x)
    exact = 4 * outputs * 0.5 * np.trace(s @ s) / count**2
    # Exact to first order in one over the number of terms.
    np.testing.assert_allclose(records["a"].weight_gradient.second_moment, exact, rtol=2 / count)


def test_examples_that_share_nothing_have_no_more_in_common():
    """Cotangents of their own differ in sign: `n E[x²] E[g²]`."""
    shapes = {k: jax.ShapeDtypeStruct((20, 20), "float32") for k in "ab"}
    records = jinit.predict(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], weights=lambda _: 0.1)(
        shapes, array(500, 20)
    )
    a = records["a"]
    expected = 500 * a.input.second_moment * a.cotangent.second_moment
    np.testing.assert_allclose(a.weight_gradient.second_moment, expected, rtol=1e-4)


class Attention(nn.Module):
    """Self-attention written out, of one head narrower than its tokens, perhaps beside one of a class."""

    width: int = 48
    classes: bool = False

    @nn.compact
    def __call__(self, x):
        if self.classes:
            token = self.param("token", nn.initializers.normal(1.0), (1, 1, x.shape[-1]))
            x = jnp.concatenate([jnp.tile(token, (len(x), 1, 1)), x], axis=1)
        q, k, v = (nn.Dense(self.width, name=name)(x) for name in ("q", "k", "v"))
        p = jax.nn.softmax(jnp.einsum("btj,bsj->bts", q, k) / self.width**0.5)
        return nn.Dense(8, name="out")(jnp.einsum("bts,bsi->bti", p, v).mean(1))


@pytest.mark.parametrize(("tokens", "classes"), [(16, False), (16, True), (64, False)])
def test_attention_over_as_many_tokens_as_they_are_wide(tokens, classes):
    """Scores and values are made of the same tokens, scores and queries of the same queries."""
    assert_agrees(Attention(classes=classes), array(4, tokens, 96), 0.12)


class Gated(nn.Module):
    """A gate of weights of its own: what it has in common with the inputs of the other layer counts too."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(128, name="a")(x) * nn.sigmoid(nn.Dense(128, name="b")(x))


NETWORKS = {
    "dense": [nn.Dense(64), jax.nn.gelu, lambda x: x.mean(1), nn.Dense(8)],
    "convolution": [
        lambda x: x.reshape(len(x), 8, 8, -1),
        nn.Conv(64, (3, 3)), nn.relu, lambda x: x.mean((1, 2)), nn.Dense(8),
    ],
    "two": [nn.Dense(96), nn.tanh, nn.Dense(96), nn.gelu, lambda x: x.mean(1), nn.Dense(8)],
    "gated": [Gated(), lambda x: x.mean(1), nn.Dense(8)],
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_few_inputs_before_a_mean_over_places(name):
    """Without what they have in common gradients would be predicted at 0.3 to 0.7 of these."""
    assert_agrees(nn.Sequential(NETWORKS[name]), array(4, 64, 6), 0.15)


def assert_agrees(model, x, narrow):
    """Every field of every site."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    plan = jinit.plan([("*", lambda use: law_of(use.path))])
    predicted = jinit.predict(model.apply, weights=plan)(shapes, x)
    draw = jinit.init(model.apply, plan)
    measure = jax.jit(lambda p, key: jinit.measure(model.apply, key=key)(p, x)[1])
    keys = [jax.random.key(i) for i in range(4 * DRAWS)]
    seen = [measure(draw(key, shapes, x), key) for key in keys]
    for site, record in predicted.items():
        for field in ("output", "cotangent", "weight_gradient"):
            of_draws = [getattr(records[site], field) for records in seen]
            assert disagreement(getattr(record, field), of_draws, narrow=narrow) < 1, (site, field)


def law_of(path):
    if path.endswith("bias"):
        return jinit.normal(0.5) if "layers_0" in path else jinit.zeros
    return jinit.normal(1.0) if path.endswith("token") else jinit.lecun_normal()
