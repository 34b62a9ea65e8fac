"""Exponents that are found do scale the weight, and where there are none, nothing does."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jinit.jaxprs.degrees import exponents, find_degrees
from jinit.jaxprs.sites import analyse_sites
from jinit.jaxprs.tracing import split, trace
from tests.zoo import array

PARAMS = {"w": array(4, 4), "v": array(4, 4, seed=1), "g": abs(array(1, 4, seed=2)) + 1}
X = array(3, 4, seed=3)


def rms(w):
    return jnp.sqrt(jnp.mean(jnp.square(w), 0, keepdims=True))


SCALED = {
    "plain": (lambda p: p["w"], {"w": 1}),
    "transposed cast constant": (lambda p: -2.5 * p["w"].T.astype(jnp.float16).astype(jnp.float32), {"w": 1}),
    "masked": (lambda p: jnp.where(jnp.tri(4) > 0, p["w"], 0.0), {"w": 1}),
    "weight norm": (lambda p: p["v"] / rms(p["v"]) * p["g"], {"g": 1}),
    "weight norm with epsilon": (lambda p: p["v"] * jax.lax.rsqrt(rms(p["v"]) + 1e-6) * p["g"], {"g": 1}),
    "product": (lambda p: p["w"] @ p["v"], {"w": 0.5, "v": 0.5}),
    "adapter": (lambda p: p["w"] + p["w"][:, :2] @ (p["v"] / rms(p["v"]))[:2], {"w": 1}),
    "concatenated": (lambda p: jnp.concatenate([p["w"], p["v"]], 1), {"w": 1, "v": 1}),
    "cube root": (lambda p: jnp.cbrt(p["w"]), {"w": 3}),
    "square": (lambda p: p["w"] * p["w"], {"w": 0.5}),
    "relu": (lambda p: jnp.maximum(p["w"], 0), {"w": 1}),
    "sorted": (lambda p: jnp.sort(p["w"], 0), {"w": 1}),
    "updated": (lambda p: p["w"].at[1].set(p["v"][0]), {"w": 1, "v": 1}),
    "divided by a fixed scale": (lambda p: p["w"] / jnp.exp(p["g"]), {"w": 1}),
    "signs times a scale": (lambda p: jnp.sign(p["w"]) * p["g"], {"g": 1}),
    "made in a scan": (lambda p: jax.lax.scan(lambda c, w: (c, 3 * w), 0, p["w"])[1], {"w": 1}),
    "complex": (lambda p: jax.lax.complex(p["w"], p["v"]).real, {"w": 1, "v": 1}),
}  # fmt: skip
NOT_SCALED = {
    "standardised": lambda p: (p["w"] - p["w"].mean(0, keepdims=True)) / rms(p["w"]),
    "softplus": lambda p: jax.nn.softplus(p["w"]),
    "plus a constant": lambda p: p["w"] + 1.0,
    "clipped": lambda p: jnp.clip(p["w"], -1.0, 1.0),
    "rotation": lambda p: jnp.linalg.qr(p["w"])[0],
    "of two degrees": lambda p: p["w"] + p["w"] * p["w"],
    "power of a loop": lambda p: jax.lax.fori_loop(0, 3, lambda _, a: a @ p["w"], jnp.eye(4)),
}


def found(make, params=PARAMS):
    def apply(p, x):
        return x @ make(p)

    signature, arrays = split(params, (X,), {})
    program = trace(apply, signature, arrays, caller="test")
    analysis = analyse_sites(program)
    (site,), (node,) = analysis.sites.sites, analysis.layers
    form = find_degrees(analysis)[node.ins[site.weight]]
    scales = exponents(form, site.leaves) or exponents(form, form.leaves)
    return {program.paths[k]: a for k, a in scales.items()}


@pytest.mark.parametrize("name", SCALED)
def test_exponents_scale_the_weight(name):
    make, expected = SCALED[name]
    scales = found(make)
    assert scales == pytest.approx(expected)
    scaled = {k: x * 3.0 ** scales.get(k, 0.0) for k, x in PARAMS.items()}
    np.testing.assert_allclose(make(scaled), 3.0 * make(PARAMS), rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("name", NOT_SCALED)
def test_where_nothing_scales_the_weight_none_are_found(name):
    assert found(NOT_SCALED[name]) == {}


def test_numbers_in_the_program_are_read_under_jit_too():
    offset = jnp.zeros(())  # an array of the surroundings, such as Flax nnx's counts of random numbers

    @jax.jit
    def scales(params):
        exponent = found(lambda p: p["w"] + offset, params)["w"]
        return params["w"] * 3.0**exponent

    np.testing.assert_allclose(scales(PARAMS), 3 * PARAMS["w"], rtol=1e-6)
