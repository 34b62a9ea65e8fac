"""Every name of jax.nn.initializers gives the same bits as there, whatever transforms the call."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit

from .members import PEERS, REAL_ONLY, SHARED, SHARED_IDS

KEY = jax.random.key(7)


def pair(name, arguments):
    ours, theirs = PEERS[name]
    return ours(*arguments), theirs(*arguments)


def same(ours, theirs):
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs), strict=True)


def test_no_name_is_missing():
    public = {name for name in dir(jax.nn.initializers) if name.islower() and not name.startswith("_")}
    assert public - {"annotations"} == {*PEERS, "zeros", "ones"}


@pytest.mark.parametrize("name", PEERS)
def test_same_arguments_in_the_same_positions(name):
    ours, theirs = (inspect.signature(maker).parameters for maker in PEERS[name])
    shared = list(ours.values())[: len(theirs)]
    assert [(p.name, p.kind, p.default) for p in shared] == [
        (p.name, p.kind, p.default) for p in theirs.values()
    ]
    assert all(p.kind is p.KEYWORD_ONLY for p in list(ours.values())[len(theirs) :])


@pytest.mark.parametrize(("name", "arguments", "shape"), SHARED, ids=SHARED_IDS)
def test_float32(name, arguments, shape):
    ours, theirs = pair(name, arguments)
    same(ours(KEY, shape), theirs(KEY, shape))
    same(ours(KEY, shape, jnp.float32), theirs(KEY, shape, jnp.float32))


ONE_OF_A_KIND = [
    ("variance_scaling", (0.3, "fan_avg", "truncated_normal"), (24, 8)),
    ("variance_scaling", (0.3, "fan_avg", "normal"), (24, 8)),
    ("variance_scaling", (0.3, "fan_avg", "uniform"), (24, 8)),
    ("truncated_normal", (0.7, None, -1.0, 3.0), (24, 8)),
    ("orthogonal", (0.7,), (24, 8)),
    ("delta_orthogonal", (0.7,), (3, 8, 8)),
]


@pytest.mark.parametrize(("name", "arguments", "shape"), ONE_OF_A_KIND)
def test_jit_and_vmap(name, arguments, shape):
    ours, theirs = pair(name, arguments)
    keys = jax.random.split(KEY, 3)
    same(jax.jit(lambda key: ours(key, shape))(KEY), jax.jit(lambda key: theirs(key, shape))(KEY))
    same(jax.vmap(lambda key: ours(key, shape))(keys), jax.vmap(lambda key: theirs(key, shape))(keys))


@pytest.mark.parametrize(
    ("name", "arguments", "shape"), [member for member in SHARED if member[0] not in REAL_ONLY]
)
def test_complex64(name, arguments, shape):
    ours, theirs = pair(name, arguments)
    same(ours(KEY, shape, jnp.complex64), theirs(KEY, shape, jnp.complex64))


@pytest.mark.parametrize(("name", "arguments", "shape"), ONE_OF_A_KIND)
def test_double_precision(name, arguments, shape):
    ours, theirs = pair(name, arguments)
    with jax.enable_x64(True):
        key = jax.random.key(7)
        same(ours(key, shape), theirs(key, shape))
        if name == "variance_scaling":
            same(ours(key, shape, jnp.complex128), theirs(key, shape, jnp.complex128))


@pytest.mark.parametrize("name", ["zeros", "ones"])
@pytest.mark.parametrize("dtype", [None, jnp.float32, jnp.bfloat16, jnp.int32, jnp.bool_, jnp.complex64])
def test_zeros_and_ones(name, dtype):
    same(getattr(jinit, name)(KEY, (3, 2), dtype), getattr(jax.nn.initializers, name)(KEY, (3, 2), dtype))


@pytest.mark.parametrize("make", [jax.random.PRNGKey, lambda seed: jax.random.key(seed, impl="rbg")])
def test_raw_keys_and_other_generators(make):
    for name in ("he_normal", "orthogonal", "uniform"):
        ours, theirs = pair(name, ())
        same(ours(make(3), (8, 4)), theirs(make(3), (8, 4)))


def test_traced_scale():
    ours = jax.vmap(lambda scale: jinit.variance_scaling(scale, "fan_in", "normal")(KEY, (4, 4)))
    theirs = jax.vmap(
        lambda scale: jax.nn.initializers.variance_scaling(scale, "fan_in", "normal")(KEY, (4, 4))
    )
    scales = jnp.array([0.5, 2.0])
    same(ours(scales), theirs(scales))
    same(jax.jit(lambda v: jinit.constant(v)(KEY, (2,)))(3.0), jnp.full((2,), 3.0))
    for maker in (jinit.normal, jinit.uniform, jinit.orthogonal, jinit.truncated_normal):
        assert jax.jit(lambda s, maker=maker: maker(s)(KEY, (4, 4)))(0.5).shape == (4, 4)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 0, 4), (0, 0)])
def test_empty_shapes(shape):
    for name in ("he_normal", "glorot_uniform", "orthogonal", "normal"):
        drawn = PEERS[name][0]()(KEY, shape, jnp.bfloat16)
        assert (drawn.shape, drawn.dtype) == (shape, jnp.bfloat16)
    assert jinit.he_normal().variance(shape) == 0.0
