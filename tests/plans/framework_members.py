"""The layers of flax nnx, haiku and equinox."""

from __future__ import annotations

import functools

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx

import jinit
from tests.plans.linen_members import ATTENTION, IDS, IMAGE, LINE, ROWS, TEXT, VOLUME
from tests.plans.member import enter, one
from tests.zoos.frameworks import _equinox, _haiku, _nnx
from tests.zoos.member import array


def of_nnx(name, make, x, fans, **roles):
    enter(f"nnx_{name}", lambda: _nnx(make, x), fans, **roles)


def kernel(fan_in, fan_out):
    return one(fan_in, fan_out, "kernel")


of_nnx("linear", lambda r: nnx.Linear(5, 8, rngs=r), ROWS, kernel(5, 8))
of_nnx(
    "linear_general", lambda r: nnx.LinearGeneral((7, 10), (2, 3), axis=(-2, -1), rngs=r), TEXT, kernel(70, 6)
)
of_nnx(
    "linear_general_batch", lambda r: nnx.LinearGeneral(10, 6, batch_axis={0: 3}, rngs=r), TEXT, kernel(10, 6)
)
of_nnx("conv", lambda r: nnx.Conv(4, 6, (3, 2), rngs=r), IMAGE, kernel(24, 36))
of_nnx(
    "conv_options",
    lambda r: nnx.Conv(4, 6, (3, 3), 2, kernel_dilation=2, feature_group_count=2, rngs=r),
    array(2, 12, 12, 4), kernel(18, 27 / 4),
)  # fmt: skip
of_nnx("conv_transposed", lambda r: nnx.ConvTranspose(4, 6, (4, 4), (2, 2), rngs=r), IMAGE, kernel(16, 96))
of_nnx(
    "conv_transposed_kernel",
    lambda r: nnx.ConvTranspose(4, 6, (3, 3), (2, 2), transpose_kernel=True, padding="CIRCULAR", rngs=r),
    IMAGE, kernel(9, 54),
)  # fmt: skip
of_nnx("einsum", lambda r: nnx.Einsum("btd,dhk->bthk", (10, 4, 3), (4, 3), rngs=r), TEXT, kernel(10, 12))
of_nnx(
    "attention",
    lambda r: nnx.MultiHeadAttention(4, 10, qkv_features=12, decode=False, rngs=r), TEXT, ATTENTION,
)  # fmt: skip
of_nnx("lora", lambda r: nnx.LoRA(10, 3, 6, rngs=r), TEXT, {"lora_a": (10, 3), "lora_b": (3, 6)})
of_nnx(
    "lora_linear", lambda r: nnx.LoRALinear(10, 6, lora_rank=3, rngs=r), TEXT,
    {"kernel": (10, 6), "lora/lora_a": (10, 3), "lora/lora_b": (3, 6)},
)  # fmt: skip
of_nnx("embed", lambda r: nnx.Embed(9, 6, rngs=r), IDS, one(1, None, "embedding"))
of_nnx(
    "lstm", lambda r: nnx.RNN(nnx.LSTMCell(10, 6, rngs=r), rngs=r), TEXT,
    {f"cell/i{g}/kernel": (10, 6) for g in ("i", "f_", "g", "o")}
    | {f"cell/h{g}/kernel": (6, 6) for g in ("i", "f", "g", "o")},
)  # fmt: skip
of_nnx(
    "optimized_lstm", lambda r: nnx.RNN(nnx.OptimizedLSTMCell(10, 6, rngs=r), rngs=r), TEXT,
    {"cell/dense_i/kernel": (10, 24), "cell/dense_h/kernel": (6, 24)},
)  # fmt: skip
of_nnx(
    "gru", lambda r: nnx.RNN(nnx.GRUCell(10, 6, rngs=r), rngs=r), TEXT,
    {"cell/dense_i/kernel": (10, 18), "cell/dense_h/kernel": (6, 18)},
)  # fmt: skip
of_nnx(
    "simple_cell", lambda r: nnx.RNN(nnx.SimpleCell(10, 6, rngs=r), rngs=r), TEXT,
    {"cell/dense_i/kernel": (10, 6), "cell/dense_h/kernel": (6, 6)},
)  # fmt: skip


