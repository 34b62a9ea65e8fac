"""Sums and contractions of what is the same for all their terms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit

TOKENS, WIDTH, OUT = 16, 64, 8


def predicted(apply, shapes, x):
    shapes = {k: jax.ShapeDtypeStruct(s, "float32") for k, s in shapes.items()}
    return jinit.predict(apply, weights=lambda path: 1.0)(shapes, jax.ShapeDtypeStruct(x, "float32"))


def test_a_sum_of_repeated_entries():
    """All terms are one: their sum was taken to be that one."""

    def apply(p, x):
        y = jnp.tanh(x @ p["a"] / WIDTH**0.5)
        return jnp.broadcast_to(y[:, None], (8, 5, WIDTH)).sum(1) @ p["b"]

    found = predicted(apply, {"a": (WIDTH, WIDTH), "b": (WIDTH, WIDTH)}, (8, WIDTH))
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    forward, slope = (weights * np.tanh(nodes) ** 2).sum(), (weights / np.cosh(nodes) ** 4).sum()
    np.testing.assert_allclose(found["b"].input.second_moment, 25 * forward, rtol=1e-4)
    np.testing.assert_allclose(found["a"].cotangent.second_moment, 25 * slope, rtol=1e-4)


def test_a_gradient_that_stays_along_a_contraction():
    """What all tokens share comes back through weights that mix tokens, in a linear network."""

    def apply(p, x):
        y = jnp.einsum("btc,ts->bsc", x @ p["a"], p["mix"])
        return (x @ p["skip"] + y).mean(1) @ p["head"]

    shapes = {"a": (WIDTH, WIDTH), "mix": (TOKENS, TOKENS), "skip": (WIDTH, WIDTH), "head": (WIDTH, OUT)}
    found = predicted(apply, shapes, (4, TOKENS, WIDTH))
    np.testing.assert_allclose(found["mix"].cotangent.second_moment, OUT / TOKENS**2, rtol=1e-4)
    np.testing.assert_allclose(found["a"].cotangent.second_moment, OUT / TOKENS, rtol=1e-4)
    np.testing.assert_allclose(found["a"].weight_gradient.second_moment, 4 * OUT, rtol=1e-3)


def test_two_factors_that_add_up_to_nothing_each():
    """Of a gate for each example, before a mean over examples and places is subtracted again.

    Its gradient is `Σ_p ĝ_b u_bp`, where neither `ĝ` nor `u` adds up over examples, but their product does:
    `Σ_b Σ_p ĝ_b u_bp` has a variance of `P (B - 1)` of that of `ĝ` before its mean was taken out.
    """
    examples, places = 6, 16

    def centred(x):
        return x - x.mean((0, 1), keepdims=True)

    def apply(p, x):
        u = centred(x @ p["a"])
        gate = jnp.ones((examples, 1, WIDTH)) @ p["gate"]
        return centred(u * gate).mean(1) @ p["out"]

    shapes = {k: (WIDTH, OUT if k == "out" else WIDTH) for k in ("a", "gate", "out")}
    found = predicted(apply, shapes, (examples, places, WIDTH))["gate"].weight_gradient.second_moment
    np.testing.assert_allclose(found, WIDTH * OUT / places**2 * places * (examples - 1), rtol=0.02)


def attention_stack(depth, width, tokens, *, uniform=False):
    """Blocks of attention over tokens that are alike, each behind a sum that sees the gradient of all."""
    examples = 4

    def normalized(x):
        x = x - x.mean(-1, keepdims=True)
        return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)

    def apply(p, x):
        x = x @ p["own"] + 2 * x.mean(1, keepdims=True) @ p["shared"]
        for i in range(depth):
            x = x + 1e-4 * jnp.ones((examples, 1, width)) @ p[f"probe{i}"]
            h = normalized(x)
            q, k = (jax.lax.stop_gradient(h) @ p[f"{name}{i}"] for name in "qk")
            scores = jax.lax.stop_gradient(jnp.einsum("bqd,bkd->bqk", q, k)) / width**0.5
            weights = jax.nn.softmax(scores * (0.0 if uniform else 1.0))
            x = x + jnp.einsum("bqk,bkd->bqd", weights, h @ p[f"v{i}"]) @ p[f"out{i}"]
        return x @ p["head"]

    names = ["own", "shared", "head"]
    names += [f"{name}{i}" for i in range(depth) for name in ("probe", "q", "k", "v", "out")]
    shapes = {name: jax.ShapeDtypeStruct((width, width), "float32") for name in names}
    return apply, shapes, jax.random.normal(jax.random.key(0), (examples, tokens, width))


def test_gradients_of_all_tokens_add_up_whatever_the_attention():
    """`Σ_k Σ_q p_qk g_q = Σ_q g_q`, since a softmax adds up to one, be its rows alike or not.

    Of 2,000 draws both are 9.60 ± 0.03; even rows take smaller grids.
    """
    sums = []
    for uniform in (False, True):
        apply, shapes, x = attention_stack(1, 64, 6, uniform=uniform)
        sums.append(jinit.predict(apply, weights=lambda path: 1 / 64)(shapes, x)["probe0"].cotangent)
    np.testing.assert_allclose(sums[0].second_moment, sums[1].second_moment, rtol=0.015)


@pytest.mark.slow
def test_what_a_residual_adds_to_gradients_that_sum_to_nothing():
    """Parts of a gradient that sum to nothing over tokens still do so beside those of a residual."""
    apply, shapes, x = attention_stack(3, 256, 4)
    predicted = jinit.predict(apply, weights=lambda path: 1 / 256)(shapes, x)
    draw = jinit.init(apply, jinit.plan([("*", jinit.variance_scaling(1.0, "fan_in", "normal"))]))
    measure = jax.jit(lambda params, key: jinit.measure(apply, key=key)(params, x)[1])
    found = [measure(draw(key, shapes, x), key) for key in map(jax.random.key, range(32))]
    for name in ("probe0", "probe1", "v0", "v1"):
        measured = np.array([float(records[name].cotangent.second_moment) for records in found])
        error = measured.std(ddof=1) / len(found) ** 0.5
        wanted = float(predicted[name].cotangent.second_moment)
        assert abs(wanted - measured.mean()) < 3 * error + 0.01 * wanted, (name, wanted / measured.mean())
