"""jinit's initializers in the slots of Flax, linen and nnx."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jinit

KEY = jax.random.key(6)
INITS = [
    jinit.he_normal(),
    jinit.fan_in_uniform(),
    jinit.orthogonal(),
    jinit.sparse(0.5),
    jinit.for_activation("gelu"),
    jinit.positive(jinit.glorot_uniform()),
]
BIASES = [jinit.zeros, jinit.ones, jinit.constant(0.1), jinit.normal(), jinit.fan_in_uniform(fan=8)]


@pytest.mark.standard_promotion
@pytest.mark.parametrize("init", INITS, ids=str)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_linen_dense_and_conv(init, dtype):
    for layer, x in [
        (nn.Dense(6, kernel_init=init, param_dtype=dtype), jnp.ones((2, 8))),
        (nn.Conv(6, (3, 3), kernel_init=init, param_dtype=dtype), jnp.ones((1, 5, 5, 8))),
    ]:
        kernel = jax.eval_shape(layer.init, KEY, x)["params"]["kernel"]
        assert kernel.dtype == dtype


@pytest.mark.parametrize("bias_init", BIASES, ids=str)
def test_linen_bias(bias_init):
    params = nn.Dense(6, kernel_init=jinit.he_normal(), bias_init=bias_init).init(KEY, jnp.ones((2, 8)))[
        "params"
    ]
    theirs = nn.Dense(6, kernel_init=nn.initializers.he_normal()).init(KEY, jnp.ones((2, 8)))["params"]
    np.testing.assert_array_equal(params["kernel"], theirs["kernel"])
    assert params["bias"].shape == (6,)


def test_linen_partitioning_embedding_and_lstm():
    partitioned = nn.with_partitioning(jinit.orthogonal(), ("data", None))
    boxed = nn.Dense(6, kernel_init=partitioned).init(KEY, jnp.ones((2, 8)))["params"]["kernel"]
    assert (boxed.names, boxed.value.shape) == (("data", None), (8, 6))
    table = jinit.variance_scaling(1.0, "fan_in", "normal", in_axis=1, out_axis=0)
    ours = nn.Embed(50, 16, embedding_init=table).init(KEY, jnp.zeros(3, jnp.int32))
    theirs = nn.Embed(50, 16).init(KEY, jnp.zeros(3, jnp.int32))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    cell = nn.OptimizedLSTMCell(4, kernel_init=jinit.lecun_normal(), recurrent_kernel_init=jinit.orthogonal())
    shapes = jax.eval_shape(lambda key: nn.RNN(cell).init(key, jnp.ones((2, 5, 3))), KEY)
    assert len(jax.tree.leaves(shapes)) == 12


def test_nnx():
    init, rngs = jinit.orthogonal(), nnx.Rngs(0)
    assert nnx.Linear(8, 6, kernel_init=init, bias_init=jinit.zeros, rngs=rngs).kernel.shape == (8, 6)
    assert (
        nnx.Conv(8, 6, (3,), kernel_init=init, param_dtype=jnp.bfloat16, rngs=rngs).kernel.dtype
        == jnp.bfloat16
    )
    assert nnx.Embed(20, 8, embedding_init=init, rngs=rngs).embedding.shape == (20, 8)
    cell = nnx.LSTMCell(4, 6, kernel_init=init, recurrent_kernel_init=jinit.orthogonal(), rngs=rngs)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(nnx.state(cell, nnx.Param)))


def test_nnx_gives_the_values_of_jax():
    ours = nnx.Linear(8, 6, kernel_init=jinit.lecun_normal(), rngs=nnx.Rngs(0)).kernel[...]
    np.testing.assert_array_equal(ours, nnx.Linear(8, 6, rngs=nnx.Rngs(0)).kernel[...])
