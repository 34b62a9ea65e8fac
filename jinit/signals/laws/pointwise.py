"""Functions of entries: run on the nodes, whatever the function."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jinit._typing import Array
from jinit.signals.laws import moments, places
from jinit.signals.laws.align import canonical, fewer_cotangents, normal_sum, sum_of_gradients
from jinit.signals.laws.averages import comes_back, forgotten, real_alike, without_deviations, without_unfelt
from jinit.signals.laws.coarse import as_coarse, coarser, grid_as_coarse, grid_if_coarser
from jinit.signals.laws.gradients import by_cotangent
from jinit.signals.laws.grids import grid_of, on_grid, union
from jinit.signals.laws.law import Law, average, node_dtype, without
from jinit.signals.laws.levels import Levels, levels_of
from jinit.signals.laws.moments import LevelMoments
from jinit.signals.laws.pairing import paired
from jinit.signals.laws.positions import refined
from jinit.signals.laws.roots import COTANGENT, MASK, PLACE, Root
from jinit.signals.laws.smoothing import beside_averages
from jinit.signals.laws.sums import beside_sums

SUMS = ("add", "add_any", "sub")

# The largest grid to work on. Kept small for another reason, too: programs compiled by XLA for CPU (jaxlib
# 0.10.2) were seen to crash on grids of seven axes and 2**19 nodes or more.
LIMIT = 2**18
# The largest grid of a signal to work on further.
TIDY = 2**16
MOST_COTANGENTS = 8
# The largest grid of a layer's output: mostly up to four cotangents, on two nodes each, meet it in the
# backward pass.
LAYER = LIMIT // 2**4
# Nodes for each level of a signal that meets much else.
NARROW = {0: (), 1: (128,), 2: (12, 32), 3: (4, 4, 24), 4: (2, 4, 4, 12)}


def pointwise(
    function: Callable[..., Sequence[Array]], laws: Sequence[Law], outs: Sequence[Any],
    name: Hashable, kind: str = "",
) -> list[Law]:  # fmt: skip
    """The laws of `function(*arrays)`, entry by entry.

    Args:
      function: of one array for each law, of any shape.
      laws: of the operands; shapes are equal, or one where entries repeat.
      outs: shape and dtype of each result.
      name: of this place in the program.
      kind: name of the primitive, if it is one of those that moments go through exactly.
    """
    shape = outs[0].shape
    laws = beside_sums(beside_averages(real_alike(laws), shape, _fits), shape, _fits)
    laws = [forgotten(x, shape) if comes_back(x, laws, shape) else x for x in laws]
    laws = without_unfelt(laws, shape) if kind in SUMS else laws
    laws = refined(as_coarse(without_deviations(laws)))
    if any(map(_has_mask, laws)) and grid_of(laws, placed=True) > TIDY:
        laws = [narrowed(x) for x in laws]
    exact = _exact(kind, laws)
    normals = all(x.is_normal and not x.is_linear and places.others(x) for x in laws)
    if exact and kind != "mul" and _apart(laws) and normals:
        levels, at = levels_of(*laws), places.weights_of(laws)
        return [normal_sum(exact(levels, tuple(at)), levels, laws, shape, outs[0].dtype, name, at)]
    linear = any(x.is_linear for x in laws)
    laws = _on_few_nodes(laws, LIMIT if linear or (exact and normals) else TIDY)
    if linear and grid_of(laws) > LIMIT:
        laws = _on_few_nodes([_alone(x) for x in laws], LIMIT)
    if grid_of(laws) <= LIMIT:
        return [_tidied(places.differing(x), (name, i)) for i, x in enumerate(on_grid(function, laws, outs))]
    if linear:
        parts = by_cotangent(function, laws, outs, name)
        levels = levels_of(*itertools.chain(*parts))
        return [
            sum_of_gradients(same, levels, (name, i), exact(levels, places.union_of(same)) if exact else None)
            for i, same in enumerate(parts)
        ]
    results = on_grid(function, paired(laws, union(laws), name), outs)
    levels = levels_of(*results)
    return [
        canonical(r, levels, (name, i), exact(levels, places.union_of([r])) if exact else None)
        if jnp.issubdtype(r.nodes.dtype, jnp.floating) else r
        for i, r in enumerate(results)
    ]  # fmt: skip


def _fits(laws: Sequence[Law]) -> bool:
    """Whether the grid of the laws, be it a coarser one, is small enough to work on further."""
    return min(grid_as_coarse(laws), grid_if_coarser(laws)) <= TIDY


def _on_few_nodes(laws: Sequence[Law], few: int) -> Sequence[Law]:
    """The laws on coarser nodes, if their grid is too large and that makes it as small as asked for."""
    if grid_of(laws) <= LIMIT or grid_if_coarser(laws) > few:
        return laws
    return coarser(laws)


def _has_mask(law: Law) -> bool:
    return any(r.kind == MASK for r in law.roots)


def narrowed(law: Law) -> Law:
    """A signal on few nodes, where it meets a mask or many other roots."""
    if _has_mask(law) or law.is_linear or not jnp.issubdtype(law.nodes.dtype, jnp.floating):
        return law
    levels = levels_of(law)
    sizes = NARROW[len(levels)]
    wide = grid_of([law]) > math.prod(sizes)
    return canonical(law, levels, (law.variable, "narrow"), sizes=sizes) if wide else law


def _alone(law: Law) -> Law:
    """A gradient's cotangents, times what they are multiplied by on average, and the rest by its moments."""
    signals = [i for i in places.others(law) if law.roots[i].kind != COTANGENT]
    if not law.is_linear or not signals:
        return law
    mean = average(law, signals)
    rest = dataclasses.replace(law, nodes=law.nodes - mean)
    rest = canonical(rest, levels_of(rest), (law.variable, "alone"))
    both = refined([without(law, signals, mean), rest])
    (found,) = on_grid(lambda x, y: [x + y], both, [jax.ShapeDtypeStruct(law.shape, law.dtype)])
    return found


