"""The critical line and the phase diagram."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit.meanfield as mf
from tests.meanfield.oracles import ACTIVATIONS, REFERENCE

pytestmark = pytest.mark.slow

SLOW = pytest.mark.slow


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", ["tanh", *(pytest.param(n, marks=SLOW) for n in ("gelu", "erf", "elu"))])
def test_reference(name):
    biases, wanted = np.array(REFERENCE["critical_weight_variance"][name])[-8:].T
    found = mf.critical_weight_variance(ACTIVATIONS[name], bias_variance=biases)
    assert found.shape == (len(biases), 1)
    np.testing.assert_allclose(found[:, 0], wanted, rtol=1e-9)


def test_relu():
    biases = jnp.array([0.0, 0.1])
    found = mf.critical_weight_variance("relu", bias_variance=biases)
    assert found.shape == (2, 1)
    assert float(found[0, 0]) == pytest.approx(2.0, rel=1e-12)
    assert np.isnan(found[1, 0])


@pytest.mark.slow
def test_a_step_is_never_critical():
    assert mf.critical_weight_variance(jnp.sign, bias_variance=0.1).shape == (0,)


def test_critical_points_are_critical():
    biases = jnp.array([0.05, 0.2])
    weights = mf.critical_weight_variance(jnp.tanh, bias_variance=biases)[:, 0]
    points = mf.fixed_point(jnp.tanh, weight_variance=weights, bias_variance=biases)
    assert points.phase.tolist() == ["critical"] * 2
    np.testing.assert_allclose(points.chi_1, 1.0, atol=1e-10)


@pytest.mark.slow
def test_under_transformations():
    def root(bias_variance):
        return mf.critical_weight_variance("erf", bias_variance=bias_variance, size=1)[0]

    bias = 0.1
    slope = jax.jit(jax.grad(root))(bias)
    line = mf.critical_line("erf", mf.fixed_point("erf", weight_variance=root(bias), bias_variance=bias).q)
    # Along the line both are known: sw2 = π/4 √(1 + 4q), sb2 = q − sw2 (2/π) asin(2q / (1 + 2q)).
    q = float(line.q)
    weight_slope = math.pi / 2 / math.sqrt(1 + 4 * q)
    arc, arc_slope = math.asin(2 * q / (1 + 2 * q)), 2 / (1 + 2 * q) / math.sqrt(1 + 4 * q)
    bias_slope = 1 - weight_slope * 2 / math.pi * arc - math.sqrt(1 + 4 * q) / 2 * arc_slope
    assert float(slope) == pytest.approx(weight_slope / bias_slope, rel=1e-8)


def test_phase_diagram_and_its_plot():
    pytest.importorskip("matplotlib")
    weights, biases = jnp.linspace(1.0, 3.0, 4), jnp.linspace(0.01, 0.3, 2)
    diagram = mf.phase_diagram(jnp.tanh, weight_variance=weights, bias_variance=biases)
    critical = mf.critical_weight_variance(jnp.tanh, bias_variance=biases)
    wanted = np.where(weights[None] < critical, "ordered", "chaotic")
    np.testing.assert_array_equal(diagram.points.phase, wanted)
    (axes, _) = diagram.plot().axes
    assert axes.get_xlabel() == "σ_w²"
    with pytest.raises(ValueError, match="`bias_variance` must have one axis"):
        mf.phase_diagram("tanh", weight_variance=weights, bias_variance=0.1)
