"""Entries beside an average over windows around them, as in `x + pool(x)`: what the two have in common.

An entry `x` and the sum `y = P x` over the window around it are a part that they share, and what is left of
the entry: `x = a y + d` with `a = E[x y] / E[y²]`, where `d` is uncorrelated with `y` at its place. Summed
over all places

    Σ E[d d'] = Σ E[x x'] - 2 a Σ E[x y'] + a² Σ E[y y'],

which is nothing for the average over a window of independent entries: `d` then adds up to nothing. Where
places differ, as at a border, `a` does.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np

from jinit._typing import Array
from jinit.signals.laws import places
from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.coarse import TAG
from jinit.signals.laws.kernels import is_told_apart
from jinit.signals.laws.law import Law, average, normal_nodes
from jinit.signals.laws.levels import Level
from jinit.signals.laws.mixing import Mixing
from jinit.signals.laws.roots import Root
from jinit.signals.laws.runs import Reach, kernel_of, runs_of, sums_of
from jinit.signals.laws.splitting import linear_in, split
from jinit.signals.laws.windows import at_indices, evened

# Of the largest node: what is linear in a normal variable differs by less from a straight line.
NEAR = 1e-4


@dataclasses.dataclass(frozen=True)
class Smoothed:
    """What a sum over windows is one of.

    Attributes:
      source: the root of the entries.
      correlation: of an entry and the sum over the window around it, by place.
      rest: the root of what is left of an entry.
    """

    source: Root
    correlation: Law
    rest: Root


def smoothed(
    law: Law, windows: Mapping[int, Mixing], level: Level, sums: Law, reach: Reach, variance: Array,
    name: Hashable,
) -> Smoothed | None:  # fmt: skip
    """What sums over windows of a law have in common with its entries.

    Of several normal variables that entries are made of it is the one of most variance.

    Args:
      law: of entries.
      windows: along each axis, those of all entries.
      level: of those entries that are summed.
      sums: their mean, at places.
      reach: how they differ.
      variance: of them.
      name: of their root.
    """
    told = all(m.rows == m.columns and is_told_apart(m.rows) for m in windows.values())
    known = not is_traced(law.nodes) and not is_traced(variance) and not np.iscomplexobj(law.nodes)
    if not windows or not told or not known:
        return None
    here = [i for i in places.others(law) if Level.of(law.roots[i]) == level]
    slope, i = max(((_slope(law, i), i) for i in here), key=lambda pair: abs(pair[0]), default=(0.0, 0))
    along = level.axes & frozenset(windows)
    square = places.mean_over(variance, sums.roots)
    if not along or not slope or not square > 0:
        return None
    root = law.roots[i]
    entries = Reach(root.axes, root.runs)
    kernels = {k: kernel_of(entries.run(k), windows[k].columns) for k in along}
    apart = math.prod(float(np.mean(m.shares.sum(1))) for k, m in windows.items() if k not in along)
    scale = apart * abs(slope) / math.sqrt(square)
    met = {k: windows[k].shares @ kernel.matrix for k, kernel in kernels.items()}
    own = {k: evened(sums, k, np.diag(x)) for k, x in met.items()}
    correlation = _correlation(sums, own, scale, math.copysign(1.0, slope))
    left = math.prod(kernel.run for kernel in kernels.values())
    left -= 2 * scale**2 * math.prod(float(np.mean(own[k] * x.sum(1))) for k, x in met.items())
    left += scale**2 * math.prod(_form(reach.run(k), x) for k, x in own.items())
    spread = 1 - float(average(correlation, of=correlation.nodes**2).reshape(()))
    longer = max(left / max(spread, 1e-6), 1.0) ** (1 / len(along))
    runs = runs_of({k: longer if k in along else entries.run(k) for k in root.axes})
    fixed = sums_of([*root.fixed, (along, 1 - left / max(spread, 1e-6))])
    terms = tuple(dataclasses.replace(t, share=t.share * spread) for t in root.terms)
    rest = Root((name, "rest"), root.axes, root.kind, runs=runs, fixed=fixed, terms=terms)
    return Smoothed(root, correlation, rest)


def _correlation(sums: Law, own: Mapping[int, np.ndarray], scale: float, sign: float) -> Law:
    """By place, that of an entry and the sum around it, of a product of numbers along each axis."""
    at = [i for i in places.positions(sums) if sums.roots[i].axes & own.keys()]
    found = scale * math.prod(at_indices(sums, k, x) for k, x in own.items())
    nodes = sign * xp.asarray(np.clip(found, 0, 1), sums.nodes.dtype)
    sizes = [sums.nodes.shape[i] for i in at]
    weights, roots = tuple(sums.weights[i] for i in at), tuple(sums.roots[i] for i in at)
    return Law(nodes.reshape(sizes), weights, roots, sums.shape, sums.dtype)


def _form(run: float, sizes: np.ndarray) -> float:
    """The mean over all entries of the sum of all others' covariances, of these sizes."""
    return float(sizes @ kernel_of(run, len(sizes)).matrix @ sizes) / len(sizes)


def _slope(law: Law, i: int) -> float:
    """Of what is linear in a normal root, whatever the others: the deviation, with its sign."""
    if (z := normal_nodes(law, i)) is None:
        return 0.0
    slopes = average(law, [*(k for k in places.others(law) if k != i), i], law.nodes * z)
    return math.copysign(math.sqrt(float(np.mean(slopes**2))), float(np.sum(slopes)))


def beside_averages(laws: Sequence[Law], fits: Callable[[Sequence[Law]], bool]) -> list[Law]:
    """The laws, entries as what they share with a sum around them and the rest, where they meet that sum.

    But for what takes grids that do not fit: there entries and sums count as independent, from then on.
    """
    sums = {
        r: w for law in laws for r, w in zip(law.roots, law.weights, strict=True) if r.smoothed is not None
    }
    for root, weights in sums.items():
        if any(root in law.roots and _source_in(law, root) is not None for law in laws):
            continue
        parted = [_parted(law, root, weights) for law in laws]
        laws = parted if _is_known(laws, root.smoothed.rest) or fits(parted) else laws
    return list(laws)


def _is_known(laws: Sequence[Law], root: Root) -> bool:
    """Whether a law was parted before, be it on fewer nodes since."""
    names = {root.name, (TAG, root.name)}
    return any(r.name in names for law in laws for r in law.roots)


def _source_in(law: Law, root: Root) -> int | None:
    """Where the root of entries stands that a sum is one of."""
    of = (root.smoothed.source.name, root.smoothed.source.axes)
    return next((i for i, r in enumerate(law.roots) if (r.name, r.axes) == of), None)


def _parted(law: Law, root: Root, weights: Array) -> Law:
    """A law, linear in the root of entries, in that of their sum and of the rest instead."""
    if is_traced(law.nodes) or (i := _source_in(law, root)) is None or normal_nodes(law, i) is None:
        return law
    if np.max(np.abs(law.nodes - linear_in(law, i)[2])) > NEAR * np.max(np.abs(law.nodes)):
        return law
    known, source = root.smoothed, law.roots[i]
    law, correlation = places.refined([law, known.correlation])
    at = places.union_of([law, correlation])
    law, ours = places.along(law, at), places.along(correlation, at).nodes
    i = law.roots.index(source)
    ours = ours.reshape([*ours.shape, *(1,) * (law.nodes.ndim + 1 - ours.ndim)])
    return split(law, i, root, weights, known.rest, ours)
