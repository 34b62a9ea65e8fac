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
from jinit.meanfield.oscillation import blur_nodes
from jinit.meanfield.panels import SEEN, Panels
from jinit.meanfield.powers import Power, derivative, graded, innermost, mirrored, without_nearest
from jinit.meanfield.resolution import NODES

LINE = (-12.0, -6.0, -3.0, 0.0, 3.0, 6.0, 12.0)  # edges in standard deviations: they resolve the density
BLUR = (1.2, 3.5, 7.0)  # edges beside one that is blurred, in widths of the blur
COARSER = 2.0  # where panels grow by more than this, what is blurred needs edges of its own
HEAVY = 100  # edges
LAST = 11.7  # deviations beyond which nothing must be left to integrate


class Integrand(NamedTuple):
    """An activation and its panels; hashes by both."""

    activation: Callable[[Array], Array]
    panels: Panels

    @property
    def heavy(self) -> bool:
        """Whether it takes so many nodes that little is done at a time."""
        return self.panels.far is not None or len(self.panels.edges) > HEAVY

    def value(self, h: Array) -> Array:
        """φ(h), in the dtype of h."""
        argument = h.astype(jnp.float32) if self.panels.single else h
        return jnp.asarray(self.activation(argument)).astype(h.dtype)

    def slope(self, h: Array) -> Array:
        """φ'(h), away from kinks."""
        return derivative(self.value)(h)


def second_moment(integrand: Integrand, q: Array) -> Array:
    """E[φ(h)²] for h ~ N(0, q). Exact at q = 0; scalars only, as all functions here."""
    panels, epsilon = integrand.panels, float(jnp.finfo(q.dtype).eps)
    origin = jnp.asarray(panels.origin**2, q.dtype)
    near = epsilon ** (1 / 3) * min(1.0, 10 * panels.bend) ** 2
    if panels.origin == 0 or np.any(np.abs(panels.kinks) < 12 * math.sqrt(2 * near)):
        least = floored(integrand, q)
        return origin + _growth(integrand, least) * (q / least)
    # The slope at q = 0 is that of the growth from there, which begins as a parabola in q: near enough for
    # that, and so far that rounding errors of φ(0)² are small against it.
    ends = jnp.array([near, 2 * near], q.dtype)
    one, two, beyond = jax.vmap(lambda q: _growth(integrand, q))(jnp.append(ends, jnp.maximum(q, ends[0])))
    t = q / ends[0]
    return origin + jnp.where(t < 1, t * (2 * one - two / 2 + t * (two / 2 - one)), beyond)


def _growth(integrand: Integrand, q: Array) -> Array:
    """E[φ(h)²] − φ(0)²; NaN where φ² grows so fast that what lies beyond the nodes matters."""
    h, weights = _line(integrand, q)
    squares = integrand.value(h) ** 2
    total = jnp.sum(weights * squares)
    last = jnp.sum(jnp.where(h**2 > LAST**2 * q, weights * squares, 0))
    # What is all but zero, as of an activation that vanishes for miles, may well come from there.
    lost = (last > 2e-8 * total) & (total > 1e-20 * q)
    return jnp.where(lost, jnp.nan, jnp.sum(weights * (squares - integrand.panels.origin**2)))


def mean(integrand: Integrand, q: Array) -> Array:
    """E[φ(h)] for h ~ N(0, q)."""
    h, weights = _line(integrand, floored(integrand, q))
    return jnp.sum(weights * integrand.value(h))


def slope_moment(integrand: Integrand, q: Array) -> Array:
    """E[φ'(h)²] for h ~ N(0, q); infinite where h meets a jump, or a root of the distance."""
    panels, least = integrand.panels, floored(integrand, q)
    total = _of_slopes(integrand, least, None, panels.powers, lambda h: integrand.slope(h) ** 2)
    places = np.array(panels.steep, q.dtype)
    infinite = jnp.any(jnp.exp(-(places**2) / (2 * least)) > 0) if places.size else jnp.array(False)
    if any(power.place == 0 and min(power.below, power.above) < 0 for power in panels.powers):
        infinite |= q == 0
    return jnp.where(infinite, jnp.inf, total)


