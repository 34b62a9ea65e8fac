"""Names for the types that appear in signatures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

Array = jax.Array
Key = jax.Array
Shape = Sequence[int]
PyTree = Any
Activation = Callable[[Array], Array]


class Initializer(Protocol):
    """What Flax and JAX call an initializer: `(key, shape, dtype, out_sharding) -> Array`."""

    def __call__(
        self, key: Key, shape: Shape, dtype: DTypeLike | None = None, out_sharding: Any = None
    ) -> Array: ...


def at_least_float32(dtype: DTypeLike) -> jnp.dtype:
    """The dtype to compute in: floats and complex numbers of 32 bits or more as they are, else float32.

    `jnp.promote_types` would refuse to say under `jax_numpy_dtype_promotion="strict"`.
    """
    dtype = jnp.dtype(dtype)
    wide = jnp.issubdtype(dtype, jnp.inexact) and jnp.finfo(dtype).bits >= 32
    return dtype if wide else jnp.dtype(jnp.float32)
