"""Moving entries: the same law, its roots along other axes."""

from __future__ import annotations

import dataclasses
import itertools
import operator
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from jinit.signals.laws import places
from jinit.signals.laws.averages import forgotten
from jinit.signals.laws.law import Law, all_axes
from jinit.signals.laws.mixing import Mixing
from jinit.signals.laws.roots import PLACE, Root
from jinit.signals.laws.runs import Axes, Reach, Run, moved, runs_of, sums_of
from jinit.signals.laws.runs import split as split_runs
from jinit.signals.laws.terms import moved as moved_terms

# For each axis of the operand, the axes of the result along which its entries now stand.
AxisMap = Sequence[Axes]


def relabelled(
    law: Law, axis_map: AxisMap, shape: Sequence[int], rename: Callable[[Root], Hashable] | None = None
) -> Law:
    """`law` with its roots along other axes; `rename` names roots anew whose entries change places."""
    real = all_axes(shape)
    roots = []
    for old in law.roots:
        root = places.relabelled(old, axis_map, shape) if old.kind == PLACE else old
        if root.kind == PLACE:
            roots.append(root)
            continue
        axes = frozenset().union(*(axis_map[i] for i in root.axes)) & real
        name = rename(root) if rename is not None else root.name
        runs = tuple((k, b) for k, b in moved(root, axis_map, law.shape) if k in real)
        kept = root.summed if name == root.name else None
        smoothed = root.smoothed if name == root.name else None
        sums = sums_of((_moved(f, axis_map) & real, share) for f, share in root.fixed)
        terms = moved_terms(root.terms, axis_map) if root.terms else ()
        windowed = root.windowed
        if windowed is not None:
            found = moved(dataclasses.replace(root, runs=windowed.runs), axis_map, law.shape)
            windowed = dataclasses.replace(windowed, runs=tuple((k, b) for k, b in found if k in real))
        roots.append(
            dataclasses.replace(
                root, name=name, axes=axes, runs=runs, fixed=sums, summed=kept, terms=terms,
                windowed=windowed, smoothed=smoothed, mixing=_mixing_moved(root.mixing, axis_map),
            )
        )  # fmt: skip
    fixed = frozenset(_moved(axes, axis_map) & real for axes in law.fixed_sums) - {frozenset()}
    same = all(new.name == old.name for new, old in zip(roots, law.roots, strict=True))
    origin = law.origin if same else None  # other variables, though of the same law
    alike = _moved(law.alike, axis_map) & real
    return dataclasses.replace(
        law, roots=tuple(roots), shape=tuple(shape), fixed_sums=fixed, alike=alike, origin=origin
    )


def _mixing_moved(mixing: Mixing | None, axis_map: AxisMap) -> Mixing | None:
    """That whose axes stand elsewhere now, each at one place."""
    if mixing is None or any(len(axis_map[i]) != 1 for i in mixing.axes):
        return None
    row, column = (next(iter(axis_map[i])) for i in mixing.axes)
    return dataclasses.replace(mixing, axes=(row, column))


def _moved(axes: Axes, axis_map: AxisMap) -> Axes:
    """Where a set of axes stands now, or nowhere if others came to stand there too."""
    to = frozenset[int]().union(*(axis_map[i] for i in axes))
    shared = any(axis_map[i] & to for i in range(len(axis_map)) if i not in axes)
    return frozenset() if shared else to


def broadcast(law: Law, dimensions: Sequence[int], shape: Sequence[int]) -> Law:
    """`broadcast_in_dim`: axis `i` becomes axis `dimensions[i]`."""
    return relabelled(law, [frozenset([d]) for d in dimensions], shape)


def squeezed(law: Law, dimensions: Sequence[int], shape: Sequence[int]) -> Law:
    """`squeeze`: axes of one entry leave."""
    kept = [i for i in range(len(law.shape)) if i not in dimensions]
    place = {axis: k for k, axis in enumerate(kept)}
    return relabelled(
        law, [frozenset([place[i]] if i in place else ()) for i in range(len(law.shape))], shape
    )


def transposed(law: Law, permutation: Sequence[int]) -> Law:
    """`transpose`: axis `k` of the result is axis `permutation[k]`."""
    place = {axis: k for k, axis in enumerate(permutation)}

    def rename(root: Root) -> Hashable:
        order = tuple(sorted(range(len(root.axes)), key=lambda r: place[sorted(root.axes)[r]]))
        if order == tuple(range(len(order))):
            return root.name
        if _tagged(root.name, "transpose"):
            base, _, before = root.name  # type: ignore[misc]
            order = tuple(before[k] for k in order)
            return base if order == tuple(range(len(order))) else (base, "transpose", order)
        return (root.name, "transpose", order)

    shape = [law.shape[i] for i in permutation]
    return relabelled(law, [frozenset([place[i]]) for i in range(len(shape))], shape, rename)


def reshaped(law: Law, shape: Sequence[int]) -> Law:
    """`reshape`: axes split and merge in groups of equal size; where they do both, they split first."""
    if (between := _between(law.shape, shape)) is not None:
        return reshaped(reshaped(law, between), shape)
    axis_map: list[Axes] = [frozenset()] * len(law.shape)
    mixed: set[int] = set()
    groups = _groups(law.shape, shape)
    for before, after in groups:
        if len(before) > 1 and len(after) == 1:
            if any(r.average and 0 < len(r.axes & {*before}) < len(before) for r in law.roots):
                law = forgotten(law, law.shape)  # it is no longer seen to be repeated
            law = places.merged(law, before)
    for before, after in groups:
        for i in before:
            axis_map[i] = frozenset(after)
        if len(before) > 1 or len(after) > 1:
            mixed.update(before)

    def rename(root: Root) -> Hashable:
        if not root.axes & mixed:
            return root.name
        if _tagged(root.name, "reshape"):
            base, _, original = root.name  # type: ignore[misc]
            return base if original == tuple(shape) else root.name
        return (root.name, "reshape", law.shape)

    law = relabelled(law, axis_map, shape, rename)
    return dataclasses.replace(law, roots=tuple(_with_runs_split(r, groups, shape) for r in law.roots))


