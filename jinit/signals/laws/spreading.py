"""The variances of the sums of a contraction, by how they differ."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jinit._typing import Array
from jinit.signals.laws import places
from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.classes import means_of
from jinit.signals.laws.folding import Folds
from jinit.signals.laws.grids import spread
from jinit.signals.laws.kernels import Kernel, grouped
from jinit.signals.laws.law import Axes, Law, all_axes, average, squared, without
from jinit.signals.laws.masked import Masked
from jinit.signals.laws.meeting import Contraction
from jinit.signals.laws.parts import add_to, spread_by_reach
from jinit.signals.laws.roots import COTANGENT, PLACE, Root
from jinit.signals.laws.runs import Reach, Run, runs_of, slid, together


@dataclasses.dataclass(frozen=True)
class Part:
    """A factor of the products, or of a gradient, linear in its cotangents, what comes of one.

    A cotangent may stay the same along the sum. What it is multiplied by differs along its axes all the same
    (`along`). Squares: second moments, first of what stays the same, then by reach of what adds to it.
    """

    law: Law
    along: Reach
    squares: Sequence[tuple[Reach, Law]]


def own_of(law: Law, other: Law) -> frozenset[Root]:
    """Roots of one factor alone, over which a gradient may be split in parts though they stay along a sum."""
    return frozenset(r for r in law.roots if r.kind not in (COTANGENT, PLACE) and r not in other.roots)


def parts_of(law: Law, summed: Axes, own: frozenset[Root]) -> tuple[Law, list[Part]]:
    """The mean over the roots that vary along the sum, or are in `own`, and the parts."""
    still, whole = _still_and_squares(law, summed, own)
    cotangents = [i for i, r in enumerate(law.roots) if r.kind == COTANGENT]
    parts = []
    for i in cotangents:
        others = [k for k in cotangents if k != i]
        one = without(law, others, average(law, others))
        parts.append(Part(one, together([law.roots[i]]), _still_and_squares(one, summed, own)[1]))
    return still, parts or [Part(law, Reach(), whole)]


def _still_and_squares(law: Law, summed: Axes, own: frozenset[Root]) -> tuple[Law, list[tuple[Reach, Law]]]:
    varying = [i for i in places.others(law) if law.roots[i].axes & summed or law.roots[i] in own]
    mean, found = spread_by_reach(law, varying)
    squares = [(Reach(), squared(mean)), *found.items()]
    return without(law, varying, mean), [(reach, without(law, varying, x)) for reach, x in squares]


@dataclasses.dataclass(frozen=True)
class Spreads:
    """The variances of sums of products, by how they differ.

    Attributes:
      how: how the axes of the factors meet.
      folds: the sums over places.
      weight: which factor is a weight, if one is.
      masked: which is masked, if one is.
      variances: those found so far.
      covariances: of any two sums behind a mask, and their variances.
    """

    how: Contraction
    folds: Folds
    weight: int | None
    masked: Masked | None
    variances: dict[Reach, Array] = dataclasses.field(default_factory=dict)
    covariances: dict[Reach, tuple[Kernel, Any]] = dataclasses.field(default_factory=dict)

    def by_reach(self) -> dict[Reach, Array]:
        """The variances, sums behind a mask as alike as they are."""
        if self.masked is None:
            return self.variances
        return {self.masked.with_run(reach, self.covariances): v for reach, v in self.variances.items()}

    def add(self, parts: tuple[Part, ...]) -> None:
        """Those of products of which a factor varies."""
        how, folds, summed = self.how, self.folds, frozenset(self.how.counts)
        real = all_axes(how.shape)
        along = [p.along for p in parts if not p.along.axes & summed]
        _, *pairs = itertools.product(*(part.squares for part in parts))  # the first does not vary
        for (own_a, x), (own_b, y) in pairs:
            owns = (own_a, own_b)
            both, whole = together(owns), together([*owns, *along])
            varies = self._share_varying(parts, owns, both)
            if not varies:
                continue
            value = product_of((x, y), folds.roots)
            known, covariance = self._known_sums(value, parts, owns, both, whole)
            terms = math.prod(_terms(how, k, both, folds) for k in summed - known.keys())
            reach = whole.along(frozenset(range(len(how.shape))) & real)
            if self.weight is not None and not owns[self.weight].axes:
                reach = Reach(real)
            reach = self._slid(reach)
            value = folds.summed(value, summed - both.axes, known)
            value = value * xp.asarray(varies * terms, value.dtype)
            if self.masked is not None and covariance is not None:
                reach = self.masked.along_left(reach)
                self._add_covariance(
                    reach, covariance, places.along_axis(value, folds.left, self.masked.left)
                )
            # Two places share only those taps that padding leaves to both.
            at = {k: how.shared[k] for k in summed & how.shared.keys() if how.shared[k][0] not in both.axes}
            common = math.prod(two / how.counts[k] for k, (_, two) in at.items() if how.counts[k])
            add_to(self.variances, reach, value * xp.asarray(common, value.dtype))
            if common < 1:
                own = together([reach, Reach(frozenset(place for place, _ in at.values()) & real)])
                add_to(self.variances, own, value * xp.asarray(1 - common, value.dtype))

    def _slid(self, reach: Reach) -> Reach:
        """The reach of sums over windows that slide, of which places near a border share fewer terms."""
        if not reach.runs or not self.how.entries:
            return reach
        at = {self.how.shared[k][0]: entries for k, entries in self.how.entries.items()}
        runs = {k: slid(b, at[k]) if k in at else b for k, b in reach.runs}
        return dataclasses.replace(reach, runs=runs_of(runs))

    def _share_varying(self, parts: Sequence[Part], owns: tuple[Reach, Reach], both: Reach) -> float:
        """What is the same for all terms meets a sum that does not vary, but for what padding leaves out."""
        summed, nothing = frozenset(self.how.counts), 0.0
        for side, part in enumerate(parts):
            if self.masked is None or self.masked.side == side:  # what is masked is not the same for all
                nothing = max(nothing, _to_nothing(part.law, summed, owns[side], owns[1 - side].axes))
        return 1 - nothing + (nothing * self.how.left_out(both.axes) if nothing else 0.0)

    def _known_sums(
        self, value: Array, parts: Sequence[Part], owns: tuple[Reach, Reach], both: Reach, whole: Reach
    ) -> tuple[dict[int, np.ndarray], Kernel | None]:
        """Variances of sums along indices of known correlations, and covariances of those behind a mask."""
        found: dict[int, np.ndarray] = {}
        covariance, masked = None, self.masked
        for fold in self.folds.folds if not is_traced(value) else ():
            k, run = fold.index, both.run(fold.index)
            if masked is not None and k == masked.index:
                own, other = owns[masked.side], owns[1 - masked.side]
                deviation = self.folds.deviation(value, fold)
                covariance = masked.covariance(parts[masked.side].law, own, other, whole, deviation)
                found[k] = fold.by_place(masked.variances(covariance))
            elif isinstance(run, Run) and fold.size == run.kernel.size:
                kernel = run.kernel.scaled(grouped(self.folds.deviation(value, fold)))
                found[k] = np.atleast_1d(kernel.run * fold.size)
        return found, covariance

    def _add_covariance(self, reach: Reach, covariance: Kernel, variance: np.ndarray) -> None:
        """Another covariance under the same key, of this variance, on average of each class of places."""
        wanted = grouped(np.broadcast_to(np.maximum(variance, 0), covariance.size))
        has = _by_class(covariance.variance, wanted, covariance.counts)
        scaled = covariance.scaled(np.sqrt(np.where(has > 0, wanted / np.where(has > 0, has, 1), 0)))
        kernel, whole = self.covariances.get(reach, (scaled.scaled(0), 0.0))
        self.covariances[reach] = kernel + scaled, whole + wanted


def _by_class(x: np.ndarray, of: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The mean of `x` over all that are alike in `of`."""
    _, index = np.unique(of, return_inverse=True)
    return means_of(index, x, counts)[index]


def _to_nothing(law: Law, summed: Axes, own: Reach, other: Axes) -> float:
    """The share of a part, its other factor as it stays along `summed`, that adds up to nothing."""
    whole = law.adds_to_nothing(summed, own.axes, other)
    return max((s for f, s in own.fixed if f <= summed and not f & other), default=0.0) if not whole else 1.0


def _terms(how: Contraction, index: int, reach: Reach, folds: Folds) -> float:
    """To how many variances a sum over an index adds up, but for what is summed place by place."""
    if index not in reach.axes:
        return 1.0 if index in folds.indices else how.squares[index]
    terms = how.terms(index, reach.run(index))
    return terms / (how.counts[index] or 1.0) if index in folds.indices else terms


def product_of(laws: Sequence[Law], roots: tuple[Root, ...]) -> Array:
    """The product of two functions of roots, on the grid of all of them."""
    return spread(laws[0], roots) * spread(laws[1], roots)
