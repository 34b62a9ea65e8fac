"""The factor that gives an output its target variance, from one look at it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import lax

from jinit._sharding import is_sharded, whole
from jinit._typing import Array, at_least_float32
from jinit.signals.moments import WIDE, add, in_rows

Axes = tuple[int, ...]
Everywhere = Callable[[Array], Array]  # mean over all devices and batches that hold entries of one output
# Why a factor stays one.
FREE, OUT_OF_REACH, CONSTANT, NONFINITE, NO_GRADIENT = range(5)
_FEW = 4096  # entries that are added up one by one sooner than in several programs that run one after another


@dataclasses.dataclass(frozen=True)
class Solution:
    """What rescaling does to an output; arrays broadcast against it, one entry for each factor.

    Attributes:
      factor: what the contraction is multiplied with; one where the target cannot be reached.
      mean: mean of the contraction.
      before: `(mean, variance)` of the output as it was.
      after: `(mean, variance)` of the output rescaled.
      obstacle: why the factor stays one; `FREE` where the target is reached.
    """

    factor: Array
    mean: Array
    before: tuple[Array, Array]
    after: tuple[Array, Array]
    obstacle: Array


def solve(
    x: Array, bias: Array | None, target: float | Array, axes: Axes, everywhere: Everywhere
) -> Solution:
    """The factor `s` for which `s·x + b` has variance `target`.

    With `V = Var x`, `C = Cov(x, b)` and `B = Var b` it is the larger root of `s²V + 2sC + B = target`.
    Sums are taken about a first guess of the mean, from a few entries, so that a mean far from zero costs no
    digits; and of numbers of order one, so that their squares neither vanish nor overflow.

    Args:
      x: the contraction, float32 or wider.
      bias: what is added to it, broadcasting against `x`; None for nothing.
      target: variance, a number or an array of no axes.
      axes: axes of `x` that share a factor.
      everywhere: takes means over devices and batches that hold other entries of the same output.
    """
    few = lax.slice_in_dim(x, 0, min(4, x.shape[0]), axis=0) if x.ndim and 0 in axes else x
    guess, size = map(everywhere, _means([few, jnp.abs(few)], axes))
    ordinary = (size == 0) | ((size > 1e-12) & (size < 1e12)) | ~jnp.isfinite(size)
    unit = jnp.where(ordinary, jnp.ones_like(size), size)
    d = (x - guess) / unit.astype(x.dtype)
    shared = tuple(i for i in axes if bias is None or bias.shape[i] == 1)
    partial, squares = _mean_and_square(d, shared)
    sums, about = [partial, squares], jnp.zeros_like(guess)
    if bias is not None:
        about = everywhere(first(bias, axes))
        b = bias - about
        sums += [b, _square(b), jnp.real(jnp.conj(partial) * b)]
    mean, square, *of_bias = map(everywhere, _means(sums, axes))
    variance = square - _square(mean)
    b_mean, b_square, product = of_bias or (about, jnp.zeros_like(variance), jnp.zeros_like(variance))
    b_variance = b_square - _square(b_mean)
    covariance = (product - jnp.real(jnp.conj(mean) * b_mean)) * unit
    b_mean = b_mean + about
    constant = variance <= 1e-10 * (square + _square(guess / unit.astype(x.dtype)))
    root = jnp.sqrt(jnp.square(covariance / unit) + variance * (target - b_variance))
    factor = (root - covariance / unit) / (variance * unit)
    valid = jnp.isfinite(factor) & (factor > 0) & ~constant
    factor = jnp.where(valid, factor, jnp.ones_like(factor))
    mean = mean * unit.astype(x.dtype) + guess
    spread = jnp.sqrt(variance) * unit

    def moments(s: Array) -> tuple[Array, Array]:
        return s.astype(x.dtype) * mean + b_mean, jnp.square(s * spread) + 2 * s * covariance + b_variance

    before = moments(jnp.ones_like(factor))
    return Solution(factor, mean, before, moments(factor), obstacle_to(valid, constant, before[1]))


def solve_centered(
    x: Array, target: float | Array, axes: Axes, over: Axes, everywhere: Everywhere
) -> Solution:
    """The factor `s` for which `s·(x − m)` has variance `target`, `m` being the mean over some axes."""
    mean = everywhere(_mean(x, over))
    d = x - mean
    square = everywhere(_mean(_square(d), axes))
    constant = square <= 1e-10 * everywhere(_mean(_square(x), axes))
    factor = jnp.sqrt(target / square)
    constant = constant | (square == 0)
    valid = jnp.isfinite(factor) & ~constant
    factor = jnp.where(valid, factor, jnp.ones_like(factor))
    total = _mean(mean, axes)
    before = square + _mean(_square(mean - total), axes)
    after = jnp.zeros_like(total), jnp.square(factor) * square
    return Solution(factor, mean, (total, before), after, obstacle_to(valid, constant, square))


def obstacle_to(valid: Array, constant: Array, variance: Array) -> Array:
    """Why a factor stays one, in the dtype of the variance."""
    reason = jnp.where(constant, CONSTANT, OUT_OF_REACH)
    reason = jnp.where(jnp.isfinite(variance), reason, NONFINITE)
    return jnp.where(valid, FREE, reason).astype(variance.dtype)


def _square(x: Array) -> Array:
    return jnp.square(jnp.real(x)) + jnp.square(jnp.imag(x)) if jnp.iscomplexobj(x) else jnp.square(x)


def first(x: Array, axes: Axes) -> Array:
    """The first entry along these axes, kept with size one."""
    x = whole(x)  # no entry can be cut out of what is sharded by its type
    for axis in axes:
        x = lax.slice_in_dim(x, 0, 1, axis=axis)
    return x


def _mean_and_square(x: Array, axes: Axes) -> tuple[Array, Array]:
    """Means of `x` and of `|x|²` over axes, kept with size one: on a CPU in one pass, where that pays."""
    leading = next((i for i in range(x.ndim) if i not in axes or _is_narrow(x.shape[i + 1 :])), 0)
    rows = in_rows(x, leading)
    if rows is None:
        terms = [x, _square(x)]
    else:
        terms = add([rows, _square(rows)], (1,))
        while (rows := in_rows(terms[0], 1)) is not None:
            terms = add([rows, terms[1].reshape(rows.shape)], (1,))
        count = x.size // terms[0].size
        terms = [y.reshape(y.shape[0], *(1,) * (leading - 1), *y.shape[1:]) / count for y in terms]
    a, b = _means(terms, axes)
    return a, b


def _is_narrow(shape: tuple[int, ...]) -> bool:
    return math.prod(shape) < WIDE


def _means(terms: Sequence[Array], axes: Axes) -> list[Array]:
    """Means of arrays over axes, kept with size one: of small ones in one pass."""
    shape = jnp.broadcast_shapes(*(y.shape for y in terms))
    axes = tuple(i for i in axes if shape[i] != 1)
    if not axes or math.prod(shape) > _FEW or any(map(is_sharded, terms)):
        return [_mean(y, axes) for y in terms]
    kept = [1 if i in axes else n for i, n in enumerate(shape)]
    sums = add([jnp.broadcast_to(y, shape) for y in terms], axes)
    return [y.reshape(kept) / max(math.prod(shape[i] for i in axes), 1) for y in sums]


def _mean(x: Array, axes: Axes) -> Array:
    """Mean over axes, kept with size one.

    Measured on CPU: a sum of floats to one number runs entry by entry. Summing the leading axes first keeps
    many sums side by side, seven times faster for 256 × 512 entries.
    """
    last = max((k for k in range(x.ndim) if not _is_narrow(x.shape[k:])), default=0)
    first = tuple(i for i in axes if i < last)
    rest = tuple(i for i in axes if i >= last)
    count = math.prod(x.shape[i] for i in axes)
    x = jnp.sum(x, axis=first, keepdims=True) if first else x
    x = jnp.sum(x, axis=rest, keepdims=True) if rest else x
    return x / jnp.asarray(max(count, 1), at_least_float32(x.dtype))
