"""Sums over what a mask keeps, which share more than what they are sums of.

With shares `A` of the rows of a softmax and correlations `R` of what it picks from, those of its sums are
`A R Aᵀ`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable, Mapping, Sequence

import jax
import numpy as np

from jinit._typing import Array
from jinit.signals.laws import places
from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.classes import means_of
from jinit.signals.laws.grids import on_grid
from jinit.signals.laws.kernels import Kernel, grouped, groups
from jinit.signals.laws.law import Axes, Law, average, first_along, without
from jinit.signals.laws.meeting import Contraction
from jinit.signals.laws.mixing import LEAST, Mixing
from jinit.signals.laws.roots import MASK, PLACE, Root
from jinit.signals.laws.runs import Reach, Run, kernel_of, runs_of

# Of the nodes of a law, over the largest: what differs by less is alike.
NEAR = 1e-4


@dataclasses.dataclass(frozen=True)
class Masked:
    """A factor of a contraction that is zero but where a mask keeps it.

    Attributes:
      side: which factor it is.
      index: what is summed over.
      left: the axis of the result that the mask has as well.
      mixing: the shares of what is kept.
      over: of each row, an entry over its share, if an entry of its class is one.
    """

    side: int
    index: int
    left: int
    mixing: Mixing
    over: np.ndarray

    @property
    def by_row(self) -> bool:
        """Whether rows are left, and what is kept in them is summed over."""
        return self.mixing.axes[0] == self.left

    @functools.cached_property
    def sums(self) -> Mixing:
        """The shares of the terms of each sum."""
        return self.mixing if self.by_row else self.mixing.transposed

    def terms(self, x: np.ndarray) -> np.ndarray:
        """The sums, by entry along `left`, of what is known of each entry of `index`."""
        over = self.over.reshape(-1, *(1,) * (x.ndim - 1))
        return self._summed(x) * over if self.by_row else self._summed(x * over)

    def variances(self, covariance: Kernel) -> np.ndarray:
        """The variance of the sums, by entry along `left`."""
        found = covariance.variance[groups(covariance.size)[0]]
        return found * self.over**2 if self.by_row else found

    def deviations(self, sizes: np.ndarray) -> np.ndarray:
        """Those of sums of independent terms of these deviations, each its share, by entry along `left`."""
        return np.sqrt(self.sums.squares(grouped(sizes**2)))[groups(self.sums.rows)[0]]

    @property
    def is_matrix(self) -> bool:
        """Whether it is one that stands in the program, of numbers, and no mask."""
        return not np.any(self.mixing.counts != 1)

    def _summed(self, x: np.ndarray) -> np.ndarray:
        counts = groups(len(x))[1].reshape(-1, *(1,) * (x.ndim - 1))
        return np.tensordot(self.sums.shares, grouped(x) * counts, 1)[groups(self.sums.rows)[0]]

    def along_left(self, reach: Reach) -> Reach:
        """The reach of sums that differ along `left`, in whatever runs."""
        runs = tuple((k, b) for k, b in reach.runs if k != self.left)
        fixed = tuple((f, share) for f, share in reach.fixed if self.left not in f)  # correlations know of it
        return Reach(reach.axes | {self.left}, runs, fixed)

    def with_run(self, reach: Reach, covariances: Mapping[Reach, tuple[Kernel, np.ndarray]]) -> Reach:
        """The reach of sums of these covariances along `left`."""
        if reach not in covariances:
            return reach
        kernel, variance = covariances[reach]
        runs = runs_of({**dict(reach.runs), self.left: Run.over(kernel, variance)})
        return dataclasses.replace(reach, runs=runs)

    def covariance(self, law: Law, own: Reach, other: Reach, whole: Reach, deviation: np.ndarray) -> Kernel:
        """Of the sums, along `left`; of rows as if their entries were their shares.

        Args:
          law: of the factor that is masked.
          own: how its part differs.
          other: how the part of the other factor does.
          whole: how their product does.
          deviation: of the terms, by entry of `index`.
        """
        sums, column = self.sums, frozenset([self.mixing.axes[1]])
        ours, beside = _kernel(own, self.index, sums.columns), _kernel(whole, self.left, sums.rows)
        size = grouped(deviation if self.by_row else deviation * self.over)
        theirs = _kernel(other, self.index, sums.columns).scaled(size)
        found = sums.sums(ours * theirs) * beside
        share = 1.0 if law.adds_to_nothing(column, own.axes) else own.share(column)
        if not share:
            return found
        if self.by_row:
            centred = self.mixing.rows_centred(ours, theirs) * beside
            centred = centred.scaled(1 / np.sqrt(self.mixing.left(ours)))
        else:
            alike = _kernel(own, self.left, sums.rows)
            left = 1 / np.sqrt(self.mixing.left(alike))
            centred = self.mixing.columns_centred(alike, (ours * theirs).scaled(left))
        return centred.scaled(share**0.5) + found.scaled((1 - share) ** 0.5)


def _kernel(reach: Reach, index: int, size: int) -> Kernel:
    """Correlations along an index."""
    return kernel_of(reach.run(index) if index in reach.axes else size, size)


def masked_in(laws: Sequence[Law], how: Contraction) -> tuple[list[Law], Masked | None]:
    """The factors of a contraction along its indices, one as what is kept of it, and how it is masked."""
    for side, law in enumerate(laws) if not any(is_traced(law.nodes) for law in laws) else ():
        for i, mixing in [(i, r.mixing) for i, r in enumerate(law.roots) if r.mixing is not None]:
            summed = [k for k in mixing.axes if k in how.counts]
            left = [k for k in mixing.axes if k < len(how.shape)]
            fits = len(summed) == len(left) == 1 and not laws[1 - side].axes_varying() & set(left)
            if fits and (kept := _kept(law, i)) is not None and (law.fixed_sums or _is_even(kept)):
                masked = Masked(side, summed[0], left[0], mixing, _over(kept, side, mixing))
                return [kept if k == side else x for k, x in enumerate(laws)], masked
    return list(laws), None


def of_matrix(x: Array, how: Contraction, side: int, name: Hashable) -> Law | None:
    """The law of a matrix that stands in the program and mixes positions, as the weights of a resizing do."""
    varying = [i for i, n in enumerate(x.shape) if n > 1]
    free = [i for i in varying if i in how.free[side]]
    if is_traced(x) or len(varying) != 2 or len(free) != 1:
        return None
    (row,), (column,) = free, [i for i in varying if i not in free]
    matrix = np.asarray(x, np.float64).reshape([x.shape[i] for i in varying])
    shares = matrix if row < column else matrix.T
    root = Root(name, frozenset(varying), MASK, mixing=Mixing.of((row, column), shares, np.ones(len(shares))))
    nodes, weights = (xp.asarray(v, np.float32) for v in ([1.0, 0.0], [0.5, 0.5]))
    return Law(nodes, (weights,), (root,), tuple(x.shape), x.dtype)


def _kept(law: Law, i: int) -> Law | None:
    """The law of what a mask keeps, if that is the same for all of a row, and the rest is zero."""
    one = first_along(law, [i])
    least = NEAR * np.max(np.abs(law.nodes))
    if not np.all(np.minimum(np.abs(law.nodes - one), np.abs(law.nodes)) <= least):
        return None
    return without(law, [i], one)


def _is_even(law: Law) -> bool:
    """Whether it is the same in all rows; as behind a softmax, where it is not, but one over their number."""
    return not places.positions(places.differing(law))


def _over(law: Law, side: int, mixing: Mixing) -> np.ndarray:
    """Of each row, an entry over its share, if an entry is one: on average of its class, if it has one."""
    row = mixing.axes[0]
    known = (r.places for r in law.roots if r.name in (PLACE, (PLACE, side, row)) and row in r.axes)
    of = next((places.of for places in known if places is not None), None)
    if of is None:
        return mixing.counts
    return 1 / means_of(of, 1 / mixing.counts)[list(of)]


def less_common(law: Law, probabilities: Law, axes: Axes) -> Law:
    """`law`, less what positions along `axes` share by their correlations, which means nothing to a softmax.

    A mean weighted by shares `a` takes `aᵀ R a` of a variance with it; of this `aᵀ a` is taken out elsewhere.
    """
    for i, root in enumerate(law.roots):
        run = Reach(root.axes, root.runs).run(min(axes)) if len(axes) == 1 else 1.0
        if not isinstance(run, Run) or is_traced(law.nodes):
            continue
        part = law.nodes - average(law, [i])
        laws = [
            dataclasses.replace(law, nodes=law.nodes - part),
            dataclasses.replace(law, nodes=part),
            _left_in_rows(law, probabilities, min(axes), run.kernel),
        ]
        out = jax.ShapeDtypeStruct(law.shape, law.dtype)
        (found,) = on_grid(lambda x, y, z: [x + y * z], places.refined(laws), [out])
        law = dataclasses.replace(law, nodes=found.nodes, weights=found.weights, roots=found.roots)
    return law


def _left_in_rows(law: Law, probabilities: Law, axis: int, kernel: Kernel) -> Law:
    """The share of a deviation that is left, by place of the row if masks differ from row to row."""
    factor = Law(xp.ones((), law.nodes.dtype), (), (), law.shape, law.dtype)
    known = (r.mixing for r in probabilities.roots if r.mixing is not None and r.mixing.axes[1] == axis)
    mixing = next(known, None) or Mixing.even(kernel.size, axis)
    rows = next((r for r in probabilities.roots if r.places is not None and mixing.axes[0] in r.axes), None)
    of = np.asarray(rows.places.of) if rows is not None and rows.places else np.zeros(mixing.rows, int)
    each = [x[groups(mixing.rows)[0]] for x in (mixing.left(kernel), mixing.squares())]
    theirs, own = (means_of(of, x) for x in each)
    left = np.sqrt(theirs / np.maximum(1 - own, LEAST)).astype(law.nodes.dtype)
    if rows is None or rows.places is None:
        return dataclasses.replace(factor, nodes=left[0])
    return dataclasses.replace(factor, nodes=left, weights=(rows.places.weights(),), roots=(rows,))
