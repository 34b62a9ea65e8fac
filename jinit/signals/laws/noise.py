"""Random bits, as a program draws them, and what is decided by them."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from jinit.signals.laws.arrays import xp
from jinit.signals.laws.law import Law, all_axes
from jinit.signals.laws.roots import Root

NOISE_NODES = 4096


def noise(eqn: Any, at: tuple[int, ...]) -> Law:
    """Uniform bits."""
    shape, dtype = eqn.outvars[0].aval.shape, eqn.outvars[0].aval.dtype
    share = (np.arange(NOISE_NODES) + 0.5) / NOISE_NODES
    nodes = xp.asarray((share * 2.0 ** eqn.params["bit_width"]).astype(dtype))
    weights = xp.full(NOISE_NODES, 1 / NOISE_NODES, jnp.float32)
    return Law(nodes, (weights,), (Root(at, all_axes(shape)),), tuple(shape), dtype)


def coin(law: Law) -> Law:
    """A yes or no made of noise, on two nodes."""
    if law.dtype != jnp.bool_ or law.nodes.shape != (NOISE_NODES,):
        return law
    yes = xp.sum(law.nodes.astype(law.weights[0].dtype) * law.weights[0])
    root = dataclasses.replace(law.roots[0], name=(law.roots[0].name, "coin"))
    return dataclasses.replace(
        law, nodes=xp.array([False, True]), weights=(xp.stack([1 - yes, yes]),), roots=(root,)
    )
