"""Programs at the edges: control flow in control flow, kernels that cannot be entered, odd outputs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec as P

from tests.zoos.devices import mesh
from tests.zoos.loops import straight_through
from tests.zoos.member import array, member

X = array(4, 4, seed=9)
SIZES = {"w": (4, 4), "v": (4, 4), "s": (3, 4, 4)}


def corner(sites, *, params, **options):
    """Enters `apply(params, x)` into the zoo with the parameters of these names."""

    def enter(apply):
        def make():
            return apply, {k: array(*SIZES[k], seed=i, scale=0.5) for i, k in enumerate(params)}, (X,), {}

        make.__name__ = apply.__name__
        member(sites, **options)(make)
        return apply

    return enter


@corner("w", params="w")
def outputs_that_are_constants(p, x):
    return x @ p["w"], 1.0, 2, jnp.arange(3), None, x


@corner("w", params="w")
def one_output_twice(p, x):
    y = x @ p["w"]
    return y, y


@corner("w", params="w")
def empty_batch(p, x):
    return x[:0] @ p["w"]


@corner("s", params="s")
def debug_callback(p, x):
    """An equation that has no result, outside of the loop and inside."""

    def step(h, w):
        jax.debug.callback(lambda h: None, h)
        return jnp.tanh(h @ w), None

    jax.debug.callback(lambda x: None, x)
    return lax.scan(step, x, p["s"])[0]


@corner("s w", params="sw")
def scan_in_cond_in_scan(p, x):
    def inner(h):
        return lax.scan(lambda h, _: (jnp.tanh(h @ p["w"]), None), h, None, length=2)[0]

    def step(h, w):
        return lax.cond(h.sum() > 0, inner, lambda h: jnp.sin(h @ w), h), None

    return lax.scan(step, x, p["s"])[0]


@corner("s v", params="sv")
def custom_vjp_in_scan(p, x):
    return lax.scan(lambda h, w: (jnp.tanh(straight_through(w, h) @ p["v"]), None), x, p["s"])[0]


@corner("w v", params="wv")
def custom_vjp_in_remat(p, x):
    return jax.checkpoint(straight_through)(p["w"], x) @ p["v"]


def _by_rows(f, check=True):
    return jax.shard_map(f, mesh=mesh(), in_specs=(P("d"), P()), out_specs=P("d"), check_vma=check)


@corner("s", params="s")
def shard_map_in_scan(p, x):
    f = _by_rows(lambda x, w: jnp.tanh(x @ w))
    return lax.scan(lambda h, w: (f(h, w), None), x, p["s"])[0]


@corner("s", params="s")
def scan_in_shard_map(p, x):
    return _by_rows(lambda x, s: lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, s)[0])(x, p["s"])


@corner("w", params="w", backward=False)
def while_in_shard_map(p, x):
    def run(x, w):
        return lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, jnp.tanh(s[1] @ w)), (0, x))[1]

    return _by_rows(run)(x, p["w"])


@corner("w", params="w")
def remat_in_shard_map(p, x):
    return _by_rows(jax.checkpoint(lambda x, w: jnp.tanh(x @ w)))(x, p["w"])


@corner("w", params="w")
def custom_vjp_in_shard_map(p, x):
    return _by_rows(lambda x, w: straight_through(w, x), check=False)(x, p["w"])


@corner("w", params="w")
def shard_map_over_one_of_two_axes(p, x):
    both = jax.sharding.Mesh(np.array(jax.devices("cpu")[:4]).reshape(2, 2), ("d", "m"))
    f = jax.shard_map(
        lambda x, w: jnp.tanh(x @ w), mesh=both, in_specs=(P("d"), P()), out_specs=P("d"), axis_names={"d"}
    )
    return jax.jit(f)(x, p["w"])


@corner("v", params="wv", not_followed="w")
def pallas_kernel(p, x):
    def kernel(x, w, out):
        out[...] = x[...] @ w[...]

    shape = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    w, x = lax.stop_gradient((p["w"], x))
    return pl.pallas_call(kernel, out_shape=shape, interpret=True)(x, w) @ p["v"]


@corner("s", params="s")
def ragged_experts(p, x):
    return lax.ragged_dot(x, p["s"], jnp.array([1, 2, 1]))


@corner("w s", params="ws")
def hard_routing(p, x):
    chosen = jnp.argmax(x @ p["w"], -1) % 3
    return jnp.einsum("td,tdf->tf", x, p["s"][chosen])


@corner("w#0 w#1 w#2", params="w")
def hessian_inside(p, x):
    return jax.hessian(lambda x: jnp.sum(jnp.tanh(x @ p["w"])))(x[0])


@corner("v", params="wv", not_followed="w")
def linear_solve(p, x):
    return jnp.linalg.solve(p["w"], x.T).T @ p["v"]


@corner("v w", params="wv")
def row_replaced(p, x):
    return x @ p["w"].at[:2].set(p["v"][:2])


@corner("w", params="w")
def orthogonalised(p, x):
    return x @ jnp.linalg.qr(p["w"])[0]


@corner("s#0 s#1", params="s")
def weights_made_in_a_scan(p, x):
    _, made = lax.scan(lambda c, w: (c, w * 2.0), 0, p["s"])
    return x @ made[0] @ made[1]


@corner("w#0 w#1", params="w")
def map_in_batches(p, x):
    return lax.map(lambda row: row @ p["w"], x[:3], batch_size=2)
