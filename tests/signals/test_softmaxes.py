"""Softmax is known by what a program computes, however it is written."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit.signals.laws.law import average, normal
from jinit.signals.laws.softmax import probabilities
from jinit.signals.laws.wholes import with_wholes
from tests.signals.agreement import DRAWS, disagreement

TOKENS, WIDTH = 12, 64
SHAPES = {name: jax.ShapeDtypeStruct((WIDTH, WIDTH), "float32") for name in "qkvo"}
X = jax.ShapeDtypeStruct((8, TOKENS, WIDTH), "float32")
CAUSAL = np.tril(np.ones((1, TOKENS, TOKENS), bool))
FIELDS = ("input", "output", "cotangent", "weight_gradient")


def kept(z):
    return jnp.where(CAUSAL, z, -jnp.inf)


def over_sum(e):
    return e / e.sum(-1, keepdims=True)


def shifted(z):
    return jnp.exp(z - jax.lax.stop_gradient(z.max(-1, keepdims=True)))


def with_epsilon(z):
    e = shifted(z) * jnp.asarray(CAUSAL).astype(z.dtype)
    return e / (e.sum(-1, keepdims=True) + 1e-7)


def beside_at_least(z):
    e = jnp.where(CAUSAL, jnp.exp(z), 0.0)
    return e / jnp.maximum(e.sum(-1, keepdims=True), 1e-7)


def less_log_of_sum(z):
    z = kept(z)
    return jnp.exp(z - jax.nn.logsumexp(z, axis=-1, keepdims=True))


BEHIND_A_MASK = {
    "where": lambda z: jax.nn.softmax(z, where=CAUSAL),
    "where_of_its_shape": lambda z: jax.nn.softmax(z, where=jnp.broadcast_to(CAUSAL, z.shape)),
    "masked_after_exp": lambda z: over_sum(jnp.where(CAUSAL, shifted(z), 0.0)),
    "selected": lambda z: over_sum(
        jax.lax.select(jnp.broadcast_to(CAUSAL, z.shape), jnp.exp(z), jnp.zeros_like(z))
    ),
    "times_truth": with_epsilon,
    "times_numbers": lambda z: over_sum(jnp.exp(z) * CAUSAL.astype(np.float32)),
    "numbers_of_the_program": lambda z: over_sum(jnp.exp(z) * jnp.tril(jnp.ones_like(z))),
    "normalised_again": lambda z: over_sum(jax.nn.softmax(z) * CAUSAL.astype(np.float32)),
    "logarithm": lambda z: jnp.exp(jax.nn.log_softmax(kept(z))),
    "log_sum": less_log_of_sum,
    "at_least": beside_at_least,
}  # fmt: skip


def predicted(softmax):
    def apply(p, x):
        q, k, v = x @ p["q"], x @ p["k"], x @ p["v"]
        return softmax(q @ jnp.swapaxes(k, -1, -2) / WIDTH**0.5) @ v @ p["o"]

    return jinit.predict(apply, weights=lambda path: 1 / WIDTH)(SHAPES, X)


def assert_same(found, expected, rtol=5e-3):  # nodes of a mask and of a maximum come in other orders
    for site in SHAPES:
        for field in FIELDS:
            moments = [getattr(r[site], field).second_moment for r in (found, expected)]
            np.testing.assert_allclose(*moments, rtol=rtol, err_msg=f"{site} {field}")


@pytest.mark.parametrize("name", BEHIND_A_MASK)
def test_all_ways_to_write_it_are_one(name):
    assert_same(predicted(BEHIND_A_MASK[name]), predicted(lambda z: jax.nn.softmax(kept(z))))


def test_weights_of_entries_are_shares():
    """`h exp(z) / Σ h exp(z)`, which is `softmax(z + log h)`."""
    h = np.exp(np.random.default_rng(0).normal(size=CAUSAL.shape)).astype(np.float32)
    assert_same(
        predicted(lambda z: over_sum(h * jnp.exp(z))), predicted(lambda z: jax.nn.softmax(z + np.log(h)))
    )


def sink(z):
    e = jnp.exp(z)
    return e / (1 + e.sum(-1, keepdims=True))


def sink_less_maximum(z):
    m = jax.lax.stop_gradient(z.max(-1, keepdims=True))
    e = jnp.exp(z - m)
    return e / (jnp.exp(-m) + e.sum(-1, keepdims=True))


def sink_of_an_array(z):
    own = jnp.zeros((*z.shape[:-1], 1))
    m = jnp.maximum(z.max(-1, keepdims=True), own)
    e = jnp.exp(z - m)
    return e / (jnp.exp(own - m) + e.sum(-1, keepdims=True))


def one_more_entry(z):
    joined = jnp.concatenate([z, jnp.zeros((*z.shape[:-1], 1))], axis=-1)
    return jax.nn.softmax(joined)[..., :-1]


@pytest.mark.parametrize("form", [sink_less_maximum, sink_of_an_array, one_more_entry])
@pytest.mark.parametrize("mask", [lambda z: z, kept], ids=["all", "causal"])
def test_a_sink_may_be_written_in_several_ways(mask, form):
    assert_same(predicted(lambda z: sink(mask(z))), predicted(lambda z: form(mask(z))), rtol=1e-3)


def test_a_sink_may_be_learned():
    """It counts by the mean of its exponential, `exp(v / 2)` of a variance `v`; all else is as it was."""

    def apply(p, x):
        q, k, v = x @ p["q"], x @ p["k"], x @ p["v"]
        scores = kept(q @ jnp.swapaxes(k, -1, -2) / WIDTH**0.5)
        own = jnp.broadcast_to(p["sink"][None, :, None], (*scores.shape[:-1], 1))
        return jax.nn.softmax(jnp.concatenate([scores, own], axis=-1))[..., :-1] @ v @ p["o"]

    def beside(z):
        e = jnp.exp(kept(z))
        return e / (math.exp(0.02) + e.sum(-1, keepdims=True))

    shapes = {**SHAPES, "sink": jax.ShapeDtypeStruct((1,), "float32")}
    found = jinit.predict(apply, weights=lambda path: 0.04 if path == "sink" else 1 / WIDTH)(shapes, X)
    assert_same(found, predicted(beside), rtol=1e-3)


@pytest.mark.parametrize("deviation", [0.3, 2.0])
@pytest.mark.parametrize(("count", "plus"), [(2, 1.0), (12, 1.0), (12, 30.0)])
def test_moments_beside_a_sink(count, plus, deviation):
    law = normal(jnp.zeros(()), deviation**2, "z", (4, count), jnp.float32)
    found = probabilities(law, frozenset([1]), "p", plus)
    e = np.exp(np.random.default_rng(0).normal(size=(1_000_000 // count, count)) * deviation)
    p = e / (plus + e.sum(-1, keepdims=True))
    for moment in (1, 2):
        rows = (p**moment).mean(-1)
        error = 5 * rows.std() / len(rows) ** 0.5
        assert abs(float(average(found, of=found.nodes**moment).reshape(())) - rows.mean()) < error + 1e-5


def test_attention_with_a_sink_agrees_with_measure():
    def apply(p, x):
        q, k, v = x @ p["q"], x @ p["k"], x @ p["v"]
        return sink(kept(q @ jnp.swapaxes(k, -1, -2) / WIDTH**0.5)) @ v @ p["o"]

    x = jax.random.normal(jax.random.key(0), X.shape)
    law = jinit.predict(apply, weights=lambda path: 1 / WIDTH)(SHAPES, X)
    draw = jinit.init(apply, jinit.plan([("*", jinit.lecun_normal())]))
    measure = jax.jit(lambda key: jinit.measure(apply)(draw(key, SHAPES, x), x)[1])
    seen = [measure(key) for key in jax.random.split(jax.random.key(1), 3 * DRAWS)]
    for site in SHAPES:
        for field in FIELDS:
            found = [getattr(records[site], field) for records in seen]
            assert disagreement(getattr(law[site], field), found) < 1, f"{site} {field}"


def test_what_only_looks_like_it_is_not_taken_for_it():
    """A sum that stands beside columns, and numbers that differ within a row, are none of a softmax."""
    own = np.random.default_rng(0).normal(size=CAUSAL.shape).astype(np.float32)

    @jax.jit
    def logarithm(z):
        less = z - own
        return less - jnp.log(jnp.exp(less).sum(-1, keepdims=True))

    def is_known(f):
        z = jax.ShapeDtypeStruct((8, TOKENS, TOKENS), "float32")
        eqns = with_wholes(jax.make_jaxpr(f)(z)).eqns
        return any("custom_vjp" in eqn.primitive.name for eqn in eqns)

    def apart(z):
        return jnp.exp(z - own) / (jnp.exp(-own) + jnp.exp(z - own).sum(-1, keepdims=True))

    assert is_known(lambda z: jnp.exp(z) / jnp.exp(z).sum(-1)[..., None])
    assert not is_known(lambda z: jnp.exp(z) / jnp.exp(z).sum(-1)[:, None])
    assert not is_known(apart)
    assert not is_known(lambda z: jnp.exp(logarithm(z)))


@pytest.mark.parametrize(("count", "deviation"), [(4, 1.0), (4, 3.0), (16, 3.0), (64, 1.0), (64, 8.0)])
def test_gradients_of_scores_of_any_deviation(count: int, deviation: float):
    """`E[p² ((1 - p)² + Σ p²)]` of what comes back to each share, by itself: against draws of the scores."""

    def apply(params, x, values):
        shares = jax.nn.softmax(deviation * x @ params["scores"])
        return jnp.einsum("be,bed->bd", shares, values)

    shapes = {"scores": jax.ShapeDtypeStruct((1024, count), "float32")}
    inputs = [jax.ShapeDtypeStruct((8, *own, 1024), "float32") for own in ((), (count,))]
    found = jinit.predict(apply, weights=lambda path: 1 / 1024)(shapes, *inputs)["scores"].cotangent
    scores = deviation * np.random.default_rng(0).normal(size=(400_000 // count, count))
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    others = np.sum(p**2, axis=1, keepdims=True) - p**2
    expected = 1024 * np.mean(p**2 * ((1 - p) ** 2 + others))
    np.testing.assert_allclose(found.second_moment, expected, rtol=0.03 if deviation == 1 else 0.12)
