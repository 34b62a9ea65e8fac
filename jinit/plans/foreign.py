"""Initializers that jinit does not know: `(key, shape, dtype) -> Array` of JAX, Flax or the user."""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Callable, Hashable
from typing import Any

import jax.numpy as jnp
from flax.core import meta

from jinit._errors import message
from jinit._typing import Array, Key

# Pure functions of what they have captured; those of a user may read what changes.
_LASTING = ("jax.", "flax.")


@dataclasses.dataclass(frozen=True)
class Foreign:
    """An initializer that jinit does not know.

    Two are equal that run the same code on equal captured values, as two `jax.nn.initializers.normal(0.02)`.

    Attributes:
      identity: what it is known by.
      function: the function.
    """

    identity: Hashable
    function: Callable[..., Any] = dataclasses.field(compare=False)

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Foreign:
        """The function, known by its code and what it has captured where that can be hashed."""
        identity = _identity(function)
        try:
            hash(identity)
        except TypeError:
            identity = id(function)
        return cls(identity, function)

    @property
    def lasting(self) -> bool:
        """Whether it draws the same for the same key for ever, so that its program may be kept."""
        module = str(getattr(self.function, "__module__", ""))
        return module.startswith(_LASTING) and not isinstance(self.identity, int)

    def draw(self, key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
        """What the function draws, out of its box.

        Raises:
          TypeError: it returns no array, or one of another kind.
          ValueError: it returns an array of another shape.
        """
        given = (key, shape, dtype)[: _places(self.function)]
        drawn = meta.unbox(self.function(*given))
        caller, got = "jinit.init(...)", f"{drawn!r}"
        if not hasattr(drawn, "shape") or not hasattr(drawn, "dtype"):
            raise TypeError(message(caller, f"{self.function!r} must return an array", got))
        if tuple(drawn.shape) != shape:
            must = f"{self.function!r} must return an array of the shape asked for, {shape}"
            raise ValueError(message(caller, must, f"one of shape {drawn.shape}"))
        if drawn.dtype != dtype and not (
            jnp.issubdtype(drawn.dtype, jnp.floating) and jnp.issubdtype(dtype, jnp.floating)
        ):
            must = f"{self.function!r} must return an array of the dtype asked for, {dtype}"
            raise TypeError(message(caller, must, f"one of {drawn.dtype}"))
        return jnp.asarray(drawn).astype(dtype)


def _places(function: Callable[..., Any]) -> int:
    """How many of key, shape and dtype a function takes."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 3
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def _identity(value: Any) -> Hashable:
    """A plain function as its code and what it has captured; anything else as itself, with its type."""
    if not isinstance(value, types.FunctionType):
        return type(value), value
    cells = tuple(_identity(cell.cell_contents) for cell in value.__closure__ or ())
    defaults = tuple(map(_identity, value.__defaults__ or ()))
    keywords = tuple((name, _identity(v)) for name, v in (value.__kwdefaults__ or {}).items())
    return value.__code__, value.__module__, id(value.__globals__), cells, defaults, keywords
