"""Common factors of networks whose arithmetic is coarse: the search ends at the best point that it saw."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jinit
from jinit.calibrate.search import common_factors
from tests.zoo import array

X = array(32, 8, seed=5)
W = array(8, 8, seed=1, scale=0.7)
TF32, BFLOAT16 = 10, 7  # bits of the significand that are stored


def product(x, w, bits):
    """As a GPU takes it by default: factors rounded to TF32, sums in float32."""
    return lax.reduce_precision(x, 8, bits) @ lax.reduce_precision(w, 8, bits)


def shared(bits):
    def apply(p, x):
        for _ in range(3):
            x = product(x, p["w"], bits)
        return x

    return apply


def looped(bits):
    return lambda p, x: lax.fori_loop(0, 3, lambda _, h: jnp.tanh(product(h, p["w"], bits)), x)


def room(bits):
    """Each of three products rounds two factors by `2^-(bits + 1)` at most; a variance is a square."""
    return 3 * 2 * 2 * 2.0 ** -(bits + 1)


@pytest.mark.parametrize("scale", [0.02, *(pytest.param(s, marks=pytest.mark.slow) for s in (1.0, 30.0))])
@pytest.mark.parametrize("model", [shared, looped])
@pytest.mark.parametrize("bits", [TF32, BFLOAT16])
def test_the_factor_is_that_of_exact_arithmetic(model, bits, scale):
    params = {"w": scale * W}
    _, exact = jinit.lsuv(model(23))(params, X)
    new, records = jinit.lsuv(model(bits))(params, X)
    name = next(iter(records))
    assert abs(records[name].together - 1) < room(bits)
    np.testing.assert_allclose(records[name].factor, exact[name].factor, rtol=room(bits))
    np.testing.assert_allclose(new["w"], params["w"] * records[name].factor, rtol=1e-6)


def test_a_network_in_bfloat16():
    params = {"w": (0.02 * W).astype(jnp.bfloat16)}
    apply = lambda p, x: lax.fori_loop(0, 3, lambda _, h: jnp.tanh(h @ p["w"]), x)  # noqa: E731
    _, records = jinit.lsuv(apply, verify=True)(params, X.astype(jnp.bfloat16))
    assert abs(records["w"].together - 1) < room(BFLOAT16)


def test_loops_that_end_at_different_times():
    def apply(p, x):
        steps = jnp.where(jnp.mean(x) > 0, 2, 4)
        body = lambda s: (s[0] + 1, jnp.tanh(product(s[1], p["a"], TF32)))  # noqa: E731
        return lax.while_loop(lambda s: s[0] < steps, body, (0, x))[1]

    batches = jnp.stack([array(64, 8, seed=i) + jnp.float32(m) for i, m in enumerate((1.0, -1.0, 2.0))])
    _, records = jinit.lsuv(apply, batches=True)({"a": array(8, 8, seed=7)}, batches)
    assert abs(records["a"].together - 1) < room(TF32)
    assert records["a"].problem == ""


def test_a_step_too_long_is_taken_back():
    """From a weight that vanishes, over 120 steps, one move is from nothing to overflow."""
    apply = lambda p, x: lax.fori_loop(0, 120, lambda _, h: h @ p["w"], x)  # noqa: E731
    _, records = jinit.lsuv(apply)({"w": 0.02 * W}, X)
    assert abs(records["w"].together - 1) < 1e-4


def test_a_factor_that_nothing_follows_stays_one():
    apply = lambda p, x: x @ jnp.tanh(1e4 * p["w"])  # noqa: E731
    new, records = jinit.lsuv(apply)({"w": W}, X)
    np.testing.assert_array_equal(new["w"], W)
    assert records["w"].factor == 1
    variance = np.var(np.asarray(apply({"w": W}, X), np.float64))
    np.testing.assert_allclose(records["w"].together, variance, rtol=1e-5)
    assert "not proportional" in records["w"].problem
    assert f"together, its outputs have {float(records['w'].together):.4g} times" in records["w"].problem


def test_a_target_that_was_missed_is_told():
    _, records = jinit.lsuv(shared(23), max_passes=2)({"w": 0.02 * W}, X)
    assert records["w#0"].together < 0.01
    assert "used at 3 places" in records["w#0"].problem
    assert "times the variance asked for" in records["w#0"].problem
    _, records = jinit.lsuv(shared(23))({"w": 0.02 * W}, X)
    assert "times the variance asked for" not in records["w#0"].problem


def test_rounding_of_an_exact_site_is_told_as_such():
    params = {"w": (W * 1.003).astype(jnp.float8_e4m3fn)}
    _, records = jinit.lsuv(lambda p, x: x @ p["w"].astype(jnp.float32), verify=True)(params, X)
    assert records["w"].error > 1e-3
    assert "rounding, of weights or in the network" in records["w"].problem


def test_the_search_ends_at_the_noise_and_at_its_best():
    seen = []

    def evaluate(logs):
        bits = lax.bitcast_convert_type(logs, jnp.uint32) * jnp.uint32(2654435761)
        noise = 1e-3 * (bits >> 8).astype(jnp.float32) / 2**24
        excess = jnp.asarray([2.0, 6.0]) * logs + jnp.asarray([8.0, -3.0]) + noise
        jax.debug.callback(lambda *pair: seen.append(pair), logs, excess)
        return excess, logs

    logs, found, _ = common_factors(evaluate, 2, 100)
    jax.effects_barrier()
    misses = [float(np.max(np.abs(excess))) for _, excess in seen]
    best = int(np.argmin(misses))
    np.testing.assert_array_equal(logs, seen[best][0])
    np.testing.assert_array_equal(found, logs)
    assert misses[best] < 1e-3
    assert len(seen) < 40


def test_single_precision_where_double_is_on():
    """Under strict promotion, as in all these tests, float64 of jinit's own would be an error."""
    with jax.enable_x64(True):
        x, w = X.astype("float32"), W.astype("float32")
        _, records = jinit.lsuv(shared(23))({"w": w}, x)
    np.testing.assert_allclose(records["w#0"].together, 1.0, rtol=1e-4)
