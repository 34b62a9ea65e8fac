"""What a value of a program is known as: an array, a law, laws by step of a loop, or not at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jinit._typing import Array
from jinit.signals.laws.arrays import at_hand, xp
from jinit.signals.laws.law import Law

INPUTS, PARAMS = "inputs", "params"
# Of an array made of rows of which some come again.
PICKED = "picked"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Held:
    """An array computed from inputs alone, or from parameters alone, or from both entry by entry.

    Attributes:
      array: its entries; one entry along axes where they repeat.
      shape: its shape.
      source: what it is computed from.
    """

    array: Array
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    source: frozenset[str] = dataclasses.field(default=frozenset(), metadata={"static": True})

    @property
    def dtype(self) -> Any:
        """Dtype of the entries."""
        return self.array.dtype

    def whole(self) -> Array:
        """The array in full."""
        return self.array if self.array.shape == self.shape else xp.broadcast_to(self.array, self.shape)


class Variable:
    """An array as a variable: itself alone, whatever its entries."""

    def __init__(self, array: Array) -> None:
        self._array = array

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Variable) and self._array is other._array

    def __hash__(self) -> int:
        return id(self._array)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stacked:
    """Values of all steps of a loop: arrays in `step` have a leading axis of `length`."""

    step: Any
    length: int = dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Each:
    """Values of all steps of a short loop, each by itself."""

    steps: tuple[Any, ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Unknown:
    """A value that was not followed, why, and the primitive that stood in the way."""

    reason: str = dataclasses.field(metadata={"static": True})
    primitive: str = dataclasses.field(default="", metadata={"static": True})


Value = Held | Law | Stacked | Each | Unknown


def held(x: Any, *, source: frozenset[str] = frozenset()) -> Held:
    """An array as a value."""
    return Held(at_hand(x), tuple(np.shape(x)), source)


def is_weight(value: Value) -> bool:
    """Whether it is known by parameters alone."""
    return value.is_weight if isinstance(value, Law) else isinstance(value, Held) and value.source == {PARAMS}


def by_step(value: Stacked | Each, function: Callable[[Value], Any]) -> Any:
    """`function` of the value of every step, with a leading axis for the steps."""
    if isinstance(value, Stacked):
        return jax.vmap(function)(value.step)
    return jax.tree.map(_stack, *map(function, value.steps))


def _stack(*xs: Array) -> Array:
    """The arrays of all steps, floating if any of them is: numbers of entries are, where there is a law."""
    dtypes = [x.dtype for x in xs if jnp.issubdtype(x.dtype, jnp.inexact)] or [x.dtype for x in xs]
    return jnp.stack([jnp.asarray(x, max(dtypes, key=lambda d: d.itemsize)) for x in xs])
