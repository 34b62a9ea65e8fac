"""Functions of entries: run on the nodes, whatever the function."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax.numpy as jnp

from jinit._typing import Array
from jinit.signals.laws import places
from jinit.signals.laws.align import (
    LevelMoments,
    canonical,
    covariances,
    fewer_cotangents,
    level_moments,
    normal_sum,
)
from jinit.signals.laws.arrays import xp
from jinit.signals.laws.coarse import as_coarse, coarser
from jinit.signals.laws.law import Law, forget_averages, node_dtype
from jinit.signals.laws.levels import Levels, levels_of
from jinit.signals.laws.pairing import paired
from jinit.signals.laws.roots import COTANGENT, MASK, PLACE, Root

# The largest grid to work on. Kept small for another reason, too: programs compiled by XLA for CPU (jaxlib
# 0.10.2) were seen to crash on grids of seven axes and 2**19 nodes or more.
LIMIT = 2**18
# The largest grid of a signal to work on further.
TIDY = 2**16
MOST_COTANGENTS = 4
# The largest grid of a layer's output: as many cotangents on two nodes each meet it in the backward pass.
LAYER = LIMIT // 2**MOST_COTANGENTS
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
    laws = [forget_averages(x) if x.size < math.prod(shape) else x for x in laws]
    laws = places.refined(as_coarse(laws))
    if any(map(_has_mask, laws)) and grid_of(laws) > TIDY:
        laws = [narrowed(x) for x in laws]
    exact = _exact(kind, laws)
    normals = all(x.is_normal and not x.is_linear and places.others(x) for x in laws)
    if exact and kind != "mul" and _apart(laws) and normals:
        levels, at = levels_of(*laws), places.weights_of(laws)
        return [normal_sum(exact(levels, tuple(at)), levels, shape, outs[0].dtype, name, at)]
    linear = any(x.is_linear for x in laws)
    laws = _on_few_nodes(laws, LIMIT if linear else TIDY)
    if linear and grid_of(laws) > LIMIT:
        laws = _on_few_nodes([_alone(x) for x in laws], LIMIT)
    if grid_of(laws) <= LIMIT:
        return [_tidied(places.differing(x), (name, i)) for i, x in enumerate(_run(function, laws, outs))]
    results = _run(function, paired(laws, union(laws), name), outs)
    levels = levels_of(*results)
    return [
        canonical(r, levels, (name, i), exact(levels, places.union_of([r])) if exact else None)
        if jnp.issubdtype(r.nodes.dtype, jnp.floating) else r
        for i, r in enumerate(results)
    ]  # fmt: skip


def _on_few_nodes(laws: Sequence[Law], few: int) -> Sequence[Law]:
    """The laws on coarser nodes, if their grid is too large and that makes it as small as asked for."""
    if grid_of(laws) <= LIMIT or grid_of(fewer := coarser(laws)) > few:
        return laws
    return fewer


def _has_mask(law: Law) -> bool:
    return any(r.kind == MASK for r in law.roots)


def narrowed(law: Law) -> Law:
    """A signal on few nodes, where it meets a mask or many other roots."""
    if _has_mask(law) or law.is_linear or not jnp.issubdtype(law.nodes.dtype, jnp.floating):
        return law
    levels = levels_of(law)
    sizes = NARROW[len(levels)]
    wide = grid_of([law]) > math.prod(sizes)
    return canonical(law, levels, (law.origin, "narrow"), sizes=sizes) if wide else law


def _alone(law: Law) -> Law:
    """A gradient by its moments alone, named after the variable that it is."""
    return canonical(law, levels_of(law), (law.origin, "alone")) if law.is_linear else law


def _tidied(law: Law, name: Hashable) -> Law:
    """A signal made of many roots, on one for each level, before it meets more."""
    if sum(r.kind == COTANGENT for r in law.roots) > MOST_COTANGENTS:
        return fewer_cotangents(law, name)
    levels = levels_of(law)
    many = grid_of([law]) > TIDY and len(places.others(law)) > len(levels) and not _has_mask(law)
    if not many or law.is_linear or not jnp.issubdtype(law.nodes.dtype, jnp.floating):
        return law
    return canonical(law, levels, name)


def union(laws: Sequence[Law]) -> tuple[Root, ...]:
    """All roots, in order of appearance."""
    return tuple(dict.fromkeys(r for law in laws for r in law.roots))


def spread(law: Law, roots: Sequence[Root]) -> Array:
    """Nodes with one axis for each of `roots`, of one entry where the law does not depend on it."""
    order = [law.roots.index(r) for r in roots if r in law.roots]
    sizes = [law.nodes.shape[law.roots.index(r)] if r in law.roots else 1 for r in roots]
    return xp.transpose(law.nodes, order).reshape(sizes)


def weights_of(laws: Sequence[Law], roots: Sequence[Root]) -> tuple[Array, ...]:
    """The weights of each root."""
    found = {r: w for law in laws for r, w in zip(law.roots, law.weights, strict=True)}
    return tuple(found[r] for r in roots)


def grid_of(laws: Sequence[Law]) -> int:
    """The number of nodes that these laws have together, at each place."""
    roots = [r for r in union(laws) if r.kind != PLACE]
    return math.prod(w.size for w in weights_of(laws, roots))


def _run(function: Any, laws: Sequence[Law], outs: Sequence[Any]) -> list[Law]:
    roots = union(laws)
    grids = [spread(law, roots) for law in laws]
    whole = jnp.broadcast_shapes(*(g.shape for g in grids))
    results = function(*(xp.broadcast_to(g, whole) for g in grids))
    weights = weights_of(laws, roots)
    return [
        Law(_held(x, out.dtype), weights, roots, tuple(out.shape), jnp.dtype(out.dtype))
        for x, out in zip(results, outs, strict=True)
    ]


def _held(x: Array, dtype: Any) -> Array:
    return x.astype(node_dtype(dtype)) if jnp.issubdtype(dtype, jnp.inexact) else x


def _apart(laws: Sequence[Law]) -> bool:
    """Whether two laws, given places, have nothing in common."""
    return len(laws) == 2 and all(r.kind == PLACE for r in set(laws[0].roots) & set(laws[1].roots))


def _exact(kind: str, laws: Sequence[Law]) -> Callable[[Levels, Sequence[Root]], LevelMoments] | None:
    """Exact moments, at places, of a sum or difference of two laws, or of a product if they share no root."""
    if kind not in ("add", "add_any", "sub", "mul") or len(laws) != 2:
        return None
    if kind == "mul" and not _apart(laws):
        return None

    def moments(levels: Levels, at: Sequence[Root]) -> LevelMoments:
        a, b = (level_moments(x, levels, at) for x in laws)
        if kind != "mul":
            sign = -1 if kind == "sub" else 1
            both = zip(a.variances, b.variances, covariances(laws[0], laws[1], levels, at), strict=True)
            return LevelMoments(a.mean + sign * b.mean, tuple(v + w + 2 * sign * c for v, w, c in both))
        second = [a.mean**2, b.mean**2]
        variances = []
        for v, w in zip(a.variances, b.variances, strict=True):
            variances.append(v * w + v * second[1] + w * second[0])
            second = [second[0] + v, second[1] + w]
        return LevelMoments(a.mean * b.mean, tuple(variances))

    return moments


def cast(law: Law, dtype: Any) -> Law:
    """The law in another dtype; floating nodes are not rounded."""
    if jnp.issubdtype(dtype, jnp.inexact) and jnp.issubdtype(law.nodes.dtype, jnp.floating):
        held = node_dtype(dtype)
        nodes = law.nodes if held == law.nodes.dtype else law.nodes.astype(held)
    else:
        nodes = law.nodes.astype(node_dtype(dtype))
    return dataclasses.replace(law, nodes=nodes, dtype=jnp.dtype(dtype))
