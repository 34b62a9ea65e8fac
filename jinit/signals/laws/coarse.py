"""Laws on fewer nodes of the same roots: what they have in common with others is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jinit.signals.laws.arrays import is_traced, rows, xp
from jinit.signals.laws.law import Law
from jinit.signals.laws.quadrature import gaussian
from jinit.signals.laws.roots import COTANGENT, MASK, PLACE, Root

TAG = "coarse"
# From how many nodes to how many.
FEWER = {256: 24, 128: 24, 64: 8, 48: 16, 15: 4, 16: 6, 12: 4}


def coarser(laws: Sequence[Law]) -> list[Law]:
    """All roots that are normal variables on a rule of `FEWER`, on its smaller one."""
    return [_coarsened(law, [i for i in range(len(law.roots)) if _is_fine(law, i)]) for law in laws]


def as_coarse(laws: Sequence[Law]) -> list[Law]:
    """The laws, on fewer nodes of those roots of which another of them has fewer."""
    coarse = {r.name[1] for law in laws for r in law.roots if _is_coarse(r)}  # type: ignore[index]
    if not coarse:
        return list(laws)
    found = []
    for law in laws:
        ours = [i for i, r in enumerate(law.roots) if r.name in coarse and _is_fine(law, i)]
        found.append(_coarsened(law, ours))
    return found


def _is_coarse(root: Root) -> bool:
    return isinstance(root.name, tuple) and len(root.name) == 2 and root.name[0] == TAG


def _is_fine(law: Law, i: int) -> bool:
    weights, root = law.weights[i], law.roots[i]
    if root.kind in (COTANGENT, MASK, PLACE) or root.average or is_traced(law.nodes) or is_traced(weights):
        return False
    if _is_coarse(root):  # on still fewer it would no longer be known as the same
        return False
    if not jnp.issubdtype(law.nodes.dtype, jnp.floating):
        return False
    return weights.size in FEWER and np.allclose(weights, gaussian(weights.size)[1], atol=1e-7)


def _coarsened(law: Law, positions: Sequence[int]) -> Law:
    nodes: Any = law.nodes
    weights, roots = list(law.weights), list(law.roots)
    for i in positions:
        fine, _ = gaussian(weights[i].size)
        points, mass = gaussian(FEWER[weights[i].size])
        last = np.moveaxis(nodes, i, -1)
        nodes = np.moveaxis(rows(lambda row, p=points, f=fine: np.interp(p, f, row), last), -1, i)
        weights[i] = xp.asarray(mass, weights[i].dtype)
        roots[i] = dataclasses.replace(roots[i], name=(TAG, roots[i].name))
    nodes = xp.asarray(nodes, law.nodes.dtype)
    return dataclasses.replace(law, nodes=nodes, weights=tuple(weights), roots=tuple(roots))
