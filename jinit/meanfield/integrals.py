"""Gaussian integrals of an activation, traced: of one pre-activation, and of two that are correlated.

Nodes lie on panels whose edges move with the variance q, so that a kink is always an edge. They are held
fixed under differentiation, and the Gaussian density carries the derivatives (`score_weight`): they are right
where the activation has kinks and jumps, to all orders, and no derivative of the activation is needed for
them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jinit._typing import Array
from jinit.meanfield.panels import NODES, Panels

LINE = (-12.0, -6.0, -3.0, 0.0, 3.0, 6.0, 12.0)  # edges in standard deviations: they resolve the density
BLUR = (-7.0, -3.5, -1.2, 0.0, 1.2, 3.5, 7.0)  # edges about a kink that is blurred, in widths of the blur
SEEN = 9.0  # deviations within which the panels must serve


class Integrand(NamedTuple):
    """An activation and its panels; hashes by both."""

    activation: Callable[[Array], Array]
    panels: Panels

    def value(self, h: Array) -> Array:
        """φ(h), in the dtype of h."""
        argument = h.astype(jnp.float32) if self.panels.single else h
        return jnp.asarray(self.activation(argument)).astype(h.dtype)

    def slope(self, h: Array) -> Array:
        """φ'(h), away from kinks."""
        return jax.jvp(self.value, (h,), (jnp.ones_like(h),))[1]


def second_moment(integrand: Integrand, q: Array) -> Array:
    """E[φ(h)²] for h ~ N(0, q). Exact at q = 0; scalars only, as all functions here."""
    least, origin = floored(integrand, q), integrand.panels.origin
    h, weights = _line(integrand, least)
    growth = jnp.sum(weights * (integrand.value(h) ** 2 - origin**2)) * (q / least)
    return jnp.asarray(origin**2, q.dtype) + growth


def mean(integrand: Integrand, q: Array) -> Array:
    """E[φ(h)] for h ~ N(0, q)."""
    h, weights = _line(integrand, floored(integrand, q))
    return jnp.sum(weights * integrand.value(h))


def slope_moment(integrand: Integrand, q: Array) -> Array:
    """E[φ'(h)²] for h ~ N(0, q); infinite where h meets a jump."""
    least = floored(integrand, q)
    h, weights = _line(integrand, least)
    finite = jnp.sum(weights * integrand.slope(h) ** 2)
    jumps = np.array(integrand.panels.jumps, q.dtype)
    met = jnp.any(jnp.exp(-(jumps**2) / (2 * least)) > 0) if jumps.size else False
    return jnp.where(met, jnp.inf, finite)


def half_difference(integrand: Integrand, q: Array, gap: Array) -> Array:
    """½ E[(φ(h₁) − φ(h₂))²] for h ~ N(0, q) with correlation 1 − gap: E[φ(h₁)²] − E[φ(h₁) φ(h₂)].

    Relative precision is kept as the gap closes. There it starts as gap q E[φ'²], or with jumps as a multiple
    of √gap.
    """
    least = _least_gap(q.dtype)
    near = gap < least
    if integrand.panels.jumps:
        shrink = jnp.sqrt(jnp.where(near, gap, least) / least)
        return inner_half_difference(integrand, q, gap) * jnp.where(near, shrink, 1)
    linear = gap * floored(integrand, q) * slope_moment(integrand, q)
    inner = jnp.where(near, linear, inner_half_difference(integrand, q, gap))
    opposite = 2 - gap < float(jnp.finfo(q.dtype).eps) ** 0.6  # too near for the derivative of the density
    return jnp.where(opposite, _near_opposite(integrand, q, 2 - gap), inner)


def _near_opposite(integrand: Integrand, q: Array, gap: Array) -> Array:
    """The same for correlation gap − 1, to first order: about h₂ = −h₁."""
    q = floored(integrand, q)
    edges = np.array(integrand.panels.edges)
    h, weights = _line(integrand, q, np.concatenate([edges, -edges]))
    apart = jnp.sum(weights * (integrand.value(h) - integrand.value(-h)) ** 2) / 2
    return apart - gap * q * jnp.sum(weights * integrand.slope(h) * integrand.slope(-h))


def _least_gap(dtype: np.dtype) -> float:
    return 8 * float(jnp.finfo(dtype).eps)


