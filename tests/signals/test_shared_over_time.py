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


def test_states_beside_the_time():
    """Signals that are put side by side or transposed before they meet a weight: 0.74 of that before."""

    def apply(p: Any, x: Any) -> Any:
        def step(h: Any, t: Any) -> Any:
            wide = jnp.concatenate([h, jnp.broadcast_to(t, (h.shape[0], 1))], 1)
            return h + 0.3 * jnp.tanh(jnp.einsum("db,dw->bw", wide.T, p["a"])), None

        return jax.lax.scan(step, x, jnp.zeros(8))[0] @ p["c"]

    def network(times: Times, normal: Normal) -> Any:
        x = normal()
        for _ in range(8):
            x = flow(x, times)
        return x

    shapes = {"a": (WIDTH + 1, WIDTH), "c": (WIDTH, 8)}
    params = {k: jax.ShapeDtypeStruct(s, "float32") for k, s in shapes.items()}
    run = jinit.predict(apply, weights=lambda path: 1 / WIDTH, backward=False)
    found = run(params, jax.ShapeDtypeStruct((16, WIDTH), "float32"))["c"].input.second_moment
    np.testing.assert_allclose(found, of_shared_weights(network), rtol=0.02)


def test_gradients_of_gates_of_one_weight():
    """They meet it side by side, and each is known by those of other steps: as with weights of its own."""
    count, size = 5, 16

    def gated_by(times: Any, h: Any, x: Any) -> Any:
        (z, r, a), (v, s, b) = times(h, "h"), times(x, "x")
        z, r = jax.nn.sigmoid(z + v), jax.nn.sigmoid(r + s)
        return z * h + (1 - z) * jnp.tanh(r * a + b)

    def run(times: Any, names: dict[str, int]) -> dict[str, float]:
        def apply(p: Any, xs: Any) -> Any:
            h = jnp.zeros((size, WIDTH))
            for k in range(count):
                h = gated_by(lambda y, weight: times(p, y, weight), h, xs[k])
            return h

        params = {k: jax.ShapeDtypeStruct((WIDTH, n * WIDTH), "float32") for k, n in names.items()}
        found = jinit.predict(apply, weights=lambda path: 1 / WIDTH)(
            params, jax.ShapeDtypeStruct((count, size, WIDTH), "float32")
        )
        return {k: float(r.cotangent.second_moment) for k, r in found.items()}

    one = run(lambda p, y, weight: jnp.split(y @ p[weight], 3, -1), {"h": 3, "x": 3})
    own = run(
        lambda p, y, weight: [y @ p[f"{weight}{k}"] for k in range(3)],
        {f"{w}{k}": 1 for w in "hx" for k in range(3)},
    )
    for k in range(count):
        gates = np.mean([own[f"x{gate}#{k}"] for gate in range(3)])
        np.testing.assert_allclose(one[f"x#{k}"], gates, rtol=0.08)


def test_outputs_of_loops_that_meet_one_weight():
    """All steps of two loops, each known by itself, are not set beside one another."""

    def apply(p: Any, x: Any) -> Any:
        def outputs(x: Any) -> Any:
            return jax.lax.scan(
                lambda h, _: ((y := fixed_point(h, lambda z, w: z @ p[w])), y), x, None, length=3
            )[1]

        return jnp.concatenate([outputs(x) @ p["c"], outputs(2 * x) @ p["c"], jnp.tanh(outputs(x)) @ p["c"]])

    found = predicted(apply, jax.ShapeDtypeStruct((16, WIDTH), "float32"), "ac")
    assert all(np.all(np.isfinite(record.output.second_moment)) for record in found.values())
    assert {name for name in found if name.startswith("c")} == {"c#0", "c#1", "c#2"}
