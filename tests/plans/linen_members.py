"""Every layer of flax linen."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from tests.plans.member import enter, entry, one, under
from tests.zoos.member import array, linen

ROWS = array(6, 5)
TEXT = array(3, 7, 10)
IDS = jnp.arange(12).reshape(3, 4) % 9
LINE = array(2, 12, 4)
IMAGE = array(2, 9, 8, 4)
VOLUME = array(1, 5, 6, 4, 3)


def layer(name, model, x, fans, *more, **options):
    enter(name, lambda: linen(model, x, *more, **options), fans)


layer("linen_dense", nn.Dense(8), ROWS, one(5, 8))
layer("linen_dense_general", nn.DenseGeneral((2, 3), axis=(-2, -1)), TEXT, one(70, 6))
layer("linen_dense_general_first", nn.DenseGeneral(3, axis=1), TEXT, one(7, 3))
layer("linen_dense_general_batch", nn.DenseGeneral(6, batch_dims=(0,)), TEXT, one(10, 6))
layer("linen_dense_general_batches", nn.DenseGeneral((6, 2), axis=-1, batch_dims=(0, 1)), TEXT, one(10, 12))
layer("linen_einsum_heads", nn.Einsum((10, 4, 3), "btd,dhk->bthk"), TEXT, one(10, 12))
layer("linen_einsum_out", nn.Einsum((7, 10, 3), "btd,tdf->bf"), TEXT, one(70, 3))
layer("linen_einsum_experts", nn.Einsum((3, 10, 5), "etd,edf->etf", use_bias=False), TEXT, one(10, 5))
layer("linen_einsum_block_diagonal", nn.Einsum((5, 2, 4), "btgd,gdf->btgf"), array(2, 3, 5, 2), one(2, 4))

layer("linen_conv", nn.Conv(6, (3, 2)), IMAGE, one(24, 36))
layer("linen_conv_line", nn.Conv(6, (3,), padding="CAUSAL"), LINE, one(12, 18))
layer("linen_conv_volume", nn.Conv(5, (3, 3, 1)), VOLUME, one(27, 45))
layer("linen_conv_point", nn.Conv(6, (1, 1)), IMAGE, one(4, 6))
layer("linen_conv_grouped", nn.Conv(6, (3, 3), feature_group_count=2), IMAGE, one(18, 27))
layer("linen_conv_depthwise", nn.Conv(4, (3, 3), feature_group_count=4), IMAGE, one(9, 9))
layer("linen_conv_multiplier", nn.Conv(12, (3, 3), feature_group_count=4), IMAGE, one(9, 27))
layer("linen_conv_strided", nn.Conv(6, (3, 3), (2, 3)), array(2, 14, 17, 4), one(36, 9))
layer("linen_conv_patches", nn.Conv(6, (4, 4), (4, 4), padding="VALID"), array(2, 16, 16, 3), one(48, 6))
layer("linen_conv_dilated", nn.Conv(6, (3, 3), kernel_dilation=2), IMAGE, one(36, 54))
layer("linen_conv_input_dilated", nn.Conv(6, (3,), input_dilation=2, padding=1), LINE, one(6, 18))
layer("linen_conv_circular", nn.Conv(6, (3, 3), padding="CIRCULAR"), IMAGE, one(36, 54))
layer("linen_conv_two_batch_axes", nn.Conv(6, (3,)), IMAGE, one(12, 18))
layer("linen_conv_masked", nn.Conv(6, (1,), mask=jnp.ones((1, 4, 6))), LINE, one(4, 6))

layer("linen_conv_transposed", nn.ConvTranspose(6, (3, 3)), IMAGE, one(36, 54))
layer("linen_conv_transposed_strided", nn.ConvTranspose(6, (4, 4), (2, 2)), IMAGE, one(16, 96))
layer("linen_conv_transposed_odd", nn.ConvTranspose(6, (3, 3), (2, 2)), IMAGE, one(9, 54))
layer("linen_conv_transposed_line", nn.ConvTranspose(6, (5,), (3,), padding="VALID"), LINE, one(20 / 3, 30))
layer(
    "linen_conv_transposed_kernel",
    nn.ConvTranspose(6, (3, 3), (2, 2), transpose_kernel=True), IMAGE, one(9, 54),
)  # fmt: skip
layer(
    "linen_conv_transposed_dilated",
    nn.ConvTranspose(6, (3,), (2,), kernel_dilation=(2,)), array(2, 20, 4), one(6, 18),
)  # fmt: skip
layer(
    "linen_conv_transposed_circular",
    nn.ConvTranspose(6, (4, 4), (2, 2), padding="CIRCULAR"), IMAGE, one(16, 96),
)  # fmt: skip
layer("linen_conv_transposed_gaps", nn.ConvTranspose(6, (1,), (2,)), LINE, one(2, 6))

layer("linen_conv_local", nn.ConvLocal(6, (3, 3)), IMAGE, one(36, 6))
layer("linen_conv_local_strided", nn.ConvLocal(6, (3,), (2,), padding="VALID"), LINE, one(12, 6))
layer("linen_embed", nn.Embed(9, 6), IDS, one(1, None, "params/embedding"))

HEADS = dict.fromkeys(("query/kernel", "key/kernel", "value/kernel"), (10.0, 12.0))
ATTENTION = {**HEADS, "out/kernel": (12.0, 10.0)}
layer("linen_attention", nn.MultiHeadAttention(4, qkv_features=12), TEXT, under("params/", ATTENTION))
layer(
    "linen_attention_dot_product",
    nn.MultiHeadDotProductAttention(4, qkv_features=12, out_features=5), TEXT,
    under("params/", {**HEADS, "out/kernel": (12.0, 5.0)}), array(3, 6, 10, seed=1),
)  # fmt: skip
layer(
    "linen_attention_normalised",
    nn.MultiHeadAttention(2, qkv_features=12, normalize_qk=True), TEXT, under("params/", ATTENTION),
)  # fmt: skip


def gates(inputs, hidden):
    return {
        **{f"i{g}/kernel": inputs for g in "ifgo"},
        **{f"h{g}/kernel": hidden for g in "ifgo"},
    }


CELL = "params/cell/"
layer("linen_lstm", nn.RNN(nn.LSTMCell(6)), TEXT, under(CELL, gates((10, 6), (6, 6))))
# Its gates are one contraction: an input goes to the four of them.
layer("linen_optimized_lstm", nn.RNN(nn.OptimizedLSTMCell(6)), TEXT, under(CELL, gates((10, 24), (6, 24))))
GRU = {f"{side}{g}/kernel": (n, 6) for side, n in (("i", 10), ("h", 6)) for g in "rzn"}
layer("linen_gru", nn.RNN(nn.GRUCell(6)), TEXT, under(CELL, GRU))
MGU = {f"{side}{g}/kernel": (n, 6) for side, n in (("i", 10), ("h", 6)) for g in "fn"}
layer("linen_mgu", nn.RNN(nn.MGUCell(6)), TEXT, under(CELL, MGU))
SIMPLE = {"i/kernel": (10, 6), "h/kernel": (6, 6)}
layer("linen_simple_cell", nn.RNN(nn.SimpleCell(6)), TEXT, under(CELL, SIMPLE))
layer(
    "linen_conv_lstm", nn.RNN(nn.ConvLSTMCell(2, (3, 3))), array(2, 3, 6, 5, 4),
    under(CELL, {"ih/kernel": (36, 72), "hh/kernel": (18, 72)}),
)  # fmt: skip
layer(
    "linen_bidirectional", nn.Bidirectional(nn.RNN(nn.SimpleCell(6)), nn.RNN(nn.SimpleCell(6))), TEXT,
    {**under("params/forward_rnn/cell/", SIMPLE), **under("params/backward_rnn/cell/", SIMPLE)},
)  # fmt: skip


class Norms(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=False)(nn.LayerNorm()(x))
        x = nn.GroupNorm(2)(nn.RMSNorm()(x))
        return nn.PReLU()(nn.InstanceNorm()(x))


@entry(
    {},
    scale="params/PReLU_0/negative_slope",
    other="batch_stats/BatchNorm_0/mean batch_stats/BatchNorm_0/var",
)
def linen_norms():
    return linen(Norms(), IMAGE, mutable=["batch_stats"])


class Reparametrised(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.WeightNorm(nn.Dense(8))(x))
        x = nn.WeightNorm(nn.Conv(7, (3,)))(x[None])[0]
        return nn.SpectralNorm(nn.Dense(6))(x, update_stats=True)


@entry(
    {"params/Dense_0/kernel": (5, 8), "params/Conv_0/kernel": (24, 21), "params/Dense_1/kernel": (7, 6)},
    scale="params/WeightNorm_0/Dense_0/kernel/scale params/WeightNorm_1/Conv_0/kernel/scale",
    unused="batch_stats/SpectralNorm_0/Dense_1/kernel/sigma",
    other="batch_stats/SpectralNorm_0/Dense_1/kernel/u",
)
def linen_reparametrised():
    return linen(Reparametrised(), ROWS, mutable=["batch_stats"])


class Tied(nn.Module):
    @nn.compact
    def __call__(self, ids):
        embed = nn.Embed(9, 6)
        position = self.param("position", nn.initializers.normal(), (4, 6))
        return embed.attend(nn.Dense(6)(embed(ids) + position[None]))


@entry({"params/Embed_0/embedding": (6, 9), "params/Dense_0/kernel": (6, 6)}, other="params/position")
def linen_tied():
    return linen(Tied(), IDS)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        x = nn.MultiHeadAttention(2, qkv_features=12)(nn.LayerNorm()(x))
        return x + nn.Dense(10)(nn.gelu(nn.Dense(14)(x))), None


BLOCK = {
    **under("MultiHeadAttention_0/", ATTENTION), "Dense_0/kernel": (14, 10), "Dense_1/kernel": (10, 14),
}  # fmt: skip


def stack(axis):
    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x):
            options = {"variable_axes": {"params": axis}, "split_rngs": {"params": True}, "length": 3}
            x, _ = nn.scan(nn.remat(Block), **options)(name="layers")(x, None)
            return nn.Dense(3)(x)

    return Stack()


STACK = {**under("params/layers/", BLOCK), "params/Dense_0/kernel": (10, 3)}
layer("linen_scan", stack(0), TEXT, STACK)
layer("linen_scan_along_axis_1", stack(1), TEXT, STACK)


class Ensemble(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.vmap(nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True}, axis_size=3)(
            4, name="members"
        )(x)


layer("linen_vmap", Ensemble(), TEXT, one(10, 4, "params/members/kernel"))


class Shared(nn.Module):
    @nn.compact
    def __call__(self, x):
        dense = nn.Dense(5)
        return dense(nn.tanh(dense(x)))


layer("linen_shared", Shared(), ROWS, one(5, 5, "params/Dense_0/kernel"))
