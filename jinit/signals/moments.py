"""First and second moments of an array, as sums that add up over loop steps and devices."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jinit._compat import vary, varying_axes
from jinit._sharding import is_sharded
from jinit._typing import Array

WIDE = 128  # entries side by side that make a sum along the other axes run at full speed
_ROWS = 16  # of more rows, a compiler writes a loop that is not in vectors
_LARGE = 2**18  # entries that take longer to fetch from memory than to add up


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
    def of(x: Array, *, counted: bool = False, stored: bool = False) -> Moments:
        """The moments of all entries of `x`, of any shape and any numeric dtype.

        Args:
          x: the array.
          counted: count at run time how often this is reached, as under `cond` it may not be.
          stored: whether `x` is in memory, as a weight is, and not made entry by entry just before. The
            moments are the same, sooner.
        """
        moments = _moments(x, stored)
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


@functools.partial(jax.jit, static_argnames="stored")
def _moments(x: Array, stored: bool) -> Moments:
    """Two plain sums, which fuse with what made `x`, and one pass that counts in integers.

    Measured on CPU: sums of floats are library calls, to be kept plain; a count of floats would be
    written out entry by entry first, where the integer reduction of two counts at once runs in one
    vectorized loop and is exact. What is large and in memory is read once instead, row upon row.
    """
    size = x.size
    wide = x.dtype in (jnp.float64, jnp.complex128, jnp.int64, jnp.uint64)
    rows = in_rows(x, x.ndim - 1) if stored and size >= _LARGE else None
    x = x if rows is None else rows
    dtype = jnp.dtype(jnp.float64 if wide else jnp.float32)
    square, nonfinite = _square_and_nonfinite(x, dtype)
    zero = x == jnp.zeros((), x.dtype)
    plain = x if jnp.iscomplexobj(x) else x.astype(dtype)
    terms = [plain, square, zero.astype(jnp.int32), nonfinite.astype(jnp.int32)]
    terms = terms if rows is None else add(terms, (1,))
    if size < 2**31:
        zeros, nonfinites = add(terms[2:], tuple(range(terms[2].ndim)))
    else:
        zeros, nonfinites = (jnp.sum(n.astype(dtype)) for n in terms[2:])
    return Moments(
        total=jnp.sum(terms[0]),
        total_square=jnp.sum(terms[1]),
        zeros=zeros,
        nonfinite_count=nonfinites,
        size=size,
    )


def add(terms: Sequence[Array], axes: tuple[int, ...]) -> list[Array]:
    """Sums of several arrays of one shape, in one pass."""
    varying = frozenset[str]().union(*map(varying_axes, terms))
    return _add_together([vary(x, varying) for x in terms], axes)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _add_together(terms: list[Array], axes: tuple[int, ...]) -> list[Array]:
    starts = tuple(vary(jnp.zeros((), x.dtype), varying_axes(x)) for x in terms)
    return list(lax.reduce(tuple(terms), starts, _add_each, axes))


@_add_together.defjvp
def _add_together_jvp(axes: tuple[int, ...], primals: Any, tangents: Any) -> tuple[list[Array], list[Any]]:
    sums = _add_together(*primals, axes)  # JAX has no derivative of it where some terms are integers
    (terms,) = tangents
    along = [_sum_along(s, t, axes) for s, t in zip(sums, terms, strict=True)]
    return sums, along


def _sum_along(total: Array, tangent: Any, axes: tuple[int, ...]) -> Array:
    if tangent.dtype != jax.dtypes.float0:
        return jnp.sum(tangent, axes)
    none: Any = np.zeros(total.shape, tangent.dtype)
    return vary(none, varying_axes(total))


def _add_each(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(p + q for p, q in zip(a, b, strict=True))


def in_rows(x: Array, leading: int) -> Array | None:
    """`x` as `[rows / 16, 16, …]`, to be summed over axis 1 first; None where that does not pay.

    A compiler for CPUs leaves sums of floats in their order, and runs them entry by entry. A few rows one
    above another it adds in vectors, entries side by side, and what is made of entries it need not write out.

    Args:
      x: the array.
      leading: how many of its axes make up the rows.
    """
    rows, row = math.prod(x.shape[:leading]), x.shape[leading:]
    cpu = jax.default_backend() == "cpu"  # as far as is known here; nothing but speed depends on it
    if not cpu or rows < 2 or rows % _ROWS or math.prod(row) < WIDE or is_sharded(x):
        return None
    return x.reshape(-1, _ROWS, *row)


def _square_and_nonfinite(x: Array, dtype: jnp.dtype) -> tuple[Array, Array]:
    if jnp.iscomplexobj(x):
        parts = lax.real(x), lax.imag(x)
        return parts[0] ** 2 + parts[1] ** 2, ~(lax.is_finite(parts[0]) & lax.is_finite(parts[1]))
    x = x.astype(dtype)
    return x * x, ~lax.is_finite(x)
