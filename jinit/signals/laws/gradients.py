"""Gradients of many cotangents, one of them at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from jinit._typing import Array
from jinit.signals.laws.arrays import xp
from jinit.signals.laws.grids import on_grid, union
from jinit.signals.laws.law import Law, average, rule, without
from jinit.signals.laws.pairing import paired
from jinit.signals.laws.roots import COTANGENT, PLACE, Root


def by_cotangent(
    function: Callable[..., Sequence[Array]], laws: Sequence[Law], outs: Sequence[Any], name: Hashable
) -> list[list[Law]]:
    """What comes of each cotangent, for each result of a function that is linear in gradients.

    All other roots are paired. The grid grows by the number of cotangents, not twofold with each of them.
    """
    cotangents = list(dict.fromkeys(r for law in laws for r in law.roots if r.kind == COTANGENT))
    which = Root((name, "which"), frozenset(), PLACE)  # it is not random, and stays as it is
    slopes = [_slopes(law, cotangents, which) if law.is_linear else law for law in laws]
    results = on_grid(function, paired(slopes, union(slopes), name), outs)
    return [[_of_one(x, which, k, root) for k, root in enumerate(cotangents)] for x in results]


def _slopes(law: Law, cotangents: Sequence[Root], which: Root) -> Law:
    """What each cotangent is multiplied by, with `which` to tell them apart."""
    ours = [i for i, r in enumerate(law.roots) if r.kind == COTANGENT]
    zero = without(law, ours, average(law, ours, xp.zeros_like(law.nodes)))
    found = [_slope(law, r, ours) if r in law.roots else zero.nodes for r in cotangents]
    even = xp.full(len(cotangents), 1 / len(cotangents), np.float32)
    return dataclasses.replace(
        zero, nodes=xp.stack(found, axis=-1), weights=(*zero.weights, even), roots=(*zero.roots, which)
    )


def _slope(law: Law, root: Root, cotangents: Sequence[int]) -> Array:
    i = law.roots.index(root)
    sign, _ = rule(2, law.nodes.real.dtype)
    x = law.nodes * sign.reshape([-1 if k == i else 1 for k in range(law.nodes.ndim)])
    return without(law, cotangents, average(law, cotangents, x)).nodes


def _of_one(law: Law, which: Root, k: int, cotangent: Root) -> Law:
    """The gradient that comes of one cotangent."""
    i = law.roots.index(which)
    slope = without(law, [i], law.nodes.take(xp.asarray([k]), i))
    sign, weights = rule(2, slope.nodes.real.dtype)
    return dataclasses.replace(
        slope,
        nodes=slope.nodes[..., None] * sign.reshape((1,) * slope.nodes.ndim + (-1,)),
        weights=(*slope.weights, weights),
        roots=(*slope.roots, cotangent),
    )
