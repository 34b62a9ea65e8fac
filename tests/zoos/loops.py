"""Recurrent networks, stacks, and every kind of control flow."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from tests.zoos.layers import IDS, TEXT, X
from tests.zoos.member import array, linen, member


def _cell(names):
    return " ".join(f"params/cell/{name}/kernel" for name in names.split())


@member(_cell("ii hi if hf ig hg io ho"))
def rnn_lstm():
    return linen(nn.RNN(nn.LSTMCell(3)), TEXT)


@member(_cell("hf hg hi ho if ig ii io"))
def rnn_optimized_lstm():
    return linen(nn.RNN(nn.OptimizedLSTMCell(3)), TEXT)


@member(_cell("ir hr iz hz in hn"))
def rnn_gru():
    return linen(nn.RNN(nn.GRUCell(3)), TEXT)


@member(_cell("ih hh"))
def rnn_conv_lstm():
    return linen(nn.RNN(nn.ConvLSTMCell(2, (3,))), array(2, 5, 4, 3))


@member(
    "params/forward_rnn/cell/i/kernel params/forward_rnn/cell/h/kernel "
    "params/backward_rnn/cell/i/kernel params/backward_rnn/cell/h/kernel"
)
def rnn_bidirectional():
    return linen(nn.Bidirectional(nn.RNN(nn.SimpleCell(3)), nn.RNN(nn.SimpleCell(3))), TEXT)


class Block(nn.Module):
    attention: bool = False

    @nn.compact
    def __call__(self, x, _):
        if self.attention:
            x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
        return x + nn.Dense(8)(nn.gelu(nn.Dense(16)(x))), None


class Stack(nn.Module):
    length: int = 3
    axis: int = 0
    remat: bool = True
    attention: bool = False

    @nn.compact
    def __call__(self, ids):
        x = nn.Embed(7, 8)(ids)
        block = nn.remat(Block) if self.remat else Block
        layers = nn.scan(
            block, variable_axes={"params": self.axis}, split_rngs={"params": True}, length=self.length
        )
        x, _ = layers(attention=self.attention, name="layers")(x, None)
        return nn.Dense(7)(nn.LayerNorm()(x))


def _stack(*layers):
    return " ".join(
        ["params/Embed_0/embedding", *(f"params/layers/{n}/kernel" for n in layers), "params/Dense_0/kernel"]
    )


HEADS = [f"MultiHeadDotProductAttention_0/{n}" for n in ("query", "key", "value", "out")]


@member(_stack("Dense_1", "Dense_0"))
def scanned_stack():
    return linen(Stack(remat=False), IDS)


@member(_stack(*HEADS, "Dense_1", "Dense_0"))
def scanned_remat_stack():
    return linen(Stack(attention=True), IDS)


@member(_stack("Dense_1", "Dense_0"))
def scanned_on_another_axis():
    return linen(Stack(axis=1, remat=False), IDS)


STACKED = {"w": array(3, 4, 4, seed=1, scale=0.5), "b": array(3, 4, seed=2)}


@member("w#0 w#1 w#2")
def loop_over_slices():
    def apply(params, x):
        for i in range(3):
            x = jnp.tanh(x @ params["w"][i] + params["b"][i][None])
        return x

    return apply, STACKED, (X,), {}


@member("w#0 w#1 w#2")
def loop_over_dynamic_slices():
    def apply(params, x):
        for i in range(3):
            w = lax.dynamic_index_in_dim(params["w"], jnp.int32(i), keepdims=False)
            x = jnp.tanh(x @ w)
        return x

    return apply, {"w": STACKED["w"]}, (X,), {}


def _layer(x, w, b):
    return jnp.tanh(x @ w + b[None])


def _run_scan(params, x):
    return lax.scan(lambda h, wb: (_layer(h, *wb), h.sum()), x, (params["w"], params["b"]))


@member("w")
def scan_with_outputs():
    return _run_scan, STACKED, (X,), {}


@member("w")
def scan_reversed_unrolled():
    def apply(params, x):
        h, _ = lax.scan(
            lambda h, wb: (_layer(h, *wb), None), x, (params["w"], params["b"]), reverse=True, unroll=3
        )
        return h

    return apply, STACKED, (X,), {}


@member("w")
def scan_over_time():
    def apply(params, x):
        return lax.scan(lambda h, x: (jnp.tanh(h @ params["w"] + x), h), x[0], x)

    return apply, {"w": array(4, 4)}, (array(5, 3, 4),), {}


@member("outer inner")
def nested_scan():
    def outer(h, w):
        h = jnp.tanh(h @ w["outer"])
        return lax.scan(lambda h, v: (jnp.tanh(h @ v), None), h, w["inner"])

    def apply(params, x):
        return lax.scan(outer, x, params)[0]

    return apply, {"outer": array(2, 4, 4), "inner": array(2, 3, 4, 4, seed=1)}, (X,), {}


@member("w")
def fori_loop():
    def apply(params, x):
        return lax.fori_loop(0, 3, lambda i, h: _layer(h, params["w"][i], params["b"][i]), x)

    return apply, STACKED, (X,), {}


@member("w", backward=False)
def while_loop():
    def apply(params, x):
        def step(state):
            i, h = state
            return i + 1, jnp.tanh(h @ params["w"])

        return lax.while_loop(lambda s: s[0] < 4, step, (0, x))[1]

    return apply, {"w": array(4, 4)}, (X,), {}


@member("w#0 w#1 v")
def cond():
    def apply(params, x):
        x = x @ params["w"]
        return lax.cond(x.sum() > 1e6, lambda x: x @ params["v"], lambda x: jnp.tanh(x) @ params["w"], x)

    return apply, {"w": array(4, 4), "v": array(4, 4, seed=1)}, (X,), {}


@member("a b c")
def switch():
    def apply(params, x, which):
        branches = [functools.partial(jnp.matmul, b=params[k]) for k in "abc"]
        return lax.switch(which, [lambda x, f=f: f(x) for f in branches], x)

    return apply, {k: array(4, 4, seed=i) for i, k in enumerate("abc")}, (X, jnp.int32(1)), {}


@member("w")
def lax_map():
    def apply(params, x):
        return lax.map(lambda row: jnp.tanh(row[None] @ params["w"]), x)

    return apply, {"w": array(4, 3)}, (X,), {}


@member("w out")
def associative_scan():
    def apply(params, x):
        gates = jax.nn.sigmoid(x @ params["w"])
        _, h = lax.associative_scan(lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1]), (gates, x), axis=0)
        return h @ params["out"]

    return apply, {"w": array(4, 4), "out": array(4, 2)}, (array(5, 4),), {}


@member("w v")
def checkpoint_policies():
    def apply(params, x):
        dots = jax.checkpoint_policies.dots_saveable
        x = jax.checkpoint(lambda w, x: jnp.tanh(x @ w), policy=dots)(params["w"], x)
        return jax.checkpoint(lambda w, x: jnp.tanh(x @ w), prevent_cse=False)(params["v"], x)

    return apply, {"w": array(4, 4), "v": array(4, 4, seed=1)}, (X,), {}


@jax.custom_vjp
def straight_through(w, x):
    """A layer whose gradient is deliberately not its own."""
    return jnp.round(x @ w)


straight_through.defvjp(
    lambda w, x: (straight_through(w, x), (w, x)),
    lambda saved, g: (7.0 * (saved[1].T @ g), -2.0 * (g @ saved[0].T)),
)


@member("a w b")
def custom_vjp():
    def apply(params, x):
        return straight_through(params["w"], x @ params["a"]) @ params["b"]

    return apply, {k: array(4, 4, seed=i) for i, k in enumerate("awb")}, (X,), {}


@jax.custom_jvp
def doubled(w, x):
    return x @ w


doubled.defjvp(
    lambda primals, tangents: (doubled(*primals), 2.0 * (primals[1] @ tangents[0] + tangents[1] @ primals[0]))
)


@member("a w")
def custom_jvp():
    def apply(params, x):
        return doubled(params["w"], jnp.tanh(x @ params["a"]))

    return apply, {k: array(4, 4, seed=i) for i, k in enumerate("aw")}, (X,), {}


@member("w#0 v w#1")
def gradient_inside():
    """A physics-style network: the output is a derivative of the network with respect to its input."""

    def apply(params, x):
        return jax.grad(lambda x: jnp.sum(jnp.tanh(x @ params["w"]) @ params["v"]))(x)

    return apply, {"w": array(4, 4), "v": array(4, 1, seed=1)}, (X,), {}
