"""Weights that are sliced, packed, shared, scaled, masked, computed or learned as signals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import block_diag

from tests.plans.member import enter, entry, one, plain
from tests.zoos.member import array

X = array(8, 6)
TEXT = array(3, 5, 8)


def leaves(**shapes):
    return {name: array(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}


def odd(name, apply, params, *inputs, fans=None, **roles):
    enter(name, lambda: plain(apply, params, *inputs), fans, **roles)


odd("left_operand", lambda p, x: p["w"] @ x.T, leaves(w=(5, 6)), X, fans=one(6, 5, "w"))
odd("transposed", lambda p, x: x @ p["w"].T, leaves(w=(5, 6)), X, fans=one(6, 5, "w"))
odd(
    "cast",
    lambda p, x: x.astype(jnp.bfloat16) @ p["w"].astype(jnp.bfloat16),
    leaves(w=(6, 5)),
    X,
    fans=one(6, 5, "w"),
)
odd("scaled", lambda p, x: x @ (p["w"] * 0.5), leaves(w=(6, 5)), X, fans=one(1.5, 1.25, "w"))
odd("negated_and_divided", lambda p, x: x @ (-p["w"] / 2.0), leaves(w=(6, 5)), X, fans=one(1.5, 1.25, "w"))
odd(
    "equalised_learning_rate",
    lambda p, x: jnp.tanh(x @ (p["w"] * jnp.sqrt(2.0 / 6))) @ (p["v"] / np.float32(5**0.5)),
    leaves(w=(6, 5), v=(5, 3)), X, fans={"w": (2, 5 / 3), "v": (1, 3 / 5)},
)  # fmt: skip
odd("autoencoder", lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"].T, leaves(w=(6, 4)), X, fans=one(6, 4, "w"))
odd("reversed_rows", lambda p, x: x @ p["w"][::-1], leaves(w=(6, 5)), X, fans=one(6, 5, "w"))
odd("half_of_the_rows", lambda p, x: x[:, :3] @ p["w"][3:], leaves(w=(6, 5)), X, fans=one(3, 5, "w"))
BOTH = {"a": (6, 5), "b": (6, 5)}
odd(
    "concatenated_inputs", lambda p, x: x @ jnp.concatenate([p["a"], p["b"]]),
    leaves(a=(2, 5), b=(4, 5)), X, fans=BOTH,
)  # fmt: skip
odd(
    "concatenated_outputs", lambda p, x: x @ jnp.concatenate([p["a"], p["b"]], 1),
    leaves(a=(6, 2), b=(6, 3)), X, fans=BOTH,
)  # fmt: skip
odd(
    "stacked_outputs", lambda p, x: jnp.einsum("bi,iko->bko", x, jnp.stack([p["a"], p["b"]], 1)),
    leaves(a=(6, 5), b=(6, 5)), X, fans={"a": (6, 10), "b": (6, 10)},
)  # fmt: skip
odd(
    "unstacked_experts", lambda p, x: sum(x @ w for w in jnp.unstack(p["w"], axis=1)),
    leaves(w=(6, 3, 5)), X, fans=one(6, 5, "w"),
)  # fmt: skip
odd("summed_kernels", lambda p, x: x @ (p["a"] + p["b"]), leaves(a=(6, 5), b=(6, 5)), X, fans=BOTH)


@entry(one(6, 5, "flat"))
def packed_flat_vector():
    def apply(params, x):
        flat = params["flat"]
        return jnp.tanh(x @ flat[:30].reshape(6, 5) + flat[30:35][None]) @ flat[35:50].reshape(5, 3)

    return plain(apply, leaves(flat=(50,)), X)


# Zeros laid beside the entries take no part in a sum.
BLOCKS = leaves(a=(3, 2), b=(3, 2))
odd("block_diagonal", lambda p, x: x @ block_diag(p["a"], p["b"]), BLOCKS, X, fans={"a": (3, 2), "b": (3, 2)})
odd(
    "block_diagonal_scaled", lambda p, x: x @ (block_diag(p["a"] * 2.0, p["b"] * 2.0) * 0.25), BLOCKS, X,
    fans={"a": (0.75, 0.5), "b": (0.75, 0.5)},
)  # fmt: skip
odd(
    "block_diagonal_masked",
    lambda p, x: x @ (block_diag(p["a"], p["b"]) * np.kron(np.eye(2), np.ones((3, 2))).astype(np.float32)),
    BLOCKS, X, fans={"a": (3, 2), "b": (3, 2)},
)  # fmt: skip
odd(
    "blocks", lambda p, x: x @ jnp.block([[p["a"], jnp.zeros((3, 2))], [jnp.zeros((3, 2)), p["b"]]]),
    BLOCKS, X, fans={"a": (3, 2), "b": (3, 2)},
)  # fmt: skip
odd(
    "written_into_zeros", lambda p, x: x @ jnp.zeros((6, 4)).at[:3, :2].set(p["a"]).at[3:, 2:].set(p["b"]),
    BLOCKS, X, fans={"a": (3, 2), "b": (3, 2)},
)  # fmt: skip
odd(
    "convolution_of_blocks",
    lambda p, x: lax.conv_general_dilated(
        x, jax.vmap(block_diag)(p["a"], p["b"]), (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    ),
    leaves(a=(3, 3, 2), b=(3, 3, 2)), array(2, 9, 6), fans={"a": (9, 6), "b": (9, 6)},
)  # fmt: skip


@entry(one(1, None, "table"))
def one_hot():
    return plain(lambda p, ids: jax.nn.one_hot(ids, 7) @ p["table"], leaves(table=(7, 6)), jnp.arange(5))


@entry({"a": (6, 3), "b": (3, 5)})
def low_rank_product():
    return plain(lambda p, x: x @ (p["a"] @ p["b"]), leaves(a=(6, 3), b=(3, 5)), X)


@entry({"w": (6, 5), "a": (6, 3), "b": (3, 5)})
def low_rank_adapter():
    return plain(lambda p, x: x @ (p["w"] + p["a"] @ p["b"]), leaves(w=(6, 5), a=(6, 3), b=(3, 5)), X)


@entry({"u": (6, 3), "v": (3, 5)}, scale="s")
def singular_values():
    return plain(lambda p, x: x @ ((p["u"] * p["s"][None]) @ p["v"]), leaves(u=(6, 3), s=(3,), v=(3, 5)), X)


@entry({"a": (36, 18), "b": (2, 5)})
def low_rank_convolution():
    def apply(params, x):
        kernel = (params["a"] @ params["b"]).reshape(3, 3, 4, 5)
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)

    return plain(apply, leaves(a=(36, 2), b=(2, 5)), array(2, 8, 8, 4))


@entry(one(3, 3, "w"))
def masked():
    """Half of the entries are held at zero."""
    mask = np.asarray(np.indices((6, 6)).sum(0) % 2, np.float32)
    return plain(lambda p, x: x @ (p["w"] * mask), leaves(w=(6, 6)), X)


@entry(one(3.5, 3.5, "w"))
def masked_triangle():
    """An autoregressive mask, made in the program."""
    return plain(lambda p, x: x @ jnp.tril(p["w"]), leaves(w=(6, 6)), X)


@entry(one(3, 3, "w"))
def masked_by_select():
    mask = np.indices((6, 6)).sum(0) % 2 == 1
    return plain(lambda p, x: x @ jnp.where(mask, p["w"], 0.0), leaves(w=(6, 6)), X)


@entry({"re": (6, 5), "im": (6, 5)})
def complex_pair():
    def apply(params, x):
        return jnp.abs(x.astype(jnp.complex64) @ lax.complex(params["re"], params["im"]))

    return plain(apply, leaves(re=(6, 5), im=(6, 5)), X)


@entry(one(6, 5, "w"))
def standardised():
    def apply(params, x):
        w = params["w"]
        return x @ ((w - w.mean(0, keepdims=True)) / (w.std(0, keepdims=True) + 1e-5))

    return plain(apply, leaves(w=(6, 5)), X)


@entry(one(6, 5, "v"), scale="g")
def weight_normalised():
    def apply(params, x):
        v = params["v"]
        return x @ (v * (params["g"][None] / jnp.linalg.norm(v, axis=0, keepdims=True)))

    return plain(apply, leaves(v=(6, 5), g=(5,)), X)


@entry(one(6, 5, "w"))
def positive():
    return plain(lambda p, x: x @ jax.nn.softplus(p["w"]), leaves(w=(6, 5)), X)


@entry({"query": (8, 4), "key": (8, 4), "out": (8, 2)}, bias="bias", other="tokens")
def learned_queries():
    def apply(params, x):
        tokens = jnp.broadcast_to(params["tokens"], (3, 7, 8))
        queries = tokens @ params["query"] + params["bias"][None, None]
        scores = jnp.einsum("bqk,btk->bqt", queries, x @ params["key"])
        return jax.nn.softmax(scores) @ x @ params["out"]

    return plain(apply, leaves(tokens=(7, 8), query=(8, 4), bias=(4,), key=(8, 4), out=(8, 2)), TEXT)


@entry({"w": (8, 4), "v": (8, 4)}, scale="scale", bias="bias", other="tokens")
def learned_tokens_normalised():
    def apply(params, x):
        tokens = jax.nn.standardize(params["tokens"]) * params["scale"][None] + params["bias"][None]
        return tokens @ params["w"] + (x @ params["v"]).mean(1)[:1]

    return plain(apply, leaves(tokens=(7, 8), scale=(8,), bias=(8,), w=(8, 4), v=(8, 4)), TEXT)


@entry(one(8, 4, "w"), scale="scale gate", bias="shift")
def scales():
    def apply(params, x):
        x = jnp.einsum("btd,d->btd", x, params["scale"])
        return jax.nn.sigmoid(params["gate"]) * (x @ params["w"]) + params["shift"]

    return plain(apply, {**leaves(scale=(8,), w=(8, 4)), "gate": array(), "shift": array(seed=1)}, TEXT)


@entry(one(18, 5, "w"))
def convolution_by_patches():
    """A 3×3 kernel as a matrix."""

    def apply(params, x):
        patches = lax.conv_general_dilated_patches(x, (3, 3), (1, 1), "VALID")
        return jnp.einsum("bkhw,kf->bhwf", patches, params["w"].reshape(18, 5))

    return plain(apply, leaves(w=(2, 3, 3, 5)), array(2, 2, 6, 6))


@entry(one(6, 5, "w"))
def convolution_of_a_matrix():
    def apply(params, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, params["w"][None, None], (1, 1), "SAME", dimension_numbers=numbers)

    return plain(apply, leaves(w=(6, 5)), array(2, 3, 3, 6))


odd(
    "grouped_by_batch",
    lambda p, x: lax.conv_general_dilated(x, p["w"], (1,), "SAME", batch_group_count=2),
    leaves(w=(6, 4, 3)), array(8, 4, 9), fans=one(12, 9, "w"),
)  # fmt: skip
