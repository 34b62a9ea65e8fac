"""A normal root as two: one that another law has as well, and what is left."""

from __future__ import annotations

import dataclasses

import numpy as np

from jinit._typing import Array
from jinit.signals.laws.arrays import xp
from jinit.signals.laws.law import Law, average, normal_nodes, rule, square_root
from jinit.signals.laws.quadrature import gaussian
from jinit.signals.laws.roots import COTANGENT, Root

# Nodes for what is left, at most.
REST = 16
# Of the largest node: what is linear in a normal variable differs by less from a straight line.
NEAR = 1e-4


def linear_in(law: Law, i: int) -> tuple[Array, Array, Array]:
    """The mean over a normal root, what it is multiplied by, and the law's nodes if it is linear in it."""
    z = normal_nodes(law, i)
    assert z is not None
    mean, slope = average(law, [i]), average(law, [i], law.nodes * z)
    return mean, slope, mean + slope * z


def is_linear_in(law: Law, i: int) -> bool:
    """Whether a law is linear in the normal root at position `i`, whatever the others."""
    if not np.issubdtype(law.nodes.dtype, np.inexact):
        return False
    line = linear_in(law, i)[2]
    return bool(np.max(np.abs(law.nodes - line)) <= NEAR * np.max(np.abs(law.nodes)))


def split(law: Law, i: int, root: Root, weights: Array, rest: Root, correlation: Array) -> Law:
    """`law`, a function of its normal root at position `i`, of these two instead.

    `correlation`: of that root and the new one; one entry along all roots of `law` from `i` on, and but for
    what is linear in that root along all.
    """
    few, mass = rule(min(law.weights[i].size, REST), law.weights[i].dtype)
    known = rule(2 if root.kind == COTANGENT else weights.size, mass.dtype)[0]
    left = square_root(1 - xp.asarray(correlation, mass.dtype) ** 2)
    along = (1,) * (law.nodes.ndim - 1 - i)
    both = correlation * known.reshape([-1, 1, *along]) + left * few.reshape([-1, *along])
    if is_linear_in(law, i):
        mean, slope, _ = linear_in(law, i)
        nodes = xp.expand_dims(mean, i) + xp.expand_dims(slope, i) * both
    else:
        nodes = _between_nodes(law, i, both.reshape(known.size, few.size))
    return dataclasses.replace(
        law,
        nodes=nodes,
        weights=(*law.weights[:i], weights, mass, *law.weights[i + 1 :]),
        roots=(*law.roots[:i], root, rest, *law.roots[i + 1 :]),
    )


def _between_nodes(law: Law, i: int, at: Array) -> Array:
    """The law's nodes where the normal root at position `i` has other values, in their axes."""
    from scipy.interpolate import PchipInterpolator  # it takes long to import, and comes with JAX

    known, _ = gaussian(law.weights[i].size)
    if not np.issubdtype(law.nodes.dtype, np.inexact) or not np.all(np.isfinite(law.nodes)):
        return xp.take(law.nodes, np.argmin(abs(np.asarray(at)[..., None] - known), axis=-1), axis=i)
    found = PchipInterpolator(known, np.asarray(law.nodes), axis=i)(np.clip(at, known[0], known[-1]))
    return xp.asarray(found, law.nodes.dtype)
