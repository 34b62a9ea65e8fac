"""The law of a wide network's Jacobian: closed forms, reference values, and networks of finite width."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit

pytestmark = pytest.mark.slow

# Squared upper edges by depth, from minimising z(m) = (1 + m)/(m S(m)) in closed form, to 1e-12.
EDGES = {
    ("relu", "gaussian"): {1: 5.828427124746189, 4: 21.8582493180469, 32: 173.98419220545537},
    ("relu", "orthogonal"): {1: 2.0, 2: 4.0, 8: 20.3719975763257, 64: 172.60911243369458},
}


@pytest.mark.parametrize("depth", [1, 2, 5, 40])
def test_gaussian_linear_is_fuss_catalan(depth):
    law = jinit.jacobian_law("linear", depth=depth)
    assert np.isclose(law.largest**2, (depth + 1) ** (depth + 1) / depth**depth, rtol=1e-12)
    for k in range(1, 6):
        assert np.isclose(law.moment(k), math.comb((depth + 1) * k, k) / (depth * k + 1), rtol=1e-10)
    with_readout = jinit.jacobian_law("linear", depth=depth, readout=True)
    assert np.isclose(with_readout.largest, jinit.jacobian_law("linear", depth=depth + 1).largest)


@pytest.mark.parametrize(("activation", "weights"), EDGES)
def test_relu_edges(activation, weights):
    for depth, expected in EDGES[activation, weights].items():
        law = jinit.jacobian_law(activation, depth=depth, weights=weights)
        assert np.isclose(law.largest**2, expected, rtol=1e-11)
        assert np.isclose(law.zero_mass, 0.5)


@pytest.mark.parametrize("weights", ["gaussian", "orthogonal"])
@pytest.mark.parametrize("activation", ["relu", "tanh", jax.nn.gelu, lambda x: jnp.clip(x, -0.7, 1.3)])
def test_moments(activation, weights):
    """`m_1 = χ^L` and Pennington's variance, from the series, which knows nothing of these formulas."""
    for depth, readout in [(1, False), (6, False), (6, True)]:
        law = jinit.jacobian_law(
            activation, depth=depth, weights=weights, weight_variance=1.7, variance=0.6, readout=readout
        )
        mean = law.chi**depth * (1.7 if readout else 1)
        assert np.isclose(law.moment(1), mean, rtol=1e-9)
        assert np.isclose(law.moment(2) / mean**2 - 1, law.relative_variance, rtol=1e-8)
        assert np.isclose(law.isometry_gap**2, law.moment(2) - 2 * law.moment(1) + 1, rtol=1e-8)
        assert law.largest**2 >= law.moment(4) / law.moment(3)


def test_slopes_of_tanh():
    """E[sech⁴(√q z)] and E[sech⁸(√q z)], by plain quadrature."""
    z, w = np.polynomial.hermite_e.hermegauss(160)
    squares = (1 - np.tanh(0.7 * z) ** 2) ** 2
    mu1, mu2 = (w @ squares**k / w.sum() for k in (1, 2))
    law = jinit.jacobian_law("tanh", depth=3, weights="orthogonal", variance=0.49)
    assert np.isclose(law.weight_variance, 1 / mu1, rtol=1e-8)
    assert np.isclose(law.relative_variance, 3 * (mu2 / mu1**2 - 1), rtol=1e-6)


@pytest.mark.parametrize(
    ("activation", "weights", "depth", "variance"),
    [
        ("linear", "gaussian", 2, 1.0),
        ("relu", "gaussian", 4, 1.0),
        ("relu", "orthogonal", 5, 1.0),
        ("tanh", "orthogonal", 10, 0.1),
        ("hardtanh", "orthogonal", 8, 0.3),  # has mass at one point
    ],
)
def test_density_is_that_of_the_moments(activation, weights, depth, variance):
    law = jinit.jacobian_law(activation, depth=depth, weights=weights, variance=variance)
    s = law.largest * np.linspace(0, 1, 4001)
    below = law.cdf(s)
    assert (np.diff(below) >= -1e-9).all()
    assert np.isclose(below[-1], 1.0, atol=2e-3)
    for k in (1, 2):
        # E[s^{2k}] = ∫ 2k s^{2k−1} P(> s) ds
        integrand = 2 * k * s ** (2 * k - 1) * (1 - below)
        assert np.isclose(np.trapezoid(integrand, s), law.moment(k), rtol=1e-2)


@pytest.mark.parametrize(("weights", "most"), [("gaussian", 5e-3), ("orthogonal", 1e-3)])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_nothing_is_lost_in_deep_networks(activation, weights, most):
    """Squares underflowed: `cdf` was NaN, with warnings; and the grid was so coarse that a fifth was missing.

    That of Gaussian weights spreads over hundreds of decades, of which 1e-140 is the last.
    """
    law = jinit.jacobian_law(activation, depth=100, weights=weights, variance=0.3)
    below = law.cdf([-1.0, 0.0, 1e-300, 1e-130, 1e-50, 1e-3, 1.0, law.largest, np.inf])
    assert (np.diff(below) >= 0).all()
    assert below[0] == 0
    assert below[1] == law.zero_mass
    assert below[2] - law.zero_mass < most
    assert below[-1] == 1
    assert np.isfinite(law.density([1e-300, 1e-160, 1e-100])).all()


