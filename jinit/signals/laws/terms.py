"""Of what roots are sums: of which entries, how many, and along which axes of one set of weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Sequence

from jinit.signals.laws import places
from jinit.signals.laws.arrays import is_traced
from jinit.signals.laws.law import Law, average, mean_square, normal_nodes
from jinit.signals.laws.levels import Levels, level_of
from jinit.signals.laws.meeting import Contraction
from jinit.signals.laws.roots import COTANGENT, SIGNAL
from jinit.signals.laws.runs import Axes

# Shares of a variance below this are let go, and how many sums a root is known to be at most.
LEAST, MOST_SUMS = 0.02, 6


@dataclasses.dataclass(frozen=True)
class Terms:
    """Of a root that is a sum over entries of a signal, these.

    Attributes:
      of: the weights of the sum.
      signal: the variable that entries are of.
      count: how many there are in a sum, on average.
      moves: pairs of an axis of the signal and one of the root along which the same entries stand, all of one
        set of weights.
      share: of the root's variance, that of the sum.
      apart: axes of the root along which other entries stand, with other weights, as channels do behind a
        depthwise convolution: a sum over these has as many more terms.
    """

    of: Hashable
    signal: Hashable
    count: float
    moves: frozenset[tuple[int, int]]
    share: float = 1.0
    apart: Axes = frozenset()

    def along(self, axes: Axes) -> Terms:
        """The same along these axes of the root alone."""
        return dataclasses.replace(self, moves=frozenset(p for p in self.moves if p[1] in axes))


def moved(terms: tuple[Terms, ...], axis_map: Sequence[Axes]) -> tuple[Terms, ...]:
    """The terms of a root whose axes stand elsewhere now."""
    found = []
    for each in terms:
        pairs = frozenset((j, next(iter(axis_map[k]))) for j, k in each.moves if len(axis_map[k]) == 1)
        apart = frozenset[int]().union(*(axis_map[k] for k in each.apart))
        found += [dataclasses.replace(each, moves=pairs, apart=apart)] if pairs else []
    return tuple(found)


def inherited(out: Law, name: Hashable, law: Law, how: Contraction, side: int, share: float) -> Law:
    """`out`, in so far as it is a sum of `law`, operand `side`: its roots of this name are the same sums."""
    found: list[Terms] = []
    for i, root in enumerate(law.roots):
        for terms in root.terms:
            terms = _of_one_set(terms, law, i)
            pairs = _moves(terms, how, side)
            linear = share * terms.share * _linear_share(law, i, terms) if pairs else 0.0
            if linear > LEAST:
                terms = _summed_apart(terms, how, side)
                found.append(dataclasses.replace(terms, of=name, moves=pairs, share=linear))
    return _marked(out, name, found)


def with_terms(
    out: Law, name: Hashable, laws: Sequence[Law], how: Contraction, share: float, known: int | None = None
) -> Law:
    """`out`, the contraction of these laws: its roots of this name know of what they are sums, to a share.

    What its entries have in common as sums of the operand `known` is in their correlations already.
    """
    sides = [side for side in (0, 1) if not laws[side].is_weight]
    for side in sides:
        out = inherited(out, name, _beside(laws[side], laws[1 - side], how, side), how, side, share)
    rank = len(how.shape)
    count = math.prod(how.squares[k] / n for k, n in how.counts.items() if n)  # as its terms see it
    for side in sides:
        if laws[side].is_linear or laws[1 - side].is_linear or side == known:
            continue
        still = _still(laws[1 - side], how, 1 - side)
        stands = [(j, k) for j, to in enumerate(how.axes[side]) for k in to if k < rank]
        pairs = frozenset((j, k) for j, k in stands if k in still)
        apart = frozenset(k for _, k in stands if k not in still and laws[1 - side].is_weight)
        out = _marked(out, name, [Terms((name, side), laws[side].variable, count, pairs, share, apart)])
    return out


def _marked(out: Law, name: Hashable, found: Sequence[Terms]) -> Law:
    roots = []
    for r in out.roots:
        if r.kind in (SIGNAL, COTANGENT) and isinstance(r.name, tuple) and r.name[0] == name:
            mine = (t.along(r.axes) for t in found)
            r = dataclasses.replace(r, terms=_largest([*r.terms, *(t for t in mine if t.moves)]))
        roots.append(r)
    return dataclasses.replace(out, roots=tuple(roots))


def merged(laws: Sequence[Law], levels: Levels, kind: str = SIGNAL) -> list[tuple[Terms, ...]]:
    """Of what a sum of these laws is a sum, level by level: each root's, to its share of the variance."""
    parts: list[list[tuple[tuple[Terms, ...], float]]] = [[] for _ in levels]
    if not any(r.terms for law in laws for r in law.roots) or any(is_traced(law.nodes) for law in laws):
        return [()] * len(levels)
    for law in laws:
        for i in (i for i, r in enumerate(law.roots) if r.kind == kind):
            level = level_of(law.roots[i], levels)
            if (z := normal_nodes(law, i)) is not None:
                slope = average(law, [i], law.nodes * z)
                variance = mean_square(law, slope)
                parts[level].append((law.roots[i].terms, variance))
    return [_of_parts(part) for part in parts]


