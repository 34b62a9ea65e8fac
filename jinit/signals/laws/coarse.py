"""Laws on fewer nodes of the same roots: what they have in common with others is kept."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jinit.signals.laws import places
from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.law import Law, average, normal_nodes, squared
from jinit.signals.laws.quadrature import gaussian
from jinit.signals.laws.roots import COTANGENT, MASK, PLACE, Root

TAG = "coarse"
# Of a deviation: by how much mean and deviation on fewer nodes may be off to be mended.
MORE = 0.04
# From how many nodes to how many.
FEWER = {256: 24, 128: 24, 64: 8, 48: 16, 32: 8, 16: 6, 15: 4, 12: 4, 8: 4}


def coarser(laws: Sequence[Law], but: Collection[Root] = ()) -> list[Law]:
    """All roots that are normal variables on a rule of `FEWER`, `but` for these, on its smaller one."""
    return [
        _coarsened(law, [i for i, r in enumerate(law.roots) if r not in but and _is_fine(law, i)])
        for law in laws
    ]


def grid_if_coarser(laws: Sequence[Law]) -> int:
    """The number of nodes, at each place, that the coarser laws would have together."""
    return _grid(laws, _is_fine)


def grid_as_coarse(laws: Sequence[Law]) -> int:
    """The number of nodes, at each place, that the laws have together once they are `as_coarse`."""
    coarse = _coarse_names(laws)
    return _grid(laws, lambda law, i: law.roots[i].name in coarse and _is_fine(law, i))


def _grid(laws: Sequence[Law], is_coarsened: Callable[[Law, int], bool]) -> int:
    sizes: dict[Root, int] = {}
    for law in laws:
        for i, (root, weights) in enumerate(zip(law.roots, law.weights, strict=True)):
            if root.kind == PLACE:
                continue
            if is_coarsened(law, i):
                sizes[dataclasses.replace(root, name=(TAG, root.name))] = FEWER[weights.size]
            else:
                sizes[root] = weights.size
    return math.prod(sizes.values())


def _coarse_names(laws: Sequence[Law]) -> set[Any]:
    """Of the roots of which some law has fewer nodes."""
    return {name_of(r) for law in laws for r in law.roots if _is_coarse(r)}


def as_coarse(laws: Sequence[Law]) -> list[Law]:
    """The laws, on fewer nodes of those roots of which another of them has fewer."""
    coarse = _coarse_names(laws)
    if not coarse:
        return list(laws)
    found = []
    for law in laws:
        ours = [i for i, r in enumerate(law.roots) if r.name in coarse and _is_fine(law, i)]
        found.append(_coarsened(law, ours))
    return found


def name_of(root: Root) -> Any:
    """The name of a root, be it on fewer nodes."""
    return root.name[1] if _is_coarse(root) else root.name  # type: ignore[index]


def _is_coarse(root: Root) -> bool:
    return isinstance(root.name, tuple) and len(root.name) == 2 and root.name[0] == TAG


def _is_fine(law: Law, i: int) -> bool:
    weights, root = law.weights[i], law.roots[i]
    if root.kind in (COTANGENT, MASK, PLACE) or root.average or is_traced(law.nodes) or is_traced(weights):
        return False
    if _is_coarse(root):  # on still fewer it would no longer be known as the same
        return False
    return weights.size in FEWER and normal_nodes(law, i) is not None


def _coarsened(law: Law, positions: Sequence[int]) -> Law:
    for i in positions:
        law = _on_fewer(law, i)
    return law


def _on_fewer(law: Law, i: int) -> Law:
    """`law`, on fewer nodes of the root at position `i`: of the same mean and variance, if they come near.

    Else as it is there, as behind `tanh` of much: functions of one root are to fit, such as `1 + tanh` and
    `1 - tanh`, whose product is nothing where either is.
    """
    from scipy.interpolate import PchipInterpolator  # it takes long to import, and comes with JAX

    (fine, _), (points, mass) = gaussian(law.weights[i].size), gaussian(FEWER[law.weights[i].size])
    continuous = jnp.issubdtype(law.nodes.dtype, jnp.floating)
    if continuous:
        nodes = PchipInterpolator(fine, np.asarray(law.nodes), axis=i)(np.clip(points, fine[0], fine[-1]))
    else:
        nodes = np.take(law.nodes, np.argmin(abs(points[:, None] - fine), axis=1), axis=i)
    root = dataclasses.replace(law.roots[i], name=(TAG, law.roots[i].name))
    few = dataclasses.replace(
        law,
        nodes=xp.asarray(nodes, law.nodes.dtype),
        weights=(*law.weights[:i], xp.asarray(mass, law.weights[i].dtype), *law.weights[i + 1 :]),
        roots=(*law.roots[:i], root, *law.roots[i + 1 :]),
    )
    if not continuous:
        return few
    return _with_moments(_with_moments(few, law, [i]), law, places.others(law))


def _with_moments(few: Law, law: Law, over: Sequence[int]) -> Law:
    """A coarser law, of the mean and variance of this one over roots at these positions, if they are near."""
    (mean, wanted), (found, has) = _moments_over(law, over), _moments_over(few, over)
    scale = np.sqrt(wanted / np.maximum(has, np.finfo(has.dtype).tiny))
    fits = (abs(scale - 1) < MORE) & (abs(mean - found) < MORE * np.sqrt(wanted))
    return dataclasses.replace(few, nodes=np.where(fits, mean + (few.nodes - found) * scale, few.nodes))


def _moments_over(law: Law, over: Sequence[int]) -> tuple[Any, Any]:
    mean = average(law, over)
    return mean, average(law, over, squared(law.nodes - mean))
