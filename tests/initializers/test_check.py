"""`check_initializer` passes what is right and fails what is broken, each break by the check made for it."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import pytest
import scipy.stats

import jinit
from jinit.initializers import _statistics as statistics

KEY = jax.random.key(1)
SHAPE = (64, 32)
GOOD = [
    (jinit.he_normal(), SHAPE, jnp.float32),
    pytest.param(jinit.sparse(nonzeros=9), SHAPE, jnp.float8_e4m3fn, marks=pytest.mark.slow),
    pytest.param(jinit.normal(0.5, mean=1.0), SHAPE, jnp.complex64, marks=pytest.mark.slow),
    (jinit.identity(), SHAPE, jnp.float32),
    (jinit.constant(0.1), SHAPE, jnp.bfloat16),
    (jinit.zeros, SHAPE, jnp.int32),
    (jinit.normal(), (3,), jnp.float32),
    (jinit.normal(), (0, 8), jnp.float32),
]


@pytest.fixture
def one_by_one(monkeypatch):
    """Leaves out the checks of transformations, which have to compile."""
    monkeypatch.setattr(statistics, "transforms", lambda draws: iter(()))


@pytest.mark.parametrize(("init", "shape", "dtype"), GOOD, ids=str)
def test_passes_what_is_right(init, shape, dtype):
    report = jinit.check_initializer(init, shape, dtype, samples=20_000)
    assert report.passed, str(report)


@pytest.mark.usefixtures("one_by_one")
def test_a_stranger_of_no_declared_law():
    report = jinit.check_initializer(jax.nn.initializers.lecun_normal(), SHAPE, samples=20_000)
    assert report.passed, str(report)
    assert [(check.name, check.detail) for check in report.checks if check.passed is None] == [
        (name, "not declared") for name in ("mean", "variance", "law")
    ]
    assert jinit.check_initializer(jax.nn.initializers.zeros, SHAPE, variance=0.0, mean=0.0).passed


@pytest.mark.usefixtures("one_by_one")
def test_a_stranger_of_declared_law():
    init, law = jax.nn.initializers.normal(0.5), scipy.stats.norm(0, 0.5)
    assert jinit.check_initializer(init, SHAPE, law=law)["law"].passed
    assert jinit.check_initializer(init, SHAPE, law=law)["variance"].passed
    failed = jinit.check_initializer(init, SHAPE, law=scipy.stats.uniform(-0.5, 1.0)).failures
    assert [check.name for check in failed] == ["variance", "law"]


def normal(key, shape, dtype=jnp.float32, out_sharding=None):
    return jax.random.normal(key, shape, dtype)


def ignores_its_key(key, shape, dtype):
    return normal(jax.random.key(0), shape, dtype)


def nearly_ignores_its_key(key, shape, dtype):
    return normal(jax.random.key(0), shape, dtype) + 0.5 * normal(key, shape, dtype)


def differs_under_jit(key, shape, dtype):
    return normal(key, shape, dtype) * (
        1.0 if isinstance(jax.random.key_data(key), jax.core.Tracer) else 1.01
    )


def cannot_be_mapped(key, shape, dtype):
    return normal(jax.random.key(int(jax.random.bits(key)) % 1000), shape, dtype)


def remembers(counter):
    return lambda key, shape, dtype: normal(key, shape, dtype) + next(counter)


BROKEN = [
    (lambda key, shape, dtype: normal(key, shape[::-1], dtype), {}, ["shape"]),
    (lambda key, shape, dtype: normal(key, shape, jnp.float16), {}, ["dtype"]),
    (lambda key, shape, dtype: jnp.log(normal(key, shape, dtype)), {}, ["finite"]),
    (ignores_its_key, {}, ["other keys, other values", "keys uncorrelated"]),
    (nearly_ignores_its_key, {}, ["keys uncorrelated"]),
    (remembers(itertools.count()), {}, ["same key, same values"]),
    (jax.nn.initializers.zeros, {}, ["other keys, other values"]),
    (normal, {"mean": 0.1}, ["mean"]),
    (normal, {"variance": 1.1}, ["variance"]),
    (normal, {"law": scipy.stats.norm(0.0, 1.1)}, ["variance", "law"]),
    (normal, {"mean": 0.0, "variance": 1.0, "law": scipy.stats.laplace(0, math.sqrt(0.5))}, ["law"]),
]  # fmt: skip


@pytest.mark.parametrize("init", [differs_under_jit, cannot_be_mapped])
def test_fails_what_does_not_transform(init):
    names = ["jit = eager", "vmap over keys = loop"]
    names += (
        ["sharded = whole"] if jax.device_count() > 1 else []
    )  # on an accelerator there may be one device
    assert [check.name for check in jinit.check_initializer(init, SHAPE, samples=4000).failures] == names


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.parametrize(("init", "declared", "names"), BROKEN)
def test_fails_what_is_broken(init, declared, names):
    report = jinit.check_initializer(init, SHAPE, samples=20_000, **declared)
    assert not report.passed
    failed = [check.name for check in report.failures]
    assert failed[: len(names)] == names, str(report)


@pytest.mark.usefixtures("one_by_one")
def test_finds_the_bias_of_jax_in_bfloat16():
    """JAX's own sampler, given the law it means to draw from."""
    shape = (512, 256)
    theirs = jax.nn.initializers.lecun_normal()
    law = jinit.lecun_normal().law(shape)
    report = jinit.check_initializer(theirs, shape, jnp.bfloat16, mean=0.0, variance=1 / 512)
    assert [check.name for check in report.failures] == ["mean"]
    assert jinit.check_initializer(theirs, shape, law=law).passed
    assert jinit.check_initializer(jinit.lecun_normal(), shape, jnp.bfloat16).passed


