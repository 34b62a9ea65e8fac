"""Tags on the entries of a value, and where an equation moves them.

A tag is a number from 0 up, -1 stands for none. Tags are held as a NumPy array with the axes of the value, of
length 1 along those where they do not vary, so that their size does not grow with the batch. Inside loops
come first the axes of the loops, of which there are `loops`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Tags = np.ndarray
Shape = tuple[int, ...]
NONE = -1


class NotFollowedError(Exception):
    """Why tags can't be followed further: a plain fact, for the caller to put into its context."""


def varies(tags: Tags, axis: int) -> bool:
    """Whether there are different tags along an axis."""
    return tags.shape[axis] > 1 and bool((tags != tags.take([0], axis)).any())


def compressed(tags: Tags) -> Tags:
    """The same tags, of length 1 along every axis where they don't vary."""
    for axis in range(tags.ndim):
        if tags.shape[axis] != 1 and not varies(tags, axis):
            tags = tags.take([0], axis) if tags.shape[axis] else tags
    return tags


def placed(tags: Tags, loops: int, places: Sequence[int | None], rank: int) -> Tags:
    """Tags of a value of another rank: axis i goes to `places[i]`; one that goes nowhere must not vary.

    Raises:
      NotFollowedError: tags vary along an axis that goes nowhere.
    """
    for axis, place in enumerate(places):
        if place is None and varies(tags, loops + axis):
            raise NotFollowedError("it is combined with other units")
    kept = [axis for axis, place in enumerate(places) if place is not None]
    dropped = tuple(loops + axis for axis, place in enumerate(places) if place is None)
    tags = tags[tuple(slice(0, 1) if i in dropped else slice(None) for i in range(tags.ndim))]
    tags = tags.squeeze(dropped)
    order = sorted(range(len(kept)), key=lambda i: places[kept[i]] or 0)
    tags = tags.transpose([*range(loops), *(loops + i for i in order)])
    shape = [1] * rank
    for i, axis in enumerate(order):
        shape[places[kept[axis]] or 0] = tags.shape[loops + i]
    return tags.reshape([*tags.shape[:loops], *shape])


def reshaped(tags: Tags, loops: int, before: Shape, after: Shape) -> Tags:
    """Tags after a reshape in row-major order."""
    if 0 in before:
        raise NotFollowedError("an array is empty")
    old = [i for i, size in enumerate(before) if size > 1]
    new = [i for i, size in enumerate(after) if size > 1]
    tags = tags.reshape([*tags.shape[:loops], *(tags.shape[loops + i] for i in old)])
    result = [1] * len(after)
    axis = loops
    while old:
        ins, outs = _block([before[i] for i in old], [after[i] for i in new])
        sizes = [1] * outs
        if any(size > 1 for size in tags.shape[axis : axis + ins]):
            full = [*tags.shape[:axis], *(before[i] for i in old[:ins]), *tags.shape[axis + ins :]]
            tags = np.broadcast_to(tags, full)
            sizes = [after[i] for i in new[:outs]]
        tags = tags.reshape([*tags.shape[:axis], *sizes, *tags.shape[axis + ins :]])
        for i, size in zip(new[:outs], sizes, strict=True):
            result[i] = size
        axis += outs
        old, new = old[ins:], new[outs:]
    return compressed(tags.reshape([*tags.shape[:loops], *result]))


def _block(old: Sequence[int], new: Sequence[int]) -> tuple[int, int]:
    """How many axes at the front of each are one another's entries."""
    i = j = 1
    while math.prod(old[:i]) != math.prod(new[:j]):
        if math.prod(old[:i]) < math.prod(new[:j]):
            i += 1
        else:
            j += 1
    return i, j


def _transpose(eqn: Any, tags: Tags, loops: int) -> Tags:
    return tags.transpose([*range(loops), *(loops + i for i in eqn.params["permutation"])])


def _reshape(eqn: Any, tags: Tags, loops: int) -> Tags:
    return reshaped(tags, loops, eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape)


def _broadcast(eqn: Any, tags: Tags, loops: int) -> Tags:
    return placed(tags, loops, eqn.params["broadcast_dimensions"], len(eqn.params["shape"]))


def _slice(eqn: Any, tags: Tags, loops: int) -> Tags:
    p = eqn.params
    steps = p["strides"] or [1] * len(p["start_indices"])
    cuts = list(map(slice, p["start_indices"], p["limit_indices"], steps))
    return _cut(tags, loops, cuts)


def _cut(tags: Tags, loops: int, cuts: Sequence[slice]) -> Tags:
    axes = range(loops, tags.ndim)
    whole = [slice(None)] * loops
    return tags[
        tuple(whole + [c if tags.shape[i] > 1 else slice(None) for i, c in zip(axes, cuts, strict=True)])
    ]


def _rev(eqn: Any, tags: Tags, loops: int) -> Tags:
    return np.flip(tags, tuple(loops + i for i in eqn.params["dimensions"]))


