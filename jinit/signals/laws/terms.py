"""What a sum has in common with its own terms, and how much that adds to the gradient of its weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from jinit._typing import Array
from jinit.signals.laws import places
from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.law import Law, average, without
from jinit.signals.laws.meeting import Contraction
from jinit.signals.laws.parts import spread_by_reach
from jinit.signals.laws.quadrature import gaussian
from jinit.signals.laws.roots import SIGNAL
from jinit.signals.laws.runs import Axes, Reach, copies_in


@dataclasses.dataclass(frozen=True)
class Terms:
    """Of a root that is a weighted sum of entries of a signal, what these are.

    Attributes:
      of: the sum that it was made in.
      signal: the variable that entries are of.
      count: how many there are in a sum, on average.
      moves: pairs of an axis of the signal and the axis of the sum along which the same entries stand.
      axes: those of the root when it was made.
    """

    of: Hashable
    signal: Hashable
    count: float
    moves: frozenset[tuple[int, int]]
    axes: Axes


def with_terms(out: Law, signal: Law, how: Contraction, side: int, name: Hashable) -> Law:
    """`out`, a sum over entries of `signal`, operand `side`, times weights; its new roots know of that."""
    count, rank = math.prod(how.counts.values()), len(how.shape)
    moves = frozenset((i, k) for i, to in enumerate(how.axes[side]) for k in to if k < rank)
    roots = [
        dataclasses.replace(r, terms=Terms(name, signal.variable, count, moves, r.axes))
        if r.kind == SIGNAL and isinstance(r.name, tuple) and r.name[0] == name else r
        for r in out.roots
    ]  # fmt: skip
    return dataclasses.replace(out, roots=tuple(roots))


def common_with_terms(laws: Sequence[Law], moved: Sequence[Law], how: Contraction) -> Array | None:
    """Variance of `Σ_p x_p g_p` over weights, for what a gradient has in common with `x` through sums of it.

    Where `h = Σ_i w_i x_i` over `n` terms, an entry of variance `v` is correlated with `h` by one over `√n`,
    times the sign of its weight, at all places alike. So `E[x_i g | w] = w_i/σ_w s` with `s = √(v/n) E[g ξ]`
    and `ξ` the standard normal that `h` is. Over places this adds `E[(Σ_p s_p)²] - Σ_p E[s_p²]`, of the order
    of places over `n`, where all places share what comes back.

    Args:
      laws: of the operands.
      moved: the same along the indices of `how`.
      how: how their axes meet.
    """
    side = next((k for k in (0, 1) if not laws[k].is_linear and laws[1 - k].is_linear), None)
    if side is None:
        return None
    gradient, summed, found = moved[1 - side], frozenset(how.counts), None
    for ours in _sums_of(laws[side], laws[1 - side], how, side).values():
        ours = [i for i in ours if gradient.roots[i].axes & summed]
        if ours:
            more = _variance(_slope(moved[side], gradient, ours, summed), how)
            found = more if found is None else found + more
    return found


def _sums_of(signal: Law, gradient: Law, how: Contraction, side: int) -> dict[Hashable, list[int]]:
    """The roots of `gradient` that are sums of `signal`, of the places that it meets here, by sum."""
    found: dict[Hashable, list[int]] = {}
    for i, root in enumerate(gradient.roots):
        terms = root.terms
        if terms is None or terms.signal != signal.variable or terms.axes != root.axes:
            continue
        meet = [how.axes[side][x] & how.axes[1 - side][g] for x, g in terms.moves if g < len(gradient.shape)]
        if frozenset(how.counts) <= frozenset().union(*meet) and _is_standard(gradient, i):
            found.setdefault(terms.of, []).append(i)
    return found


def _is_standard(law: Law, i: int) -> bool:
    """Whether the nodes of a root are known to be those of the rule for a normal variable."""
    weights = law.weights[i]
    return not is_traced(weights) and np.allclose(weights, gaussian(weights.size)[1], atol=1e-6)


def _slope(signal: Law, gradient: Law, ours: Sequence[int], summed: Axes) -> Law:
    """`s`: what the gradient and an entry have in common, times the sign of the entry's weight."""
    terms = gradient.roots[ours[0]].terms
    variances = _variances(signal, [gradient.roots[i].axes & summed for i in ours], summed)
    total: Any = 0.0
    for i, variance in zip(ours, variances, strict=True):
        z = xp.asarray(gaussian(gradient.weights[i].size)[0], gradient.nodes.dtype)
        z = z.reshape(-1, *(1,) * (gradient.nodes.ndim - 1 - i))
        scale = xp.sqrt(variance / xp.asarray(terms.count, variance.dtype))  # type: ignore[union-attr]
        total = total + average(gradient, ours, gradient.nodes * z) * scale.astype(gradient.nodes.dtype)
    return without(gradient, ours, total)


def _variances(signal: Law, levels: Sequence[Axes], summed: Axes) -> list[Array]:
    """The variance of entries by the first of these sets of axes, from the smallest, along which it differs."""
    found: list[Any] = [xp.zeros((), signal.nodes.dtype) for _ in levels]
    order = sorted(range(len(levels)), key=lambda k: len(levels[k]))
    for reach, variance in spread_by_reach(signal, places.others(signal))[1].items():
        own = reach.axes & summed
        k = next((k for k in order if own <= levels[k]), None)
        if own and k is not None:
            found[k] = found[k] + average(signal, of=variance).reshape(())
    return found


def _variance(slope: Law, how: Contraction) -> Array:
    """`E[(Σ_p s_p)²] - Σ_p E[s_p²]`."""
    mean, found = spread_by_reach(slope, places.others(slope))
    sizes = [*how.shape, *how.counts.values()]
    terms, whole = math.prod(how.counts.values()), xp.zeros((), slope.nodes.dtype)
    for reach, square in [(Reach(), mean * mean), *found.items()]:
        more = terms * max(terms / copies_in(reach, how.counts, sizes) - 1, 0.0)
        whole = whole + average(slope, of=square).reshape(()) * xp.asarray(more, whole.dtype)
    return whole