def _of_parts(parts: Sequence[tuple[tuple[Terms, ...], float]]) -> tuple[Terms, ...]:
    whole = sum(variance for _, variance in parts)
    found: list[Terms] = []
    for terms, variance in parts if whole > 0 else ():
        found += [dataclasses.replace(t, share=t.share * variance / whole) for t in terms]
    return _largest(found)


def _largest(found: Sequence[Terms]) -> tuple[Terms, ...]:
    return tuple(sorted((t for t in found if t.share > LEAST), key=lambda t: -t.share)[:MOST_SUMS])


def _beside(law: Law, other: Law, how: Contraction, side: int) -> Law:
    """`law`, its sums of one set of weights only along what the other factor does not vary along."""
    still = _still(other, how, 1 - side)
    axes = frozenset(k for k, to in enumerate(how.axes[side]) if to and to <= still)
    roots = []
    for r in law.roots:
        kept = (t.along(axes) for t in r.terms)
        roots.append(dataclasses.replace(r, terms=tuple(t for t in kept if t.moves)))
    return dataclasses.replace(law, roots=tuple(roots))


def _still(law: Law, how: Contraction, side: int) -> Axes:
    """The indices along which a factor stays the same."""
    varying = frozenset[int]().union(*(how.axes[side][k] for r in law.roots for k in r.axes))
    return frozenset(range(len(how.shape) + len(how.counts))) - varying


def _moves(terms: Terms, how: Contraction, side: int) -> frozenset[tuple[int, int]]:
    """The moves in the result, of axes that stay and that no window slides along."""
    rank, found = len(how.shape), set()
    for j, k in terms.moves:
        to = [i for i in how.axes[side][k] if how.counts.get(i, 2.0) != 1.0]
        if len(to) == 1 and to[0] < rank:
            found.add((j, to[0]))
    return frozenset(found)


def _summed_apart(terms: Terms, how: Contraction, side: int) -> Terms:
    """The terms of a sum over axes along which other entries stand."""
    apart, summed = frozenset[int]().union(*(how.axes[side][k] for k in terms.apart)), frozenset(how.counts)
    count = terms.count * math.prod(how.counts[k] for k in apart & summed)
    return dataclasses.replace(terms, count=count, apart=apart - summed)


def _of_one_set(terms: Terms, law: Law, i: int) -> Terms:
    """The terms along those axes along which no gradient that the root is multiplied by differs."""
    if law.roots[i].kind == COTANGENT:
        return terms
    differ = frozenset[int]().union(*(r.axes for r in law.roots if r.kind == COTANGENT))
    return terms.along(frozenset(range(len(law.shape))) - differ)


def _linear_share(law: Law, i: int, terms: Terms) -> float:
    """Of what varies along the terms, the share that is linear in a root; a guess while that is traced."""
    if is_traced(law.nodes):
        return float(law.is_normal and law.roots[i].axes == law.axes_varying())
    if (z := normal_nodes(law, i)) is None:
        return 0.0
    along = {k for _, k in terms.moves}
    varying = places.others_along(law, frozenset(along))
    gone = [k for k in varying if k != i and law.roots[k].kind == SIGNAL]
    whole = mean_square(law, law.nodes - average(law, varying))
    linear = mean_square(law, average(law, [i, *gone], law.nodes * z))
    return linear / whole if whole > 0 else 0.0
