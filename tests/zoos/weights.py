"""Weights that are computed, shared, packed, sliced or learned signals; and things that are no layer."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests.zoos.layers import IDS, TEXT, X
from tests.zoos.member import array, linen, member


class Normed(nn.Module):
    update: bool = True

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.WeightNorm(nn.Dense(8))(x))
        return nn.SpectralNorm(nn.Dense(8))(x, update_stats=self.update)


@member(
    "params/Dense_0/kernel params/Dense_1/kernel", unused="batch_stats/SpectralNorm_0/Dense_1/kernel/sigma"
)
def weight_and_spectral_norm():
    return linen(Normed(), TEXT, mutable=["batch_stats"])


@member(
    "params/Dense_0/kernel params/Dense_1/kernel", unused="batch_stats/SpectralNorm_0/Dense_1/kernel/sigma"
)
def spectral_norm_without_update():
    return linen(Normed(False), TEXT)


def _plain(apply, params, *inputs):
    return apply, params, inputs, {}


@member("w v")
def weight_standardised():
    def standardised(w):
        return (w - w.mean(0, keepdims=True)) / w.std(0, keepdims=True)

    return _plain(
        lambda p, x: jnp.tanh(x @ standardised(p["w"])) @ standardised(p["v"]),
        {"w": array(4, 5), "v": array(5, 5)},
        X,
    )


@member("a b")
def concatenated_kernels():
    return _plain(
        lambda p, x: x @ jnp.concatenate([p["a"], p["b"]], 1), {"a": array(4, 2), "b": array(4, 3)}, X
    )


@member("qkv out")
def fused_qkv():
    def apply(params, x):
        q, k, v = jnp.split(x @ params["qkv"], 3, -1)
        return jax.nn.softmax(jnp.einsum("btd,bsd->bts", q, k)) @ v @ params["out"]

    return _plain(apply, {"qkv": array(8, 12), "out": array(4, 2)}, TEXT)


@member("w#0 w#1")
def gates_sliced_in_two_dots():
    return _plain(lambda p, x: (x @ p["w"][:, :3]) * jax.nn.sigmoid(x @ p["w"][:, 3:]), {"w": array(4, 6)}, X)


@member("flat#0 flat#1")
def packed_flat_vector():
    def apply(params, x):
        flat = params["flat"]
        return jnp.tanh(x @ flat[:20].reshape(4, 5) + flat[20:25][None]) @ flat[25:35].reshape(5, 2)

    return _plain(apply, {"flat": array(35)}, X)


@member("w")
def drop_connect():
    def apply(params, x, key):
        kept = jax.random.bernoulli(key, 0.5, params["w"].shape)
        return x @ jnp.where(kept, params["w"] * 2, jnp.zeros_like(params["w"]))

    return _plain(apply, {"w": array(4, 5)}, X, jax.random.key(0))


@member("gate up down")
def mixture_of_experts():
    def apply(params, x):
        gates = jax.nn.softmax(jnp.einsum("td,de->te", x, params["gate"]))
        top, chosen = jax.lax.top_k(gates, 2)
        routes = jax.nn.one_hot(chosen, 3)
        dispatch = routes.sum(1)
        inputs = jnp.einsum("td,te->etd", x, dispatch)
        hidden = jax.nn.relu(jnp.einsum("etd,edf->etf", inputs, params["up"]))
        outputs = jnp.einsum("etf,efd->etd", hidden, params["down"])
        return jnp.einsum("etd,tke,tk->td", outputs, routes, top)

    return _plain(apply, {"gate": array(4, 3), "up": array(3, 4, 5), "down": array(3, 5, 4)}, X)


@member("w", not_followed="a b")
def low_rank_adapter():
    return _plain(
        lambda p, x: x @ (p["w"] + p["a"] @ p["b"]), {"w": array(4, 5), "a": array(4, 2), "b": array(2, 5)}, X
    )


@member("a b")
def low_rank_in_steps():
    return _plain(lambda p, x: (x @ p["a"]) @ p["b"], {"a": array(4, 2), "b": array(2, 5)}, X)


@member("a b")
def low_rank_product():
    return _plain(lambda p, x: x @ (p["a"] @ p["b"]), {"a": array(4, 2), "b": array(2, 5)}, X)


@member("query key value out")
def latents():
    def apply(params, x):
        latents = jnp.broadcast_to(params["latents"], (2, 3, 6))
        q, k, v = latents @ params["query"], x @ params["key"], x @ params["value"]
        return jax.nn.softmax(jnp.einsum("bld,bsd->bls", q, k)) @ v @ params["out"]

    sizes = {"latents": (3, 6), "query": (6, 4), "key": (8, 4), "value": (8, 4), "out": (4, 2)}
    return _plain(apply, {k: array(*s, seed=i) for i, (k, s) in enumerate(sizes.items())}, TEXT)


@member("table w")
def one_hot_lookup():
    return _plain(
        lambda p, i: jax.nn.one_hot(i, 7) @ p["table"] @ p["w"], {"table": array(7, 8), "w": array(8, 2)}, IDS
    )


@member("w")
def rms_norm_as_einsum():
    def apply(params, x):
        x = x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True))
        return jnp.einsum("btd,d->btd", x, params["scale"]) @ params["w"]

    return _plain(apply, {"scale": array(8), "w": array(8, 2)}, TEXT)


@member("w", unused="dead half")
def dead_parameters():
    def apply(params, x):
        params["half"] @ x.T  # traced, and used by nothing
        return x @ params["w"]

    return _plain(apply, {"w": array(4, 2), "dead": array(4, 4), "half": array(4, 4)}, X)


@member("encoder head")
def frozen_encoder():
    return _plain(
        lambda p, x: jax.lax.stop_gradient(jnp.tanh(x @ p["encoder"])) @ p["head"],
        {"encoder": array(4, 5), "head": array(5, 2)}, X,
    )  # fmt: skip


@member("encoder head")
def frozen_parameters():
    return _plain(
        lambda p, x: jnp.tanh(x @ jax.lax.stop_gradient(p["encoder"])) @ p["head"],
        {"encoder": array(4, 5), "head": array(5, 2)}, X,
    )  # fmt: skip


@member("w")
def power_iteration():
    def apply(params, x):
        w, u = params["w"], jnp.ones((5,)) / 5**0.5
        for _ in range(2):
            v = w @ u
            u = w.T @ (v / jnp.linalg.norm(v))
        sigma = jax.lax.stop_gradient(v @ w @ u)
        return x @ (w / sigma)

    return _plain(apply, {"w": array(4, 5)}, X)


@member("hyper")
def hypernetwork():
    def apply(params, x, task):
        made = (task @ params["hyper"]).reshape(4, 2)
        return x @ made

    return _plain(apply, {"hyper": array(3, 8)}, X, array(3))


@member("edge node")
def message_passing():
    def apply(params, x, senders, receivers):
        messages = jnp.tanh(x[senders] @ params["edge"])
        gathered = jax.ops.segment_sum(messages, receivers, 3)
        return (x + gathered.at[0].add(1.0)) @ params["node"]

    return _plain(
        apply, {"edge": array(4, 4), "node": array(4, 2)}, X, jnp.array([0, 1, 1, 2]), jnp.array([1, 0, 2, 0])
    )


@member("w", not_followed="filter")
def fourier_layer():
    def apply(params, x):
        spectrum = jnp.fft.rfft(x, axis=1) * params["filter"][None].astype(jnp.complex64)
        return jnp.fft.irfft(spectrum, 5, axis=1) @ params["w"]

    return _plain(apply, {"filter": array(3, 8), "w": array(8, 2)}, TEXT)


@member("b c", not_followed="a")
def diagonal_state_space():
    def apply(params, x):
        decay = jnp.exp(-jnp.exp(params["a"]))

        def step(h, u):
            h = decay[None] * h + (u @ params["b"])[..., None]
            return h, jnp.einsum("bdn,dn->bd", h, params["c"])

        return jax.lax.scan(step, jnp.zeros((2, 4, 3)), jnp.swapaxes(x, 0, 1))[1]

    return _plain(apply, {"a": array(4, 3), "b": array(8, 4), "c": array(4, 3)}, TEXT)


@member("w", not_followed="attend")
def attention_vector_by_multiply_and_sum():
    def apply(params, x):
        heads = (x @ params["w"]).reshape(2, 5, 2, 3)
        return jnp.sum(heads * params["attend"][None, None], -1)

    return _plain(apply, {"w": array(8, 6), "attend": array(2, 3)}, TEXT)


@member("w", not_followed="called")
def pure_callback():
    def apply(params, x):
        def product(w, x):
            return np.asarray(x) @ np.asarray(w)

        w = jax.lax.stop_gradient(params["called"])
        out = jax.ShapeDtypeStruct((3, 4), jnp.float32)
        return (
            jax.pure_callback(product, out, w, jax.lax.stop_gradient(x), vmap_method="sequential")
            @ params["w"]
        )

    return _plain(apply, {"called": array(4, 4), "w": array(4, 2)}, X)


@member("w#0 w#1")
def complex_from_two_leaves():
    """One complex kernel from two real leaves, used twice."""

    def apply(params, x):
        w = jax.lax.complex(params["w"], params["w"])
        return jnp.abs(x.astype(jnp.complex64) @ w) @ params["w"]

    return _plain(apply, {"w": array(4, 4)}, X)


@member("w v")
def bias_of_several_kinds():
    """A bias inside jit, and one reshaped after it."""

    @jax.jit
    def biased(x, b):
        return x + jnp.broadcast_to(b, x.shape)

    def apply(params, x):
        x = jnp.tanh(biased(x @ params["w"], params["b"]))
        return (x @ params["v"]).reshape(3, 2, 3) + params["c"][None]

    sizes = {"w": (4, 5), "b": (5,), "v": (5, 6), "c": (2, 3)}
    return _plain(apply, {k: array(*s, seed=i) for i, (k, s) in enumerate(sizes.items())}, X)
