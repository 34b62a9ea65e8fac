"""A normal root as two: one that another law has as well, and what is left."""

from __future__ import annotations

import dataclasses

from jinit._typing import Array
from jinit.signals.laws.arrays import xp
from jinit.signals.laws.law import Law, average, normal_nodes, rule, square_root
from jinit.signals.laws.roots import COTANGENT, Root

# Nodes for what is left, at most.
REST = 16


def linear_in(law: Law, i: int) -> tuple[Array, Array, Array]:
    """The mean over a normal root, what it is multiplied by, and the law's nodes if it is linear in it."""
    z = normal_nodes(law, i)
    assert z is not None
    mean, slope = average(law, [i]), average(law, [i], law.nodes * z)
    return mean, slope, mean + slope * z


def split(law: Law, i: int, root: Root, weights: Array, rest: Root, correlation: Array) -> Law:
    """`law`, linear in its normal root at position `i`, in these two instead.

    `correlation`: of that root and the new one; one entry along all roots of `law` from `i` on.
    """
    mean, slope, _ = linear_in(law, i)
    few, mass = rule(min(law.weights[i].size, REST), law.nodes.dtype)
    known = rule(2 if root.kind == COTANGENT else weights.size, law.nodes.dtype)[0]
    left = square_root(1 - xp.asarray(correlation, law.nodes.dtype) ** 2)
    along = (1,) * (law.nodes.ndim - 1 - i)
    both = correlation * known.reshape([-1, 1, *along]) + left * few.reshape([-1, *along])
    return dataclasses.replace(
        law,
        nodes=xp.expand_dims(mean, i) + xp.expand_dims(slope, i) * both,
        weights=(*law.weights[:i], weights, mass, *law.weights[i + 1 :]),
        roots=(*law.roots[:i], root, rest, *law.roots[i + 1 :]),
    )