def test_square_gaussian_is_a_quarter_circle():
    law = jinit.jacobian_law("linear", depth=1)
    s = np.linspace(0.05, 1.95, 20)
    assert np.allclose(law.density(s), np.sqrt(4 - s**2) / np.pi, atol=1e-5)
    assert law.density([2.5, -1.0]).tolist() == [0.0, 0.0]


def test_orthogonal_linear_and_single_layers_are_points():
    law = jinit.jacobian_law("linear", depth=30, weights="orthogonal", weight_variance=1.21)
    assert np.isclose(law.largest, 1.1**30)
    assert law.cdf([1.1**30 * 0.999, 1.1**30 * 1.001]).tolist() == [0.0, 1.0]
    one = jinit.jacobian_law("relu", depth=1, weights="orthogonal")
    assert np.allclose(one.cdf([-1, 0, 1.4, 1.42]), [0, 0.5, 0.5, 1])
    with pytest.raises(ValueError, match="Use `cdf`"):
        one.density(1.0)


def test_isometry_as_the_variance_falls():
    """Pennington et al. 2017: tanh with orthogonal weights reaches isometry as q → 0, ReLU never does."""
    laws = [jinit.jacobian_law("tanh", depth=64, weights="orthogonal", variance=q) for q in (0.1, 0.01, 1e-4)]
    gaps = [law.isometry_gap for law in laws]
    assert gaps[0] > 5 * gaps[1] > 25 * gaps[2]
    assert jinit.jacobian_law("relu", depth=64, weights="orthogonal").isometry_gap == pytest.approx(8.0)


WIDTH, DEPTH = 200, 4


@functools.cache
def network(activation: str, weights: str) -> jinit.Spectrum:
    """A random network of which every pre-activation has variance about q = 0.5: x is rescaled by layer."""
    f = {"linear": lambda x: x, "relu": jax.nn.relu, "tanh": jnp.tanh}[activation]
    scale = jinit.jacobian_law(activation, depth=1, variance=0.5).weight_variance
    init = jinit.orthogonal(scale**0.5) if weights == "orthogonal" else jinit.normal((scale / WIDTH) ** 0.5)
    params = [init(k, (WIDTH, WIDTH)) for k in jax.random.split(jax.random.key(0), DEPTH)]

    def apply(params, x):
        for w in params:
            h = x @ w
            held = jax.lax.stop_gradient(jnp.sqrt(0.5 / jnp.mean(h**2)))
            # Every h has variance q, by a factor held constant: the derivative is that of f at such an h.
            x = f(h * held) / held
        return x

    return jinit.jacobian_spectrum(apply)(params, jax.random.normal(jax.random.key(1), (1, WIDTH)))


def distance(spectrum: jinit.Spectrum, law: jinit.JacobianLaw) -> float:
    s = np.sort(np.asarray(spectrum.singular_values, np.float64).ravel())
    s = np.where(s < 1e-4, 0.0, s)
    grid = np.linspace(0.02, law.largest * 1.05, 300)
    return float(np.abs(np.searchsorted(s, grid) / s.size - law.cdf(grid)).max())


LAWS = [(a, w) for a in ("linear", "relu", "tanh") for w in ("gaussian", "orthogonal")]
# A share of active units fluctuates by 1/√(4N) about its mean, and so do the shares of singular values.
BOUND = 2 / math.sqrt(4 * WIDTH)


@pytest.mark.parametrize(("activation", "weights"), LAWS)
def test_networks_of_finite_width(activation, weights):
    law = jinit.jacobian_law(activation, depth=DEPTH, weights=weights, variance=0.5)
    spectrum = network(activation, weights)
    if (activation, weights) == ("linear", "orthogonal"):
        assert np.abs(np.asarray(spectrum.singular_values) - 1).max() < 1e-4
        return
    assert distance(spectrum, law) < BOUND
    assert abs(float(spectrum.mean_square[0]) - 1) < 5 * math.sqrt(2 * DEPTH / WIDTH)
    # The edge fluctuates as N^{−2/3}.
    assert abs(float(spectrum.largest[0]) / law.largest - 1) < DEPTH * WIDTH ** (-2 / 3)


def test_a_wrong_law_is_told_apart():
    for activation, weights in (("relu", "orthogonal"), ("tanh", "orthogonal"), ("linear", "gaussian")):
        wrong = jinit.jacobian_law("relu", depth=DEPTH, weights="gaussian", variance=0.5)
        assert distance(network(activation, weights), wrong) > BOUND


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ({"activation": "relu", "depth": 0}, "`depth` must be a whole number of at least 1"),
        (
            {"activation": "relu", "depth": 2, "weights": "sparse"},
            "`weights` must be 'gaussian' or 'orthogonal'",
        ),
        ({"activation": "relu", "depth": 2, "variance": 0.0}, "`variance` must be positive"),
        ({"activation": "relu", "depth": 2, "weight_variance": -1.0}, "`weight_variance` must be positive"),
        ({"activation": "reluu", "depth": 2}, "Did you mean"),
        ({"activation": jax.nn.softmax, "depth": 2}, "must be elementwise"),
        ({"activation": lambda x: jnp.zeros_like(x), "depth": 2}, "slope zero everywhere"),
    ],
)
def test_errors(args, text):
    with pytest.raises(ValueError, match=text):
        jinit.jacobian_law(**args)


def test_order_of_a_moment():
    with pytest.raises(ValueError, match="`order` must be"):
        jinit.jacobian_law("relu", depth=2).moment(0)
