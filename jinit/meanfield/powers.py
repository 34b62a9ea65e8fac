"""Kinks beside which the slope is a broken power of the distance, as of abs(x)**0.7: integrable poles, too.

There no polynomial is as good as the slope. The integral of its square takes panels that shrink
geometrically toward the kink, and in the innermost one the power itself: `∫ C t^a = C δ^(a + 1) / (a + 1)`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jinit.initializers._quadrature import NotElementwiseError, Pointwise
from jinit.meanfield.resolution import NODES

RATIO = 4.0  # of neighbouring edges: twelve nodes are good for 3e-12 there, whatever the power
LEVELS = 33  # of edges beside a kink at zero, in deviations down to 1e-20
NEAREST = 8  # kinks that get such edges
EVEN = 1e-3  # powers so near to an even number belong to polynomials
FINITE = 1e-6  # by how much a power must exceed -1


class Power(NamedTuple):
    """A kink beside which φ'² is not smooth. Hashes by value.

    Attributes:
      place: where it is.
      below: the power a of the distance, φ'² ~ |h − place|^a, on the left; 0 where it is none.
      above: the same on the right.
    """

    place: float
    below: float
    above: float

    @property
    def infinite(self) -> bool:
        """Whether E φ'² diverges here."""
        return min(self.below, self.above) < FINITE - 1


def find_powers(activation: Callable[[Any], Any], kinks: np.ndarray) -> tuple[Power, ...]:
    """Those of the kinks beside which the square of the slope is no polynomial, the nearest to zero."""
    if not kinks.size:
        return ()
    try:
        slope = Pointwise(derivative(activation))
    except (jax.errors.JAXTypeError, NotElementwiseError):
        return ()  # of a function of NumPy's, which whoever needs a derivative refuses
    kinks = kinks[np.argsort(np.abs(kinks), kind="stable")]
    step = np.where(kinks == 0, RATIO**-LEVELS, least_step(slope.epsilon) * np.abs(kinks))
    away = step * RATIO ** np.arange(3.0)[:, None]
    with np.errstate(all="ignore"):
        logs = np.log(np.stack([slope(kinks - away), slope(kinks + away)]) ** 2) / math.log(RATIO)
        first, second = logs[:, 1] - logs[:, 0], logs[:, 2] - logs[:, 1]
        # Dead sides have a slope of zero, of which there is no logarithm; of a spiral, the power changes.
        uneven = np.isfinite(first) & (np.abs(first - 2 * np.maximum(np.round(first / 2), 0)) > EVEN)
    powers = np.where(uneven & (np.abs(first - second) < 0.05), first, 0.0)
    rough = np.flatnonzero(uneven.any(axis=0))[:NEAREST]
    return tuple(Power(*map(float, (kinks[i], *powers[:, i]))) for i in rough)


def derivative(activation: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """φ' as a function, by reverse mode: a `jax.custom_vjp` has no other."""

    def slope(x: jax.Array) -> jax.Array:
        value, pull = jax.vjp(lambda x: jnp.asarray(activation(x)).astype(x.dtype), x)
        return pull(jnp.ones_like(value))[0]

    return slope


def least_step(epsilon: float) -> float:
    """How near to a kink, relative to its place, numbers still know their distance from it."""
    return epsilon**0.45


def mirrored(powers: Sequence[Power]) -> tuple[Power, ...]:
    """The same for φ'(h) φ'(−h) in place of φ'(h)²."""
    found = []
    for place, below, above in powers:
        if place == 0:
            found.append(Power(0.0, (below + above) / 2, (below + above) / 2))
        else:
            found += [Power(place, below / 2, above / 2), Power(-place, above / 2, below / 2)]
    return tuple(found)


def graded(powers: Sequence[Power], root: jax.Array) -> jax.Array:
    """Edges beside kinks, in deviations: those at zero by the deviation, others by their place."""
    edges = [jnp.zeros(0, root.dtype)]
    for power in powers:
        place = jnp.asarray(power.place, root.dtype)
        away = _distances(power, root)
        edges += [place / root - away, place / root + away]
    return jnp.concatenate(edges)


def without_nearest(powers: Sequence[Power], edges: np.ndarray, epsilon: float) -> np.ndarray:
    """Edges less those that would split an innermost panel."""
    for power in powers:
        away = np.abs(edges - power.place)
        edges = edges[(away == 0) | (away >= least_step(epsilon) * abs(power.place))]
    return edges


def innermost(powers: Sequence[Power], root: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Nodes h, and weights by which the innermost panels integrate φ'² as powers: what Gauss's rule lacks."""
    nodes, weights = [], []
    for power in powers:
        place = jnp.asarray(power.place, root.dtype)
        step = _distances(power, root)[0]
        density = jnp.exp(-((place / root) ** 2) / 2) / math.sqrt(2 * math.pi)
        for side, exponent in ((-1, power.below), (1, power.above)):
            nodes.append(place + side * root * step)
            weights.append(density * step * _lacking(max(exponent, FINITE - 1)))
    return jnp.stack(nodes), jnp.stack(weights)


def _distances(power: Power, root: jax.Array) -> jax.Array:
    steps = (RATIO ** np.arange(-LEVELS, 2.0)).astype(root.dtype)
    if power.place == 0:
        return jnp.asarray(steps)
    least = least_step(float(jnp.finfo(root.dtype).eps)) * abs(power.place)
    return jnp.asarray(least * (RATIO ** np.arange(18.0)).astype(root.dtype)) / root


@functools.cache
def _lacking(exponent: float) -> float:
    """Of `∫ t^a` over (0, 1), what Gauss's rule lacks."""
    points, weights = np.polynomial.legendre.leggauss(NODES)
    return 1 / (1 + exponent) - float(weights @ ((points + 1) / 2) ** exponent) / 2
