"""`measure` inside of the caller's own `shard_map`: each device has the statistics of its share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import jinit

PARAMS = [jax.random.normal(jax.random.key(i), (8, 8)) for i in range(3)]
X = jax.random.normal(jax.random.key(3), (4, 8))
LOSSES = {"random cotangents": None, "loss": lambda y: jnp.mean(y**2)}


def apply(params, x):
    for w in params:
        x = jax.nn.relu(x @ w)
    return x


@pytest.mark.parametrize("name", LOSSES)
def test_the_share_of_one_device(name, cpus):
    measure = jinit.measure(apply, loss=LOSSES[name])

    def share(params, x):
        return jax.tree.map(lambda a: a[None], measure(params, x)[1]["1"].cotangent)

    specs = (PartitionSpec(), PartitionSpec("x"))
    over = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,), devices=cpus[:2])
    run = jax.jit(jax.shard_map(share, mesh=over, in_specs=specs, out_specs=PartitionSpec("x")))
    found = run(PARAMS, X)
    for i, half in enumerate((X[:2], X[2:])):
        expected = measure(PARAMS, half)[1]["1"].cotangent
        np.testing.assert_allclose(found.total_square[i], expected.total_square, rtol=1e-5)


@pytest.mark.slow
def test_gradients_of_a_weight_that_all_devices_hold(cpus):
    """In the network's own `shard_map` every device has a part of the gradient; the record has the whole."""
    over = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,), devices=cpus[:2])
    rows = PartitionSpec("x")
    run = jax.shard_map(apply, mesh=over, in_specs=(PartitionSpec(), rows), out_specs=rows)
    loss = LOSSES["loss"]
    _, records = jinit.measure(run, loss=loss)(PARAMS, X)
    gradients = jax.grad(lambda p: loss(run(p, X)))(PARAMS)
    found = [r.weight_gradient.second_moment for r in records.values()]
    np.testing.assert_allclose(found, [jnp.mean(g**2) for g in gradients], rtol=1e-4)
