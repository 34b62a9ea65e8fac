"""Initializers that fill an array with given values: zeros, ones, a constant."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jinit._errors import message
from jinit.initializers import _arguments as arguments
from jinit.initializers._base import Initializer, maker, plain
from jinit.initializers._laws import Law, Mixture, Point


@dataclasses.dataclass(frozen=True, repr=False)
class Constant(Initializer):
    """Fills the array with a value; the key is ignored and may be None."""

    value: Any

    def _mean(self, shape):
        mean = self._filled(shape).mean()
        return complex(mean) if np.iscomplexobj(mean) else float(mean)

    def _variance(self, shape):
        filled = self._filled(shape)
        return float(np.mean(np.abs(filled - filled.mean()) ** 2))

    def _filled(self, shape):
        value = np.asarray(self.value)
        return value if value.ndim == 0 else np.broadcast_to(value, shape)

    def _result_dtype(self, dtype):
        return arguments.any_dtype(self.caller, dtype)

    def _consumable(self, key):
        return key

    def _check(self, shape):
        if arguments.traced(self.value):
            return
        given = np.shape(self.value)
        try:
            fits = np.broadcast_shapes(given, shape) == shape
        except ValueError:
            fits = False
        if not fits:
            must = "`value` must broadcast to `shape`"
            raise ValueError(message(self.caller, must, f"value of shape {given}, {shape=}"))

    def _rounded(self, key, shape, dtype, out_sharding):
        if not arguments.traced(self.value):
            self._check_range(dtype)
        value = np.asarray(self.value) if isinstance(self.value, tuple) else self.value
        return jax.nn.initializers.constant(value)(key, shape, dtype, out_sharding)

    def _check_range(self, dtype):
        value = np.asarray(self.value)
        if not jnp.issubdtype(dtype, jnp.floating) or not np.isrealobj(value):
            return
        if np.any(np.isfinite(value) & (np.abs(value) > float(jnp.finfo(dtype).max))):
            raise ValueError(
                message(self.caller, f"`value` must fit into {jnp.dtype(dtype)}", f"value={self.value!r}")
            )

    def _law(self, shape) -> Law:
        values = collections.Counter(float(value) for value in self._filled(shape).ravel())
        if len(values) == 1:
            return Point(next(iter(values)))
        return Mixture(tuple((n / values.total(), Point(value)) for value, n in sorted(values.items())))


class Zeros(Constant):
    """Zeros: itself an initializer, as in JAX.

    Args:
      key: ignored, may be None.
      shape: the shape of the result.
      dtype: any dtype, also an integer one; by default JAX's floating dtype.
      out_sharding: where to put the result.

    Returns:
      An array of zeros.

    Raises:
      TypeError: if `shape` is not made of whole numbers.

    Example:
      >>> import jax, jinit
      >>> jinit.zeros(jax.random.key(0), (3,))
      Array([0., 0., 0.], dtype=float32)
      >>> jinit.zeros == jinit.zeros_init()
      True
    """


class Ones(Constant):
    """Ones: itself an initializer, as in JAX.

    Args:
      key: ignored, may be None.
      shape: the shape of the result.
      dtype: any dtype, also an integer one; by default JAX's floating dtype.
      out_sharding: where to put the result.

    Returns:
      An array of ones.

    Raises:
      TypeError: if `shape` is not made of whole numbers.

    Example:
      >>> import jax, jinit
      >>> jinit.ones(jax.random.key(0), (3,))
      Array([1., 1., 1.], dtype=float32)
      >>> jinit.ones == jinit.ones_init()
      True
    """


zeros = Zeros(0.0, maker="zeros", call="jinit.zeros")
ones = Ones(1.0, maker="ones", call="jinit.ones")


def zeros_init() -> Zeros:
    """`jinit.zeros`, under the name Flax has for it.

    Returns:
      An initializer.

    Example:
      >>> import jinit
      >>> jinit.zeros_init()
      jinit.zeros
    """
    return zeros


def ones_init() -> Ones:
    """`jinit.ones`, under the name Flax has for it.

    Returns:
      An initializer.

    Example:
      >>> import jinit
      >>> jinit.ones_init()
      jinit.ones
    """
    return ones


@maker
def constant(value: Any, dtype: Any = None) -> Constant:
    """Fills the array with a value.

    Args:
      value: a number, or an array or nested sequence that broadcasts to the shape; it may be a traced value.
      dtype: the dtype where the call names none.

    Returns:
      An initializer. Its `mean(shape)` and `variance(shape)` are those of the entries of the filled array, so
      the variance is 0.0 for a number.

    Raises:
      TypeError: if the value is no number or array of numbers.
      ValueError: at the call, if the value does not broadcast to the shape or overflows the dtype.

    Example:
      >>> import jax, jinit
      >>> jinit.constant(-7.0)(jax.random.key(0), (2,))
      Array([-7., -7.], dtype=float32)
      >>> jinit.constant((1.0, 3.0)).variance((5, 2))
      1.0
    """
    caller = "jinit.constant(...)"
    if not arguments.traced(value):
        try:
            value = plain(value)
            numeric = np.asarray(value).dtype.kind in "bifuc"
        except (TypeError, ValueError):
            numeric = False
        if not numeric:
            raise TypeError(
                message(caller, "`value` must be a number or an array of numbers", f"value={value!r}")
            )
    return Constant(value, dtype=arguments.stored_dtype(caller, dtype))
