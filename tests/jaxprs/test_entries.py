"""Entries are where the program itself puts them: each function is run on the indices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jinit.jaxprs.entries import Entries
from jinit.jaxprs.sites import analyse_sites
from jinit.jaxprs.tracing import split, trace

W = jnp.arange(48.0).reshape(2, 4, 6)
MOVES = {
    "slice": lambda w: w[1, :, 1:5],
    "strided": lambda w: w[0, ::2, ::3].T,
    "dynamic": lambda w: lax.dynamic_index_in_dim(w, jnp.int32(-1), keepdims=False)[:, :4],
    "packed": lambda w: w.reshape(-1)[5:25].reshape(5, 4).T,
    "transposed": lambda w: w.transpose(2, 0, 1)[3],
    "flipped": lambda w: jnp.flip(w[1], 0),
    "split": lambda w: jnp.split(w, 3, axis=2)[1][0],
    "concatenated": lambda w: jnp.concatenate([w[0], w[1]], 1),
    "repeated": lambda w: jnp.broadcast_to(w[0, 0][None], (4, 6)),
    "jitted": lambda w: jax.jit(lambda w: w[0])(w),
    "stacked anew": lambda w: lax.scan(lambda c, x: (c, x.T), 0, w)[1][1].T,
}


def look(apply, params=W):
    signature, arrays = split({"w": params}, (jnp.ones((3, 4)),), {})
    program = trace(apply, signature, arrays, caller="test")
    analysis = analyse_sites(program)
    return analysis, Entries(analysis.graph, analysis.flow, [params.shape])


@pytest.mark.parametrize("name", MOVES)
def test_moves(name):
    move = MOVES[name]
    analysis, entries = look(lambda p, x: x[:, : move(W).shape[0]] @ move(p["w"]))
    (node,) = analysis.layers
    indices, placed = entries.of(node.ins[1], 0, ())
    assert placed
    np.testing.assert_array_equal(indices, np.asarray(move(W)).astype(int))


@pytest.mark.parametrize("axis", [0, 1])
def test_steps_of_a_scan_stay_apart(axis):
    square = W[:, :, :4]

    def apply(p, x):
        stack = jnp.moveaxis(p["w"], axis, 0)
        if axis:
            return lax.scan(lambda h, w: (h[:, :2] @ w @ jnp.ones((4, 4)), None), x, stack)[0]
        return lax.scan(lambda h, w: (h @ w, None), x, stack)[0]

    analysis, entries = look(apply, square)
    node = analysis.layers[0]
    indices, placed = entries.of(node.ins[1], 0, node.lengths)
    assert placed
    expected = np.moveaxis(np.arange(32).reshape(2, 4, 4), axis, 0)
    np.testing.assert_array_equal(indices, expected)
    assert entries.stack_depth(node.ins[1], 0) == (1 if axis == 0 else None)


def test_what_mixes_entries_keeps_them_in_no_order():
    analysis, entries = look(lambda p, x: x @ jnp.linalg.qr(p["w"][0])[0])
    indices, placed = entries.of(analysis.layers[0].ins[1], 0, ())
    assert not placed
    assert set(indices.reshape(-1)) == set(range(24))


def test_what_is_the_same_at_every_step_is_repeated():
    analysis, entries = look(lambda p, x: lax.scan(lambda h, _: (h @ p["w"][0, :, :4], None), x, length=3)[0])
    node = analysis.layers[0]
    indices, _ = entries.of(node.ins[1], 0, node.lengths)
    assert indices.shape == (3, 4, 4)
    np.testing.assert_array_equal(indices[0], indices[2])
    assert entries.stack_depth(node.ins[1], 0) == 0
