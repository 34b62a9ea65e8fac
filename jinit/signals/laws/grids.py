"""Functions of several laws, on the grid of all their roots."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from jinit._typing import Array
from jinit.signals.laws.arrays import xp
from jinit.signals.laws.law import Law, node_dtype
from jinit.signals.laws.roots import PLACE, Root
from jinit.signals.laws.runs import together


def union(laws: Sequence[Law]) -> tuple[Root, ...]:
    """All roots, in order of appearance."""
    found: dict[Root, Root] = {}
    for root in (r for law in laws for r in law.roots):
        if (known := found.setdefault(root, root)).fixed != root.fixed:
            found[root] = dataclasses.replace(known, fixed=together([known, root]).fixed)
    return tuple(found.values())


def spread(law: Law, roots: Sequence[Root]) -> Array:
    """Nodes with one axis for each of `roots`, of one entry where the law does not depend on it."""
    order = [law.roots.index(r) for r in roots if r in law.roots]
    sizes = [law.nodes.shape[law.roots.index(r)] if r in law.roots else 1 for r in roots]
    return xp.transpose(law.nodes, order).reshape(sizes)


def weights_of(laws: Sequence[Law], roots: Sequence[Root]) -> tuple[Array, ...]:
    """The weights of each root."""
    found = {r: w for law in laws for r, w in zip(law.roots, law.weights, strict=True)}
    return tuple(found[r] for r in roots)


def grid_of(laws: Sequence[Law], *, placed: bool = False) -> int:
    """The number of nodes that these laws have together: at each place, or at all if `placed`."""
    roots = [r for r in union(laws) if placed or r.kind != PLACE]
    return math.prod(w.size for w in weights_of(laws, roots))


def on_grid(function: Callable[..., Sequence[Array]], laws: Sequence[Law], outs: Sequence[Any]) -> list[Law]:
    """The laws of `function(*nodes)`, of arrays that broadcast, each of the shape and dtype in `outs`."""
    roots = union(laws)
    grids = [spread(law, roots) for law in laws]
    whole = jnp.broadcast_shapes(*(g.shape for g in grids))
    results = [xp.broadcast_to(x, whole) for x in function(*grids)]
    weights = weights_of(laws, roots)
    return [
        Law(_held(x, out.dtype), weights, roots, tuple(out.shape), jnp.dtype(out.dtype))
        for x, out in zip(results, outs, strict=True)
    ]


def _held(x: Array, dtype: Any) -> Array:
    return x.astype(node_dtype(dtype)) if jnp.issubdtype(dtype, jnp.inexact) else x
