"""nnx, haiku and equinox."""

from __future__ import annotations

import functools

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx

import jinit
from tests.zoos.layers import IDS, IMAGE, TEXT, X
from tests.zoos.member import fill, member


def _nnx(make, *inputs, **kwargs):
    """An nnx module filled in like the others, without running its samplers."""
    graphdef, shapes = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    apply, params = jinit.functional(nnx.merge(graphdef, fill(shapes)))
    return apply, params, inputs, kwargs


class NnxCnn(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(4, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(self.drop(nnx.relu(self.norm(self.conv(x)))).mean((1, 2)))


@member("conv/kernel head/kernel")
def nnx_cnn_train():
    return _nnx(NnxCnn, IMAGE)


@member("conv/kernel head/kernel")
def nnx_cnn_eval():
    def make(rngs):
        model = NnxCnn(rngs)
        model.eval()
        return model

    return _nnx(make, IMAGE)


@member("query/kernel key/kernel value/kernel out/kernel")
def nnx_attention():
    return _nnx(lambda rngs: nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs), TEXT)


@member("cell/dense_i/kernel cell/dense_h/kernel")
def nnx_lstm():
    return _nnx(lambda rngs: nnx.RNN(nnx.OptimizedLSTMCell(8, 3, rngs=rngs), rngs=rngs), TEXT)


class NnxList(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(7, 8, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(8, 8, rngs=rngs) for _ in range(2)])

    def __call__(self, ids):
        x = self.embed(ids)
        for layer in self.layers:
            x = nnx.gelu(layer(x))
        return self.embed.attend(x)


@member("embed/embedding#0 layers/0/kernel layers/1/kernel embed/embedding#1")
def nnx_list():
    return _nnx(NnxList, IDS)


class NnxStack(nnx.Module):
    def __init__(self, rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def stacked(rngs):
            return nnx.Linear(8, 8, rngs=rngs)

        self.layers = stacked(rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def run(x, layer):
            return jnp.tanh(layer(x))

        return run(x, self.layers)


@member("layers/kernel")
def nnx_scan():
    return _nnx(NnxStack, TEXT)


@member("kernel lora/lora_a lora/lora_b")
def nnx_lora():
    return _nnx(lambda rngs: nnx.LoRALinear(8, 5, lora_rank=2, rngs=rngs), TEXT)


def _haiku(run, *inputs):
    model = hk.without_apply_rng(hk.transform(run))
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    return model.apply, fill(shapes), inputs, {}


@member("mlp/~/linear_0/w mlp/~/linear_1/w")
def haiku_mlp():
    return _haiku(lambda x: hk.nets.MLP([5, 3])(x), X)


@member("conv2_d/w linear/w")
def haiku_convnet():
    def run(x):
        x = jax.nn.relu(hk.Conv2D(4, 3)(x))
        return hk.Linear(2)(hk.Flatten()(x))

    return _haiku(run, IMAGE)


@member("lstm/linear/w")
def haiku_lstm():
    def run(x):
        core = hk.LSTM(3)
        return hk.dynamic_unroll(core, x, core.initial_state(5))[0]

    return _haiku(run, TEXT)


@member(" ".join(f"multi_head_attention/{n}/w" for n in ("query", "key", "value", "linear")))
def haiku_attention():
    def run(x):
        return hk.MultiHeadAttention(2, 4, w_init=hk.initializers.VarianceScaling())(x, x, x)

    return _haiku(run, TEXT)


def _equinox(make):
    """The whole module as `params`, functions and other leaves that are no arrays included."""
    return fill(eqx.filter_eval_shape(make, key=jax.random.key(0)))


def _batched(module, x):
    return jax.vmap(module)(x)


@member("layers/0/weight layers/1/weight")
def equinox_mlp():
    return _batched, _equinox(functools.partial(eqx.nn.MLP, 4, 3, 5, 1)), (X,), {}


@member("weight")
def equinox_conv():
    return _batched, _equinox(functools.partial(eqx.nn.Conv2d, 6, 3, 3)), (IMAGE,), {}


@member("query_proj/weight key_proj/weight value_proj/weight output_proj/weight")
def equinox_attention():
    attention = _equinox(functools.partial(eqx.nn.MultiheadAttention, 2, 8, inference=True))
    return lambda module, x: jax.vmap(lambda x: module(x, x, x))(x), attention, (TEXT,), {}


@member("weight_ih weight_hh")
def equinox_gru():
    def unroll(cell, x):
        return jax.lax.scan(lambda h, x: (cell(x, h), None), jnp.zeros(3), x)[0]

    cell = _equinox(functools.partial(eqx.nn.GRUCell, 8, 3))
    return lambda cell, x: jax.vmap(functools.partial(unroll, cell))(x), cell, (TEXT,), {}
