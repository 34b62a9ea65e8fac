"""Entries beside an average of them, as in `x + mean(x)` or `x + pool(x)`: what the two have in common.

An entry `x` and the sum `y = P x` over the window around it, or over all, are a part that they share, and
what is left of the entry: `x = a y + d` with `a = E[x y] / E[y²]`, where `d` is uncorrelated with `y` at its
place. Summed over all places

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
from jinit.signals.laws.averages import with_real
from jinit.signals.laws.coarse import TAG
from jinit.signals.laws.kernels import is_told_apart
from jinit.signals.laws.law import Axes, Law, average, constant, normal_nodes, squared
from jinit.signals.laws.levels import Level
from jinit.signals.laws.mixing import Mixing
from jinit.signals.laws.roots import PLACE, Root
from jinit.signals.laws.runs import Reach, copies_in, kernel_of, runs_of, sums_of
from jinit.signals.laws.splitting import NEAR, is_linear_in, split
from jinit.signals.laws.windows import at_indices, evened

# Of the variance of a sum, the least share of one root of its entries that it is known as a sum of.
MAIN = 0.5


@dataclasses.dataclass(frozen=True)
class Smoothed:
    """What a sum, be it over windows, is one of.

    Attributes:
      axes: along which sums differ.
      source: the root of the entries.
      correlation: of an entry and the sum that has it, by place.
      rest: the root of what is left of an entry.
    """

    axes: Axes
    source: Root
    correlation: Law
    rest: Root

    def is_at(self, root: Root, shape: Sequence[int]) -> bool:
        """Whether a root of sums stands along the same axes of such an array as they did."""
        return root.axes == self.axes and tuple(shape) == self.correlation.shape


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
    return Smoothed(level.axes, root, correlation, rest)


def summed_whole(law: Law, axes: Axes, sums: Law) -> Law:
    """`sums` along whole axes, known to be of entries that are linear in a root of their own.

    Of several it is that of most variance `v`. The sum of `n`, with `n / c` alike to each, has `V = n² v / c`
    of it, and `W` in all. The correlation is `√(V / W c)`, and what is left adds up to `V - V² / W`.
    """
    varying = [i for i, r in enumerate(law.roots) if r.axes & axes]
    if is_traced(law.nodes) or np.iscomplexobj(law.nodes) or any(law.roots[i].kind == PLACE for i in varying):
        return sums
    slope, i = max(((_slope(law, i), i) for i in varying), key=lambda pair: abs(pair[0]))
    if not slope or not _is_line(law, i, varying):
        return sums
    source, root = law.roots[i], sums.roots[-1]
    counts = {k: float(law.shape[k]) for k in axes}
    copies = copies_in(Reach(source.axes, source.runs, source.fixed), counts, law.shape)
    k = len(sums.roots) - 1
    whole = float(np.mean(average(sums, of=squared(sums.nodes - average(sums, [k])))))
    share = min(math.prod(counts.values()) ** 2 * slope**2 / copies / whole, 1.0) if whole > 0 else 0.0
    if copies <= 1 or share < MAIN:
        return sums
    correlation = math.copysign(math.sqrt(share / copies), slope)
    fixed = sums_of([*source.fixed, (axes & source.axes, 1 - (1 - share) / (1 - share / copies))])
    rest = dataclasses.replace(source, name=(root.name, "rest"), fixed=fixed)
    known = Smoothed(
        root.axes, source, constant(xp.asarray(correlation, np.float32), law.shape, law.dtype), rest
    )
    return dataclasses.replace(sums, roots=(*sums.roots[:-1], dataclasses.replace(root, smoothed=known)))


def _is_line(law: Law, i: int, varying: Sequence[int]) -> bool:
    """Whether a law is linear in a normal root, whatever the others that vary with it."""
    if (z := normal_nodes(law, i)) is None:
        return False
    slope = average(law, varying, law.nodes * z) * z
    beside = law.nodes - slope - average(law, [i])
    return bool(np.max(np.abs(beside)) <= NEAR * np.max(np.abs(law.nodes)))


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


def beside_averages(
    laws: Sequence[Law], shape: Sequence[int], fits: Callable[[Sequence[Law]], bool]
) -> list[Law]:
    """The laws, entries as what they share with a sum that has them and the rest, where they meet that sum.

    But for what takes grids that do not fit: there entries and sums count as independent, from then on.
    """
    every = [pair for law in laws for pair in zip(law.roots, law.weights, strict=True)]
    sums = {r: w for r, w in every if r.smoothed is not None and r.smoothed.is_at(r, shape)}
    for root, weights in sums.items():
        if any(root in law.roots and _source_in(law, root) is not None for law in laws):
            continue
        known = _is_known(laws, root.smoothed.rest)
        if root.average and not known and not any(_source_in(law, root) is not None for law in laws):
            continue
        parted = [_parted(with_real(law, root), root, weights) for law in laws]
        laws = parted if known or fits(parted) else laws
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
    """A law of entries, in the root of their sum and that of the rest instead of their own."""
    if is_traced(law.nodes) or (i := _source_in(law, root)) is None or normal_nodes(law, i) is None:
        return law
    root = dataclasses.replace(root, average=False)
    known, source = root.smoothed, law.roots[i]
    law, correlation = places.refined([law, known.correlation])
    at = places.union_of([law, correlation])
    law, ours = places.along(law, at), places.along(correlation, at).nodes
    i = law.roots.index(source)
    ours = ours.reshape([*ours.shape, *(1,) * (law.nodes.ndim + 1 - ours.ndim)])
    if ours.size > 1 and not is_linear_in(law, i):
        return law
    return split(law, i, root, weights, known.rest, ours)
