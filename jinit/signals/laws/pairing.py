"""Laws of many roots, several of them paired into one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Sequence

import jax.numpy as jnp
import numpy as np

from jinit._typing import Array
from jinit.signals.laws.arrays import pick, xp
from jinit.signals.laws.law import Law
from jinit.signals.laws.levels import level_of, levels_of
from jinit.signals.laws.roots import COTANGENT, PLACE, Root

# Points for each level when several roots are paired.
POINTS = {0: (), 1: (1024,), 2: (128, 512), 3: (24, 32, 256), 4: (8, 12, 16, 128)}
# The same where gradients take part.
FEW_POINTS = {0: (), 1: (1024,), 2: (64, 256), 3: (8, 16, 128), 4: (4, 8, 8, 64)}


def paired(laws: Sequence[Law], roots: Sequence[Root], name: Hashable) -> list[Law]:
    """The laws on one new root for each level, whose points pair the nodes of all roots of that level.

    Points of a low-discrepancy sequence, as in Kronecker's: the first root runs through its nodes in order,
    the next ones in steps of irrational numbers. Gradients, averages and places stay on roots of their own.
    """
    free = [r for r in roots if r.kind not in (COTANGENT, PLACE) and not r.average]
    levels = levels_of(*laws, among=free)
    weights = {r: w for law in laws for r, w in zip(law.roots, law.weights, strict=True)}
    index: dict[Root, tuple[int, Array]] = {}
    points = FEW_POINTS if any(r.kind == COTANGENT for r in roots) else POINTS
    for k, count in enumerate(points[len(levels)]):
        members = [r for r in free if level_of(r, levels) == k]
        for j, root in enumerate(members):
            mass = xp.cumsum(weights[root])
            at = xp.searchsorted(mass / mass[-1], xp.asarray(_sequence(count, j), mass.dtype))
            index[root] = k, xp.clip(at, 0, mass.size - 1)
    new = tuple(Root((name, "pair", k), axes) for k, axes in enumerate(levels))
    return [_indexed(law, index, new) for law in laws]


def _sequence(count: int, j: int) -> np.ndarray:
    """Coordinate `j` of a sequence of `count` points that fill the unit cube evenly."""
    k = np.arange(count)
    if j == 0:
        return (k + 0.5) / count
    return (0.5 + k * math.sqrt([5, 2, 3, 7, 11, 13, 17, 19][(j - 1) % 8]) / 2) % 1.0


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
