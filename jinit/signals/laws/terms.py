"""Sums over the same terms: by how much they are alike, and how that adds up in further sums.

Two sums `Σ_i u_i x_i` and `Σ_i w_i x_i` over `n` terms, of independent weights, are correlated by about
`1/√n`: by a random number of variance `1/n`, the same at all places that share the weights. So is one of them
with an entry `x_i`. That is nothing at one place, but `Σ_p a_p b_p` of functions of the two has

    E[a_p b_p | u, w] - E[a_p] E[b_p] = ρ s_p,    s_p = E[a ξ] E[b η],    Var[ρ] = 1/n,

with `ξ` and `η` the standard normals that the sums are. This adds a variance of `E[(Σ_p s_p)²] / n`, of the
order of places over `n` beside that of independent factors. It is in the gradient of a weight, whose `x_p`
and `g_p` are such, and in attention, whose scores and values are made of the same tokens.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from jinit._typing import Array
from jinit.signals.laws import places
from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.law import Law, average, normal_nodes, squared, without
from jinit.signals.laws.levels import Levels
from jinit.signals.laws.meeting import Contraction
from jinit.signals.laws.parts import add_to, parts_by_reach, spread_by_reach
from jinit.signals.laws.roots import COTANGENT, PLACE, SIGNAL, Root
from jinit.signals.laws.runs import Axes, Reach, copies_in, together

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
    """

    of: Hashable
    signal: Hashable
    count: float
    moves: frozenset[tuple[int, int]]
    share: float = 1.0


@dataclasses.dataclass(frozen=True)
class _Sum:
    """What of an operand is a sum over entries of a signal: its roots, or none for the signal itself."""

    terms: Terms
    roots: tuple[int, ...]


def moved(terms: tuple[Terms, ...], axis_map: Sequence[Axes]) -> tuple[Terms, ...]:
    """The terms of a root whose axes stand elsewhere now."""
    found = []
    for each in terms:
        pairs = frozenset((j, next(iter(axis_map[k]))) for j, k in each.moves if len(axis_map[k]) == 1)
        found += [dataclasses.replace(each, moves=pairs)] if pairs else []
    return tuple(found)


def inherited(out: Law, name: Hashable, law: Law, how: Contraction, side: int, share: float) -> Law:
    """`out`, in so far as it is a sum of `law`, operand `side`: its roots of this name are the same sums."""
    found: list[Terms] = []
    for i, root in enumerate(law.roots):
        linear = share * _linear_share(law, i) if root.terms else 0.0
        for terms in root.terms:
            pairs = _moves(terms, how, side)
            if pairs and linear * terms.share > LEAST:
                found.append(dataclasses.replace(terms, of=name, moves=pairs, share=linear * terms.share))
    return _marked(out, name, found)


def with_terms(out: Law, name: Hashable, laws: Sequence[Law], how: Contraction, share: float) -> Law:
    """`out`, the contraction of these laws: its roots of this name know of what they are sums, to a share."""
    sides = [side for side in (0, 1) if not laws[side].is_weight]
    for side in sides:
        out = inherited(out, name, _beside(laws[side], laws[1 - side], how, side), how, side, share)
    rank = len(how.shape)
    count = math.prod(how.squares[k] / n for k, n in how.counts.items() if n)  # as its terms see it
    for side in sides:
        if laws[side].is_linear or laws[1 - side].is_linear:
            continue
        still = _still(laws[1 - side], how, 1 - side)
        pairs = frozenset((j, k) for j, to in enumerate(how.axes[side]) for k in to & still if k < rank)
        out = _marked(out, name, [Terms((name, side), laws[side].variable, count, pairs, share)])
    return out


def _marked(out: Law, name: Hashable, found: Sequence[Terms]) -> Law:
    roots = []
    for r in out.roots:
        if r.kind in (SIGNAL, COTANGENT) and isinstance(r.name, tuple) and r.name[0] == name:
            mine = (
                dataclasses.replace(t, moves=frozenset(p for p in t.moves if p[1] in r.axes)) for t in found
            )
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
            level = next(k for k, axes in enumerate(levels) if law.roots[i].axes <= axes)
            if (z := normal_nodes(law, i)) is not None:
                slope = average(law, [i], law.nodes * z)
                variance = float(np.ravel(average(law, of=squared(slope)))[0])
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
    axis_map = [to if to <= still else frozenset[int]() for to in how.axes[side]]
    roots = []
    for r in law.roots:
        kept = (
            dataclasses.replace(t, moves=frozenset(p for p in t.moves if axis_map[p[1]])) for t in r.terms
        )
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


def common_terms(laws: Sequence[Law], joint: Sequence[Law], how: Contraction) -> dict[Reach, Array]:
    """Variances of `Σ_p a_p b_p` for what the factors have in common as sums over the same terms.

    Args:
      laws: of the operands.
      joint: the same along the indices of `how`.
      how: how their axes meet.
    """
    found: dict[Reach, Array] = {}
    for a in _sums_in(laws[0]):
        for b in _sums_in(laws[1]):
            if a.terms.signal != b.terms.signal or a.terms.of == b.terms.of:
                continue
            if not (a.roots and b.roots) and _is_normalised(joint, how):
                continue
            indices = _together(a.terms, b.terms, how)
            if indices:
                _add_common(found, (a, b), joint, how, indices)
    return found


def _is_normalised(joint: Sequence[Law], how: Contraction) -> bool:
    """Whether a factor came back from a normalization over what is summed, and lost what it had in common."""
    return any(f <= how.counts.keys() for law in joint if law.is_linear for f in law.fixed_sums)