def _tidied(law: Law, name: Hashable) -> Law:
    """A signal made of many roots, on one for each level, before it meets more."""
    if sum(r.kind == COTANGENT for r in law.roots) > MOST_COTANGENTS:
        return fewer_cotangents(law, name, MOST_COTANGENTS)
    levels = levels_of(law)
    many = grid_of([law]) > TIDY and len(places.others(law)) > len(levels) and not _has_mask(law)
    if not many or law.is_linear or not jnp.issubdtype(law.nodes.dtype, jnp.floating):
        return law
    return canonical(law, levels, name)


def _apart(laws: Sequence[Law]) -> bool:
    """Whether two laws, given places, have nothing in common."""
    return len(laws) == 2 and all(r.kind == PLACE for r in set(laws[0].roots) & set(laws[1].roots))


def _exact(kind: str, laws: Sequence[Law]) -> Callable[[Levels, Sequence[Root]], LevelMoments] | None:
    """Exact moments, at places, of a sum or difference of two laws, or of a product if they share no root."""
    if kind not in (*SUMS, "mul") or len(laws) != 2:
        return None
    if kind == "mul":
        return functools.partial(moments.of_product, *laws) if _apart(laws) else None
    return functools.partial(moments.of_sum, *laws, -1 if kind == "sub" else 1)


def cast(law: Law, dtype: Any) -> Law:
    """The law in another dtype; floating nodes are not rounded."""
    if jnp.issubdtype(dtype, jnp.inexact) and jnp.issubdtype(law.nodes.dtype, jnp.floating):
        held = node_dtype(dtype)
        nodes = law.nodes if held == law.nodes.dtype else law.nodes.astype(held)
    else:
        nodes = law.nodes.astype(node_dtype(dtype))
    return dataclasses.replace(law, nodes=nodes, dtype=jnp.dtype(dtype))
