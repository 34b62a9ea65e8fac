"""Gains against reference values, closed forms, and SciPy told where the kinks are."""

from __future__ import annotations

import itertools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special

import jinit
from jinit.initializers._quadrature import gaussian_expectation

# Adaptive QUADPACK split at kinks, cross-checked with mpmath at 25 digits; 12 digits are given.
REFERENCE = json.loads((pathlib.Path(__file__).parent / "data" / "gains.json").read_text())


@pytest.mark.parametrize("name", REFERENCE)
def test_reference(name):
    stem, _, slope = name.rpartition("_")
    named = (stem, float(slope)) if stem == "leaky_relu" else (name,)
    assert jinit.gain(*named) == pytest.approx(REFERENCE[name], rel=1e-11)


def normal_above(a):
    return 0.5 * scipy.special.erfc(a / math.sqrt(2))


def stairs():
    steps = np.arange(-300, 300)
    return float(steps**2.0 @ (normal_above(steps / 7.3) - normal_above((steps + 1) / 7.3)))


CLOSED = {
    "cube": (lambda x: x**3, 15.0),
    "fifth": (lambda x: x**5, 945.0),
    "exp": (jnp.exp, math.exp(2)),
    "exp 3x": (lambda x: jnp.exp(3 * x), math.exp(18)),
    "exp x^2/5": (lambda x: jnp.exp(x * x / 5), 5**0.5),
    "sin 20x": (lambda x: jnp.sin(20 * x), (1 - math.exp(-800)) / 2),
    "sin 1000x": (lambda x: jnp.sin(1000 * x), 0.5),
    "|sin 30x|": (lambda x: jnp.abs(jnp.sin(30 * x)), (1 - math.exp(-1800)) / 2),
    "step": (lambda x: x > 0.123456, normal_above(0.123456)),
    "step just off a panel": (lambda x: jnp.where(x > 1e-4, 1.0, 0.0), normal_above(1e-4)),
    "step closer": (lambda x: jnp.where(x > 0.2500001, 1.0, 0.0), normal_above(0.2500001)),
    "sign": (jnp.sign, 1.0),
    "heaviside": (lambda x: jnp.heaviside(x, 0.5), 0.5),
    "stairs": (lambda x: jnp.floor(7.3 * x), stairs()),
    "pole": (lambda x: jnp.abs(x) ** -0.125, 2**-0.125 * math.gamma(0.375) / math.sqrt(math.pi)),
    "NumPy": (lambda x: np.abs(np.asarray(x)), 1.0),
}
QUADPACK = {
    "tanh 50x": (lambda x, np: np.tanh(50 * x), [0]),
    "steep": (lambda x, np: np.tanh(500 * (x - 0.7)), [0.7]),
    "kink": (lambda x, np: np.abs(x - 0.3), [0.3]),
    "two laws": (lambda x, np: np.where(x > math.pi / 10, x * x, -0.2 * x), [math.pi / 10]),
    "hard swish": (lambda x, np: x * np.clip(x + 3, 0, 6) / 6, [-3, 3]),
    "root": (lambda x, np: np.sqrt(np.abs(x)), [0]),
    "sinc": (lambda x, np: np.sin(x) / x, []),
    "spike": (lambda x, np: np.exp(-(((x - 0.31) / 0.003) ** 2)), [0.28, 0.3, 0.31, 0.32, 0.34]),
    "comb": (lambda x, np: np.maximum(np.maximum(0, x - 0.1), 7 * (x - 1.3)), [0.1, 1.5]),
}


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms(name):
    function, second_moment = CLOSED[name]
    assert jinit.gain(function) == pytest.approx(second_moment**-0.5, rel=1e-9)


@pytest.mark.parametrize("name", QUADPACK)
def test_quadpack(name):
    function, kinks = QUADPACK[name]
    edges = sorted({*np.linspace(-12, 12, 33) + 0.01, *kinks})

    def density(z):
        return function(z, np) ** 2 * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    truth = sum(
        scipy.integrate.quad(density, a, b, epsabs=1e-16, epsrel=1e-12, limit=500)[0]
        for a, b in itertools.pairwise(edges)
    )
    assert jinit.gain(lambda x: function(x, jnp)) == pytest.approx(truth**-0.5, rel=1e-9)


