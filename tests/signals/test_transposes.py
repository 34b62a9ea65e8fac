"""A weight that meets what it made the other way around, against the moments of free probability."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit.signals.laws import transposes

WIDTH, BATCH = 256, 32


def predicted(apply: Any, given: bool = False, **shapes: tuple[int, ...]) -> Any:
    params = {k: jax.ShapeDtypeStruct(s, "float32") for k, s in shapes.items()}
    x: Any = jax.ShapeDtypeStruct((BATCH, WIDTH), "float32")
    if given:
        x = jax.random.normal(jax.random.key(0), x.shape)
        x = x / jnp.sqrt(jnp.mean(x**2))
    return jinit.predict(apply, weights=lambda path: 1 / WIDTH)(params, x)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("ratio", [0.5, 1, 3])
def test_a_linear_autoencoder(ratio: float, given: bool):
    """Of `W Wᵀ`, of Marchenko and Pastur's law of ratio `c`, the second moment is `c + c²`."""
    hidden = int(ratio * WIDTH)
    found = predicted(lambda p, x: x @ p["a"] @ p["a"].T @ p["o"], given, a=(WIDTH, hidden), o=(WIDTH, 8))
    np.testing.assert_allclose(found["o"].input.second_moment, ratio + ratio**2, rtol=0.01)


@pytest.mark.parametrize(("count", "forward", "backward"), [(1, 2, 1), (2, 14, 5)])
def test_powers_of_a_square(count: int, forward: float, backward: float):
    """Of `(W Wᵀ)^k` moments are Catalan's numbers; what comes back to the first use has met one `W` less."""

    def apply(p: Any, x: Any) -> Any:
        for _ in range(count):
            x = x @ p["a"] @ p["a"].T
        return x @ p["o"]

    found = predicted(apply, a=(WIDTH, WIDTH), o=(WIDTH, WIDTH))
    np.testing.assert_allclose(found["o"].input.second_moment, forward, rtol=0.02)
    np.testing.assert_allclose(found["a#0"].cotangent.second_moment, backward, rtol=0.02)


def test_two_layers_and_back():
    """Of `A B Bᵀ Aᵀ` the second moment is that of Fuss and Catalan, three."""

    def apply(p: Any, x: Any) -> Any:
        return x @ p["a"] @ p["b"] @ p["b"].T @ p["a"].T @ p["o"]

    square = (WIDTH, WIDTH)
    found = predicted(apply, a=square, b=square, o=square)
    np.testing.assert_allclose(found["o"].input.second_moment, 3, rtol=0.02)
    np.testing.assert_allclose(found["a#0"].cotangent.second_moment, 2, rtol=0.02)


def test_a_rectified_autoencoder():
    """Half of the entries pass: `1/2` of a new weight, and `x / 2`."""
    found = predicted(
        lambda p, x: jax.nn.relu(x @ p["a"]) @ p["a"].T @ p["o"], a=(WIDTH, WIDTH), o=(WIDTH, 8)
    )
    np.testing.assert_allclose(found["o"].input.second_moment, 0.75, rtol=0.01)


def test_a_weight_transposed_is_another_use():
    """Squares look alike either way: what `x W` and `x Wᵀ` have in common is nothing."""

    def apply(p: Any, x: Any) -> Any:
        return (x @ p["a"] + x @ p["a"].T) @ p["o"]

    found = predicted(apply, a=(WIDTH, WIDTH), o=(WIDTH, 8))
    np.testing.assert_allclose(found["o"].input.second_moment, 2, rtol=0.01)


def test_gradients_owe_nothing_to_forward_uses(monkeypatch: pytest.MonkeyPatch):
    """What is left of a sum in a normalization counted as a cotangent of outputs: gradients of 2.5."""
    model = nn.Sequential([nn.Dense(48), nn.LayerNorm(), nn.Dense(48), nn.relu, nn.Dense(48), nn.LayerNorm()])
    x = jax.ShapeDtypeStruct((4, 6, 48), "float32")
    params = jax.eval_shape(model.init, jax.random.key(0), x)
    asked = []
    of_outputs = transposes._is_of_output
    monkeypatch.setattr(transposes, "_is_of_output", lambda root: asked.append(root) or of_outputs(root))
    monkeypatch.setattr(transposes, "_beside", lambda *_: pytest.fail("a gradient of independent weights"))
    jinit.predict(model.apply, weights=lambda path: 1 / 48)(params, x)
    assert any(root.kind == "cotangent" for root in asked)


def gradient_norm(p: Any, x: Any) -> Any:
    gradient = jax.grad(lambda x: jnp.sum(jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["o"]))(x)
    return jnp.sum(gradient**2, axis=-1)


def energy_step(p: Any, x: Any) -> Any:
    return x - jax.grad(lambda x: jnp.sum(jax.nn.softplus(x @ p["a"]) * 0.3))(x)


@pytest.mark.parametrize("apply", [gradient_norm, energy_step])
def test_derivatives_inside_of_a_model_are_as_measured(apply: Any):
    """Gradients of a penalty on gradients came out at a fifth, as if derivatives had weights of their own."""
    shapes = {"a": (WIDTH, WIDTH), "b": (WIDTH, WIDTH), "o": (WIDTH, 1)}
    shapes = shapes if apply is gradient_norm else {"a": (WIDTH, WIDTH)}
    found = predicted(apply, given=True, **shapes)
    x = jax.random.normal(jax.random.key(0), (BATCH, WIDTH))
    x = x / jnp.sqrt(jnp.mean(x**2))
    measure = jax.jit(lambda p, key: jinit.measure(apply, key=key)(p, x)[1])
    seen = []
    for i in range(24):
        keys = jax.random.split(jax.random.key(i), len(shapes))
        params = {
            k: jax.random.normal(key, s) / WIDTH**0.5
            for key, (k, s) in zip(keys, shapes.items(), strict=True)
        }
        seen.append(measure(params, jax.random.key(100 + i)))
    for name, record in found.items():
        for field in ("output", "cotangent"):
            draws = np.array([getattr(r[name], field).second_moment for r in seen])
            error = 4 * draws.std() / len(draws) ** 0.5 + 0.15 * draws.mean()
            assert abs(getattr(record, field).second_moment - draws.mean()) < error, (name, field)
