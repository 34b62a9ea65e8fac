"""Laws of many roots, several of them paired into one."""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Hashable, Sequence

import jax.numpy as jnp
import numpy as np

from jinit._typing import Array
from jinit.signals.laws import places
from jinit.signals.laws.arrays import is_traced, pick, xp
from jinit.signals.laws.law import Law, as_float, average, mean_square, squared, two_moments
from jinit.signals.laws.levels import Levels, level_of, levels_of, weighed
from jinit.signals.laws.parts import reaches_at
from jinit.signals.laws.roots import COTANGENT, PLACE, Root
from jinit.signals.laws.runs import Reach, Runs

# Points for each level when several roots are paired: primes, so that any factor gives a lattice.
POINTS = {0: (), 1: (1021,), 2: (127, 509), 3: (23, 31, 257), 4: (11, 13, 17, 127)}
# The same where places differ.
PLACED = {0: (), 1: (509,), 2: (61, 257), 3: (13, 17, 127), 4: (7, 11, 13, 61)}
TRIES = 256  # of lattices, for each dimension
# Of the variance of a sum of all entries: a level that adds less, relative to another, takes two points.
LITTLE = 0.01


def paired(laws: Sequence[Law], roots: Sequence[Root], name: Hashable) -> list[Law]:
    """The laws on one new root for each level, whose points pair the nodes of all roots of that level.

    Gradients, averages and places stay on roots of their own.
    """
    free = [r for r in roots if r.kind not in (COTANGENT, PLACE) and not r.average]
    levels = levels_of(*laws, among=free)
    weights = {r: w for law in laws for r, w in zip(law.roots, law.weights, strict=True)}
    index: dict[Root, tuple[int, Array]] = {}
    for k, count in enumerate(_points(laws, levels, free)):
        members = [r for r in free if level_of(r, levels) == k]
        points = lattice(count, len(members))
        for j, root in enumerate(members):
            mass = xp.cumsum(weights[root])
            at = xp.searchsorted(mass / mass[-1], xp.asarray(points[j], mass.dtype))
            index[root] = k, xp.clip(at, 0, mass.size - 1)
    runs = _runs(laws, levels, free)
    new = tuple(Root((name, "pair", k), axes, runs=runs[k]) for k, (axes, _) in enumerate(levels))
    return [_indexed(law, index, new) for law in laws]


def _runs(laws: Sequence[Law], levels: Levels, free: Sequence[Root]) -> list[Runs]:
    """In what runs the copies of each level come, by what each of its roots alone makes of the laws."""
    if not any(r.runs for r in free) or any(is_traced(law.nodes) for law in laws):
        return [() for _ in levels]
    parts = []
    for law in map(as_float, laws):
        for i in (i for i, r in enumerate(law.roots) if r in free):
            alone = average(law, [k for k in places.others(law) if k != i])
            variance = average(law, [i], squared(alone - average(law, [i], alone)))
            parts.append((law, Reach(law.roots[i].axes, law.roots[i].runs), variance))
    return [reach.runs for reach in reaches_at(parts, levels, max((law.shape for law in laws), key=len))]


def _points(laws: Sequence[Law], levels: Levels, free: Sequence[Root]) -> list[int]:
    """How many points each level takes, by what its roots change, whatever the others are."""
    points = PLACED if any(r.kind == PLACE and r.places for law in laws for r in law.roots) else POINTS
    if any(is_traced(law.nodes) for law in laws):
        return list(points[len(levels)])
    sums = dict.fromkeys(levels, 0.0)
    for law in map(as_float, laws):
        whole = float(np.mean(two_moments(law)[1])) or 1.0
        for i in (i for i, r in enumerate(law.roots) if r in free):
            variance = mean_square(law, law.nodes - average(law, [i]))
            sums[levels[level_of(law.roots[i], levels)]] += variance / whole
    found = weighed(sums, laws[0].shape)
    much = [found[level] >= LITTLE * max(found.values()) for level in levels]
    rest = iter(points[sum(much)])
    return [next(rest) if x else 2 for x in much]


@functools.lru_cache(maxsize=512)
def lattice(count: int, dimensions: int) -> np.ndarray:
    """The middles of `count` equal parts of the unit interval, in an order of its own for each dimension.

    Shifted lattices, `(k z + s) mod count`, of which each dimension takes one of those that leave its normal
    scores, and their squares, least correlated with those of the dimensions before. Of an odd count each is
    symmetric, so that sums of symmetric variables are: what is skewed a little would add up over layers.
    """
    k = np.arange(count)
    if dimensions < 2:
        return (k[None] + 0.5)[:dimensions] / count
    before, scores = lattice(count, dimensions - 1), _scores(count)
    random = np.random.default_rng(dimensions)
    factors = random.integers(1, count, TRIES)
    orders = (np.outer(factors, k - count // 2) + count // 2) % count
    taken = scores[:, (before * count).astype(int)].reshape(-1, count)
    far = abs(scores[:, orders] @ taken.T).max((0, 2))
    return np.concatenate([before, (orders[[np.argmin(far)]] + 0.5) / count])


@functools.lru_cache(maxsize=64)
def _scores(count: int) -> np.ndarray:
    """Normal scores of the middles, and their squares, both standardised: `[2, count]`."""
    normal = statistics.NormalDist()
    scores = np.array([normal.inv_cdf((i + 0.5) / count) for i in range(count)])
    both = np.stack([scores, scores**2 - np.mean(scores**2)])
    return both / np.sqrt(np.sum(both**2, axis=1, keepdims=True) + np.finfo(float).tiny)  # of two, none


def _indexed(law: Law, index: dict[Root, tuple[int, Array]], new: tuple[Root, ...]) -> Law:
    moved = [i for i, r in enumerate(law.roots) if r in index]
    stay = [i for i, r in enumerate(law.roots) if r not in index]
    used = sorted({index[law.roots[i]][0] for i in moved})
    at = []
    for i in range(len(law.roots)):
        if i in moved:
            level, points = index[law.roots[i]]
            at.append(points.reshape([-1 if k == level else 1 for k in used] + [1] * len(stay)))
        else:
            shape = [1] * len(used) + [-1 if k == i else 1 for k in stay]
            at.append(xp.arange(law.nodes.shape[i]).reshape(shape))
    counts = [next(p.size for k, p in index.values() if k == level) for level in used]
    dtype = jnp.float32 if not jnp.issubdtype(law.nodes.dtype, jnp.inexact) else xp.real(law.nodes).dtype
    even = tuple(xp.full(n, 1 / n, dtype) for n in counts)
    return dataclasses.replace(
        law,
        nodes=pick(law.nodes, *at) if at else law.nodes,
        weights=(*even, *(law.weights[i] for i in stay)),
        roots=(*(new[k] for k in used), *(law.roots[i] for i in stay)),
    )
