"""Checks on what the caller wrote; every failure says what must hold, what came and what to write instead."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jinit._errors import message

Axes = int | tuple[int, ...]


def traced(value: Any) -> bool:
    """Whether this is a value of a function under a JAX transformation."""
    return isinstance(value, Tracer)


def number(caller: str, name: str, value: Any, *, minimum: float = -math.inf, finite: bool = True) -> Any:
    """A real Python float, or a tracer as it came: JAX allows a traced scale, so jinit does too."""
    if traced(value):
        return value
    if isinstance(value, (bool, np.bool_, str, bytes)) or np.ndim(value) != 0:
        raise TypeError(message(caller, f"`{name}` must be a real number", f"{name}={value!r}"))
    try:
        result = float(value)
    except (TypeError, ValueError):
        raise TypeError(message(caller, f"`{name}` must be a real number", f"{name}={value!r}")) from None
    if math.isnan(result) or (finite and math.isinf(result)):
        must = f"`{name}` must be finite" if finite else f"`{name}` must not be NaN"
        raise ValueError(message(caller, must, f"{name}={result!r}"))
    if result < minimum:
        limit = "must not be negative" if minimum == 0 else f"must be at least {minimum!r}"
        raise ValueError(message(caller, f"`{name}` {limit}", f"{name}={result!r}", "Drop the sign."))
    return result


def positive_number(caller: str, name: str, value: Any) -> float:
    """A real number greater than zero."""
    result = number(caller, name, value)
    if result <= 0:
        raise ValueError(message(caller, f"`{name}` must be positive", f"{name}={result!r}"))
    return result


def ordered(caller: str, **ends: Any) -> None:
    """The first of two ends below the second, unless one of them is traced."""
    (low_name, low), (high_name, high) = ends.items()
    if not any(traced(end) for end in (low, high)) and not low < high:
        got = f"{low_name}={low!r}, {high_name}={high!r}"
        raise ValueError(message(caller, f"`{low_name}` must be less than `{high_name}`", got))


def fraction(caller: str, name: str, value: Any) -> float:
    """A number strictly between 0 and 1."""
    result = number(caller, name, value, finite=False)
    if not 0 < result < 1:
        raise ValueError(message(caller, f"`{name}` must lie strictly between 0 and 1", f"{name}={result!r}"))
    return result


def count(caller: str, name: str, value: Any) -> int:
    """A whole number of at least one."""
    try:
        result = operator.index(value)
    except TypeError:
        raise TypeError(message(caller, f"`{name}` must be a whole number", f"{name}={value!r}")) from None
    if isinstance(value, (bool, np.bool_)) or result < 1:
        raise ValueError(
            message(caller, f"`{name}` must be a whole number of at least 1", f"{name}={value!r}")
        )
    return result


def choice(caller: str, name: str, value: Any, options: Sequence[str]) -> str:
    """One of `options`; a near miss is answered with the name that was meant."""
    if isinstance(value, str) and value in options:
        return value
    near = difflib.get_close_matches(value, options, n=1) if isinstance(value, str) else []
    advice = f"Did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(repr(option) for option in options)
    raise ValueError(message(caller, f"`{name}` must be one of {listed}", f"{name}={value!r}", advice))


def axes(caller: str, name: str, value: Any) -> Axes:
    """An axis or a tuple of different axes; one axis is always the plain int."""
    try:
        if isinstance(value, (bool, str)):
            raise TypeError
        listed = tuple(operator.index(axis) for axis in (value if isinstance(value, Sequence) else (value,)))
    except TypeError:
        must = f"`{name}` must be an axis or a sequence of axes"
        raise TypeError(message(caller, must, f"{name}={value!r}")) from None
    if len(set(listed)) != len(listed):
        raise ValueError(message(caller, f"`{name}` must not name an axis twice", f"{name}={value!r}"))
    return listed[0] if len(listed) == 1 else listed


def as_tuple(value: Axes) -> tuple[int, ...]:
    """One axis or several as a tuple."""
    return (value,) if isinstance(value, int) else value


def roles(caller: str, **given: Any) -> tuple[Axes, ...]:
    """The axes of each role, checked; no axis in two roles."""
    checked = {name: axes(caller, name, value) for name, value in given.items()}
    disjoint(caller, **checked)
    return tuple(checked.values())


def disjoint(caller: str, **roles: Axes) -> None:
    """No axis in two roles, as far as this can be seen before a shape is known."""
    seen: dict[int, str] = {}
    for name, value in roles.items():
        for axis in as_tuple(value):
            if axis in seen:
                must = f"`{seen[axis]}` and `{name}` must be different axes"
                got = f"{seen[axis]}={roles[seen[axis]]!r}, {name}={value!r}"
                raise ValueError(message(caller, must, got))
            seen[axis] = name


def positions(caller: str, shape: tuple[int, ...], **roles: Axes) -> dict[str, tuple[int, ...]]:
    """The roles with every axis counted from the front of `shape`; no axis outside, none in two roles."""
    result, seen = {}, {}
    for name, value in roles.items():
        for axis in as_tuple(value):
            if not -len(shape) <= axis < len(shape):
                raise ValueError(
                    message(caller, f"`{name}` must be an axis of `shape`", f"{name}={value!r}, {shape=}")
                )
            place = axis % len(shape)
            if place in seen:
                must = f"`{seen[place]}` and `{name}` must be different axes"
                got = f"{seen[place]}={roles[seen[place]]!r}, {name}={value!r}, {shape=}"
                advice = "For an embedding table (vocabulary, features) write in_axis=1, out_axis=0."
                raise ValueError(message(caller, must, got, advice))
            seen[place] = name
        result[name] = tuple(axis % len(shape) for axis in as_tuple(value))
    return result


def static_shape(caller: str, shape: Any) -> tuple[int, ...]:
    """The shape as a tuple of Python ints."""
    try:
        if isinstance(shape, str) or any(isinstance(size, (bool, np.bool_)) for size in shape):
            raise TypeError
        result = tuple(operator.index(size) for size in shape)
    except TypeError:
        advice = "Write (n,) for a vector. Under `jax.jit` the shape must be a static argument."
        must = "`shape` must be a sequence of whole numbers"
        raise TypeError(message(caller, must, f"shape={shape!r}", advice)) from None
    if any(size < 0 for size in result):
        raise ValueError(message(caller, "`shape` must not have negative sizes", f"shape={result}"))
    return result


def single_key(caller: str, key: Any) -> Any:
    """One PRNG key, typed or raw."""
    dtype = getattr(key, "dtype", None)
    advice = "Make one with `jax.random.key(0)`."
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        batched = key.ndim > 0
    elif dtype == jnp.uint32 and getattr(key, "ndim", 0) > 0:
        batched = key.ndim > 1
    else:
        got = f"key={key!r}" if dtype is None else f"an array of dtype {dtype} and shape {np.shape(key)}"
        raise TypeError(message(caller, "`key` must be a JAX random key", got, advice))
    if batched:
        advice = "For one array per key write `jax.vmap(lambda key: init(key, shape))(keys)`."
        raise TypeError(message(caller, "`key` must be a single key", f"keys of shape {key.shape}", advice))
    return key


def stored_dtype(caller: str, dtype: Any) -> Any:
    """A dtype that compares by value; Python's `float` and `complex` stay, as JAX reads them by mode."""
    if dtype is None or dtype is float or dtype is complex:
        return dtype
    try:
        return jnp.dtype(dtype)
    except TypeError:
        raise TypeError(message(caller, "`dtype` must be a dtype", f"dtype={dtype!r}")) from None


def any_dtype(caller: str, dtype: Any) -> Any:
    """The dtype of the result, whatever it is."""
    if dtype is None or dtype is float or dtype is complex:
        return jnp.result_type(float if dtype is None else dtype)
    return stored_dtype(caller, dtype)


def sampled_dtype(caller: str, dtype: Any) -> Any:
    """The dtype of the result, which must hold zero, signs and fractions."""
    result = any_dtype(caller, dtype)
    if not jnp.issubdtype(result, jnp.inexact):
        raise TypeError(message(caller, "`dtype` must be a floating or complex dtype", f"dtype={result}"))
    if result.name == "float8_e8m0fnu":
        advice = "It is a format for scales of blocks; store weights in float8_e4m3fn."
        raise TypeError(
            message(caller, "`dtype` must hold zero and negative numbers", f"dtype={result}", advice)
        )
    return result
