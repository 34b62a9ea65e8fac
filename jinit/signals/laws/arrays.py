"""The functions of `jax.numpy`, by NumPy wherever nothing is traced.

Laws are small arrays of many shapes. Compiling their arithmetic takes a thousand times as long as doing it,
so it is left to NumPy, and to JAX inside of `jax.jit` and of loops. `xp.name` is either `name`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def near(x: Any) -> Any:
    """An array as NumPy's, unless it is traced or holds keys."""
    if isinstance(x, jax.Array) and not isinstance(x, Tracer) and not _is_key(x):
        return np.asarray(x)
    return x


def at_hand(x: Any) -> Any:
    """An array as NumPy's, where that takes no transfer."""
    if not isinstance(x, jax.Array) or isinstance(x, Tracer) or not x.is_fully_addressable:
        return x
    return near(x) if all(device.platform == "cpu" for device in x.devices()) else x


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.extended)


def is_traced(x: Any) -> bool:
    """Whether the values of an array are not known."""
    return isinstance(x, Tracer)


def _of_jax(x: Any) -> bool:
    if isinstance(x, (list, tuple)):
        return any(map(_of_jax, x))
    return isinstance(x, Tracer) or (isinstance(x, jax.Array) and _is_key(x))


def _is_double(x: Any) -> bool:
    if isinstance(x, (list, tuple)):
        return any(map(_is_double, x))
    return getattr(x, "dtype", None) in (np.float64, np.complex128)


def _either(name: str) -> Callable[..., Any]:
    theirs, ours = getattr(jnp, name), getattr(np, name)
    if name in ("matmul", "einsum"):  # an accelerator would round the factors
        theirs = functools.partial(theirs, precision="highest")

    @functools.wraps(theirs)
    def call(*args: Any, **kwargs: Any) -> Any:
        if any(map(_of_jax, args)) or any(map(_of_jax, kwargs.values())):
            return theirs(*args, **kwargs)
        out = ours(*args, **kwargs)
        if out.dtype == np.float64 and not any(map(_is_double, args)) and not _asks_for_double(args, kwargs):
            return out.astype(np.float32)
        return out

    return call


def _asks_for_double(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    wanted = [x for x in (*args, *kwargs.values()) if isinstance(x, (np.dtype, type))]
    return any(np.dtype(x) == np.float64 for x in wanted)


class _Functions:
    """Either library's function of that name."""

    def mean(self, x: Any, axis: Any = None, *, keepdims: bool = False) -> Any:
        """The mean; NaN of no entries, without NumPy's warning."""
        total = self.sum(x, axis=axis, keepdims=keepdims)
        return total / np.asarray(x.size / max(total.size, 1), total.dtype)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = _either(name)
        setattr(self, name, function)
        return function


xp: Any = _Functions()


def largest_of(x: Any, axis: Any, *, keepdims: bool = False) -> Any:
    """The largest entry, as a number without derivative, such as what is subtracted before exponentials.

    The derivative of a maximum goes to the entries equal to it, divided by how many these are. Where XLA
    computes entries once for the maximum and again for the comparison, with other rounding, none is: `0 / 0`.
    """
    return xp.max(jax.lax.stop_gradient(x) if is_traced(x) else x, axis=axis, keepdims=keepdims)


def pick(x: Any, *indices: Any) -> Any:
    """`x[indices]`, whichever of them is traced."""
    return jnp.asarray(x)[indices] if _of_jax(indices) else x[indices]


def each(function: Callable[..., Any], *xs: Any) -> Any:
    """`function` of every `x[i]`, stacked."""
    if any(map(_of_jax, xs)):
        return jax.vmap(function)(*xs)
    return jax.tree.map(lambda *rows: np.stack(rows), *(function(*row) for row in zip(*xs, strict=True)))


def rows(function: Callable[[Any], Any], x: Any) -> Any:
    """`function` of every row along the last axis."""
    return each(function, x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)
