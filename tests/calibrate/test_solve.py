"""The factor of one output, against NumPy in float64, for every way in which its sums are taken."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jinit.calibrate.solve import solve
from tests.zoo import array

SHAPES = [
    (64, 256), (48, 130), (33, 256), (4, 8, 8, 128), (16, 2, 64), (256,), (16, 4, 4, 3), (2, 32, 1, 128)
]  # fmt: skip


@pytest.mark.parametrize("mean", [0.0, 100.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_variance_of_what_comes_out(shape, mean):
    x = array(*shape) * 3 + mean
    bias = array(*(1,) * (len(shape) - 1), shape[-1], seed=1)
    axes = tuple(range(len(shape)))
    found = solve(x, bias, 2.0, axes, lambda m: m)
    out = np.asarray(found.factor, np.float64) * np.asarray(x, np.float64) + np.asarray(bias, np.float64)
    np.testing.assert_allclose(out.var(), 2.0, rtol=1e-4)
    for moments, y in ((found.after, out), (found.before, np.asarray(x + bias, np.float64))):
        np.testing.assert_allclose(np.ravel(moments[0]), y.mean(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(np.ravel(moments[1]), y.var(), rtol=1e-3)


def test_units_and_complex_entries():
    x = array(32, 4, 256) * jnp.arange(1.0, 257.0)[None, None]
    found = solve(x, None, 1.0, (0, 1), lambda m: m)
    np.testing.assert_allclose(found.factor[0, 0], 1 / np.std(np.asarray(x), (0, 1)), rtol=1e-5)
    z = array(64, 256, dtype=np.complex64) + (3 - 2j)
    found = solve(z, None, 1.0, (0, 1), lambda m: m)
    np.testing.assert_allclose(np.ravel(found.factor), 1 / np.std(np.asarray(z)), rtol=1e-5)


@pytest.mark.parametrize("bias_shape", [(1, 1, 64), (1, 32, 64), (1, 32, 1), (1, 1, 1), (16, 1, 64)], ids=str)
@pytest.mark.parametrize("units", [(), (2,)], ids=["one factor", "by unit"])
def test_a_bias_far_from_zero_that_goes_with_the_output(bias_shape, units):
    axes = tuple(i for i in range(3) if i not in units)
    x = array(16, 32, 64)
    along = tuple(i for i in range(3) if bias_shape[i] == 1)
    bias = 3 * x.mean(along, keepdims=True) + array(*bias_shape, seed=1) / 10 + 50
    found = solve(x, bias, 2.0, axes, lambda m: m)
    out = np.asarray(found.factor, np.float64) * np.asarray(x, np.float64) + np.asarray(bias, np.float64)
    np.testing.assert_allclose(out.var(axes), 2.0, rtol=1e-4)
    np.testing.assert_allclose(
        found.before[1].reshape(-1), np.asarray(x + bias).var(axes).reshape(-1), rtol=1e-3
    )
    np.testing.assert_allclose(found.after[0].reshape(-1), out.mean(axes).reshape(-1), rtol=1e-5)
