"""Sets of axes along which roots vary: what all entries share, what those of one example do, and so on."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from jinit._typing import Array
from jinit.signals.laws.arrays import is_traced
from jinit.signals.laws.law import Law, as_float, average, mean_square
from jinit.signals.laws.roots import PLACE, Root
from jinit.signals.laws.runs import Axes, Reach

Levels = tuple[Axes, ...]

MOST = 4
# Of a product of two signals, such as the scores of attention, which has what either of them shares.
MOST_OF_PRODUCTS = 6


def levels_of(*laws: Law, among: Collection[Root] | None = None) -> Levels:
    """The sets of axes along which roots vary, those shared by most entries first, four at most."""
    every = (r for law in laws for r in law.roots if r.kind != PLACE)
    found = {r.axes for r in every if among is None or r in among}
    if len(found) <= MOST or any(is_traced(law.nodes) for law in laws):
        return limited(found)
    sums = dict.fromkeys(found, 0.0)
    for law in laws:
        x = as_float(law).nodes
        for i, root in enumerate(law.roots):
            if root.axes not in sums or root.kind == PLACE:
                continue
            alone = average(law, [k for k in range(len(law.roots)) if k != i], x)
            sums[root.axes] += mean_square(law, alone - average(law, [i], alone))
    return limited(found, importance=weighed(sums, laws[0].shape))


def weighed(variances: Mapping[Axes, float], shape: Sequence[int]) -> dict[Axes, float]:
    """What parts of an entry add to the variance of the sum of all entries."""
    return {k: v * math.prod(n for i, n in enumerate(shape) if i not in k) for k, v in variances.items()}


def levels_by_variance(
    spreads: Mapping[Axes, Array], shape: Sequence[int], *, common: bool, most: int = MOST
) -> Levels:
    """The levels for a sum of normals, by their variances where those are known."""
    if len(spreads) <= most or any(map(is_traced, spreads.values())):
        return limited(set(spreads), common=common, most=most)
    sums = {axes: float(np.mean(v)) for axes, v in spreads.items()}
    return limited(set(spreads), importance=weighed(sums, shape), most=most)


def limited(
    found: set[Axes], *, common: bool = True, importance: Mapping[Axes, float] | None = None, most: int = MOST
) -> Levels:
    """At most so many levels, of which the last holds all axes.

    Those of most `importance` stay. If that is not known, the largest sets stay, so that what is dropped
    joins a set with few more axes: what two entries no longer share are roots that many others share too.
    With `common` so does the smallest: what all examples share.
    """
    levels = sorted(found, key=lambda a: (len(a), sorted(a)))
    if not levels:
        return ()
    everything = frozenset[int]().union(*levels)
    proper = [a for a in levels if a != everything]
    if len(proper) >= most and importance is not None:
        kept = sorted(proper, key=lambda a: importance[a])[-(most - 1) :]
        proper = [a for a in proper if a in kept]
    elif len(proper) >= most:
        proper = [proper[0], *proper[-(most - 2) :]] if common else proper[-(most - 1) :]
    return (*proper, everything)


def level_of(root: Root | Reach, levels: Levels) -> int:
    """The first level that varies along all axes of a root, or of what differs so."""
    fits = [i for i, axes in enumerate(levels) if root.axes <= axes]
    return fits[0] if fits else len(levels) - 1
