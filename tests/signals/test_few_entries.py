"""Normalization over few entries: what a mean has in common with each, and a deviation that is random."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jinit
from jinit.signals.laws.law import Law
from jinit.signals.laws.parts import spread_by_reach
from jinit.signals.laws.quadrature import deviations, of_few
from jinit.signals.laws.roots import Root

WIDTH, SAMPLES = 256, 200_000


@pytest.mark.parametrize("freedom", [3.0, 4.0, 5.5, 20.0, 64.0])
def test_moments_of_a_deviation(freedom):
    """Of `χ²/freedom`: exact for its inverse, itself and its square; the node at one has no weight."""
    sizes, weights = deviations(freedom)
    exact = scipy.stats.chi2(freedom, scale=1 / freedom)
    assert sizes[-1] == 1
    assert weights[-1] == 0
    np.testing.assert_allclose(weights.sum(), 1)
    np.testing.assert_allclose((weights * sizes**2).sum(), exact.mean())
    np.testing.assert_allclose((weights * sizes**4).sum(), exact.moment(2))
    np.testing.assert_allclose((weights / sizes**2).sum(), freedom / (freedom - 2))


@pytest.mark.parametrize("freedom", [3.0, 4.0, 7.0, 40.0])
def test_entries_over_their_own_deviation(freedom):
    normals, values = of_few(freedom)
    shares = scipy.stats.beta(0.5, (freedom - 1) / 2).cdf(values**2 / freedom)
    inside = abs(normals) < 5
    np.testing.assert_allclose(
        shares[inside], 1 - 2 * scipy.stats.norm.sf(abs(normals[inside])), rtol=2e-3, atol=1e-5
    )


def batch_norm(x):
    axes = tuple(range(x.ndim - 1))
    return (x - x.mean(axes, keepdims=True)) / jnp.sqrt(x.var(axes, keepdims=True) + 1e-5)


def of_samples(f, count):
    """Second moments behind `f` of a standardised normal sample, and of what comes back to the sample."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SAMPLES // count, count)).astype(np.float32)
    size = x.std(1, keepdims=True)
    h = (x - x.mean(1, keepdims=True)) / size
    slope = np.asarray(jax.vmap(jax.vmap(jax.grad(f)))(h))
    g = rng.normal(size=h.shape) * slope
    back = (g - g.mean(1, keepdims=True) - h * (g * h).mean(1, keepdims=True)) / size
    return float((np.asarray(f(h)) ** 2).mean()), float((back**2).mean())


@pytest.mark.parametrize("count", [8, 16, 40])
@pytest.mark.parametrize("f", [jax.nn.relu, jnp.tanh, lambda x: x], ids=["relu", "tanh", "identity"])
def test_a_batch_of_few(f, count):
    """Gradients were 0.84 of this for eight examples, tanh of normals 0.94."""

    def apply(p, x):
        return f(batch_norm(x @ p["a"])) @ p["b"]

    shapes = {k: jax.ShapeDtypeStruct((WIDTH, WIDTH), "float32") for k in "ab"}
    x = jax.ShapeDtypeStruct((count, WIDTH), "float32")
    found = jinit.predict(apply, weights=lambda path: 1 / WIDTH)(shapes, x)
    forward, backward = of_samples(f, count)
    np.testing.assert_allclose(float(found["b"].input.second_moment), forward, rtol=0.01)
    np.testing.assert_allclose(float(found["a"].cotangent.second_moment), backward, rtol=0.05)


def compared(apply, shapes, x, fields, draws=200):
    """Predicted over the mean of those measured, by site and field; inputs and weights drawn anew."""
    predicted = jinit.predict(apply, weights=lambda path: 1.0)(shapes, jax.ShapeDtypeStruct(x, "float32"))
    measure = jax.jit(lambda p, x, key: jinit.measure(apply, key=key)(p, x)[1])
    seen = []
    for i in range(draws):
        keys = jax.random.split(jax.random.key(i), len(shapes) + 2)
        p = {k: jax.random.normal(key, s.shape) for key, (k, s) in zip(keys, shapes.items(), strict=False)}
        seen.append(measure(p, jax.random.normal(keys[-2], x), keys[-1]))
    return {
        (site, field): float(getattr(predicted[site], field).second_moment)
        / np.mean([float(getattr(s[site], field).second_moment) for s in seen])
        for site in predicted
        for field in fields
    }


