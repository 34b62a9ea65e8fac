"""NumPy's 64-bit arrays go into every verb as they go into JAX: as 32-bit ones, with no warning."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit

RNG = np.random.default_rng(0)
PARAMS = {"table": RNG.normal(size=(50, 16)), "kernel": RNG.normal(size=(16, 8))}
TOKENS = RNG.integers(0, 50, (4, 6))
PLAN = jinit.plan([("table", jinit.normal(1.0)), ("kernel", jinit.lecun_normal())])


def apply(params, tokens):
    return jnp.tanh(params["table"][tokens]) @ params["kernel"]


def loss(params, tokens):
    return jnp.mean(apply(params, tokens) ** 2)


VERBS = {
    "audit": jinit.audit(apply),
    "measure": jinit.measure(apply),
    "predict": jinit.predict(apply),
    "predict, a plan": jinit.predict(apply, weights=PLAN),
    "lsuv": jinit.lsuv(apply),
    "autoinit": jinit.autoinit(apply),
    "metainit": jinit.metainit(loss, steps=2),
    "diagnose": lambda *args: jinit.diagnose(apply)(*args).to_dict(),
    "init": lambda *args: jinit.init(apply, PLAN)(jax.random.key(0), *args),
    "redraw": lambda *args: jinit.redraw(apply, PLAN)(jax.random.key(0), *args),
}


@pytest.mark.parametrize("name", VERBS)
def test_64_bit_arrays_are_those_of_jax(name):
    assert PARAMS["kernel"].dtype == np.float64
    assert TOKENS.dtype == np.int64
    given = VERBS[name](PARAMS, TOKENS)
    expected = VERBS[name](jax.tree.map(jnp.asarray, PARAMS), jnp.asarray(TOKENS))
    for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(expected), strict=True):
        if hasattr(b, "dtype"):
            np.testing.assert_array_equal(a, b)
        else:
            assert a == b
