"""Singular values of a matrix of independent entries: Marchenko-Pastur's bulk, Tracy-Widom's edge."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jinit._typing import Array

# Shifted gamma laws that have the first three moments of Tracy and Widom's: shape, scale, shift.
TRACY_WIDOM = {1: (46.446, 0.186054, 9.84801), 2: (79.6595, 0.101037, 9.81961)}


def edges(rows: int, columns: int) -> tuple[float, float]:
    """`|√rows − √columns|` and `√rows + √columns`: where singular values of unit-variance matrices end."""
    return abs(math.sqrt(rows) - math.sqrt(columns)), math.sqrt(rows) + math.sqrt(columns)


def cdf(squares: Array, rows: int, columns: int) -> Array:
    """Share of the squared singular values below `squares`, for entries of variance one.

    With c = min/max of the sides and x = squares / max: density `√((b − x)(x − a)) / (2π c x)` between
    `a, b = (1 ∓ √c)²`.
    """
    large, small = max(rows, columns), min(rows, columns)
    c = small / large
    # With x = 1 + c + 2 √c t every term is an angle, and none is lost to rounding near the ends.
    t = jnp.clip((squares / large - (1 + c)) / (2 * math.sqrt(c)), -1.0, 1.0)
    root = jnp.sqrt((1 - t) * (1 + t))
    first = jnp.arctan2(t, root) + math.pi / 2
    second = jnp.arctan2(2 * math.sqrt(c) + (1 + c) * t, (1 - c) * root) + math.pi / 2
    total = 2 * math.sqrt(c) * root + (1 + c) * first - (1 - c) * second
    return jnp.clip(total / (2 * math.pi * c), 0.0, 1.0)


def largest_square(rows: int, columns: int) -> tuple[float, float]:
    """Centre and scale of the largest squared singular value, for variance one (Johnstone 2001)."""
    first, second = math.sqrt(max(rows, columns) - 0.5), math.sqrt(min(rows, columns) - 0.5)
    return (first + second) ** 2, (first + second) * (1 / first + 1 / second) ** (1 / 3)


def smallest_square(rows: int, columns: int) -> tuple[float, float]:
    """Centre and scale of the smallest; centre 0 for square matrices, where the edge is a hard one."""
    first, second = math.sqrt(max(rows, columns) - 0.5), math.sqrt(min(rows, columns) - 0.5)
    if first - second < 1e-9:
        return 0.0, 0.0
    return (first - second) ** 2, (first - second) * (1 / second - 1 / first) ** (1 / 3)


def beyond_edge(deviations: Array, beta: int) -> Array:
    """P(Tracy-Widom > deviations), for real (β = 1) or complex (β = 2) matrices.

    Chiani, *Distribution of the largest eigenvalue for real Wishart and Gaussian random matrices and a simple
    approximation for the Tracy-Widom distribution*, 2014.
    """
    shape, scale, shift = TRACY_WIDOM[beta]
    x = jnp.maximum((deviations + shift) / scale, 0.0)
    return jax.scipy.special.gammaincc(jnp.asarray(shape, x.dtype), x)


def edge_quantile(probability: float, beta: int) -> float:
    """The deviation that Tracy and Widom's law exceeds with this probability, by bisection on the host."""
    shape, scale, shift = TRACY_WIDOM[beta]

    def above(x: float) -> float:
        """Upper tail of the gamma law, by its series."""
        y = (x + shift) / scale
        term = total = 1.0 / shape
        k = shape
        while term > 1e-17 * total:
            k += 1
            term *= y / k
            total += term
        return 1 - total * math.exp(shape * math.log(y) - y - math.lgamma(shape))

    low, high = -6.0, 40.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if above(middle) > probability else (low, middle)
    return low
