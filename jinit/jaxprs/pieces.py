"""The axes of a value as pieces of the axes of an array that it was made from by moving entries.

An axis runs over *pieces*, the slowest first: a `(256, 8, 64)` kernel reshaped to `(256, 512)` has the
axes `({0}: 256)` and `({1}: 8, {2}: 64)`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Piece:
    """A run of entries along an axis: the stored axes it belongs to (none for repetition), and its length."""

    axes: frozenset[int]
    size: int


Axis = tuple[Piece, ...]
Axes = tuple[Axis, ...]


def whole(shape: Shape) -> Axes:
    """The axes of an array as it is stored."""
    return tuple((Piece(frozenset([i]), size),) for i, size in enumerate(shape))


def repeated(size: int) -> Axis:
    """An axis along which entries are repeated, or that has nothing to do with the stored array."""
    return (Piece(frozenset(), size),)


def stored_axes(axis: Axis) -> frozenset[int]:
    """The stored axes that an axis runs over."""
    return frozenset().union(*(piece.axes for piece in axis))


def resized(axis: Axis, size: int) -> Axis:
    """A part of an axis, or an axis that this one is a part of."""
    length = math.prod(piece.size for piece in axis)
    if size == length:
        return axis
    rest = math.prod(piece.size for piece in axis[1:])
    if rest and size % rest == 0:
        return (Piece(axis[0].axes, size // rest), *axis[1:])
    return (Piece(stored_axes(axis), size),)


def reshaped(axes: Axes, shape: Shape) -> Axes:
    """The axes after a reshape in row-major order."""
    pieces = [piece for axis in axes for piece in axis if piece.size != 1]
    result: list[Axis] = []
    for size in shape:
        taken: list[Piece] = []
        while math.prod(piece.size for piece in taken) < size and pieces:
            taken.append(_first(pieces, size // math.prod(piece.size for piece in taken)))
        if math.prod(piece.size for piece in taken) != size:
            # Cut across pieces: from here on all that is known is which axes are involved.
            rest = frozenset().union(*(p.axes for p in (*taken, *pieces)))
            left = shape[len(result) :]
            return (*result, *((Piece(rest, s),) for s in left))
        result.append(tuple(taken) or repeated(size))
    return tuple(result)


def _first(pieces: list[Piece], wanted: int) -> Piece:
    """Take from the front a piece of at most the wanted length, where its length can be split so."""
    piece = pieces.pop(0)
    if wanted > 0 and piece.size > wanted and piece.size % wanted == 0:
        pieces.insert(0, Piece(piece.axes, piece.size // wanted))
        return Piece(piece.axes, wanted)
    return piece


def _transpose(params: dict[str, Any], axes: Axes, before: Shape, shape: Shape) -> Axes:
    return tuple(axes[i] for i in params["permutation"])


def _reshape(params: dict[str, Any], axes: Axes, before: Shape, shape: Shape) -> Axes:
    # Inside `shard_map` an axis is shorter than the stored one.
    local = tuple(resized(axis, size) for axis, size in zip(axes, before, strict=True))
    return reshaped(local, shape)


def _squeeze(params: dict[str, Any], axes: Axes, before: Shape, shape: Shape) -> Axes:
    dropped = {i % len(axes) for i in params["dimensions"]}
    return tuple(axis for i, axis in enumerate(axes) if i not in dropped)


def _broadcast(params: dict[str, Any], axes: Axes, before: Shape, shape: Shape) -> Axes:
    result = [repeated(size) for size in shape]
    for axis, size, place in zip(axes, before, params["broadcast_dimensions"], strict=True):
        if size == shape[place]:
            result[place] = axis
    return tuple(result)


def _gather(params: dict[str, Any], axes: Axes, before: Shape, shape: Shape) -> Axes:
    numbers = params["dimension_numbers"]
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    kept = iter([axis for i, axis in enumerate(axes) if i not in gone])
    picked = frozenset().union(*(stored_axes(axes[i]) for i in gone))
    return tuple(
        resized(next(kept), size) if place in numbers.offset_dims else (Piece(picked, size),)
        for place, size in enumerate(shape)
    )


def _scatter(params: dict[str, Any], axes: Axes, before: Shape, shape: Shape) -> Axes:
    """Of what is written into, or of what is written: some axes of it are its places along others."""
    if before == shape:
        return axes
    numbers = params["dimension_numbers"]
    window = iter([axes[i] for i in numbers.update_window_dims])
    places = frozenset().union(
        *(stored_axes(axis) for i, axis in enumerate(axes) if i not in numbers.update_window_dims)
    )
    gone = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    return tuple(
        (Piece(places, size),) if i in gone else resized(next(window), size) for i, size in enumerate(shape)
    )


MOVES: dict[str, Callable[[dict[str, Any], Axes, Shape, Shape], Axes]] = {
    "transpose": _transpose,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "broadcast_in_dim": _broadcast,
    "gather": _gather,
    "scatter": _scatter,
}


def moved(kind: str, params: dict[str, Any], axes: Axes, before: Shape, shape: Shape) -> Axes | None:
    """The axes after one equation: moved by rule, else kept in place; None if they can't be followed.

    Args:
      kind: name of the primitive.
      params: its parameters.
      axes: of the operand.
      before: shape of the operand.
      shape: shape of the result.
    """
    if len(axes) != len(before):
        return None
    if rule := MOVES.get(kind):
        return rule(params, axes, before, shape)
    if len(shape) != len(axes):
        return None
    sizes = zip(axes, before, shape, strict=True)
    return tuple(axis if size == old else resized(axis, size) for axis, old, size in sizes)
