"""Activations that are narrow, steep or nearly zero, and the ends of the ranges: against closed forms."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit.meanfield as mf
from jinit.initializers._quadrature import Pointwise
from jinit.meanfield.panels import find_panels
from jinit.meanfield.resolution import _noise
from tests.meanfield import oracles
from tests.meanfield.oracles import ACCURACY, PLAIN


@pytest.fixture(autouse=True)
def _double(request):
    with jax.enable_x64("single" not in request.node.name):
        yield


def bump(width, middle):
    return lambda x: jnp.exp(-(((x - middle) / width) ** 2))


def bump_second_moment(width, middle, q):
    spread = 1 + 4 * q / width**2
    return np.exp(-2 * (middle / width) ** 2 / spread) / np.sqrt(spread)


def hat(x, np, *, middle, half):
    return np.maximum(1 - abs(x - middle) / half, 0.0)


@pytest.mark.parametrize(("width", "middle"), [(0.1, 1.0), (0.003, 1.37), (50**-0.5, 0.0), (0.01, 1.0)])
def test_narrow_bumps(width, middle):
    q = np.array([0.1, 2.0, 300.0])
    found = mf.variance_map(bump(width, middle), q, **PLAIN)
    np.testing.assert_allclose(found, bump_second_moment(width, middle, q), rtol=ACCURACY)


def test_narrow_is_not_float32():
    assert _noise(Pointwise(bump(0.1, 1.0))) == 0
    rounded = lambda x: jnp.exp(-20 * x.astype(jnp.float32) ** 2).astype(x.dtype)  # noqa: E731
    assert 1e-7 < _noise(Pointwise(rounded)) < 1e-5


@pytest.mark.parametrize(("middle", "half"), [(1.37, 0.03), (5.3, 0.1)])
def test_hats(middle, half):
    def shape(x, np):
        return hat(x, np, middle=middle, half=half)

    kinks = [middle - half, middle, middle + half]
    assert find_panels(lambda x: shape(x, jnp)).kinks == pytest.approx(kinks, rel=1e-12)
    found = mf.variance_map(lambda x: shape(x, jnp), 2.0, **PLAIN)
    assert float(found) == pytest.approx(oracles.second_moment(shape, kinks, 2.0), rel=ACCURACY)


@pytest.mark.parametrize("middle", [1.37, 0.37])
def test_steep_sigmoids(middle):
    def steep(x, np):
        return 0.5 * (1 + np.tanh((x - middle) / 2e-3))

    # QUADPACK on [-13, 13] needs to be told where it is steep.
    near = [middle + 1e-3 * t for t in (-40.0, -20.0, -5.0, 0.0, 5.0, 20.0, 40.0)]
    found = mf.variance_map(lambda x: jax.nn.sigmoid((x - middle) / 1e-3), 2.0, **PLAIN)
    assert float(found) == pytest.approx(oracles.second_moment(steep, near, 2.0), rel=ACCURACY)


def gauss_correlation(q, c):
    """Of exp(-x²): E f(h₁) f(h₂) = ((1 + 2q)² − (2qc)²)^-½."""
    return np.sqrt(((1 + 2 * q) ** 2 - (2 * q) ** 2) / ((1 + 2 * q) ** 2 - (2 * q * c) ** 2))


@pytest.mark.parametrize("q", [300.0, 3000.0])
def test_correlations_at_large_variances(q):
    c = np.array([-1.0, -0.999, -0.4, 0.5, 0.9, 0.99, 0.9999, 1 - 1e-6])
    found = mf.correlation_map(lambda x: jnp.exp(-x * x), q, c, **PLAIN)
    np.testing.assert_allclose(found, gauss_correlation(q, c), atol=ACCURACY)


def arc_cosine_slope(c):
    return 1 - np.arccos(c) / math.pi


@pytest.mark.slow
@pytest.mark.parametrize(("name", "wanted"), [("relu", arc_cosine_slope), ("linear", np.ones_like)])
def test_slopes_near_correlation_minus_one(name, wanted):
    activation = (lambda x: x) if name == "linear" else name
    c = -1 + np.array([1e-9, 1e-8, 1e-6, 1e-3])
    found = jax.vmap(jax.grad(lambda c: mf.correlation_map(activation, 1.0, c, **PLAIN)))(c)
    np.testing.assert_array_less(np.abs(found - wanted(c)), 3e-15 / (1 + c) + 1e-9)


@pytest.mark.slow
def test_slopes_near_correlation_minus_one_in_single_precision():
    c = np.float32(-0.999)
    found = jax.grad(lambda c: mf.correlation_map("relu", 1.0, c, **PLAIN))(c)
    assert float(found) == pytest.approx(arc_cosine_slope(float(c)), rel=5e-3)


@pytest.mark.parametrize(
    ("function", "slope"),
    [
        (jax.nn.softplus, 0.25 + math.log(2) / 4),  # φ'(0)² + φ(0) φ''(0)
        (jnp.cos, -1.0),
        (lambda x: 1 + jnp.tanh(300 * x), 9e4),
    ],
    ids=["softplus", "cos", "steep"],
)
def test_the_slope_of_variance_at_zero(function, slope):
    found = jax.grad(lambda q: mf.variance_map(function, q, **PLAIN))(0.0)
    assert float(found) == pytest.approx(slope, rel=ACCURACY)


def test_variance_from_zero_on_is_smooth():
    q = np.array([0.0, 1e-9, 3e-6, 6e-6, 6.1e-6, 1e-5, 1e-3])
    value, slope = jax.vmap(jax.value_and_grad(lambda q: mf.variance_map(jnp.cos, q, **PLAIN)))(q)
    np.testing.assert_allclose(value, (1 + np.exp(-2 * q)) / 2, rtol=1e-14)
    np.testing.assert_allclose(slope, -np.exp(-2 * q), rtol=ACCURACY)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bias", "wanted", "function"),
    [(0.1, [], lambda x: x), (0.0, [1.0], lambda x: x), (0.2, [], lambda x: 0.5 * x + 1)],
    ids=["biased", "plain", "offset"],
)
def test_linear_networks_are_critical_without_biases_only(bias, wanted, function):
    found = mf.critical_weight_variance(function, bias_variance=bias)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.slow
def test_linear_networks_keep_correlations_single():
    point = mf.fixed_point(lambda x: x, weight_variance=1.0, bias_variance=0.0, initial_q=0.37)
    assert float(point.c) == 1.0
    assert point.phase == "critical"


@pytest.mark.parametrize(
    ("function", "wanted"),
    [(lambda x: x**4, 3 / 35), (lambda x: 1 - jnp.cos(x), 1 / 3)],
    ids=["x^4", "1 - cos"],
)
@pytest.mark.parametrize("dtype", ["single", "double"])
def test_correlations_where_the_variance_underflows(function, wanted, dtype):
    """They were NaN: the square of x⁴ is less than float32 has, that of 1 − cos x is rounded away."""
    q = np.array([0.0, 1e-20], np.dtype(dtype))
    found = mf.correlation_map(function, q, np.zeros(2, q.dtype), **PLAIN)
    # In float32, 1 − cos x is a multiple of 6e-8 there, a few hundredths of what it is.
    np.testing.assert_allclose(found, wanted, rtol=5e-2 if dtype == "single" else 1e-6)


def test_a_dead_activation_has_no_correlations():
    found = mf.correlation_map(lambda x: jax.nn.relu(x - 1), np.array([0.0, 1e-3, 1.0]), 0.5, **PLAIN)
    np.testing.assert_array_equal(np.isnan(found), [True, True, False])
    with_biases = mf.correlation_map(
        lambda x: jax.nn.relu(x - 1), 1e-3, 0.5, weight_variance=1.0, bias_variance=0.1
    )
    assert float(with_biases) == 1.0


def diverges(x):
    return jnp.exp(x * x)


def test_what_grows_too_fast_is_nan():
    """exp(x²) has no second moment from q = 1/4 on, and exp has its own beyond 12 deviations for q > 36."""
    diverging = [float(mf.variance_map(diverges, q, **PLAIN)) for q in (0.1, 0.24, 1.0)]
    assert diverging[0] == pytest.approx(0.6**-0.5, rel=ACCURACY)
    assert np.isnan(diverging[1:]).all()
    growing = [float(mf.variance_map(jnp.exp, q, **PLAIN)) for q in (4.0, 36.0)]
    assert growing[0] == pytest.approx(math.exp(8.0), rel=ACCURACY)
    assert np.isnan(growing[1])


@pytest.mark.parametrize("pole", [0.0, 3.0, math.pi / 10])
def test_poles(pole):
    with pytest.raises(ValueError, match="must be integrable, but it is not bounded near"):
        mf.variance_map(lambda x: 1 / (x - pole), 1.0, **PLAIN)


def test_numpy_integers_are_integers():
    path = mf.trajectory("relu", weight_variance=2.0, bias_variance=0.0, depth=np.int64(2))
    assert path.q.shape == (3,)
    assert mf.tat_leaky_relu(depth=np.int64(50)) == mf.tat_leaky_relu(depth=50)
    for depth in (True, np.True_):
        with pytest.raises(TypeError, match="`depth` must be an integer"):
            mf.trajectory("relu", depth=depth, **PLAIN)
        with pytest.raises(ValueError, match="`depth` must be an integer of at least 1"):
            mf.dks("tanh", depth=depth)


@pytest.mark.parametrize("name", ["weight_variance", "bias_variance"])
def test_grids_ascend(name):
    grids = {"weight_variance": jnp.array([1.0, 2.0]), "bias_variance": jnp.array([0.1, 0.2])}
    with pytest.raises(ValueError, match=f"`{name}` must ascend"):
        mf.phase_diagram("relu", **{**grids, name: grids[name][::-1]})


@pytest.mark.parametrize(("name", "variance"), [("relu", 2.0), ("abs", 1.0), ("linear", 1.0)])
def test_depth_scales_are_infinite_at_one(name, variance):
    """χ differs from one by rounding there: that of q was NaN, that of c some 10^15."""
    point = mf.fixed_point(name, weight_variance=variance, bias_variance=0.0)
    assert np.isinf(point.xi_q)
    assert np.isinf(point.xi_c)
    assert np.isnan(mf.fixed_point("relu", weight_variance=2.1, bias_variance=0.0).xi_q)
