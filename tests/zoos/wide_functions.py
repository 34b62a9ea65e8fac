"""Plain functions of the zoo, at any width."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from tests.zoos.member import array
from tests.zoos.wide import Made, ids, image, plain, text, wide, x_of


@wide
def weight_standardised(n: int) -> Made:
    def standardised(w: Any) -> Any:
        return (w - w.mean(0, keepdims=True)) / w.std(0, keepdims=True)

    return plain(
        lambda p, x: jnp.tanh(x @ standardised(p["w"]) / n**0.5) @ standardised(p["v"]), (x_of(n),),
        w=(n, n), v=(n, n),
    )  # fmt: skip


@wide
def concatenated_kernels(n: int) -> Made:
    return plain(
        lambda p, x: x @ jnp.concatenate([p["a"], p["b"]], 1), (x_of(n),), a=(n, n // 2), b=(n, n // 2)
    )


@wide
def fused_qkv(n: int) -> Made:
    def apply(p: Any, x: Any) -> Any:
        q, k, v = jnp.split(x @ p["qkv"], 3, -1)
        return jax.nn.softmax(jnp.einsum("btd,bsd->bts", q, k) / n**0.5) @ v @ p["out"]

    return plain(apply, (text(n),), qkv=(n, 3 * n), out=(n, n))


@wide
def gates_sliced_in_two_dots(n: int) -> Made:
    return plain(
        lambda p, x: (x @ p["w"][:, :n]) * jax.nn.sigmoid(x @ p["w"][:, n:]), (x_of(n),), w=(n, 2 * n)
    )


@wide
def packed_flat_vector(n: int) -> Made:
    def apply(p: Any, x: Any) -> Any:
        flat = p["flat"] / n**0.5
        return jnp.tanh(x @ flat[: n * n].reshape(n, n)) @ flat[n * n :].reshape(n, n)

    return plain(apply, (x_of(n),), flat=(2 * n * n,))


@wide
def drop_connect(n: int) -> Made:
    def apply(p: Any, x: Any, key: Any) -> Any:
        kept = jax.random.bernoulli(key, 0.5, p["w"].shape)
        return x @ jnp.where(kept, p["w"] * 2, jnp.zeros_like(p["w"]))

    return plain(apply, (x_of(n), jax.random.key(0)), w=(n, n))


@wide
def low_rank_adapter(n: int) -> Made:
    return plain(
        lambda p, x: x @ (p["w"] + p["a"] @ p["b"]), (x_of(n),), w=(n, n), a=(n, n // 2), b=(n // 2, n)
    )


@wide
def low_rank_product(n: int) -> Made:
    return plain(lambda p, x: x @ (p["a"] @ p["b"]), (x_of(n),), a=(n, n // 2), b=(n // 2, n))


@wide
def latents(n: int) -> Made:
    def apply(p: Any, x: Any) -> Any:
        latents = jnp.broadcast_to(p["latents"], (4, 3, n))
        q, k, v = latents @ p["query"], x @ p["key"], x @ p["value"]
        return jax.nn.softmax(jnp.einsum("bld,bsd->bls", q, k) / n**0.5) @ v @ p["out"]

    return plain(apply, (text(n),), latents=(3, n), query=(n, n), key=(n, n), value=(n, n), out=(n, n))


@wide
def one_hot_lookup(n: int) -> Made:
    return plain(lambda p, i: jax.nn.one_hot(i, n) @ p["table"] @ p["w"], (ids(n),), table=(n, n), w=(n, n))


@wide
def rms_norm_as_einsum(n: int) -> Made:
    def apply(p: Any, x: Any) -> Any:
        x = x * lax.rsqrt(jnp.mean(x**2, -1, keepdims=True))
        return jnp.einsum("btd,d->btd", x, p["scale"]) @ p["w"]

    return plain(apply, (text(n),), scale=(n,), w=(n, n))


@wide
def frozen_encoder(n: int) -> Made:
    return plain(
        lambda p, x: lax.stop_gradient(jnp.tanh(x @ p["encoder"])) @ p["head"],
        (x_of(n),),
        encoder=(n, n),
        head=(n, n),
    )


@wide
def power_iteration(n: int) -> Made:
    def apply(p: Any, x: Any) -> Any:
        w, u = p["w"], jnp.ones((n,)) / n**0.5
        for _ in range(2):
            v = w @ u
            u = w.T @ (v / jnp.linalg.norm(v))
        return x @ (w / lax.stop_gradient(v @ w @ u))

    return plain(apply, (x_of(n),), w=(n, n))


@wide
def hypernetwork(n: int) -> Made:
    return plain(
        lambda p, x, task: x @ (task @ p["hyper"]).reshape(n, 8), (x_of(n), array(n)), hyper=(n, 8 * n)
    )


@wide
def message_passing(n: int) -> Made:
    def apply(p: Any, x: Any, senders: Any, receivers: Any) -> Any:
        gathered = jax.ops.segment_sum(jnp.tanh(x[senders] @ p["edge"]), receivers, 16)
        return (x + gathered) @ p["node"]

    send, receive = (jax.random.randint(jax.random.key(i), (48,), 0, 16) for i in range(2))
    return plain(apply, (x_of(n), send, receive), edge=(n, n), node=(n, n))


@wide
def diagonal_state_space(n: int) -> Made:
    def apply(p: Any, x: Any) -> Any:
        decay = jnp.exp(-jnp.exp(p["a"]))

        def step(h: Any, u: Any) -> Any:
            h = decay[None] * h + (u @ p["b"])[..., None]
            return h, jnp.einsum("bdn,dn->bd", h, p["c"])

        return lax.scan(step, jnp.zeros((4, n, 8)), jnp.swapaxes(x, 0, 1))[1]

    return plain(apply, (text(n),), a=(n, 8), b=(n, n), c=(n, 8))


@wide
def attention_vector_by_multiply_and_sum(n: int) -> Made:
    def apply(p: Any, x: Any) -> Any:
        heads = (x @ p["w"]).reshape(4, 6, 2, n // 2)
        return jnp.sum(heads * p["attend"][None, None], -1)

    return plain(apply, (text(n),), w=(n, n), attend=(2, n // 2))


@wide
def row_replaced(n: int) -> Made:
    return plain(lambda p, x: x @ p["w"].at[:2].set(p["v"][:2]), (x_of(n),), w=(n, n), v=(n, n))


@wide
def orthogonalised(n: int) -> Made:
    return plain(lambda p, x: x @ jnp.linalg.qr(p["w"])[0], (x_of(n),), w=(n, n))


@wide
def weights_made_in_a_scan(n: int) -> Made:
    def apply(p: Any, x: Any) -> Any:
        _, made = lax.scan(lambda c, w: (c, w * 2.0), 0, p["s"])
        return x @ made[0] @ made[1]

    return plain(apply, (x_of(n),), s=(3, n, n))


@wide
def hard_routing(n: int) -> Made:
    def apply(p: Any, x: Any) -> Any:
        chosen = jnp.argmax(x @ p["w"], -1) % 3
        return jnp.einsum("td,tdf->tf", x, p["s"][chosen])

    return plain(apply, (x_of(n),), w=(n, n), s=(3, n, n))


@wide
def bias_of_several_kinds(n: int) -> Made:
    def apply(p: Any, x: Any) -> Any:
        x = jnp.tanh(x @ p["w"] + p["b"][None])
        return (x @ p["v"]).reshape(16, 2, n) + p["c"][None]

    return plain(apply, (x_of(n),), w=(n, n), b=(n,), v=(n, 2 * n), c=(2, n))


@wide
def pooled_patches(n: int) -> Made:
    """The first layer of a vision model: few inputs, many outputs, and a mean over places."""

    def apply(p: Any, x: Any) -> Any:
        x = lax.conv_general_dilated(x, p["a"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jax.nn.relu(x).mean((1, 2)) @ p["b"]

    return plain(apply, (image(3),), a=(3, 3, 3, n), b=(n, n))
