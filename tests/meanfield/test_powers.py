"""Activations whose slope has a pole or is a broken power: against closed forms."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special

import jinit.meanfield as mf
from tests.meanfield.oracles import ACCURACY, PLAIN

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _double(request):
    with jax.enable_x64("single" not in request.node.name):
        yield


def power(exponent, place=0.0):
    return lambda x: jnp.sign(x - place) * jnp.abs(x - place) ** exponent


def moment(p):
    """E|z|^p."""
    return 2 ** (p / 2) * scipy.special.gamma((p + 1) / 2) / math.sqrt(math.pi)


def chi_1(p, q):
    return p * p * q ** (p - 1) * moment(2 * p - 2)


def correlation(p, c):
    """E sign z₁ |z₁|^p sign z₂ |z₂|^p over E|z|^2p, by the expansion in Hermite functions."""
    series = scipy.special.hyp2f1((1 - p) / 2, (1 - p) / 2, 1.5, c * c)
    return c * 2 ** (p + 1) * scipy.special.gamma(1 + p / 2) ** 2 / math.pi * series / moment(2 * p)


def slopes(function, q):
    """E φ'², as what chi_1 is at σ_w² = 1: 1 over the critical weight variance."""
    return 1 / mf.critical_line(function, q).weight_variance


@pytest.mark.parametrize("p", [0.51, 0.55, 0.6, 0.7, 0.9, 1.1, 1.3, 1.7])
def test_slopes(p):
    """They were NaN, and without a pole, p > 1, off by 1e-5."""
    q = np.array([1e-12, 1e-6, 0.3, 1.0, 50.0, 1e6])
    np.testing.assert_allclose(slopes(power(p), q), chi_1(p, q), rtol=ACCURACY)
    found = jax.vmap(jax.grad(lambda q: slopes(power(p), q)))(q)
    np.testing.assert_allclose(found, (p - 1) * chi_1(p, q) / q, rtol=ACCURACY)


def test_slopes_in_single_precision():
    q = np.array([1e-6, 1.0, 1e4])
    np.testing.assert_allclose(slopes(power(0.7), q.astype(np.float32)), chi_1(0.7, q), rtol=1e-5)


@pytest.mark.parametrize(("place", "p"), [(1.0, 0.55), (1.0, 0.7), (-math.pi / 3, 0.7), (0.3, 0.9)])
def test_poles_away_from_zero(place, p):
    def density(h):
        return math.exp(-h * h / 4) / math.sqrt(4 * math.pi)  # q = 2

    sides = [(place, place + 25, (2 * p - 2, 0)), (place - 25, place, (0, 2 * p - 2))]
    parts = [
        scipy.integrate.quad(density, a, b, weight="alg", wvar=w, epsabs=0, epsrel=1e-12, limit=500)[0]
        for a, b, w in sides
    ]
    assert float(slopes(power(p, place), 2.0)) == pytest.approx(p * p * sum(parts), rel=1e-8)


@pytest.mark.parametrize("p", [0.4, 0.5])
def test_no_finite_slope(p):
    """E φ'² is infinite from exponents of a half down: nothing is critical, and all is chaotic."""
    point = mf.fixed_point(power(p), weight_variance=1.5, bias_variance=0.1)
    assert float(point.chi_1) == math.inf
    assert point.phase == "chaotic"
    c = float(point.c)
    q = float(point.q)
    assert q == pytest.approx(1.5 * q**p * moment(2 * p) + 0.1, rel=ACCURACY)
    assert c == pytest.approx((1.5 * q**p * moment(2 * p) * correlation(p, c) + 0.1) / q, rel=ACCURACY)
    assert mf.critical_weight_variance(power(p), bias_variance=0.1).size == 0
    slope = jax.grad(lambda c: mf.correlation_map(power(p), 1.0, c, **PLAIN))
    assert [float(slope(c)) for c in (-1.0, 1.0)] == [math.inf] * 2


@pytest.mark.parametrize("p", [0.55, 0.7, 1.3])
def test_correlations(p):
    c = np.array([-1.0, -0.999, -0.5, 0.1, 0.9, 0.999, 1 - 1e-6])

    def at(c):
        return mf.correlation_map(power(p), 1.0, c, **PLAIN)

    np.testing.assert_allclose(at(c), correlation(p, c), atol=ACCURACY)
    ends = jax.vmap(jax.grad(at))(np.array([-1.0, 1.0]))
    np.testing.assert_allclose(ends, chi_1(p, 1.0) / moment(2 * p), rtol=1e-8)


@pytest.mark.parametrize("p", [0.55, 0.7])
def test_critical_weights(p):
    """At q = σ_b² / (1 − q E φ² / (q² E φ'²)), of which the quotient does not depend on q."""
    q = 0.1 / (1 - moment(2 * p) / chi_1(p, 1.0))
    (weight,) = mf.critical_weight_variance(power(p), bias_variance=0.1)
    assert float(weight) == pytest.approx(1 / chi_1(p, q), rel=ACCURACY)
    point = mf.fixed_point(power(p), weight_variance=weight, bias_variance=0.1)
    assert point.phase == "critical"
    assert float(point.q) == pytest.approx(q, rel=1e-8)


def test_an_activation_with_a_reverse_rule_only():
    """As a `jax.custom_vjp` has: chi_1 was an error of JAX."""
    relu = jax.custom_vjp(lambda x: jnp.maximum(x, 0))
    relu.defvjp(lambda x: (jnp.maximum(x, 0), x > 0), lambda on, g: (jnp.where(on, g, 0),))
    assert float(mf.critical_line(relu, 1.0).weight_variance) == pytest.approx(2.0, rel=ACCURACY)
