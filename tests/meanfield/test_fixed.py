"""Fixed points, phases and depth scales."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import jinit.meanfield as mf
from tests.meanfield import oracles
from tests.meanfield.oracles import ACTIVATIONS, REFERENCE

pytestmark = pytest.mark.slow

ROWS = {name: [row for row in REFERENCE["fixed_points"] if row["activation"] == name] for name in ACTIVATIONS}


@pytest.fixture(autouse=True)
def _double(request):
    with jax.enable_x64("single" not in request.node.name):
        yield


def nearest(points, row, wanted):
    """The fixed point of a row of `points` that lies next to the one wanted."""
    i = int(np.nanargmin(np.abs(np.asarray(points.q[row]) - wanted)))
    return jax.tree.map(lambda x: x[row, i], points)


@pytest.mark.parametrize(
    "name", ["tanh", "gelu", *(pytest.param(name, marks=pytest.mark.slow) for name in ("elu", "erf"))]
)
def test_reference(name):
    rows = ROWS[name][-8:]  # eight at a time: tests of as many share a program
    weights, biases = (np.array([row[key] for row in rows]) for key in ("sigma_w2", "sigma_b2"))
    points = mf.fixed_points(ACTIVATIONS[name], weight_variance=weights, bias_variance=biases)
    for i, row in enumerate(rows):
        point = nearest(points, i, row["q_star"])
        # What twelve digits of q and chi leave of the depth scales, near the critical line.
        sharp = 1e-9 / min(abs(1 - row["chi_q"]), abs(1 - row["chi_1"]), 1)
        for field, key in [("q", "q_star"), ("chi_1", "chi_1"), ("chi_q", "chi_q"), ("c", "c_star")]:
            if row[key] is not None:
                assert float(getattr(point, field)) == pytest.approx(row[key], rel=sharp, abs=sharp), (
                    row,
                    field,
                )
        for field in ("xi_q", "xi_c"):
            if row[field] is not None:
                assert float(getattr(point, field)) == pytest.approx(row[field], rel=10 * sharp + 1e-8), (
                    row,
                    field,
                )
        assert bool(point.stable) == row["q_stable"]
        if not row.get("ill_conditioned"):
            assert point.phase == row["phase"]


def test_relu_by_hand():
    weights, biases = jnp.array([0.5, 1.0, 1.9, 2.0, 2.0, 2.5]), jnp.array([0.5, 0.1, 0.1, 0.0, 0.1, 0.0])
    points = mf.fixed_point("relu", weight_variance=weights, bias_variance=biases)
    np.testing.assert_allclose(points.q, [2 / 3, 0.2, 2.0, 1.0, np.inf, np.inf], rtol=1e-10)
    np.testing.assert_allclose(points.chi_1, weights / 2, rtol=1e-11)
    assert points.phase.tolist() == ["ordered"] * 3 + ["critical"] * 2 + ["chaotic"]
    assert points.stable.tolist() == [True] * 3 + [False] * 3
    np.testing.assert_allclose(points.c[:4], 1.0)
    assert np.isnan(points.c[4:]).all()
    np.testing.assert_allclose(points.xi_c[:3], -1 / np.log(weights[:3] / 2), rtol=1e-9)


def gelu_roots(weight_variance, bias_variance):
    """Fixed points above zero by the closed form, on a grid that is fine enough to tell them apart."""
    q = np.geomspace(1e-9, 1e9, 400_001)
    excess = weight_variance * oracles.gelu_second_moment(q) + bias_variance - q
    return q[:-1][np.sign(excess[1:]) != np.sign(excess[:-1])]


def test_gelu_has_several_fixed_points():
    """About the half-stable point at (1.983058, .172922), q = 3.561553, where roots are born in pairs."""
    weights = jnp.array([1.5, 2.2, 3.0, 5.0, 1.9825, 1.9825, 1.9825, 2.0])
    biases = jnp.array([0.05, 0.05, 0.0, 0.01, 0.1731, 0.1735, 0.17331, 0.1])
    points = mf.fixed_points(ACTIVATIONS["gelu"], weight_variance=weights, bias_variance=biases, size=5)
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        found = np.asarray(points.q[i])[~np.isnan(points.q[i])]
        wanted = gelu_roots(float(weight), float(bias))
        assert len(found[found > 0]) == len(wanted), (weight, bias)
        np.testing.assert_allclose(found[found > 0], wanted, rtol=1e-4)
        stable = np.asarray(points.stable[i])[: len(found)]
        # Of increasing maps, stable and unstable fixed points take turns.
        assert (stable[1:] != stable[:-1]).all()


@pytest.mark.parametrize("name", ["gelu", pytest.param("silu", marks=pytest.mark.slow)])
def test_no_unstable_point_is_reached(name):
    """Between 2 and 4, no biases: zero is stable, the other point is not, and beyond it signals explode."""
    weights = jnp.array([2.2, 3.0, 3.9])
    low, high = (
        mf.fixed_point(name, weight_variance=weights, bias_variance=0.0, initial_q=q) for q in (1e-3, 1e3)
    )
    np.testing.assert_array_equal(low.q, 0.0)
    np.testing.assert_array_equal(high.q, np.inf)
    np.testing.assert_allclose(low.chi_1, weights / 4, rtol=1e-10)
    assert low.stable.all()
    assert low.phase.tolist() == ["ordered"] * 3


@pytest.mark.slow
def test_the_start_is_kept_where_it_is_a_fixed_point():
    for name, chi_q in (("gelu", 1.14406319687), (jnp.tanh, 0.461070830478)):
        weight = 1 / mf.variance_map(name, 1.0, weight_variance=1.0, bias_variance=0.0)
        point = mf.fixed_point(name, weight_variance=weight, bias_variance=0.0)
        assert float(point.q) == pytest.approx(1.0, rel=1e-10)
        assert float(point.chi_q) == pytest.approx(chi_q, rel=1e-10)
        assert bool(point.stable) == (chi_q < 1)


@pytest.mark.slow
def test_a_step_is_always_chaotic():
    point = mf.fixed_point(lambda x: jnp.where(x > 0, 1.0, 0.0), weight_variance=1.0, bias_variance=0.1)
    assert float(point.chi_1) == math.inf
    assert point.phase == "chaotic"
    c = float(point.c)
    assert 0.6 * c == pytest.approx(0.5 - math.acos(c) / (2 * math.pi) + 0.1, rel=1e-9)


def test_derivatives_against_finite_differences():
    def quantities(step):
        point = mf.fixed_point(jnp.tanh, weight_variance=2.2 + step, bias_variance=0.1 - 0.3 * step)
        return jnp.stack([point.q, point.c, point.chi_1, point.xi_q, point.xi_c])

    _, slopes = jax.jvp(quantities, (0.0,), (1.0,))
    low, high = quantities(-1e-4), quantities(1e-4)
    np.testing.assert_allclose(slopes, (high - low) / 2e-4, rtol=3e-6)


@pytest.mark.slow
def test_reverse_mode():
    def scale(variances):
        return mf.fixed_point("erf", weight_variance=variances[0], bias_variance=variances[1]).xi_c

    at = jnp.array([2.2, 0.1])
    np.testing.assert_allclose(jax.jit(jax.grad(scale))(at), jax.jacfwd(scale)(at), rtol=1e-9)


def test_single_precision():
    row = next(row for row in ROWS["tanh"] if (row["sigma_w2"], row["sigma_b2"]) == (2.0, 0.05))
    point = mf.fixed_point(jnp.tanh, weight_variance=2.0, bias_variance=0.05)
    assert point.q.dtype == jnp.float32
    for field, key in [("q", "q_star"), ("chi_1", "chi_1"), ("c", "c_star"), ("xi_c", "xi_c")]:
        assert float(getattr(point, field)) == pytest.approx(row[key], rel=2e-5)
    assert point.phase == "chaotic"


def test_size():
    with pytest.raises(ValueError, match="`size` must be given under a transformation"):
        jax.jit(lambda w: mf.fixed_points("relu", weight_variance=w, bias_variance=0.1))(1.0)
    with pytest.raises(ValueError, match="`size` must be an integer of at least 0"):
        mf.fixed_points("relu", weight_variance=1.0, bias_variance=0.1, size=-1)


def wavy(x):
    """f² = x² (1 + a sin(log x²)): E f² = q (1 + a Im(q^i E |z|^(2 + 2i))), a spiral."""
    power = jnp.where(x == 0, 1.0, x * x)
    return jnp.sign(x) * jnp.sqrt(power * (1 + 0.5 * jnp.sin(jnp.log(power))))


def test_no_root_is_lost():
    """There were eight at most, without a word; of a spiral there are more as far as it is followed."""
    moment = 2 ** (1 + 1j) * scipy.special.gamma(1.5 + 1j) / math.sqrt(math.pi)
    wanted = np.exp(np.arange(-9, 3) * math.pi - np.angle(moment))
    points = mf.fixed_points(wavy, weight_variance=1.0, bias_variance=0.0)
    q = np.asarray(points.q)
    inside = (q > wanted[0] / 2) & (q < wanted[-1] * 2)
    np.testing.assert_allclose(q[inside], wanted, rtol=1e-8)
    assert q[0] == 0
    stable = np.asarray(points.stable)[inside]
    assert (stable[1:] != stable[:-1]).all()  # they take turns
    same = jax.jit(lambda w: mf.fixed_points(wavy, weight_variance=w, bias_variance=0.0, size=30).q)(1.0)
    np.testing.assert_allclose(same[: q.size], q, rtol=1e-12)
    assert np.isnan(same[q.size :]).all()
    two = mf.fixed_points(wavy, weight_variance=1.0, bias_variance=0.0, size=2)
    np.testing.assert_allclose(two.q, q[:2], rtol=1e-12)
