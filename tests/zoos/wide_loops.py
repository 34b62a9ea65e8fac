"""Modules of equinox, and the loops of the zoo, at any width."""

from __future__ import annotations

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from tests.zoos.loops import doubled, straight_through
from tests.zoos.member import array
from tests.zoos.wide import Made, module, plain, text, wide, x_of


def _of_equinox(make: Any, run: Any, *inputs: Any) -> Made:
    shapes, whole = module(make)
    return lambda p, *x: run(whole(p), *x), shapes, inputs, {}


@wide
def equinox_conv(n: int) -> Made:
    return _of_equinox(
        functools.partial(eqx.nn.Conv2d, n, n, 3), lambda m, x: jax.vmap(m)(x), array(4, n, 8, 8)
    )


@wide
def equinox_attention(n: int) -> Made:
    make = functools.partial(eqx.nn.MultiheadAttention, 2, n, inference=True)
    return _of_equinox(make, lambda m, x: jax.vmap(lambda x: m(x, x, x))(x), text(n))


@wide
def equinox_gru(n: int) -> Made:
    def unroll(cell: Any, x: Any) -> Any:
        return lax.scan(lambda h, x: (cell(x, h), None), jnp.zeros(n), x)[0]

    make = functools.partial(eqx.nn.GRUCell, n, n)
    return _of_equinox(make, lambda m, x: jax.vmap(functools.partial(unroll, m))(x), text(n))


@wide
def loop_over_slices(n: int) -> Made:
    def apply(p: Any, x: Any) -> Any:
        for i in range(3):
            x = jnp.tanh(x @ p["w"][i] + p["b"][i][None])
        return x

    return plain(apply, (x_of(n),), w=(3, n, n), b=(3, n))


@wide
def scan_with_outputs(n: int) -> Made:
    def apply(p: Any, x: Any) -> Any:
        return lax.scan(lambda h, q: ((y := jnp.tanh(h @ q["w"] + q["b"][None])), y.sum()), x, p)

    return plain(apply, (x_of(n),), w=(3, n, n), b=(3, n))


@wide
def scan_over_time(n: int) -> Made:
    def apply(p: Any, x: Any) -> Any:
        return lax.scan(lambda h, x: (jnp.tanh(h @ p["w"] + x), h), x[0], x)

    return plain(apply, (array(5, 8, n),), w=(n, n))


@wide
def nested_scan(n: int) -> Made:
    def outer(h: Any, w: Any) -> Any:
        h = jnp.tanh(h @ w["outer"])
        return lax.scan(lambda h, v: (jnp.tanh(h @ v), None), h, w["inner"])

    return plain(lambda p, x: lax.scan(outer, x, p)[0], (x_of(n),), outer=(2, n, n), inner=(2, 3, n, n))


@wide
def fori_loop(n: int) -> Made:
    def apply(p: Any, x: Any) -> Any:
        return lax.fori_loop(0, 3, lambda i, h: jnp.tanh(h @ p["w"][i] + p["b"][i][None]), x)

    return plain(apply, (x_of(n),), w=(3, n, n), b=(3, n))


@wide
def lax_map(n: int) -> Made:
    return plain(
        lambda p, x: lax.map(lambda row: jnp.tanh(row[None] @ p["w"]), x) @ p["v"],
        (x_of(n),),
        w=(n, n),
        v=(n, n),
    )


@wide
def associative_scan(n: int) -> Made:
    def apply(p: Any, x: Any) -> Any:
        gates = jax.nn.sigmoid(x @ p["w"])
        _, h = lax.associative_scan(lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1]), (gates, x), axis=0)
        return h @ p["out"]

    return plain(apply, (x_of(n)[:5],), w=(n, n), out=(n, n))


@wide
def custom_vjp(n: int) -> Made:
    return plain(
        lambda p, x: straight_through(p["w"], x @ p["a"]) @ p["b"], (x_of(n),), a=(n, n), w=(n, n), b=(n, n)
    )


@wide
def custom_jvp(n: int) -> Made:
    return plain(lambda p, x: doubled(p["w"], jnp.tanh(x @ p["a"])), (x_of(n),), a=(n, n), w=(n, n))


@wide
def gradient_inside(n: int) -> Made:
    def apply(p: Any, x: Any) -> Any:
        return jax.grad(lambda x: jnp.sum(jnp.tanh(x @ p["w"]) @ p["v"]))(x)

    return plain(apply, (x_of(n),), w=(n, n), v=(n, 1))
