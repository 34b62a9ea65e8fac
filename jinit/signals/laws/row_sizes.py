"""Rows of an array, such as examples, that are of sizes that differ."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.law import Axes, Law, average
from jinit.signals.laws.quadrature import gaussian
from jinit.signals.laws.roots import Root
from jinit.signals.laws.values import Held

# Of mean squares of rows, the variance over the square of their mean from which on they differ; nodes then.
UNEVEN, SIZES = 0.5, 16


def with_sizes(law: Law, value: Held, rows: Axes) -> Law:
    """`law`, two moments of an array, whose rows along these axes are of sizes that differ.

    Behind weights each row is normal of its own variance, so that all of them together are not.
    """
    x = value.array
    if (
        is_traced(x)
        or x.shape != value.shape
        or not rows
        or not x.size
        or not jnp.issubdtype(x.dtype, jnp.floating)
    ):
        return law
    along = tuple(i for i in range(x.ndim) if i not in rows)
    squares = np.mean(np.square(np.asarray(x, np.float64)), axis=along).ravel()
    mean = squares.mean()
    if not (mean > 0 and np.isfinite(mean)) or squares.var() < UNEVEN * mean**2:
        return law
    _, w = gaussian(SIZES)
    nodes = np.interp(np.cumsum(w) - w / 2, (np.arange(squares.size) + 0.5) / squares.size, np.sort(squares))
    sizes = xp.asarray(np.sqrt(nodes / (w @ nodes)), law.nodes.dtype)
    name = "sizes", (squares / mean).round(4).tobytes()  # however the array is laid out
    root = Root(name, frozenset(i for i in rows if x.shape[i] > 1))
    offset = average(law)
    return dataclasses.replace(
        law,
        nodes=offset[..., None] + (law.nodes - offset)[..., None] * sizes,
        weights=(*law.weights, xp.asarray(w, law.nodes.dtype)),
        roots=(*law.roots, root),
        is_normal=False,
    )
