"""`jit`, `vmap` and derivatives of what is predicted, by variances and masks that are traced."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit

TOKENS, WIDTH = 6, 16
PARAMS = {name: jax.ShapeDtypeStruct((WIDTH, WIDTH), "float32") for name in "qkv"}
X = jax.ShapeDtypeStruct((4, TOKENS, WIDTH), "float32")
CAUSAL = np.tril(np.ones((1, TOKENS, TOKENS), bool))


def attention(p, x, mask=None):
    scores = (x @ p["q"]) @ jnp.swapaxes(x @ p["k"], -1, -2) / WIDTH**0.5
    scores = scores if mask is None else jnp.where(mask, scores, -jnp.inf)
    return jax.nn.softmax(scores) @ (x @ p["v"])


def both(variance, *mask):
    records = jinit.predict(attention, weights=lambda path: variance / WIDTH)(PARAMS, X, *mask)
    return jnp.stack([records["v"].cotangent.second_moment, records["q"].weight_gradient.second_moment])


# Traced laws take positions as independent of each other, which behind a mask they are not.
ROOM = {"all": ((), 1e-4, 0.02), "causal": ((CAUSAL,), 0.1, 0.2)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROOM)
def test_of_traced_variances(name):
    mask, room, _ = ROOM[name]
    of_many = jax.vmap(lambda v: both(v, *mask))(jnp.asarray([1.5, 2.0]))
    np.testing.assert_allclose(jax.jit(lambda v: both(v, *mask))(1.5), of_many[0], rtol=1e-4)
    np.testing.assert_allclose(of_many[0], both(1.5, *mask), rtol=room)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROOM)
def test_derivatives_by_variances(name):
    mask, _, room = ROOM[name]
    step = (both(1.51, *mask) - both(1.49, *mask)) / 0.02
    np.testing.assert_allclose(jax.jacrev(lambda v: both(v, *mask))(1.5), step, rtol=room)


def test_of_a_mask_that_is_traced():
    """Which rows keep as much is not known, nor what they have in common."""
    np.testing.assert_allclose(jax.jit(lambda mask: both(1.0, mask))(CAUSAL), both(1.0, CAUSAL), rtol=0.3)
