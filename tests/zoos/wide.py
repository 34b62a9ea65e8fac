"""Models of the zoo at any width: `WIDE[name](width) -> (apply, shapes of params, inputs, kwargs)`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jinit
from tests.zoos.member import array

Made = tuple[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]]
WIDE: dict[str, Callable[[int], Made]] = {}


def wide(make: Callable[[int], Made]) -> Callable[[int], Made]:
    """Enters a model."""
    WIDE[make.__name__] = make
    return make


def x_of(n: int) -> jax.Array:
    return array(16, n, seed=1)


def text(n: int) -> jax.Array:
    return array(4, 6, n, seed=2)


def image(n: int) -> jax.Array:
    return array(4, 8, 8, n, seed=3)


def ids(n: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(4).integers(0, n, (4, 6)), jnp.int32)


def linen(model: Any, *inputs: Any, **kwargs: Any) -> Made:
    """Shapes of a linen module's variables."""
    fixed = {k: v for k, v in kwargs.items() if k not in ("rngs", "mutable")}
    rngs = {k: jax.random.key(i) for i, k in enumerate(("params", "dropout"))}
    return model.apply, jax.eval_shape(functools.partial(model.init, **fixed), rngs, *inputs), inputs, kwargs


def plain(apply: Any, inputs: tuple[Any, ...], **sizes: tuple[int, ...]) -> Made:
    """A function of a dict of parameters."""
    return apply, {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in sizes.items()}, inputs, {}


def haiku(run: Any, *inputs: Any) -> Made:
    model = hk.without_apply_rng(hk.transform(run))
    return model.apply, jax.eval_shape(model.init, jax.random.key(0), *inputs), inputs, {}


def of_nnx(make: Any, *inputs: Any) -> Made:
    apply, params = jinit.functional(make(nnx.Rngs(0)))
    return apply, jax.eval_shape(lambda: params), inputs, {}


def module(make: Any) -> tuple[Any, Any]:
    """An equinox module's arrays as shapes, and how it is put together again."""
    shapes, static = eqx.partition(
        eqx.filter_eval_shape(make, key=jax.random.key(0)), lambda x: isinstance(x, jax.ShapeDtypeStruct)
    )
    return shapes, lambda p: eqx.combine(p, static)


class Cnn(nn.Module):
    width: int
    train: bool

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.relu(nn.BatchNorm(use_running_average=not self.train)(nn.Conv(self.width, (3, 3))(x)))
        return nn.Dense(self.width)(x.reshape(x.shape[0], -1))


class ResidualBlock(nn.Module):
    width: int
    groups: int = 2

    @nn.compact
    def __call__(self, x: Any) -> Any:
        n = self.width
        y = nn.relu(nn.GroupNorm(self.groups)(nn.Conv(n, (3, 3), (2, 2))(x)))
        y = nn.GroupNorm(self.groups)(nn.Conv(n, (3, 3), use_bias=False)(y))
        return nn.relu(y + nn.Conv(n, (1, 1), (2, 2))(x))


class LanguageModel(nn.Module):
    width: int

    def setup(self) -> None:
        self.embed = nn.Embed(self.width, self.width)
        self.dense = nn.Dense(self.width)

    def __call__(self, x: Any) -> Any:
        return self.embed.attend(nn.gelu(self.dense(self.embed(x))))


