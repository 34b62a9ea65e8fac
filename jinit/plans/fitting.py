"""Giving a pre-trained array the shape and dtype of a leaf of the model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jinit._typing import Array, at_least_float32
from jinit.plans.uses import WeightUse

Fit = Callable[[Any, Any, WeightUse | None], tuple[Any, str]]
_KINDS = (jax.dtypes.prng_key, jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating)


class UnfitError(Exception):
    """Why an array can't become a leaf: a plain fact, for the caller to put into its context."""


def kind(dtype: Any) -> Any:
    """What sort of number a dtype holds; casts stay inside one sort."""
    return next((k for k in _KINDS if jnp.issubdtype(dtype, k)), None)


def cast(value: Any, dtype: Any) -> Any:
    """`value` in another dtype of its kind.

    Raises:
      UnfitError: an integer or the size of a float is out of range.
    """
    if value.dtype == dtype:
        return value
    if kind(dtype) is jax.dtypes.prng_key:
        raise UnfitError("another kind of key")
    with np.errstate(over="ignore"):  # looked for below, and named
        new = value.astype(dtype)
    if isinstance(value, Tracer) or not value.size:
        return new
    if kind(dtype) is jnp.integer:
        inside = jnp.iinfo(dtype).min <= int(value.min()) and int(value.max()) <= jnp.iinfo(dtype).max
    elif float(jnp.finfo(dtype).max) < float(jnp.finfo(value.dtype).max):
        finite = np.isfinite if isinstance(value, np.ndarray) else jnp.isfinite
        inside = int(finite(new).sum()) == int(finite(value).sum())
    else:
        inside = True
    if not inside:
        raise UnfitError(f"its values do not fit into {jnp.dtype(dtype).name}")
    return new


def place(value: Any, leaf: Any) -> Any:
    """`value` where `leaf` lies: NumPy stays NumPy, and a sharding is kept."""
    if isinstance(value, Tracer) or isinstance(leaf, Tracer):
        return jnp.asarray(value)
    if isinstance(leaf, (np.ndarray, np.generic)):
        return np.array(value)
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(value, jax.Array):
        # A copy: JAX may else look at the memory of an array that its owner goes on to change.
        return jnp.array(value) if sharding is None else jax.device_put(value, sharding, may_alias=False)
    return value if sharding in (None, value.sharding) else jax.device_put(value, sharding)


def _slice(value: Any, leaf: Any, use: WeightUse | None) -> tuple[Any, str]:
    """The leading corner, values untouched."""
    del use
    _comparable("slice", value.shape, leaf.shape)
    if any(n < m for n, m in zip(value.shape, leaf.shape, strict=True)):
        raise UnfitError('"slice" needs at least as many entries on every axis')
    return value[tuple(slice(m) for m in leaf.shape)], ""


def _tile(value: Any, leaf: Any, use: WeightUse | None) -> tuple[Any, str]:
    """Cyclic copies; along a summed axis each is divided by how many of it there are."""
    _comparable("tile", value.shape, leaf.shape)
    _numeric("tile", value)
    if any(n > m or n == 0 for n, m in zip(value.shape, leaf.shape, strict=True)):
        raise UnfitError('"tile" needs at most as many entries on every axis, and at least one')
    summed, divided = _summed_axes(use), []
    new = value.astype(at_least_float32(value.dtype)) if summed else value
    for axis in _changed_axes(value, leaf):
        source = np.arange(leaf.shape[axis]) % value.shape[axis]
        new = new.take(source, axis=axis)
        if axis in summed:
            copies = np.bincount(source)[source].reshape([-1 if i == axis else 1 for i in range(new.ndim)])
            new = new / copies.astype(new.dtype)
            divided.append(axis)
    return _back(new, value), _divided(divided)


def _resize(value: Any, leaf: Any, use: WeightUse | None) -> tuple[Any, str]:
    """Linear interpolation along the axes that differ; along a summed axis the sum is kept."""
    _comparable("resize", value.shape, leaf.shape)
    if kind(value.dtype) is not jnp.floating:
        raise UnfitError('"resize" needs a real floating dtype')
    if 0 in value.shape:
        raise UnfitError('"resize" needs at least one entry on every axis')
    changed = _changed_axes(value, leaf)
    if use is not None and use.role == "kernel":
        unordered = set(changed) & {*use.in_axes, *use.out_axes, *use.batch_axes}
        if unordered:
            raise UnfitError(f'"resize" is for ordered axes: axis {min(unordered)} counts units of a layer')
    wide = jnp.asarray(value, at_least_float32(value.dtype))
    new = jax.image.resize(wide, leaf.shape, "linear")
    divided = [axis for axis in changed if axis in _summed_axes(use)]
    for axis in divided:
        new = new * (value.shape[axis] / leaf.shape[axis])
    return _back(new, value), _scaled(divided)


FITS: dict[str, Fit] = {"slice": _slice, "tile": _tile, "resize": _resize}
DONE = {"slice": "sliced", "tile": "tiled", "resize": "resized"}


def convert(function: Callable[[Any, Any], Any], value: Any, leaf: Any) -> Array:
    """What the user's `function(value, leaf)` makes of it, checked.

    Raises:
      UnfitError: the result has another shape or kind of dtype.
    """
    new = function(value, leaf)
    if getattr(new, "shape", None) != leaf.shape or kind(getattr(new, "dtype", None)) != kind(leaf.dtype):
        raise UnfitError(f"the function returned {describe(new)}, not {describe(leaf)}")
    return new


def describe(leaf: Any) -> str:
    """`float32 (3, 4)` of an array, the type of anything else."""
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        return type(leaf).__name__
    return f"{getattr(leaf.dtype, 'name', leaf.dtype)} {tuple(leaf.shape)}"


def _comparable(policy: str, there: tuple[int, ...], here: tuple[int, ...]) -> None:
    if len(there) == len(here):
        return
    text = f'"{policy}" needs as many axes'
    if math.prod(there) == math.prod(here):
        text += "; with as many entries, a function `lambda value, leaf: value.reshape(leaf.shape)` may do"
    raise UnfitError(text)


def _numeric(policy: str, value: Any) -> None:
    if kind(value.dtype) is jax.dtypes.prng_key:
        raise UnfitError(f'"{policy}" is not for keys')


def _changed_axes(value: Any, leaf: Any) -> list[int]:
    return [i for i, (n, m) in enumerate(zip(value.shape, leaf.shape, strict=True)) if n != m]


def _summed_axes(use: WeightUse | None) -> set[int]:
    """Axes of a kernel over which products are summed: its inputs and its receptive field."""
    if use is None or use.role != "kernel" or use.fan_in is None:
        return set()
    others = {*use.out_axes, *use.batch_axes} - set(use.in_axes)
    return set(range(len(use.shape))) - others


def _divided(axes: list[int]) -> str:
    return f"divided by the number of copies on axis {', '.join(map(str, axes))}" if axes else ""


def _scaled(axes: list[int]) -> str:
    return f"scaled to keep the sum over axis {', '.join(map(str, axes))}" if axes else ""


def _back(new: Any, value: Any) -> Any:
    return new if new.dtype == value.dtype else new.astype(value.dtype)
