"""What measuring costs in equations and in memory, counted rather than timed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import jinit
from jinit._compat import opened
from tests.zoo import array

X = array(3, 4)


def stack(length: int, width: int = 4) -> dict[str, jax.Array]:
    return {"w": jnp.zeros((length, width, width)), "b": jnp.zeros((length, width))}


def scanned(params, x):
    return lax.scan(lambda h, p: (jnp.tanh(h @ p["w"] + p["b"][None]), None), x, params)[0]


def unrolled(params, x):
    for w in params:
        x = jnp.tanh(x @ w)
    return x


def num_equations(jaxpr) -> int:
    """Equations of a jaxpr and of all that it holds."""
    jaxpr, _ = opened(jaxpr)
    return sum(1 + sum(map(num_equations, held(list(eqn.params.values())))) for eqn in jaxpr.eqns)


def held(param) -> list:
    if isinstance(param, list | tuple):
        return [jaxpr for p in param for jaxpr in held(p)]
    return [param] if hasattr(param, "eqns") or hasattr(param, "jaxpr") else []


def size(apply, params, backward=True) -> int:
    return num_equations(jax.make_jaxpr(jinit.measure(apply, backward=backward))(params, X))


@pytest.mark.parametrize("backward", [True, False])
def test_a_scan_costs_the_same_at_every_length(backward):
    assert size(scanned, stack(4), backward) == size(scanned, stack(400), backward)


def test_an_unrolled_network_costs_the_same_for_every_layer():
    """Second differences of the size over depth are zero: it grows linearly."""
    sizes = [size(unrolled, [jnp.zeros((4, 4))] * depth) for depth in (10, 20, 30)]
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0]
    assert sizes[0] > num_equations(jax.make_jaxpr(unrolled)([jnp.zeros((4, 4))] * 10, X))


def test_a_site_costs_few_equations():
    sizes = [size(unrolled, [jnp.zeros((4, 4))] * depth) for depth in (10, 11)]
    plain = [
        num_equations(jax.make_jaxpr(jax.grad(lambda p, x: unrolled(p, x).sum()))([jnp.zeros((4, 4))] * d, X))
        for d in (10, 11)
    ]
    assert sizes[1] - sizes[0] - (plain[1] - plain[0]) <= 150


def temporary_bytes(function, *args) -> int:
    analysis = jax.jit(function).lower(*args).compile().memory_analysis()
    if analysis is None:
        pytest.skip("this backend does not analyse memory")
    return analysis.temp_size_in_bytes


def test_no_activation_is_kept():
    """Beside what the gradient keeps anyway, room for two arrays and no more, however deep the stack is."""
    length, width, batch = 64, 64, 128
    params, x = stack(length, width), jnp.zeros((batch, width))
    measured = jinit.measure(scanned, loss=lambda y: jnp.sum(y**2))

    def gradient(params, x):
        return jax.grad(lambda p: jnp.sum(scanned(p, x) ** 2))(params)

    activation = batch * width * 4
    plain = temporary_bytes(gradient, params, x)
    assert plain > length * activation  # the gradient keeps one a layer: the check could fail
    assert temporary_bytes(measured, params, x) < plain + 4 * activation
    forward = temporary_bytes(jinit.measure(scanned, backward=False), params, x)
    assert forward < temporary_bytes(scanned, params, x) + 4 * activation
