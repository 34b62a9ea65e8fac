"""Entries that come in runs: what a pooling or a repetition shares among neighbours."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jinit._typing import Array
from jinit.signals.laws.arrays import is_traced
from jinit.signals.laws.kernels import MOST, Kernel, grouped

Axes = frozenset[int]
Runs = tuple[tuple[int, float], ...]
Sums = tuple[tuple[Axes, float], ...]

# Of variances at all entries: those that differ by less, over their mean, count as the same.
EVEN = 0.2


class Run(float):
    """To how many entries one is alike along an axis, with the correlations of any two entries.

    Deviations are one on average over places that count as alike. What is computed with it is a plain number
    again, so that the kernel is never that of other entries.
    """

    kernel: Kernel

    @classmethod
    def of(cls, kernel: Kernel) -> Run:
        """From correlations."""
        run = cls(kernel.run)
        run.kernel = kernel
        return run

    @classmethod
    def over(cls, kernel: Kernel, variance: np.ndarray) -> Run:
        """From covariances, over what is known of variances, by group, besides."""
        some = variance > 1e-9 * max(np.max(variance), 1e-300)
        return cls.of(kernel.scaled(np.where(some, 1 / np.sqrt(np.where(some, variance, 1)), 0)))

    @functools.cached_property
    def evened(self) -> Run:
        """The run of the same correlations between places of the same variance; the same object each time."""
        return Run.over(self.kernel, self.kernel.variance)

    def __eq__(self, other: object) -> bool:
        return float(self) == other and self.kernel is getattr(other, "kernel", None)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(float(self))


def kernel_of(run: float, size: int) -> Kernel:
    """The correlations of so many entries: as they are known, or else falling off by `1 / run`."""
    return run.kernel if isinstance(run, Run) and run.kernel.size == size else Kernel.of_run(run, size)


@dataclasses.dataclass(frozen=True)
class Reach:
    """How what differs along some axes does so.

    Attributes:
      axes: the axes.
      runs: of axes along which neighbours are alike: to how many entries one is alike, `Σ_d ρ(d)` over their
        correlations. That of the gradient of an average over windows of two is 2. A sum of `n` entries then
        has `n` times as many variances.
      fixed: sets of axes, each with the share of the variance that adds up to nothing along all of them, as
        behind a mean that was subtracted.
    """

    axes: Axes = frozenset()
    runs: Runs = ()
    fixed: Sums = ()

    def run(self, axis: int) -> float:
        """To how many entries one is alike along an axis."""
        return next((length for k, length in self.runs if k == axis), 1.0)

    def along(self, axes: Axes) -> Reach:
        """The same along these axes alone."""
        runs = tuple((k, b) for k, b in self.runs if k in axes)
        return Reach(self.axes & axes, runs, sums_of((f & axes, share) for f, share in self.fixed))

    def share(self, axes: Axes) -> float:
        """The share of the variance that adds up to nothing along all of these axes."""
        return dict(self.fixed).get(axes, 0.0)


def runs_of(lengths: Mapping[int, float]) -> Runs:
    """Those longer than one, in order."""
    known = {k: b for k, b in lengths.items() if b > 1 + 1e-6 or isinstance(b, Run)}
    return tuple((k, b if isinstance(b, Run) else float(b)) for k, b in sorted(known.items()))


def plain(runs: Runs) -> Runs:
    """Runs as long, of which nothing else is known."""
    return tuple((k, float(b)) for k, b in runs)


def sums_of(shares: Iterable[tuple[Axes, float]]) -> Sums:
    """Those of some share, the largest of each, in order."""
    found: dict[Axes, float] = {}
    for axes, share in shares:
        if axes and share > 1e-3:
            found[axes] = max(found.get(axes, 0.0), round(share, 3))
    return tuple(sorted(found.items(), key=lambda pair: sorted(pair[0])))


def together(reaches: Iterable[Any]) -> Reach:
    """How a product differs: along all axes of its factors, in the shorter runs or by products of kernels."""
    found = [Reach(r.axes, r.runs, r.fixed) for r in reaches]
    axes = frozenset[int]().union(*(r.axes for r in found))
    runs = runs_of({k: _product(tuple(r.run(k) for r in found if k in r.axes)) for k in axes})
    sums = {f for r in found for f, _ in r.fixed if f & axes}
    return Reach(axes, runs, sums_of((f, min(r.share(f) for r in found if f & r.axes)) for f in sums))


def _product(runs: tuple[float, ...]) -> float:
    """The run of a product of factors of these."""
    if len(runs) == 1:
        return runs[0]
    plain = [r for r in runs if not isinstance(r, Run)]
    return min(plain) if len(plain) == len(runs) or 1 in plain else _of_kernels(tuple(sorted(runs)))


@functools.lru_cache(maxsize=256)  # so that the same product is the same object
def _of_kernels(runs: tuple[float, ...]) -> Run:
    size = next(r.kernel.size for r in runs if isinstance(r, Run))
    return Run.of(functools.reduce(operator.mul, (kernel_of(r, size) for r in runs)))


def summed(
    members: Sequence[tuple[Reach, Array]], axes: Axes, shape: Sequence[int],
    spread: Callable[[Array, int], np.ndarray] | None = None,
) -> Reach:  # fmt: skip
    """How a sum of independent parts differs, each by its own reach and variance.

    `spread` gives the variance at each entry along an axis, where places differ.
    """
    lengths = {}
    traced = any(is_traced(v) for _, v in members)
    weights = [1.0 if traced else float(np.mean(v)) for _, v in members]
    known = not traced and 0 < sum(weights) < math.inf
    for k in axes:
        own = [r.run(k) if k in r.axes else float(shape[k]) for r, _ in members]
        if not known:
            lengths[k] = min(own, default=1.0)
        elif any(isinstance(run, Run) for run in own):
            variances = [np.mean(v) if spread is None else spread(v, k) for _, v in members]
            lengths[k] = _mixed(own, variances, shape[k])
        else:
            lengths[k] = sum(b * w for b, w in zip(own, weights, strict=True)) / sum(weights)
    sums = {f for r, _ in members for f, _ in r.fixed}
    shares = [(f, [r.share(f) for r, _ in members]) for f in sums]
    fixed = sums_of((f, float(np.average(s, weights=weights)) if known else min(s)) for f, s in shares)
    return Reach(axes, runs_of(lengths), fixed)


def _mixed(runs: Sequence[float], variances: Sequence[Any], size: int) -> Run:
    """The run of a sum of parts of these, each of one variance at each entry.

    If they differ from place to place, and the sum has the same everywhere, it has been normalised.
    """
    at = [grouped(np.broadcast_to(np.maximum(v, 0), size)) for v in variances]
    parts = [kernel_of(run, size).scaled(np.sqrt(v)) for run, v in zip(runs, at, strict=True)]
    kernel, whole = functools.reduce(operator.add, parts), np.sum(at, axis=0)
    even = any(map(np.ndim, variances)) and np.ptp(whole) <= EVEN * np.mean(whole)
    return Run.over(kernel, kernel.variance if even else whole)


@functools.lru_cache(maxsize=256)
def picked(run: float, order: tuple[int, ...]) -> float:
    """The run of entries picked in this order, as by a roll, after which runs begin elsewhere."""
    at = np.asarray(order)
    size = run.kernel.size if isinstance(run, Run) else max(order) + 1
    if run <= 1 or size > MOST or len(at) > MOST or size <= max(order):
        return float(run)
    return _of_matrix(_correlations(run, size)[at[:, None], at])


def slid(run: float, entries: np.ndarray) -> float:
    """The run of sums over windows at independent weights: `entries` are `[place, tap]`, -1 of padding."""
    known = run >= 2 and len(entries) <= MOST and not isinstance(run, Run)
    return _slid(run, tuple(map(tuple, entries.tolist()))) if known else run


@functools.lru_cache(maxsize=256)
def _slid(run: float, entries: tuple[tuple[int, ...], ...]) -> float:
    taps = np.asarray(entries).T
    size = int(taps.max(initial=0)) + 1
    if size > MOST:
        return run
    both = np.pad(_correlations(run, size), (0, 1))  # what padding is has nothing in common with anything
    between = np.mean([both[at[:, None], at] for at in taps], axis=0)
    return float(np.sum(between) / np.trace(between))


@functools.lru_cache(maxsize=256)
def _within(run: Run, size: int) -> float:
    """The run within pieces of this size, on average over the pieces."""
    if run.kernel.size > MOST:
        return min(float(run), size)
    pieces = _correlations(run, run.kernel.size).reshape(-1, size, run.kernel.size // size, size)
    return _of_matrix(np.einsum("aibj,ab->ij", pieces, np.eye(len(pieces))) / len(pieces))


@functools.lru_cache(maxsize=256)
def _merged(runs: tuple[float, ...], sizes: tuple[int, ...]) -> float:
    """The run along several axes that became one."""
    if not any(isinstance(run, Run) for run in runs) or math.prod(sizes) > MOST:
        return math.prod(runs)
    return _of_matrix(functools.reduce(np.kron, map(_correlations, runs, sizes)))


def _correlations(run: float, size: int) -> np.ndarray:
    """Of any two entries: as they are known, or else of runs one after another."""
    if isinstance(run, Run) and run.kernel.size == size:
        return run.kernel.between + np.diag(run.kernel.own)
    return _in_runs(run, size)


def _in_runs(run: float, size: int) -> np.ndarray:
    which = (np.arange(size) / run).astype(int)
    return (which[:, None] == which).astype(float)


def _of_matrix(correlations: np.ndarray) -> float:
    """A run of these correlations, which is a plain number if they are those of runs one after another."""
    run, size = Run.of(Kernel.alike(len(correlations), correlations)), len(correlations)
    whole = float(run).is_integer() and size % run == 0
    return float(run) if whole and np.array_equal(correlations, _in_runs(float(run), size)) else run


def moved(root: Any, axis_map: Sequence[Axes], before: Sequence[int]) -> Runs:
    """The runs of a root whose axes stand elsewhere now; of merged axes, those it lacks make it run on."""
    mine, lengths = Reach(root.axes, root.runs), {}
    for axis in frozenset[int]().union(*(axis_map[i] for i in root.axes)):
        sources = [i for i in range(len(axis_map)) if axis in axis_map[i]]
        found = [mine.run(i) if i in root.axes else before[i] for i in sources]
        sizes = tuple(before[i] for i in sources)
        lengths[axis] = found[0] if len(found) == 1 else _merged(tuple(found), sizes)
    return runs_of(lengths)


def split(runs: Runs, groups: Sequence[tuple[list[int], list[int]]], after: Sequence[int]) -> Runs:
    """Runs along one axis that became several: as long as the last of these, and on along the others."""
    lengths = dict(runs)
    for old, new in groups:
        if len(new) < 2:
            continue
        length = lengths.get(new[-1], 1.0) if len(old) == 1 else 1.0
        for axis in reversed(new):
            known = isinstance(length, Run) and length.kernel.size == math.prod(after[i] for i in new)
            lengths[axis] = _within(length, after[axis]) if known else min(float(length), after[axis])
            length = max(1.0, length / lengths[axis])
    return runs_of(lengths)


def alike_in(count: float, run: float) -> float:
    """To how many of `count` entries in a row one is alike, on average: runs and rows begin together."""
    if isinstance(run, Run) and count == run.kernel.size:
        return float(run)
    return max(1.0, min(run, count))


def run_of_sums(run: float, count: float | None, ratio: float) -> float:
    """The run of sums over `count` entries, if over any; `ratio`: their number over that of entries."""
    return run if count is None else run * count / alike_in(count, run) * ratio


def copies_in(
    reach: Reach, counts: Mapping[int, float], shape: Sequence[int], alike: Mapping[int, float] | None = None
) -> float:
    """How many independent copies of what differs so there are among so many entries along each axis.

    More, where part of them adds up to nothing: their mean has as much less of a variance. `alike`: to how
    many of them one is alike, where that is known.
    """
    known = alike or {}
    here = {i: n for i, n in counts.items() if i in reach.axes}
    copies = math.prod(n / (known.get(i) or alike_in(n, reach.run(i))) for i, n in here.items())
    lost = 0.0
    for f, share in reach.fixed:
        if f & reach.axes & here.keys():
            lost = max(lost, share * math.prod(here.get(i, 1.0) / max(shape[i], 1) for i in f & reach.axes))
    return max(copies, 1e-9) / max(1 - lost, 1e-6)  # of no entries, none
