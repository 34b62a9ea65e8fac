"""Floating-point operations: by hand, and as XLA counts them where it can."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jinit.calibrate.operations import operations
from tests.zoo import array

X, W = array(32, 64, seed=0), array(64, 64, seed=1)
PRODUCT, ENTRIES = 2 * 32 * 64 * 64, 32 * 64


def dense(w, x):
    return jnp.tanh(x @ w)


def loop(w, x, low=0, high=7):
    return lax.fori_loop(low, high, lambda _, h: dense(w, h), x)


def branches(w, x):
    return lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w)


COUNTED = {
    "product": (lambda w, x: x @ w, PRODUCT),
    "layer": (dense, PRODUCT + ENTRIES),
    "jit": (jax.jit(dense), PRODUCT + ENTRIES),
    "scan": (loop, 7 * (PRODUCT + ENTRIES)),
    "while": (lambda w, x: loop(w, x, 0, x[0, 0].astype(jnp.int32)), PRODUCT + ENTRIES),
    "cond": (branches, 2 * PRODUCT + 1),
    "remat": (jax.checkpoint(dense), PRODUCT + ENTRIES),
    "moved": (lambda w, x: jnp.concatenate([x, w])[:3].T.reshape(-1), 0),
    "unused": (jax.jit(lambda w, x: (x @ w, x)[1]), 0),
    "batched product": (lambda w, x: jnp.einsum("bi,bij->bj", x[:, :8], array(32, 8, 4)), 2 * 32 * 8 * 4),
    "sum": (lambda w, x: jnp.sum(x), ENTRIES),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTED)
def test_counts_by_hand(name):
    function, expected = COUNTED[name]
    assert operations(function, W, X) == expected


def test_iterations_of_the_outer_loop_alone():
    def nested(w, x):
        return lax.while_loop(lambda h: h[0, 0] > 0, lambda h: loop(w, h, 0, h.astype(jnp.int32)[0, 0]), x)

    once, often = (operations(nested, W, X, iterations=n) for n in (1, 5))
    assert often == 5 * once


@pytest.mark.parametrize("strides", [1, 2])
def test_convolutions(strides):
    x, kernel = array(4, 16, 16, 3), array(3, 3, 3, 8)

    def convolve(kernel, x):
        return lax.conv_general_dilated(
            x, kernel, (strides, strides), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    shape = convolve(kernel, x).shape
    assert operations(convolve, kernel, x) == 2 * math.prod(shape) * 3 * 3 * 3
    found = jax.jit(convolve).lower(kernel, x).cost_analysis()
    np.testing.assert_allclose(operations(convolve, kernel, x), found["flops"], rtol=1e-6)


def test_as_xla_counts_where_there_is_no_loop():
    def loss(w, x):
        return jnp.sum(dense(w, dense(w, x)))

    for function in (loss, jax.grad(loss)):
        expected = jax.jit(function).lower(W, X).cost_analysis()["flops"]
        np.testing.assert_allclose(operations(function, W, X), expected, rtol=0.02)


def test_what_cannot_be_looked_into():
    def called_back(w, x):
        return jax.pure_callback(np.tanh, jax.ShapeDtypeStruct(x.shape, x.dtype), x) @ w

    assert math.isnan(operations(called_back, W, X))
