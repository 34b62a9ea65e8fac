"""Linen layers and small networks made of them."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from tests.zoos.member import array, linen, member

X = array(3, 4)
IMAGE = array(2, 6, 6, 4)
TEXT = array(2, 5, 8)
IDS = jnp.array([[0, 1, 2, 6, 0], [3, 3, 1, 4, 5]])


@member("params/layers_0/kernel params/layers_2/kernel")
def mlp():
    return linen(nn.Sequential([nn.Dense(5), nn.relu, nn.Dense(3)]), X)


class Cnn(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(x)))
        return nn.Dense(2)(x.reshape(x.shape[0], -1))


@member("params/Conv_0/kernel params/Dense_0/kernel")
def cnn_train():
    return linen(Cnn(), IMAGE, train=True, mutable=["batch_stats"])


@member("params/Conv_0/kernel params/Dense_0/kernel")
def cnn_eval():
    return linen(Cnn(), IMAGE)


class ResidualBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.relu(nn.GroupNorm(2)(nn.Conv(8, (3, 3), (2, 2))(x)))
        y = nn.GroupNorm(2)(nn.Conv(8, (3, 3), use_bias=False)(y))
        return nn.relu(y + nn.Conv(8, (1, 1), (2, 2))(x))


@member("params/Conv_0/kernel params/Conv_1/kernel params/Conv_2/kernel")
def residual_block():
    return linen(ResidualBlock(), IMAGE)


def _one_conv(name, model):
    def make():
        return linen(model, IMAGE)

    make.__name__ = name
    member("params/kernel")(make)


_one_conv("conv_depthwise", nn.Conv(8, (3, 3), feature_group_count=4))
_one_conv("conv_grouped", nn.Conv(6, (3, 3), feature_group_count=2))
_one_conv("conv_dilated", nn.Conv(3, (3, 3), kernel_dilation=2, padding="VALID"))
_one_conv("conv_transposed", nn.ConvTranspose(3, (3, 3), (2, 2)))
_one_conv("conv_transposed_kernel", nn.ConvTranspose(3, (3, 3), (2, 2), transpose_kernel=True))
_one_conv("conv_local", nn.ConvLocal(3, (3, 3)))
_one_conv("conv_circular", nn.Conv(3, (3, 3), padding="CIRCULAR"))

ATTENTION = "params/query/kernel params/key/kernel params/value/kernel params/out/kernel"


@member(ATTENTION)
def attention():
    return linen(nn.MultiHeadDotProductAttention(2), TEXT)


@member(ATTENTION)
def cross_attention():
    return linen(nn.MultiHeadDotProductAttention(2), TEXT, array(2, 7, 8, seed=1))


class Pooling(nn.Module):
    @nn.compact
    def __call__(self, x):
        probe = self.param("probe", nn.initializers.normal(), (1, 3, 8))
        probe = jnp.tile(probe, (x.shape[0], 1, 1))
        return nn.Dense(2)(nn.MultiHeadDotProductAttention(2, name="mha")(probe, x))


@member(
    "params/mha/query/kernel params/mha/key/kernel params/mha/value/kernel params/mha/out/kernel "
    "params/Dense_0/kernel"
)
def learned_queries():
    return linen(Pooling(), TEXT)


@member("params/kernel")
def dense_general():
    return linen(nn.DenseGeneral((2, 3), axis=(-2, -1)), TEXT)


@member("params/kernel")
def dense_general_batch():
    return linen(nn.DenseGeneral(3, axis=-1, batch_dims=(0,)), TEXT)


@member("params/kernel")
def einsum_layer():
    return linen(nn.Einsum((8, 2, 3), "btd,dhk->bthk"), TEXT)


class LanguageModel(nn.Module):
    def setup(self):
        self.embed = nn.Embed(7, 8)
        self.dense = nn.Dense(8)

    def __call__(self, ids):
        return self.embed.attend(nn.gelu(self.dense(self.embed(ids))))


@member("params/embed/embedding#0 params/dense/kernel params/embed/embedding#1")
def tied_embedding():
    return linen(LanguageModel(), IDS)


class Positions(nn.Module):
    @nn.compact
    def __call__(self, ids):
        x = nn.Embed(7, 8, name="words")(ids)
        x = x + nn.Embed(6, 8, name="positions")(jnp.arange(ids.shape[1]))[None]
        return nn.Dense(2)(nn.LayerNorm()(x))


@member("params/words/embedding params/positions/embedding params/Dense_0/kernel")
def learned_positions():
    return linen(Positions(), IDS)


class Shared(nn.Module):
    @nn.compact
    def __call__(self, x):
        dense = nn.Dense(4)
        for _ in range(3):
            x = nn.tanh(dense(x))
        return x


@member("params/Dense_0/kernel#0 params/Dense_0/kernel#1 params/Dense_0/kernel#2")
def shared_layer():
    return linen(Shared(), X)


class Dropped(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        x = nn.Dropout(0.5, deterministic=not train)(nn.relu(nn.Dense(8)(x)))
        return nn.Dense(2)(x)


@member("params/Dense_0/kernel params/Dense_1/kernel")
def dropout():
    return linen(Dropped(), X, rngs={"dropout": jax.random.key(3)})


@member("params/Dense_0/kernel params/Dense_1/kernel")
def dropout_closed_over():
    _, params, inputs, _ = linen(Dropped(), X)
    key = jax.random.key(3)
    return lambda p, x: Dropped().apply(p, x, rngs={"dropout": key}), params, inputs, {}


class Adapters(nn.Module):
    """Several inputs of different kinds, outputs in a dict, one of them whole numbers."""

    @nn.compact
    def __call__(self, batch, scale, *, names):
        x = nn.Embed(7, 4)(batch["ids"]).mean(1) + nn.Dense(4)(batch["x"]) * scale
        logits = nn.Dense(3)(nn.swish(x))
        return {names[0]: logits, names[1]: jnp.argmax(logits, -1), "norm": (jnp.sum(x**2),)}


@member("params/Embed_0/embedding params/Dense_0/kernel params/Dense_1/kernel")
def several_inputs_and_outputs():
    batch = {"ids": IDS, "x": X[:2]}
    return linen(Adapters(), batch, jnp.float32(2.0), names=("logits", "label"))


class Boxed(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8, kernel_init=nn.with_logical_partitioning(nn.initializers.normal(), ("a", "b")))(x)
        return nn.Dense(2, kernel_init=nn.with_partitioning(nn.initializers.normal(), (None, None)))(x)


@member("params/Dense_0/kernel params/Dense_1/kernel")
def boxed_parameters():
    return linen(Boxed(), X)


@member("params/layers_0/kernel params/layers_2/kernel")
def bfloat16_compute():
    return linen(
        nn.Sequential([nn.Dense(8, dtype=jnp.bfloat16), nn.relu, nn.Dense(3, dtype=jnp.bfloat16)]), X
    )


@member("params/layers_0/kernel params/layers_2/kernel")
def float16_parameters():
    half = {"dtype": jnp.float16, "param_dtype": jnp.float16}
    return linen(nn.Sequential([nn.Dense(8, **half), nn.relu, nn.Dense(3, **half)]), X)


@member("params/layers_0/kernel params/layers_1/kernel")
def complex_parameters():
    kind = {"dtype": jnp.complex64, "param_dtype": jnp.complex64}
    return linen(nn.Sequential([nn.Dense(4, **kind), nn.Dense(3, **kind)]), array(3, 4, dtype=jnp.complex64))
