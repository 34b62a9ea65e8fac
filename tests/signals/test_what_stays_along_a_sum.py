"""Sums and contractions of what is the same for all their terms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import jinit

TOKENS, WIDTH, OUT = 16, 64, 8


def predicted(apply, shapes, x):
    shapes = {k: jax.ShapeDtypeStruct(s, "float32") for k, s in shapes.items()}
    return jinit.predict(apply, weights=lambda path: 1.0)(shapes, jax.ShapeDtypeStruct(x, "float32"))


def test_a_sum_of_repeated_entries():
    """All terms are one: their sum was taken to be that one."""

    def apply(p, x):
        y = jnp.tanh(x @ p["a"] / WIDTH**0.5)
        return jnp.broadcast_to(y[:, None], (8, 5, WIDTH)).sum(1) @ p["b"]

    found = predicted(apply, {"a": (WIDTH, WIDTH), "b": (WIDTH, WIDTH)}, (8, WIDTH))
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    forward, slope = (weights * np.tanh(nodes) ** 2).sum(), (weights / np.cosh(nodes) ** 4).sum()
    np.testing.assert_allclose(found["b"].input.second_moment, 25 * forward, rtol=1e-4)
    np.testing.assert_allclose(found["a"].cotangent.second_moment, 25 * slope, rtol=1e-4)


def test_a_gradient_that_stays_along_a_contraction():
    """What all tokens share comes back through weights that mix tokens, in a linear network."""

    def apply(p, x):
        y = jnp.einsum("btc,ts->bsc", x @ p["a"], p["mix"])
        return (x @ p["skip"] + y).mean(1) @ p["head"]

    shapes = {"a": (WIDTH, WIDTH), "mix": (TOKENS, TOKENS), "skip": (WIDTH, WIDTH), "head": (WIDTH, OUT)}
    found = predicted(apply, shapes, (4, TOKENS, WIDTH))
    np.testing.assert_allclose(found["mix"].cotangent.second_moment, OUT / TOKENS**2, rtol=1e-4)
    np.testing.assert_allclose(found["a"].cotangent.second_moment, OUT / TOKENS, rtol=1e-4)
    np.testing.assert_allclose(found["a"].weight_gradient.second_moment, 4 * OUT, rtol=1e-3)
