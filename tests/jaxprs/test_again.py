"""Signals that are made again going backward: which, that nothing else changes, and what it spares."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit.jaxprs.again import origin_of
from jinit.jaxprs.sites import find_sites
from jinit.jaxprs.tracing import split, trace
from jinit.signals import observe

X = jax.random.normal(jax.random.key(0), (4, 6))
W = jax.random.normal(jax.random.key(1), (6, 6))
AGAIN = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "leaky_relu": jax.nn.leaky_relu,
    "max": lambda x: jnp.maximum(x, 0.0),
    "clip": lambda x: jnp.clip(x, -1.0, 1.0),
    "squared relu": lambda x: jax.nn.relu(x) ** 2,
    "then reshaped": lambda x: jax.nn.relu(x).reshape(2, 2, 6),
    "then rounded": lambda x: jax.nn.relu(x).astype(jnp.bfloat16).astype(jnp.float32),
}
KEPT = {
    "nothing": lambda x: x,
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
    "a sum": lambda x: x + x.T[:1, :1],
    "a multiple": lambda x: 2.0 * x,
    "reshaped": lambda x: x.reshape(2, 2, 6),
    "a transpose": lambda x: jax.nn.relu(x).T,
    "a gate": lambda x: x * jax.nn.relu(x),
    "dropout": lambda x: jnp.where(jax.random.bernoulli(jax.random.key(0), 0.5, x.shape), x, 0.0),
}


def origin(function):
    """Origin of the signal of `function(x) @ w`."""

    def apply(params, x):
        signal = function(x)
        return signal @ params["w"][: signal.shape[-1]]

    program = trace(apply, *split({"w": W}, (X,), {}), caller="test")
    (site,) = find_sites(program).sites
    makers = {v: e for e in program.jaxpr.eqns for v in e.outvars}
    env = dict(zip(program.jaxpr.invars, [W, X], strict=True))
    return origin_of(site.eqn, site.signal, makers, env.get)


@pytest.mark.parametrize("name", AGAIN)
def test_what_is_made_again_is_the_same(name):
    found = origin(AGAIN[name])
    np.testing.assert_array_equal(found.value, X)
    np.testing.assert_array_equal(found.again(X), AGAIN[name](X))


@pytest.mark.parametrize("name", KEPT)
def test_what_is_dear_or_linear_is_kept(name):
    assert origin(KEPT[name]) is None


def network(depth, width, activation):
    keys = jax.random.split(jax.random.key(2), depth)
    params = [jinit.he_normal()(key, (width, width)) for key in keys]

    def apply(params, x):
        for w in params[:-1]:
            x = activation(x @ w)
        return x @ params[-1]

    return apply, params, jax.random.normal(jax.random.key(3), (512, width))


def measured(apply, params, x):
    compiled = jax.jit(jinit.measure(apply)).lower(params, x).compile()
    return compiled.memory_analysis().temp_size_in_bytes, compiled(params, x)


@pytest.mark.parametrize("name", ["relu", pytest.param("leaky_relu", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_half_is_kept_and_nothing_else_changes(name, monkeypatch):
    args = network(24, 32, AGAIN[name])
    cheap, half = measured(*args)
    walk = observe.walk
    monkeypatch.setattr(observe, "walk", lambda *a, frugal: walk(*a, frugal=False))
    dear, whole = measured(*args)
    for a, b in zip(jax.tree.leaves(half), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=0)
    signal = args[2].nbytes
    if jax.default_backend() == "cpu":  # elsewhere XLA keeps less by itself
        assert dear > 1.9 * 22 * signal
        assert cheap < 1.3 * 24 * signal


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1.0, -1.0, 1.5, 0.0])
def test_any_cotangent_brings_the_signal_back(bad):
    """The choice that hides the signal from the compiler goes the same way for every number."""
    params = {"a": W, "b": jnp.eye(6)}
    apply = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]  # noqa: E731
    loss = lambda y: jnp.sum(y * bad)  # noqa: E731
    _, records = jinit.measure(apply, loss=loss)(params, X)
    expected = jax.grad(lambda p: loss(apply(p, X)))(params)["b"]
    found = records["b"].weight_gradient
    np.testing.assert_allclose(found.total, jnp.sum(expected), rtol=1e-5)
    np.testing.assert_allclose(found.nonfinite_count, jnp.sum(~jnp.isfinite(expected)))


def test_gradients_of_gradients_go_through_what_is_made_again():
    params = {"a": W, "b": W.T}
    apply = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]  # noqa: E731
    loss = lambda y: jnp.mean(y**2)  # noqa: E731

    def found(p):
        return jinit.measure(apply, loss=loss)(p, X)[1]["b"].weight_gradient.second_moment

    def expected(p):
        return jnp.mean(jax.grad(lambda p: loss(apply(p, X)))(p)["b"] ** 2)

    gradients = jax.grad(found)(params), jax.grad(expected)(params)
    for a, b in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_layers_along_a_long_row_of_steps_do_not_repeat_all_before_them():
    def apply(params, x):
        total = 0.0
        for w in params:
            x = jnp.maximum(x, 0.0) * 0.9
            total += x @ w
        return total

    def size(depth):
        return len(str(jax.make_jaxpr(jinit.measure(apply))([W] * depth, X)))

    one, two, four = (size(n) for n in (20, 40, 80))
    assert four - two < 2.2 * (two - one)
