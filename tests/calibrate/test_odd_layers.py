"""Biases of fewer axes than the output, layers of no width, programs without a layer."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from tests.zoos.member import array

X = array(64, 8)


@pytest.mark.parametrize("bias", [(), (1,), (1, 6)])
@pytest.mark.parametrize("first", ["contraction", pytest.param("bias", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_bias_of_fewer_axes(bias, first):
    """NumPy's rules: an array of fewer axes has more of length one in front."""
    params = {"w": array(8, 6, seed=1), "b": jnp.ones(bias)}

    def apply(p, x):
        pair = (x @ p["w"], jnp.asarray(p["b"]) if p["b"].ndim in (0, 2) else p["b"][None])
        return jnp.add(*(pair if first == "contraction" else pair[::-1]))

    new, records = jinit.lsuv(apply)(params, X)
    np.testing.assert_allclose(np.var(apply(new, X)), 1.0, rtol=1e-4)
    assert new["b"] is params["b"]
    new, records = jinit.lsuv(apply, center=True)(params, X)
    y = np.asarray(apply(new, X), np.float64)
    np.testing.assert_allclose([y.mean(), y.var()], [0.0, 1.0], atol=1e-4)
    assert new["b"].shape == bias
    assert records["w"].changed == ("w", "b")
    new, records = jinit.lsuv(apply, center=True, per_unit=True)(params, X)
    y = np.asarray(apply(new, X), np.float64)
    np.testing.assert_allclose(y.var(0), 1.0, rtol=1e-4)
    if bias == (1, 6):
        np.testing.assert_allclose(y.mean(0), 0.0, atol=1e-4)
    else:
        assert "one entry for each unit" in records["w"].note
    for method in (jinit.equalize, jinit.compromise):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(method(apply)(params, X)[0]))


def test_a_single_unit_is_centered():
    params = {"w": array(8, 1, seed=1), "b": jnp.ones(1)}
    new, records = jinit.lsuv(lambda p, x: x @ p["w"] + p["b"][None], center=True, per_unit=True)(params, X)
    np.testing.assert_allclose(np.mean(X @ new["w"] + new["b"][None]), 0.0, atol=1e-4)
    assert records["w"].note == ""


def test_one_output_and_many_biases():
    """The contraction has fewer axes than the bias; no factor of it changes the variance."""
    params = {"w": array(8, seed=1), "b": array(6, seed=2)}
    new, records = jinit.lsuv(lambda p, x: x @ p["w"] + p["b"])(params, X[0])
    assert float(records["w"].factor) == 1.0
    assert records["w"].problem.startswith("zero variance") or "out of reach" in records["w"].problem
    np.testing.assert_array_equal(new["w"], params["w"])


@pytest.mark.parametrize("method", [jinit.lsuv, jinit.equalize, jinit.compromise, jinit.autoinit])
def test_layers_of_no_width_are_named(method):
    params = {"w": jnp.ones((8, 0)), "v": jnp.ones((0, 3)), "u": array(8, 3)}
    new, records = method(lambda p, x: (x @ p["w"]) @ p["v"] + x @ p["u"])(params, X)
    assert new["w"] is params["w"]
    assert new["v"] is params["v"]
    assert "no entries" in records["w"].note
    assert "no entries" in records["v"].note
    assert np.isfinite(new["u"]).all()
    assert "exact" not in records["u"].note


def test_no_site_at_all():
    with pytest.raises(
        ValueError, match=r"jinit.lsuv\(...\)`: `apply` must use a parameter in a contraction"
    ):
        jinit.lsuv(lambda p, x: x)({"w": array(8, 6)}, X)
