"""Arrays put together: entries of several laws side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from jinit.signals.laws import places
from jinit.signals.laws.align import canonical
from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.averages import forgotten
from jinit.signals.laws.law import Axes, Law, all_axes, as_float
from jinit.signals.laws.levels import levels_of
from jinit.signals.laws.moving import rearranged
from jinit.signals.laws.pieces import side_by_side
from jinit.signals.laws.roots import PLACE, Root
from jinit.signals.laws.runs import picked, runs_of
from jinit.signals.laws.values import Held

# In the order of a piece: no entry of the array.
NONE = -1


def mixture(
    parts: Sequence[Law], shares: Sequence[float], axes: Axes, shape: Sequence[int], name: Hashable
) -> Law:
    """Entries of several laws side by side along `axes`, in these shares."""
    linear = any(p.is_linear for p in parts)
    parts = places.refined([places.as_signals(forgotten(as_float(p), p.shape), axes) for p in parts])
    levels, at = levels_of(*parts), places.union_of(parts)
    aligned = [canonical(places.along(p, at), levels, name, linear=linear) for p in parts]
    first = aligned[0]
    share = xp.asarray(shares, xp.real(first.nodes).dtype)
    return dataclasses.replace(
        first,
        nodes=xp.stack([p.nodes.astype(first.nodes.dtype) for p in aligned]),
        weights=(share / share.sum(), *first.weights),
        roots=(Root((name, "part"), axes & all_axes(shape)), *first.roots),
        shape=tuple(shape),
        is_normal=False,
        fixed_sums=frozenset(),
    )


def concatenated(parts: Sequence[Law], axis: int, shape: Sequence[int], name: Hashable) -> Law:
    """`concatenate`; pieces of one array, as in a roll or in circular padding, are of one law."""
    widest = max(parts, key=lambda p: p.shape[axis])
    pieces = all(p.nodes is widest.nodes and _beside(axis, p) == _beside(axis, widest) for p in parts)
    if pieces and (widest.shape[axis] > 1 or all(p.roots == widest.roots for p in parts)):
        return rearranged(_in_order(widest, _order(parts, axis), axis), frozenset([axis]), shape, name)
    return side_by_side([p for p in parts if p.shape[axis]], axis, shape, name)


def _beside(axis: int, law: Law) -> list[Any]:
    """In what runs a law is alike along the other axes: rows picked by two indices are two."""
    return [[(k, b) for k, b in r.runs if k != axis] for r in law.roots]


def _order(parts: Sequence[Law], axis: int) -> tuple[int, ...] | None:
    """Which entry of an array stands where, of which these are slices or all of it; none if not known."""
    order, arrays = list[int](), set[Hashable]()
    for p in parts:
        name: Any = next((r.name for r in p.roots if axis in r.axes and r.kind != PLACE), None)
        if isinstance(name, tuple) and isinstance(name[-1], tuple) and name[-1][:1] == ("slice",):
            _, starts, ends, strides = name[-1]
            order += range(starts[axis], ends[axis], strides[axis] if strides else 1)
            arrays.add(name[0])
        else:
            order += range(p.shape[axis])
            arrays.add(name)
    return tuple(order) if len(arrays) == 1 else None


def _in_order(law: Law, order: tuple[int, ...] | None, axis: int) -> Law:
    """A slice of an array, its runs those of entries of that array in this order."""
    if order is None:
        return law
    runs = [runs_of({k: picked(b, order) if k == axis else b for k, b in r.runs}) for r in law.roots]
    roots = (dataclasses.replace(r, runs=mine) for r, mine in zip(law.roots, runs, strict=True))
    return dataclasses.replace(law, roots=tuple(roots))


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
    """Entries of an array along one axis, among zeros.

    Attributes:
      law: of the piece, kept so that its nodes, by which it is found, are no others.
      source: of the array.
      axis: along which it was cut.
      order: which entry stands where, or `NONE`.
    """

    law: Law
    source: Law
    axis: int
    order: tuple[int, ...]


@dataclasses.dataclass
class Pieces:
    """Slices of arrays among zeros, of which the gradient of a roll, or of a concatenation, is a sum."""

    known: dict[Hashable, Piece] = dataclasses.field(default_factory=dict)

    def note(self, eqn: Any, ins: Sequence[Any], outs: Sequence[Law]) -> None:
        """Remember what was cut from an array, or one of those that was padded with zeros."""
        p, kind, law = eqn.params, eqn.primitive.name, ins[0]
        if is_traced(law.nodes):
            return
        if kind == "pad":
            zero = isinstance(ins[1], Held) and not is_traced(ins[1].array) and not np.any(ins[1].array)
            if zero:
                self._note_padded(p["padding_config"], law, outs[0])
        elif kind == "split":
            starts = np.cumsum([0, *p["sizes"][:-1]])
            for start, out in zip(starts, outs, strict=True):
                self._note_cut(law, out, p["axis"], int(start))
        elif set(p["strides"] or (1,)) == {1}:
            cuts = [i for i, (m, n) in enumerate(zip(law.shape, outs[0].shape, strict=True)) if m != n]
            if len(cuts) == 1:
                self._note_cut(law, outs[0], cuts[0], p["start_indices"][cuts[0]])

    def _note_cut(self, law: Law, out: Law, axis: int, start: int) -> None:
        self.known[out.identity] = Piece(out, law, axis, tuple(range(start, start + out.shape[axis])))

    def _note_padded(self, padding: Any, law: Law, out: Law) -> None:
        if (piece := self.known.get(law.identity)) is None or out.shape != piece.source.shape:
            return
        low, high, interior = padding[piece.axis]
        if min(low, high) >= 0 == interior:
            order = (NONE,) * low + piece.order + (NONE,) * high
            self.known[out.identity] = dataclasses.replace(piece, law=out, order=order)

    def added(self, eqn: Any, ins: Sequence[Any], name: Hashable) -> list[Law] | None:
        """The sum of two pieces side by side that are all of an array, which is that in another order."""
        if eqn.primitive.name not in ("add", "add_any") or not all(isinstance(x, Law) for x in ins):
            return None
        a, b = (self.known.get(x.identity) for x in ins)
        if a is None or b is None or a.source is not b.source or a.axis != b.axis:
            return None
        if any(i != NONE != j for i, j in zip(a.order, b.order, strict=True)):
            return None
        order = tuple(map(max, a.order, b.order))
        if sorted(order) != list(range(len(order))):
            return None
        law = places.picked(a.source, {a.axis: np.asarray(order)})
        law = _in_order(law, order, a.axis)
        return [rearranged(law, frozenset([a.axis]), law.shape, name)]
