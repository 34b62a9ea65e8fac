"""Laws on fewer roots: brought to a standard form, one root for each level."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from jinit._typing import Array
from jinit.signals.laws import places
from jinit.signals.laws.arrays import each, is_traced, pick, xp
from jinit.signals.laws.law import (
    Law,
    as_float,
    average,
    constant,
    mean_square,
    plus_normal,
    square_root,
    squared,
    without,
)
from jinit.signals.laws.levels import MOST, Level, Levels, level_of, limited, weighed
from jinit.signals.laws.moments import LevelMoments, by_parts, level_means, nested
from jinit.signals.laws.parts import reaches_of
from jinit.signals.laws.quadrature import gaussian
from jinit.signals.laws.roots import COTANGENT, SIGNAL, Root
from jinit.signals.laws.terms import merged
from jinit.signals.laws.windowed import of_sum

# Nodes for each level of the standard form, by the number of levels; the last level is an entry's own.
SIZES = {
    0: (), 1: (256,), 2: (64, 256), 3: (12, 16, 64), 4: (4, 12, 6, 48),
    5: (4, 4, 6, 6, 24), 6: (3, 3, 4, 4, 4, 24),
}  # fmt: skip
# The same where places differ.
PLACED = {
    0: (), 1: (128,), 2: (16, 128), 3: (8, 8, 48), 4: (4, 6, 4, 32),
    5: (3, 3, 4, 4, 16), 6: (2, 3, 3, 3, 4, 16),
}  # fmt: skip

# Of a variance: so little of it is what rounding leaves of nothing.
ROUNDING = 1e-14


def canonical(
    law: Law,
    levels: Levels,
    name: Hashable,
    moments: LevelMoments | None = None,
    *,
    linear: bool | None = None,
    sizes: Sequence[int] | None = None,
) -> Law:
    """The same law, or nearly, on one root for each level.

    Means and variances of every level are kept exactly; `moments` may name them. Shape is kept as nested
    quantiles, for gradients (`linear`) as a normal. What it had in common with other laws is lost. `sizes`
    are the numbers of nodes, those of `SIZES` by default. All this at each place, where places differ.
    """
    law = dataclasses.replace(as_float(law), alike=frozenset())
    kind = COTANGENT if (law.is_linear if linear is None else linear) else SIGNAL
    reaches = reaches_of([law], levels)
    roots = tuple(Root((name, i), x.axes, kind, runs=x.runs, fixed=x.fixed) for i, x in enumerate(reaches))
    at = places.weights_of([law])
    sizes = tuple(sizes or sizes_of(len(levels), at))
    if not at and _is_canonical(law, levels, kind, sizes) and moments is None:
        return dataclasses.replace(law, roots=roots)
    if kind == COTANGENT:
        moments = moments or by_parts(law, levels, tuple(at))
        return _normals(moments, dict.fromkeys(roots, 2), at, law.shape, law.dtype)
    moments = moments or nested(law, levels, tuple(at))
    if law.is_normal:
        known = dict(zip(roots, sizes, strict=True))
        out = _normals(moments, known, at, law.shape, law.dtype)
        return dataclasses.replace(out, is_normal=True, fixed_sums=law.fixed_sums)
    flat, weights = _by_level(law, tuple(at), levels)
    rules = [gaussian(n) for n in sizes]
    shares = [np.cumsum(w) - w / 2 for _, w in rules]
    counts = flat.shape[: len(at)]
    here = flat.reshape(-1, *flat.shape[len(at) :])
    nodes = each(lambda x: _nested_quantiles(x, weights, shares), here).reshape(*counts, *sizes)
    own = (*at.values(), *(xp.asarray(w, nodes.dtype) for _, w in rules))
    out = dataclasses.replace(law, nodes=nodes, weights=own, roots=(*at, *roots), is_normal=False)
    return _with_moments(out, levels, moments)


def sizes_of(levels: int, at: Collection[Any]) -> tuple[int, ...]:
    """Nodes for each of so many levels; fewer where there are roots of places."""
    return (PLACED if at else SIZES)[levels]


def _normals(
    moments: LevelMoments, sizes: Mapping[Root, int], at: Mapping[Root, Array],
    shape: Sequence[int], dtype: Any,
) -> Law:  # fmt: skip
    """A constant plus a normal for each root, on so many nodes; by place, given the weights of places."""
    mean = xp.broadcast_to(moments.mean, [w.size for w in at.values()])
    out = dataclasses.replace(constant(mean, shape, dtype), weights=tuple(at.values()), roots=tuple(at))
    for i, ((root, size), variance) in enumerate(zip(sizes.items(), moments.variances, strict=True)):
        out = plus_normal(out, variance.reshape(variance.shape + (1,) * i), root, size)
    return out


def normal_sum(
    moments: LevelMoments, levels: Levels, laws: Sequence[Law], shape: Sequence[int], dtype: Any,
    name: Hashable, at: Mapping[Root, Array],
) -> Law:  # fmt: skip
    """A sum of normals, as a constant plus a normal for each level; by place, given the weights of places."""
    known = zip(reaches_of(laws, levels), merged(laws, levels), strict=True)
    roots = [
        Root((name, i), x.axes, runs=x.runs, fixed=x.fixed, terms=terms) for i, (x, terms) in enumerate(known)
    ]
    if roots:
        roots[-1] = dataclasses.replace(roots[-1], windowed=of_sum(laws, roots[-1].axes))
    sizes = dict(zip(roots, sizes_of(len(levels), at), strict=True))
    return dataclasses.replace(_normals(moments, sizes, at, shape, dtype), is_normal=True)


def fewer_cotangents(law: Law, name: Hashable, most: int) -> Law:
    """A gradient of at most so many cotangents, and the same moments given its other roots.

    Those that add most to it stay as they are, and the others are put together, one for each level.
    """
    ours = [i for i, r in enumerate(law.roots) if r.kind == COTANGENT]
    kept, least = _most_and_least(law, ours, most)
    rest = without(law, kept, average(law, kept))
    levels = _levels_of_cotangents(rest)
    variances, x = [], average(law, kept)
    for level in reversed(range(len(levels))):
        mean = average(law, [i for i in least if level_of(law.roots[i], levels) == level], x)
        variances.append(xp.squeeze(average(law, ours, squared(x - mean)), tuple(least)))
        x = mean
    out, reaches = without(law, least, average(law, least)), reaches_of([rest], levels)
    known = zip(reaches, variances[::-1], merged([rest], levels, COTANGENT), strict=True)
    for i, (reach, variance, terms) in enumerate(known):
        root = Root((name, i), reach.axes, COTANGENT, runs=reach.runs, fixed=reach.fixed, terms=terms)
        out = plus_normal(out, variance.reshape(variance.shape + (1,) * i), root, 2)
    return out


def _most_and_least(law: Law, ours: Sequence[int], most: int) -> tuple[list[int], list[int]]:
    """The cotangents that stay, beside one for each level of the others; all are others while traced."""
    if is_traced(law.nodes):
        return [], list(ours)
    order = sorted(ours, key=lambda i: -_square_of(law, i, ours))
    levels = [len({Level.of(law.roots[i]) for i in order[count:]}) for count in range(most + 1)]
    count = max((k for k, others in enumerate(levels) if k + others <= most), default=0)
    return sorted(order[:count]), sorted(order[count:])


def _levels_of_cotangents(law: Law) -> Levels:
    """How a gradient's cotangents vary; by the squares of what comes of each."""
    ours = [i for i, r in enumerate(law.roots) if r.kind == COTANGENT]
    found = {Level.of(law.roots[i]) for i in ours}
    if len(found) <= MOST or is_traced(law.nodes):
        return limited(found)
    sums = dict.fromkeys(found, 0.0)
    for i in ours:
        sums[Level.of(law.roots[i])] += _square_of(law, i, ours)
    return limited(found, importance=weighed(sums, law.shape))


