"""Networks with units that can be followed into the weights that read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

import jinit
from tests.zoo import array
from tests.zoos.member import fill

CASES: dict[str, Callable[[], Any]] = {}
X, IMAGE, TEXT = array(5, 6), array(2, 8, 8, 2), array(2, 4, 6)


def case(make):
    """Enters `make() -> (apply, params, inputs, path of a kernel, shape of its units, path of a bias)`."""
    CASES[make.__name__] = make
    return make


def linen(call, x, path, *units):
    """A linen model written as one function; biases are made nonzero, scales not 1."""

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return call(x)

    params = fill(jax.eval_shape(Model().init, jax.random.key(0), x))
    return Model().apply, params, (x,), f"params/{path}/kernel", units, f"params/{path}/bias"


@case
def dense():
    return linen(lambda x: nn.Dense(3)(nn.gelu(nn.Dense(7, name="a")(x))), X, "a", 7)


@case
def one_unit():
    return linen(lambda x: nn.Dense(3)(nn.tanh(nn.Dense(1, name="a")(x))), X, "a", 1)


@case
def several_readers():
    def call(x):
        h = nn.relu(nn.Dense(7)(x))
        return nn.Dense(3)(h) + nn.tanh(nn.Dense(3)(h * h))

    return linen(call, X, "Dense_0", 7)


@case
def convolution_pooled_and_flattened():
    def call(x):
        h = nn.relu(nn.Conv(6, (3, 3))(x))
        h = nn.avg_pool(nn.max_pool(h, (2, 2), (2, 2)), (2, 2), (1, 1))
        return nn.Dense(3)(h.transpose(0, 3, 1, 2).reshape(2, -1))

    return linen(call, IMAGE, "Conv_0", 6)


@case
def convolution_to_grouped_convolution():
    def call(x):
        return nn.Conv(8, (3, 3), feature_group_count=2)(nn.silu(nn.Conv(6, (1, 1), name="a")(x))).mean(
            (1, 2)
        )

    return linen(call, IMAGE, "a", 6)


@case
def grouped_to_depthwise_convolution():
    def call(x):
        h = nn.relu(nn.Conv(6, (3, 3), feature_group_count=2)(x))
        return nn.Conv(12, (3, 3), feature_group_count=6)(h).mean((1, 2))

    return linen(call, IMAGE, "Conv_0", 6)


@case
def global_pooling_and_dropout():
    def call(x):
        h = nn.Dropout(0.5, deterministic=True)(nn.relu(nn.ConvTranspose(6, (3, 3), strides=(2, 2))(x)))
        return nn.Dense(3)(h.max((1, 2)))

    return linen(call, IMAGE, "ConvTranspose_0", 6)


@case
def concatenated_and_split():
    def call(x):
        h = jnp.concatenate([x, nn.relu(nn.Dense(7)(x)), x], -1)
        left, right = jnp.split(jnp.flip(h, -1), [9], -1)
        return nn.Dense(3)(left) * nn.Dense(3)(right[:, ::-1])

    return linen(call, X, "Dense_0", 7)


@case
def gate():
    return linen(lambda x: nn.Dense(3)(nn.silu(nn.Dense(7, name="a")(x)) * nn.Dense(7)(x)), X, "a", 7)


@case
def heads_of_values():
    def call(x):
        query, key, value = (nn.DenseGeneral((3, 5))(x) for _ in range(3))
        return nn.DenseGeneral(6, axis=(-2, -1))(nn.dot_product_attention(query, key, value))

    return linen(call, TEXT, "DenseGeneral_2", 3, 5)


@case
def token_mixing():
    """The units are channels; the next layer mixes positions, and the one after channels."""

    def call(x):
        h = nn.relu(nn.Dense(7)(x)).transpose(0, 2, 1)
        return nn.Dense(3)(nn.Dense(4, use_bias=False)(h).transpose(0, 2, 1))

    return linen(call, TEXT, "Dense_0", 7)


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return x + nn.Dense(6)(nn.relu(nn.Dense(7, name="a")(x))), None


@case
def scan():
    def call(x):
        stack = nn.scan(Inner, {"params": 0}, split_rngs={"params": True}, length=4)
        return stack(name="stack")(x, None)[0]

    return linen(call, X, "stack/a", 4, 7)


@case
def remat():
    return linen(lambda x: nn.remat(Inner)(name="inner")(x)[0], X, "inner/a", 7)


@case
def experts():
    params = {"params": {"a": {"kernel": array(3, 6, 7)}, "b": array(3, 7, 2), "bias": array(3, 1, 7)}}

    def apply(params, x):
        p = params["params"]
        h = jax.nn.relu(jnp.einsum("bd,edf->ebf", x, p["a"]["kernel"]) + p["bias"])
        return jnp.einsum("ebf,efo->bo", h, p["b"])

    return apply, params, (X,), "params/a/kernel", (3, 7), "params/bias"


@case
def one_packed_vector_of_readers():
    """The outgoing weights are a slice of a fused kernel, reshaped and cast."""
    params = {"a": array(6, 7), "b": array(4, 14), "c": array(2, 4)}

    def apply(params, x):
        reader = params["b"].T.reshape(2, 7, 4)[1] * 2.0
        return jax.nn.relu(x @ params["a"]) @ reader @ params["c"].T

    return apply, params, (X,), "a", (7,), ""


@case
def weight_left():
    model = fill(eqx.nn.MLP(6, 2, 7, 2, key=jax.random.key(0)))
    return lambda m, x: jax.vmap(m)(x), model, (X,), "layers/1/weight", (7,), "layers/1/bias"


@case
def nnx_lists():
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(nnx.Linear(6, 7, rngs=rngs), nnx.relu, nnx.Linear(7, 2, rngs=rngs))
    apply, params = jinit.functional(model)
    return apply, params, (X,), "layers/0/kernel", (7,), "layers/0/bias"


@case
def branches():
    def call(x):
        h = nn.relu(nn.Dense(7)(x))
        h = jax.lax.cond(x.sum() > 0, lambda h: 2 * h, lambda h: jnp.tanh(h), h)
        return nn.Dense(3)(h)

    return linen(call, X, "Dense_0", 7)
