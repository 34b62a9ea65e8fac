"""What is wrong with a call is said in the words of the caller, with the way out."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import jinit
from tests.zoo import array

X = array(3, 4)
W = {"w": array(4, 4, seed=1)}
LINEAR = nnx.Linear(4, 2, rngs=nnx.Rngs(0))


def plain(params, x):
    return x @ params["w"]


def impure(params, x):
    LINEAR.kernel[...] = LINEAR.kernel[...] * jnp.sum(params["w"])
    return LINEAR(x)


def branching(params, x):
    y = x @ params["w"]
    return y if y.sum() > 0 else -y


def looping(params, x):
    return jax.lax.while_loop(lambda h: jnp.sum(h) > 0, lambda h: h @ params["w"] - 1.0, x @ params["w"])


def run(apply=plain, params=W, x=X, **options):
    return jinit.measure(apply, **options)(params, x)


CALLS = {
    "linen module": (lambda: run(nn.Dense(3)), TypeError, r"Pass `model\.apply`"),
    "nnx module": (lambda: run(LINEAR), TypeError, r"apply, params = jinit\.functional\(model\)"),
    "array for apply": (lambda: run(X), TypeError, r"must be a function `\(params, \*inputs\) -> outputs`"),
    "no parameters": (lambda: run(params={}), ValueError, r"`params` must hold at least one array; .*none"),
    "only settings": (
        lambda: run(params={"rate": 0.5, "act": jnp.tanh}),
        ValueError,
        r"`params` must hold at least one",
    ),
    "ignores params": (lambda: run(lambda p, x: x * 2.0), ValueError, r"must depend on `params`.*\(w, …\)"),
    "closed over": (
        lambda: run(lambda p, x: LINEAR(x)),
        ValueError,
        r"Was a model closed over\? .*jinit\.functional",
    ),
    "loss of many": (
        lambda: run(loss=lambda y: y),
        ValueError,
        r"to one floating number; got float32\[3,4\]",
    ),
    "loss of whole numbers": (
        lambda: run(loss=lambda y: jnp.argmax(y)),
        ValueError,
        r"to one floating number; got int32",
    ),
    "loss without backward": (
        lambda: run(loss=jnp.sum, backward=False),
        ValueError,
        r"`loss` needs `backward=True`",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_message(name):
    call, kind, text = CALLS[name]
    with pytest.raises(kind, match=text) as caught:
        call()
    assert "`jinit.measure(...)`" in str(caught.value)


# What JAX or the model raises comes through, with a note.
NOTES = {
    "impure": (
        lambda: run(impure),
        Exception,
        "`apply` must be pure: for an nnx module use `apply, params =",
    ),
    "python branch": (
        lambda: run(branching),
        jax.errors.TracerBoolConversionError,
        "Every array argument is traced, as under `jax.jit`",
    ),
    "wrong shape": (
        lambda: run(x=array(3, 5)),
        TypeError,
        "failed with 1 parameter arrays and inputs (float32[3,5])",
    ),
    "while backward": (lambda: run(looping), ValueError, "Measure forward alone with `backward=False`"),
}


@pytest.mark.parametrize("name", NOTES)
def test_note(name):
    call, kind, text = NOTES[name]
    with pytest.raises(kind) as caught:
        call()
    assert text in "\n".join(caught.value.__notes__)


def test_a_while_loop_that_no_gradient_crosses():
    """With no site before it the backward pass goes through, and the site inside says what is missing."""

    def apply(params, x):
        x = jax.lax.while_loop(lambda h: jnp.sum(h) > 0, lambda h: h @ params["inside"] - 1.0, x)
        return x @ params["after"]

    _, records = jinit.measure(apply)({"inside": W["w"], "after": W["w"]}, X)
    assert records["inside"].cotangent is None
    assert "inside a while_loop" in records["inside"].note
    assert float(records["after"].cotangent.second_moment) > 0


def test_an_argument_forgotten():
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'") as caught:
        jinit.measure(plain)(W)
    assert "`jinit.measure(...)`" in "\n".join(caught.value.__notes__)


def test_functional_of_no_module():
    with pytest.raises(TypeError, match=r"A linen module is functional already: use `model\.apply`"):
        jinit.functional(nn.Dense(3))
    with pytest.raises(TypeError, match="`model` must be an nnx module; got model=dict"):
        jinit.functional({})


def test_a_model_is_never_changed():
    """Statistics and random-number streams of the nnx module stay as they were."""
    model = nnx.Sequential(nnx.Linear(4, 4, rngs=nnx.Rngs(0)), nnx.BatchNorm(4, rngs=nnx.Rngs(0)))
    before = jax.tree.map(jnp.copy, nnx.state(model))
    apply, params = jinit.functional(model)
    jinit.measure(apply)(params, X)
    after = nnx.state(model)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), before, after))


def test_settings_among_the_parameters():
    """A Python number there is held, as strings and functions are, so that it can be a shape."""

    def apply(params, x):
        heads = x.reshape(3, params["heads"], -1)
        return params["act"](heads) @ params["w"] * params["rate"]

    params = {"w": array(2, 5), "heads": 2, "rate": 0.5, "act": jnp.tanh, "name": "a"}
    _, records = jinit.measure(apply)(params, X)
    assert list(records) == ["w"]


def predicted(**options):
    return jinit.predict(plain, **options)(W, X)


LAWS = {
    "number": (lambda: predicted(weights=0.1), r"`weights` must be a plan, .*got 0\.1"),
    "initializer": (
        lambda: predicted(weights=jinit.he_normal()),
        r"got jinit\.he_normal\(\)\.\n.*jinit\.plan",
    ),
    "string": (lambda: predicted(weights=lambda path: "x"), r"must give a variance, .*got 'x' for 'w'"),
    "name of a primitive": (lambda: predicted(rules={"cumsum": len}), r"must map primitives.*got 'cumsum'"),
}


@pytest.mark.parametrize("name", LAWS)
def test_laws_that_are_none(name):
    call, text = LAWS[name]
    with pytest.raises(TypeError, match=text) as caught:
        call()
    assert "`jinit.predict(...)`" in str(caught.value)


def test_a_rule_that_raises_is_named():
    with pytest.raises(ZeroDivisionError) as caught:
        jinit.predict(
            lambda p, x: jnp.cumsum(x @ p["w"], -1) @ p["w"],
            weights=lambda path: 0.1,
            rules={jax.lax.cumsum_p: lambda moments, eqn: 1 / 0},
        )(W, X)
    assert "in the rule of `cumsum`" in "\n".join(caught.value.__notes__)