def _square_of(law: Law, i: int, ours: Sequence[int]) -> float:
    """The mean square of what comes of one of these cotangents."""
    return mean_square(law, average(law, [k for k in ours if k != i]))


def sum_of_gradients(
    laws: Sequence[Law], levels: Levels, name: Hashable, moments: LevelMoments | None = None
) -> Law:
    """The sum of gradients that have no cotangent in common, as a normal for each level."""
    at, reaches = places.weights_of(laws), reaches_of(laws, levels)
    if moments is None:
        found = [by_parts(x, levels, tuple(at)) for x in laws]
        variances = [
            functools.reduce(operator.add, v) for v in zip(*(m.variances for m in found), strict=True)
        ]
        moments = LevelMoments(functools.reduce(operator.add, (m.mean for m in found)), tuple(variances))
    known = zip(reaches, merged(laws, levels, COTANGENT), strict=True)
    roots = [
        Root((name, i), x.axes, COTANGENT, runs=x.runs, fixed=x.fixed, terms=terms)
        for i, (x, terms) in enumerate(known)
    ]
    return _normals(moments, dict.fromkeys(roots, 2), at, laws[0].shape, laws[0].dtype)


def _is_canonical(law: Law, levels: Levels, kind: str, sizes: tuple[int, ...]) -> bool:
    expected = (2,) * len(levels) if kind == COTANGENT else sizes
    same = tuple(map(Level.of, law.roots)) == levels and law.nodes.shape == expected
    return same and all(r.kind == kind and not r.average for r in law.roots)


