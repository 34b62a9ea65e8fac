"""Low precision: sampled in float32, rounded once. JAX's own samples show what the tests would catch."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit

from .members import NAMES, RANDOM

KEY = jax.random.key(5)
LOW = [
    jnp.bfloat16, jnp.float16, jnp.float8_e3m4, jnp.float8_e4m3, jnp.float8_e4m3b11fnuz, jnp.float8_e4m3fn,
    jnp.float8_e4m3fnuz, jnp.float8_e5m2, jnp.float8_e5m2fnuz,
]  # fmt: skip


@pytest.mark.parametrize(("init", "shape"), RANDOM, ids=NAMES[: len(RANDOM)])
def test_it_is_the_float32_sample_rounded(init, shape):
    sample = np.asarray(init(KEY, shape))
    low = np.asarray(init(KEY, shape, jnp.bfloat16))
    np.testing.assert_array_equal(low, sample.astype(low.dtype))


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("stddev", [0.1, 1e4, 1e30])
def test_rounding_saturates(dtype, stddev):
    drawn = np.asarray(jinit.normal(stddev)(KEY, (60, 50), dtype)).astype(np.float64)
    largest = float(jnp.finfo(dtype).max)
    assert np.isfinite(drawn).all()
    assert np.abs(drawn).max() <= largest
    expected = np.clip(np.asarray(jinit.normal(stddev)(KEY, (60, 50))), -largest, largest)
    np.testing.assert_array_equal(drawn, expected.astype(jnp.dtype(dtype)).astype(np.float64))


@pytest.mark.parametrize("dtype", [*LOW, jnp.float32])
def test_positive_stays_positive(dtype):
    drawn = jinit.positive(jinit.normal(1e-6))(KEY, (60, 50), dtype)
    assert bool((drawn.astype(jnp.float32) > 0).all())


def bias(sample):
    """The mean in units of its own standard error."""
    values = np.asarray(sample).astype(np.float64)
    return abs(values.mean() / values.std() * math.sqrt(values.size))


@pytest.mark.parametrize("name", ["lecun_normal", "lecun_uniform", "he_normal", "normal"])
@pytest.mark.slow
def test_no_bias_and_many_values(name):
    shape = (1024, 512)
    ours = getattr(jinit, name)()(KEY, shape, jnp.bfloat16)
    theirs = getattr(jax.nn.initializers, name)()(KEY, shape, jnp.bfloat16)
    assert bias(ours) < 4.5 < bias(theirs)
    assert len(np.unique(np.asarray(ours))) > 1000 > len(np.unique(np.asarray(theirs)))


def test_variances_that_float16_cannot_hold():
    """A fan of 5e7 gives a variance of 2e-8, zero in float16, but a deviation of 1.4e-4, which it holds."""
    arguments, shape = (8 * 2e-8, "fan_in", "normal"), (8, 3000)
    assert not jax.nn.initializers.variance_scaling(*arguments)(KEY, shape, jnp.float16).any()
    init = jinit.variance_scaling(*arguments)
    drawn = np.asarray(init(KEY, shape, jnp.float16)).astype(np.float64)
    assert abs(drawn.var() / init.variance(shape) - 1) < 5 * math.sqrt(2 / drawn.size)


def second_moments(dtype, depth=20, width=1024):
    """E[x^2] of the last layer of a ReLU network that computes in float32, weights rounded to `dtype`."""
    init = jinit.he_normal() if dtype is not None else jax.nn.initializers.he_normal()
    keys = jax.random.split(KEY, depth + 1)
    x = jax.random.normal(keys[0], (64, width))
    for key in keys[1:]:
        w = init(key, (width, width), dtype or jnp.bfloat16).astype(jnp.float32)
        x = jax.nn.relu(x @ w)
    return float(jnp.mean(x**2))


@pytest.mark.slow
def test_twenty_relu_layers_keep_their_signal():
    """Rounding multiplies each weight by 1 + e, |e| <= 2^-8, e uncorrelated with the signal.

    So the logarithm of E[x^2] gains a term of deviation below 2^-8 a layer, 20 of them independent. JAX's
    sampler loses three orders of magnitude.
    """
    single, half, theirs = second_moments(jnp.float32), second_moments(jnp.bfloat16), second_moments(None)
    assert abs(math.log(half / single)) < 5 * math.sqrt(20) * 2**-8
    assert theirs < 0.01 * single
