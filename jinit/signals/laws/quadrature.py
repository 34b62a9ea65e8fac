"""Nodes and weights for the standard normal, also for functions with kinks."""

from __future__ import annotations

import functools
import math

import numpy as np

POINTS = 4  # of each panel
REACH = 9.0
SLOPE = 0.3
BESIDE = 1e-3  # zero
DEVIATIONS = 3  # nodes of a standard deviation


@functools.cache
def gaussian(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights, float64, of a rule for the standard normal; its variance is exactly one.

    Gauss–Hermite up to 15 nodes; two nodes are ±1, six are those of five with that at zero as two beside it,
    so that a jump there is seen. From 16 on, a multiple of 8, Gauss–Legendre on panels that
    are narrow in the middle, `z = 9 (0.3 y + 0.7 y³)`. A kink at zero, an end of a panel, costs nothing; one
    elsewhere about `1/size²` and a jump about `1/size`, where a second root does not smooth them.
    """
    if size == 6:
        nodes, weights = gaussian(5)
        nodes = np.concatenate([nodes[:2], [-BESIDE, BESIDE], nodes[3:]])
        weights = np.concatenate([weights[:2], [weights[2] / 2] * 2, weights[3:]])
        return nodes / np.sqrt((weights * nodes**2).sum()), weights
    if size < 16:
        nodes, weights = np.polynomial.hermite_e.hermegauss(size)
        return nodes, weights / weights.sum()
    points, lengths = np.polynomial.legendre.leggauss(POINTS)
    panels = size // POINTS
    y = ((2 * np.arange(panels)[:, None] + points + 1) / panels - 1).ravel()
    nodes = REACH * (SLOPE * y + (1 - SLOPE) * y**3)
    weights = np.tile(lengths, panels) * np.exp(-(nodes**2) / 2) * (SLOPE + 3 * (1 - SLOPE) * y**2)
    weights = weights / weights.sum()
    return nodes / np.sqrt((weights * nodes**2).sum()), weights


@functools.lru_cache(maxsize=256)
def deviations(freedom: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights for `s`, where `s²` is `χ²/freedom` of so many degrees of freedom, more than two.

    Gauss–Laguerre: exact for `1/s²`, one and `s²`. A last node, of no weight, is at one.
    """
    half, points = freedom / 2, np.arange(DEVIATIONS)
    tilted = half - 2  # the weight function is that of `t` times `1/t`
    diagonal, beside = 2 * points + tilted + 1, np.sqrt(points[1:] * (points[1:] + tilted))
    squares, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
    weights = vectors[0] ** 2 * squares
    return np.sqrt([*squares / half, 1.0]), np.array([*weights / weights.sum(), 0.0])


@functools.lru_cache(maxsize=256)
def of_few(freedom: float) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles of the standard normal, and of entries of a normal sample less its mean over its deviation.

    The square of the latter over `freedom`, one less than there are entries, is Beta(1/2, (freedom - 1)/2).
    """
    angles = np.linspace(-np.pi / 2, np.pi / 2, 4001)
    density = np.cos(angles) ** (freedom - 2)
    below = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    normals = np.linspace(-REACH, REACH, 1801)
    shares = np.array([math.erfc(-z / math.sqrt(2)) / 2 for z in normals])
    return normals, np.sqrt(freedom) * np.sin(np.interp(shares, below / below[-1], angles))
