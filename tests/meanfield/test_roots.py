"""Roots are all found, two in one cell of the grid included, and are differentiable."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jinit.meanfield.roots import root, scan
from jinit.meanfield.search import all_roots, blind, grid

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


@jax.jit
def found_of_product(roots):
    """What is found of a function with these roots; NaN is none."""

    def function(q):
        return q * jnp.prod(jnp.where(jnp.isnan(roots), 1.0, jnp.log(q / roots)))

    return all_roots(function, scan(function, grid(roots.dtype), blind(roots.dtype)))[0]


@pytest.mark.parametrize(
    "roots",
    [[], [1.0], [1e-9, 3.0, 1e7], [2.0, 2.1, 2.2], [5.0, 5.001], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]],
)
def test_every_root(roots):
    found = found_of_product(jnp.array(roots + [jnp.nan] * (8 - len(roots))))
    np.testing.assert_allclose(found[: len(roots)], roots, rtol=1e-13)
    assert np.isnan(found[len(roots) :]).all()


def test_what_rounding_cannot_tell_is_no_root():
    dtype = jnp.dtype(jnp.float64)
    noise = scan(lambda q: 1e-13 * q * jnp.sin(1e6 * jnp.log(q)), grid(dtype), blind(dtype))
    assert (noise.signs == 0).all()


def test_derivatives_and_what_is_not_real():
    def found(a, real):
        ends = (jnp.zeros(()), -a), (jnp.full((), 9.0), 81.0 - a)
        return root(lambda x: x * x - a, *ends, real)

    slope = jax.jit(jax.grad(found))
    assert float(found(2.0, True)) == pytest.approx(2**0.5, rel=1e-15)
    assert float(slope(2.0, True)) == pytest.approx(0.5 / 2**0.5, rel=1e-12)
    assert float(slope(2.0, False)) == 0.0
