"""Windows that slide along axes of an array: which entries each has."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jinit._typing import Array
from jinit.signals.laws import places
from jinit.signals.laws.arrays import xp
from jinit.signals.laws.classes import means_of
from jinit.signals.laws.law import Law
from jinit.signals.laws.meeting import entries_of, matrix_of
from jinit.signals.laws.mixing import Mixing
from jinit.signals.laws.runs import plain


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """The entries that windows along some axes have.

    Attributes:
      entries: along each axis that changes, `[place, tap]`, -1 for those of padding.
      sliding: axes along which there is a window around every entry.
      sizes: numbers of entries along all axes.
    """

    entries: Mapping[int, np.ndarray]
    sliding: frozenset[int]
    sizes: tuple[int, ...]

    @functools.cached_property
    def counts(self) -> dict[int, float]:
        """The mean number of entries in the window, along each axis that has one."""
        return {i: float(n.mean()) for i, n in self.numbers.items()}

    @functools.cached_property
    def numbers(self) -> dict[int, np.ndarray]:
        """The number of each window's entries, along each axis that has one."""
        return {i: (x >= 0).sum(axis=1).astype(float) for i, x in self.entries.items() if x.shape[1] > 1}

    @functools.cached_property
    def mixing(self) -> dict[int, Mixing]:
        """Windows as rows of what lies along an axis."""
        found = {i: matrix_of(self.entries[i], self.sizes[i]) for i in self.numbers}
        return {i: Mixing.of((0, 1), x, np.ones(len(x))) for i, x in found.items()}

    @functools.cached_property
    def sharing(self) -> frozenset[int]:
        """The axes along which windows share entries."""
        each = {i: x[x >= 0] for i, x in self.entries.items() if i in self.numbers}
        several = {i for i, x in each.items() if x.size and np.bincount(x).max() > 1}
        return frozenset(i for i in several if self.numbers[i].max() > 1)

    def middles(self, law: Law) -> Law:
        """The law of entries by place of a window: its neighbours are taken to be like that in its middle."""
        along = places.axes_of(law) & self.entries.keys()
        return places.picked(law, {i: _middles(row[row >= 0] for row in self.entries[i]) for i in along})

    def back(self, law: Law) -> Law:
        """The law of windows, by place of an entry: that of the middle one of those which have it."""
        along = places.axes_of(law) & self.entries.keys()
        seen = {
            i: [np.nonzero((self.entries[i] == k).any(axis=1))[0] for k in range(self.sizes[i])]
            for i in along
        }
        roots = tuple(dataclasses.replace(r, runs=plain(r.runs)) for r in law.roots)  # no longer of windows
        law = dataclasses.replace(law, roots=roots)
        return places.picked(law, {i: _middles(x) for i, x in seen.items()})


def windows_of(eqn: Any) -> Windows:
    """Those of a sum or a maximum over windows, or of the gradient of such a maximum."""
    p = eqn.params
    before, after = eqn.invars[-1].aval.shape, eqn.outvars[0].aval.shape
    if eqn.primitive.name == "select_and_scatter_add":
        before, after = after, eqn.invars[0].aval.shape
    ones, steps = (1,) * len(before), p["window_strides"]
    base, wide = p.get("base_dilation", ones), p.get("window_dilation", ones)
    found = {}
    for i, window in enumerate(p["window_dimensions"]):
        if window > 1 or before[i] != after[i]:
            found[i] = entries_of(before[i], window, after[i], steps[i], p["padding"][i], base[i], wide[i])
    sliding = frozenset(i for i in found if base[i] == steps[i] == 1)
    return Windows(found, sliding, tuple(before))


def at_indices(law: Law, axis: int, x: np.ndarray) -> Array:
    """What is known at each index along an axis, on the nodes of a law: their mean if it tells none apart."""
    if (i := places.position_along(law, axis)) is None:
        return xp.asarray(np.mean(x))
    along = [-1 if k == i else 1 for k in range(law.nodes.ndim)]
    return xp.asarray(means_of(places.classes_of(law.roots[i]), x).reshape(along))


def evened(law: Law, axis: int, x: np.ndarray) -> np.ndarray:
    """The same at each index."""
    if (i := places.position_along(law, axis)) is None:
        return np.full(len(x), np.mean(x))
    return means_of(places.classes_of(law.roots[i]), x)[places.classes_of(law.roots[i])]


def _middles(rows: Iterable[np.ndarray]) -> np.ndarray:
    return np.asarray([row[len(row) // 2] if row.size else 0 for row in rows])
