"""The largest entry, seen as a whole: what comes back from it goes to where it is."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Hashable, Sequence

import jax
import jax.numpy as jnp

from jinit._typing import Array
from jinit.signals.laws.arrays import xp
from jinit.signals.laws.extremes import chance_of_being_largest
from jinit.signals.laws.law import (
    COTANGENT,
    SIGNAL,
    Axes,
    Law,
    Root,
    all_axes,
    average,
    constant,
    plus_normal,
    squared,
)

BACKWARD = "pullback_of_largest"


@functools.partial(jax.jit, static_argnums=3)
def pullback_of_largest(x: Array, largest: Array, cotangent: Array, axes: tuple[int, ...]) -> Array:
    """The cotangent, shared among those entries that are the largest along `axes`."""
    is_largest = (x == jnp.expand_dims(largest, axes)).astype(cotangent.dtype)
    share = cotangent / jnp.sum(is_largest, axes)
    return is_largest * jnp.expand_dims(share, axes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def largest(x: Array, axes: tuple[int, ...]) -> Array:
    """The largest entry along `axes`."""
    return jnp.max(x, axes)


def _forward(x: Array, axes: tuple[int, ...]) -> tuple[Array, tuple[Array, Array]]:
    out = jnp.max(x, axes)
    return out, (x, out)


def _backward(axes: tuple[int, ...], kept: tuple[Array, Array], cotangent: Array) -> tuple[Array]:
    return (pullback_of_largest(*kept, cotangent, axes),)


largest.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def smallest(x: Array, axes: tuple[int, ...]) -> Array:
    """The smallest entry along `axes`."""
    return jnp.min(x, axes)


def _forward_smallest(x: Array, axes: tuple[int, ...]) -> tuple[Array, tuple[Array, Array]]:
    out = jnp.min(x, axes)
    return out, (-x, -out)


smallest.defvjp(_forward_smallest, _backward)


def pulled_back(operand: Law, cotangent: Law, axes: Axes, name: Hashable) -> Law:
    """What comes back to the entries of `operand` from their maximum along `axes`."""
    varying = frozenset().union(*(r.axes for r in operand.roots)) & axes
    counts = {i: float(operand.shape[i]) for i in varying}
    return to_the_largest(operand, cotangent, counts, 1.0, operand.shape, name)


def to_the_largest(
    operand: Law,
    cotangent: Law,
    counts: dict[int, float],
    windows: float,
    shape: Sequence[int],
    name: Hashable,
) -> Law:
    """A gradient at the largest of each window: as likely as each entry is that.

    Args:
      operand: law of the entries.
      cotangent: law of what comes back from a window.
      counts: entries in a window, by axis.
      windows: in how many windows an entry lies.
      shape: of the result.
      name: of the new root.
    """
    count = math.prod(counts.values())
    chance = chance_of_being_largest(operand, frozenset(counts), count)  # type: ignore[arg-type]
    second = average(cotangent, of=squared(cotangent.nodes)).reshape(())
    out = constant(xp.zeros(()), shape, cotangent.dtype)
    out = dataclasses.replace(
        operand,
        nodes=xp.zeros(operand.nodes.shape, out.nodes.dtype),
        shape=tuple(shape),
        dtype=out.dtype,
        fixed_sums=frozenset(),
    )
    root = Root(name, all_axes(shape), COTANGENT if cotangent.is_linear else SIGNAL)
    return plus_normal(out, chance * second * xp.asarray(windows, second.dtype), root, 2)
