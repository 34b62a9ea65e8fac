"""Activations that oscillate, near zero and far from it: against closed forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit.meanfield as mf
from tests.meanfield.oracles import ACCURACY, PLAIN

pytestmark = pytest.mark.slow

Q = np.array([1e-6, 0.01, 0.7, 1.0, 3.0, 12.0, 202.0, 203.0, 809.0, 811.0, 1e4, 1e8, 1e12])


@pytest.fixture(autouse=True)
def _double(request):
    with jax.enable_x64("single" not in request.node.name):
        yield


def snake(x):
    return x + jnp.sin(x) ** 2


def snake_second_moment(q):
    """E(x + sin² x)² = q + E sin⁴ x, as x sin² x is odd."""
    return q + 3 / 8 - np.exp(-2 * q) / 2 + np.exp(-8 * q) / 8


def sine(frequency):
    return lambda x: jnp.sin(frequency * x)


def sine_second_moment(frequency):
    return lambda q: -np.expm1(-2 * frequency**2 * q) / 2


def sine_correlation(frequency, q, c):
    """sinh(a c) / sinh(a) with a = ω² q."""
    a = frequency**2 * q
    return np.exp(a * (np.abs(c) - 1)) * np.expm1(-2 * a * np.abs(c)) / np.expm1(-2 * a) * np.sign(c)


CASES = {
    "sin": (jnp.sin, sine_second_moment(1)),
    "sin 30": (sine(30), sine_second_moment(30)),
    "snake": (snake, snake_second_moment),
}


@pytest.mark.parametrize("name", CASES)
def test_variances_at_any_distance(name):
    """They were NaN where nine deviations left what is followed: beyond q = 0.8 of sin(30 x)."""
    function, wanted = CASES[name]

    def power(q):
        return mf.variance_map(function, q, **PLAIN)

    np.testing.assert_allclose(power(Q), wanted(Q), rtol=ACCURACY)
    step = 1e-4 * Q
    slopes = (wanted(Q + step) - wanted(Q - step)) / (2 * step)
    np.testing.assert_allclose(
        jax.vmap(jax.grad(power))(Q), slopes, rtol=1e-4, atol=1e-9 * max(1.0, slopes[-1])
    )


def test_single_precision():
    q = np.array([0.01, 1.0, 30.0, 1e3, 1e4])
    found = mf.variance_map(snake, q.astype(np.float32), **PLAIN)
    np.testing.assert_allclose(found, snake_second_moment(q), rtol=3e-6)


def test_fast_sines_have_fixed_points_and_correlations():
    """q* = σ_w² / 2 + σ_b², and C is all but zero away from c = 1: c* is what biases give."""
    point = mf.fixed_point(sine(30), weight_variance=2.0, bias_variance=0.1)
    assert float(point.q) == pytest.approx(1.1, rel=ACCURACY)
    assert float(point.c) == pytest.approx(0.1 / 1.1, rel=ACCURACY)
    assert float(point.chi_1) == pytest.approx(900.0, rel=ACCURACY)
    c = np.array([-0.999, -0.3, 0.5, 0.999, 1 - 1e-6])
    found = mf.correlation_map(sine(30), 3.0, c, **PLAIN)
    np.testing.assert_allclose(found, sine_correlation(30, 3.0, c), atol=ACCURACY)
    (weight,) = mf.critical_weight_variance(sine(30), bias_variance=0.1)
    assert float(weight) == pytest.approx(2 / 900, rel=ACCURACY)  # E cos² = ½ at q = 0.1


def test_signals_that_explode_while_they_oscillate():
    """Of x + sin² x they do from σ_w² = 1 on: q was NaN; below, q* solves a line from far away."""
    weights = np.array([0.9999, 1.0, 1.5])
    points = mf.fixed_point(snake, weight_variance=weights, bias_variance=0.1)
    far = (0.9999 * 3 / 8 + 0.1) / 1e-4
    np.testing.assert_allclose(points.q, [far, np.inf, np.inf], rtol=ACCURACY)
    slopes = 1.5  # E(1 + sin 2x)²
    np.testing.assert_allclose(points.chi_1, weights * slopes, rtol=1e-8)
    assert np.isnan(points.c[1:]).all()


def test_what_oscillates_faster_and_faster_is_nan():
    found = mf.variance_map(lambda x: jnp.sin(x * x), np.array([1.0, 1e4]), **PLAIN)
    assert np.isfinite(found[0])
    assert np.isnan(found[1])
