"""Attention that does not see everything, and softmax by itself."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit.signals.laws.law import average, normal
from jinit.signals.laws.softmax import probabilities
from tests.zoos.member import array

TOKENS, WIDTH = 12, 64
SHAPES = {name: jax.ShapeDtypeStruct((WIDTH, WIDTH), "float32") for name in "qkvo"}
X = jax.ShapeDtypeStruct((8, TOKENS, WIDTH), "float32")
CAUSAL = np.tril(np.ones((1, TOKENS, TOKENS), bool))
LOWEST = float(np.finfo(np.float32).min)

MASKS = {
    "infinity": lambda s: jnp.where(CAUSAL, s, -jnp.inf),
    "lowest": lambda s: jnp.where(CAUSAL, s, LOWEST),
    "large": lambda s: jnp.where(CAUSAL, s, -1e9),
    "added": lambda s: s + jnp.where(CAUSAL, 0.0, LOWEST),
    "added_large": lambda s: s + (1.0 - CAUSAL.astype(np.float32)) * -1e4,
    "in_the_program": lambda s: jnp.where(jnp.tril(jnp.ones_like(s, bool)), s, -1e30),
}


def attention(p, x, mask):
    q, k, v = x @ p["q"], x @ p["k"], x @ p["v"]
    return jax.nn.softmax(mask(q @ jnp.swapaxes(k, -1, -2) / WIDTH**0.5)) @ v @ p["o"]


def predicted(mask, scale=1.0):
    apply = lambda p, x: attention(p, x, mask)  # noqa: E731
    variance = lambda path: (scale if path in "qk" else 1.0) / WIDTH  # noqa: E731
    return jinit.predict(apply, weights=variance)(SHAPES, X)


@pytest.mark.parametrize("name", MASKS)
def test_all_ways_to_mask_are_one(name):
    found, expected = predicted(MASKS[name]), predicted(MASKS["infinity"])
    for site in SHAPES:
        for field in ("input", "output", "cotangent", "weight_gradient"):
            moments = [getattr(r[site], field).second_moment for r in (found, expected)]
            np.testing.assert_allclose(*moments, rtol=1e-4, err_msg=f"{site} {field}")


def test_uniform_causal_attention_is_a_mean_of_those_before():
    """Row `t` averages `t` independent values: `E = Σ 1/t / T`."""
    found = predicted(MASKS["large"], scale=1e-8)["o"].input.second_moment
    np.testing.assert_allclose(found, np.mean(1 / np.arange(1, TOKENS + 1)), rtol=5e-3)


@pytest.mark.parametrize("kept", [1, 3])
def test_a_padding_mask_leaves_as_many_keys(kept):
    padding = lambda s: s + jnp.where(np.arange(TOKENS)[None, None] < kept, 0.0, -1e9)  # noqa: E731
    found = predicted(padding, scale=1e-8)["o"].input.second_moment
    np.testing.assert_allclose(found, 1 / kept, rtol=1e-3)


def test_positions_and_a_mask_in_one_array():
    """As ALiBi: what is added is a number where it counts, and minus infinity elsewhere."""
    slopes = -0.5 * np.abs(np.subtract.outer(np.arange(TOKENS), np.arange(TOKENS)))[None]
    bias = np.where(CAUSAL, slopes, -1e9).astype(np.float32)
    found = predicted(lambda s: s + bias, scale=1e-8)["o"].input.second_moment
    p = np.exp(bias - bias.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    assert 0.8 < float(found) / (p**2).sum(-1).mean() < 1.2  # slopes are known on average over rows


@pytest.mark.parametrize("deviation", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("count", [2, 12, 200])
def test_softmax_of_independent_normals(count, deviation):
    law = normal(jnp.zeros(()), deviation**2, "z", (4, count), jnp.float32)
    found = probabilities(law, frozenset([1]), "p")
    z = np.random.default_rng(0).normal(size=(2_000_000 // count, count)) * deviation
    e = np.exp(z - z.max(-1, keepdims=True))
    p = e / e.sum(-1, keepdims=True)
    np.testing.assert_allclose(average(found).reshape(()), 1 / count, rtol=1e-5)
    squares = count * (p**2).mean(-1)
    error = 5 * squares.std() / len(squares) ** 0.5
    assert abs(float(count * average(found, of=found.nodes**2).reshape(())) - squares.mean()) < error


@pytest.mark.parametrize(("deviation", "room"), [(1.0, 0.05), (2.0, 0.25)])
def test_what_comes_back_from_softmax(deviation, room):
    """`p (ct - Σ p ct)` for independent normal cotangents; harder where one entry takes most."""
    count = 12

    def apply(p, x):
        return jax.nn.softmax(x @ p["a"])

    params = {"a": jax.ShapeDtypeStruct((512, count), "float32")}
    x = jax.ShapeDtypeStruct((64, 512), "float32")
    records = jinit.predict(apply, weights=lambda path: deviation**2 / 512)(params, x)
    z = np.random.default_rng(0).normal(size=(200_000, count)) * deviation
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    back = (p**2 * ((1 - p) ** 2 + (p**2).sum(-1, keepdims=True) - p**2)).mean()
    assert abs(float(records["a"].cotangent.second_moment) / back - 1) < room


def embedded(p, ids, kind):
    x = p["table"][ids] + p["kind"][jnp.full_like(ids, kind)]
    return x.mean(1) @ p["out"]


def test_rows_looked_up_again_and_again_are_the_same():
    """All positions have one kind, so its row stays in the mean over them, and others average out."""
    ids = np.arange(8 * 50).reshape(8, 50)
    shapes = {
        "table": jax.ShapeDtypeStruct((400, WIDTH), "float32"),
        "kind": jax.ShapeDtypeStruct((2, WIDTH), "float32"),
        "out": jax.ShapeDtypeStruct((WIDTH, WIDTH), "float32"),
    }
    apply = lambda p, ids: embedded(p, ids, 1)  # noqa: E731
    records = jinit.predict(apply, weights=lambda path: 1.0)(shapes, ids)
    np.testing.assert_allclose(records["out"].input.second_moment, 1 + 1 / 50, rtol=1e-3)
    params = {"table": array(400, WIDTH), "kind": array(2, WIDTH, seed=1), "out": array(WIDTH, WIDTH, seed=2)}
    alike = jinit.measure(apply)(params, ids)[1]["out"].input.second_moment
    assert abs(float(alike) - 1) < 0.5  # one row of 64 entries
