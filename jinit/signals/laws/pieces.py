"""Pieces of other laws side by side along an axis: where an entry stands tells of which it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence

import numpy as np

from jinit.signals.laws import places
from jinit.signals.laws.align import canonical
from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.law import Law, as_float, average, mean_square, squared, without
from jinit.signals.laws.levels import levels_of
from jinit.signals.laws.roots import PLACE, Places, Root
from jinit.signals.laws.runs import runs_of

# Of variances: so much less than another is a rounding error.
NOTHING = 1e-6


def side_by_side(parts: Sequence[Law], axis: int, shape: Sequence[int], name: Hashable) -> Law:
    """`concatenate`: each piece keeps its law, in places of their own along the axis.

    What is the same all over a piece is another variable in another piece. What pieces have in common is
    lost.
    """
    laws, piece, of = _classes([_as_real(as_float(p)) for p in parts], axis)
    linear = any(law.is_linear for law in laws)
    laws = places.refined(laws)
    levels, at = levels_of(*laws), places.union_of(laws)
    aligned = [canonical(places.along(law, at), levels, name, linear=linear) for law in laws]
    first, nodes = aligned[0], [law.nodes for law in aligned]
    dtype = np.result_type(*(x.dtype for x in nodes))
    here = Places(tuple(of), _numbers(aligned))
    roots = []
    for i, root in enumerate(first.roots):
        if axis not in root.axes and root.kind != PLACE:
            lengths = _lengths(aligned, i, [parts[k].shape[axis] for k in piece])
            if len({piece[k] for k in lengths}) > 1:
                run = sum(v * n * n for n, v in lengths.values()) / sum(v * n for n, v in lengths.values())
                runs = runs_of({**dict(root.runs), axis: run})
                root = dataclasses.replace(root, axes=root.axes | {axis}, runs=runs)
        roots.append(root)
    whole = Law(
        xp.stack([x.astype(dtype) for x in nodes]),
        (here.weights(), *first.weights),
        (Root(PLACE, frozenset([axis]), PLACE, places=here), *roots),
        tuple(shape),
        parts[0].dtype,
    )
    return places.differing(places.of_few_classes(whole, axis), (PLACE,))


def _as_real(law: Law) -> Law:
    """Averages are roots like any other: what they were taken over is not what they stand beside."""
    return dataclasses.replace(law, roots=tuple(dataclasses.replace(r, average=False) for r in law.roots))


def _classes(parts: Sequence[Law], axis: int) -> tuple[list[Law], list[int], list[int]]:
    """The laws at places that differ along the axis, of which piece each is, and that of each index."""
    laws, piece, of = [], [], []
    for k, part in enumerate(parts):
        i = next((i for i in places.positions(part) if axis in part.roots[i].axes), None)
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


def _lengths(laws: Sequence[Law], i: int, sizes: Sequence[int]) -> dict[int, tuple[int, float]]:
    """Of laws that vary with the root at position `i`: how long their pieces are, and how much they do."""
    if any(is_traced(law.nodes) for law in laws):
        return {k: (size, 1.0) for k, size in enumerate(sizes)}
    own = [float(np.mean(squared(law.nodes - average(law, [i])))) for law in laws]
    return {k: (sizes[k], v) for k, v in enumerate(own) if v > NOTHING * max(own)}


def _numbers(laws: Sequence[Law]) -> tuple[tuple[float, ...], ...]:
    """Of each class what it differs by from others, for those alike to be taken as one if there are many."""
    if any(is_traced(law.nodes) for law in laws):
        return tuple((float(k + 1),) for k in range(len(laws)))
    squares = [mean_square(law) for law in laws]
    return tuple((x,) for x in squares)
