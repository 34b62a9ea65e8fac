"""Kernel shaping: the authors' own constants, and the conditions themselves."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit.meanfield as mf

pytestmark = pytest.mark.slow


def residual(c, layer, shortcut=0.6):
    """The subnetwork-maximizing function of the modified residual network of the authors' unit tests."""
    for blocks in (3, 4, 23, 3):
        for j in range(blocks):
            straight = layer(c) if j == 0 else c
            c = shortcut**2 * straight + (1 - shortcut**2) * layer(layer(layer(c)))
    return layer(c)


# (input_scale, input_shift, output_shift, output_scale) from the unit tests of google-deepmind/dks, rounded;
# theirs are by a fixed grid, good to some 1e-8.
DKS = {
    "softplus": (0.18761008168, 0.40688063442, -0.92134661511, 8.87867254367),
    "tanh": (0.07461073058, 0.5566915200, -0.50343787687, 18.0026359644),
}
TAT = {
    "softplus": (0.15011489795, 0.53745999011, -0.99648101447, 10.5488018788),
    "tanh": (0.05802052188, 0.52186398041, -0.47964307044, 22.3606626176),
}


def numbers(shaped):
    return shaped.input_scale, shaped.input_shift, shaped.output_shift, shaped.output_scale


@pytest.mark.parametrize("name", DKS)
def test_the_authors_constants(name):
    shaped = mf.dks(name, maximal_c_map=residual, zeta=1.2)
    np.testing.assert_allclose(numbers(shaped), DKS[name], rtol=1e-7)
    shaped = mf.tat(name, maximal_c_map=residual, tau=0.2)
    np.testing.assert_allclose(numbers(shaped), TAT[name], rtol=1e-7)


def test_the_authors_leaky_relu():
    shaped = mf.tat_leaky_relu(maximal_c_map=residual, eta=0.75)
    assert shaped.output_scale == pytest.approx(1.196996549778802, rel=1e-9)
    assert shaped.activation(-1.0) == pytest.approx(-0.6291800290346146, rel=1e-6)
    assert shaped == mf.tat_leaky_relu(maximal_c_map=residual, eta=0.75)


def test_tailored_rectifiers_reach_eta():
    with jax.enable_x64(True):
        shaped = mf.tat_leaky_relu(depth=20)
        path = mf.trajectory(shaped, 1.0, 0.0, weight_variance=1.0, bias_variance=0.0, depth=20)
        np.testing.assert_allclose(path.q, 1.0, rtol=1e-9)
        assert float(path.c[-1]) == pytest.approx(0.9, abs=1e-8)


def unseen(x):
    return x * jnp.tanh(jnp.exp(x))


@pytest.mark.parametrize(
    "activation",
    [pytest.param(unseen, id="unseen", marks=pytest.mark.slow), pytest.param(jax.nn.hard_silu, id="kinks")],
)
def test_the_conditions_of_dks(activation):
    with jax.enable_x64(True):
        shaped = mf.dks(activation, depth=30, zeta=1.5)
        variances = {"weight_variance": 1.0, "bias_variance": 0.0}
        power, power_slope = jax.value_and_grad(lambda q: mf.variance_map(shaped, q, **variances))(1.0)
        slope = jax.grad(lambda c: mf.correlation_map(shaped, 1.0, c, **variances))(1.0)
        assert float(power) == pytest.approx(1.0, abs=1e-9)
        assert float(power_slope) == pytest.approx(1.0, abs=1e-9)
        assert float(slope) ** 30 == pytest.approx(1.5, abs=1e-7)
        assert float(mf.correlation_map(shaped, 1.0, 0.0, **variances)) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.slow
def test_the_conditions_of_tat():
    with jax.enable_x64(True):
        shaped = mf.tat(unseen, depth=30, tau=0.3)

        def ahead(c):
            return mf.correlation_map(shaped, 1.0, c, weight_variance=1.0, bias_variance=0.0)

        assert float(jax.grad(ahead)(1.0)) == pytest.approx(1.0, abs=1e-9)
        curvature = jax.grad(jax.grad(ahead))(0.9999)
        assert 30 * float(curvature) == pytest.approx(0.3, rel=1e-3)


def test_inside_jit_and_vmap():
    def apply(x):
        return mf.dks("tanh", depth=50)(x)

    x = jnp.array([-1.0, 0.5])
    np.testing.assert_allclose(jax.jit(apply)(x), apply(x), rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(apply)(x), apply(x), rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: mf.dks("relu", depth=50), "the conditions must have a solution"),
        (lambda: mf.tat("hard_tanh", depth=50), "the conditions must have a solution"),
        (lambda: mf.dks(lambda x: jnp.where(x > 0.7, x, -0.2), depth=30), "must be continuous.*jumps at 0.7"),
        (lambda: mf.dks("tanh"), "one of `depth` and `maximal_c_map` must be given"),
        (lambda: mf.dks("tanh", depth=50, maximal_c_map=residual), "one of `depth` and `maximal_c_map`"),
        (lambda: mf.dks("tanh", depth=0), "`depth` must be an integer of at least 1"),
        (lambda: mf.dks("tanh", depth=50, zeta=1.0), "`zeta` must be above 1"),
        (lambda: mf.tat("tanh", depth=50, tau=0.0), "`tau` must be above 0"),
        (lambda: mf.tat("tanh", maximal_c_map=lambda c, layer: c), "`maximal_c_map` must reach its target"),
        (lambda: mf.tat_leaky_relu(depth=10), "so deep that relu exceeds `eta`"),
        (lambda: mf.tat_leaky_relu(depth=50, eta=math.nan), "`eta` must be above 0 and below 1"),
    ],
)
def test_what_cannot_be_done(make, text):
    with pytest.raises(ValueError, match=text):
        make()
