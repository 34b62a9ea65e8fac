"""Contractions: sums of many products, normal by the central limit theorem."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jinit._typing import Array
from jinit.signals.laws.align import SIZES, levels_by_variance
from jinit.signals.laws.arrays import xp
from jinit.signals.laws.law import (
    COTANGENT,
    SIGNAL,
    Axes,
    Law,
    Root,
    all_axes,
    average,
    constant,
    plus_normal,
    spread_by_axes,
    squared,
    without,
)
from jinit.signals.laws.moving import relabelled
from jinit.signals.laws.pointwise import LIMIT, TIDY, grid_of, narrowed, spread, union, weights_of


@dataclasses.dataclass(frozen=True)
class Contraction:
    """How the axes of two operands meet.

    Indices of the result and of the sum are numbered together: first the axes of the result, then what is
    summed over.

    Attributes:
      axes: for either operand and each of its axes, the indices that it moves with.
      free: for either operand, its axes that the other lacks and the result keeps.
      shape: of the result.
      counts: number of terms of each summed index, a mean where padding makes it differ.
      squares: mean square of that number.
      shared: for the tap of a window, the place it moves with and how many taps meet entries at both of two
        places, on average.
    """

    axes: tuple[Sequence[Axes], Sequence[Axes]]
    free: tuple[Axes, Axes]
    shape: tuple[int, ...]
    counts: Mapping[int, float]
    squares: Mapping[int, float]
    shared: Mapping[int, tuple[int, float]] = dataclasses.field(default_factory=dict)


def of_dot(eqn: Any) -> Contraction:
    """The axes of a `dot_general`."""
    (summed, batch) = eqn.params["dimension_numbers"]
    shape = eqn.outvars[0].aval.shape
    after, counts, maps, frees = len(batch[0]), {}, [], []
    for side in (0, 1):
        operand = eqn.invars[side].aval.shape
        free = [i for i in range(len(operand)) if i not in summed[side] and i not in batch[side]]
        places = {axis: k for k, axis in enumerate(batch[side])}
        places |= {axis: after + k for k, axis in enumerate(free)}
        places |= {axis: len(shape) + k for k, axis in enumerate(summed[side])}
        counts |= {len(shape) + k: float(operand[axis]) for k, axis in enumerate(summed[side])}
        maps.append([frozenset([places[i]]) for i in range(len(operand))])
        frees.append(frozenset(free))
        after += len(free)
    squares = {k: n**2 for k, n in counts.items()}
    return Contraction((maps[0], maps[1]), (frees[0], frees[1]), tuple(shape), counts, squares)


def of_convolution(eqn: Any) -> Contraction:
    """The axes of a `conv_general_dilated`: each spatial axis of the signal moves with a place and a tap."""
    p = eqn.params
    lhs, rhs, out = p["dimension_numbers"]
    signal, kernel, shape = (v.aval.shape for v in (*eqn.invars[:2], eqn.outvars[0]))
    rank, channels = len(shape), len(shape)
    maps: tuple[list[Axes], list[Axes]] = ([frozenset()] * rank, [frozenset()] * rank)
    grouped, batched = p["feature_group_count"] > 1, p["batch_group_count"] > 1
    maps[0][lhs[0]] = frozenset([out[0]] + ([out[1]] if batched else []))
    maps[0][lhs[1]] = frozenset([channels] + ([out[1]] if grouped else []))
    maps[1][rhs[0]], maps[1][rhs[1]] = frozenset([out[1]]), frozenset([channels])
    counts = {channels: float(kernel[rhs[1]])}
    squares, shared = {channels: counts[channels] ** 2}, {}
    for k in range(rank - 2):
        tap = channels + 1 + k
        maps[0][lhs[2 + k]], maps[1][rhs[2 + k]] = frozenset([out[2 + k], tap]), frozenset([tap])
        taps = taps_of(
            signal[lhs[2 + k]], kernel[rhs[2 + k]], shape[out[2 + k]], p["window_strides"][k],
            p["padding"][k], p["lhs_dilation"][k], p["rhs_dilation"][k],
        )  # fmt: skip
        number = taps.sum(axis=1)
        counts[tap], squares[tap] = float(number.mean()), float((number**2).mean())
        shared[tap] = out[2 + k], float((taps.mean(axis=0) ** 2).sum())
    free = frozenset(i for i in range(rank) if i != lhs[1]), frozenset([rhs[0]])
    return Contraction((maps[0], maps[1]), free, tuple(shape), counts, squares, shared)


def taps_of(
    size: int,
    window: int,
    places: int,
    stride: int,
    padding: tuple[int, int],
    dilation: int,
    window_dilation: int,
) -> np.ndarray:
    """Whether a tap meets an entry, rather than padding or a hole: `[place, tap]`, zeros and ones."""
    at = np.arange(places)[:, None] * stride + np.arange(window)[None] * window_dilation - padding[0]
    meets = (at >= 0) & (at <= (size - 1) * dilation) & (at % dilation == 0)
    return meets.astype(np.float64)


def contract(
    a: Law, b: Law, how: Contraction, dtype: Any, name: Hashable, *, weight: int | None = None
) -> Law:
    """The law of the contraction.

    With `x` and `y` independent, `z = Σ x y` over `n` terms has mean `n E[x] E[y]`, conditional on the roots
    that do not vary along the sum. Products of the parts of `x` and `y` that do vary (Hoeffding) add up to a
    normal each: variance `n E[x_S²] E[y_S²]`, shared by those entries of the result that share the roots.

    Args:
      a: law of the first operand.
      b: law of the second.
      how: how their axes meet.
      dtype: of the result.
      name: for new roots.
      weight: which operand is a weight, if one is: all that comes of its mean counts as an entry's own.
    """
    rank = len(how.shape)
    wide = (*how.shape, *(2 for _ in how.counts))  # stands for the joint index
    laws = [relabelled(forget_shape(x), m, wide) for x, m in zip((a, b), how.axes, strict=True)]
    summed = frozenset(how.counts)
    if grid_of([_quiet(law, summed) for law in laws]) > LIMIT:
        laws = [narrowed(law) for law in laws]
    quiet, means, variances = [], [], []
    for law in laws:
        varying = [i for i, r in enumerate(law.roots) if r.axes & summed]
        mean, found = spread_by_axes(law, varying)
        quiet.append(without(law, varying, mean))
        means.append(mean)
        variances.append({axes: without(law, varying, v) for axes, v in found.items()})
    roots = union(quiet)
    mean = _product(quiet, roots) * xp.asarray(math.prod(how.counts.values()), quiet[0].nodes.dtype)
    still = [{frozenset[int](): dataclasses.replace(q, nodes=squared(q.nodes))} for q in quiet]
    spreads: dict[Axes, Any] = {}
    fixed_a, fixed_b = (x.fixed_sums & summed for x in laws)
    for (own_a, x), (own_b, y) in _pairs(still, variances):
        if (fixed_a & own_a) - own_b or (fixed_b & own_b) - own_a:
            continue  # what is the same for all terms meets a sum that does not vary
        moving = own_a | own_b
        terms = math.prod(how.counts[k] if k in moving else how.squares[k] for k in summed)
        axes = frozenset(i for i in moving if i < rank) & all_axes(how.shape)
        if weight is not None and not (own_a, own_b)[weight]:
            axes = all_axes(how.shape)
        value = _product((x, y), roots)
        # Two places share only those taps that padding leaves to both.
        still_at = {k: how.shared[k] for k in summed & how.shared.keys() if how.shared[k][0] not in moving}
        common = math.prod(both / how.counts[k] for k, (_, both) in still_at.items() if how.counts[k])
        _add(spreads, axes, value * xp.asarray(terms * common, value.dtype))
        if common < 1:
            places = frozenset(place for place, _ in still_at.values()) & all_axes(how.shape)
            _add(spreads, axes | places, value * xp.asarray(terms * (1 - common), value.dtype))
    squeezed = [dataclasses.replace(r, axes=frozenset(i for i in r.axes if i < rank)) for r in roots]
    law = Law(mean, weights_of(quiet, roots), tuple(squeezed), how.shape, jnp.dtype(dtype))
    linear = any(x.is_linear for x in laws)
    out = normal_sum_of(law, spreads, name, linear=linear, common=weight is not None)
    fixed = [
        frozenset(k for k in mine.fixed_sums if k < rank) - frozenset().union(*other)
        for mine, other in zip(laws, reversed(how.axes), strict=True)
    ]
    return dataclasses.replace(out, fixed_sums=fixed[0] | fixed[1])


def _quiet(law: Law, summed: Axes) -> Law:
    """Those roots alone that stay the same along the sum."""
    kept = [i for i, r in enumerate(law.roots) if not r.axes & summed]
    nodes = law.nodes[tuple(slice(None) if i in kept else 0 for i in range(len(law.roots)))]
    weights, roots = tuple(law.weights[i] for i in kept), tuple(law.roots[i] for i in kept)
    return dataclasses.replace(law, nodes=nodes, weights=weights, roots=roots)


def _add(spreads: dict[Axes, Array], axes: Axes, variance: Array) -> None:
    spreads[axes] = spreads[axes] + variance if axes in spreads else variance


def _pairs(still: Any, moving: Any) -> list[Any]:
    """Parts of the two factors, at least one of which varies along the sum."""
    a, b = ([*s.items(), *m.items()] for s, m in zip(still, moving, strict=True))
    return [(x, y) for i, x in enumerate(a) for j, y in enumerate(b) if i or j]


def forget_shape(law: Law) -> Law:
    """Averages are real where they enter a sum: as roots like any other."""
    return dataclasses.replace(law, roots=tuple(dataclasses.replace(r, average=False) for r in law.roots))


def _product(laws: Sequence[Law], roots: tuple[Root, ...]) -> Array:
    """The product of two functions of roots, on the grid of all of them."""
    return spread(laws[0], roots) * spread(laws[1], roots)


def normal_sum_of(
    mean: Law, spreads: dict[Axes, Array], name: Hashable, *, linear: bool, common: bool = False
) -> Law:
    """`mean` plus a normal for each set of axes."""
    levels = levels_by_variance(spreads, mean.shape, common=common)
    mean = dataclasses.replace(mean, is_normal=not mean.roots)
    if linear or mean.nodes.size * math.prod(SIZES[len(levels)]) > TIDY:
        mean, spreads = _all_normal(mean, spreads)
        levels = levels_by_variance(spreads, mean.shape, common=common)
    kind = COTANGENT if linear else SIGNAL
    totals = [xp.zeros((), mean.nodes.dtype)] * len(levels)
    for axes, variance in spreads.items():
        at = next(i for i, level in enumerate(levels) if axes <= level)
        totals[at] = totals[at] + variance
    out = mean
    for i, (axes, variance) in enumerate(zip(levels, totals, strict=True)):
        if variance.ndim:
            variance = variance.reshape(variance.shape + (1,) * i)
        out = plus_normal(out, variance, Root((name, i), axes, kind), SIZES[len(levels)][i])
    return out


def _all_normal(mean: Law, spreads: dict[Axes, Array]) -> tuple[Law, dict[Axes, Array]]:
    """The roots of the mean, too, as normals, and all variances averaged."""
    totals: dict[Axes, Any] = {
        axes: average(mean, of=v).reshape(()) if v.ndim else v for axes, v in spreads.items()
    }
    _, found = spread_by_axes(mean, range(len(mean.roots)))
    for axes, v in found.items():
        totals[axes] = totals.get(axes, xp.zeros((), v.dtype)) + v.reshape(())
    return constant(average(mean).reshape(()), mean.shape, mean.dtype), totals


def total(law: Law, axes: Axes, shape: Sequence[int], name: Hashable, *, keep: bool = False,
          counts: Mapping[int, float] | None = None) -> Law:  # fmt: skip
    """The law of the sum over `axes`.

    By the law of large numbers that is its mean, given the roots that it does not average, and a normal
    remainder.

    Args:
      law: of the entries.
      axes: axes summed over, or along which windows lie.
      shape: of the result, with the summed axes of one entry.
      name: for the new root.
      keep: whether the remainder stays where the sum is broadcast again, as that of a pooling does.
      counts: number of terms along each axis, if not all.
    """
    n = {i: float(law.shape[i]) for i in axes} if counts is None else dict(counts)
    fixed = law.fixed_sums & axes if counts is None else frozenset()
    varying = [i for i, r in enumerate(law.roots) if r.axes & axes]
    mean, found = spread_by_axes(law, varying)
    out = without(law, varying, mean * xp.asarray(math.prod(n.values()), mean.dtype))
    out = dataclasses.replace(out, shape=tuple(shape), fixed_sums=law.fixed_sums - axes)
    spread_out: Any = 0.0
    left: Axes = frozenset()
    for moving, variance in found.items():
        if moving & fixed:
            continue
        terms = math.prod(n[i] if i in moving else n[i] ** 2 for i in n)
        spread_out = spread_out + xp.squeeze(variance, tuple(varying)) * xp.asarray(terms, variance.dtype)
        left |= moving
    left = left & all_axes(shape)
    if not varying or not left:
        return out
    root = Root(name, left, COTANGENT if law.is_linear else SIGNAL, average=not keep)
    return plus_normal(out, spread_out, root, 64 if keep else 5)
