"""Contractions: sums of many products, normal by the central limit theorem."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Hashable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jinit._typing import Array
from jinit.signals.laws import places
from jinit.signals.laws.align import SIZES, sizes_of
from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.folding import folds_of, meeting_places
from jinit.signals.laws.grids import grid_of, union, weights_of
from jinit.signals.laws.in_common import common_terms
from jinit.signals.laws.law import (
    Axes,
    Law,
    average,
    first_along,
    plus_normal,
    without,
)
from jinit.signals.laws.levels import MOST, MOST_OF_PRODUCTS, level_of, levels_by_variance
from jinit.signals.laws.masked import masked_in
from jinit.signals.laws.meeting import Contraction
from jinit.signals.laws.moving import relabelled
from jinit.signals.laws.parts import add_to, spread_by_reach
from jinit.signals.laws.pointwise import LAYER, LIMIT, TIDY, narrowed
from jinit.signals.laws.positions import refined_apart
from jinit.signals.laws.roots import COTANGENT, SIGNAL, Root
from jinit.signals.laws.runs import Reach, sums_of
from jinit.signals.laws.runs import summed as summed_reach
from jinit.signals.laws.spreading import Spreads, own_of, parts_of, product_of
from jinit.signals.laws.terms import with_terms
from jinit.signals.laws.windowed import Windowed, at_weights_again, windowed

# Of variances: so much less than another is a rounding error.
NOTHING = 1e-12


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
    laws = [_with_sums_along(law, how) for law in laws]
    common = common_terms((a, b), laws, how)
    laws = [meeting_places(x, law, k, how) for k, (x, law) in enumerate(zip((a, b), laws, strict=True))]
    laws, masked = masked_in(refined_apart(laws), how)
    summed = frozenset(how.counts)
    linear = any(law.is_linear for law in laws)
    if grid_of([_quiet(law, summed) for law in laws]) > LIMIT:
        laws = [narrowed(law) for law in laws]
    own = [
        own_of(x, other) if linear else frozenset[Root]() for x, other in zip(laws, laws[::-1], strict=True)
    ]
    laws = [at_weights_again(x, summed, y.parameters) for x, y in zip(laws, laws[::-1], strict=True)]
    factors = [parts_of(law, summed, mine) for law, mine in zip(laws, own, strict=True)]
    quiet = [still for still, _ in factors]
    folds = folds_of(quiet, how, union(quiet), masked, laws)
    whole = math.prod(n for k, n in how.counts.items() if k not in folds.indices)
    mean = folds.summed(product_of(quiet, folds.roots), frozenset())
    mean = mean * xp.asarray(whole, mean.dtype)
    found = Spreads(how, folds, weight, masked)
    for pair in itertools.product(*(parts for _, parts in factors)):
        found.add(pair)
    spreads = found.by_reach()
    for reach, variance in common.items():
        add_to(spreads, reach, variance)
    left = tuple(r.along(frozenset(range(rank))) for r in folds.left)
    weights = folds.weights(dict(zip(folds.roots, weights_of(quiet, folds.roots), strict=True)))
    law = Law(mean, weights, left, how.shape, jnp.dtype(dtype))
    most = MOST if linear or weight is not None else MOST_OF_PRODUCTS
    slides = None if weight is None or linear else windowed(how, laws[weight].parameters)
    out = normal_sum_of(
        law, spreads, name, linear=linear, common=weight is not None, most=most, slides=slides
    )
    fixed = [
        frozenset(f for f in mine.sums_left(frozenset().union(*other)) if max(f) < rank)
        for mine, other in zip(laws, reversed(how.axes), strict=True)
    ]
    if masked is not None:  # what adds up to nothing is in the correlations
        fixed = [frozenset(f for f in sums if masked.left not in f) for sums in fixed]
    out = out.with_sums(fixed[0] | fixed[1])
    known = None if masked is None else masked.side
    return with_terms(out, name, (a, b), how, _share_without(common, spreads), known)


def _share_without(common: dict[Reach, Array], spreads: dict[Reach, Array]) -> float:
    """The share of the variance that is not by what the factors have in common."""
    if not common or any(map(is_traced, (*common.values(), *spreads.values()))):
        return 1.0
    ours, whole = (sum(float(np.mean(v)) for v in found.values()) for found in (common, spreads))
    return 1 - ours / whole if whole > 0 else 1.0


def _with_sums_along(law: Law, how: Contraction) -> Law:
    fixed = [sums_of((how.along_longer(f), share) for f, share in r.fixed) for r in law.roots]
    roots = (dataclasses.replace(r, fixed=f) for r, f in zip(law.roots, fixed, strict=True))
    return dataclasses.replace(law, roots=tuple(roots))


def _quiet(law: Law, summed: Axes) -> Law:
    """Those roots alone that stay the same along the sum."""
    moving = places.others_along(law, summed)
    return without(law, moving, first_along(law, moving))


def forget_shape(law: Law) -> Law:
    """Averages are real where they enter a sum: as roots like any other."""
    return dataclasses.replace(law, roots=tuple(dataclasses.replace(r, average=False) for r in law.roots))


def normal_sum_of(
    mean: Law,
    spreads: dict[Reach, Array],
    name: Hashable,
    *,
    linear: bool,
    common: bool = False,
    most: int = MOST,
    slides: Windowed | None = None,
) -> Law:
    """`mean` plus a normal for each level; that of all axes is of windows that slide, if any is."""
    spreads = _without_nothing(spreads, linear)
    levels = levels_by_variance(spreads, mean.shape, common=common, most=most)
    mean = dataclasses.replace(mean, is_normal=not places.others(mean))
    sizes = _sizes_beside(mean, len(levels))
    if linear or grid_of([mean]) * math.prod(sizes) > TIDY:
        mean, spreads = _all_normal(mean, spreads)
        levels = levels_by_variance(spreads, mean.shape, common=common, most=most)
        sizes = sizes_of(len(levels), places.positions(mean))
    kind = COTANGENT if linear else SIGNAL
    members: list[list[tuple[Reach, Any]]] = [[] for _ in levels]
    for reach, variance in spreads.items():
        members[level_of(reach, levels)].append((reach, variance))
    out = mean
    for i, ((axes, _), parts) in enumerate(zip(levels, members, strict=True)):
        variance: Any = sum((v for _, v in parts), xp.zeros((), mean.nodes.dtype))
        if variance.ndim:
            variance = variance.reshape(variance.shape + (1,) * i)
        reach = summed_reach(
            parts, axes, mean.shape, lambda v, k, roots=mean.roots: places.along_axis(v, roots, k)
        )
        whole = slides if i == len(levels) - 1 else None
        root = Root((name, i), axes, kind, runs=reach.runs, fixed=reach.fixed, windowed=whole)
        out = plus_normal(out, variance, root, sizes[i])
    return out


def _without_nothing(spreads: dict[Reach, Array], linear: bool) -> dict[Reach, Array]:
    """The variances but those that are rounding errors, if they are known; a gradient keeps some."""
    if any(map(is_traced, spreads.values())):
        return spreads
    least = NOTHING * max((float(np.max(v)) for v in spreads.values()), default=0.0)
    left = {reach: v for reach, v in spreads.items() if not float(np.max(v)) <= least}
    return spreads if linear and not left else left


def _sizes_beside(mean: Law, count: int) -> tuple[int, ...]:
    """Nodes for each of so many levels, beside the roots of `mean`."""
    if not count:
        return ()
    others = places.others(mean)
    beside = SIZES[min(len(others) + count, max(SIZES))][-count:]
    sizes = [min(a, b) for a, b in zip(sizes_of(count, places.positions(mean)), beside, strict=True)]
    while grid_of([mean]) * math.prod(sizes) > LAYER and max(sizes) > 4:
        sizes[sizes.index(max(sizes))] -= 1
    return tuple(sizes)


def _all_normal(mean: Law, spreads: dict[Reach, Array]) -> tuple[Law, dict[Reach, Array]]:
    """The roots of the mean, too, as normals, and all variances averaged, at each place."""
    random = places.others(mean)

    def at_places(x: Array) -> Array:
        return xp.squeeze(x, tuple(random))

    totals: dict[Reach, Any] = {
        reach: at_places(average(mean, random, v)) if v.ndim else v for reach, v in spreads.items()
    }
    _, found = spread_by_reach(mean, random)
    for reach, v in found.items():
        add_to(totals, reach, at_places(v))
    return without(mean, random, average(mean, random)), totals
