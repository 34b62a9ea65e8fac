"""What entries are made of: parts that are functions of different roots."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jinit._typing import Array
from jinit.signals.laws.arrays import is_traced
from jinit.signals.laws.law import Axes, Law, average, normal_nodes, squared
from jinit.signals.laws.roots import COTANGENT, PLACE
from jinit.signals.laws.runs import Reach, Sums, sums_of, together


def components(law: Law, varying: Sequence[int]) -> list[tuple[frozenset[int], Array]]:
    """The orthogonal parts of the entries, by the set of roots that each is a function of.

    `x = Σ_S x_S` over subsets `S` of the roots at positions `varying`, where `x_S` has mean zero over every
    root in `S`, so that `E[x²] = Σ_S E[x_S²]`, all conditional on the other roots (Hoeffding, *A class of
    statistics with asymptotically normal distribution*, 1948).
    """
    parts, least = [(frozenset[int](), law.nodes)], _rounding(law.nodes)
    for i in varying:
        split = []
        for roots, x in parts:
            mean = average(law, [i], x)
            left = x - mean
            split.append((roots, mean))
            if least is None or _largest(left) > least:
                split.append((roots | {i}, left))
        parts = split
    return parts


def _rounding(nodes: Array) -> float | None:
    """Below which a part is nothing but rounding, if values are known."""
    return None if is_traced(nodes) or not nodes.size else 1e-6 * _largest(nodes)


def _largest(x: Array) -> float:
    return float(np.max(np.abs(x)))


def spread_by_axes(law: Law, varying: Sequence[int]) -> tuple[Array, dict[Axes, Array]]:
    """Mean and, by the axes along which it differs, variance of the parts of an entry."""
    mean, found = spread_by_reach(law, varying)
    return mean, by_axes(found)


def by_axes(spreads: Mapping[Reach, Array]) -> dict[Axes, Array]:
    """Variances, those along the same axes together."""
    found: dict[Axes, Array] = {}
    for reach, variance in spreads.items():
        add_to(found, reach.axes, variance)
    return found


def spread_by_reach(law: Law, varying: Sequence[int]) -> tuple[Array, dict[Reach, Array]]:
    """Mean and, by how it differs, variance of the parts of an entry.

    Both are conditional on the roots that are not at positions `varying`, and keep all axes of the nodes.
    """
    mean, found = law.nodes, dict[Reach, Array]()
    for reach, x in parts_by_reach(law, varying):
        if reach is None:
            mean = x
        else:
            add_to(found, reach, average(law, varying, squared(x)))
    return mean, found


def parts_by_reach(law: Law, varying: Sequence[int]) -> Iterator[tuple[Reach | None, Array]]:
    """The orthogonal parts of an entry, each with how it differs, and the mean, with none.

    Of places among the roots at positions `varying` the mean is taken where a part does not differ from place
    to place anyway, as in a sum over all places.
    """
    random = [i for i in varying if law.roots[i].kind != PLACE]
    at = [i for i in varying if law.roots[i].kind == PLACE]
    order = sorted(random, key=lambda i: (len(law.roots[i].axes), sorted(law.roots[i].axes)))
    chain = all(law.roots[i].axes <= law.roots[j].axes for i, j in itertools.pairwise(order))
    chain = chain and not any(law.roots[i].runs for i in order)

    def part(own: Collection[int], x: Array) -> tuple[Reach | None, Array]:
        if not own:
            return None, average(law, at, x)
        reach = together(law.roots[i] for i in own)
        if reach.fixed:
            sums = _sums_of_part(law, [i for i in random if x.shape[i] > 1], x)
            reach = dataclasses.replace(reach, fixed=sums)
        return reach, average(law, [i for i in at if not law.roots[i].axes <= reach.axes], x)

    if not chain:
        for own, x in components(law, random):
            yield part(own, x)
        return
    x = law.nodes  # with nested axes, what a root adds to those before it differs along its own
    for i in reversed(order):
        mean = average(law, [i], x)
        yield part([i], x - mean)
        x = mean
    yield part([], x)


def _sums_of_part(law: Law, own: Sequence[int], part: Array) -> Sums:
    """Which share of a part that is a function of its own roots adds up to nothing.

    It is what is linear in a root that does so, and does not depend on others that vary along the sum.
    """
    shares = []
    for i in own:
        for f, share in law.roots[i].fixed:
            beside = [k for k in own if k != i and law.roots[k].axes & f]
            shares.append((f, share * _linear_share(law, i, part, beside)))
    return sums_of(shares)


def _linear_share(law: Law, i: int, part: Array, beside: Sequence[int]) -> float:
    """The share of a part's variance that is linear in the normal root at position `i`, whatever `beside`."""
    cotangent = law.roots[i].kind == COTANGENT
    if cotangent and not beside:
        return 1.0
    if is_traced(part) or law.weights[i].size < 2 + (not cotangent):
        return 0.0
    if (z := normal_nodes(law, i)) is None:
        return 0.0
    slope = average(law, [i, *beside], part * z)
    whole = float(np.mean(average(law, of=squared(part))))
    return float(np.mean(average(law, of=squared(slope)))) / whole if whole > 0 else 0.0


def add_to(found: dict[Any, Array], key: Any, variance: Array) -> None:
    """Another variance under the same key."""
    found[key] = found[key] + variance if key in found else variance
