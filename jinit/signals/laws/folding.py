"""Sums over what a contraction sums over, place by place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jinit._typing import Array
from jinit.signals.laws import places
from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.classes import by_paths
from jinit.signals.laws.law import Law, average, square_root, squared
from jinit.signals.laws.masked import Masked
from jinit.signals.laws.masks import ROWS
from jinit.signals.laws.meeting import Contraction
from jinit.signals.laws.roots import PLACE, Places, Root


@dataclasses.dataclass(frozen=True)
class Fold:
    """How places of two operands along a summed index become places of the result.

    Attributes:
      index: the summed index.
      roots: of the places of either operand, if they differ.
      matrix: number of terms, by place of the result, of the first operand, and of the second.
      result: root of the places of the result, if they differ.
      size: number of entries along the index, where that is what places are of.
    """

    index: int
    roots: tuple[Root | None, Root | None]
    matrix: np.ndarray
    result: Root | None
    size: int = 0

    def shares(self) -> np.ndarray:
        """Of the entries along the index, the share of each pair of classes."""
        return _terms(np.arange(self.size)[None], *self.roots)[0] / self.size

    def by_place(self, x: np.ndarray) -> np.ndarray:
        """The mean at each place of the result, of what is known of each entry."""
        if self.result is None or self.result.places is None:
            return np.mean(x, axis=0, keepdims=True)
        of = np.asarray(self.result.places.of)
        return np.stack([x[of == k].mean(axis=0) for k in range(of.max() + 1)])


@dataclasses.dataclass(frozen=True)
class Folds:
    """The sums of a contraction over places, and the roots before and after."""

    folds: tuple[Fold, ...]
    roots: tuple[Root, ...]

    @property
    def left(self) -> tuple[Root, ...]:
        """The roots after the sums."""
        gone = {r for fold in self.folds for r in fold.roots}
        made = [fold.result for fold in self.folds if fold.result is not None]
        return tuple(dict.fromkeys([*made, *(r for r in self.roots if r not in gone)]))

    @property
    def indices(self) -> frozenset[int]:
        """The indices that are summed over place by place."""
        return frozenset(fold.index for fold in self.folds)

    def weights(self, known: dict[Root, Array]) -> tuple[Array, ...]:
        """Of the roots that are left."""
        return tuple(known[r] if r in known else r.places.weights() for r in self.left)  # type: ignore[union-attr]

    def summed(self, x: Array, still: frozenset[int], known: Mapping[int, np.ndarray] | None = None) -> Array:
        """`x`, on a grid of the roots, summed; of variances, the square of the sum of roots along `still`.

        What is the same for `n` terms adds up to `n²` times its variance. `known` are the variances, by place
        of the result, to which those of terms of variance one on average add up along an index.
        """
        sums = known or {}
        roots = list(self.roots)
        for fold in sorted(self.folds, key=lambda fold: fold.index not in still):
            rooted = fold.index in still and fold.index not in sums
            x = square_root(x) if rooted else x
            for side in (1, 0):
                root = fold.roots[side]
                if root is None:
                    x = x[..., None] if side else x[..., None, :]
                else:
                    x = xp.moveaxis(x, roots.index(root), x.ndim - 1 if side else x.ndim - 2)
                    roots.remove(root)
            terms = fold.matrix
            if fold.index in sums:
                terms = sums[fold.index][:, None, None] * fold.shares()
            how = "...ab,oab->o..."
            if fold.result is not None and fold.result in roots:  # one factor has these places as well
                how = "o...ab,oab->o..."
                x = xp.moveaxis(x, roots.index(fold.result), 0)
                roots.remove(fold.result)
            x = xp.einsum(how, x, xp.asarray(terms, x.dtype))
            x = squared(x) if rooted else x
            if fold.result is None:
                x = xp.squeeze(x, 0)
            else:
                roots.insert(0, fold.result)
        return xp.transpose(x, [roots.index(r) for r in self.left])

    def deviation(self, x: Array, fold: Fold) -> np.ndarray:
        """Of variances on a grid of the roots, the deviation at each entry of a sum, of mean square one."""
        ours = [r for r in fold.roots if r is not None]
        gone = tuple(i for i, r in enumerate(self.roots) if r not in ours)
        by_class = np.mean(np.asarray(x), axis=gone)
        of = [list(r.places.of) for r in self.roots if r in ours and r.places is not None]
        variance = by_class[tuple(of)] if of else np.full(fold.size, by_class)
        return np.sqrt(variance / max(np.mean(variance), np.finfo(variance.dtype).tiny))


def folds_of(
    laws: Sequence[Law],
    how: Contraction,
    roots: tuple[Root, ...],
    masked: Masked | None = None,
    whole: Sequence[Law] = (),
) -> Folds:
    """The sums over places in the contraction of two laws, relabelled by `meeting_places`."""
    folds = []
    for k in sorted(how.counts):
        ours = [
            next((r for r in law.roots if r.name == _name(side, k)), None) for side, law in enumerate(laws)
        ]
        if masked is not None and k == masked.index:
            sizes = [_sizes(law, r, masked.sums.columns) for law, r in zip(whole, ours, strict=True)]
            folds.append(_of_mask((ours[0], ours[1]), masked, roots, sizes[0] * sizes[1]))
        elif k in how.entries:
            axis, most = how.shared[k][0], places.MOST.get(len(how.entries), 2)
            if how.shape[axis] > 1 or ours[0] is not None or ours[1] is not None:
                folds.append(of_window(k, (ours[0], ours[1]), how.entries[k], axis, most))
        elif any(r is not None for r in ours):
            size = next(len(r.places.of) for r in ours if r is not None and r.places)
            matrix = _terms(np.arange(size)[None], ours[0], ours[1])
            folds.append(Fold(k, (ours[0], ours[1]), matrix, None, size))
    return Folds(tuple(f for f in folds if f is not None), roots)


def _name(side: int, index: int) -> Any:
    return (PLACE, side, index)


def meeting_places(before: Law, after: Law, side: int, how: Contraction) -> Law:
    """`after`, which is `before` along the joint indices, with places along what is summed."""
    roots = []
    for old, new in zip(before.roots, after.roots, strict=True):
        root = new
        if old.kind == PLACE:
            (axis,) = old.axes
            to = how.axes[side][axis]
            summed = to & how.counts.keys()
            if len(summed) == 1 and (len(to) == 1 or summed & how.entries.keys()):
                root = dataclasses.replace(old, name=_name(side, min(summed)), axes=to)
        roots.append(root)
    return dataclasses.replace(after, roots=tuple(roots))


def of_window(
    index: int, ours: tuple[Root | None, Root | None], entries: np.ndarray, axis: int, most: int
) -> Fold | None:
    """Places along an axis that a window slides along: those alike in the number of paths as one.

    `entries`: which each window has, `[place, tap]`; `axis`: of the result; `most`: classes of its places.
    """
    number = (entries >= 0).sum(axis=1)
    if not any(r is not None for r in ours) and (number == number[0]).all():
        return None
    terms = _terms(entries, *ours)
    a, b = (np.asarray(r.places.paths if r is not None and r.places else ((1.0,),)) for r in ours)
    paths = np.concatenate([np.einsum("oab,an->on", terms, a), np.einsum("oab,bn->on", terms, b)], axis=1)
    found = by_paths(paths, most)
    of = np.asarray(found.of)
    matrix = np.stack([terms[of == k].mean(axis=0) for k in range(len(found.paths))])
    if len(found.paths) == 1:
        return Fold(index, ours, matrix, None)
    return Fold(index, ours, matrix, Root(PLACE, frozenset([axis]), PLACE, places=found))


def _of_mask(
    ours: tuple[Root | None, Root | None], masked: Masked, roots: Sequence[Root], sizes: np.ndarray
) -> Fold:
    """What a mask keeps: by place of the result, those that it has already or by the sums of its shares."""
    axes, summed = frozenset([masked.left]), masked.sums.columns
    result = next((r for r in roots if r.kind == PLACE and r.name == PLACE and r.axes == axes), None)
    if result is None:
        found = _rows_of(masked, sizes)
        result = Root(PLACE, axes, PLACE, places=found) if len(found.paths) > 1 else None
    first, second = (_one_hot(r, summed) for r in ours)
    terms = masked.terms(np.einsum("ja,jb->jab", first, second))
    fold = Fold(masked.index, ours, terms, result, summed)
    return dataclasses.replace(fold, matrix=fold.by_place(terms))


def _sizes(law: Law, root: Root | None, count: int) -> np.ndarray:
    """Of each entry along an index, the root mean square."""
    if root is None or root.places is None or is_traced(law.nodes):
        return np.ones(count)
    i = law.roots.index(root)
    by_class = np.asarray(average(law, [k for k in range(len(law.roots)) if k != i], squared(law.nodes)))
    return np.sqrt(by_class.reshape(-1))[list(root.places.of)]


def _rows_of(masked: Masked, sizes: np.ndarray) -> Places:
    """Classes of the sums behind a mask, by their deviations; of those of a matrix also by their own entry's.

    As of a graph, where what a node is multiplied by comes to it again by way of its neighbours.
    """
    if not masked.is_matrix:
        return by_paths(masked.deviations(np.ones(masked.sums.columns))[:, None], ROWS)
    numbers = [masked.deviations(sizes)]
    numbers += [sizes] if masked.sums.rows == masked.sums.columns else []
    return by_paths(np.stack(numbers, axis=1), places.MOST[1])


def _one_hot(root: Root | None, size: int) -> np.ndarray:
    """Of each entry, its class of places."""
    known = root.places if root is not None else None
    return np.ones((size, 1)) if known is None else np.eye(len(known.paths))[list(known.of)]


def _terms(entries: np.ndarray, a: Root | None, b: Root | None) -> np.ndarray:
    """How many terms there are for each row of `entries`, by place of either operand."""
    of_a = np.asarray(a.places.of)[entries] if a is not None and a.places else np.zeros_like(entries)
    of_b = np.asarray(b.places.of) if b is not None and b.places else np.zeros(entries.shape[1], int)
    sizes = [len(r.places.paths) if r is not None and r.places else 1 for r in (a, b)]
    terms = np.zeros((entries.shape[0], *sizes))
    rows, columns = np.nonzero(entries >= 0)
    np.add.at(terms, (rows, of_a[rows, columns], of_b[columns]), 1.0)
    return terms
