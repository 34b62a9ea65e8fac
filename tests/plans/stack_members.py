"""Heads, experts, stacks and loops: axes that hold kernels apart, and axes that do not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from tests.plans.member import entry, one, plain
from tests.plans.odd_members import TEXT, X, leaves


@entry(one(8, 12, "qkv"))
def fused_qkv_axes():
    """Kernel `(d, 3, h, k)`."""

    def apply(params, x):
        q, k, v = jnp.moveaxis(jnp.einsum("btd,dchk->btchk", x, params["qkv"]), 2, 0)
        scores = jax.nn.softmax(jnp.einsum("bthk,bshk->bhts", q, k))
        return jnp.einsum("bhts,bshk->bthk", scores, v)

    return plain(apply, leaves(qkv=(8, 3, 2, 2)), TEXT)


@entry({"qkv": (8, 24), "out": (8, 4)})
def fused_qkv_columns():
    """Kernel `(d, 3d)`."""

    def apply(params, x):
        q, k, v = (y.reshape(3, 5, 2, 4) for y in jnp.split(x @ params["qkv"], 3, -1))
        scores = jax.nn.softmax(jnp.einsum("bthk,bshk->bhts", q, k))
        return jnp.einsum("bhts,bshk->bthk", scores, v).reshape(3, 5, 8) @ params["out"]

    return plain(apply, leaves(qkv=(8, 24), out=(8, 4)), TEXT)


@entry(one(8, 8, "qkv"))
def fused_qkv_sliced():
    """Kernel `(3, d, d)`, each third in its own contraction."""

    def apply(params, x):
        q, k, v = (x @ params["qkv"][i] for i in range(3))
        return jax.nn.softmax(q @ jnp.swapaxes(k, 1, 2)) @ v

    return plain(apply, leaves(qkv=(3, 8, 8)), TEXT)


@entry({"up": (8, 20), "down": (10, 8)})
def gated():
    def apply(params, x):
        gate, up = jnp.split(x @ params["up"], 2, -1)
        return (jax.nn.silu(gate) * up) @ params["down"]

    return plain(apply, leaves(up=(8, 20), down=(10, 8)), TEXT)


@entry({"up": (8, 20), "down": (10, 8)})
def gated_axis():
    """Kernel `(d, 2, f)`."""

    def apply(params, x):
        both = jnp.einsum("btd,dgf->gbtf", x, params["up"])
        return (jax.nn.silu(both[0]) * both[1]) @ params["down"]

    return plain(apply, leaves(up=(8, 2, 10), down=(10, 8)), TEXT)


@entry(one(6, 6, "w"))
def python_loop_over_a_stack():
    def apply(params, x):
        for i in range(3):
            x = jnp.tanh(x @ params["w"][i])
        return x

    return plain(apply, leaves(w=(3, 6, 6)), X)


@entry(one(6, 6, "w"))
def scanned_along_axis_1():
    def apply(params, x):
        return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, jnp.moveaxis(params["w"], 1, 0))[0]

    return plain(apply, leaves(w=(6, 4, 6)), X)


@entry({"outer": (6, 6), "inner": (6, 6)})
def nested_scans():
    def outer(h, w):
        h = jnp.tanh(h @ w["outer"])
        return lax.scan(lambda h, v: (jnp.tanh(h @ v), None), h, w["inner"])

    return plain(lambda p, x: lax.scan(outer, x, p)[0], leaves(outer=(2, 6, 6), inner=(2, 3, 6, 6)), X)


@entry(one(6, 5, "w"))
def ragged_experts():
    return plain(lambda p, x: lax.ragged_dot(x, p["w"], jnp.array([3, 1, 4])), leaves(w=(3, 6, 5)), X)


@entry({"gate": (8, 3), "up": (8, 5), "down": (5, 8)})
def dispatched_experts():
    def apply(params, x):
        gates = jax.nn.softmax(x @ params["gate"])
        inputs = jnp.einsum("btd,bte->ebtd", x, gates)
        hidden = jax.nn.relu(jnp.einsum("ebtd,edf->ebtf", inputs, params["up"]))
        return (
            jnp.einsum("ebtf,efd->btd", hidden, params["down"])
            if False
            else jnp.einsum("ebtf,efd->ebtd", hidden, params["down"]).sum(0)
        )

    return plain(apply, leaves(gate=(8, 3), up=(3, 8, 5), down=(3, 5, 8)), TEXT)


@entry(one(6, 5, "w"))
def picked_by_the_data():
    """Each example has the kernel of its task."""
    return plain(
        lambda p, x, task: jnp.einsum("bd,bdf->bf", x, p["w"][task]),
        leaves(w=(3, 6, 5)),
        X,
        jnp.arange(8) % 3,
    )


@entry(one(6, 5, "w"))
def one_kernel_picked_by_the_data():
    return plain(lambda p, x, task: x @ p["w"][task], leaves(w=(3, 6, 5)), X, jnp.int32(1))


@entry(one(6, 6, "w"))
def while_loop():
    def apply(params, x):
        return lax.while_loop(lambda s: s[0] < 1, lambda s: (s[0] + 1, s[1] @ params["w"]), (0, x))[1]

    return plain(apply, leaves(w=(6, 6)), X)


@entry(one(6, 5, "w"))
def branches():
    def apply(params, x):
        return lax.cond(x.sum() > 0, lambda: x @ params["w"], lambda: -x @ params["w"])

    return plain(apply, leaves(w=(6, 5)), X)


@entry(one(6, 5, "w"))
def batched_over_examples():
    return plain(lambda p, x: jax.vmap(lambda row: p["w"] @ row)(x), leaves(w=(5, 6)), X)


@entry(one(6, 15, "w"))
def members_of_an_ensemble():
    """One input for three kernels: gradients from all three add up."""
    return plain(lambda p, x: jax.vmap(jnp.matmul, (None, 0))(x, p["w"]), leaves(w=(3, 6, 5)), X)