def _of_slopes(
    integrand: Integrand,
    q: Array,
    edges: np.ndarray | None,
    powers: tuple[Power, ...],
    product: Callable[[Array], Array],
) -> Array:
    """The expectation of a product of slopes, which may have poles where its factors are powers."""
    h, weights = _line(integrand, q, edges, powers)
    total = _weighted(weights, product(h))
    if not powers:
        return total
    near, lacking = innermost(powers, jax.lax.stop_gradient(jnp.sqrt(q)))
    return total + _weighted(lacking * _score(near, q), product(near))


def _weighted(weights: Array, values: Array) -> Array:
    """A sum in which what is infinite or none does not count where its weight is zero: at kinks."""
    return jnp.sum(weights * jnp.where(weights == 0, 0, values))


def half_difference(integrand: Integrand, q: Array, gap: Array) -> Array:
    """½ E[(φ(h₁) − φ(h₂))²] for h ~ N(0, q) with correlation 1 − gap: E[φ(h₁)²] − E[φ(h₁) φ(h₂)].

    Relative precision is kept as the gap closes. There it starts as gap q E[φ'²], or with jumps as a multiple
    of √gap.
    """
    least = _least_gap(q.dtype)
    near, far = gap < least, 2 - gap < least
    if integrand.panels.steep:
        inner, opposite = inner_half_difference(integrand, q, gap), _opposite(integrand, q)[0]
        shrink, grow = (
            jnp.where(end, jnp.sqrt(jnp.where(end, x, least) / least), 1)
            for end, x in ((near, gap), (far, 2 - gap))
        )
        return jnp.where(far, opposite + (inner - opposite) * grow, inner * shrink)
    linear = gap * floored(integrand, q) * slope_moment(integrand, q)
    opposite, slope = _opposite(integrand, q)
    inner = jnp.where(near, linear, inner_half_difference(integrand, q, gap))
    return jnp.where(far, opposite - (2 - gap) * slope, inner)


def _opposite(integrand: Integrand, q: Array) -> tuple[Array, Array]:
    """The half difference for h₂ = −h₁, and how fast it falls from there as the correlation rises."""
    q, panels = floored(integrand, q), integrand.panels
    edges = np.concatenate([np.array(panels.edges), -np.array(panels.edges)])
    powers = mirrored(panels.powers)
    h, weights = _line(integrand, q, edges, powers)
    apart = jnp.sum(weights * (integrand.value(h) - integrand.value(-h)) ** 2) / 2
    product = lambda h: integrand.slope(h) * integrand.slope(-h)  # noqa: E731
    return apart, q * _of_slopes(integrand, q, edges, powers, product)


def _least_gap(dtype: np.dtype) -> float:
    return 8 * float(jnp.finfo(dtype).eps)


