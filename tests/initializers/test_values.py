"""Initializers are values: equal by value, hashable, their repr evaluates back, they pickle and transform."""

from __future__ import annotations

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit

from .members import ALL, NAMES

KEY = jax.random.key(3)


@pytest.mark.parametrize(("init", "shape"), ALL, ids=NAMES)
def test_repr_evaluates_back(init, shape):
    again = eval(repr(init), {"jinit": jinit})
    assert again == init
    assert hash(again) == hash(init)
    assert repr(again) == repr(init)
    np.testing.assert_array_equal(init(KEY, shape), again(KEY, shape))


@pytest.mark.parametrize(("init", "shape"), ALL, ids=NAMES)
def test_pickle(init, shape):
    again = pickle.loads(pickle.dumps(init))
    assert (again, repr(again)) == (init, repr(init))


@pytest.mark.parametrize(
    ("init", "text"),
    [
        (jinit.he_normal(), "jinit.he_normal()"),
        (jinit.he_normal(-2, -1, (), None), "jinit.he_normal()"),
        (jinit.he_normal(0, [1, 2]), "jinit.he_normal(0, (1, 2))"),
        (jinit.he_normal(dtype=jnp.bfloat16), "jinit.he_normal(dtype='bfloat16')"),
        (jinit.he_normal(negative_slope=0.1), "jinit.he_normal(negative_slope=0.1)"),
        (jinit.normal(np.float32(0.5)), "jinit.normal(0.5)"),
        (jinit.normal(jnp.asarray(0.5), float), "jinit.normal(0.5, float)"),
        (jinit.uniform(minval=-1), "jinit.uniform(minval=-1)"),
        (jinit.truncated_normal(upper=float("inf")), "jinit.truncated_normal(upper=float('inf'))"),
        (jinit.constant(jnp.array([1.0, 2.0])), "jinit.constant((1.0, 2.0))"),
        (jinit.constant(1 + 2j), "jinit.constant((1+2j))"),
        (jinit.zeros, "jinit.zeros"),
        (jinit.positive(jinit.glorot_uniform()), "jinit.positive(jinit.glorot_uniform())"),
        (jinit.xavier_normal(), "jinit.glorot_normal()"),
    ],
)  # fmt: skip
def test_repr(init, text):
    assert repr(init) == text
    assert eval(text, {"jinit": jinit}) == init


def test_a_gain_without_a_name_becomes_a_number():
    init = jinit.for_activation(lambda x: jnp.tanh(3 * x), distribution="normal")
    assert repr(init).startswith("jinit.variance_scaling(")
    assert eval(repr(init), {"jinit": jinit}) == init


def test_equality_is_by_value():
    assert jinit.he_normal() == jinit.variance_scaling(2, "fan_in", "truncated_normal") != jinit.he_uniform()
    assert jinit.he_normal() == jinit.he_normal(in_axis=(-2,))
    assert jinit.he_normal(dtype="bfloat16") == jinit.he_normal(dtype=jnp.bfloat16) != jinit.he_normal()
    assert jinit.orthogonal() != jinit.orthogonal(preserve="second_moment")
    assert len({jinit.normal(), jinit.normal(0.01), jinit.normal(0.02)}) == 2
    assert jinit.zeros == jinit.zeros_init()
    assert jinit.zeros != jinit.ones


@pytest.mark.parametrize(("init", "shape"), ALL, ids=NAMES)
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16, jnp.float8_e4m3fn])
def test_eval_shape(init, shape, dtype):
    expected = jax.ShapeDtypeStruct(shape, dtype or jnp.float32)
    assert jax.eval_shape(lambda key: init(key, shape, dtype), KEY) == expected
    keys = jax.random.split(KEY, 3)
    drawn = jax.eval_shape(jax.vmap(lambda key: init(key, shape, dtype)), keys)
    assert (drawn.shape, drawn.dtype) == ((3, *shape), expected.dtype)


@pytest.mark.parametrize(
    ("init", "shape"),
    [
        (jinit.orthogonal(batch_axis=0), (2, 8, 6)),
        (jinit.sparse(nonzeros=3), (8, 6)),
        (jinit.positive(jinit.normal()), (8, 6)),
        (jinit.dirac(), (3, 4, 4)),
    ],
)
def test_jit_and_vmap_give_what_eager_gives(init, shape):
    """Up to rounding: LAPACK works on a batch in another order."""
    keys = jax.random.split(KEY, 2)
    eager = np.stack([np.asarray(init(key, shape)) for key in keys])
    mapped = jax.jit(jax.vmap(lambda key: init(key, shape)))(keys)
    np.testing.assert_allclose(mapped, eager, rtol=0, atol=64 * np.finfo(np.float32).eps)


def test_dtype_of_the_maker_is_a_default():
    init = jinit.normal(dtype=jnp.bfloat16)
    assert init(KEY, (3,)).dtype == jnp.bfloat16
    assert init(KEY, (3,), jnp.float32).dtype == jnp.float32
    assert jinit.normal(dtype=float)(KEY, (3,)).dtype == jnp.float32


def test_static_argument_of_jit():
    draw = jax.jit(lambda init, key: init(key, (4,)), static_argnums=0)
    draw(jinit.normal(), KEY)
    draw(jinit.normal(0.01), KEY)
    assert draw._cache_size() == 1


def test_the_call_goes_by_name_too():
    np.testing.assert_array_equal(
        jinit.normal()(key=KEY, shape=[3], dtype="float32", out_sharding=None),
        jinit.normal()(KEY, (np.int64(3),)),
    )