def _pad(eqn: Any, tags: Tags, loops: int) -> Tags:
    for axis, (low, high, between) in enumerate(eqn.params["padding_config"]):
        size = tags.shape[loops + axis]
        if size == 1 or (low, high, between) == (0, 0, 0):
            continue
        if low < 0 or high < 0:
            raise NotFollowedError("`pad` takes entries away")
        shape = list(tags.shape)
        shape[loops + axis] = low + high + size + (size - 1) * between
        wide = np.full(shape, NONE, tags.dtype)
        inside = slice(low, shape[loops + axis] - high, between + 1)
        wide[(*[slice(None)] * (loops + axis), inside)] = tags
        tags = wide
    return tags


def _dynamic_slice(eqn: Any, tags: Tags, loops: int) -> Tags:
    sizes = zip(eqn.params["slice_sizes"], eqn.invars[0].aval.shape, strict=True)
    return _still(tags, loops, [axis for axis, (part, whole) in enumerate(sizes) if part != whole])


def _gather(eqn: Any, tags: Tags, loops: int) -> Tags:
    """Whole slices are picked along axes on which tags don't vary."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    shape = eqn.invars[0].aval.shape
    part = [axis for axis, size in enumerate(sizes) if size != shape[axis] and axis not in gone]
    places = iter(numbers.offset_dims)
    to = [None if axis in gone else next(places) for axis in range(len(sizes))]
    return placed(_still(tags, loops, part), loops, to, len(eqn.outvars[0].aval.shape))


def _still(tags: Tags, loops: int, axes: Sequence[int]) -> Tags:
    """The tags, which must not vary along some axes."""
    if any(varies(tags, loops + axis) for axis in axes):
        raise NotFollowedError("it is combined with, or picked out of, other units")
    inside = {loops + axis for axis in axes}
    return tags[tuple(slice(0, 1) if i in inside else slice(None) for i in range(tags.ndim))]


def _reduce(eqn: Any, tags: Tags, loops: int) -> Tags:
    axes, rank = set(eqn.params["axes"]), len(eqn.invars[0].aval.shape)
    kept = iter(range(rank))
    return placed(tags, loops, [None if i in axes else next(kept) for i in range(rank)], rank - len(axes))


def _squeeze(eqn: Any, tags: Tags, loops: int) -> Tags:
    rank = len(eqn.invars[0].aval.shape)
    gone = {i % rank for i in eqn.params["dimensions"]}
    kept = iter(range(rank))
    return placed(tags, loops, [None if i in gone else next(kept) for i in range(rank)], rank - len(gone))


def _window(eqn: Any, tags: Tags, loops: int) -> Tags:
    shapes = zip(eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape, strict=True)
    moved = [before != after for before, after in shapes]
    sizes = eqn.params["window_dimensions"]
    return _still(tags, loops, [i for i, size in enumerate(sizes) if size > 1 or moved[i]])


def _along(eqn: Any, tags: Tags, loops: int) -> Tags:
    """Cumulative sums and sorting mix the entries along one axis."""
    p = eqn.params
    axis = p["axis"] if "axis" in p else p["dimension"]
    return _still(tags, loops, [axis])


Move = Callable[[Any, Tags, int], Tags]
# What makes one value of one operand, the first; further operands say where, or with what to fill.
MOVES: dict[str, Move] = {
    "transpose": _transpose,
    "reshape": _reshape,
    "broadcast_in_dim": _broadcast,
    "squeeze": _squeeze,
    "slice": _slice,
    "rev": _rev,
    "pad": _pad,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
}
MIXES: dict[str, Move] = {
    **dict.fromkeys(
        ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"), _reduce
    ),
    **dict.fromkeys(("argmax", "argmin"), _reduce),
    **dict.fromkeys(
        ("reduce_window_sum", "reduce_window_max", "reduce_window_min", "reduce_window"), _window
    ),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), _along),
}


def split(eqn: Any, tags: Tags, loops: int) -> list[Tags]:
    """Tags of every part of a split."""
    axis, start, parts = eqn.params["axis"], 0, []
    for size in eqn.params["sizes"]:
        cuts = [slice(None)] * (tags.ndim - loops)
        cuts[axis] = slice(start, start + size)
        parts.append(_cut(tags, loops, cuts))
        start += size
    return parts


def concatenated(eqn: Any, operands: Sequence[Tags | None], loops: int) -> Tags:
    """Tags of arrays laid side by side; None for one without tags."""
    axis = loops + eqn.params["dimension"]
    given = [tags for tags in operands if tags is not None]
    rank = given[0].ndim
    shape = np.broadcast_shapes(*([1 if i == axis else n for i, n in enumerate(t.shape)] for t in given))
    parts = []
    for tags, atom in zip(operands, eqn.invars, strict=True):
        size = atom.aval.shape[axis - loops]
        full = tuple(size if i == axis else n for i, n in enumerate(shape))
        parts.append(np.broadcast_to(np.full([1] * rank, NONE) if tags is None else tags, full))
    return compressed(np.concatenate(parts, axis))