def inner_half_difference(integrand: Integrand, q: Array, gap: Array) -> Array:
    """The same away from correlations of one and minus one, by nodes for h₁ and, given h₁, for h₂."""
    least = _least_gap(q.dtype)
    q = floored(integrand, q)
    gap = gap + jax.lax.stop_gradient(jnp.clip(gap, least, 2 - least) - gap)
    root, fixed = jax.lax.stop_gradient((jnp.sqrt(q), gap))
    blur = jnp.sqrt(fixed * (2 - fixed))
    edges, kinks = (np.array(x, q.dtype) for x in (integrand.panels.edges, integrand.panels.kinks))
    kinks = np.unique(np.concatenate([kinks, -kinks]))  # where φ(h₂) has one, blurred, if |c| is near 1
    blurred = (kinks[:, None] / root + blur * np.array([BLUR], q.dtype)).ravel()
    z, weights = normal_nodes(jnp.concatenate([edges / root, blurred]), q.dtype)

    def given(z: Array) -> Array:
        h = root * z
        y, weights = normal_nodes((edges / root - (1 - fixed) * z) / blur, q.dtype)
        apart = root * (blur * y - fixed * z)  # h₂ − h₁, to full precision
        spread = gap * (2 - gap)
        log_density = -(h**2 / q + (apart + gap * h) ** 2 / (q * spread) + jnp.log(spread)) / 2 - jnp.log(q)
        change = integrand.value(h + apart) - integrand.value(h)
        return jnp.sum(weights * score_weight(log_density) * change**2) / 2

    return _within_reach(integrand, root, jnp.sum(weights * jax.vmap(given)(z)))


def _line(integrand: Integrand, q: Array, edges: np.ndarray | None = None) -> tuple[Array, Array]:
    """Nodes and weights for h ~ N(0, q), on the panels of the activation or between other edges."""
    edges = np.array(integrand.panels.edges) if edges is None else edges
    root = jax.lax.stop_gradient(jnp.sqrt(q))
    z, weights = normal_nodes(edges.astype(q.dtype) / root, q.dtype)
    h = root * z
    weights = weights * score_weight(-(h**2) / (2 * q) - jnp.log(q) / 2)
    return h, _within_reach(integrand, root, weights)


def normal_nodes(edges: Array | np.ndarray, dtype: np.dtype) -> tuple[Array, Array]:
    """Gauss-Legendre nodes between these edges and those of LINE, with weights for a standard normal z."""
    edges = jnp.clip(edges, LINE[0], LINE[-1])
    edges = jnp.sort(jnp.concatenate([jnp.array(LINE, dtype), edges]))
    points, weights = (jnp.asarray(x, dtype)[None] for x in _gauss_legendre())
    middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    z = (middle[:, None] + half[:, None] * points).ravel()
    return z, (half[:, None] * weights).ravel() * jnp.exp(-(z**2) / 2)


@functools.cache
def _gauss_legendre() -> tuple[np.ndarray, np.ndarray]:
    points, weights = np.polynomial.legendre.leggauss(NODES)
    return points, weights / math.sqrt(2 * math.pi)


@jax.custom_jvp
def score_weight(log_density: Array) -> Array:
    """One, with the derivative of the density relative to itself: moves weights while nodes stay."""
    one = jnp.ones_like(log_density)
    return jnp.where(log_density > 0, one, one)  # batched where its argument is, which JAX relies on


@score_weight.defjvp
def _score_weight_jvp(primals, tangents):
    weight = score_weight(*primals)
    return weight, weight * tangents[0]


def floored(integrand: Integrand, q: Array) -> Array:
    """q, but no less than what keeps derivatives in q clear of rounding errors and underflow."""
    epsilon = float(jnp.finfo(q.dtype).eps)
    return jnp.maximum(
        q, jnp.asarray(epsilon**1.8 if integrand.panels.origin == 0 else epsilon**0.7, q.dtype)
    )


def _within_reach(integrand: Integrand, root: Array, x: Array) -> Array:
    """NaN where the activation goes on oscillating beyond what its panels follow."""
    reach = integrand.panels.reach
    return x if math.isinf(reach) else jnp.where(SEEN * root <= reach, x, jnp.nan)
