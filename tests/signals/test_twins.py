"""One weight that meets several signals, and one array in several places."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit

WIDTH = 256


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def predicted(apply: Any, *inputs: Any, **shapes: tuple[int, ...]) -> Any:
    params = {k: jax.ShapeDtypeStruct(s, "float32") for k, s in shapes.items()}
    return jinit.predict(apply, weights=lambda path: 1 / WIDTH)(params, *inputs)


def mean_of(function: Any, correlation: float) -> float:
    """`E[f(u, v)]` of standard normals of this correlation, by Gauss-Hermite."""
    z, w = np.polynomial.hermite_e.hermegauss(80)
    w = w / w.sum()
    u, v = z[:, None], correlation * z[:, None] + np.sqrt(1 - correlation**2) * z
    return float(w @ function(u, v) @ w)


@pytest.mark.parametrize("noise", [0.1, 0.5, 2.0])
def test_both_branches_of_a_siamese_network(noise):
    """`f(x) - f(x')`, whose branches counted as independent: 170 times too large for noise of a tenth."""
    x = normal(0, 64, WIDTH)
    x = x / jnp.sqrt(jnp.mean(x**2))
    y = (x + noise * normal(1, 64, WIDTH)) / np.sqrt(1 + noise**2)
    y = y / jnp.sqrt(jnp.mean(y**2))

    def apply(p: Any, x: Any, y: Any) -> Any:
        return (jnp.tanh(x @ p["a"]) - jnp.tanh(y @ p["a"])) @ p["b"]

    found = predicted(apply, x, y, a=(WIDTH, WIDTH), b=(WIDTH, 8))
    expected = mean_of(lambda u, v: (np.tanh(u) - np.tanh(v)) ** 2, float(jnp.mean(x * y)))
    np.testing.assert_allclose(found["b"].input.second_moment, expected, rtol=0.03)


def test_what_all_examples_share_by_one_weight():
    """Encoders of one weight, of independent inputs: the mean of `relu` meets the same weights in both."""
    x, y = normal(0, 32, WIDTH), normal(1, 32, WIDTH)

    def encoded(p: Any, x: Any) -> Any:
        return jax.nn.relu(x @ p["a"]) @ p["b"]

    def apply(p: Any, x: Any, y: Any) -> Any:
        return (encoded(p, x) @ encoded(p, y).T) @ p["c"]

    found = predicted(apply, x, y, a=(WIDTH, WIDTH), b=(WIDTH, WIDTH), c=(32, 8))
    # E[(Σ_j u_j v_j)²] of n features of variance 1/2, which share 1/(2π) of two rectified normals.
    expected = WIDTH * 0.25 + WIDTH**2 / (4 * np.pi**2)
    np.testing.assert_allclose(found["c"].input.second_moment, expected, rtol=0.05)


@pytest.mark.parametrize("joined", [lambda u, v: jnp.abs(u - v), lambda u, v: u * v])
def test_encoders_of_two_layers(joined):
    """Of independent inputs, by a NumPy integral: `relu` twice, then what both are compared by."""
    x, y = normal(0, 32, WIDTH), normal(1, 32, WIDTH)

    def apply(p: Any, x: Any, y: Any) -> Any:
        u, v = (jax.nn.relu(jax.nn.relu(z @ p["a"]) @ p["b"]) for z in (x, y))
        return joined(u, v) @ p["c"]

    found = predicted(apply, x, y, a=(WIDTH, WIDTH), b=(WIDTH, WIDTH), c=(WIDTH, 8))
    z, w = np.polynomial.hermite_e.hermegauss(200)
    w, own = w / w.sum(), np.sqrt(1 - 1 / np.pi)  # of two rectified normals the mean product is 1 / (2π)
    scale = np.sqrt(0.5)
    u = np.maximum(z[:, None, None] / np.sqrt(np.pi) + own * z[:, None], 0) * scale
    v = np.maximum(z[:, None, None] / np.sqrt(np.pi) + own * z, 0) * scale
    squares = np.asarray(joined(jnp.asarray(u, jnp.float32), jnp.asarray(v, jnp.float32))) ** 2
    np.testing.assert_allclose(
        found["c"].input.second_moment, np.einsum("ijk,i,j,k", squares, w, w, w), rtol=0.03
    )


def test_the_same_signal_and_weight_are_the_same():
    x = normal(0, 64, WIDTH)

    def apply(p: Any, x: Any) -> Any:
        return (jnp.tanh(x @ p["a"]) + jnp.tanh(x @ p["a"])) @ p["b"]

    found = predicted(apply, x, a=(WIDTH, WIDTH), b=(WIDTH, 8))
    square = mean_of(lambda u, v: np.tanh(u) ** 2 + 0 * v, 0.0)
    np.testing.assert_allclose(found["b"].input.second_moment, 4 * square, rtol=0.01)


@pytest.mark.parametrize("count", [2, 8])
def test_given_biases_keep_examples_as_large_as_one(count):
    """Of normal biases the law is known: moments were 0.7 % too small with two examples, at any width."""
    depth = 60
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "w": jax.random.normal(keys[0], (depth, WIDTH, WIDTH)) * np.sqrt(1.76 / WIDTH),
        "b": jax.random.normal(keys[1], (depth, WIDTH)) * np.sqrt(0.05),
    }

    def apply(p: Any, x: Any) -> Any:
        return jax.lax.scan(lambda h, q: (jnp.tanh(h @ q["w"] + q["b"][None]), None), x, p)[0]

    x = normal(3, count, WIDTH)
    several = jinit.predict(apply)(params, x)["w"].output.second_moment
    alone = jinit.predict(apply)(params, x[:1])["w"].output.second_moment
    np.testing.assert_allclose(several[20:], alone[20:], rtol=2e-3)
