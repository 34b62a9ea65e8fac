"""Roots of functions of one number, traced: where they are, what they are, and their derivatives."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jinit._typing import Array

Function = Callable[[Array], Array]
End = tuple[Array, Array]  # a point, and the value there
STEPS = 100


class Scan(NamedTuple):
    """A function on a grid of ascending points: the sign, with zero for what rounding cannot tell from it."""

    points: Array
    values: Array
    signs: Array


def scan(function: Function, grid: Array, blind: float, *, chunk: int | None = None) -> Scan:
    """The signs of a function on a grid, and between its points where a cubic has its extrema.

    The cubic has the values and slopes at both ends of a cell. So several roots in one cell are not missed,
    unless they all but coincide.

    Args:
      function: of a scalar.
      grid: ascending points.
      blind: values up to this times the point count as zero.
      chunk: how many points to evaluate at a time; None for all.
    """
    over = jax.vmap if chunk is None else lambda f: functools.partial(jax.lax.map, f, batch_size=chunk)
    values, slopes = over(lambda x: jax.jvp(function, (x,), (jnp.ones_like(x),)))(grid)
    between = _extrema(grid, values, slopes)
    # In order, with the last point of the grid at the end.
    points = jnp.append(jnp.concatenate([grid[:-1, None], between], axis=1).ravel(), grid[-1])
    inner = over(function)(between.ravel()).reshape(between.shape)
    values = jnp.append(jnp.concatenate([values[:-1, None], inner], axis=1).ravel(), values[-1])
    return Scan(points, values, jnp.where(jnp.abs(values) <= blind * points, 0, jnp.sign(values)))


def _extrema(x: Array, y: Array, slope: Array) -> Array:
    """Where the cubic of each cell has its extrema, or some points in their place: two a cell, in order."""
    width = jnp.diff(x)
    rise, start, end = jnp.diff(y), slope[:-1] * width, slope[1:] * width
    a, b = start + end - 2 * rise, 3 * rise - 2 * start - end  # y = a t³ + b t² + start t
    root = jnp.sqrt(jnp.maximum(b * b - 3 * a * start, 0))
    down = -(b + jnp.where(b < 0, -root, root))
    candidates = jnp.stack([start / jnp.where(down == 0, 1, down), down / jnp.where(a == 0, 1, 3 * a)])
    inside = (candidates > 0.001) & (candidates < 0.999)
    t = jnp.where(inside, candidates, jnp.array([[0.35], [0.65]], x.dtype))
    return x[:-1, None] + jnp.sort(t, axis=0).T * width[:, None]


def root(function: Function, low: End, high: End, real: Array, *, curve: Function = lambda x: x) -> Array:
    """The root between two points at which the function differs in sign, with its derivative.

    Where the signs do not differ, the end with the smaller absolute value. The derivative, with respect to
    whatever the function closes over, is by the implicit function theorem.

    Args:
      function: of a scalar.
      low: one end, on the scale of `curve`, and the value there.
      high: the other.
      real: whether there is a root; if not, `low`, with derivative zero.
      curve: from the scale on which the function is smooth to that of its argument.
    """
    (a, at_a), (b, at_b) = jax.lax.stop_gradient((low, high))
    at_a = jnp.where(real, at_a, 0)

    def wanted(x: Array) -> Array:  # never flat where there is nothing to solve
        return jnp.where(real, function(x), x - curve(a))

    def solve(function: Function, _: Array) -> Array:
        return curve(_bracketed(lambda x: function(curve(x)), a, b, at_a, at_b))

    return jax.lax.custom_root(wanted, a, solve, lambda linear, y: y / linear(jnp.ones_like(y)))


def _bracketed(function: Function, a: Array, b: Array, at_a: Array, at_b: Array) -> Array:
    """Chandrupatla's method: inverse quadratic interpolation where it is safe, else bisection.

    References:
      Chandrupatla, "A new hybrid quadratic/bisection algorithm for finding the zero of a nonlinear function
      without using derivatives", 1997.
    """
    epsilon = float(jnp.finfo(a.dtype).eps)
    half = jnp.asarray(0.5, a.dtype)

    def going(state):
        step, a, b, _, at_a, at_b, _, _ = state
        best = jnp.where(jnp.abs(at_a) < jnp.abs(at_b), a, b)
        wide = jnp.abs(b - a) > 2 * epsilon * jnp.abs(best)
        return wide & (at_a != 0) & (at_b != 0) & (at_a * at_b < 0) & (step < STEPS)

    def advance(state):
        step, a, b, _, at_a, at_b, _, t = state
        x = a + t * (b - a)
        at_x = function(x)
        same = jnp.sign(at_x) == jnp.sign(at_a)
        c, at_c = jnp.where(same, a, b), jnp.where(same, at_a, at_b)
        b, at_b = jnp.where(same, b, a), jnp.where(same, at_b, at_a)
        a, at_a = x, at_x
        return step + 1, a, b, c, at_a, at_b, at_c, _share(a, b, c, at_a, at_b, at_c, epsilon)

    start = (np.int32(0), a, b, b, at_a, at_b, at_b, half)
    _, a, b, _, at_a, at_b, _, _ = jax.lax.while_loop(going, advance, start)
    return jnp.where(jnp.abs(at_a) < jnp.abs(at_b), a, b)


def _share(a, b, c, at_a, at_b, at_c, epsilon: float) -> Array:
    """How far from a to b to go next."""
    xi, phi = (a - b) / (c - b), (at_a - at_b) / (at_c - at_b)
    smooth = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
    quadratic = at_a / (at_b - at_a) * at_c / (at_b - at_c)
    quadratic += (c - a) / (b - a) * at_a / (at_c - at_a) * at_b / (at_c - at_b)
    best = jnp.where(jnp.abs(at_a) < jnp.abs(at_b), a, b)
    least = jnp.minimum(epsilon * jnp.abs(best) / jnp.abs(b - a), 0.5)
    return jnp.clip(jnp.where(smooth, quadratic, 0.5), least, 1 - least)
