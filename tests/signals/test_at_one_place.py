"""Tables, conditions and pieces: what is a function of one entry, however it is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit

WIDTH = 256
Z, W = np.polynomial.hermite_e.hermegauss(200)
KNOTS = np.linspace(-2, 2, 9, dtype=np.float32)


def predicted(apply: Any, shape: tuple[int, ...] = (64, WIDTH), **shapes: tuple[int, ...]) -> Any:
    params = {k: jax.ShapeDtypeStruct(s, "float32") for k, s in shapes.items()}
    x = jax.ShapeDtypeStruct(shape, "float32")
    return jinit.predict(apply, weights=lambda path: 1 / WIDTH)(params, x)


def spline(x: Any) -> Any:
    return jnp.interp(x, KNOTS, jnp.sin(KNOTS))


def stairs(x: Any) -> Any:
    return jnp.asarray(KNOTS)[jnp.clip(jnp.round(2 * x + 4), 0, 8).astype(int)]


def selected(x: Any) -> Any:
    return jnp.select([x < -1, x < 1], [-x, x**2], jnp.sin(x))


def piecewise(x: Any) -> Any:
    return jnp.piecewise(x, [x < -1, (x >= -1) & (x < 1)], [lambda v: -v, lambda v: v**2, jnp.sin])


def averaged(x: Any) -> Any:
    return jnp.stack([jax.nn.relu(x), jnp.tanh(x)]).mean(0)


@pytest.mark.parametrize("act", [spline, selected, averaged, stairs, piecewise])
def test_activations_by_tables_and_conditions(act: Callable[[Any], Any]):
    """Those of `jnp.interp` came out 150 times too large, those of conditions were refused."""

    def apply(p: Any, x: Any) -> Any:
        return act(x @ p["a"]) @ p["b"]

    found = predicted(apply, a=(WIDTH, WIDTH), b=(WIDTH, WIDTH))
    z = np.linspace(-8, 8, 400_001)
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) * (z[1] - z[0])
    square = float(density @ np.asarray(act(jnp.asarray(z, jnp.float32)), np.float64) ** 2)
    slope = np.asarray(jax.vmap(jax.grad(act))(jnp.asarray(z[::8], jnp.float32)), np.float64)
    np.testing.assert_allclose(found["b"].input.second_moment, square, rtol=0.01)
    np.testing.assert_allclose(found["a"].cotangent.second_moment, 8 * density[::8] @ slope**2, rtol=0.03)


@pytest.mark.parametrize("axis", [-1, 1])
def test_pieces_of_opposite_sign(axis):
    """`stack([-y, z])`, as where every two features are rotated, came out as nothing."""

    def apply(p: Any, x: Any) -> Any:
        both = jnp.stack([-(x @ p["a"]), x @ p["b"]], axis)
        return both.reshape(64, -1) @ p["c"]

    found = predicted(apply, a=(WIDTH, WIDTH), b=(WIDTH, WIDTH), c=(2 * WIDTH, WIDTH))
    np.testing.assert_allclose(found["c"].input.second_moment, 1, rtol=1e-3)
    np.testing.assert_allclose(found["a"].cotangent.second_moment, 1, rtol=1e-3)


def test_entries_that_equal_the_largest_are_refused():
    """They counted as nothing."""

    def apply(p: Any, x: Any) -> Any:
        h = (x @ p["a"]).reshape(64, -1, 2)
        return jnp.where(h == h.max(-1, keepdims=True), h, 0).reshape(64, -1) @ p["b"]

    with pytest.raises(NotImplementedError, match=r"two random numbers are equal.*test_at_one_place"):
        predicted(apply, a=(WIDTH, WIDTH), b=(WIDTH, WIDTH))


@pytest.mark.parametrize("heads", [1, 4])
def test_rotated_halves(heads):
    """Rotary embeddings: what comes back is as large, of several heads it was half as large."""
    size = WIDTH // heads
    angles = np.arange(16)[:, None] * 100.0 ** (-np.arange(size // 2) / (size // 2))
    cosine, sine = (f(angles)[None, :, None].astype(np.float32) for f in (np.cos, np.sin))

    def apply(p: Any, x: Any) -> Any:
        a, b = jnp.split((x @ p["a"]).reshape(4, 16, heads, size), 2, -1)
        turned = jnp.concatenate([a * cosine - b * sine, b * cosine + a * sine], -1)
        return turned.reshape(4, 16, WIDTH) @ p["b"]

    found = predicted(apply, (4, 16, WIDTH), a=(WIDTH, WIDTH), b=(WIDTH, WIDTH))
    np.testing.assert_allclose(found["b"].input.second_moment, 1, rtol=0.01)
    np.testing.assert_allclose(found["a"].cotangent.second_moment, 1, rtol=0.01)


def test_roots_of_sums_squares():
    """A sum of squares is not negative: roots of it were NaN."""

    def apply(p: Any, x: Any) -> Any:
        return jnp.sqrt(jnp.sum((x @ p["a"]).reshape(64, -1, 2) ** 2, -1)) @ p["b"]

    (found,) = [predicted(apply, a=(WIDTH, WIDTH), b=(WIDTH // 2, WIDTH))["b"].input]
    np.testing.assert_allclose(found.second_moment, 2, rtol=0.01)
    np.testing.assert_allclose(found.mean, np.sqrt(np.pi / 2), rtol=0.01)


@pytest.mark.parametrize(
    "pool", [lambda h: jnp.mean(jax.nn.relu(h) ** 3, 1) ** (1 / 3), lambda h: jnp.log(jnp.exp(h).sum(1))]
)
def test_generalized_means_of_few(pool):
    """Against draws of sixteen entries."""

    def apply(p: Any, x: Any) -> Any:
        return pool(x @ p["a"]) @ p["b"]

    found = predicted(apply, (8, 16, WIDTH), a=(WIDTH, WIDTH), b=(WIDTH, WIDTH))["b"].input
    draws = pool(jax.random.normal(jax.random.key(0), (20_000, 16)))
    np.testing.assert_allclose(found.second_moment, np.mean(np.asarray(draws) ** 2), rtol=0.03)
