"""Sums of entries along axes: their mean, by the law of large numbers, and a normal remainder."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jinit._typing import Array
from jinit.signals.laws import places
from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.averages import COARSE, FINE, summed
from jinit.signals.laws.kernels import Kernel, grouped
from jinit.signals.laws.law import Axes, Law, all_axes, average, constant, plus_normal, squared, without
from jinit.signals.laws.levels import Level, level_of, limited
from jinit.signals.laws.mixing import Mixing
from jinit.signals.laws.parts import spread_by_reach
from jinit.signals.laws.quadrature import deviations
from jinit.signals.laws.roots import COTANGENT, DEVIATION, PLACE, SIGNAL, Root
from jinit.signals.laws.runs import Reach, Run, alike_in, copies_in, kernel_of, plain, runs_of
from jinit.signals.laws.runs import summed as summed_reach
from jinit.signals.laws.smoothing import smoothed

# The square of a remainder's deviation over its mean up to which few nodes are enough.
SMALL = 0.1
# Nodes for each level of what is left of sums over windows, by the number of levels.
KEPT = {1: (64,), 2: (16, 48), 3: (4, 8, 16), 4: (4, 4, 6, 12)}


class _Part(NamedTuple):
    """What sums of a part of the entries add to the variance: how entries differ, and how the sums do."""

    entries: Reach
    sums: Reach
    variance: Array


def total(
    law: Law, axes: Axes, shape: Sequence[int], name: Hashable, *, keep: bool = False,
    counts: Mapping[int, float] | None = None, sliding: Mapping[int, np.ndarray] | None = None,
) -> Law:  # fmt: skip
    """The law of the sum over `axes`.

    By the law of large numbers that is its mean, given the roots that it does not average, and a normal
    remainder.

    Args:
      law: of the entries.
      axes: axes summed over, or along which windows lie.
      shape: of the result, with the summed axes of one entry.
      name: for the new root.
      keep: whether the remainder stays where the sum is broadcast again, as that of a pooling does.
      counts: number of terms along each axis, if not all.
      sliding: along axes along which windows share entries, which ones each has: `[place, tap]`.
    """
    if counts is None and law.is_linear and any(f <= axes for f in law.fixed_sums):
        return constant(xp.zeros((), law.nodes.dtype), shape, law.dtype)
    n = {i: float(law.shape[i]) for i in axes} if counts is None else dict(counts)
    varying = [i for i, r in enumerate(law.roots) if r.axes & axes and (counts is None or r.kind != PLACE)]
    mean, found = spread_by_reach(law, varying)
    if counts is None and _is_square_deviation(law, axes):
        found = {}
    out = without(law, varying, mean * xp.asarray(math.prod(n.values()), mean.dtype))
    out = dataclasses.replace(out, shape=tuple(shape), fixed_sums=_left_of_sums(law, axes, counts))
    spread_out: Any = 0.0
    parts: list[_Part] = []
    copies: list[float] = []
    windows = {i: _of_windows(entries, law.shape[i]) for i, entries in (sliding or {}).items()}
    for moving, variance in found.items():
        if counts is None and law.adds_to_nothing(axes, moving.axes):
            continue
        kernels = {
            i: m.sums(kernel_of(moving.run(i), m.columns)) for i, m in windows.items() if i in moving.axes
        }
        alike = {i: k.mean_variance / n[i] for i, k in kernels.items()}
        alike |= _at_places(law, axes, moving) if counts is None else {}
        copies.append(copies_in(moving, n, law.shape, alike))
        terms = math.prod(n.values()) ** 2 / copies[-1]
        variance = xp.squeeze(variance, tuple(varying)) * xp.asarray(terms, variance.dtype)
        spread_out = spread_out + variance
        ratios = {i: shape[i] / law.shape[i] for i in moving.axes}
        lengths = {i: _run_of_sums(moving.run(i), n.get(i), kernels.get(i), ratios[i]) for i in ratios}
        runs = runs_of(lengths)
        runs = plain(runs) if is_traced(variance) else runs
        parts.append(_Part(moving, Reach(moving.axes, runs, moving.fixed), variance))
    left = frozenset[int]().union(*(r.axes for _, r, _ in parts)) & all_axes(shape)
    if not varying or not left:
        return out
    if keep:
        return _kept(out, parts, law, windows if windows.keys() == n.keys() else {}, name)
    mine = summed_reach([(p.sums, p.variance) for p in parts], left, shape).along(left)
    few = summed(law, axes, left, copies) if counts is None else None
    kind = COTANGENT if law.is_linear else SIGNAL
    root = Root(name, left, kind, True, mine.runs, mine.fixed, summed=few)
    return plus_normal(out, spread_out, root, _size(out, spread_out))


def _kept(mean: Law, parts: Sequence[_Part], law: Law, windows: Mapping[int, Mixing], name: Hashable) -> Law:
    """`mean` plus a normal for each level of the entries of `law`, of sums over those.

    `windows`: along each axis summed over those of all entries, if every entry is in the middle of one.
    """
    normal, real = law.is_normal or not places.others(mean), all_axes(mean.shape)
    out = dataclasses.replace(mean, is_normal=normal)
    levels = limited({Level.of(part.entries) for part in parts})
    kind = COTANGENT if law.is_linear else SIGNAL
    members_of = [[p[1:] for p in parts if level_of(p.entries, levels) == k] for k in range(len(levels))]
    some = [pair for pair in zip(levels, members_of, strict=True) if pair[1]]
    for k, (level, members) in enumerate(some):
        variance = functools.reduce(operator.add, (v for _, v in members))
        reach = summed_reach(members, level.axes & real, mean.shape).along(real)
        known = smoothed(law, windows, level, reach, variance, (name, k))
        root = Root((name, k), reach.axes, kind, runs=reach.runs, fixed=reach.fixed, smoothed=known)
        out = plus_normal(out, variance.reshape(variance.shape + (1,) * k), root, KEPT[len(some)][k])
    return out


def _at_places(law: Law, axes: Axes, moving: Reach) -> dict[int, float]:
    """To how many entries one is alike along axes of known correlations, where variances differ by place."""
    runs = {i: moving.run(i) for i in axes & places.axes_of(law)}
    at = {i: run for i, run in runs.items() if isinstance(run, Run)}
    if not at or is_traced(law.nodes):
        return {}
    random = [k for k in places.others(law) if law.roots[k].axes & axes]
    variance = spread_by_reach(law, random)[1].get(moving)
    if variance is None:
        return {}
    found = {}
    for i, run in at.items():
        sizes = np.sqrt(np.maximum(places.along_axis(variance, law.roots, i), 0))
        if sizes.ndim and (mean := np.mean(sizes**2)) > 0:
            found[i] = run.kernel.scaled(grouped(sizes / np.sqrt(mean))).run
    return found


def _of_windows(entries: np.ndarray, size: int) -> Mixing:
    """The windows along an axis as rows, of what lies along it: `entries` are `[place, tap]`."""
    rows, taps = np.nonzero(entries >= 0)
    matrix = np.zeros((len(entries), size))
    np.add.at(matrix, (rows, entries[rows, taps]), 1.0)
    return Mixing.of((0, 1), matrix, np.ones(len(matrix)))


def _run_of_sums(run: float, count: float | None, kernel: Kernel | None, ratio: float) -> float:
    """The run of sums over `count` entries, if over any; `ratio`: their number over that of entries."""
    if count is None:
        return run
    if kernel is None:
        return run * count / alike_in(count, run) * ratio
    return Run.over(kernel, np.full(len(kernel.counts), kernel.mean_variance))


def _size(mean: Law, variance: Array) -> int:
    """Nodes for the remainder: few where it is small beside the mean, as of squares."""
    if is_traced(mean.nodes) or is_traced(variance):
        return COARSE
    square, spread = average(mean, of=squared(mean.nodes)), average(mean, of=variance)
    return COARSE if np.all(spread < SMALL * square) else FINE


def _is_square_deviation(law: Law, axes: Axes) -> bool:
    """Whether entries are squares of those of a known deviation along `axes`: their sum is known by it."""
    for i, r in enumerate(law.roots):
        if r.kind == DEVIATION and not r.axes & axes and isinstance(r.name, tuple) and r.name[0] == DEVIATION:
            sizes, _ = deviations(r.name[1])
            size = sizes.reshape(-1, *(1,) * (law.nodes.ndim - 1 - i))
            one = law.nodes.take(np.asarray([-1]), i)
            return bool(np.allclose(law.nodes, one * size**2, atol=0, rtol=1e-4))
    return False


def _left_of_sums(law: Law, axes: Axes, counts: Mapping[int, float] | None) -> frozenset[Axes]:
    """The fixed sums of a sum over `axes`: along what is left of each, unless over windows."""
    return law.sums_left(axes) if counts else frozenset(f - axes for f in law.fixed_sums) - {frozenset()}
