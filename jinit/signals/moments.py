"""First and second moments of an array, as sums that add up over loop steps and devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
      total: sum of the entries (complex for complex arrays).
      total_square: sum of `|x|²`.
      zeros: number of entries found to be exactly zero; all sums at zero mean that nothing arrived, which
        for a gradient is as good as zeros (see `zero_count`).
      nonfinite_count: number of entries that are NaN or infinite.
      times: how many arrays were summed, where control flow or several devices decide; None for one.
      size: number of entries of one array.

    Example:
      >>> m = Moments.of(jnp.array([0.0, 1.0, 2.0, 3.0]))
      >>> float(m.mean), float(m.second_moment), float(m.variance), float(m.zero_fraction)
      (1.5, 3.5, 1.25, 0.25)
      >>> float((m + m).count)
      8.0
    """

    total: Array
    total_square: Array
    zeros: Array
    nonfinite_count: Array
    times: Array | None = None
    size: int = dataclasses.field(default=1, metadata={"static": True})

    @staticmethod
    def of(x: Array, *, counted: bool = False) -> Moments:
        """The moments of all entries of `x`, of any shape and any numeric dtype.

        Args:
          x: the array.
          counted: count at run time how often this is reached, as under `cond` it may not be.
        """
        moments = _moments(x)
        if not counted:
            return moments
        times = vary(jnp.ones((), moments.total_square.dtype), varying_axes(x))
        return dataclasses.replace(moments, times=times)

    @property
    def count(self) -> Array:
        """Number of entries."""
        # The same for every call: no output of the program, unless control flow decides.
        numpy: Any = jnp if isinstance(self.total_square, jax.Array) else np
        once = numpy.full(np.shape(self.total_square), self.size, self.total_square.dtype)
        return once if self.times is None else once * self.times

    @property
    def zero_count(self) -> Array:
        """Number of entries that are exactly zero."""
        # A gradient that never comes back calls no tap: its sums are those of no entry at all.
        some = (self.zeros > 0) | (self.nonfinite_count > 0) | (self.total_square != 0) | (self.total != 0)
        return jnp.where(some, self.zeros.astype(self.total_square.dtype), self.count)

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
        names = ("total", "total_square", "zeros", "nonfinite_count")
        sums = {name: _add(getattr(self, name), getattr(other, name)) for name in names}
        return Moments(**sums, times=self.count + other.count, size=1)


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
    square, nonfinite = _square_and_nonfinite(x, dtype)
    zeros, nonfinites = _count(x == jnp.zeros((), x.dtype), nonfinite)
    return Moments(
        total=jnp.sum(x if jnp.iscomplexobj(x) else x.astype(dtype)),
        total_square=jnp.sum(square),
        zeros=zeros,
        nonfinite_count=nonfinites,
        size=x.size,
    )


def add(terms: Sequence[Array], axes: tuple[int, ...]) -> tuple[Array, ...]:
    """Sums of several arrays of one shape, in one pass."""
    varying = frozenset().union(*map(varying_axes, terms))
    starts = tuple(vary(jnp.zeros((), x.dtype), varying) for x in terms)
    return tuple(lax.reduce(tuple(vary(x, varying) for x in terms), starts, _add_each, axes))


def _add_each(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(p + q for p, q in zip(a, b, strict=True))


def _count(*flags: Array) -> tuple[Array, ...]:
    """How many of each are true, in one pass."""
    if flags[0].size >= 2**31:
        return tuple(jnp.sum(f.astype(jnp.float32)) for f in flags)
    return add([f.astype(jnp.int32) for f in flags], tuple(range(flags[0].ndim)))


def _square_and_nonfinite(x: Array, dtype: jnp.dtype) -> tuple[Array, Array]:
    if jnp.iscomplexobj(x):
        parts = lax.real(x), lax.imag(x)
        return parts[0] ** 2 + parts[1] ** 2, _is_nonfinite(parts[0]) | _is_nonfinite(parts[1])
    x = x.astype(dtype)
    return x * x, _is_nonfinite(x)


def _is_nonfinite(x: Array) -> Array:
    return x - x != 0  # in fewer operations than otherwise, each of which takes time to compile
