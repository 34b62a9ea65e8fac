"""What functions of entries have in common, where grids are too large to hold it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import integrate, stats

import jinit

STEPS = 4
STEP = {
    "interpolated": lambda h, new, z: (h - new) * z + new,
    "weighted": lambda h, new, z: z * h + (1 - z) * new,
    "by a difference": lambda h, new, z: h - (1 - z) * (h - new),
}


def square_of_gate(function: Any) -> float:
    return integrate.quad(lambda g: function(1 / (1 + np.exp(-g))) * stats.norm.pdf(g), -9, 9)[0]


def second_moments() -> list[float]:
    """Of the states, from nothing on: all factors of a step are independent, and only the gate has a mean."""
    kept, taken = (square_of_gate(f) for f in (lambda z: z**2, lambda z: (1 - z) ** 2))
    found = [0.0]
    for _ in range(STEPS):
        found.append(kept * found[-1] + taken)
    return found[1:]


@pytest.mark.parametrize("looped", [True, False])
@pytest.mark.parametrize("name", STEP)
def test_a_state_that_is_interpolated(name, looped):
    """`(h - new) z + new`: the difference is not independent of what is added to it."""

    def apply(params: Any, new: Any, gates: Any) -> Any:
        def step(h: Any, x: Any) -> tuple[Any, Any]:
            h = STEP[name](h, x[0], jax.nn.sigmoid(x[1]))
            return h, h

        start, states = jnp.zeros(new.shape[1:]), []
        if looped:
            states = lax.scan(step, start, (new, gates))[1]
        else:
            for k in range(STEPS):
                start, state = step(start, (new[k], gates[k]))
                states.append(state)
        return [states[k] @ params[f"{k}"] for k in range(STEPS)]

    signal = jax.ShapeDtypeStruct((STEPS, 8, 64), jnp.float32)
    shapes = {f"{k}": jax.ShapeDtypeStruct((64, 8), jnp.float32) for k in range(STEPS)}
    found = jinit.predict(apply, weights=lambda path: 0.1, backward=False)(shapes, signal, signal)
    got = [float(found[f"{k}"].input.second_moment) for k in range(STEPS)]
    if looped:  # a loop's states are known together
        np.testing.assert_allclose(np.mean(got), np.mean(second_moments()), rtol=0.05)
    else:
        np.testing.assert_allclose(got, second_moments(), rtol=0.05)


@pytest.mark.slow
def test_the_gradient_of_a_gate_in_a_loop():
    """`c z (1 - z)`, measured beside predicted: the two factors are one variable."""

    def apply(params: Any, xs: Any) -> Any:
        def step(h: Any, x: Any) -> tuple[Any, None]:
            gate = jax.nn.sigmoid(x @ params["gate"])
            return h * gate + jnp.tanh(x @ params["new"]) * (1 - gate), None

        return lax.scan(step, jnp.zeros(xs.shape[1:]), xs)[0]

    xs = jax.random.normal(jax.random.key(0), (5, 8, 128))
    shapes = {k: jax.ShapeDtypeStruct((128, 128), jnp.float32) for k in ("gate", "new")}
    found = jinit.predict(apply, weights=lambda path: 1 / 128)(shapes, xs)

    @jax.jit
    def measured(key: Any) -> Any:
        a, b, c = jax.random.split(key, 3)
        params = {"gate": jax.random.normal(a, (128, 128)), "new": jax.random.normal(b, (128, 128))}
        records = jinit.measure(apply, key=c)(jax.tree.map(lambda x: x / 128**0.5, params), xs)[1]
        return {k: r.cotangent.second_moment for k, r in records.items()}

    seen = [measured(jax.random.key(i)) for i in range(20)]
    for name, record in found.items():
        got = np.asarray(record.cotangent.second_moment)
        mean = np.mean([s[name] for s in seen], axis=0)
        error = np.std([s[name] for s in seen], axis=0) / 20**0.5
        assert np.all(abs(got - mean) < 3 * error + 0.05 * mean), (name, got / mean)


def test_what_is_made_of_one_variable_needs_nothing_else():
    """`z sigmoid(z)`, of a sum of many roots: it was found from what `z` was made of, at few points."""

    def apply(params: Any, x: Any, y: Any) -> Any:
        return jax.nn.silu(x @ params["a"] + (y @ params["b"])[:, None]) @ params["c"]

    keys = jax.random.split(jax.random.key(0), 5)
    shapes = [(4, 36, 64), (4, 1, 64), (1, 36, 64), (1, 1, 64)]
    x = sum((jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=False)), jnp.zeros(shapes[0]))
    y = jax.random.normal(keys[4], (4, 64))
    params = dict.fromkeys("abc", jax.ShapeDtypeStruct((64, 64), jnp.float32))
    found = jinit.predict(apply, weights=lambda path: 1 / 64, backward=False)(params, x, y)
    scale = float(jnp.sqrt(jnp.mean(x**2) + jnp.mean(y**2)))
    square = integrate.quad(lambda z: (z * scale / (1 + np.exp(-z * scale))) ** 2 * stats.norm.pdf(z), -9, 9)
    np.testing.assert_allclose(found["c"].input.second_moment, square[0], rtol=1e-3)


def test_what_passes_one_activation_passes_the_other():
    """Where `h` is positive so is `h + x`, of `x` that is not negative: half of the gradient comes back."""

    def block(params: Any, x: Any, skipped: Any) -> Any:
        return jax.nn.relu(jax.nn.relu(jax.nn.relu(x @ params["a"]) @ params["b"]) + skipped)

    def apply(params: Any, x: Any) -> Any:
        x = block(params["first"], x, x @ params["skip"])
        return block(params["second"], x, x) @ params["out"]

    shape = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    params = {"first": dict.fromkeys("ab", shape), "second": dict.fromkeys("ab", shape)}
    params |= dict.fromkeys(["skip", "out"], shape)
    inputs = jax.random.normal(jax.random.key(0), (8, 32, 64))
    found = jinit.predict(apply, weights=lambda path: 2 / 64)(params, inputs)
    np.testing.assert_allclose(found["second/b"].cotangent.second_moment, 0.5 * 2, rtol=0.03)
