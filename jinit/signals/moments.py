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
      zero_count: number of entries that are exactly zero.
      nonfinite_count: number of entries that are NaN or infinite.

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
    zero_count: Array
    nonfinite_count: Array

    @staticmethod
    def of(x: Array) -> Moments:
        """The moments of all entries of `x`, of any shape and any numeric dtype."""
        return _moments(x)

    @property
    def mean(self) -> Array:
        """Mean of the entries."""
        return jnp.divide(self.total, self.count.astype(self.total.dtype))

    @property
    def second_moment(self) -> Array:
        """Mean of `|x|²`."""
        return jnp.divide(self.total_square, self.count)

    @property
    def variance(self) -> Array:
        """`E|x|² − |E x|²`, never under zero."""
        return jnp.maximum(self.second_moment - jnp.abs(self.mean) ** 2, 0.0)

    @property
    def zero_fraction(self) -> Array:
        """Share of the entries that are exactly zero."""
        return jnp.divide(self.zero_count, self.count)

    def __add__(self, other: Moments) -> Moments:
        return jax.tree.map(_add, self, other)


def _add(a: Array, b: Array) -> Array:
    # Counts that came back through a derivative are floats, the others integers.
    dtype = a.dtype if jnp.issubdtype(a.dtype, jnp.inexact) else b.dtype
    return a.astype(dtype) + b.astype(dtype)


@jax.jit
def _moments(x: Array) -> Moments:
    """Two plain sums, which fuse with what made `x`, and one pass that counts in integers.

    Measured on CPU: sums of floats are library calls, to be kept plain; a count of floats would be
    written out entry by entry first, where the integer reduction of two counts at once runs in one
    vectorized loop and is exact.
    """
    wide = x.dtype in (jnp.float64, jnp.complex128, jnp.int64, jnp.uint64)
    dtype = jnp.dtype(jnp.float64 if wide else jnp.float32)
    square, finite = _square_and_finite(x, dtype)
    zeros, nonfinites = _count(x == jnp.zeros((), x.dtype), ~finite)
    return Moments(
        count=vary(jnp.full((), x.size, dtype), varying_axes(x)),
        total=jnp.sum(x if jnp.iscomplexobj(x) else x.astype(dtype)),
        total_square=jnp.sum(square),
        zero_count=zeros,
        nonfinite_count=nonfinites,
    )


def _count(*flags: Array) -> tuple[Array, ...]:
    """How many of each are true, in one pass."""
    if flags[0].size >= 2**31:
        return tuple(jnp.sum(f.astype(jnp.float32)) for f in flags)
    axes = tuple(range(flags[0].ndim))
    start = vary(jnp.zeros((), jnp.int32), varying_axes(flags[0]))
    counts = lax.reduce(
        tuple(f.astype(jnp.int32) for f in flags),
        (start,) * len(flags),
        lambda a, b: tuple(p + q for p, q in zip(a, b, strict=True)),
        axes,
    )
    return tuple(counts)


def _square_and_finite(x: Array, dtype: jnp.dtype) -> tuple[Array, Array]:
    if jnp.iscomplexobj(x):
        parts = lax.real(x), lax.imag(x)
        finite = jnp.isfinite(parts[0]) & jnp.isfinite(parts[1])
        return parts[0] ** 2 + parts[1] ** 2, finite
    x = x.astype(dtype)
    return x * x, jnp.abs(x) < jnp.inf
