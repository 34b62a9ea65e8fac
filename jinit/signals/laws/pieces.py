"""Pieces of other laws side by side along an axis: where an entry stands tells of which it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence

import numpy as np

from jinit.signals.laws import places
from jinit.signals.laws.align import canonical
from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.grids import spread, union, weights_of
from jinit.signals.laws.law import Law, as_float, mean_square, without
from jinit.signals.laws.levels import levels_of
from jinit.signals.laws.pointwise import MOST_COTANGENTS
from jinit.signals.laws.positions import refined_apart, variance_of
from jinit.signals.laws.roots import COTANGENT, PLACE, Places, Root
from jinit.signals.laws.runs import Reach, runs_of, summed

# Of variances: so much less than another is a rounding error.
NOTHING = 1e-6


def side_by_side(parts: Sequence[Law], axis: int, shape: Sequence[int], name: Hashable) -> Law:
    """`concatenate`: each piece keeps its law, in places of their own along the axis.

    What is the same all over a piece is another variable in another piece. What pieces have in common is
    lost.
    """
    laws, piece, of = _classes([_as_real(as_float(p)) for p in parts], axis)
    linear = any(law.is_linear for law in laws)
    laws = refined_apart(laws)
    levels, at = levels_of(*laws), places.union_of(laws)
    laws = [canonical(places.along(law, at), levels, name, linear=linear) for law in laws]
    here = Places(tuple(of), _numbers(laws))
    sizes = [parts[k].shape[axis] for k in piece]
    if linear:
        laws = _each_its_own([places.differing(law, (COTANGENT,)) for law in laws], piece)
    laws = _of_same_roots(laws, piece, sizes, axis, at)
    roots = union(laws)
    nodes = [spread(law, roots) for law in laws]
    whole, dtype = np.broadcast_shapes(*(x.shape for x in nodes)), np.result_type(*(x.dtype for x in nodes))
    out = Law(
        xp.stack([xp.broadcast_to(x.astype(dtype), whole) for x in nodes]),
        (here.weights(), *weights_of(laws, roots)),
        (Root(PLACE, frozenset([axis]), PLACE, places=here), *roots),
        tuple(shape),
        parts[0].dtype,
    )
    return places.differing(places.of_few_classes(out, axis), (PLACE,))


def _each_its_own(laws: Sequence[Law], piece: Sequence[int]) -> list[Law]:
    """Gradients, the cotangents of a piece its own, which keep what their entries share, if they are few."""
    named = [
        [dataclasses.replace(r, name=(r.name, k)) if r.kind == COTANGENT else r for r in law.roots]
        for law, k in zip(laws, piece, strict=True)
    ]
    if len({r.name for roots in named for r in roots if r.kind == COTANGENT}) > MOST_COTANGENTS:
        return list(laws)
    return [dataclasses.replace(law, roots=tuple(roots)) for law, roots in zip(laws, named, strict=True)]


def _of_same_roots(
    laws: Sequence[Law], piece: Sequence[int], sizes: Sequence[int], axis: int, at: Sequence[Root]
) -> list[Law]:
    """The laws, in pieces of these sizes, whose roots of one name are one root."""
    names = dict.fromkeys(r.name for law in laws for r in law.roots if r.kind != PLACE)
    found = {name: _same_root(laws, name, piece, sizes, axis, at) for name in names}
    roots = [tuple(found.get(r.name, r) for r in law.roots) for law in laws]
    return [dataclasses.replace(law, roots=mine) for law, mine in zip(laws, roots, strict=True)]


def _same_root(
    laws: Sequence[Law], name: Hashable, piece: Sequence[int], sizes: Sequence[int], axis: int,
    at: Sequence[Root],
) -> Root:  # fmt: skip
    """How the roots of this name differ, which what is the same all over a piece does in another piece."""
    every = ((k, i, r) for k, law in enumerate(laws) for i, r in enumerate(law.roots))
    known = [(k, r, variance_of(laws[k], i)) for k, i, r in every if r.name == name]
    means = [1.0 if is_traced(v) else float(np.mean(v)) for _, _, v in known]
    some = [(k, r, v, m) for (k, r, v), m in zip(known, means, strict=True) if m > NOTHING * max(means)]
    if not some:
        return known[0][1]
    first = some[0][1]
    members = [(Reach(r.axes, r.runs, r.fixed), v) for _, r, v, _ in some]
    reach = summed(members, first.axes, laws[0].shape, lambda v, k: places.along_axis(v, at, k))
    if axis not in reach.axes and len({piece[k] for k, *_ in some}) > 1:
        run = sum(m * sizes[k] ** 2 for k, _, _, m in some) / sum(m * sizes[k] for k, _, _, m in some)
        reach = Reach(reach.axes | {axis}, runs_of({**dict(reach.runs), axis: run}), reach.fixed)
    return dataclasses.replace(first, axes=reach.axes, runs=reach.runs, fixed=reach.fixed)


def _as_real(law: Law) -> Law:
    """Averages are roots like any other: what they were taken over is not what they stand beside."""
    return dataclasses.replace(law, roots=tuple(dataclasses.replace(r, average=False) for r in law.roots))


def _classes(parts: Sequence[Law], axis: int) -> tuple[list[Law], list[int], list[int]]:
    """The laws at places that differ along the axis, of which piece each is, and that of each index."""
    laws, piece, of = [], [], []
    for k, part in enumerate(parts):
        i = places.position_along(part, axis)
        known = None if i is None else part.roots[i].places
        if i is None or known is None:
            of += [len(laws)] * part.shape[axis]
            found = [part]
        else:
            of += [len(laws) + c for c in known.of]
            at = [xp.take(part.nodes, np.asarray([c]), axis=i) for c in range(len(known.paths))]
            found = [without(part, [i], nodes) for nodes in at]
        laws += found
        piece += [k] * len(found)
    return laws, piece, of


def _numbers(laws: Sequence[Law]) -> tuple[tuple[float, ...], ...]:
    """Of each class what it differs by from others, for those alike to be taken as one if there are many."""
    if any(is_traced(law.nodes) for law in laws):
        return tuple((float(k + 1),) for k in range(len(laws)))
    squares = [mean_square(law) for law in laws]
    return tuple((x,) for x in squares)
