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
from collections.abc import Sequence
from typing import Any

import numpy as np

from jinit._typing import Array
from jinit.signals.laws import places
from jinit.signals.laws.arrays import xp
from jinit.signals.laws.law import Law, average, normal_nodes, square_root, without
from jinit.signals.laws.levels import Level
from jinit.signals.laws.meeting import Contraction
from jinit.signals.laws.parts import add_to, parts_by_reach, spread_by_reach
from jinit.signals.laws.roots import PLACE, Root
from jinit.signals.laws.runs import Axes, Reach, copies_in, plain, together
from jinit.signals.laws.terms import Terms

# Of the largest slope: what is smaller makes no difference to sums over many places.
SMALL = 1e-3
# By operand and what `_slopes` takes: the same for all sums that one meets.
Slopes = dict[tuple[int, tuple[int, ...], tuple[int, ...], float], dict[Reach, Any]]


@dataclasses.dataclass(frozen=True)
class _Sum:
    """What of an operand is a sum over entries of a signal: its roots, or none for the signal itself."""

    terms: Terms
    roots: tuple[int, ...]


def common_terms(laws: Sequence[Law], joint: Sequence[Law], how: Contraction) -> dict[Reach, Array]:
    """Variances of `Σ_p a_p b_p` for what the factors have in common as sums over the same terms.

    Args:
      laws: of the operands.
      joint: the same along the indices of `how`.
      how: how their axes meet.
    """
    found: dict[Reach, Array] = {}
    slopes: Slopes = {}
    for a in _sums_in(laws[0]):
        for b in _sums_in(laws[1]):
            if a.terms.signal != b.terms.signal or a.terms.of == b.terms.of:
                continue
            if not (a.roots and b.roots) and _is_normalised(joint, how):
                continue
            indices = _together(a.terms, b.terms, how)
            if indices:
                _add_common(found, (a, b), joint, how, indices, slopes)
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
    found: dict[Reach, Array], sums: Sequence[_Sum], joint: Sequence[Law], how: Contraction, indices: Axes,
    slopes: Slopes,
) -> None:  # fmt: skip
    levels = [_levels(one, law, indices) for one, law in zip(sums, joint, strict=True)]
    found_in = (set(x) for x in levels if x is not None)
    along = sorted(set[Level].intersection(*found_in), key=lambda k: (sorted(k.axes), sorted(k.alike)))
    if not along:
        return
    factors, own = [], frozenset[int]()
    for side, (one, law, level) in enumerate(zip(sums, joint, levels, strict=True)):
        ours = range(len(law.roots)) if level is None else [level[k] for k in along]
        own |= frozenset[int]().union(*(law.roots[i].axes for i in ours))
        if level is None:
            factors.append({Reach(): _deviations(law, along, indices)})
        else:
            key = side, tuple(ours), tuple(level.values()), one.terms.share
            if key not in slopes:
                slopes[key] = _slopes(law, *key[1:])
            factors.append(slopes[key])
    real = frozenset(k for k, n in enumerate(how.shape) if n > 1)
    sizes, terms = [*how.shape, *how.counts.values()], math.prod(how.counts.values())
    count = max(one.terms.count for one in sums)
    for (one, x), (other, y) in itertools.product(*(factor.items() for factor in factors)):
        apart = together([one, other, Reach((own & how.counts.keys()) - indices)])
        more = terms * (terms / copies_in(apart, how.counts, sizes) - 1) / count
        if more > 0:
            value = xp.sum(x * y)
            add_to(found, Reach((apart.axes | own) & real), value * xp.asarray(more, value.dtype))


def _levels(one: _Sum, law: Law, indices: Axes) -> dict[Level, int] | None:
    """The roots by how they differ along the indices; none for the signal itself."""
    if not one.roots:
        return None
    return {level: i for i in one.roots if (level := Level.of(law.roots[i].along(indices))).axes}


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
    for reach, x in parts_by_reach(stacked, places.others(rest), SMALL):
        reach = reach or Reach()
        add_to(found, dataclasses.replace(reach, runs=plain(reach.runs)), _products(rest, x))
    return found


def _products(law: Law, x: Array) -> Array:
    """Mean products of any two along the last axis, of functions of the roots."""
    weights = xp.ones((1,) * len(law.roots), x.dtype)
    for i, w in enumerate(law.weights):
        if x.shape[i] > 1:
            weights = weights * w.astype(x.dtype).reshape([-1 if k == i else 1 for k in range(weights.ndim)])
    rows = (xp.broadcast_to(weights, x.shape[:-1])[..., None] * x).reshape(-1, x.shape[-1])
    return xp.matmul(rows.T, x.reshape(-1, x.shape[-1]))


def _deviations(signal: Law, levels: Sequence[Level], indices: Axes) -> Array:
    """The same of entries themselves: by the first of these levels, smallest first, that they differ at."""
    found: list[Any] = [xp.zeros((), signal.nodes.dtype) for _ in levels]
    order = sorted(range(len(levels)), key=lambda k: (len(levels[k].axes), -len(levels[k].alike)))
    for reach, variance in spread_by_reach(signal, places.others(signal))[1].items():
        own = Level.of(reach.along(indices))
        k = next((k for k in order if levels[k] == own), None)
        k = next((k for k in order if own.axes <= levels[k].axes), None) if k is None else k
        if own.axes and k is not None:
            found[k] = found[k] + average(signal, of=variance).reshape(())
    deviations = square_root(xp.stack(found))
    return deviations[:, None] * deviations[None]
