"""Masks: which entries count, and numbers that stand for minus infinity."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence

import jax.numpy as jnp
import numpy as np

from jinit._typing import Array
from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.classes import by_paths
from jinit.signals.laws.law import Law, node_dtype
from jinit.signals.laws.mixing import Mixing
from jinit.signals.laws.roots import MASK, PLACE, Places, Root

# What is this low stands for minus infinity, as in `where(mask, scores, -1e9)`: softmax makes nothing of it.
LOW = -5e3
# What laws hold for it. Its square overflows, so that nobody matches moments; the sum of several does not.
MASKED = float(np.finfo(np.float32).min) / 16
# Classes of rows of which about as much is kept, and of entries whose sums differ that much, at most.
ROWS = 6
# Of larger masks it is not known which positions they have in common.
LARGEST = 2**24


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


def is_even(x: Array) -> bool:
    """Whether all entries of an array are equal, as those of a mask that keeps everything, or nothing."""
    return not is_traced(x) and (not x.size or bool(np.asarray(x == x.reshape(-1)[0]).all()))


def without_repeats(x: Array) -> Array:
    """The array, of one entry along axes along which all are the same, as of a mask that was broadcast."""
    for i in (i for i, n in enumerate(x.shape) if n > 1 and not is_traced(x)):
        first = xp.take(x, np.asarray([0]), axis=i)
        x = first if bool(np.all(np.asarray(x == first))) else x
    return x


def of_mask(x: Array, shape: Sequence[int]) -> Law:
    """The law of truth values: how many of each row along the last axis hold, and which of them do."""
    grid, weights, roots = _grid(without_repeats(x))
    return Law(grid <= 1, weights, roots, tuple(shape), jnp.dtype(bool))


def of_masked(x: Array, shape: Sequence[int]) -> Law:
    """The law of an array some entries of which stand for minus infinity, the others being any numbers."""
    values = np.asarray(without_repeats(x), node_dtype(x.dtype))
    grid, weights, roots = _grid(xp.asarray(values > LOW))
    kept = np.quantile(values[values > LOW], np.clip(grid, 0, 1)).astype(values.dtype)
    nodes = np.where(np.asarray(grid) <= 1, kept, values.dtype.type(MASKED))
    return Law(xp.asarray(nodes), weights, roots, tuple(shape), jnp.dtype(x.dtype))


def _grid(kept: Array) -> tuple[Array, tuple[Array, ...], tuple[Root, ...]]:
    """Places in a row, as shares of what is kept in it: up to one they are kept. By row, and within it.

    Rows are put together in `ROWS` groups. A group has the harmonic mean of its shares, since a softmax over
    n entries gives each 1/n; places are parted just where a group's share ends.
    """
    varying = tuple(i for i, n in enumerate(kept.shape) if n > 1)
    *outer, inner = varying
    name = _name_of(kept)
    share = xp.mean(kept.astype(jnp.float32), axis=inner).reshape(-1)
    if is_traced(kept):  # which rows keep as much is not known
        groups = [np.arange(share.size)]
    else:
        groups = _groups(np.asarray(share) * kept.shape[inner])
    shares = xp.stack([_harmonic_mean(share[group]) for group in groups])
    one, nothing = xp.ones((1,), jnp.float32), xp.zeros((1,), jnp.float32)
    ends = xp.concatenate([nothing, shares, one])
    middle, width = (ends[1:] + ends[:-1]) / 2, ends[1:] - ends[:-1]
    own = Root((name, 1), frozenset(varying), MASK, mixing=_mixing(kept, varying))
    tiny = xp.asarray(jnp.finfo(jnp.float32).tiny, jnp.float32)
    if not outer:
        return middle / xp.maximum(shares[0], tiny), (width,), (own,)
    part = xp.asarray([len(group) / share.size for group in groups], jnp.float32)
    row = Root((name, 0), frozenset(outer), MASK)
    if own.mixing is not None:
        row = Root(PLACE, row.axes, PLACE, places=_places(groups, shares))
    grid = middle[None] / xp.maximum(shares[:, None], tiny)
    nowhere = xp.full_like(grid, 2)  # in a row of which nothing is kept
    return xp.where(shares[:, None] > 0, grid, nowhere), (part, width), (row, own)


def _groups(counts: np.ndarray) -> list[np.ndarray]:
    """Rows of which about as much is kept, the least first: by what deviation a mean over them has."""
    some = np.flatnonzero(counts)
    found = np.asarray(by_paths(1 / np.sqrt(counts[some])[:, None], ROWS).of) if some.size else some
    groups = [some[found == k] for k in np.unique(found)]
    nothing = [np.flatnonzero(counts == 0)] if some.size < counts.size else []
    return nothing + sorted(groups, key=lambda group: counts[group].mean())


def _places(groups: Sequence[np.ndarray], shares: Array) -> Places:
    """Rows along the one axis that they have, each of the class of its group."""
    of = np.empty(sum(map(len, groups)), int)
    for k, group in enumerate(groups):
        of[group] = k
    relative = np.asarray(shares) / np.mean(shares)
    return Places(tuple(of.tolist()), tuple((float(x),) for x in relative))


def _name_of(kept: Array) -> Hashable:
    """The same for all masks that keep the same, in each block of a transformer, if it is known what."""
    shape = tuple(n for n in kept.shape if n > 1)
    if is_traced(kept):
        return (MASK, shape, id(kept))
    rows = np.asarray(kept, bool)
    return (MASK, shape, hashlib.sha1(np.packbits(rows).tobytes()).hexdigest())


def _mixing(kept: Array, varying: Sequence[int]) -> Mixing | None:
    """The shares of what is kept in each row, of one matrix of positions; of nothing, all alike."""
    if len(varying) != 2 or varying[1] - varying[0] != 1 or kept.size > LARGEST or is_traced(kept):
        return None
    rows = np.asarray(kept, np.float32).reshape([kept.shape[i] for i in varying])
    rows = np.where(rows.any(axis=1, keepdims=True), rows, 1.0)
    counts = rows.sum(axis=1)
    return Mixing.of((varying[0], varying[1]), rows / counts[:, None], counts)


def _harmonic_mean(x: Array) -> Array:
    tiny = xp.asarray(jnp.finfo(jnp.float32).tiny, jnp.float32)
    return xp.where(x[0] > 0, 1 / xp.mean(1 / xp.maximum(x, tiny)), xp.mean(x))


def middles(count: int, size: int) -> np.ndarray:
    """Indices that stand for `size` equal parts of `count` things."""
    return ((np.arange(size) + 0.5) * count / size).astype(int)
