"""Softmax, seen as a whole: its rows sum to one, and what comes back from it sums to zero."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jinit._typing import Array
from jinit.signals.laws import places
from jinit.signals.laws.arrays import is_traced, largest_of, xp
from jinit.signals.laws.grids import grid_of
from jinit.signals.laws.law import Axes, Law, average, ratio, square_root, squared, without
from jinit.signals.laws.masked import less_common
from jinit.signals.laws.pointwise import LIMIT, pointwise
from jinit.signals.laws.positions import without_places
from jinit.signals.laws.roots import MASK, Root

# Times of the Laplace transform, in units of one over the sum of a row. In the logarithm of time the
# integrands are smooth and fall off at both ends, so that equal steps are exact to six digits.
_STEP = 0.75
_TIMES = np.exp(np.arange(-16.0, 25.0, _STEP))
_LARGEST = np.float32(np.exp(14.0))  # an entry of so many times the sum of a row takes all
_LEAST = np.float32(1e-30)
# Rows that add up to more, on average, count as adding up to one.
WHOLE = 0.8
FORWARD, BESIDE, BACKWARD = "softmax_of_rows", "softmax_beside_sink", "pullback_of_softmax"
COIN = "coin"  # of the roots of a law of shares, that which stands for what varies given their own scores


@functools.partial(jax.jit, static_argnums=(1, 2))
def softmax_of_rows(z: Array, axes: tuple[int, ...], plus: float) -> Array:
    """`exp(z) / (plus + Σ exp(z))`, summed along `axes`."""
    exponentials = jnp.exp(z)
    return exponentials / (jnp.sum(exponentials, axes, keepdims=True) + plus)


@functools.partial(jax.jit, static_argnums=2)
def pullback_of_softmax(p: Array, cotangent: Array, axes: tuple[int, ...]) -> Array:
    """`p (ct - Σ p ct)`."""
    return p * (cotangent - jnp.sum(p * cotangent, axes, keepdims=True))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def softmax(z: Array, axes: tuple[int, ...], plus: float = 0.0) -> Array:
    """Softmax along `axes`; with a sink, `plus` is added to the sum."""
    return softmax_of_rows(z, axes, plus)


def _forward(z: Array, axes: tuple[int, ...], plus: float) -> tuple[Array, Array]:
    p = softmax_of_rows(z, axes, plus)
    return p, p


def _backward(axes: tuple[int, ...], plus: float, p: Array, cotangent: Array) -> tuple[Array]:
    return (pullback_of_softmax(p, cotangent, axes),)


softmax.defvjp(_forward, _backward)


@functools.partial(jax.jit, static_argnums=2)
def softmax_beside_sink(z: Array, sink: Array, axes: tuple[int, ...]) -> Array:
    """`exp(z) / (exp(sink) + Σ exp(z))`, summed along `axes`, along which a sink has one entry."""
    exponentials = jnp.exp(z)
    return exponentials / (jnp.sum(exponentials, axes, keepdims=True) + jnp.exp(sink))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def beside_sink(z: Array, sink: Array, axes: tuple[int, ...]) -> Array:
    """Softmax along `axes` beside a sink that is an array, as one that is learned."""
    return softmax_beside_sink(z, sink, axes)


def _forward_beside(z: Array, sink: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    p = softmax_beside_sink(z, sink, axes)
    return p, p


def _backward_beside(axes: tuple[int, ...], p: Array, cotangent: Array) -> tuple[Array, Array]:
    left = 1 - jnp.sum(p, axes, keepdims=True)
    back = -left * jnp.sum(p * cotangent, axes, keepdims=True)
    return pullback_of_softmax(p, cotangent, axes), back


beside_sink.defvjp(_forward_beside, _backward_beside)


def probabilities(z: Law, axes: Axes, name: Any, plus: Array | float = 0.0) -> Law:
    """`exp(z)` over `plus` and its sum along `axes`, given the roots that all of a row share.

    With `e = exp(z)` and `m` others of the same law, whose Laplace transform is `φ(t) = E[exp(-t e)]`, and
    `1 / S^k = ∫ t^(k-1) exp(-t S) dt / (k-1)!`, an entry's share is on average, given its own `e`,

        E[p | e] = ∫ e exp(-t e) φ(t)^m dt,    E[p² | e] = ∫ e² t exp(-t e) φ(t)^m dt,

    and `φ(t)^m exp(-t plus)` instead of `φ(t)^m` beside a sink. It is held as the former, and a coin for the
    deviation.
    """
    alone = isinstance(plus, float) and not plus
    z = less_common(z, z, axes)
    varying = [i for i, r in enumerate(z.roots) if r.axes & axes]
    count = xp.asarray(_count(z, axes), z.nodes.dtype)
    if not varying:
        one = xp.ones_like(z.nodes)
        sink = 0 * one if alone else plus * xp.exp(-z.nodes)
        return dataclasses.replace(z, nodes=one / (count + sink))
    largest = largest_of(z.nodes, tuple(varying), keepdims=True)  # what it is makes no difference
    e = xp.exp(z.nodes - largest)
    seen = average(z, varying, (e > 0).astype(e.dtype))  # the rest is masked
    tiny = xp.asarray(jnp.finfo(e.dtype).tiny, e.dtype)
    others = xp.maximum(count * seen - 1, xp.zeros((), e.dtype))
    sink = xp.zeros_like(largest) if alone else plus * xp.exp(-largest)
    typical = xp.maximum(count * average(z, varying, e) + sink, tiny)
    times = xp.asarray(_TIMES, e.dtype).reshape((1,) * e.ndim + (-1,))
    x = xp.minimum(e / typical, _LARGEST)[..., None] * times  # `t e`
    survive = xp.exp(-x)
    transform = (
        average(z, varying, survive * (e > 0).astype(e.dtype)[..., None]) / xp.maximum(seen, tiny)[..., None]
    )
    # Not as a power, whose derivative is `0 / 0` where there are no others.
    without_it = xp.exp(others[..., None] * xp.log(xp.clip(transform, _LEAST, 1)))
    own = x * survive * without_it * xp.exp(-(sink / typical)[..., None] * times)
    p, square = (_STEP * xp.sum(own * power, axis=-1) for power in (1, x))
    row = xp.maximum(count * average(z, varying, p), tiny)
    spread = square_root(square - squared(p))
    nodes = xp.stack([p - spread, p + spread], axis=-1)
    if alone:
        nodes = nodes / row[..., None]  # it is one, but for rounding
    sums = frozenset([axes]) if alone or _is_whole(row) else frozenset[Axes]()
    coin = Root((COIN, name), frozenset[int]().union(*(z.roots[i].axes for i in varying)))
    weights = (*z.weights, xp.full(2, 0.5, e.dtype))
    return Law(nodes, weights, (*z.roots, coin), z.shape, z.dtype, fixed_sums=sums)


def beside(z: Law, sink: Law, axes: Axes, name: Any) -> Law:
    """Shares beside a sink, of which the mean of `exp(sink)` counts."""
    return probabilities(z, axes, name, average(sink, of=xp.exp(sink.nodes)).reshape(()))


def _is_whole(rows: Array) -> bool:
    """Whether rows beside a sink still add up to one, nearly."""
    return not is_traced(rows) and float(np.mean(rows)) > WHOLE


def pulled_back(p: Law, cotangent: Law, axes: Axes, name: Any) -> Law:
    """`p (ct - Σ p ct)`.

    What all entries of a row of `ct` share drops out. Of the rest, independent from entry to entry, the
    variance is multiplied by `p² ((1 - p)² + Σ p²)`, where the sum is over the others. They add up to
    `1 - p`, so their sum of squares is taken as proportional to `(1 - p)²`, with the mean that it has.
    Given its score, a share is taken as of a beta distribution.
    """
    p = places.as_signals(p, axes)
    cotangent = without_places(cotangent, min(axes)) if len(axes) == 1 else places.as_signals(cotangent, axes)
    varying = [i for i, r in enumerate(p.roots) if r.axes & axes]
    count = xp.asarray(_count(p, axes), p.nodes.dtype)
    unmasked = (average(p, _coins(p)) > 1e-6 / count).astype(p.nodes.dtype)
    seen = average(p, varying, unmasked)
    others = (count - 1 / xp.maximum(seen, 1 / count)) * average(p, varying, squared(p.nodes))
    left = average(p, varying, unmasked * squared(1 - p.nodes)) / xp.maximum(seen, 1 / count)
    factor = _slope(p, 1 + ratio(others, left))
    theirs = [i for i, r in enumerate(cotangent.roots) if r.axes & axes]
    rest = dataclasses.replace(cotangent, nodes=cotangent.nodes - average(cotangent, theirs))
    rest = less_common(rest, p, axes)
    laws = [_beside(factor, rest, (COIN, name)), rest]
    aval = jax.ShapeDtypeStruct(p.shape, cotangent.dtype)
    (out,) = pointwise(lambda x, y: [x * y], laws, [aval], name, "mul")
    return dataclasses.replace(out, fixed_sums=p.fixed_sums & {axes})


def _coins(p: Law) -> list[int]:
    """Where among the roots of shares that stands which they differ by for the same scores."""
    return [i for i, r in enumerate(p.roots) if isinstance(r.name, tuple) and r.name[:1] == (COIN,)]


def _slope(p: Law, times: Array) -> Law:
    """The root of the mean of `p² (1 - p)²`, given scores, by their two moments then, and of `times`.

    Of a beta distribution of parameters `a + b = k`, with a mean `m` and a variance of `m (1 - m) / (k + 1)`,

        E[p² (1 - p)²] = m (1 - m) k (m k + 1) ((1 - m) k + 1) / ((k + 1) (k + 2) (k + 3)).
    """
    coin = _coins(p)
    mean = average(p, coin)
    variance = average(p, coin, squared(p.nodes - mean))
    even = xp.clip(mean * (1 - mean), 0, 1)
    v = xp.clip(ratio(variance, even), 0, 1)  # one over `k + 1`
    square = even * (1 - v) * (mean * (1 - v) + v) * ((1 - mean) * (1 - v) + v) / ((1 + v) * (1 + 2 * v))
    return dataclasses.replace(without(p, coin, square_root(square * times)), fixed_sums=frozenset())


def _beside(factor: Law, cotangent: Law, name: Any) -> Law:
    """The factor on as many roots, those that it varies most with, as a grid holds beside the cotangent.

    Of the others two moments are kept, given these, as a coin.
    """
    square = squared(factor.nodes)
    gone: list[int] = []
    while grid_of([factor, cotangent]) * (2 if gone else 1) > LIMIT * _nodes(factor, gone):
        left = [i for i, r in enumerate(factor.roots) if r.kind != MASK and i not in gone]
        if not left:
            return factor
        if is_traced(square):  # which matter least is not known: the most nodes at once
            gone.append(max(left, key=lambda i: factor.weights[i].size))
        else:
            gone.append(min(left, key=lambda i: float(np.mean(square - squared(average(factor, [i]))))))
    if not gone:
        return factor
    mean = average(factor, gone)
    spread = square_root(average(factor, gone, square) - squared(mean))
    coin = Root(name, frozenset[int]().union(*(factor.roots[i].axes for i in gone)))
    left = without(factor, gone, mean)
    spread = without(factor, gone, spread).nodes
    return dataclasses.replace(
        left,
        nodes=xp.stack([left.nodes - spread, left.nodes + spread], axis=-1),
        weights=(*left.weights, xp.full(2, 0.5, spread.dtype)),
        roots=(*left.roots, coin),
    )


def _nodes(law: Law, roots: Sequence[int]) -> int:
    return math.prod(law.weights[i].size for i in roots)


def _count(law: Law, axes: Axes) -> float:
    count = 1.0
    for i in axes:
        count *= law.shape[i]
    return count
