"""`out_sharding` places every member and changes no value, in meshes of explicit and automatic axes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jinit

KEY = jax.random.key(4)
SHAPE = (16, 8)
MEMBERS = [
    jinit.zeros,
    jinit.constant(0.5),
    jinit.uniform(minval=-1.0),
    jinit.normal(mean=1.0),
    jinit.he_normal(),
    jinit.orthogonal(),
    jinit.delta_orthogonal(),
    jinit.identity(),
    jinit.sparse(nonzeros=3),
    jinit.positive(jinit.glorot_uniform()),
]
COMPLEX = [jinit.he_normal(), jinit.orthogonal()]


def mesh(cpus, kind):
    return jax.make_mesh((len(cpus),), ("x",), axis_types=(kind,), devices=cpus)


def placed(drawn, where):
    assert len(drawn.sharding.device_set) == len(where.mesh.devices.ravel())
    assert drawn.sharding.is_equivalent_to(where, drawn.ndim)


@pytest.fixture(autouse=True)
def _several(cpus):
    if len(cpus) < 2:
        pytest.skip("needs several CPU devices")


@pytest.mark.parametrize("init", MEMBERS, ids=str)
def test_explicit_mesh(init, cpus):
    dtype = jnp.bfloat16
    whole = init(KEY, SHAPE, dtype)
    with jax.set_mesh(mesh(cpus, AxisType.Explicit)):
        where = NamedSharding(jax.sharding.get_mesh(), PartitionSpec("x", None))
        for out_sharding in (PartitionSpec("x", None), where):
            drawn = init(KEY, SHAPE, dtype, out_sharding)
            placed(drawn, where)
            np.testing.assert_array_equal(drawn, whole)


@pytest.mark.parametrize("init", MEMBERS, ids=str)
def test_automatic_mesh_and_no_mesh(init, cpus):
    whole = init(KEY, SHAPE)
    where = NamedSharding(mesh(cpus, AxisType.Auto), PartitionSpec(None, "x"))
    drawn = init(KEY, SHAPE, out_sharding=where)
    placed(drawn, where)
    np.testing.assert_array_equal(drawn, whole)
    with jax.set_mesh(where.mesh):
        placed(init(KEY, SHAPE, out_sharding=PartitionSpec(None, "x")), where)
    apart = NamedSharding(mesh(cpus, AxisType.Explicit), PartitionSpec(None, "x"))
    placed(init(KEY, SHAPE, out_sharding=apart), apart)


@pytest.mark.parametrize("init", COMPLEX, ids=str)
def test_complex(init, cpus):
    whole = init(KEY, SHAPE, jnp.complex64)
    with jax.set_mesh(mesh(cpus, AxisType.Explicit)):
        where = NamedSharding(jax.sharding.get_mesh(), PartitionSpec("x", None))
        drawn = init(KEY, SHAPE, jnp.complex64, PartitionSpec("x", None))
        placed(drawn, where)
        np.testing.assert_allclose(drawn, whole, atol=64 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("init", [jinit.he_normal(), jinit.orthogonal()], ids=str)
def test_under_jit(init, cpus):
    whole = init(KEY, SHAPE)
    for kind in (AxisType.Auto, AxisType.Explicit):
        with jax.set_mesh(mesh(cpus, kind)):
            where = NamedSharding(jax.sharding.get_mesh(), PartitionSpec("x"))
            drawn = jax.jit(lambda key: init(key, SHAPE, out_sharding=PartitionSpec("x", None)))(KEY)
            placed(drawn, where)
            np.testing.assert_allclose(drawn, whole, atol=64 * np.finfo(np.float32).eps)
