"""What the entries of an array are functions of."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable
from typing import Any

import numpy as np

from jinit._typing import Array
from jinit.signals.laws.arrays import xp
from jinit.signals.laws.mixing import Mixing
from jinit.signals.laws.runs import Axes, Reach, Runs, Sums

SIGNAL, WEIGHT, COTANGENT, MASK, PLACE = "signal", "weight", "cotangent", "mask", "place"
DEVIATION = "deviation"


@dataclasses.dataclass(frozen=True)
class Places:
    """Indices along an axis, in classes of the same law.

    Attributes:
      of: the class of each index.
      paths: of each class, how many ways lead there from entries of the inputs, over their mean, and from
        those of the outputs, and whatever else classes differ by. Those alike in all of it are put together.
    """

    of: tuple[int, ...]
    paths: tuple[tuple[float, ...], ...]

    @functools.cached_property
    def _hash(self) -> int:
        return hash((self.of, self.paths))

    def __hash__(self) -> int:  # asked for at every step, and long
        return self._hash

    def weights(self) -> Array:
        """The share of each class."""
        counts = np.bincount(self.of, minlength=len(self.paths))
        return xp.asarray(counts / len(self.of), np.float32)


@dataclasses.dataclass(frozen=True)
class Root:
    """An independent source of randomness.

    Attributes:
      name: equal names and axes mean the same random variables.
      axes: axes of the array along which fresh independent copies stand; it is constant along the others.
      kind: SIGNAL; WEIGHT, of a parameter; or COTANGENT, of which only two moments matter, since gradients
        are linear in it; MASK, of which entries count, kept apart from the others while grids allow it;
        DEVIATION, the standard deviation of few entries over what it is of many, its last node at one; or
        PLACE, not random, but where along its one axis an entry stands.
      average: whether it is what is left of an average over entries, to be forgotten where the average
        is broadcast back to what it was taken over.
      runs: of axes along which the copies come in runs, to how many entries one is alike (`Reach`).
      fixed: sets of axes along which what is linear in it adds up to nothing, in part (`Reach`).
      places: of a PLACE, which index is of which node.
      mixing: of a MASK, the shares of what it keeps.
      summed: of what sums differ by, or of the rest beside one entry, what they are sums of (`sums.Sum`).
      terms: of what signals it is a weighted sum of entries (`terms.Terms`).
      windowed: how alike its squares are at neighbouring places (`windowed.Windowed`).
      smoothed: of a sum of what is linear in a normal, what both have in common (`smoothing.Smoothed`).
    """

    name: Hashable
    axes: Axes
    kind: str = SIGNAL
    average: bool = False
    runs: Runs = ()
    fixed: Sums = dataclasses.field(default=(), compare=False)
    places: Places | None = None
    mixing: Mixing | None = dataclasses.field(default=None, compare=False, repr=False)
    summed: Any = dataclasses.field(default=None, compare=False, repr=False)
    terms: tuple[Any, ...] = dataclasses.field(default=(), compare=False, repr=False)
    windowed: Any = dataclasses.field(default=None, compare=False, repr=False)
    smoothed: Any = dataclasses.field(default=None, compare=False, repr=False)

    def along(self, axes: Axes) -> Root:
        """The same along these axes alone."""
        reach, mixing = Reach(self.axes, self.runs, self.fixed).along(axes), self.mixing
        kept = mixing if mixing is not None and axes.issuperset(mixing.axes) else None
        return dataclasses.replace(self, axes=reach.axes, runs=reach.runs, fixed=reach.fixed, mixing=kept)