def _by_level(law: Law, at: Sequence[Root], levels: Levels) -> tuple[Array, list[Array]]:
    """Nodes with one axis for each root of places and each level, and the weights of each level."""
    random = places.others(law)
    groups = [[i for i in random if level_of(law.roots[i], levels) == k] for k in range(len(levels))]
    first = [law.roots.index(r) for r in at]
    x = xp.transpose(law.nodes, [*first, *(i for group in groups for i in group)])
    weights = []
    for group in groups:
        w = xp.ones((1,), law.nodes.dtype)
        for i in group:
            w = (w[:, None] * law.weights[i].astype(w.dtype)[None]).reshape(-1)
        weights.append(w)
    return x.reshape([*x.shape[: len(at)], *(w.size for w in weights)]), weights


def _nested_quantiles(x: Array, weights: list[Array], shares: list[np.ndarray]) -> Array:
    """Quantiles of the first level's conditional means, and within each of them those of the next level."""
    if not weights:
        return x
    by = x
    for w in reversed(weights[1:]):
        by = xp.matmul(by, w)
    order = xp.argsort(by)
    first = pick(weights[0], order)
    mass = xp.cumsum(first)
    middle = (mass - first / 2) / mass[-1]
    share = xp.asarray(shares[0], x.dtype)
    if len(weights) == 1:
        return xp.interp(share, middle, pick(x, order))
    at = pick(order, xp.clip(xp.searchsorted(mass / mass[-1], share), 0, by.size - 1))
    picked = pick(x, at)
    return each(lambda row: _nested_quantiles(row, weights[1:], shares[1:]), picked)


def _with_moments(law: Law, levels: Levels, wanted: LevelMoments) -> Law:
    """Scale and shift, level by level; the roots of places come first."""
    means, random = level_means(law, levels), places.others(law)

    def along(x: Array) -> Array:
        return x.astype(law.nodes.dtype).reshape(x.shape + (1,) * len(random))

    out = xp.broadcast_to(along(wanted.mean), means[0].shape)
    whole = sum(wanted.variances, xp.zeros_like(wanted.mean))
    for after, before, variance in zip(means[1:], means, wanted.variances, strict=False):
        has = average(law, random, squared(after - before))
        some = has > along(ROUNDING * whole)  # rounding has no derivative
        ratio = xp.where(some, along(variance) / xp.where(some, has, xp.ones_like(has)), xp.zeros_like(has))
        out = out + (after - before) * square_root(ratio)  # it was rounded
    # Where squares overflow, as those of what stands for minus infinity in a mask, shape alone is kept.
    finite = xp.isfinite(xp.sum(xp.stack(wanted.variances), axis=0) if wanted.variances else wanted.mean)
    return dataclasses.replace(law, nodes=xp.where(along(finite) > 0, out, law.nodes))
