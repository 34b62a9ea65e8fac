"""JAX's default generator with its rounds written out: the same numbers, compiled and drawn faster.

On CPU, JAX lowers Threefry to a loop over its rounds, which XLA compiles in three times the time that the
rest of an initializer needs. Written out, they fuse with what is done to the bits.
"""

from __future__ import annotations

import functools
import math
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl

from jinit._typing import Array, Key

NAME = "threefry2x32"
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


def threefry_2x32(key: Array, high: Array, low: Array) -> tuple[Array, Array]:
    """The 20 rounds of the block cipher.

    Args:
      key: `[2]`, uint32.
      high: first words of the counters, uint32.
      low: second words, of the same shape.

    References:
      Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", 2011, figure 2.
    """
    words = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    x, y = high + words[0], low + words[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x = x + y
            y = x ^ (y << np.uint32(rotation) | y >> np.uint32(32 - rotation))
        x = x + words[(group + 1) % 3]
        y = y + words[(group + 2) % 3] + np.uint32(group + 1)
    return x, y


@functools.cache
def written_out() -> Any:
    """The generator, for `jax.random.wrap_key_data(data, impl=…)`."""
    return define_prng_impl(
        key_shape=(2,),
        seed=_seed,
        split=_split,
        random_bits=_bits,
        fold_in=_fold_in,
        name=f"{NAME}_written_out",
    )


def _bits(key: Array, width: int, shape: tuple[int, ...]) -> Array:
    """Random bits, those of counters 0, 1, 2, …; where JAX counts in another way, or further, its own."""
    size, config = math.prod(shape), cast(Any, jax.config)
    if width != 32 or size >= 2**32 or not config.jax_threefry_partitionable:
        return jax.random.bits(_of_jax(key), shape, f"uint{width}")
    # An iota of the whole shape, axis by axis, so that it can be computed in pieces where it is sharded.
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    count = jnp.zeros(shape, jnp.uint32)
    for axis, stride in enumerate(strides):
        count = count + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(stride)
    high, low = threefry_2x32(key, jnp.zeros(shape, jnp.uint32), count)
    return high ^ low


def _fold_in(key: Array, data: Any) -> Array:
    word = jnp.asarray(data, jnp.uint32)
    return jnp.stack(threefry_2x32(key, jnp.zeros_like(word), word))


def _split(key: Array, shape: tuple[int, ...]) -> Array:
    return jax.random.key_data(jax.random.split(_of_jax(key), shape))


def _seed(seed: Array) -> Array:
    return jax.random.key_data(jax.random.key(seed, impl=NAME))


def _of_jax(key: Array) -> Key:
    return jax.random.wrap_key_data(key, impl=NAME)
