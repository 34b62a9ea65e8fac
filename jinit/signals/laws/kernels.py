"""Correlations between positions along an axis, as they come of attention."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Iterable, Iterator

import numpy as np

# Positions along an axis up to which each is told from the others, and so many groups of them beyond that.
MOST = 256


_told_apart = contextvars.ContextVar("told_apart", default=frozenset[int]())


@contextlib.contextmanager
def told_apart(sizes: Iterable[int]) -> Iterator[None]:
    """Axes of these sizes are known position by position: those next to each other may be of any nodes."""
    token = _told_apart.set(frozenset(sizes))
    try:
        yield
    finally:
        _told_apart.reset(token)


def is_told_apart(size: int) -> bool:
    """Whether each position along an axis of this size is told from the others."""
    return size <= MOST or size in _told_apart.get()


def groups(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Which group each position is in, and how many are in each: fewer near either end.

    Behind a causal mask what is near the first position changes fast, as one over its number, and behind one
    of windows all along: half of the groups are of equal numbers, and half of equal ratios.
    """
    return _groups(size, is_told_apart(size))


@functools.lru_cache(maxsize=64)
def _groups(size: int, apart: bool) -> tuple[np.ndarray, np.ndarray]:
    if apart:
        return np.arange(size), np.ones(size)
    at = np.arange(size)
    distance = np.log1p(np.minimum(at, size - 1 - at)) / np.log1p(size / 2)
    share = (np.where(2 * at < size, distance, 2 - distance) / 2 + at / size) / 2
    _, of = np.unique((share * MOST).astype(int), return_inverse=True)
    return of, np.bincount(of).astype(float)


def grouped(x: np.ndarray, axis: int = 0) -> np.ndarray:
    """The means of all groups, of what is known of each position along an axis."""
    of, sizes = groups(x.shape[axis])
    starts = np.flatnonzero(np.diff(of, prepend=-1))
    shape = [-1 if i == axis else 1 for i in range(x.ndim)]
    return np.add.reduceat(x, starts, axis=axis) / sizes.reshape(shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """Covariances of any two positions, the same for all of a group.

    Attributes:
      size: number of positions.
      between: covariances of two of them, by group.
      own: by how much larger the variance of one is, by group.
    """

    size: int
    between: np.ndarray
    own: np.ndarray

    @classmethod
    def alike(cls, size: int, between: np.ndarray) -> Kernel:
        """Of positions that are the same for all of a group."""
        return cls(size, between, np.zeros(len(between)))

    @classmethod
    def of_run(cls, run: float, size: int) -> Kernel:
        """Correlations that fall off along a run: none for one, and all alike for `size`."""
        count = len(groups(size)[1])
        if run <= 1 or run >= size:
            alike = float(run > 1 or size == 1)
            return cls(size, np.full((count, count), alike), np.full(count, 1 - alike))
        at = np.arange(size)
        between = grouped(grouped(np.maximum(0.0, 1 - abs(at[:, None] - at) / run), 0), 1)
        return cls(size, between, 1 - np.diag(between))

    @property
    def counts(self) -> np.ndarray:
        """The number of positions in each group."""
        return groups(self.size)[1]

    @property
    def variance(self) -> np.ndarray:
        """By group."""
        return np.diag(self.between) + self.own

    @property
    def by_entry(self) -> np.ndarray:
        """The variance of every position."""
        return self.variance[groups(self.size)[0]]

    @property
    def mean_variance(self) -> float:
        """On average over positions."""
        return float(self.variance @ self.counts) / self.size

    @property
    def run(self) -> float:
        """To how many positions one is alike, on average."""
        return float(self.counts @ self.matrix.sum(axis=1)) / self.size

    @property
    def matrix(self) -> np.ndarray:
        """What a vector is multiplied with, by group."""
        return self.between * self.counts + np.diag(self.own)

    @property
    def form(self) -> np.ndarray:
        """The quadratic form of vectors, by group."""
        return self.counts[:, None] * self.matrix

    def __mul__(self, other: Kernel) -> Kernel:
        """Of products."""
        variance, between = self.variance * other.variance, self.between * other.between
        return Kernel(self.size, between, variance - np.diag(between))

    def __add__(self, other: Kernel) -> Kernel:
        """Of sums."""
        return Kernel(self.size, self.between + other.between, self.own + other.own)

    def scaled(self, factor: np.ndarray | float) -> Kernel:
        """Of what is multiplied by a factor, by group."""
        factor = np.broadcast_to(factor, self.own.shape)
        return Kernel(self.size, self.between * factor * factor[:, None], self.own * factor**2)
