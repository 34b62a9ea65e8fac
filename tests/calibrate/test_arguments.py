"""What is wrong in a call is named as the caller wrote it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

import jinit
from tests.zoo import array

X = array(16, 8, seed=0)
PARAMS = {"a": array(8, 8, seed=1), "b": array(8, 4, seed=2)}
SHAPES = jax.eval_shape(lambda: PARAMS)


def apply(p, x):
    return jnp.tanh(x @ p["a"]) @ p["b"]


def loss(p, x):
    return jnp.mean(apply(p, x) ** 2)


def of_two(p, x, y):
    return loss(p, x) + jnp.sum(y)


FLAGS = [
    (jinit.lsuv, ("per_unit", "center", "verify", "batches")),
    (jinit.equalize, ("per_unit", "center")),
]


@pytest.mark.parametrize("value", ["false", 0, None])
def test_booleans(value):
    for method, names in FLAGS:
        for name in names:
            with pytest.raises(TypeError, match=rf"jinit\.{method.__name__}.*`{name}` must be True or False"):
                method(apply, **{name: value})
    with pytest.raises(TypeError, match=r"`batches` must be True or False; got batches="):
        jinit.gradinit(loss, batches=value)


@pytest.mark.parametrize(
    "method", [jinit.lsuv, jinit.compromise, jinit.equalize, jinit.metainit, jinit.gradinit, jinit.autoinit]
)
def test_shapes_are_no_parameters(method):
    function = loss if method in (jinit.metainit, jinit.gradinit) else apply
    words = rf"jinit\.{method.__name__}.*`params` must hold arrays, not shapes; got .* of shape \(8, 8\)"
    with pytest.raises(ValueError, match=words):
        method(function)(SHAPES, X)
    if method is not jinit.autoinit:
        with pytest.raises(ValueError, match=r"the inputs must hold arrays, not shapes"):
            method(function)(PARAMS, jax.ShapeDtypeStruct(X.shape, X.dtype))


WRONG = {
    "share": (jinit.compromise, apply, {"backward_share": "x"}, "`backward_share` must be a real number"),
    "passes": (jinit.equalize, apply, {"passes": 2.5}, "`passes` must be a whole number; got passes=2.5"),
    "loss": (jinit.equalize, apply, {"loss": 3}, "`loss` must be a function of the outputs; got loss=3"),
    "loss too": (jinit.compromise, apply, {"loss": 3}, "`loss` must be a function of the outputs"),
    "max_passes": (jinit.lsuv, apply, {"max_passes": "3"}, "`max_passes` must be a whole number"),
    "none": (jinit.lsuv, apply, {"max_passes": 0}, "`max_passes` must be a whole number of at least 1"),
    "no loss": (jinit.metainit, None, {}, r"`loss` must be a function `\(params, \*inputs\)`"),
    "no loss either": (jinit.gradinit, 3, {}, r"`loss` must be a function .*; got loss=3"),
    "nothing to differentiate": (jinit.gradient_quotient, None, {}, "`loss` must be a function"),
    "steps": (jinit.metainit, loss, {"steps": 2.5}, "`steps` must be a whole number"),
    "rate": (jinit.metainit, loss, {"learning_rate": -1}, "`learning_rate` must be positive"),
    "epsilon": (jinit.metainit, loss, {"epsilon": 0.0}, "`epsilon` must be positive"),
    "momentum": (jinit.metainit, loss, {"momentum": "no"}, "`momentum` must be a real number"),
    "step_size": (jinit.gradinit, loss, {"step_size": "x"}, "`step_size` must be a real number"),
    "optimizer": (jinit.gradinit, loss, {"optimizer": "adam"}, "must be an optax optimizer; got optimizer="),
    "parameters": (jinit.gradinit, loss, {"parameters": 3}, "`parameters` must be a pattern"),
}


@pytest.mark.parametrize("name", WRONG)
def test_options(name):
    method, function, options, words = WRONG[name]
    with pytest.raises((TypeError, ValueError), match=rf"(?s)`jinit\.{method.__name__}\(...\)`: .*{words}"):
        method(function, **options)


@pytest.mark.parametrize("method", [jinit.equalize, jinit.compromise])
def test_a_number_is_no_key(method):
    with pytest.raises(TypeError, match=r"`key` must be a JAX random key; got key=3"):
        method(apply, key=3)(PARAMS, X)


@pytest.mark.parametrize(
    "inputs", [(jnp.ones(()), X), (jnp.ones((3, 4, 8)), jnp.ones(2)), (jnp.ones((0, 4, 8)), jnp.ones(0))]
)
def test_batches_must_be_as_many_everywhere(inputs):
    for method in (jinit.gradinit, jinit.lsuv):
        with pytest.raises(ValueError, match=r"leading axis, one entry a batch"):
            method(of_two, batches=True)(PARAMS, *inputs)


def test_a_step_size_may_be_traced():
    learned = jax.jit(lambda size: jinit.gradinit(loss, steps=2, step_size=size)(PARAMS, X)[1].steps)
    assert int(learned(0.1)) == 2
