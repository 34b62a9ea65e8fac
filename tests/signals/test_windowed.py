"""Convolutions over few terms: what neighbours have in common by the same few weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from tests.signals.agreement import DRAWS, disagreement

PLACES, CHANNELS = 24, 64


def depthwise(x, kernel):
    """Each channel by itself, without a border."""
    taps = len(kernel)
    x = jnp.concatenate([x, x[:, : taps - 1]], axis=1)
    names = ("NWC", "WIO", "NWC")
    return jax.lax.conv_general_dilated(
        x, kernel[:, None], (1,), "VALID", dimension_numbers=names, feature_group_count=CHANNELS
    )


def shapes(**sizes):
    return {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in sizes.items()}


def of_unit_size(y):
    return y / jnp.sqrt((y**2).mean((0, 1), keepdims=True))


def drawn(taps, count=20_000):
    """Sums over windows of a circle: of one channel each, `[draw, place, tap]`, and weights of size one."""
    rng = np.random.default_rng(taps)
    w, x = rng.normal(size=(count, taps)), rng.normal(size=(count, PLACES))
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    return np.stack([np.roll(x, -k, axis=1) for k in range(taps)], axis=-1), w


@pytest.mark.parametrize("taps", [2, 3, 9])
@pytest.mark.parametrize("name", ["relu", "square", "tanh"])
def test_a_mean_over_places(name, taps):
    """Squares of neighbours are alike, as they share entries; sums themselves and odd functions are not."""
    f = {"relu": jax.nn.relu, "square": jnp.square, "tanh": jnp.tanh}[name]
    oracle = {"relu": lambda y: np.maximum(y, 0), "square": np.square, "tanh": np.tanh}[name]

    def apply(p, x):
        return f(of_unit_size(depthwise(x, p["conv"]))).mean(1) @ p["head"]

    params = shapes(conv=(taps, CHANNELS), head=(CHANNELS, 8))
    x = jax.ShapeDtypeStruct((256, PLACES, CHANNELS), "float32")
    variances = {"conv": 1 / taps, "head": 1 / CHANNELS}
    found = jinit.predict(apply, weights=variances.get, backward=False)(params, x)["head"].input
    windows, w = drawn(taps)
    expected = oracle(np.einsum("dpk,dk->dp", windows, w)).mean(1).var()
    np.testing.assert_allclose(found.second_moment - found.mean**2, expected, rtol=0.06)


@pytest.mark.parametrize("taps", [3, 9])
def test_a_gradient_meets_its_weights_again(taps):
    """`Σ_t w_t relu'(y_(p-t))`, `y` made with the same `w`; what comes back is the same everywhere."""

    def apply(p, x):
        return jax.nn.relu(of_unit_size(depthwise(x @ p["first"], p["conv"]))).mean(1) @ p["head"]

    params = shapes(first=(CHANNELS, CHANNELS), conv=(taps, CHANNELS), head=(CHANNELS, 8))
    x = jax.ShapeDtypeStruct((256, PLACES, CHANNELS), "float32")
    variances = {"first": 1 / CHANNELS, "conv": 1 / taps, "head": 1 / CHANNELS}
    found = jinit.predict(apply, weights=variances.get)(params, x)
    windows, w = drawn(taps)
    y = np.einsum("dpk,dk->dp", windows, w)
    back = np.stack([np.roll(y > 0, k, axis=1) for k in range(taps)], axis=-1) * w[:, None]
    # What is divided by the size of all examples has no derivative along it but for one in so many.
    ratio = found["first"].cotangent.second_moment / found["conv"].cotangent.second_moment
    np.testing.assert_allclose(ratio, (back.sum(-1) ** 2).mean() / (y > 0).mean(), rtol=0.06)


def test_channels_that_stand_apart_share_nothing_besides():
    """A dense layer behind a depthwise one, before a mean over places: 2.7 of what is measured."""

    def apply(p, x):
        h = of_unit_size(depthwise(x, p["conv"]))
        return jax.nn.relu(h @ p["dense"]).mean(1) @ p["head"]

    plan = jinit.plan([("conv", jinit.normal(3**-0.5)), ("*", jinit.he_normal())])
    params = shapes(conv=(3, CHANNELS), dense=(CHANNELS, CHANNELS), head=(CHANNELS, CHANNELS))
    x = jax.random.normal(jax.random.key(0), (8, PLACES, CHANNELS))
    found = jinit.predict(apply, weights=plan)(params, x)["dense"]
    draw = jinit.init(apply, plan)
    measure = jax.jit(lambda p, key: jinit.measure(apply, key=key)(p, x)[1]["dense"])
    seen = [measure(draw(key, params, x), key) for key in jax.random.split(jax.random.key(1), 3 * DRAWS)]
    for field in ("cotangent", "weight_gradient"):
        assert disagreement(getattr(found, field), [getattr(r, field) for r in seen]) < 1, field
