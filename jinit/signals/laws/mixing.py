"""How positions along one axis are mixed into those of another, as by the rows of a softmax behind a mask."""

from __future__ import annotations

import dataclasses

import numpy as np

from jinit.signals.laws.kernels import Kernel, grouped, groups

# What is left of a variance where a mean is subtracted is not smaller.
LEAST = 1e-6


@dataclasses.dataclass(frozen=True, eq=False)
class Mixing:
    """The shares of what is mixed.

    Attributes:
      axes: of rows, and of columns, the positions that are mixed.
      shares: `a_ij`, of column `j` in row `i`, by group of positions.
      uneven: by how much their mean square is larger than the square of their mean, by group.
      counts: over what number, for each row, one share is: how many columns a mask keeps.
      columns: how many there are.
    """

    axes: tuple[int, ...]
    shares: np.ndarray
    uneven: np.ndarray
    counts: np.ndarray
    columns: int

    @classmethod
    def of(cls, axes: tuple[int, int], shares: np.ndarray, counts: np.ndarray) -> Mixing:
        """From shares of single positions."""
        mean, square = (grouped(grouped(x, 1), 0) for x in (shares, shares**2))
        return cls(axes, mean, square - mean**2, counts, shares.shape[1])

    @classmethod
    def even(cls, columns: int, axis: int) -> Mixing:
        """One row, all columns along an axis alike."""
        return cls.of((-1, axis), np.full((1, columns), 1 / columns), np.full(1, columns))

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.counts)

    @property
    def transposed(self) -> Mixing:
        """Columns as rows."""
        return Mixing(self.axes[::-1], self.shares.T, self.uneven.T, np.ones(self.columns), self.rows)

    def over(self, sizes: np.ndarray) -> Mixing:
        """What is mixed over numbers for each row, by group."""
        each = np.where(sizes > 0, 1 / np.where(sizes > 0, sizes, 1), 0)[:, None]
        return dataclasses.replace(self, shares=self.shares * each, uneven=self.uneven * each**2)

    def sums(self, kernel: Kernel) -> Kernel:
        """Covariances of the rows' sums, of those of columns."""
        alone = self.uneven @ (kernel.own * kernel.counts)  # what positions of one group do not share
        return Kernel(self.rows, self.shares @ kernel.form @ self.shares.T, alone)

    def common(self, kernel: Kernel) -> np.ndarray:
        """The variance of the sums in each row, by group: `a R aᵀ`."""
        return np.einsum("ij,ij->i", self.shares @ kernel.form, self.shares)

    def squares(self, variance: np.ndarray | float = 1.0) -> np.ndarray:
        """The same of independent columns, of these variances by group."""
        return (self.shares**2 + self.uneven) @ (groups(self.columns)[1] * variance)

    def left(self, kernel: Kernel) -> np.ndarray:
        """Of the variance, what is left in each row where its mean is subtracted, on average."""
        whole = self.shares @ (kernel.variance * kernel.counts)
        return np.maximum(whole - self.common(kernel), LEAST)

    def rows_centred(self, ours: Kernel, theirs: Kernel) -> Kernel:
        """Covariances of `Σ_j a_ij (v_j - Σ_m a_im v_m) u_j` over `i`, of those of `v` and of `u`."""
        a, n = self.shares, groups(self.columns)[1]
        mean, met = a @ ours.matrix.T, a @ theirs.matrix.T
        once = (a * n) @ (mean * met).T
        both = ((mean * n) @ a.T) * ((met * n) @ a.T)
        return self.sums(ours * theirs) + Kernel.alike(self.rows, both - once - once.T)

    def columns_centred(self, ours: Kernel, theirs: Kernel) -> Kernel:
        """Covariances of `Σ_i a_ij (v_j - Σ_m a_im v_m) u_i` over `j`, of those of `v` and of `u`."""
        a, n = self.shares, groups(self.columns)[1]
        mean, met = a @ ours.matrix.T, a.T @ theirs.form
        once = (met * mean.T) @ a
        both = theirs * Kernel.alike(self.rows, (mean * n) @ a.T)
        rest = a.T @ both.form @ a - once - once.T
        return self.transposed.sums(theirs) * ours + Kernel.alike(self.columns, rest)
