"""What entries are made of: parts that are functions of different roots."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jinit._typing import Array
from jinit.signals.laws import places
from jinit.signals.laws.arrays import is_traced
from jinit.signals.laws.law import Law, average, normal_nodes, squared
from jinit.signals.laws.levels import Levels, level_of
from jinit.signals.laws.roots import COTANGENT, PLACE, Root
from jinit.signals.laws.runs import Reach, Run, Sums, summed, sums_of, together
from jinit.signals.laws.windowed import at_neighbours

# Of a variance: less of it that is not linear in what it is made of makes no difference.
CURVED = 0.02
# Of the largest node: a part of no more is nothing but rounding.
ROUNDING = 1e-6


def _least(nodes: Array, share: float) -> float | None:
    """The largest node of a part that makes no difference, if values are known."""
    return None if is_traced(nodes) or not nodes.size else share * _largest(nodes)


def _largest(x: Array) -> float:
    return float(np.max(np.abs(x)))


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


def parts_by_reach(
    law: Law, varying: Sequence[int], least: float = ROUNDING
) -> Iterator[tuple[Reach | None, Array]]:
    """The orthogonal parts of an entry, each with how it differs, and the mean, with none.

    `x = Σ_S x_S` over subsets `S` of the roots at positions `varying`, where `x_S` has mean zero over every
    root in `S`, so that `E[x²] = Σ_S E[x_S²]`, all conditional on the other roots (Hoeffding, *A class of
    statistics with asymptotically normal distribution*, 1948). Those that differ alike by one of their roots,
    whatever the others, are left in one.

    Of places among the roots at positions `varying` the mean is taken where a part does not differ from place
    to place anyway, as in a sum over all places. Parts that are smaller than `least` times the largest node
    are let go.
    """
    random = [i for i in varying if law.roots[i].kind != PLACE]
    at = [i for i in varying if law.roots[i].kind == PLACE]
    order = sorted(random, key=lambda i: _order(law.roots[i]), reverse=True)
    for own, x in _parts(law, order, least):
        if not own:
            yield None, average(law, at, x)
            continue
        reach = together(law.roots[i] for i in own)
        if reach.fixed:
            sums = _sums_of_part(law, [i for i in random if x.shape[i] > 1], x)
            reach = dataclasses.replace(reach, fixed=sums)
        found = (_by_powers(law, random, *part) for part in at_neighbours(law, random, reach, x))
        for where, y in itertools.chain.from_iterable(found):
            yield where, average(law, [i for i in at if not law.roots[i].axes <= reach.axes], y)


def _by_powers(law: Law, random: Sequence[int], reach: Reach, part: Array) -> Iterator[tuple[Reach, Array]]:
    """What of a part is linear in a normal of known correlations `R`, and the rest, as alike as `R²`."""
    for i in random if not is_traced(part) else ():
        root = law.roots[i]
        runs = tuple((k, b) for k, b in root.runs if isinstance(b, Run) and k in reach.axes)
        if not runs or part.shape[i] < 3 or (z := normal_nodes(law, i)) is None:
            continue
        curved = part - average(law, [i], part) - average(law, [i], part * z) * z
        rest, whole = (float(np.mean(average(law, of=squared(x)))) for x in (curved, part))
        if rest > CURVED * whole:
            yield together([reach, Reach(frozenset(dict(runs)), runs)]), curved
            part = part - curved
        break
    yield reach, part


def _parts(law: Law, order: Sequence[int], share: float) -> list[tuple[tuple[int, ...], Array]]:
    """The parts, each with those roots that say how it differs."""
    parts, least = [((), law.nodes)], _least(law.nodes, share)
    for i in order:
        split = []
        for roots, x in parts:
            if any(_is_within(law.roots[i], law.roots[k]) for k in roots):
                split.append((roots, x))
                continue
            mean = average(law, [i], x)
            left = x - mean
            split.append((roots, mean))
            if least is None or _largest(left) > least:
                split.append(((*roots, i), left))
        parts = split
    return parts


def _order(root: Root) -> tuple[Any, ...]:
    """Fewer axes first, and of the same axes longer runs."""
    return len(root.axes), sorted(root.axes), -sum(length for _, length in root.runs)


def _is_within(a: Root, b: Root) -> bool:
    """Whether what is a function of both differs as `b` does."""
    before, after = Reach(a.axes, a.runs), Reach(b.axes, b.runs)
    return a.axes <= b.axes and all(
        after.run(k) == 1 or (not isinstance(after.run(k), Run) and after.run(k) <= before.run(k))
        for k in a.axes
    )


def _sums_of_part(law: Law, own: Sequence[int], part: Array) -> Sums:
    """Which share of a part that is a function of its own roots adds up to nothing.

    It is what is linear in a root that does so, and does not depend on others that vary along that sum, be
    they its own or not.
    """
    shares, whole = [], None if is_traced(part) else float(np.mean(average(law, of=squared(part))))
    for i in own:
        for f, share in law.roots[i].fixed:
            beside = [k for k in places.others(law) if k != i and part.shape[k] > 1 and law.roots[k].axes & f]
            shares.append((f, share * _linear_share(law, i, part, beside, whole)))
    return sums_of(shares)


def _linear_share(law: Law, i: int, part: Array, beside: Sequence[int], whole: float | None) -> float:
    """The share of a part's variance that is linear in the normal root at position `i`, whatever `beside`.

    `whole`: that variance, if it is known.
    """
    cotangent = law.roots[i].kind == COTANGENT
    if cotangent and not beside:
        return 1.0
    if not whole or law.weights[i].size < 2 + (not cotangent) or (z := normal_nodes(law, i)) is None:
        return 0.0
    slope = average(law, [i, *beside], part * z)
    return float(np.mean(average(law, of=squared(slope)))) / whole


def add_to(found: dict[Any, Array], key: Any, variance: Array) -> None:
    """Another variance under the same key."""
    found[key] = found[key] + variance if key in found else variance


def reaches_of(laws: Sequence[Law], levels: Levels) -> list[Reach]:
    """How what differs at each level of a sum does so."""
    if not any(r.runs or r.fixed for law in laws for r in law.roots):
        return [Reach(level.axes) for level in levels]
    found = ((law, *part) for law in laws for part in spread_by_reach(law, places.others(law))[1].items())
    return reaches_at(found, levels, laws[0].shape)


def reaches_at(
    parts: Iterable[tuple[Law, Reach, Array]], levels: Levels, shape: Sequence[int]
) -> list[Reach]:
    """How the sum of these parts differs at each level: of a law, in a reach, of a variance by place."""
    members: list[list[tuple[Reach, Array]]] = [[] for _ in levels]
    roots: dict[int, tuple[Root, ...]] = {}
    for law, reach, variance in parts:
        members[level_of(reach, levels)].append((reach, variance))
        roots[id(variance)] = law.roots
    return [
        summed(here, level.axes, shape, lambda v, k: places.along_axis(v, roots[id(v)], k))
        for here, level in zip(members, levels, strict=True)
    ]
