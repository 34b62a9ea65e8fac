"""Every member draws from the law it declares, in every precision, and its variance is the exact one."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

import jinit
from jinit.initializers import _laws as laws
from jinit.initializers import _statistics as statistics

from .members import ALL, FIXED, NAMES, RANDOM

KEY = jax.random.key(11)
DTYPES = [jnp.float32, jnp.bfloat16, jnp.float8_e5m2]


def checks(init, shape, dtype, **declared):
    """Moments and law only; the rest of `check_initializer` is tested where it costs less."""
    draws = statistics.Draws(init, shape, jnp.dtype(dtype), KEY, 20_000)
    wanted = {"mean": None, "variance": None, "law": None} | declared
    return list(statistics.moments_and_law(draws, statistics.declared_law(draws, **wanted)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("init", "shape"), RANDOM, ids=NAMES[: len(RANDOM)])
def test_law(init, shape, dtype):
    results = checks(init, shape, dtype)
    assert [check.passed for check in results] == [True] * 3, "\n".join(check.detail for check in results)


@pytest.mark.parametrize(("init", "shape"), RANDOM[:6] + RANDOM[-5:])
def test_a_wrong_law_is_noticed(init, shape):
    law = init.law(shape)
    wrong = scipy.stats.norm(law.mean + 0.1 * math.sqrt(law.variance), 1.1 * math.sqrt(law.variance))
    assert [check.passed for check in checks(init, shape, jnp.float32, law=wrong)] == [False] * 3


@pytest.mark.parametrize(("init", "shape"), FIXED, ids=NAMES[len(RANDOM) :])
def test_moments_of_what_is_not_random(init, shape):
    filled = np.asarray(init(None, shape), np.float64)
    assert init.mean(shape) == pytest.approx(filled.mean(), rel=1e-6)
    assert init.variance(shape) == pytest.approx(filled.var(), rel=1e-6)
    assert init.law(shape).variance == pytest.approx(filled.var(), rel=1e-6)


@pytest.mark.parametrize(("init", "shape"), ALL, ids=NAMES)
def test_moments_are_those_of_the_law(init, shape):
    law = init.law(shape)
    assert isinstance(init.variance(shape), float)
    assert init.variance(shape) == pytest.approx(law.variance, rel=1e-12, abs=1e-15)
    assert init.mean(shape) == pytest.approx(law.mean, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(
    ("init", "shape", "variance"),
    [
        (jinit.he_normal(), (3, 3, 16, 32), 2 / 144),
        (jinit.he_normal(negative_slope=0.5, mode="fan_out"), (3, 3, 16, 32), 2 / 1.25 / 288),
        (jinit.he_uniform(groups=4, mode="fan_out"), (3, 3, 16, 32), 2 / 72),
        (jinit.glorot_uniform(), (30, 50), 2 / 80),
        (jinit.lecun_normal(0, (1, 2)), (512, 8, 64), 1 / 512),
        (jinit.lecun_normal(batch_axis=0), (8, 512, 64), 1 / 512),
        (jinit.variance_scaling(3.0, "fan_geo_avg", "normal"), (16, 64), 3 / 32),
        (jinit.fan_in_uniform(), (10, 7), 1 / 30),
        (jinit.fan_in_uniform(fan=10), (7,), 1 / 30),
        (jinit.uniform(0.3), (4,), 0.09 / 12),
        (jinit.uniform(minval=-1.0, maxval=2.0), (4,), 0.75),
        (jinit.normal(0.3, mean=4.0), (4,), 0.09),
        (jinit.orthogonal(2.0), (4, 20, 6), 4 / 80),
        (jinit.orthogonal(2.0, batch_axis=0), (4, 20, 6), 4 / 20),
        (jinit.orthogonal(preserve="second_moment"), (20, 80), 4 / 80),
        (jinit.orthogonal(preserve="second_moment"), (80, 20), 1 / 80),
        (jinit.delta_orthogonal(3.0), (3, 5, 16, 32), 9 / 32 / 15),
        (jinit.identity(2.0), (4, 8), 4 / 8 - 4 / 64),
        (jinit.dirac(), (3, 4, 4), 1 / 12 - 1 / 144),
        (jinit.sparse(nonzeros=15, stddev=1.0), (100, 7), 0.15),
        (jinit.sparse(0.9), (100, 7), 1 / 100),
        (jinit.sparse(0.95, 0.3), (10, 7), 0.09 / 10),  # ceil(9.5) of 10 would be all: one stays
        (jinit.positive(jinit.normal(0.5)), (4,), 0.25 * (1 - 2 / math.pi)),
        (jinit.positive(jinit.uniform(minval=-1.0, maxval=1.0)), (4,), 1 / 12),
        (jinit.constant(3.0), (4,), 0.0),
        (jinit.constant(1 + 2j), (4,), 0.0),
        (jinit.constant((0.0, 2j)), (3, 2), 1.0),
    ],
)
def test_variance_by_hand(init, shape, variance):
    assert init.variance(shape) == pytest.approx(variance, rel=1e-12, abs=1e-16)


@pytest.mark.parametrize(
    ("lower", "upper"),
    [(-2, 2), (-1, 3), (0, math.inf), (-math.inf, 0.5), (3, 3.001), (6, 8), (-40, 40), (9, 30)],
)
def test_truncated_moments(lower, upper):
    law = jinit.truncated_normal(0.5, lower=lower, upper=upper, mean=0.25).law((3,))
    truth = scipy.stats.truncnorm(lower, upper, 0.25, 0.5)
    assert law.mean == pytest.approx(truth.mean(), rel=1e-9)
    low, high = max(lower, -40), min(upper, 40, max(lower, 0) + 40)
    peak = min(max(0, low), high)
    points = np.clip(np.linspace(peak - 5, peak + 5, 9), low, high)

    def integral(function):
        def density(z):
            return function(z) * math.exp((peak - z) * (peak + z) / 2)

        edges = np.unique([low, *points, high])
        panels = itertools.pairwise(edges)
        return sum(scipy.integrate.quad(density, a, b, epsabs=0, epsrel=1e-12)[0] for a, b in panels)

    mass = integral(lambda z: 1.0)
    mean = integral(lambda z: z - peak) / mass
    assert law.variance == pytest.approx(0.25 * integral(lambda z: (z - peak - mean) ** 2) / mass, rel=1e-9)
    corrected = jinit.truncated_normal(0.5, None, lower, upper, after_truncation=True)
    assert corrected.variance((3,)) == pytest.approx(0.25, rel=1e-9)


@pytest.mark.parametrize(
    "law",
    [
        laws.Uniform(-1.0, 3.0),
        laws.Normal(0.3, 2.0),
        laws.TruncatedNormal(0.3, 2.0, -1.0, 0.7),
        laws.Sphere(5, 2.0),
        laws.Sphere(5, 2.0, absolute=True),
        laws.Sphere(1, 2.0),
        laws.Uniform(-1.0, 3.0).folded(),
        laws.Normal(0.3, 2.0).folded(),
        laws.TruncatedNormal(-0.3, 2.0, -1.0, 0.7).folded(),
        laws.Mixture(((0.25, laws.Point(-0.5)), (0.75, laws.Normal(1.0, 0.1)))),
        laws.Rounded(laws.Normal(0.3, 2.0), jnp.float8_e4m3fn),
    ],
    ids=lambda law: str(law).split(" object")[0],
)
def test_moments_agree_with_the_distribution_function(law):
    edges = np.linspace(-20.0, 20.0, 400_001)
    masses = np.diff(law.below(edges))
    middles = (edges[1:] + edges[:-1]) / 2
    assert masses.sum() == pytest.approx(1.0, abs=1e-12)
    for k in (1, 2, 3, 4):
        assert law.moment(k, 0.2) == pytest.approx(masses @ (middles - 0.2) ** k, rel=2e-4, abs=1e-3)


@pytest.mark.slow
def test_complex_variance():
    for init, shape in [
        (jinit.he_normal(), (60, 50)),
        (jinit.lecun_uniform(), (60, 50)),
        (jinit.normal(0.3, mean=1.0), (60, 50)),
        (jinit.orthogonal(1.5), (60, 50)),
    ]:
        mean, variance, _ = checks(init, shape, jnp.complex64)
        assert mean.passed, mean.detail
        assert variance.passed, variance.detail
