"""Maxima along axes: what comes back from them goes to the entry that is the largest."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from tests.signals.agreement import DRAWS, disagreement
from tests.zoos.member import array

WIDTH = 128
SHAPES = {
    "a": jax.ShapeDtypeStruct((WIDTH, 3 * WIDTH), "float32"),
    "b": jax.ShapeDtypeStruct((WIDTH, 32), "float32"),
}


def maxout(p, x):
    return (x @ p["a"]).reshape(-1, WIDTH, 3).max(-1) @ p["b"]


def dropped(p, x):
    """A mask on what comes back, which `eq` and its count cannot tell from a maximum of its own."""
    h = (x @ p["a"]).reshape(-1, WIDTH, 3).max(-1)
    return jnp.where(jax.random.bernoulli(jax.random.key(0), 0.5, h.shape), 2 * h, 0) @ p["b"]


def over_tokens(p, x):
    return jnp.tanh(x.reshape(8, 8, WIDTH) @ p["a"][:, :WIDTH]).max(1) @ p["b"]


def smallest(p, x):
    return jnp.tanh(x.reshape(8, 8, WIDTH) @ p["a"][:, :WIDTH]).min(1) @ p["b"]


@pytest.mark.parametrize("apply", [maxout, dropped, over_tokens, smallest])
def test_gradients_of_a_maximum(apply):
    x = array(64, WIDTH)
    predicted = jinit.predict(apply, weights=lambda path: 1 / WIDTH)(SHAPES, x)
    measure = jax.jit(lambda p, key: jinit.measure(apply, key=key)(p, x)[1])
    draws = []
    for i in range(DRAWS):
        keys = jax.random.split(jax.random.key(i), 2)
        p = {
            k: jax.random.normal(key, SHAPES[k].shape) / WIDTH**0.5 for k, key in zip("ab", keys, strict=True)
        }
        draws.append(measure(p, jax.random.key(100 + i)))
    for site in "ab":
        for field in ("output", "cotangent", "weight_gradient"):
            of_draws = [getattr(d[site], field) for d in draws]
            assert disagreement(getattr(predicted[site], field), of_draws) < 1, (site, field)


def test_the_gradient_goes_to_one_of_so_many():
    """Of `count` independent entries one is the largest, so a cotangent's energy is divided by `count`."""
    for count in (2, 5):
        apply = lambda p, x: (x @ p["a"]).reshape(-1, 60 // count, count).max(-1)  # noqa: B023, E731
        shapes = {"a": jax.ShapeDtypeStruct((WIDTH, 60), "float32")}
        x = jax.ShapeDtypeStruct((16, WIDTH), "float32")
        records = jinit.predict(apply, weights=lambda path: 1 / WIDTH)(shapes, x)
        np.testing.assert_allclose(records["a"].cotangent.second_moment, 1 / count, rtol=1e-3)


@pytest.mark.parametrize("padding", ["SAME", "VALID", "CIRCULAR"])
@pytest.mark.parametrize("behind", ["flat", "dense"])
def test_what_comes_back_through_a_rectified_maximum(padding, behind):
    """Of four entries the largest gets it, and passes it on if positive: one in four, but for 1 in 16 times.

    Zero padding makes places differ, though none in this chance.
    """
    flatten = (lambda x: x.reshape(len(x), -1)) if behind == "flat" else lambda x: x
    layers = [nn.Conv(32, (3, 3), padding=padding), nn.relu, pooled, flatten, nn.Dense(10)]
    model, x = nn.Sequential(layers), array(4, 8, 8, 16)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    plan = jinit.plan([("*/bias", jinit.zeros), ("*", jinit.normal(0.1))])
    records = jinit.predict(model.apply, weights=plan)(shapes, x)
    found = float(records["params/layers_0/kernel"].cotangent.second_moment)
    np.testing.assert_allclose(found, 10 * 0.01 * (1 - 2**-4) / 4, rtol=0.01)


def pooled(x):
    return nn.max_pool(x, (2, 2), (2, 2))
