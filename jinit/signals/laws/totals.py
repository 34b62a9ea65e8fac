"""Sums of entries along axes: their mean, by the law of large numbers, and a normal remainder."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from jinit._typing import Array
from jinit.signals.laws import places
from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.averages import COARSE, FINE
from jinit.signals.laws.kernels import grouped
from jinit.signals.laws.law import Axes, Law, all_axes, average, constant, squared, without
from jinit.signals.laws.parts import spread_by_reach
from jinit.signals.laws.quadrature import deviations
from jinit.signals.laws.remainders import plus_remainder
from jinit.signals.laws.roots import COTANGENT, DEVIATION, PLACE, SIGNAL, Root
from jinit.signals.laws.runs import Reach, Run, copies_in, plain, run_of_sums, runs_of
from jinit.signals.laws.runs import summed as summed_reach
from jinit.signals.laws.smoothing import summed_whole
from jinit.signals.laws.sums import with_entries

# The square of a remainder's deviation over its mean up to which few nodes are enough.
SMALL = 0.1


def total(
    law: Law, axes: Axes, shape: Sequence[int], name: Hashable, counts: Mapping[int, float] | None = None
) -> Law:
    """The law of the sum over `axes`.

    By the law of large numbers that is its mean, given the roots that it does not average, and a remainder.

    Args:
      law: of the entries.
      axes: axes summed over.
      shape: of the result, with the summed axes of one entry.
      name: for the new root.
      counts: number of terms along each axis, if not all.
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
    parts: list[tuple[Reach, Array]] = []
    for moving, variance in found.items():
        if counts is None and law.adds_to_nothing(axes, moving.axes):
            continue
        alike = _at_places(law, axes, moving) if counts is None else {}
        terms = math.prod(n.values()) ** 2 / copies_in(moving, n, law.shape, alike)
        variance = xp.squeeze(variance, tuple(varying)) * xp.asarray(terms, variance.dtype)
        spread_out = spread_out + variance
        lengths = {i: run_of_sums(moving.run(i), n.get(i), shape[i] / law.shape[i]) for i in moving.axes}
        runs = runs_of(lengths)
        runs = plain(runs) if is_traced(variance) else runs
        parts.append((Reach(moving.axes, runs, moving.fixed), variance))
    left = frozenset[int]().union(*(r.axes for r, _ in parts)) & all_axes(shape)
    if not varying or not left:
        return out
    mine = summed_reach(parts, left, shape).along(left)
    kind = COTANGENT if law.is_linear else SIGNAL
    root = Root(name, left, kind, True, mine.runs, mine.fixed)
    sums = plus_remainder(out, law, spread_out, root, _size(out, spread_out))
    if counts is not None:
        return sums
    known = summed_whole(law, axes, sums)
    return known if known.roots[-1].smoothed is not None else with_entries(law, axes, sums)


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
