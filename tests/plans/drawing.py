"""Drawing one parameter, and its key by hand."""

from __future__ import annotations

import hashlib

import jax
import jax.numpy as jnp
import numpy as np

import jinit
from jinit.plans.draw import draw, keys_of

KEY = jax.random.key(11)


def drawn(init, use, key=KEY, sharding=None):
    assignments = jinit.plan([("*", init)]).assign([use]).values()
    keys = keys_of(key, caller="test")
    return draw(assignments, keys, {use.path: sharding}, caller="test")[use.path]


def leaf_key(path, key=KEY):
    """The key of a parameter, by hand."""
    digest = hashlib.sha256(path.encode()).digest()
    for word in (digest[:4], digest[4:8]):
        key = jax.random.fold_in(key, int.from_bytes(word, "big"))
    return key


def same(a, b):
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def close(a, b):
    """The order of two multiplications apart."""
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    a, b, eps = np.asarray(a, np.float64), np.asarray(b, np.float64), float(jnp.finfo(b.dtype).eps)
    np.testing.assert_allclose(a, b, rtol=0, atol=4 * eps * abs(b).max())


def user_init(key, shape, dtype):
    return 0.1 * jax.random.normal(key, shape, dtype)


def name(init):
    """A name for a test that is the same in every process."""
    return getattr(init, "__name__", str(init))