def _sums_in(law: Law) -> list[_Sum]:
    """All sums that the roots of a law are, and the law itself, if it is a signal."""
    found: dict[Terms, list[int]] = {}
    for i, root in enumerate(law.roots):
        for terms in root.terms if normal_nodes(law, i) is not None else ():
            found.setdefault(terms, []).append(i)
    sums = [_Sum(terms, tuple(roots)) for terms, roots in found.items()]
    if law.is_linear or law.is_weight:
        return sums
    itself = Terms(None, law.variable, 1.0, frozenset((k, k) for k in range(len(law.shape))))
    return [*sums, _Sum(itself, ())]


def _together(a: Terms, b: Terms, how: Contraction) -> Axes:
    """The summed indices along which both are sums of the same entries."""
    met = [how.axes[0][k] & how.axes[1][m] for j, k in a.moves for i, m in b.moves if i == j]
    return frozenset[int]().union(*met) & how.counts.keys()


def _add_common(
    found: dict[Reach, Array], sums: Sequence[_Sum], joint: Sequence[Law], how: Contraction, indices: Axes
) -> None:
    levels = [_levels(one, law, indices) for one, law in zip(sums, joint, strict=True)]
    along = sorted(set[Axes].intersection(*(set(x) for x in levels if x is not None)), key=sorted)
    if not along:
        return
    factors, own = [], frozenset[int]()
    for one, law, level in zip(sums, joint, levels, strict=True):
        ours = range(len(law.roots)) if level is None else [level[axes] for axes in along]
        own |= frozenset[int]().union(*(law.roots[i].axes for i in ours))
        if level is None:
            factors.append({Reach(): _deviations(law, along, indices)})
        else:
            factors.append(_slopes(law, ours, list(level.values()), one.terms.share))
    real = frozenset(k for k, n in enumerate(how.shape) if n > 1)
    sizes, terms = [*how.shape, *how.counts.values()], math.prod(how.counts.values())
    count = max(one.terms.count for one in sums)
    for (one, x), (other, y) in itertools.product(*(factor.items() for factor in factors)):
        apart = together([one, other, Reach((own & how.counts.keys()) - indices)])
        more = terms * (terms / copies_in(apart, how.counts, sizes) - 1) / count
        if more > 0:
            value = xp.sum(x * y)
            add_to(found, Reach((apart.axes | own) & real), value * xp.asarray(more, value.dtype))


def _levels(one: _Sum, law: Law, indices: Axes) -> dict[Axes, int] | None:
    """The roots by the indices along which they differ; none for the signal itself."""
    if not one.roots:
        return None
    return {axes: i for i in one.roots if (axes := law.roots[i].axes & indices)}


def _slopes(
    law: Law, ours: Sequence[int], gone: Sequence[int], share: float,
) -> dict[Reach, Array]:  # fmt: skip
    """Of `E[a ξ]` over the roots `gone`, for each `ξ` of `ours`: mean products of parts, by their reach."""
    normals = [normal_nodes(law, i) for i in ours]
    slopes = [average(law, gone, law.nodes * z * math.sqrt(share)) for z in normals if z is not None]
    which = Root("which", frozenset(), PLACE)  # it is not random, and stays as it is
    rest = without(law, gone, slopes[0])
    nodes = xp.stack([without(law, gone, x).nodes for x in slopes], axis=-1)
    even = xp.full(len(ours), 1 / len(ours), np.float32)
    stacked = dataclasses.replace(
        rest, nodes=nodes, weights=(*rest.weights, even), roots=(*rest.roots, which), fixed_sums=frozenset()
    )
    found: dict[Reach, Array] = {}
    for reach, x in parts_by_reach(stacked, places.others(rest)):
        add_to(found, reach or Reach(), _products(rest, x))
    return found


def _products(law: Law, x: Array) -> Array:
    """Mean products of any two along the last axis, of functions of the roots."""
    weights = xp.ones((1,) * len(law.roots), x.dtype)
    for i, w in enumerate(law.weights):
        if x.shape[i] > 1:
            weights = weights * w.astype(x.dtype).reshape(-1, *(1,) * (len(law.roots) - 1 - i))
    rows = (xp.broadcast_to(weights, x.shape[:-1])[..., None] * x).reshape(-1, x.shape[-1])
    return xp.matmul(rows.T, x.reshape(-1, x.shape[-1]))


def _deviations(signal: Law, levels: Sequence[Axes], indices: Axes) -> Array:
    """The same of entries themselves: by the first of these levels, smallest first, that they differ at."""
    found: list[Any] = [xp.zeros((), signal.nodes.dtype) for _ in levels]
    order = sorted(range(len(levels)), key=lambda k: len(levels[k]))
    for reach, variance in spread_by_reach(signal, places.others(signal))[1].items():
        own = reach.axes & indices
        k = next((k for k in order if own <= levels[k]), None)
        if own and k is not None:
            found[k] = found[k] + average(signal, of=variance).reshape(())
    deviations = xp.sqrt(xp.stack(found))
    return deviations[:, None] * deviations


def _linear_share(law: Law, i: int) -> float:
    """The share of the mean square that is linear in a root; a guess while that is traced."""
    if is_traced(law.nodes):
        return float(law.is_normal and law.roots[i].axes == law.axes_varying())
    if (z := normal_nodes(law, i)) is None:
        return 0.0
    whole = float(np.ravel(average(law, of=squared(law.nodes)))[0])
    linear = float(np.ravel(average(law, of=squared(average(law, [i], law.nodes * z))))[0])
    return linear / whole if whole > 0 else 0.0
