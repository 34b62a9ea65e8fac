"""Random bits, as a program draws them, and what is decided by them."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.law import Law, all_axes, normal
from jinit.signals.laws.roots import Root

NOISE_NODES = 4096
# Of a deviation: by how much what is a normal number may differ from one at the outermost nodes.
STRAIGHT = 0.01


def noise(eqn: Any, at: tuple[int, ...]) -> Law:
    """Uniform bits."""
    shape, dtype = eqn.outvars[0].aval.shape, eqn.outvars[0].aval.dtype
    share = (np.arange(NOISE_NODES) + 0.5) / NOISE_NODES
    nodes = xp.asarray((share * 2.0 ** eqn.params["bit_width"]).astype(dtype))
    weights = xp.full(NOISE_NODES, 1 / NOISE_NODES, jnp.float32)
    return Law(nodes, (weights,), (Root(at, all_axes(shape)),), tuple(shape), dtype)


def drawn(law: Law) -> Law:
    """What a program makes of noise: a yes or no on two nodes, a normal number known as one."""
    if law.nodes.shape != (NOISE_NODES,) or is_traced(law.nodes):
        return law
    if law.dtype == jnp.bool_:
        return _coin(law)
    return _normal(law) if jnp.issubdtype(law.dtype, jnp.floating) else law


def _coin(law: Law) -> Law:
    yes = xp.sum(law.nodes.astype(law.weights[0].dtype) * law.weights[0])
    root = dataclasses.replace(law.roots[0], name=(law.roots[0].name, "coin"))
    return dataclasses.replace(
        law, nodes=xp.array([False, True]), weights=(xp.stack([1 - yes, yes]),), roots=(root,)
    )


def _normal(law: Law) -> Law:
    """The law, if it is linear in the normal number of the same share below it, as a function of that."""
    mean, deviation = float(np.mean(law.nodes)), float(np.std(law.nodes))
    if not np.allclose(law.nodes, mean + deviation * _quantiles(), rtol=0, atol=STRAIGHT * deviation):
        return law
    return normal(mean, deviation**2, (law.roots[0].name, "normal"), law.shape, law.dtype)


@functools.cache
def _quantiles() -> np.ndarray:
    """Of the standard normal, in the middle of each node's share."""
    from scipy.special import ndtri  # it takes long to import, and comes with JAX

    return ndtri((np.arange(NOISE_NODES) + 0.5) / NOISE_NODES)
