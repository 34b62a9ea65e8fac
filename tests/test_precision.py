"""Products that jinit takes are in full precision, whatever JAX is told; those of a network stay theirs."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import jinit
from jinit.signals.laws.arrays import xp
from jinit.signals.units import fingerprint, sum_of_directions
from jinit.spectra.golub_kahan import estimated_spectrum

HIGHEST, HIGH = lax.Precision.HIGHEST, lax.Precision.HIGH
PARAMS = {"a": jnp.ones((6, 8)), "b": jnp.ones((8, 3))}
X = jnp.ones((4, 6))


def apply(params, x):
    hidden = jnp.dot(x, params["a"], precision="high")
    return jnp.dot(jnp.tanh(hidden), params["b"], precision="high")


def precisions(function, *args):
    """Those of all products in the program, when JAX is told to take them in bfloat16."""
    with jax.default_matmul_precision("bfloat16"):
        closed = jax.make_jaxpr(function)(*args)
    return {p for precision in _in(closed) for p in precision or (None,)}


def _in(value):
    for eqn in getattr(getattr(value, "jaxpr", value), "eqns", ()):
        if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
            yield eqn.params["precision"]
        for param in eqn.params.values():
            for inner in param if isinstance(param, (list, tuple)) else [param]:
                yield from _in(inner)


def doubled(v):
    return 2 * v


OURS = {
    "directions": lambda x: sum_of_directions(x, (0,)),
    "fingerprint": lambda x: fingerprint(x, (1,)),
    "bidiagonalization": lambda x: (
        estimated_spectrum(
            doubled, doubled, (6, 6), x.dtype, key=jax.random.key(0), probes=2, steps=3
        ).moments
    ),
    "laws": lambda x: xp.matmul(x, x.T),
}


@pytest.mark.parametrize("name", OURS)
def test_products_of_jinit_are_in_full_precision(name):
    assert precisions(OURS[name], X) == {HIGHEST}


VERBS = {
    "measure": jinit.measure(apply),
    "lsuv": jinit.lsuv(apply),
    "jacobian_spectrum": lambda p, x: jinit.jacobian_spectrum(apply)(p, x).largest,
    "nngp_kernel": jinit.nngp_kernel(apply),
    "neural_tangent_kernel": jinit.neural_tangent_kernel(apply),
}


@pytest.mark.parametrize("name", VERBS)
def test_a_network_keeps_its_precision(name):
    found = precisions(VERBS[name], PARAMS, X)
    assert HIGH in found
    assert found <= {HIGH, HIGHEST}


def test_precisions_are_found():
    default = functools.partial(jnp.dot, X)
    assert precisions(default, PARAMS["a"]) == {lax.Precision.DEFAULT}
