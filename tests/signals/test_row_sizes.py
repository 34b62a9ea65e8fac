"""Examples of sizes that differ: behind weights each is normal of its own variance."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit

WIDTH = 256


@pytest.mark.parametrize("features", [2, WIDTH])
def test_saturation_of_examples_of_other_sizes(features):
    """As of coordinates, or of counts: `tanh` of them was 1.2 to 2 times too large."""
    x = jax.random.normal(jax.random.key(0), (256, features))
    x = x * jnp.exp(jax.random.normal(jax.random.key(1), (256, 1))) if features > 2 else x

    def apply(p: Any, x: Any) -> Any:
        return jnp.tanh(x @ p["a"]) @ p["b"]

    shapes = {
        "a": jax.ShapeDtypeStruct((features, WIDTH), "float32"),
        "b": jax.ShapeDtypeStruct((WIDTH, 8), "float32"),
    }
    variances = {"a": 1 / features, "b": 1 / WIDTH}
    found = jinit.predict(apply, weights=variances)(shapes, x)
    z, w = np.polynomial.hermite_e.hermegauss(80)
    sizes = np.sqrt(np.mean(np.square(x), axis=1))
    squares = np.tanh(sizes[:, None] * z) ** 2 @ (w / w.sum())
    np.testing.assert_allclose(found["b"].input.second_moment, squares.mean(), rtol=0.04)
