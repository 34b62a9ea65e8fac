"""Weights that are the same at every step of a short loop: against networks of very wide layers.

Before, each step counted as having weights of its own: ten steps of a flow came out as 0.5 of what they are.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from tests.signals.shared_weights import Normal, Times, of_shared_weights

WIDTH = 256


def predicted(apply: Any, x: Any, names: str) -> Any:
    params = {k: jax.ShapeDtypeStruct((WIDTH, WIDTH), "float32") for k in names}
    return jinit.predict(apply, weights=lambda path: 1 / WIDTH)(params, x)


def flow(x: Any, times: Times) -> Any:
    return x + 0.3 * jnp.tanh(times(x, "a"))


def fixed_point(x: Any, times: Times) -> Any:
    return jnp.tanh(times(x, "a"))


@pytest.mark.parametrize(("count", "off"), [(3, 0.02), (10, 0.02), (16, 0.08)])
@pytest.mark.parametrize("block", [flow, fixed_point])
def test_steps_of_one_layer(block: Any, count: int, off: float):
    """A step is set beside the four before it, and knows of two variables of theirs: that adds up."""

    def apply(p: Any, x: Any) -> Any:
        step = lambda i, h: block(h, lambda y, weight: y @ p[weight])  # noqa: E731
        return jax.lax.fori_loop(0, count, step, x) @ p["c"]

    def network(times: Times, normal: Normal) -> Any:
        x = normal()
        for _ in range(count):
            x = block(x, times)
        return x

    found = predicted(apply, jax.ShapeDtypeStruct((16, WIDTH), "float32"), "ac")
    np.testing.assert_allclose(found["c"].input.second_moment, of_shared_weights(network), rtol=off)


def simple(h: Any, x: Any, times: Times) -> Any:
    return jnp.tanh(times(h, "a") + times(x, "b"))


def gated(h: Any, x: Any, times: Times) -> Any:
    z = jax.nn.sigmoid(times(h, "u") + times(x, "v"))
    r = jax.nn.sigmoid(times(h, "r") + times(x, "s"))
    return z * h + (1 - z) * jnp.tanh(r * times(h, "a") + times(x, "b"))


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(("step", "count"), [(simple, 4), (simple, 10), (gated, 3), (gated, 6)])
def test_recurrent_networks(step: Any, count: int, given: bool):
    """Also of inputs that are given, whose mean all examples share: a level more at each step."""
    x = jax.random.normal(jax.random.key(0), (count, 16, WIDTH))
    x = x / jnp.sqrt(jnp.mean(x**2, (1, 2), keepdims=True))

    def apply(p: Any, x: Any) -> Any:
        def one(h: Any, x: Any) -> Any:
            return step(h, x, lambda y, weight: y @ p[weight]), None

        return jax.lax.scan(one, jnp.zeros(x.shape[1:]), x)[0] @ p["c"]

    def network(times: Times, normal: Normal) -> Any:
        h = np.zeros(200_000)
        for _ in range(count):
            h = step(h, normal(), times)
        return h

    found = predicted(
        apply, x if given else jax.ShapeDtypeStruct(x.shape, x.dtype), "abc" if step is simple else "abuvrsc"
    )
    np.testing.assert_allclose(found["c"].input.second_moment, of_shared_weights(network), rtol=0.03)


def test_gradients_of_a_loop_are_those_of_the_loop_written_out():
    count = 6

    def written_out(p: Any, x: Any) -> Any:
        for _ in range(count):
            x = flow(x, lambda y, weight: y @ p[weight])
        return x @ p["c"]

    def looped(p: Any, x: Any) -> Any:
        step = lambda i, h: flow(h, lambda y, weight: y @ p[weight])  # noqa: E731
        return jax.lax.fori_loop(0, count, step, x) @ p["c"]

    x = jax.ShapeDtypeStruct((16, WIDTH), "float32")
    a, b = (predicted(apply, x, "ac") for apply in (written_out, looped))
    for field in ("input", "cotangent", "weight_gradient"):
        steps = [float(getattr(a[f"a#{k}"], field).second_moment) for k in range(count)]
        np.testing.assert_allclose(getattr(b["a"], field).second_moment, steps, rtol=1e-4)
