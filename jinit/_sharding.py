"""Arrays whose type says how they are sharded, as under a mesh with explicit axes."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from jinit._typing import Array


def is_sharded(x: Any) -> bool:
    """Whether the type of an array says that it is sharded, so that not every reshape has a meaning."""
    return any(axis is not None for axis in jax.typeof(x).sharding.spec)


def whole(x: Array) -> Array:
    """The same array, all of it on every device."""
    return jax.sharding.reshard(x, whole_like(x)) if is_sharded(x) else x


def whole_like(x: Any) -> NamedSharding | None:
    """As `out_sharding`: a result that is whole on every device of `x`; None where no type says so."""
    return NamedSharding(jax.typeof(x).sharding.mesh, PartitionSpec()) if is_sharded(x) else None


def sharded_like(x: Array, like: Any) -> Array:
    """`x`, sharded as another array of its shape is."""
    return jax.sharding.reshard(x, jax.typeof(like).sharding) if is_sharded(like) else x


def on_this_mesh(x: Array) -> Array:
    """`x`, made under a mesh with other kinds of axes, as one of the mesh that is in use, whole on it."""
    mesh, here = jax.typeof(x).sharding.mesh, jax.sharding.get_abstract_mesh()
    if mesh.empty or here.empty or mesh == here:
        return x
    return jax.sharding.reshard(x, NamedSharding(here, PartitionSpec()))
