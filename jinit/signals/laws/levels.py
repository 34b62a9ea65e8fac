"""Levels: what all entries share, what one example does, what neighbours do, and what is an entry's own."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jinit._typing import Array
from jinit.signals.laws.arrays import is_traced
from jinit.signals.laws.law import Law, as_float, average, mean_square
from jinit.signals.laws.roots import PLACE, Root
from jinit.signals.laws.runs import Axes, Reach

MOST = 4
# Of a product of two signals, such as the scores of attention, which has what either of them shares.
MOST_OF_PRODUCTS = 6
# A run is not longer than this where neighbours have next to nothing in common.
APART = 1.2


class Level(NamedTuple):
    """What roots have in common in how they vary.

    Attributes:
      axes: along which they do.
      alike: those of several axes along which they come in runs. What is alike along two axes, as in windows
        of an image, and what is alike along neither do not add up to what is alike to some degree along each.
    """

    axes: Axes
    alike: Axes = frozenset()

    @classmethod
    def of(cls, root: Root | Reach) -> Level:
        """That of a root, or of what differs so."""
        alike = frozenset(k for k, run in root.runs if run > APART)
        return cls(root.axes, alike if len(alike) > 1 else frozenset())


Levels = tuple[Level, ...]


def levels_of(*laws: Law, among: Collection[Root] | None = None) -> Levels:
    """The levels of the roots of laws, those shared by most entries first, four at most."""
    every = (r for law in laws for r in law.roots if r.kind != PLACE)
    found = {Level.of(r) for r in every if among is None or r in among}
    if len(found) <= MOST or any(is_traced(law.nodes) for law in laws):
        return limited(found)
    sums = dict.fromkeys(found, 0.0)
    for law in laws:
        x = as_float(law).nodes
        for i, root in enumerate(law.roots):
            if root.kind == PLACE or Level.of(root) not in sums:
                continue
            alone = average(law, [k for k in range(len(law.roots)) if k != i], x)
            sums[Level.of(root)] += mean_square(law, alone - average(law, [i], alone))
    return limited(found, importance=weighed(sums, laws[0].shape))


def weighed(variances: Mapping[Level, float], shape: Sequence[int]) -> dict[Level, float]:
    """What parts of an entry add to the variance of the sum of all entries."""
    return {k: v * math.prod(n for i, n in enumerate(shape) if i not in k.axes) for k, v in variances.items()}


def levels_by_variance(
    spreads: Mapping[Reach, Array], shape: Sequence[int], *, common: bool, most: int = MOST
) -> Levels:
    """The levels for a sum of normals, by their variances where those are known."""
    found = {Level.of(reach) for reach in spreads}
    if len(found) <= most or any(map(is_traced, spreads.values())):
        return limited(found, common=common, most=most)
    sums = dict.fromkeys(found, 0.0)
    for reach, variance in spreads.items():
        sums[Level.of(reach)] += float(np.mean(variance))
    return limited(found, importance=weighed(sums, shape), most=most)


def limited(
    found: Iterable[Level], *, common: bool = True, importance: Mapping[Level, float] | None = None,
    most: int = MOST,
) -> Levels:  # fmt: skip
    """At most so many levels, of which the last holds all axes, and what is alike along none of them.

    Those of most `importance` stay. If that is not known, the largest sets stay, so that what is dropped
    joins a set with few more axes: what two entries no longer share are roots that many others share too.
    With `common` so does the smallest: what all examples share.
    """
    levels = sorted(found, key=lambda k: (len(k.axes), sorted(k.axes), -len(k.alike), sorted(k.alike)))
    if not levels:
        return ()
    everything = frozenset[int]().union(*(k.axes for k in levels))
    last = levels.pop() if levels[-1].axes == everything else Level(everything)
    if len(levels) >= most and importance is not None:
        kept = sorted(levels, key=lambda k: importance[k])[-(most - 1) :]
        levels = [k for k in levels if k in kept]
    elif len(levels) >= most:
        levels = [levels[0], *levels[-(most - 2) :]] if common else levels[-(most - 1) :]
    return (*levels, last)


def level_of(root: Root | Reach, levels: Levels) -> int:
    """The level of a root, or of what differs so; or else the first that varies along all its axes."""
    own = Level.of(root)
    if own in levels:
        return levels.index(own)
    fits = [i for i, level in enumerate(levels) if root.axes <= level.axes]
    even = [i for i in fits if levels[i].axes == levels[fits[0]].axes]  # the last of them is an entry's own
    return even[-1] if fits else len(levels) - 1
