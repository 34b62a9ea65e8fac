"""The similarity of two examples: against the correlation map, and as measured over draws of the weights."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit import meanfield

N, DEPTH = 512, 5


def plain(activation: Any) -> Any:
    def apply(p: Any, x: Any) -> Any:
        for i in range(DEPTH):
            x = activation(x @ p[f"w{i}"] + p[f"b{i}"][None])
        return x

    return apply


SHAPES = {f"w{i}": jax.ShapeDtypeStruct((N, N), "float32") for i in range(DEPTH)} | {
    f"b{i}": jax.ShapeDtypeStruct((N,), "float32") for i in range(DEPTH)
}


@pytest.mark.parametrize(
    "similarity", [pytest.param(0.0, marks=pytest.mark.slow), 0.3, pytest.param(0.95, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    ("activation", "weight", "bias"),
    [(jax.nn.relu, 2.0, 0.0), (jnp.tanh, 1.7, 0.05), (jax.nn.gelu, 1.8, 0.1)],
)
@pytest.mark.slow
def test_plain_networks_follow_the_correlation_map(activation, weight, bias, similarity):
    def variance(path: str) -> float:
        return weight / N if path[0] == "w" else bias

    x = jax.ShapeDtypeStruct((8, N), "float32")
    alike = jinit.predict_similarity(plain(activation), similarity=similarity, weights=variance)(SHAPES, x)
    laws = {"weight_variance": weight, "bias_variance": bias}
    q, c = weight + bias, (weight * similarity + bias) / (weight + bias)
    for i in range(DEPTH):
        # A kink costs the square of the distance of nodes, here 64 and 256 of them.
        np.testing.assert_allclose(alike[f"w{i}"].output, c, atol=2e-4)
        c = meanfield.correlation_map(activation, q, c, **laws)
        q = meanfield.variance_map(activation, q, **laws)


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        for _ in range(3):
            x = x + nn.Dense(128)(nn.relu(nn.Dense(128)(x)))
        return nn.Dense(128)(x)


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        for _ in range(2):
            x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x))
            x = x + nn.Dense(128)(nn.gelu(nn.Dense(256)(nn.LayerNorm()(x))))
        return nn.Dense(128)(nn.LayerNorm()(x))


def measured(model: Any, shape: Any, draws: int) -> dict[str, np.ndarray]:
    """By module, the mean of `x x'` over pairs of examples over that of `x²`, all drawn anew."""

    def of(output: Any) -> Any:
        pairs = jnp.sum(jnp.sum(output, 0) ** 2) - jnp.sum(output**2)
        return pairs / (len(output) - 1) / jnp.sum(output**2)

    def one(key: Any) -> Any:
        weights, common, own = jax.random.split(key, 3)
        x = 0.3**0.5 * jax.random.normal(common, (1, *shape[1:]))
        x = x + 0.7**0.5 * jax.random.normal(own, shape)
        first = lambda module, _: isinstance(module, (nn.Dense, nn.DenseGeneral))  # noqa: E731
        _, state = model.apply(model.init(weights, x), x, capture_intermediates=first)
        return {jax.tree_util.keystr(k): of(v) for k, v in jax.tree_util.tree_leaves_with_path(state)}

    found = [jax.jit(one)(jax.random.key(i)) for i in range(draws)]
    names = {k: "/".join(p for p in k.split("'")[3::2] if p != "__call__") for k in found[0]}
    return {names[k]: np.array([f[k] for f in found]) for k in found[0]}


@pytest.mark.slow
@pytest.mark.parametrize(("model", "shape"), [(Residual(), (16, 128)), (Transformer(), (16, 16, 128))])
def test_agrees_with_measurement(model, shape):
    x = jax.ShapeDtypeStruct(shape, "float32")
    params = jax.eval_shape(model.init, jax.random.key(0), x)
    plan = jinit.plan(
        [
            ("*/kernel", nn.initializers.lecun_normal()),
            ("*", lambda use: jinit.ones if "scale" in use.path else jinit.zeros),
        ]
    )
    alike = jinit.predict_similarity(model.apply, similarity=0.3, weights=plan)(params, x)
    seen = measured(model, shape, 12)
    for site, predicted in alike.items():
        values = seen[site.removeprefix("params/").removesuffix("/kernel")]
        # Besides the error over draws: terms of order one over width, and tokens over width in attention.
        room = 3 * values.std(ddof=1) / len(values) ** 0.5 + 4 / 128
        assert abs(float(predicted.output) - values.mean()) < room, site


def test_what_it_is_given_is_checked():
    with pytest.raises(ValueError, match=r"`similarity` must be from 0 to 1; got similarity=1.5"):
        jinit.predict_similarity(plain(jnp.tanh), similarity=1.5)
    one = jax.ShapeDtypeStruct((1, N), "float32")
    with pytest.raises(ValueError, match="two or more, along axis 0"):
        jinit.predict_similarity(plain(jnp.tanh), similarity=0.5, weights=lambda path: 1.0)(SHAPES, one)
