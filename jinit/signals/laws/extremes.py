"""The largest of several entries."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence

import numpy as np

from jinit._typing import Array
from jinit.signals.laws import places
from jinit.signals.laws.arrays import largest_of, pick, rows, xp
from jinit.signals.laws.law import Axes, Law
from jinit.signals.laws.quadrature import gaussian
from jinit.signals.laws.roots import Root


def maximum(law: Law, axes: Axes, name: Hashable, shape: Sequence[int], count: int, *, final: bool) -> Law:
    """The law of the largest of `count` independent copies along `axes`.

    `P(max ≤ x) = F(x)^count`, so its quantile at `p` is that of one entry at `p^(1/count)`.

    Args:
      law: of the entries.
      axes: axes that the maximum is over.
      name: for the new root.
      shape: of the result, with the axes in place.
      count: how many.
      final: whether it is a result of its own, rather than an average that may be forgotten.
    """
    varying = places.others_along(law, axes)
    if not varying:
        return dataclasses.replace(law, shape=tuple(shape))
    rest, x, w = _flattened(law, varying)
    x = x.reshape(*x.shape[: len(rest)], -1)
    size = 128 if final else 33
    _, mass = gaussian(size) if final else (None, np.full(size, 1 / size))
    share = xp.asarray((np.cumsum(mass) - mass / 2) ** (1 / count), x.dtype)
    nodes = rows(lambda row: _quantiles(row, w, share), x)
    if not final:
        # Forgotten, it is what softmax subtracts: any number will do, if exponentials do not overflow.
        middle = size // 2
        safe = xp.maximum(nodes, largest_of(x, -1)[..., None] - 40)
        nodes = xp.where(np.arange(size) == middle, safe, nodes)
    left = frozenset().union(*(law.roots[i].axes for i in varying))
    root = Root(name, left, average=not final)
    weights = (*(law.weights[i] for i in rest), xp.asarray(mass, x.dtype))
    roots = (*(law.roots[i] for i in rest), root)
    return Law(nodes, weights, roots, tuple(shape), law.dtype)


def _flattened(law: Law, varying: Sequence[int]) -> tuple[list[int], Array, Array]:
    """The other roots; the nodes with the axes of `varying` last; the weights of these as one axis."""
    rest = [i for i in range(len(law.roots)) if i not in varying]
    x = xp.transpose(law.nodes, [*rest, *varying])
    w = xp.ones((1,), x.dtype)
    for i in varying:
        w = (w[:, None] * law.weights[i].astype(w.dtype)[None]).reshape(-1)
    return rest, x, w


def _quantiles(x: Array, weights: Array, share: Array) -> Array:
    # Picked, not interpolated: between a value and what stands for minus infinity lies nothing.
    order = xp.argsort(x)
    mass = xp.cumsum(pick(weights, order))
    return pick(x, pick(order, xp.clip(xp.searchsorted(mass / mass[-1], share), 0, x.size - 1)))


def chance_of_being_largest(law: Law, axes: Axes, count: int) -> Array:
    """`F(x)^(count - 1)` at every node `x`: the chance that it is the largest of `count` copies."""
    varying = places.others_along(law, axes)
    if not varying:
        return xp.full_like(law.nodes, 1 / count)
    rest, x, w = _flattened(law, varying)
    flat = x.reshape(*x.shape[: len(rest)], -1)

    def chances(row: Array) -> Array:
        order = xp.argsort(row)
        own = pick(w, order)
        mass = xp.cumsum(own)
        ranked = pick(row, order)
        first = xp.searchsorted(ranked, row, side="left")
        last = xp.searchsorted(ranked, row, side="right") - 1
        high, low = pick(mass, last), pick(mass, first) - pick(own, first)
        # Atoms share: the mean over the atom of F^(count-1) is (high^n - low^n) / (n (high - low)).
        atom = high > low  # in tails the mass of a node is lost in rounding
        width = xp.where(atom, high - low, xp.ones_like(high))
        mean = (high**count - xp.maximum(low, 0) ** count) / (count * width)
        return xp.where(atom, mean, high ** (count - 1))

    out = rows(chances, flat).reshape(x.shape)
    return xp.transpose(out, np.argsort([*rest, *varying]).tolist())
