"""`measure` of arrays whose type tells how they are laid over devices, and of one device's share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jinit

PARAMS = [jax.random.normal(jax.random.key(i), (8, 8)) for i in range(3)]
X = jax.random.normal(jax.random.key(3), (4, 8))
LOSSES = {"random cotangents": None, "loss": lambda y: jnp.mean(y**2)}


def apply(params, x):
    for w in params:
        x = jax.nn.relu(x @ w)
    return x


def mesh(cpus, kind):
    if len(cpus) < 2:
        pytest.skip("needs several CPU devices")
    return jax.make_mesh((2,), ("x",), axis_types=(kind,), devices=cpus[:2])


@pytest.mark.parametrize("name", LOSSES)
def test_explicit_axes(name, cpus):
    measure = jinit.measure(apply, loss=LOSSES[name])
    over = mesh(cpus, AxisType.Explicit)
    with jax.set_mesh(over):
        params = jax.device_put(PARAMS, NamedSharding(over, PartitionSpec(None, None)))
        found = measure(params, jax.device_put(X, NamedSharding(over, PartitionSpec("x", None))))
    for a, b in zip(*map(jax.tree.leaves, (found, measure(PARAMS, X))), strict=True):
        np.testing.assert_allclose(np.asarray(a), b, rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_the_share_of_one_device(name, cpus):
    measure = jinit.measure(apply, loss=LOSSES[name])

    def share(params, x):
        return jax.tree.map(lambda a: a[None], measure(params, x)[1]["1"].cotangent)

    specs = (PartitionSpec(), PartitionSpec("x"))
    over = mesh(cpus, AxisType.Auto)
    run = jax.jit(jax.shard_map(share, mesh=over, in_specs=specs, out_specs=PartitionSpec("x")))
    found = run(PARAMS, X)
    for i, half in enumerate((X[:2], X[2:])):
        expected = measure(PARAMS, half)[1]["1"].cotangent
        np.testing.assert_allclose(found.total_square[i], expected.total_square, rtol=1e-5)
