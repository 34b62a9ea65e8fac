"""Masks: which entries count, and numbers that stand for minus infinity."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import jax.numpy as jnp
import numpy as np

from jinit._typing import Array
from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.law import Law, node_dtype
from jinit.signals.laws.roots import MASK, Root

# What is this low stands for minus infinity, as in `where(mask, scores, -1e9)`: softmax makes nothing of it.
LOW = -5e3
# What laws hold for it. Its square overflows, so that nobody matches moments; the sum of several does not.
MASKED = float(np.finfo(np.float32).min) / 16
ROWS = 10


def marked(laws: Sequence[Law]) -> list[Law]:
    """The operands of a `select_n`, with `MASKED` for a constant that stands for minus infinity."""
    return [laws[0], *(_marked(x) for x in laws[1:])]


def _marked(law: Law) -> Law:
    if law.roots or not jnp.issubdtype(law.dtype, jnp.floating) or is_traced(law.nodes):
        return law
    low = np.asarray(law.nodes) <= LOW
    return Law(xp.full_like(law.nodes, MASKED), (), (), law.shape, law.dtype) if low.all() else law


def is_masked(x: Array) -> bool:
    """Whether some entries of an array, but not all, stand for minus infinity."""
    if not jnp.issubdtype(x.dtype, jnp.floating) or is_traced(x):
        return False
    low = np.asarray(x) <= LOW
    return bool(low.any() and not low.all())


def of_mask(x: Array, shape: Sequence[int], name: Hashable) -> Law:
    """The law of truth values: how many of each row along the last axis hold, and which of them do."""
    grid, weights, roots = _grid(x, name)
    return Law(grid <= 1, weights, roots, tuple(shape), jnp.dtype(bool))


def of_masked(x: Array, shape: Sequence[int], name: Hashable) -> Law:
    """The law of an array some entries of which stand for minus infinity, the others being any numbers."""
    values = np.asarray(x, node_dtype(x.dtype))
    grid, weights, roots = _grid(xp.asarray(values > LOW), name)
    kept = np.quantile(values[values > LOW], np.clip(grid, 0, 1)).astype(values.dtype)
    nodes = np.where(np.asarray(grid) <= 1, kept, values.dtype.type(MASKED))
    return Law(xp.asarray(nodes), weights, roots, tuple(shape), jnp.dtype(x.dtype))


def _grid(kept: Array, name: Hashable) -> tuple[Array, tuple[Array, ...], tuple[Root, ...]]:
    """Places in a row, as shares of what is kept in it: up to one they are kept. By row, and within it.

    Rows are put together in `ROWS` groups. A group has the harmonic mean of its shares, since a softmax over
    n entries gives each 1/n; places are parted just where a group's share ends.
    """
    varying = tuple(i for i, n in enumerate(kept.shape) if n > 1)
    *outer, inner = varying
    share = xp.sort(xp.mean(kept.astype(jnp.float32), axis=inner).reshape(-1))
    groups = np.array_split(np.arange(share.size), min(share.size, ROWS))
    shares = xp.stack([_harmonic_mean(share[group]) for group in groups])
    one, nothing = xp.ones((1,), jnp.float32), xp.zeros((1,), jnp.float32)
    ends = xp.concatenate([nothing, shares, one])
    middle, width = (ends[1:] + ends[:-1]) / 2, ends[1:] - ends[:-1]
    own = Root((name, 1), frozenset(varying), MASK)
    tiny = xp.asarray(jnp.finfo(jnp.float32).tiny, jnp.float32)
    if not outer:
        return middle / xp.maximum(shares[0], tiny), (width,), (own,)
    part = xp.asarray([len(group) / share.size for group in groups], jnp.float32)
    roots = (Root((name, 0), frozenset(outer), MASK), own)
    return middle[None] / xp.maximum(shares[:, None], tiny), (part, width), roots


def _harmonic_mean(x: Array) -> Array:
    tiny = xp.asarray(jnp.finfo(jnp.float32).tiny, jnp.float32)
    return xp.where(x[0] > 0, 1 / xp.mean(1 / xp.maximum(x, tiny)), xp.mean(x))


def middles(count: int, size: int) -> np.ndarray:
    """Indices that stand for `size` equal parts of `count` things."""
    return ((np.arange(size) + 0.5) * count / size).astype(int)
