"""Which loops are followed step by step, and which are compiled."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from jinit.signals.laws import steps


@pytest.mark.parametrize("inside", [lambda f: f, jax.jit, jax.checkpoint], ids=["plain", "jit", "remat"])
def test_what_counts_as_a_stack(inside):
    """A matrix that all steps share is a weight if it is contracted, not if it is added."""
    bias, count = jnp.ones((8, 8)), 20

    def followed(step):
        run = lambda w, x: jax.lax.scan(lambda c, w: (inside(step)(c, w, bias), None), x, w)[0]  # noqa: E731
        return not steps.has_long_loop(jax.make_jaxpr(run)(jnp.ones((count, 8, 8)), jnp.ones((8, 8))))

    assert followed(lambda c, w, b: jnp.tanh(c @ w + b))
    assert followed(lambda c, w, b: jnp.where(c > b, c, b.T) @ w)
    assert not followed(lambda c, w, b: jnp.tanh(c @ w) @ b)
    assert not followed(lambda c, w, b: jnp.tanh(c @ w) @ (2 * b).T)
