"""Sums over windows, which stay where they are: their mean, and a normal for each level of the entries."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jinit._typing import Array
from jinit.signals.laws import places
from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.folding import Folds, of_window
from jinit.signals.laws.kernels import Kernel, grouped
from jinit.signals.laws.law import Law, all_axes, without
from jinit.signals.laws.levels import Level, level_of, limited
from jinit.signals.laws.mixing import Mixing
from jinit.signals.laws.parts import spread_by_reach
from jinit.signals.laws.remainders import plus_remainder
from jinit.signals.laws.roots import COTANGENT, SIGNAL, Root
from jinit.signals.laws.runs import Reach, Run, alike_in, copies_in, kernel_of, plain, run_of_sums, runs_of
from jinit.signals.laws.runs import summed as summed_reach
from jinit.signals.laws.smoothing import smoothed
from jinit.signals.laws.windows import Windows, at_indices, evened

# Nodes for each level, by the number of levels.
SIZES = {1: (64,), 2: (16, 48), 3: (4, 8, 16), 4: (4, 4, 6, 12)}


class _Part(NamedTuple):
    """What sums of a part of the entries add to the variance: how entries differ, and how the sums do."""

    entries: Reach
    sums: Reach
    variance: Array


def pooled(law: Law, windows: Windows, shape: Sequence[int], name: Hashable) -> Law:
    """The law of sums over windows, an array of this shape.

    By the law of large numbers that is its mean, given the roots that it does not average, and a normal
    remainder; where windows reach into padding, of as many entries as they have.
    """
    axes, most = frozenset(windows.counts), places.MOST.get(len(windows.counts), 2)
    varying = places.others_along(law, axes)
    mean, found = spread_by_reach(law, varying)
    out = without(law, varying, mean)
    ours = {i: places.position_along(out, i) for i in windows.counts}
    along = {i: (None if k is None else out.roots[k], None) for i, k in ours.items()}
    each = (of_window(i, along[i], windows.entries[i], i, most) for i in windows.counts)
    some = (dataclasses.replace(f, size=law.shape[f.index]) for f in each if f is not None)
    folds = Folds(tuple(some), out.roots)
    even = math.prod(n for i, n in windows.counts.items() if i not in folds.indices)
    out = dataclasses.replace(
        out,
        nodes=folds.summed(out.nodes, frozenset()) * xp.asarray(even, mean.dtype),
        weights=folds.weights(dict(zip(out.roots, out.weights, strict=True))),
        roots=folds.left,
        shape=tuple(shape),
        fixed_sums=law.sums_left(axes),
    )
    parts = [
        _part(law, reach, xp.squeeze(variance, tuple(varying)), windows, folds, out)
        for reach, variance in found.items()
    ]
    left = frozenset[int]().union(*(p.sums.axes for p in parts)) & all_axes(shape)
    return _with_normals(out, parts, law, windows, name) if varying and left else out


def _part(law: Law, entries: Reach, variance: Array, windows: Windows, folds: Folds, sums: Law) -> _Part:
    n, own, known = windows.counts, dict[int, Kernel](), dict[int, np.ndarray]()
    place_by_place = {fold.index: fold for fold in folds.folds}
    known_runs = {i for i, run in entries.runs if isinstance(run, Run)}
    for i in entries.axes & windows.mixing.keys() & (windows.sharing | known_runs):
        kernel, fold = kernel_of(entries.run(i), law.shape[i]), place_by_place.get(i)
        if fold is not None and not is_traced(variance):
            kernel = kernel.scaled(grouped(folds.deviation(variance, fold)))
            own[i] = windows.mixing[i].sums(kernel)
            known[i] = fold.by_place(own[i].by_entry)
        else:
            own[i] = windows.mixing[i].sums(kernel)
    lost = copies_in(Reach(entries.axes), n, law.shape) / copies_in(
        Reach(entries.axes, fixed=entries.fixed), n, law.shape
    )
    terms: Any = lost
    for i in n.keys() - known.keys():
        terms = terms * (1 if i in folds.indices else n[i] if i in entries.axes else n[i] ** 2)
        if i in own:
            terms = terms * own[i].mean_variance / n[i]
        elif i in entries.axes:
            alike = np.asarray([alike_in(x, entries.run(i)) for x in windows.numbers[i]])
            terms = terms * at_indices(sums, i, alike)
    variance = folds.summed(variance, folds.indices - entries.axes, known)
    variance = variance * xp.asarray(terms, variance.dtype)
    lengths = {i: run_of_sums(entries.run(i), n.get(i), sums.shape[i] / law.shape[i]) for i in entries.axes}
    lengths |= {i: Run.over(k, grouped(evened(sums, i, k.by_entry))) for i, k in own.items()}
    runs = plain(runs_of(lengths)) if is_traced(variance) else runs_of(lengths)
    return _Part(entries, Reach(entries.axes, runs, entries.fixed), variance)


def _with_normals(mean: Law, parts: Sequence[_Part], law: Law, windows: Windows, name: Hashable) -> Law:
    """`mean` plus a normal for each level of the entries of `law`, of sums over those."""
    normal, real = law.is_normal or not places.others(mean), all_axes(mean.shape)
    out = dataclasses.replace(mean, is_normal=normal)
    levels = limited({Level.of(part.entries) for part in parts})
    kind = COTANGENT if law.is_linear else SIGNAL
    members_of = [[p[1:] for p in parts if level_of(p.entries, levels) == k] for k in range(len(levels))]
    some = [pair for pair in zip(levels, members_of, strict=True) if pair[1]]
    for k, (level, members) in enumerate(some):
        variance = functools.reduce(operator.add, (v for _, v in members))
        reach = summed_reach(
            members, level.axes & real, mean.shape, lambda v, axis: places.along_axis(v, mean.roots, axis)
        ).along(real)
        known = smoothed(law, _standardised(windows, variance, mean), level, mean, reach, variance, (name, k))
        root = Root((name, k), reach.axes, kind, runs=reach.runs, fixed=reach.fixed, smoothed=known)
        size = SIZES[len(some)][k]
        out = plus_remainder(out, law, variance.reshape(variance.shape + (1,) * k), root, size)
    return out


def _standardised(windows: Windows, variance: Array, mean: Law) -> dict[int, Mixing]:
    """Along each axis the windows around all entries, by place over the deviation there; else none."""
    if not windows.sliding & windows.sharing >= windows.counts.keys() or is_traced(variance):
        return {}
    whole = places.mean_over(variance, mean.roots)
    deviations = {i: np.sqrt(places.along_axis(variance, mean.roots, i) / whole) for i in windows.mixing}
    return {
        i: mixing.over(grouped(np.broadcast_to(deviations[i], mixing.rows)))
        for i, mixing in windows.mixing.items()
    }