class Positions(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = nn.Embed(self.width, self.width, name="words")(x)
        y = y + nn.Embed(6, self.width, name="positions")(jnp.arange(x.shape[1]))[None]
        return nn.Dense(self.width)(nn.LayerNorm()(y))


class Block(nn.Module):
    width: int
    attention: bool = False

    @nn.compact
    def __call__(self, x: Any, _: Any) -> Any:
        if self.attention:
            x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
        return x + nn.Dense(self.width)(nn.gelu(nn.Dense(2 * self.width)(x))), None


class Stack(nn.Module):
    width: int
    attention: bool = False

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Embed(self.width, self.width)(x)
        layers = nn.scan(nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = layers(self.width, self.attention, name="layers")(x, None)
        return nn.Dense(self.width)(nn.LayerNorm()(x))


class Pooling(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        probe = self.param("probe", nn.initializers.normal(), (1, 3, self.width))
        probe = jnp.tile(probe, (x.shape[0], 1, 1))
        return nn.Dense(self.width)(nn.MultiHeadDotProductAttention(2, name="mha")(probe, x))


class SharedLayer(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        dense = nn.Dense(self.width)
        for _ in range(3):
            x = nn.tanh(dense(x))
        return x


class Dropped(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Dropout(0.5, deterministic=False)(nn.relu(nn.Dense(self.width)(x)))
        return nn.Dense(self.width)(x)


class Adapters(nn.Module):
    width: int

    @nn.compact
    def __call__(self, batch: Any, scale: Any) -> Any:
        x = nn.Embed(self.width, self.width)(batch["ids"]).mean(1) + nn.Dense(self.width)(batch["x"]) * scale
        return nn.Dense(self.width)(nn.swish(x)), jnp.sum(x**2)


class Normed(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.relu(nn.WeightNorm(nn.Dense(self.width))(x))
        return nn.Dense(self.width)(x)


class NnxCnn(nnx.Module):
    def __init__(self, n: int, rngs: Any) -> None:
        self.conv = nnx.Conv(n, n, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(n, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(n, n, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.head(self.drop(nnx.relu(self.norm(self.conv(x)))).mean((1, 2)))


for _name, _make in {
    "mlp": lambda n: linen(nn.Sequential([nn.Dense(n), nn.relu, nn.Dense(n)]), x_of(n)),
    "cnn_train": lambda n: linen(Cnn(n, True), image(n), mutable=["batch_stats"]),
    "cnn_eval": lambda n: linen(Cnn(n, False), image(n)),
    "residual_block": lambda n: linen(ResidualBlock(n), image(n)),
    "residual_block_small_groups": lambda n: linen(ResidualBlock(n, n // 4), image(n)),
    "conv_depthwise": lambda n: linen(nn.Conv(2 * n, (3, 3), feature_group_count=n), image(n)),
    "conv_grouped": lambda n: linen(nn.Conv(n, (3, 3), feature_group_count=2), image(n)),
    "conv_dilated": lambda n: linen(nn.Conv(n, (3, 3), kernel_dilation=2, padding="VALID"), image(n)),
    "conv_strided": lambda n: linen(nn.Conv(n, (3, 3), (2, 2)), image(n)),
    "conv_transposed": lambda n: linen(nn.ConvTranspose(n, (3, 3), (2, 2)), image(n)),
    "conv_transposed_kernel": lambda n: linen(
        nn.ConvTranspose(n, (3, 3), (2, 2), transpose_kernel=True), image(n)
    ),
    "conv_local": lambda n: linen(nn.ConvLocal(n, (3, 3)), image(n)),
    "conv_circular": lambda n: linen(nn.Conv(n, (3, 3), padding="CIRCULAR"), image(n)),
    "conv_deep_same": lambda n: linen(
        nn.Sequential([nn.Conv(n, (3, 3)), nn.relu, nn.Conv(n, (3, 3)), nn.relu, nn.Conv(n, (3, 3))]),
        image(n),
    ),
    "conv_deep_circular": lambda n: linen(
        nn.Sequential(
            [f for _ in range(3) for f in (nn.Conv(n, (3, 3), padding="CIRCULAR"), nn.relu)] + [nn.Dense(n)]
        ),
        image(n),
    ),
    "conv_max_pool": lambda n: linen(
        nn.Sequential(
            [
                nn.Conv(n, (3, 3)), nn.relu, lambda x: nn.max_pool(x, (2, 2), (2, 2)),
                nn.Conv(n, (3, 3)), nn.relu, lambda x: x.mean((1, 2)), nn.Dense(n),
            ]
        ),
        image(n),
    ),
    "conv_avg_pool": lambda n: linen(
        nn.Sequential(
            [
                nn.Conv(n, (3, 3)), nn.relu, lambda x: nn.avg_pool(x, (2, 2), (2, 2)),
                nn.Conv(n, (3, 3)), nn.relu, lambda x: x.mean((1, 2)), nn.Dense(n),
            ]
        ),
        image(n),
    ),
    "attention": lambda n: linen(nn.MultiHeadDotProductAttention(2), text(n)),
    "cross_attention": lambda n: linen(
        nn.MultiHeadDotProductAttention(2), text(n), array(4, 7, n, seed=5)
    ),
    "learned_queries": lambda n: linen(Pooling(n), text(n)),
    "dense_general": lambda n: linen(nn.DenseGeneral((2, n), axis=(-2, -1)), text(n)),
    "dense_general_batch": lambda n: linen(nn.DenseGeneral(n, axis=-1, batch_dims=(0,)), text(n)),
    "einsum_layer": lambda n: linen(nn.Einsum((n, 2, n), "btd,dhk->bthk"), text(n)),
    "tied_embedding": lambda n: linen(LanguageModel(n), ids(n)),
    "learned_positions": lambda n: linen(Positions(n), ids(n)),
    "shared_layer": lambda n: linen(SharedLayer(n), x_of(n)),
    "dropout": lambda n: linen(Dropped(n), x_of(n), rngs={"dropout": jax.random.key(3)}),
    "several_inputs_and_outputs": lambda n: linen(
        Adapters(n), {"ids": ids(n), "x": x_of(n)[:4]}, jnp.float32(2.0)
    ),
    "bfloat16_compute": lambda n: linen(
        nn.Sequential([nn.Dense(n, dtype=jnp.bfloat16), nn.relu, nn.Dense(n, dtype=jnp.bfloat16)]), x_of(n)
    ),
    "rnn_lstm": lambda n: linen(nn.RNN(nn.LSTMCell(n)), text(n)),
    "rnn_gru": lambda n: linen(nn.RNN(nn.GRUCell(n)), text(n)),
    "rnn_conv_lstm": lambda n: linen(nn.RNN(nn.ConvLSTMCell(n, (3,))), array(2, 5, 6, n)),
    "rnn_bidirectional": lambda n: linen(
        nn.Bidirectional(nn.RNN(nn.SimpleCell(n)), nn.RNN(nn.SimpleCell(n))), text(n)
    ),
    "scanned_stack": lambda n: linen(Stack(n), ids(n)),
    "scanned_remat_stack": lambda n: linen(Stack(n, True), ids(n)),
    "weight_norm": lambda n: linen(Normed(n), x_of(n)),
    "nnx_cnn_train": lambda n: of_nnx(lambda r: NnxCnn(n, r), image(n)),
    "nnx_attention": lambda n: of_nnx(lambda r: nnx.MultiHeadAttention(2, n, decode=False, rngs=r), text(n)),
    "nnx_lora": lambda n: of_nnx(lambda r: nnx.LoRALinear(n, n, lora_rank=n // 2, rngs=r), text(n)),
    "haiku_convnet": lambda n: haiku(
        lambda x: hk.Linear(n)(hk.Flatten()(jax.nn.relu(hk.Conv2D(n, 3)(x)))), image(n)
    ),
    "haiku_lstm": lambda n: haiku(
        lambda x: hk.dynamic_unroll((c := hk.LSTM(n)), x, c.initial_state(x.shape[1]))[0], text(n)
    ),
    "haiku_attention": lambda n: haiku(
        lambda x: hk.MultiHeadAttention(2, n, w_init=hk.initializers.VarianceScaling())(x, x, x), text(n)
    ),
}.items():  # fmt: skip
    _make.__name__ = _name
    wide(_make)  # type: ignore[arg-type]
