"""Keys of all kinds, populations, and shardings: none of them changes a value."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jinit
from jinit.plans.draw import keys_of

from .drawing import KEY, drawn, name, same, user_init
from .uses import kernel

MEMBERS = [jinit.he_normal(), jinit.orthogonal(), jinit.ones, user_init]


@pytest.mark.parametrize("init", MEMBERS, ids=name)
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_a_population_is_so_many_single_draws(init, impl):
    keys = jax.random.split(jax.random.key(5, impl=impl), 3)
    facts = {"in_axes": (1,), "out_axes": (2,), "batch_axes": (0,), "scan_axes": (0,), "steps": (1,)}
    use = kernel("w", (2, 8, 4), **facts)
    whole = drawn(init, use, keys)
    assert whole.shape == (3, 2, 8, 4)
    for member in (0, 2):
        same(whole[member], drawn(init, use, keys[member]))


def test_keys_of_all_kinds():
    typed, raw = (
        drawn(jinit.he_normal(), kernel()),
        drawn(jinit.he_normal(), kernel(), jax.random.key_data(KEY)),
    )
    same(typed, raw)
    same(typed, drawn(jinit.he_normal(), kernel(), np.asarray(jax.random.key_data(KEY))))
    raws = jax.random.key_data(jax.random.split(KEY, 3))
    same(
        drawn(jinit.he_normal(), kernel(), raws), drawn(jinit.he_normal(), kernel(), jax.random.split(KEY, 3))
    )
    with jax.default_prng_impl("rbg"):
        rbg = jax.random.PRNGKey(0)
        assert rbg.shape == (4,)
        assert drawn(jinit.he_normal(), kernel(), rbg).shape == (8, 4)


@pytest.mark.parametrize(
    ("key", "error", "text"),
    [
        (0, TypeError, "got key=0"),
        (None, TypeError, "got key=None"),
        (jnp.zeros(2), TypeError, r"dtype float32 and shape \(2,\)"),
        (jnp.zeros(2, jnp.int32), TypeError, "dtype int32"),
        (jnp.zeros(3, jnp.uint32), ValueError, r"uint32 of shape \(3,\)"),
        (jnp.zeros((), jnp.uint32), ValueError, r"uint32 of shape \(\)"),
        (jnp.zeros((2, 2, 2), jnp.uint32), ValueError, r"keys of shape \(2, 2\)"),
        (jax.random.split(KEY, (2, 2)), ValueError, r"keys of shape \(2, 2\)"),
        (jax.random.split(KEY, 0), ValueError, r"keys of shape \(0,\)"),
    ],
)
def test_bad_keys(key, error, text):
    with pytest.raises(error, match=text):
        keys_of(key, caller="test")


SHARDED = [jinit.he_normal(), jinit.orthogonal(), user_init]


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("init", SHARDED, ids=name)
def test_the_same_values_for_every_mesh(init, cpus):
    if len(cpus) < 8:
        pytest.skip("needs eight CPU devices")
    use = kernel("w", (64, 32))
    whole, keys = drawn(init, use), jax.random.split(KEY, 4)
    members = drawn(init, use, keys)
    for sizes, spec in (((8,), ("x",)), ((2, 4), (None, ("x", "y")))):
        mesh = jax.make_mesh(
            sizes,
            ("x", "y")[: len(sizes)],
            devices=cpus,
            axis_types=(AxisType.Auto,) * len(sizes),
        )
        where = NamedSharding(mesh, PartitionSpec(*spec))
        found = drawn(init, use, sharding=where)
        assert found.sharding.is_equivalent_to(where, 2)
        same(jnp.asarray(np.asarray(found)), jnp.asarray(np.asarray(whole)))
    where = NamedSharding(mesh, PartitionSpec("y"))
    found = drawn(init, use, keys, where)
    assert found.sharding.is_equivalent_to(where, 3)
    same(jnp.asarray(np.asarray(found)), jnp.asarray(np.asarray(members)))
