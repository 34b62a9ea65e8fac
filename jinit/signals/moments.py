"""First and second moments of an array, as sums that add up over loop steps and devices."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from jinit._compat import vary, varying_axes
from jinit._typing import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Moments:
    """Moments of the entries of an array, held as sums.

    Sums form a monoid: `a + b` is the moments of both arrays' entries together, so loop steps and
    devices add up exactly and nothing ever averages averages. Every field has shape `[]`, or
    `[length]` for a value inside a `scan`.

    Sums are taken in float32 (float64 for 64-bit arrays), whatever the array's own dtype. A second
    moment under 1e-38 therefore reads as zero and one over 3e38 as infinite, `nonfinite_count`
    staying 0: the entries themselves are still finite.

    Attributes:
      count: number of entries.
      total: sum of the entries (complex for complex arrays).
      total_square: sum of `|x|²`.
      marks: number of zero entries, plus 2^40 for every entry that is NaN or infinite. One sum for both
        counts, taken apart only when asked for: each further sum would cost as much again to compile.

    Example:
      >>> m = Moments.of(jnp.array([0.0, 1.0, 2.0, 3.0]))
      >>> float(m.mean), float(m.second_moment), float(m.variance), float(m.zero_fraction)
      (1.5, 3.5, 1.25, 0.25)
      >>> float((m + m).count)
      8.0
    """

    count: Array
    total: Array
    total_square: Array
    marks: Array

    @staticmethod
    def of(x: Array) -> Moments:
        """The moments of all entries of `x`, of any shape and any numeric dtype."""
        return _moments(x)

    @property
    def mean(self) -> Array:
        """Mean of the entries."""
        return self.total / self.count

    @property
    def second_moment(self) -> Array:
        """Mean of `|x|²`."""
        return self.total_square / self.count

    @property
    def variance(self) -> Array:
        """`E|x|² − |E x|²`, never under zero."""
        return jnp.maximum(self.second_moment - jnp.abs(self.mean) ** 2, 0.0)

    @property
    def nonfinite_count(self) -> Array:
        """Number of entries that are NaN or infinite."""
        return jnp.floor(self.marks / _NONFINITE)

    @property
    def zero_count(self) -> Array:
        """Number of entries that are exactly zero; NaN if not all entries are finite, as the mean is then."""
        nonfinite = self.nonfinite_count
        return jnp.where(nonfinite > 0, jnp.nan, self.marks - nonfinite * _NONFINITE)

    @property
    def zero_fraction(self) -> Array:
        """Share of the entries that are exactly zero."""
        return self.zero_count / self.count

    def __add__(self, other: Moments) -> Moments:
        return jax.tree.map(jnp.add, self, other)


_NONFINITE = 2.0**40


@jax.jit
def _moments(x: Array) -> Moments:
    """Three plain sums: they fuse with what made `x`, where one variadic reduction would not."""
    wide = x.dtype in (jnp.float64, jnp.complex128, jnp.int64, jnp.uint64)
    dtype = jnp.dtype(jnp.float64 if wide else jnp.float32)
    square, finite = _square_and_finite(x, dtype)
    zero, one, mark = (jnp.asarray(c, dtype) for c in (0, 1, _NONFINITE))
    marks = jnp.where(x == jnp.zeros((), x.dtype), one, jnp.where(finite, zero, mark))
    return Moments(
        count=vary(jnp.full((), x.size, dtype), varying_axes(x)),
        total=jnp.sum(x if jnp.iscomplexobj(x) else x.astype(dtype)),
        total_square=jnp.sum(square),
        marks=jnp.sum(marks),
    )


def _square_and_finite(x: Array, dtype: jnp.dtype) -> tuple[Array, Array]:
    if jnp.iscomplexobj(x):
        parts = lax.real(x), lax.imag(x)
        finite = jnp.isfinite(parts[0]) & jnp.isfinite(parts[1])
        return parts[0] ** 2 + parts[1] ** 2, finite
    x = x.astype(dtype)
    return x * x, jnp.abs(x) < jnp.inf
