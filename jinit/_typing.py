"""Names for the types that appear in signatures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
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