def inner_half_difference(integrand: Integrand, q: Array, gap: Array) -> Array:
    """The same away from correlations of one and minus one, by nodes for h₁ and, given h₁, for h₂."""
    least = _least_gap(q.dtype)
    q = floored(integrand, q)
    gap = gap + jax.lax.stop_gradient(jnp.clip(gap, least, 2 - least) - gap)
    root, fixed = jax.lax.stop_gradient((jnp.sqrt(q), gap))
    blur = jnp.sqrt(fixed * (2 - fixed))
    edges, blurred, offsets = (np.array(x, q.dtype) for x in _blurred(integrand.panels))
    sign = jnp.where(fixed < 1, 1, -1).astype(q.dtype)  # h₂ is where h₁ is, or opposite
    blurred = sign * (blurred / root + blur * offsets)
    z, weights = normal_nodes(jnp.concatenate([edges / root, blurred]), q.dtype)

    h = root * z
    # The density of h₂ does not move what is the same for all h₂: of that it would leave rounding errors over
    # the spread.
    value, expected = integrand.value(jnp.stack([h, (1 - fixed) * h]))
    same = (expected - value) ** 2

    def given(z: Array, h: Array, value: Array, same: Array) -> Array:
        y, weights = normal_nodes((edges / root - (1 - fixed) * z) / blur, q.dtype)
        apart = root * (blur * y - fixed * z)  # h₂ − h₁, to full precision
        variance = q * gap * (2 - gap)
        density = score_weight(-((apart + gap * h) ** 2 / variance + jnp.log(variance)) / 2)
        return jnp.sum(weights * density * ((integrand.value(h + apart) - value) ** 2 - same))

    weights = weights * score_weight(-(h**2 / q + jnp.log(q)) / 2)
    total = jnp.sum(weights * (jax.vmap(given)(z, h, value, same) + same)) / 2
    return _within_reach(integrand, root, total)


@functools.cache
def _blurred(panels: Panels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges, and those of what becomes of the activation when it is blurred: edges, and offsets from them.

    About a kink, and where a narrow panel meets a wide one, which resolves what is there but not what the
    blur brings there.
    """
    edges = np.array(panels.edges)
    widths = np.diff(np.concatenate([[-np.inf], edges, [np.inf]]))
    sharp = np.isin(edges, panels.kinks)
    blur = np.array(BLUR)
    beside = [(edges, 0.0)]
    for side, wide in ((-1, widths[:-1] > COARSER * widths[1:]), (1, widths[1:] > COARSER * widths[:-1])):
        beside += [(edges[wide | sharp], side * offset) for offset in blur]
    return (
        edges,
        np.concatenate([x for x, _ in beside]),
        np.concatenate([np.full(x.size, offset) for x, offset in beside]),
    )


def _line(
    integrand: Integrand, q: Array, edges: np.ndarray | None = None, powers: tuple[Power, ...] | None = None
) -> tuple[Array, Array]:
    """Nodes and weights for h ~ N(0, q), on the panels of the activation or between other edges."""
    panels = integrand.panels
    if edges is None and panels.far is not None:
        h, weights = _near_and_far(panels, q)
    else:
        edges = np.array(panels.edges) if edges is None else edges
        root = jax.lax.stop_gradient(jnp.sqrt(q))
        powers = panels.powers if powers is None else powers
        edges, beside = without_nearest(powers, edges, float(jnp.finfo(q.dtype).eps)), graded(powers, root)
        z, weights = normal_nodes(jnp.append(edges.astype(q.dtype) / root, beside), q.dtype)
        h, weights = root * z, _within_reach(integrand, root, weights)
    return h, weights * _score(h, q)


def _score(h: Array, q: Array) -> Array:
    return score_weight(-(h**2) / (2 * q) - jnp.log(q) / 2)


def _near_and_far(panels: Panels, q: Array) -> tuple[Array, Array]:
    """Nodes on the panels, and blurred ones, of which the weights of the ones or the others are zero."""
    far = panels.far
    assert far is not None
    least = (panels.reach / SEEN) ** 2
    q = jax.lax.stop_gradient(q)
    near = jnp.sqrt(jnp.minimum(q, least))
    z, weights = normal_nodes(np.array(panels.edges, q.dtype) / near, q.dtype)
    wide = jnp.sqrt(jnp.maximum(q, least) - far.blur**2)
    x, mass = normal_nodes(np.array(far.edges, q.dtype) / wide, q.dtype)
    blurred, shares = jax.vmap(lambda x: blur_nodes(far, x, jnp))(wide * x)
    beyond = jnp.where(q > least, mass[:, None] * shares, 0).ravel()
    weights = jnp.concatenate([jnp.where(q > least, 0, weights), beyond])
    return jnp.concatenate([near * z, blurred.ravel()]), weights


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
