"""Records are functions of the parameters like any other: their gradients against those of the formulas."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import jinit
from tests.zoo import array

X = array(16, 12)
STACK = array(3, 12, 12, seed=1) / 3


def loss(y):
    return jnp.mean(jnp.sin(y))


def unrolled(params, x):
    for w in params:
        x = jax.nn.relu(x @ w)
    return x


def stacked(params, x):
    return jax.lax.scan(lambda x, w: (jax.nn.relu(x @ w), None), x, params)[0]


def expected(params, field):
    """Mean square of a field at every layer, by the chain rule written out."""
    inputs, outputs, x = [], [], X
    for w in params:
        inputs.append(x)
        outputs.append(x @ w)
        x = jax.nn.relu(outputs[-1])
    cotangents, back = [], jnp.cos(x) / x.size
    for w, z in zip(params[::-1], outputs[::-1], strict=True):
        cotangents.insert(0, jnp.where(z > 0, back, 0))
        back = cotangents[0] @ w.T
    fields = {
        "input": inputs,
        "output": outputs,
        "cotangent": cotangents,
        "weight": list(params),
        "weight_gradient": [x.T @ c for x, c in zip(inputs, cotangents, strict=True)],
    }
    return jnp.stack([jnp.mean(v**2) for v in fields[field]])


@pytest.mark.parametrize("field", ["input", "output", "cotangent", "weight", "weight_gradient"])
@pytest.mark.parametrize("apply", [unrolled, stacked])
def test_gradients_of_records(apply, field):
    params = STACK if apply is stacked else list(STACK)
    shares = jnp.array([1.0, 2.0, -3.0])

    def found(params):
        records = jinit.measure(apply, loss=loss)(params, X)[1].values()
        squares = [getattr(r, field).second_moment for r in records]
        return shares @ jnp.stack(squares).reshape(-1)

    value, gradient = jax.value_and_grad(found)(params)
    wanted, slope = jax.value_and_grad(lambda p: shares @ expected(p, field))(STACK)
    np.testing.assert_allclose(value, wanted, rtol=1e-4)
    gradient = np.stack(list(gradient))
    np.testing.assert_allclose(gradient, slope, rtol=1e-3, atol=1e-4 * np.abs(slope).max())


def large(w):
    return jnp.stack([3 * jinit.Moments.of(w, stored=True).second_moment])


@pytest.mark.parametrize("over", [False, True], ids=["one device", "over devices"])
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.checkpoint], ids=["plain", "jit", "remat"])
def test_gradients_of_moments_of_what_is_large(transform, over, cpus):
    w = array(1024, 512)
    moments = large
    if over:
        mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,), devices=cpus[:2])
        moments = jax.shard_map(large, mesh=mesh, in_specs=PartitionSpec("x"), out_specs=PartitionSpec("x"))
    gradient = jax.grad(transform(lambda w: moments(w).sum()))(w)
    np.testing.assert_allclose(gradient, (2 if over else 1) * 6 * w / w.size, rtol=1e-5)