def conv(x, w):
    y = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y / (9 * w.shape[2]) ** 0.5


CONV = jax.ShapeDtypeStruct((3, 3, 32, 32), "float32")
HEAD = jax.ShapeDtypeStruct((32, 10), "float32")


@pytest.mark.parametrize("batch", [2, 4])
@pytest.mark.slow
def test_a_mean_over_places_behind_a_batch_norm(batch):
    """A cotangent that all places of an example share: of so many the mean is subtracted. 1.26 for four."""

    def apply(p, x):
        return jax.nn.relu(batch_norm(conv(x, p["a"]))).mean((1, 2)) @ p["c"]

    found = compared(apply, {"a": CONV, "c": HEAD}, (batch, 8, 8, 32), ("cotangent", "weight_gradient"))
    assert abs(found["a", "cotangent"] - 1) < 0.05, found
    assert abs(found["a", "weight_gradient"] - 1) < 0.05, found


@pytest.mark.slow
def test_what_sums_to_zero_still_does():
    """The mean of ReLU's output meets a gradient that sums to zero, with what it has in common counted."""

    def apply(p, x):
        y = batch_norm(conv(jax.nn.relu(conv(x, p["a"])), p["b"]))
        y = x + conv(jax.nn.relu(y), p["d"])
        return jax.nn.relu(y).mean((1, 2)) @ p["c"]

    shapes = {"a": CONV, "b": CONV, "d": CONV, "c": HEAD}
    found = compared(apply, shapes, (4, 8, 8, 32), ("weight_gradient",))
    assert abs(found["b", "weight_gradient"] - 1) < 0.12, found  # 1.7, if not


def instance_norm(x):
    return (x - x.mean((1, 2), keepdims=True)) / jnp.sqrt(x.var((1, 2), keepdims=True) + 1e-5)


def groups_of_one(x):
    return nn.GroupNorm(None, group_size=1, use_bias=False, use_scale=False).apply({}, x)


@pytest.mark.parametrize("norm", [instance_norm, groups_of_one, batch_norm])
@pytest.mark.slow
def test_a_mean_of_an_odd_function_of_what_sums_to_zero(norm):
    """The mean of tanh over what was normalised: 14 times too much, if its linear part did not vanish."""

    def apply(p, x):
        return jnp.tanh(norm(conv(x, p["a"]))).mean((1, 2)) @ p["c"]

    found = compared(apply, {"a": CONV, "c": HEAD}, (4, 8, 8, 32), ("input", "cotangent"))
    assert abs(found["c", "input"] - 1) < 0.1, found
    assert abs(found["a", "cotangent"] - 1) < 0.05, found


def test_what_all_entries_share_is_no_mean():
    """A root along no axis: its part of the variance is found, beside the mean."""
    nodes = np.array([[0.0, 2.0], [4.0, 10.0]], np.float32)
    half = np.full(2, 0.5, np.float32)
    roots = Root("shared", frozenset()), Root("own", frozenset([0]))
    mean, found = spread_by_reach(Law(nodes, (half, half), roots, (8,), np.dtype("float32")), (0, 1))
    assert mean.item() == 4
    assert {r.axes: v.item() for r, v in found.items()} == {frozenset(): 9.0, frozenset([0]): 5.0}


def test_large_groups_are_as_before():
    """Over many entries means and deviations are exact."""

    def apply(p, x):
        y = nn.LayerNorm(use_bias=False, use_scale=False).apply({}, x @ p["a"])
        return jnp.tanh(y) @ p["b"]

    shapes = {k: jax.ShapeDtypeStruct((WIDTH, WIDTH), "float32") for k in "ab"}
    x = jax.ShapeDtypeStruct((8, WIDTH), "float32")
    found = jinit.predict(apply, weights=lambda path: 1 / WIDTH)(shapes, x)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    forward, backward = (weights * np.tanh(nodes) ** 2).sum(), (weights / np.cosh(nodes) ** 4).sum()
    np.testing.assert_allclose(float(found["b"].input.second_moment), forward, rtol=1e-4)
    np.testing.assert_allclose(float(found["a"].cotangent.second_moment), backward, rtol=0.01)
