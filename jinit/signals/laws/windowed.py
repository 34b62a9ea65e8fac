"""Sums over few taps of a window that slides: neighbours share terms, at random weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Iterator, Sequence

import numpy as np

from jinit._typing import Array
from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.law import Axes, Law, average, mean_square, normal_nodes
from jinit.signals.laws.meeting import Contraction, matrix_of
from jinit.signals.laws.roots import COTANGENT
from jinit.signals.laws.runs import Reach, Runs, runs_of

# Of squares of correlations between one place and all others: so little is let go.
LEAST = 0.05


@dataclasses.dataclass(frozen=True)
class Windowed:
    """Of a root that is a sum over windows, how alike its squares are at neighbouring places.

    `Σ_t w_t x_(p+t)` at two places that share `o` of `n` terms are correlated by some `ρ` that the weights
    decide, of mean zero, and `E[ρ²] = o / (n (n + 2))` for normal weights. So what is even in such a root is
    alike at neighbours, and what is odd is not, but where it meets the same weights again.

    Attributes:
      weights: the parameters that the weights are made of.
      runs: along each axis of places, to how many one is alike so: `Σ_q E[ρ²]`, one for itself.
    """

    weights: frozenset[Hashable]
    runs: Runs


def windowed(how: Contraction, weights: frozenset[Hashable]) -> Windowed | None:
    """How neighbours are alike in a convolution by these, if they are by more than next to nothing."""
    slide = [k for k in how.entries if how.shape[how.shared[k][0]] > 1]
    if not slide or not weights:
        return None
    terms = math.prod(how.counts.values())
    shared = math.prod(_shared(how.entries[k]) if k in slide else n for k, n in how.counts.items())
    alike = (shared - terms) / (terms * (terms + 2))
    run = (1 + max(alike, 0)) ** (1 / len(slide))
    return Windowed(weights, runs_of({how.shared[k][0]: run for k in slide})) if alike > LEAST else None


def at_neighbours(
    law: Law, random: Sequence[int], reach: Reach, part: Array
) -> Iterator[tuple[Reach, Array]]:
    """A part, and by itself what of it neighbours have in common by their squares."""
    for i in random:
        if (found := law.roots[i].windowed) is None or part.shape[i] == 1:
            continue
        runs = {k: max(reach.run(k), dict(found.runs).get(k, 1.0)) for k in reach.axes}
        if normal_nodes(law, i) is None or not reach.axes & dict(found.runs).keys():
            continue
        even = (part + xp.flip(part, i)) / 2
        even = even - average(law, [i], even)
        yield dataclasses.replace(reach, runs=runs_of(runs)), even
        part = part - even
    yield reach, part


def at_weights_again(law: Law, summed: Axes, weights: frozenset[Hashable]) -> Law:
    """A gradient where it meets the weights again that a sum behind it was made with.

    `Σ_t w_t g_t`, where what is linear in those sums is alike from one term to another by the same weights:
    `E[w_t w_s ρ] = E[ρ²]`. It counts as so much larger, unless what comes back differs from term to term.
    """
    cotangents = [k for k, r in enumerate(law.roots) if r.kind == COTANGENT]
    for i, root in enumerate(law.roots):
        if root.windowed is None or not root.windowed.weights & weights:
            continue
        if (z := normal_nodes(law, i)) is None:
            continue
        more = xp.zeros_like(law.nodes)
        for k in cotangents:
            along = summed - law.roots[k].axes
            alike = math.prod(run for axis, run in root.windowed.runs if axis in along)
            slope = average(law, [i, *(c for c in cotangents if c != k)], law.nodes * z)
            more = more + z * slope * xp.asarray(alike**0.5 - 1, z.dtype)
        law = dataclasses.replace(law, nodes=law.nodes + more)
    return law


def of_sum(laws: Sequence[Law], axes: Axes) -> Windowed | None:
    """Of the normal that all that differs along these axes adds up to, the largest sum over windows in it."""
    found, whole = [], 0.0
    for law in laws if not any(is_traced(law.nodes) for law in laws) else ():
        for i in (i for i, r in enumerate(law.roots) if r.axes == axes):
            if (z := normal_nodes(law, i)) is None:
                return None
            variance = mean_square(law, average(law, [i], law.nodes * z))
            whole += variance
            found += [(variance, law.roots[i].windowed)] if law.roots[i].windowed is not None else []
    if not found:
        return None
    variance, largest = max(found, key=lambda pair: pair[0])
    share = (variance / whole) ** 2 if whole > 0 else 0.0
    runs = runs_of({k: 1 + (run - 1) * share for k, run in largest.runs})
    return dataclasses.replace(largest, runs=runs) if share > LEAST else None


def _shared(entries: np.ndarray) -> float:
    """How many terms a place has in common with all places, itself too, on average."""
    met = matrix_of(entries, max(int(entries.max()) + 1, 1))
    return float((met.sum(0) ** 2).sum() / len(met))