def _with_runs_split(root: Root, groups: Sequence[tuple[list[int], list[int]]], shape: Sequence[int]) -> Root:
    """A root of axes that were split or merged, which does not vary along those that are one run now."""
    if not root.runs:
        return root
    runs = split_runs(root.runs, groups, shape)
    same = frozenset(k for k, run in runs if not isinstance(run, Run) and run >= shape[k])
    return dataclasses.replace(root, runs=runs).along(root.axes - same)


def _tagged(name: Hashable, tag: str) -> bool:
    return isinstance(name, tuple) and len(name) == 3 and name[1] == tag


def _groups(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Axes of more than one entry, in the smallest groups that hold the same entries on both sides."""
    left = [i for i, n in enumerate(before) if n > 1]
    right = [i for i, n in enumerate(after) if n > 1]
    groups = []
    while left and right:
        a, b = [left.pop(0)], [right.pop(0)]
        m, n = before[a[0]], after[b[0]]
        while m != n:
            if m < n:
                a.append(left.pop(0))
                m *= before[a[-1]]
            else:
                b.append(right.pop(0))
                n *= after[b[-1]]
        groups.append((a, b))
    return groups


def _between(before: Sequence[int], after: Sequence[int]) -> tuple[int, ...] | None:
    """The shape that `before` splits into and that merges into `after`, if neither is all there is to it.

    As of `(examples, places)` and `(examples * windows, places / windows)`.
    """
    sizes: list[int] = []
    groups = _groups(before, after)
    for a, b in groups:
        ends = {*itertools.accumulate((before[i] for i in a), operator.mul)}
        ends |= {*itertools.accumulate((after[i] for i in b), operator.mul)}
        for low, high in itertools.pairwise([1, *sorted(ends)]):
            if high % low:
                return None
            sizes.append(high // low)
    return tuple(sizes) if any(len(a) > 1 < len(b) for a, b in groups) else None


def rearranged(law: Law, axes: Axes, shape: Sequence[int], tag: Hashable) -> Law:
    """Entries picked or reordered along `axes`, which stay where they are: slices, flips."""
    same = [frozenset([i]) for i in range(len(law.shape))]
    law = law.without_sums(axes)
    return relabelled(law, same, shape, lambda r: (r.name, tag) if r.axes & axes else r.name)


def without_runs(law: Law, axes: Axes) -> Law:
    """`law`, no neighbours alike along these axes."""
    left = [r.along(r.axes - axes).runs for r in law.roots]
    roots = tuple(dataclasses.replace(r, runs=runs) for r, runs in zip(law.roots, left, strict=True))
    return dataclasses.replace(law, roots=roots)


def sliced(law: Law, eqn: Any) -> Law:
    """`slice`."""
    shape = eqn.outvars[0].aval.shape
    p = eqn.params
    tag = ("slice", p["start_indices"], p["limit_indices"], p["strides"])
    strides = p["strides"] or (1,) * len(shape)
    law = without_runs(law, frozenset(i for i, s in enumerate(strides) if s > 1))
    cuts = zip(p["start_indices"], p["limit_indices"], strides, strict=True)
    law = places.picked(law, {i: np.arange(*cut) for i, cut in enumerate(cuts)})
    return rearranged(law, _cut(law.shape, shape), shape, tag)


def split(law: Law, eqn: Any) -> list[Law]:
    """`split`."""
    axis, sizes = eqn.params["axis"], tuple(eqn.params["sizes"])
    ends = np.cumsum(sizes)
    parts = [places.picked(law, {axis: np.arange(end - n, end)}) for end, n in zip(ends, sizes, strict=True)]
    return [
        rearranged(part, frozenset([axis]), v.aval.shape, ("split", sizes, k))
        for k, (part, v) in enumerate(zip(parts, eqn.outvars, strict=True))
    ]


def reversed_along(law: Law, axes: Sequence[int]) -> Law:
    """`rev`."""
    law = places.picked(law, {i: np.arange(law.shape[i])[::-1] for i in axes})
    return rearranged(law, frozenset(axes), law.shape, "rev")


def _cut(before: Sequence[int], after: Sequence[int]) -> Axes:
    return frozenset(i for i, (m, n) in enumerate(zip(before, after, strict=True)) if m != n)


def tiled(law: Law, reps: Sequence[int], name: Hashable) -> Law:
    """`tile`: the whole again and again, so that an entry is alike to as many as there are copies."""
    shape = [n * r for n, r in zip(law.shape, reps, strict=True)]
    again = frozenset(i for i, r in enumerate(reps) if r > 1)
    law = places.picked(law, {i: np.tile(np.arange(law.shape[i]), reps[i]) for i in again})
    law = rearranged(forgotten(law, law.shape) if again else law, again, shape, name)
    roots = []
    for root in law.roots:
        if root.kind == PLACE:
            roots.append(root)
            continue
        reach = Reach(root.axes, root.runs)
        runs = runs_of({i: reach.run(i) * reps[i] for i in root.axes})
        roots.append(dataclasses.replace(root, runs=runs))
    return dataclasses.replace(law, roots=tuple(roots))


def dynamically_sliced(law: Law, shape: Sequence[int], name: Hashable) -> Law:
    """`dynamic_slice`, from wherever."""
    return rearranged(law, _cut(law.shape, shape), shape, name)
