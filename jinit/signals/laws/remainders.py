"""What a sum differs by from its mean: a normal, or of a sum of few numbers of one sign, one of that sign."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from jinit._typing import Array
from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.law import Law, plus_normal, rule
from jinit.signals.laws.roots import Root

# Of a mean over its deviation, the square: of more a sum of positive numbers is as good as normal; of less
# than the other it is next to nothing almost always, whatever its shape.
NORMAL, LEAST = 10.0, 0.1
# Shapes of gamma distributions that are told apart, for each factor of e.
STEPS = 50


def plus_remainder(law: Law, entries: Law, variance: Array, root: Root, size: int) -> Law:
    """`law`, the mean of sums of `entries`, and what these differ by from it, of such a variance.

    Sums of numbers of one sign are gamma distributed: exactly those of squares of normals, and never of the
    other sign, so that roots and logarithms of them stay what they are.
    """
    sign = _sign(entries)
    if not sign or is_traced(law.nodes) or is_traced(variance):
        return plus_normal(law, variance, root, size)
    mean = np.abs(np.asarray(law.nodes, np.float64))
    spread = np.broadcast_to(np.asarray(variance, np.float64), mean.shape)
    if not np.any((spread > 0) & (mean**2 < NORMAL * spread)) or not np.all(mean > 0):
        return plus_normal(law, variance, root, size)
    nodes, weights = rule(size, law.nodes.dtype)
    found = sign * mean[..., None] * _quantiles(spread / mean**2, np.asarray(nodes), np.asarray(weights))
    return dataclasses.replace(
        law,
        nodes=xp.asarray(found, law.nodes.dtype),
        weights=(*law.weights, weights),
        roots=(*law.roots, root),
    )


def _sign(entries: Law) -> int:
    """Of all entries, if it is one."""
    x = entries.nodes
    if is_traced(x) or entries.is_linear or not jnp.issubdtype(x.dtype, jnp.floating) or not np.any(x):
        return 0
    return int(np.all(x >= 0)) - int(np.all(x <= 0))


def _quantiles(variance: np.ndarray, z: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of gamma distributed numbers of mean one and these variances, where the standard normal is `z`."""
    from scipy import special  # it takes long to import, and comes with JAX

    steps = np.round(STEPS * np.log(np.maximum(variance, 1e-12))).astype(int)
    kinds, of = np.unique(steps, return_inverse=True)
    shape = np.exp(-kinds / STEPS)[:, None]
    shape = np.maximum(shape, LEAST)
    low = special.gammaincinv(shape, special.ndtr(z)) / shape
    found = np.where(z > 0, special.gammainccinv(shape, special.ndtr(-z)) / shape, low)
    found = found[of.reshape(variance.shape)]
    found = found / (found @ weights)[..., None]
    has = ((found - 1) ** 2 @ weights)[..., None]
    exact = 1 + (found - 1) * np.sqrt(variance[..., None] / np.where(has > 0, has, 1))
    fits = exact.min(axis=-1, keepdims=True) > 0
    wide, normal = variance[..., None] * LEAST > 1, 1 + z * np.sqrt(variance[..., None])
    return np.where(wide, normal, np.where(fits, exact, found))
