"""Truth for the tests: closed forms, QUADPACK told where the kinks are, and the reference file.

`data/meanfield.json` was computed apart from jinit: adaptive QUADPACK split at kinks, Brent's method for
roots, cross-checked with mpmath and closed forms; its `method` says how. Twelve digits are given.
"""

from __future__ import annotations

import itertools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate
import scipy.special

PLAIN = {"weight_variance": 1.0, "bias_variance": 0.0}
ACCURACY = 1e-9  # 1e-8 is promised
REFERENCE = json.loads((pathlib.Path(__file__).parent / "data" / "meanfield.json").read_text())


def leaky(x):
    return jax.nn.leaky_relu(x, 0.1)


ACTIVATIONS = {
    "tanh": jnp.tanh,
    "erf": jax.scipy.special.erf,
    "relu": jax.nn.relu,
    "leaky_relu_0.1": leaky,
    "gelu": "gelu",
    "elu": jax.nn.elu,
}


def three_kinks(x, np):
    return np.where(x < -0.7, -0.3 * x, np.where(x < 0.2, 0.21, np.where(x < 1.1, x * x + 0.17, 1.38)))


# Written by nobody but us: the function of (x, jnp or np), its kinks, and its derivative between them.
UNSEEN = {
    "x tanh exp x": (
        lambda x, np: x * np.tanh(np.exp(x)),
        [],
        lambda x: np.tanh(np.exp(x)) + x * np.exp(x) / np.cosh(np.minimum(np.exp(x), 300.0)) ** 2,
    ),
    "three kinks": (
        three_kinks,
        [-0.7, 0.2, 1.1],
        lambda x: np.where(x < -0.7, -0.3, np.where((x > 0.2) & (x < 1.1), 2 * x, 0.0)),
    ),
    "step": (lambda x, np: np.where(x > 0.123456, 1.0, -0.2), [0.123456], lambda x: 0.0 * x),
    "square": (lambda x, np: x * x, [], lambda x: 2 * x),
    "far kink": (lambda x, np: abs(x - math.pi), [math.pi], lambda x: np.sign(x - math.pi)),
    "two scales": (
        lambda x, np: x + 0.1 * np.tanh(50 * (x - 0.3)),
        [0.3],
        lambda x: 1 + 5 / np.cosh(np.clip(50 * (x - 0.3), -300, 300)) ** 2,
    ),
}


def density(z):
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def expectation(function, kinks=()):
    """E[function(z)] by QUADPACK."""
    edges = sorted({*np.linspace(-13, 13, 27) + 0.01, *(k for k in kinks if abs(k) < 13)})
    parts = [
        scipy.integrate.quad(lambda z: float(function(z)) * density(z), a, b, epsabs=1e-15, epsrel=1e-12)[0]
        for a, b in itertools.pairwise(edges)
    ]
    return math.fsum(parts)


def second_moment(function, kinks, q):
    root = math.sqrt(q)
    return expectation(lambda z: function(root * z, np) ** 2, [k / root for k in kinks])


def kernel(function, kinks, q, c):
    """E[f(h1) f(h2)] by 40-point Gauss-Legendre on panels for both, split at the kinks of either."""
    root, blur = math.sqrt(q), math.sqrt(1 - c * c)
    points, weights = np.polynomial.legendre.leggauss(40)

    def panels(more):
        edges = np.unique(np.clip([*np.linspace(-12, 12, 13), *more], -12, 12))
        middle, half = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
        z = (middle[:, None] + half[:, None] * points).ravel()
        return z, (half[:, None] * weights).ravel() * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    blurred = [k / root + blur * t for k in (*kinks, *(-k for k in kinks)) for t in np.linspace(-9, 9, 19)]
    outer = panels([*(k / root for k in kinks), *blurred])
    total = 0.0
    for z, weight in zip(*outer, strict=True):
        y, inner = panels([(k / root - c * z) / blur for k in kinks])
        given = float(inner @ function(root * (c * z + blur * y), np))
        total += weight * float(function(np.float64(root * z), np)) * given
    return total


def arc_cosine(c):
    """E[relu(h1) relu(h2)] at q = 1."""
    return (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / (2 * math.pi)


def gelu_second_moment(q):
    """E[gelu(h)²]."""
    inner = np.arcsin(q / (1 + q)) + 2 * q / ((1 + q) * np.sqrt(1 + 2 * q))
    return q / 4 + q / (2 * math.pi) * inner
