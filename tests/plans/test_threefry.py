"""The written-out generator gives the numbers of JAX's own, in every function of `jax.random`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jinit.plans.threefry import written_out


def bits(dtype, shape=(3, 4)):
    return lambda key: jax.random.bits(key, shape, dtype)


FUNCTIONS = {
    "bits of a scalar": bits("uint32", ()),
    "bits of nothing": bits("uint32", (0, 3)),
    "bits": bits("uint32", (2, 3, 5)),
    "bytes": bits("uint8"),
    "short": bits("uint16"),
    "normal": lambda key: jax.random.normal(key, (7, 9)),
    "bfloat16": lambda key: jax.random.uniform(key, (7, 9), jnp.bfloat16),
    "fold_in": lambda key: jax.random.key_data(jax.random.fold_in(key, 77)),
    "split": lambda key: jax.random.key_data(jax.random.split(key, 3)),
    "permutation": lambda key: jax.random.permutation(key, 50),
    "vmap": jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 3), (4,))),
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_same_numbers(function):
    for seed in (0, 123456789):
        key = jax.random.key(seed)
        key = jax.random.split(key, 3) if function == "vmap" else key
        ours = jax.random.wrap_key_data(jax.random.key_data(key), impl=written_out())
        np.testing.assert_array_equal(FUNCTIONS[function](ours), FUNCTIONS[function](key))


def test_double_precision_and_the_other_way_to_count():
    key = jax.random.key(3)
    ours = jax.random.wrap_key_data(jax.random.key_data(key), impl=written_out())
    with jax.enable_x64(True):
        np.testing.assert_array_equal(bits("uint64")(ours), bits("uint64")(key))
    with jax.threefry_partitionable(False):
        np.testing.assert_array_equal(bits("uint32")(ours), bits("uint32")(key))
    assert (bits("uint32")(ours) != bits("uint32")(jax.random.key(4))).any()
