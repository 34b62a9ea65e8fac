"""Uses by hand, for tests of what is done with them."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

import jinit


def kernel(path="w", shape=(8, 4), **facts):
    """A dense kernel, unless told otherwise."""
    facts = {
        "in_axes": (len(shape) - 2,),
        "out_axes": (len(shape) - 1,),
        "dtype": np.dtype("float32"),
        **facts,
    }
    fans = {
        "fan_in": float(math.prod(shape[axis] for axis in facts["in_axes"])),
        "fan_out": float(math.prod(shape[axis] for axis in facts["out_axes"])),
    }
    return jinit.WeightUse(path, shape, role="kernel", uses=1, **{**fans, **facts})


def other(path="b", shape=(4,), role="bias", dtype=jnp.float32, **facts):
    """A parameter without fans."""
    return jinit.WeightUse(path, shape, np.dtype(dtype), role, **facts)
