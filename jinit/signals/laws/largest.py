"""The largest entry, seen as a whole: what comes back from it goes to where it is."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType

import jax
import jax.numpy as jnp

from jinit._typing import Array
from jinit.signals.laws import places
from jinit.signals.laws.align import canonical, fewer_cotangents
from jinit.signals.laws.arrays import xp
from jinit.signals.laws.extremes import chance_of_being_largest
from jinit.signals.laws.grids import on_grid
from jinit.signals.laws.law import Axes, Law, all_axes, average, constant, plus_normal, squared, without
from jinit.signals.laws.levels import levels_of
from jinit.signals.laws.moving import relabelled
from jinit.signals.laws.pointwise import pointwise
from jinit.signals.laws.roots import COTANGENT, PLACE, SIGNAL, Root
from jinit.signals.laws.runs import Reach, runs_of

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
    operand = places.alike(operand, axes)
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
    steps: Mapping[int, tuple[int, int]] = MappingProxyType({}),
) -> Law:
    """A gradient at the largest of each window: as likely as each entry is that.

    Args:
      operand: law of the entries.
      cotangent: law of what comes back from a window.
      counts: entries in a window, by axis.
      windows: in how many windows an entry lies.
      shape: of the result.
      name: of the new root.
      steps: entries from one window to the next and number of windows, by axis; of one window if left out.
    """
    axes, count = frozenset(counts), math.prod(counts.values())
    chance = chance_of_being_largest(operand, axes, count)  # type: ignore[arg-type]
    hits = dataclasses.replace(
        operand,
        nodes=chance * xp.asarray(windows, chance.dtype),
        shape=tuple(shape),
        dtype=jnp.dtype(chance.dtype),
        fixed_sums=frozenset(),
    )
    twice = dataclasses.replace(hits, nodes=_hits_squared(operand, axes, counts, steps))
    once, square = (average(x).reshape(()) for x in (hits, twice))
    kept = _kept(cotangent, axes, shape, square / once - once, name)
    rest = _rest(cotangent, kept)

    def given(hit: Array, two: Array, back: Array, rest: Array) -> list[Array]:
        mean = hit * back
        return [mean, two * squared(back) + hit * rest - squared(mean)]

    aval = jax.ShapeDtypeStruct(tuple(shape), cotangent.dtype)
    out, variance = pointwise(given, [hits, twice, kept, rest], [aval, aval], name)
    root = Root(name, all_axes(shape), COTANGENT if cotangent.is_linear else SIGNAL)
    spread = average(variance).reshape(())
    if _random(out) == _random(variance):  # but perhaps not at the same places
        out, variance = on_grid(lambda *nodes: nodes, [out, variance], [aval, aval])
        spread = variance.nodes
    out = plus_normal(dataclasses.replace(out, fixed_sums=frozenset()), spread, root, 2)
    return fewer_cotangents(out, (name, "fewer"), 0) if out.is_linear else out


def _random(law: Law) -> set[Root]:
    """Its roots but those of places."""
    return {law.roots[i] for i in places.others(law)}


def _hits_squared(
    operand: Law, axes: Axes, counts: Mapping[int, float], steps: Mapping[int, tuple[int, int]]
) -> Array:
    """Mean square of the number of windows of which an entry is the largest, at every node.

    Of two windows, `d` steps apart along an axis, it is the largest if it is that of all that lies in either.
    """
    pairs = []
    for k, n in counts.items():
        step, places = steps.get(k, (operand.shape[k], 1))
        apart = range(min(math.ceil(n / step), places))
        often = [(2 if d else 1) * (places - d) * (n - d * step) / operand.shape[k] for d in apart]
        pairs.append([(m, n - d * step) for d, m in enumerate(often)])
    total, whole = xp.zeros((), operand.nodes.dtype), math.prod(counts.values())
    for offsets in itertools.product(*pairs):
        either = 2 * whole - math.prod(overlap for _, overlap in offsets)
        chance = chance_of_being_largest(operand, axes, either)  # type: ignore[arg-type]
        total = total + chance * xp.asarray(math.prod(often for often, _ in offsets), chance.dtype)
    return total


def _rest(cotangent: Law, kept: Law) -> Law:
    """What of the mean square, at each place, is not kept."""
    at, ours = places.weights_of([kept]), places.union_of([cotangent])
    whole, left = (
        places.at(average(law, places.others(law), squared(law.nodes)), law, own)
        for law, own in ((cotangent, ours), (kept, tuple(at)))
    )
    nodes = xp.maximum(whole.reshape(left.shape) - left, xp.zeros_like(left))
    rest = constant(nodes, kept.shape, kept.dtype)
    return dataclasses.replace(rest, weights=tuple(at.values()), roots=tuple(at))


def _kept(cotangent: Law, axes: Axes, shape: Sequence[int], dispersion: Array, name: Hashable) -> Law:
    """What comes back to a window, at all of its entries: as much of it as they may have in common."""
    if len(cotangent.shape) < len(shape):
        others = [frozenset([i]) for i in range(len(shape)) if i not in axes]
        return relabelled(_common(cotangent, dispersion), others, shape)
    law = _common(canonical(cotangent, levels_of(cotangent), (name, "back")), dispersion)
    roots = []
    for root in law.roots:
        if root.kind == PLACE:
            roots.append(root)
            continue
        reach = Reach(root.axes, root.runs)
        longer = {k: shape[k] / law.shape[k] if k in axes else 1.0 for k in root.axes}
        runs = runs_of({k: reach.run(k) * longer[k] for k in root.axes})
        roots.append(dataclasses.replace(root, name=(root.name, "window"), runs=runs))
    return dataclasses.replace(law, roots=tuple(roots), shape=tuple(shape))


def _common(law: Law, dispersion: Array) -> Law:
    """`law`, of each root as much as entries may have in common, if sums over many windows are to be right.

    One entry of a window gets all of it: no two share what no other window has. With `h` hits of an entry on
    average, of variance `d h`, a part of mean square one that `r` windows have adds up to `r h` for each
    entry. A share `c`, common to all entries, gives `c r h`, and what is left of it, every entry's own,
    `c d h + (1 - c) h`. So `c = (r - 1) / (r - 1 + d)`.
    """
    x, own = law.nodes, []
    for i in places.others(law):
        root = law.roots[i]
        reach = Reach(root.axes, root.runs)
        others = math.prod(reach.run(k) if k in root.axes else n for k, n in enumerate(law.shape)) - 1
        mean = average(law, [i], x)
        if others <= 0:
            own.append(i)
            x = mean
        else:
            share = xp.asarray(others, x.dtype) / (others + dispersion)
            x = mean + xp.sqrt(share) * (x - mean)
    return without(dataclasses.replace(law, nodes=x), own, x)