class Lying(type(jinit.normal())):
    """Declares another law than it draws from."""

    def _law(self, shape):
        return jinit.normal(0.011).law(shape)


@pytest.mark.usefixtures("one_by_one")
def test_finds_a_member_that_lies():
    report = jinit.check_initializer(Lying(0.01, 0.0, maker="normal"), SHAPE)
    assert [check.name for check in report.failures] == ["variance", "law"]


def test_report():
    report = jinit.check_initializer(normal, (5, 3), mean=3.0)
    lines = str(report).splitlines()
    assert len(lines) == len(report.checks)
    assert lines[0].split() == ["ok", "shape", "(5,", "3),", "asked", "for", "(5,", "3)"]
    assert "FAILED  mean" in str(report)
    assert report["sharded = whole"].passed is None
    why = "no axis of (5, 3) divides over" if jax.device_count() > 1 else "one device only"
    assert why in report["sharded = whole"].detail
    assert report["mean"].statistic is not None
    assert abs(report["mean"].statistic) > report["mean"].threshold == 5.0


def test_kolmogorov_p_value():
    ours, truth = statistics.kolmogorov_p_value, scipy.stats.kstwo.sf
    for distance, n in [(0.01, 1000), (0.05, 1000), (0.08, 1000), (0.02, 20_000)]:
        assert ours(distance, n) == pytest.approx(truth(distance, n), rel=0.03, abs=1e-6)
    assert ours(0.0, 100) == 1.0


@pytest.mark.parametrize(
    "make", [jinit.he_normal, jinit.uniform, jinit.dirac, jinit.zeros_init, jax.nn.initializers.he_normal]
)
def test_a_maker_is_no_initializer(make):
    with pytest.raises(
        TypeError, match=r"(?s)`jinit.check_initializer.*must be an initializer.*forget the \(\)"
    ):
        jinit.check_initializer(make, (8, 8))


def test_a_function_of_other_parameters_is_shown_which():
    with pytest.raises(TypeError, match=r"(?s)`init\(key, shape, dtype\)`.*function of these three"):
        jinit.check_initializer(lambda key, shape: jax.random.normal(key, shape), (8, 8))


@pytest.mark.parametrize("make", [jinit.he_normal, jinit.glorot_uniform, jinit.lecun_normal, jinit.normal])
@pytest.mark.slow
def test_complex_values_have_the_variance_declared(make):
    """JAX's own are off where the modulus is cut off; |z|² is exponential, cut at 4, over JAX's constant."""
    shape, report = (64, 32), jinit.check_initializer(make(), (64, 32), jnp.complex64)
    assert not report.failures, report
    ratio = make().variance(shape, jnp.complex64) / make().variance(shape)
    cut = scipy.stats.truncexpon(4).mean() / 0.95311164380491208**2
    expected = cut if make in (jinit.he_normal, jinit.lecun_normal) else 1.0
    assert ratio == pytest.approx(expected, rel=1e-12)
    assert make(dtype=jnp.complex64).variance(shape) == make().variance(shape, jnp.complex64)
