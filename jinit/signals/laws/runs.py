"""Entries that come in runs: what a pooling or a repetition shares among neighbours."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jinit._typing import Array
from jinit.signals.laws.arrays import is_traced

Axes = frozenset[int]
Runs = tuple[tuple[int, float], ...]


@dataclasses.dataclass(frozen=True)
class Reach:
    """How what differs along some axes does so.

    Attributes:
      axes: the axes.
      runs: of axes along which neighbours are alike: to how many entries one is alike, `Σ_d ρ(d)` over their
        correlations. That of the gradient of an average over windows of two is 2. A sum of `n` entries then
        has `n` times as many variances.
      fixed: of gradients, sets of axes, along all of which together it adds up to nothing.
    """

    axes: Axes = frozenset()
    runs: Runs = ()
    fixed: frozenset[Axes] = frozenset()

    def run(self, axis: int) -> float:
        """To how many entries one is alike along an axis."""
        return next((length for k, length in self.runs if k == axis), 1.0)

    def along(self, axes: Axes) -> Reach:
        """The same along these axes alone."""
        fixed = frozenset(f & axes for f in self.fixed) - {frozenset()}
        return Reach(self.axes & axes, tuple((k, b) for k, b in self.runs if k in axes), fixed)

    def adds_to_nothing(self, summed: Axes) -> bool:
        """Whether it does along these axes."""
        return any(f & self.axes <= summed for f in self.fixed if f & self.axes)


def runs_of(lengths: Mapping[int, float]) -> Runs:
    """Those longer than one, in order."""
    return tuple(sorted((k, float(b)) for k, b in lengths.items() if b > 1 + 1e-6))


def together(reaches: Iterable[Any]) -> Reach:
    """How a product differs: along all axes of its factors, in the shorter runs."""
    found = [Reach(r.axes, r.runs, r.fixed) for r in reaches]
    axes = frozenset[int]().union(*(r.axes for r in found))
    sums = {f for r in found for f in r.fixed}
    fixed = frozenset(f for f in sums if all(f in r.fixed or not f & r.axes for r in found))
    return Reach(axes, runs_of({k: min(r.run(k) for r in found if k in r.axes) for k in axes}), fixed)


def summed(members: Sequence[tuple[Reach, Array]], axes: Axes, shape: Sequence[int]) -> Reach:
    """How a sum of independent parts differs, each by its own reach and variance."""
    lengths = {}
    traced = any(is_traced(v) for _, v in members)
    weights = [1.0 if traced else float(np.mean(v)) for _, v in members]
    for k in axes:
        own = [r.run(k) if k in r.axes else float(shape[k]) for r, _ in members]
        if traced or not sum(weights) > 0 or not math.isfinite(sum(weights)):
            lengths[k] = min(own, default=1.0)
        else:
            lengths[k] = sum(b * w for b, w in zip(own, weights, strict=True)) / sum(weights)
    fixed = [r.fixed for r, _ in members]
    return Reach(axes, runs_of(lengths), frozenset.intersection(*fixed) if fixed else frozenset())


def moved(root: Any, axis_map: Sequence[Axes], before: Sequence[int]) -> Runs:
    """The runs of a root whose axes stand elsewhere now; of merged axes, those it lacks make it run on."""
    mine, lengths = Reach(root.axes, root.runs), {}
    for axis in frozenset[int]().union(*(axis_map[i] for i in root.axes)):
        sources = [i for i in range(len(axis_map)) if axis in axis_map[i]]
        lengths[axis] = math.prod(mine.run(i) if i in root.axes else before[i] for i in sources)
    return runs_of(lengths)


def split(runs: Runs, groups: Sequence[tuple[list[int], list[int]]], after: Sequence[int]) -> Runs:
    """Runs along one axis that became several: as long as the last of these, and on along the others."""
    lengths = dict(runs)
    for old, new in groups:
        if len(new) < 2:
            continue
        length = lengths.get(new[-1], 1.0) if len(old) == 1 else 1.0
        for axis in reversed(new):
            lengths[axis] = min(length, float(after[axis]))
            length = max(1.0, length / after[axis])
    return runs_of(lengths)


def alike_in(count: float, run: float, *, sliding: bool) -> float:
    """To how many of `count` entries in a row one is alike, on average over the row: `Σ_ij ρ(i-j) / count`.

    Runs and windows that do not slide begin together. Else the correlation falls off by `1 / run`.
    """
    if run <= 1:
        return 1.0
    if not sliding:
        return max(1.0, min(run, count))
    return 1 + 2 * sum((1 - d / count) * max(0.0, 1 - d / run) for d in range(1, math.ceil(count)))


def copies_in(reach: Reach, counts: Mapping[int, float], sliding: Axes = frozenset()) -> float:
    """How many independent copies of what differs so there are among so many entries along each axis."""
    return math.prod(
        n / alike_in(n, reach.run(i), sliding=i in sliding) for i, n in counts.items() if i in reach.axes
    )
