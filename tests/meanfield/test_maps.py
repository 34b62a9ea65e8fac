"""The maps against closed forms, reference values, and quadrature for activations nobody has a table of."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit.meanfield as mf
from tests.meanfield import oracles
from tests.meanfield.oracles import ACCURACY, ACTIVATIONS, PLAIN, REFERENCE, UNSEEN

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _double(request):
    with jax.enable_x64("single" not in request.node.name):
        yield


def jax_version(function):
    return lambda x: function(x, jnp)


FEW = ("tanh", "relu", "gelu", "x tanh exp x", "three kinks", "step", "square")


def some_slow(names):
    return [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", some_slow(REFERENCE["kernels"]))
def test_reference_kernels(name):
    rows = REFERENCE["kernels"][name]
    c = jnp.array([float(c) for c in rows])

    def kernel(c):
        power = mf.variance_map(ACTIVATIONS[name], 1.0, **PLAIN)
        return power * mf.correlation_map(ACTIVATIONS[name], 1.0, c, **PLAIN)

    values, slopes = jax.jvp(kernel, (c,), (jnp.ones_like(c),))
    scale = kernel(jnp.ones_like(c))[0]
    wanted = np.array([[row["kernel"], row["deriv_kernel"]] for row in rows.values()])
    np.testing.assert_allclose(values, wanted[:, 0], rtol=0, atol=ACCURACY * scale)
    np.testing.assert_allclose(slopes, wanted[:, 1], rtol=ACCURACY)


@pytest.mark.parametrize("row", REFERENCE["trajectories"][4:], ids=lambda row: row["activation"])
def test_reference_trajectories(row):
    wanted = np.array(row["trajectory"])
    variances = {"weight_variance": row["sigma_w2"], "bias_variance": row["sigma_b2"]}
    path = mf.trajectory(
        ACTIVATIONS[row["activation"]], row["q0"], row["c0"], **variances, depth=len(wanted) - 1
    )
    np.testing.assert_allclose(path.q, wanted[:, 0], rtol=ACCURACY)
    np.testing.assert_allclose(path.c, wanted[:, 1], atol=ACCURACY)


@pytest.mark.parametrize("name", some_slow(UNSEEN))
def test_unseen_activations(name):
    function, kinks, _ = UNSEEN[name]
    q, c = np.array([0.01, 1.0, 7.0]), np.array([-0.9, 0.3, 0.98])
    found = mf.variance_map(jax_version(function), q, weight_variance=1.5, bias_variance=0.1)
    power = np.array([oracles.second_moment(function, kinks, x) for x in q])
    np.testing.assert_allclose(found, 1.5 * power + 0.1, rtol=ACCURACY)
    found = mf.correlation_map(jax_version(function), q, c, weight_variance=1.5, bias_variance=0.1)
    kernels = np.array([oracles.kernel(function, kinks, *pair) for pair in zip(q, c, strict=True)])
    np.testing.assert_allclose(found, (1.5 * kernels + 0.1) / (1.5 * power + 0.1), atol=ACCURACY)


def test_oracles_agree_with_each_other():
    def relu(x, np):
        return np.maximum(x, 0.0)

    assert oracles.kernel(relu, [0.0], 1.0, 0.9) == pytest.approx(oracles.arc_cosine(0.9), rel=1e-12)
    assert oracles.kernel(np.vectorize(lambda x, _: math.erf(x)), [], 1.0, 0.5) == pytest.approx(
        2 / math.pi * math.asin(1 / 3), rel=1e-12
    )
    assert oracles.kernel(relu, [0.1], 1.0, 0.9) != pytest.approx(oracles.arc_cosine(0.9), rel=ACCURACY)


def test_erf_and_sine_over_many_scales():
    q = np.geomspace(1e-12, 1e6, 19)
    found = mf.variance_map("erf", q, **PLAIN)
    np.testing.assert_allclose(found, 2 / math.pi * np.arcsin(2 * q / (1 + 2 * q)), rtol=ACCURACY)
    q = np.geomspace(1e-12, 50, 19)
    np.testing.assert_allclose(mf.variance_map("sin", q, **PLAIN), -np.expm1(-2 * q) / 2, rtol=ACCURACY)


def test_relu_near_correlation_one():
    """1 − C keeps its relative precision: by the series of the arc-cosine kernel in θ."""
    gap = np.array([1e-5, 1e-7, 1e-9])
    c = 1 - gap
    exact = 2 * np.arcsin(np.sqrt((1 - c) / 2))
    loss = (exact**2 / 2 - exact**3 / (3 * math.pi)) - (exact**4 / 24 - exact**5 / (30 * math.pi))
    q = np.array([[1e-6], [1.0], [1e6]])
    found = 1 - mf.correlation_map("relu", q, c[None], weight_variance=2.0, bias_variance=0.0)
    np.testing.assert_allclose(found, np.broadcast_to(loss, found.shape), rtol=1e-8, atol=3e-16)


def test_gradients_against_finite_differences():
    def stepped(x):
        return jnp.where(x > 0.3, x + 1.0, 0.2 * x)  # a jump and a kink at one place

    def ahead(q, c):
        return mf.correlation_map(stepped, q, c, weight_variance=1.7, bias_variance=0.2)

    steps = 1e-4 * jnp.array([-2.0, -1.0, 1.0, 2.0])
    zeros = jnp.zeros_like(steps)
    values = ahead(0.8 + jnp.append(steps, zeros), 0.4 + jnp.append(zeros, steps)).reshape(2, 4)
    wanted = values @ jnp.array([1.0, -8.0, 8.0, -1.0]) / 12e-4
    np.testing.assert_allclose(jax.grad(ahead, (0, 1))(0.8, 0.4), wanted, rtol=1e-8)


def test_second_derivatives():
    def power(q):
        return mf.variance_map("erf", q, **PLAIN)

    def exact(q):
        return 2 / math.pi * jnp.arcsin(2 * q / (1 + 2 * q))

    assert float(jax.grad(jax.grad(power))(0.7)) == pytest.approx(float(jax.hessian(exact)(0.7)), rel=1e-9)


def test_the_ends_of_the_range():
    def at(c):
        return mf.correlation_map("relu", 1.0, c, weight_variance=2.0, bias_variance=0.0)

    c = jnp.array([-1.0, 0.0, 1.0])
    np.testing.assert_allclose(at(c), [0.0, 1 / math.pi, 1.0], atol=1e-7)
    np.testing.assert_allclose(jax.vmap(jax.grad(at))(c), [0.0, 0.5, 1.0], atol=1e-7)
    assert float(at(1.0)) == 1.0
    assert float(mf.variance_map("tanh", 0.0, **PLAIN)) == 0.0
    slope = jax.grad(lambda q: mf.variance_map("tanh", q, **PLAIN))
    assert float(slope(0.0)) == pytest.approx(1.0, rel=1e-12)
    # At q = 0, the limit: a linear map keeps correlations.
    assert float(mf.correlation_map("tanh", 0.0, 0.3, **PLAIN)) == pytest.approx(0.3, rel=1e-12)


def test_a_step_has_an_infinite_slope_at_one():
    def step(x):
        return jnp.where(x > 0, 1.0, 0.0)

    def at(c):
        return mf.correlation_map(step, 1.0, c, **PLAIN)

    for c in (-0.5, 0.5, 0.999):
        assert float(at(c)) == pytest.approx(1 - math.acos(c) / math.pi, rel=ACCURACY)
        slope = 1 / (math.pi * math.sqrt(1 - c * c))
        assert float(jax.grad(at)(c)) == pytest.approx(slope, rel=ACCURACY)
    assert float(at(1.0)) == 1.0
    assert float(jax.grad(at)(1.0)) == math.inf


def test_single_precision():
    path = mf.trajectory("relu", 1.0, 0.0, weight_variance=2.0, bias_variance=0.0, depth=1)
    assert path.q.dtype == jnp.float32
    np.testing.assert_allclose(path.q, [1.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(path.c, [0.0, 1 / math.pi], rtol=1e-6)
    q = np.geomspace(1e-8, 1e4, 13)
    found = mf.variance_map("erf", q, **PLAIN)
    np.testing.assert_allclose(found, 2 / math.pi * np.arcsin(2 * q / (1 + 2 * q)), rtol=2e-6)


def test_transformations_and_broadcasting():
    q, c = jnp.array([0.5, 1.0, 2.0]), jnp.array([[0.1], [0.7]])
    variances = {"weight_variance": 1.3, "bias_variance": 0.1}

    def at(q, c):
        return mf.correlation_map(jnp.tanh, q, c, **variances)

    together = at(q, c)
    assert together.shape == (2, 3)
    np.testing.assert_allclose(jax.jit(at)(q[:1], c[0]), together[0, :1], rtol=1e-13)
    np.testing.assert_allclose(jax.vmap(at, (0, None))(q, c[1, 0]), together[1], rtol=1e-13)
    assert at(jnp.float32(1.0), 0.5).dtype == jnp.float32
    many = jnp.linspace(0.1, 3, 19)  # more than are taken at a time
    np.testing.assert_allclose(at(many, 0.5)[7], at(many[7], 0.5), rtol=1e-13)


def test_a_changed_closure_is_seen():
    slope = 1.0

    def function(x):
        return slope * x

    assert float(mf.variance_map(function, 1.0, **PLAIN)) == pytest.approx(1.0)
    slope = 2.0
    assert float(mf.variance_map(function, 1.0, **PLAIN)) == pytest.approx(4.0)
