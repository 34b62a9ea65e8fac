"""Mean and variances of entries by level, and those of sums and products of two laws, exactly."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jinit._typing import Array
from jinit.signals.laws import places
from jinit.signals.laws.arrays import xp
from jinit.signals.laws.law import Law, average, squared, without
from jinit.signals.laws.levels import Levels, level_of
from jinit.signals.laws.parts import spread_by_reach
from jinit.signals.laws.roots import PLACE, Root
from jinit.signals.laws.runs import Reach, together


@dataclasses.dataclass(frozen=True)
class LevelMoments:
    """Mean, and what each level adds to the variance of those before it; by place, where places differ."""

    mean: Array
    variances: tuple[Array, ...]


def by_parts(law: Law, levels: Levels, at: Sequence[Root] = ()) -> LevelMoments:
    """Those of a gradient, with an axis for each of the roots of places `at`: by how its parts differ.

    A product of what is alike along an axis and of what is not is not alike there.
    """
    mean, found = spread_by_reach(law, places.others(law))
    return LevelMoments(
        places.at(mean, law, at), _by_level(_at(found, law, at).items(), levels, mean.real.dtype)
    )


def nested(law: Law, levels: Levels, at: Sequence[Root] = ()) -> LevelMoments:
    """Those of a signal, by its roots: what each level adds to the means given those before it."""
    means, random = level_means(law, levels), places.others(law)
    variances = [average(law, random, squared(a - b)) for a, b in zip(means[1:], means, strict=False)]
    return LevelMoments(places.at(means[0], law, at), tuple(places.at(v, law, at) for v in variances))


def of_sum(a: Law, b: Law, sign: int, levels: Levels, at: Sequence[Root] = ()) -> LevelMoments:
    """Those of `a + sign b`, whatever roots they have in common."""
    linear = a.is_linear or b.is_linear
    x, y = ((by_parts if linear else nested)(law, levels, at) for law in (a, b))
    common = _covariances(a, b, levels, at, linear)
    both = zip(x.variances, y.variances, common, strict=True)
    return LevelMoments(x.mean + sign * y.mean, tuple(v + w + 2 * sign * c for v, w, c in both))


def of_product(a: Law, b: Law, levels: Levels, at: Sequence[Root] = ()) -> LevelMoments:
    """Those of the product of two laws that, given places, have no root in common."""
    if not (a.is_linear or b.is_linear):
        return _of_nested(nested(a, levels, at), nested(b, levels, at))
    (mean, of_a), (other, of_b) = (_squares(law, at) for law in (a, b))
    products = ((together(r), v * w) for (*r, v, w) in _pairs(of_a, of_b))
    return LevelMoments(mean * other, _by_level(products, levels, mean.real.dtype))


def _of_nested(a: LevelMoments, b: LevelMoments) -> LevelMoments:
    second, variances = [squared(a.mean), squared(b.mean)], []
    for v, w in zip(a.variances, b.variances, strict=True):
        variances.append(v * w + v * second[1] + w * second[0])
        second = [second[0] + v, second[1] + w]
    return LevelMoments(a.mean * b.mean, tuple(variances))


def _squares(law: Law, at: Sequence[Root]) -> tuple[Array, dict[Reach, Array]]:
    """The mean, and the mean squares of all parts, of which it is the first."""
    mean, found = spread_by_reach(law, places.others(law))
    return places.at(mean, law, at), _at({Reach(): squared(mean), **found}, law, at)


def _pairs(a: dict[Reach, Array], b: dict[Reach, Array]) -> Iterable[tuple[Any, ...]]:
    """Every part of one and every part of the other, but for both means."""
    pairs = ((r, s, v, w) for (r, v), (s, w) in itertools.product(a.items(), b.items()))
    return itertools.islice(pairs, 1, None)


def _at(found: dict[Reach, Array], law: Law, at: Sequence[Root]) -> dict[Reach, Array]:
    return {reach: places.at(v, law, at) for reach, v in found.items()}


def _by_level(parts: Iterable[tuple[Reach, Array]], levels: Levels, dtype: Any) -> tuple[Array, ...]:
    found: list[list[Array]] = [[] for _ in levels]
    for reach, variance in parts:
        found[level_of(reach, levels)].append(variance)
    return tuple(functools.reduce(operator.add, x, xp.zeros((), dtype)) for x in found)


def _covariances(a: Law, b: Law, levels: Levels, at: Sequence[Root], linear: bool) -> tuple[Array, ...]:
    """Of the parts of every level: that of the functions of common roots that the two are on average."""
    common = [r for r in a.roots if r in b.roots and r.kind != PLACE]
    a, b = (_of_roots_alone(law, at, common) for law in (a, b))
    if linear:
        wider = tuple(max(v, w, key=np.size) for v, w in zip(a.weights, b.weights, strict=True))
        both = (
            dataclasses.replace(a, nodes=x, weights=wider) for x in (a.nodes + b.nodes, a.nodes - b.nodes)
        )
        more, less = (by_parts(law, levels, at).variances for law in both)
        return tuple((v - w) / 4 for v, w in zip(more, less, strict=True))
    pairs = zip(level_means(a, levels), level_means(b, levels), strict=True)
    steps = [(x1 - x0) * (y1 - y0) for (x0, y0), (x1, y1) in itertools.pairwise(pairs)]
    random = range(len(at), len(at) + len(common))
    return tuple(average(a, random, step).reshape(step.shape[: len(at)]) for step in steps)


def _of_roots_alone(law: Law, at: Sequence[Root], common: Sequence[Root]) -> Law:
    """The mean given these roots, in this order; of one node at places that it does not depend on."""
    gone = [i for i, r in enumerate(law.roots) if r not in common and r.kind != PLACE]
    alone = without(law, gone, average(law, gone))
    nodes = places.at(alone.nodes, alone, (*at, *common))
    known = dict(zip(alone.roots, alone.weights, strict=True))
    one = xp.ones((1,), np.float32)
    weights = tuple(known.get(r, one) for r in (*at, *common))
    return dataclasses.replace(alone, nodes=nodes, weights=weights, roots=(*at, *common))


def level_means(law: Law, levels: Levels) -> list[Array]:
    """Means conditional on no level, on the first, on the first two, and so on."""
    means = [law.nodes]
    for level in reversed(range(len(levels))):
        here = [i for i in places.others(law) if level_of(law.roots[i], levels) == level]
        means.append(average(law, here, means[-1]))
    return means[::-1]