@pytest.mark.parametrize(
    ("function", "gain", "accuracy"),
    [
        (lambda x: jnp.tanh(x.astype(jnp.float32)), REFERENCE["tanh"], 1e-6),
        (lambda x: jnp.tanh(x.astype(jnp.float32)).astype(x.dtype), REFERENCE["tanh"], 1e-6),
        (lambda x: jnp.asarray(0.5, jnp.float32) * x, 2.0, 1e-6),
        (lambda x: jax.nn.relu(x.astype(jnp.bfloat16)), math.sqrt(2), 1e-3),
    ],
    ids=["float32", "float32 unseen", "float32 by promotion", "bfloat16"],
)
def test_functions_of_low_precision(function, gain, accuracy):
    assert jinit.gain(function) == pytest.approx(gain, rel=accuracy)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (jax.nn.softmax, "must be elementwise, but its value at one entry depends on the other entries"),
        (lambda x: x / jnp.std(x), "depends on the other entries"),
        (lambda x: jax.random.bernoulli(jax.random.key(0), 0.5, x.shape), "depends on the other entries"),
        (jax.nn.glu, "must be elementwise, but it turns an array of shape"),
        (jnp.sum, "must be elementwise, but it turns an array of shape"),
        (lambda x: 1.0, "must be elementwise, but it turns .* into a float"),
        (jnp.log, "must be finite, but its value at -11.* is nan"),
        (lambda x: 1 / x, "must be finite, but its integral .* diverges"),
        (lambda x: jnp.abs(x) ** -0.5, "must be finite, but its integral .* diverges"),
        (lambda x: jnp.exp(x * x / 4), "must be finite, but its integral .* diverges"),
        (lambda x: jnp.exp(x * x), "must be finite, but its integral .* diverges"),
        (lambda x: jnp.sin(1e9 * x), "varies too fast"),
        (jnp.zeros_like, "must not be zero everywhere"),
        (lambda x: jnp.sqrt(x.astype(complex)), "values are complex"),
        ("softmax", "must be elementwise"),
        ("rellu", "Did you mean 'relu'"),
    ],
)
def test_no_gain(function, text):
    with pytest.raises(ValueError, match=text):
        jinit.gain(function)


def test_neither_function_nor_name():
    with pytest.raises(TypeError, match="must be a function or the name of one"):
        jinit.gain(3)


def test_under_transformations():
    def scaled(x):
        return x * jinit.gain(jax.nn.relu) * jinit.gain(jnp.tanh) * jinit.gain("elu")

    wanted = math.sqrt(2) * REFERENCE["tanh"] * REFERENCE["elu"]
    assert float(jax.jit(scaled)(1.0)) == pytest.approx(wanted, rel=1e-6)
    assert float(jax.grad(scaled)(1.0)) == pytest.approx(wanted, rel=1e-6)


def test_no_state_is_left_behind():
    jinit.gain(jnp.tanh)
    assert jnp.ones(1).dtype == jnp.float32
    assert jnp.tanh(jnp.ones(1)).dtype == jnp.float32


def test_a_function_is_not_remembered():
    slope = 1.0

    def function(x):
        return slope * x

    assert jinit.gain(function) == pytest.approx(1.0)
    slope = 2.0
    assert jinit.gain(function) == pytest.approx(0.5)


@pytest.mark.parametrize(("mean", "stddev"), [(0.0, 1.0), (0.7, 0.3), (-2.0, 5.0), (0.0, 100.0), (0.4, 0.0)])
def test_other_gaussians(mean, stddev):
    found = gaussian_expectation(jax.nn.relu, mean=mean, stddev=stddev)
    if stddev == 0:
        truth = max(mean, 0.0)
    else:
        z = mean / stddev
        truth = mean * normal_above(-z) + stddev * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    assert found.value == pytest.approx(truth, rel=1e-11)
    assert abs(found.value - truth) <= max(found.error, 1e-12 * truth)


def test_for_activation():
    shape = (64, 32)
    assert jinit.for_activation("relu").variance(shape) == pytest.approx(2 / 64, rel=1e-12)
    assert jinit.for_activation("linear", "fan_out").variance(shape) == pytest.approx(1 / 32, rel=1e-12)
    assert jinit.for_activation(jnp.tanh) == jinit.for_activation("tanh")
    grouped = jinit.for_activation("selu", "fan_avg", "uniform", groups=4)
    assert grouped.variance(shape) == pytest.approx(1 / ((64 + 8) / 2), rel=1e-6)


def test_under_vmap_an_activation_with_its_own_derivative():
    scales = jnp.array([1.0, 2.0])
    gains = jax.vmap(lambda scale: scale * jinit.gain(jax.nn.relu))(scales)
    np.testing.assert_allclose(gains, math.sqrt(2) * np.asarray(scales), rtol=2**-23)
