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
ROOM = {"all": ((), 1e-3, 0.02), "causal": ((CAUSAL,), 0.1, 0.2)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROOM)
def test_values_and_derivatives_by_variances(name):
    """All of `jit`, `vmap` and reverse mode in one, as to compile each takes a minute."""
    mask, room, room_of_slopes = ROOM[name]

    def value_and_slope(variance):
        value, pull = jax.vjp(lambda v: both(v, *mask), variance)
        return value, *jax.vmap(pull)(jnp.eye(2))

    values, slopes = jax.jit(jax.vmap(value_and_slope))(jnp.asarray([1.5, 2.0]))
    np.testing.assert_allclose(values, [both(1.5, *mask), both(2.0, *mask)], rtol=room)
    step = (both(1.51, *mask) - both(1.49, *mask)) / 0.02
    np.testing.assert_allclose(slopes[0], step, rtol=room_of_slopes)


def test_derivatives_by_inputs_that_are_all_alike():
    """They have no variance, of which the root's derivative is infinite."""
    predict = jinit.predict(lambda p, x: x @ p["q"], weights=lambda path: 1 / WIDTH)

    def second_moment(size, x):
        return predict(PARAMS, size * x)["q"].output.second_moment

    for shape in ((8, WIDTH), (4, TOKENS, WIDTH)):
        slope = jax.jit(jax.grad(second_moment))(3.0, jnp.ones(shape))
        np.testing.assert_allclose(slope, 6.0, rtol=1e-4)


def test_of_a_mask_that_is_traced():
    """Which rows keep as much is not known, nor what they have in common."""
    np.testing.assert_allclose(jax.jit(lambda mask: both(1.0, mask))(CAUSAL), both(1.0, CAUSAL), rtol=0.3)