class Norms(nnx.Module):
    def __init__(self, rngs):
        self.batch = nnx.BatchNorm(4, rngs=rngs)
        self.layer = nnx.LayerNorm(4, rngs=rngs)
        self.rms = nnx.RMSNorm(4, rngs=rngs)
        self.group = nnx.GroupNorm(4, 2, rngs=rngs)
        self.instance = nnx.InstanceNorm(4, rngs=rngs)
        self.prelu = nnx.PReLU()

    def __call__(self, x):
        return self.prelu(self.instance(self.group(self.rms(self.layer(self.batch(x))))))


of_nnx("norms", Norms, IMAGE, {}, scale="prelu/negative_slope")


class SpectralNorm(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.SpectralNorm(nnx.Linear(5, 8, rngs=rngs), rngs=rngs)

    def __call__(self, x):
        return self.norm(x, update_stats=False)


of_nnx("spectral_norm", SpectralNorm, ROWS, one(5, 8, "norm/layer_instance/kernel"))


class WeightNorm(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.WeightNorm(nnx.Linear(5, 8, rngs=rngs), rngs=rngs)

    def __call__(self, x):
        return self.norm(x)


enter(
    "nnx_weight_norm",
    # Its scale cannot be made by shape alone.
    lambda: (*jinit.functional(WeightNorm(nnx.Rngs(0))), (ROWS,), {}),
    one(5, 8, "norm/layer_instance/kernel"),
)


def of_haiku(name, make, x, fans, **roles):
    enter(f"haiku_{name}", lambda: _haiku(lambda x: make()(x), x), fans, **roles)


of_haiku("linear", lambda: hk.Linear(8), ROWS, one(5, 8, "linear/w"))
of_haiku("conv1d", lambda: hk.Conv1D(6, 3), LINE, one(12, 18, "conv1_d/w"))
of_haiku("conv2d", lambda: hk.Conv2D(6, 3, rate=2), IMAGE, one(36, 54, "conv2_d/w"))
of_haiku("conv3d", lambda: hk.Conv3D(5, (3, 3, 1)), VOLUME, one(27, 45, "conv3_d/w"))
of_haiku("conv_strided", lambda: hk.Conv2D(6, 3, stride=2), array(2, 13, 13, 4), one(36, 54 / 4, "conv2_d/w"))
of_haiku("conv_grouped", lambda: hk.Conv2D(6, 3, feature_group_count=2), IMAGE, one(18, 27, "conv2_d/w"))
of_haiku(
    "conv_channels_first",
    lambda: hk.Conv2D(6, 3, data_format="NCHW"),
    array(2, 4, 9, 8),
    one(36, 54, "conv2_d/w"),
)
of_haiku("conv1d_transposed", lambda: hk.Conv1DTranspose(6, 4, 2), LINE, one(8, 24, "conv1_d_transpose/w"))
of_haiku("conv2d_transposed", lambda: hk.Conv2DTranspose(6, 4, 2), IMAGE, one(16, 96, "conv2_d_transpose/w"))
of_haiku(
    "conv3d_transposed", lambda: hk.Conv3DTranspose(2, (2, 2, 1), (2, 2, 1)), VOLUME,
    one(3, 8, "conv3_d_transpose/w"),
)  # fmt: skip
of_haiku("depthwise", lambda: hk.DepthwiseConv2D(2, 3), IMAGE, one(9, 18, "depthwise_conv2_d/w"))
of_haiku(
    "separable_depthwise", lambda: hk.SeparableDepthwiseConv2D(2, 3), IMAGE,
    {
        "separable_depthwise_conv2_d/~/depthwise_conv2_d/w": (3, 6),
        "separable_depthwise_conv2_d/~/depthwise_conv2_d_1/w": (3, 3),
    },
)  # fmt: skip
of_haiku("embed", lambda: hk.Embed(9, 6), IDS, one(1, None, "embed/embeddings"))
of_haiku(
    "embed_one_hot", lambda: hk.Embed(9, 6, lookup_style="ONE_HOT"), IDS, one(1, None, "embed/embeddings")
)


def unrolled(core):
    def run(x):
        cell = core()
        return hk.dynamic_unroll(cell, x, cell.initial_state(x.shape[1]))[0]

    return lambda: run


of_haiku("lstm", unrolled(lambda: hk.LSTM(6)), TEXT, one(16, 24, "lstm/linear/w"))
of_haiku("gru", unrolled(lambda: hk.GRU(6)), TEXT, {"gru/w_i": (10, 18), "gru/w_h": (6, 12)})
of_haiku(
    "attention",
    lambda: lambda x: hk.MultiHeadAttention(4, 3, w_init=hk.initializers.VarianceScaling())(x, x, x), TEXT,
    {f"multi_head_attention/{n}/w": (10, 12) for n in ("query", "key", "value")}
    | {"multi_head_attention/linear/w": (12, 12)},
)  # fmt: skip


def of_equinox(name, make, x, fans, run=None, **roles):
    def build():
        return run or (lambda module, x: jax.vmap(module)(x)), _equinox(make), (x,), {}

    enter(f"equinox_{name}", build, fans, **roles)


part = functools.partial
of_equinox("linear", part(eqx.nn.Linear, 5, 8), ROWS, one(5, 8, "weight"))
of_equinox("conv", part(eqx.nn.Conv2d, 4, 6, 3), array(2, 4, 9, 8), one(36, 54, "weight"))
of_equinox(
    "conv_grouped", part(eqx.nn.Conv2d, 4, 6, 3, 2, groups=2), array(2, 4, 13, 13), one(18, 27 / 4, "weight")
)
of_equinox(
    "conv_transposed",
    part(eqx.nn.ConvTranspose2d, 4, 6, 4, 2, padding=1),
    array(2, 4, 9, 8),
    one(16, 96, "weight"),
)
of_equinox(
    "conv_transposed_grouped",
    part(eqx.nn.ConvTranspose1d, 4, 6, 3, 2, groups=2),
    array(2, 4, 12),
    one(3, 9, "weight"),
)
of_equinox(
    "attention",
    part(eqx.nn.MultiheadAttention, 2, 10, qk_size=6, vo_size=4, output_size=7, inference=True), TEXT,
    {"query_proj/weight": (10, 12), "key_proj/weight": (10, 12), "value_proj/weight": (10, 8),
     "output_proj/weight": (8, 7)},
    lambda module, x: jax.vmap(lambda x: module(x, x, x))(x),
)  # fmt: skip


def unroll(cell, state, x):
    return jax.lax.scan(lambda h, x: (cell(x, h), None), state, x)[0]


of_equinox(
    "gru", part(eqx.nn.GRUCell, 10, 6), TEXT, {"weight_ih": (10, 18), "weight_hh": (6, 18)},
    lambda cell, x: jax.vmap(lambda x: unroll(cell, jnp.zeros(6), x))(x), bias="bias_n",
)  # fmt: skip
of_equinox(
    "lstm", part(eqx.nn.LSTMCell, 10, 6), TEXT, {"weight_ih": (10, 24), "weight_hh": (6, 24)},
    lambda cell, x: jax.vmap(lambda x: unroll(cell, (jnp.zeros(6), jnp.zeros(6)), x))(x),
)  # fmt: skip
of_equinox(
    "embed",
    part(eqx.nn.Embedding, 9, 6),
    IDS,
    one(1, None, "weight"),
    lambda module, ids: jax.vmap(jax.vmap(module))(ids),
)
