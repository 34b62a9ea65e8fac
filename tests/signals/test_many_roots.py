"""Laws of many roots: moments by rounding, fewer nodes, what is the same in every copy."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

import jinit
from jinit.signals.laws import softmax
from jinit.signals.laws.coarse import coarser
from jinit.signals.laws.law import constant, normal, plus_normal, two_moments
from jinit.signals.laws.levels import levels_of
from jinit.signals.laws.pointwise import pointwise
from jinit.signals.laws.roots import Root
from tests.signals.test_predict import gaussian_mean

OUT = jax.ShapeDtypeStruct((4, 8), "float32")


def two_levels(name: str, mean: Any, variance: float) -> Any:
    """A mean, nothing that all share, and an entry's own."""
    law = plus_normal(constant(mean, OUT.shape, OUT.dtype), 0.0, Root((name, 0), frozenset()), 64)
    return plus_normal(law, variance, Root((name, 1), frozenset([0, 1])), 256)


def test_a_product_has_no_variance_below_zero():
    """Compiled, `(a² + v) (b² + w) - a² b²` is rounded once, and came out at less than zero: NaN in LSTMs."""

    @jax.jit
    def nodes(a: Any, b: Any) -> Any:
        one, other = two_levels("a", a, 0.5), two_levels("b", b, 0.25)
        assert len(levels_of(one, other)) == 2
        (law,) = pointwise(lambda x, y: [x * y], [one, other], [OUT], "product", "mul")
        return law.nodes

    means = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    assert all(np.isfinite(nodes(a, b)).all() for a, b in means)


@pytest.mark.parametrize(
    ("activation", "slope"),
    [(jnp.tanh, lambda z: 1 / np.cosh(z) ** 2), (jax.nn.softplus, lambda z: 1 / (1 + np.exp(-z)))],
)
def test_a_derivative_inside_of_the_model(activation, slope):
    """JAX writes that of tanh as `g (1 - t) + g (1 - t) t`: apart, the terms have four times its square."""

    def apply(p: Any, x: Any) -> Any:
        return jax.grad(lambda x: jnp.sum(activation(x @ p["w"]) @ p["v"]))(x)

    shapes = {
        "w": jax.ShapeDtypeStruct((256, 256), "float32"),
        "v": jax.ShapeDtypeStruct((256, 1), "float32"),
    }
    x = jax.ShapeDtypeStruct((32, 256), "float32")
    plan = {"w": 1 / 256, "v": 1.0}
    records = jinit.predict(apply, weights=plan, backward=False)(shapes, x)
    expected = gaussian_mean(lambda z: slope(z) ** 2, 1.0)
    np.testing.assert_allclose(records["w#1"].input.second_moment, expected, rtol=5e-3)


def test_fewer_nodes_have_the_same_moments_and_roots():
    a = normal(0.3, 2.0, "a", OUT.shape, OUT.dtype)
    b = plus_normal(a, 0.5, Root("b", frozenset([1])), 64)
    few = coarser([a, b])
    assert few[0].roots[0] == few[1].roots[0]
    for law, less in zip((a, b), few, strict=True):
        assert less.nodes.size < law.nodes.size / 4
        np.testing.assert_allclose(two_moments(less), two_moments(law), rtol=1e-5)


def test_a_mask_of_a_signal_on_fewer_nodes_is_still_of_that_signal():
    """Behind squeeze-and-excitation and a maximum, gradients of a ReLU were half of the true ones."""
    x = normal(0.0, 2.0, "x", OUT.shape, OUT.dtype)
    (mask,) = pointwise(lambda x: [x > 0], [x], [jax.ShapeDtypeStruct(OUT.shape, "bool")], "mask")
    (few,) = coarser([x])
    (kept,) = pointwise(lambda x, mask: [x * (x > 0) * mask], [few, mask], [OUT], "kept")
    mean, variance = two_moments(kept)
    np.testing.assert_allclose(mean**2 + variance, 1.0, rtol=1e-3)


def test_functions_of_a_signal_keep_their_moments_on_fewer_nodes():
    (law,) = pointwise(lambda x: [jnp.exp(x)], [normal(0.0, 1.0, "x", OUT.shape, OUT.dtype)], [OUT], "e")
    np.testing.assert_allclose(two_moments(coarser([law])[0]), two_moments(law), rtol=1e-5)


@pytest.mark.parametrize(("shared", "own"), [(3.0, 6.0), (8.0, 16.0)])
def test_functions_that_are_flat_fit_on_fewer_nodes(shared, own):
    """`exp(tanh) (1 - tanh²)`, of two factors on fewer nodes: where one is flat, nothing is left."""
    z = plus_normal(normal(0.0, own, "z", OUT.shape, OUT.dtype), shared, Root("s", frozenset([1])), 64)
    factors = [lambda x: [jnp.exp(jnp.tanh(x)) * (1 + jnp.tanh(x))], lambda x: [1 - jnp.tanh(x)]]
    laws = [pointwise(f, [z], [OUT], ("factor", k))[0] for k, f in enumerate(factors)]
    (found,) = pointwise(lambda x, y: [x * y], coarser(laws), [OUT], "product")
    x, variance = np.linspace(-60, 60, 400_001), shared + own
    density = np.exp(-(x**2) / 2 / variance) / np.sqrt(2 * np.pi * variance)
    t = np.tanh(x)
    expected = integrate.trapezoid((np.exp(t) * (1 - t**2)) ** 2 * density, x)
    mean, spread = two_moments(found)
    np.testing.assert_allclose(mean**2 + spread, expected, rtol=0.1)


def test_what_is_on_fewer_nodes_stays_what_it_was_when_nodes_are_to_be_fewer_again():
    """Once more and it would no longer be known as the same: `x - x` would have twice the variance of `x`."""
    a = plus_normal(normal(0.0, 0.0, "a", OUT.shape, OUT.dtype), 1.0, Root("b", frozenset([1])), 48)
    (twice,) = coarser(coarser([a]))
    (difference,) = pointwise(lambda x, y: [x - y], [a, twice], [OUT], "difference")
    np.testing.assert_allclose(two_moments(difference), (0.0, 0.0), atol=1e-6)


def test_rows_of_a_tiled_parameter():
    """Learned queries, the same for all examples: `n² E[δ²]` of what all get, `n E[δ²]` of their own."""

    def apply(p: Any, x: Any) -> Any:
        return (jnp.tile(p["q"], (len(x), 1, 1)) + x[:, :3]) @ p["w"]

    shapes = {"q": jax.ShapeDtypeStruct((1, 3, 64), "float32"), "w": jax.ShapeDtypeStruct((64, 8), "float32")}
    records = jinit.predict(apply, weights={"q": 1.0, "w": 1 / 64})(shapes, jnp.zeros((5, 3, 64)))
    np.testing.assert_allclose(records["w"].output.second_moment, 1.0, rtol=1e-5)
    np.testing.assert_allclose(records["w"].weight_gradient.second_moment, 15.0, rtol=1e-5)


def test_softmax_of_traced_laws_promotes_nothing():
    """As inside of a scan, where the strict promotion of these tests refused attention."""

    @jax.jit
    def nodes(variance: Any) -> Any:
        return softmax.probabilities(
            normal(0.0, variance, "z", (4, 8), jnp.float32), frozenset([1]), "p"
        ).nodes

    plain = softmax.probabilities(normal(0.0, 2.0, "z", (4, 8), jnp.float32), frozenset([1]), "p").nodes
    np.testing.assert_allclose(nodes(2.0), plain, atol=2e-4)


@pytest.mark.parametrize("shares", [(0.45, 0.2, 0.35), (0.1, 0.7, 0.2)])
def test_scores_of_tokens_that_are_alike(shares):
    """Five sets of axes: what all share, what one example does, queries, keys and single scores."""
    width, tokens, examples = 256, 6, 8
    names = ("all", "example", "own")

    def apply(p: Any, x: Any) -> Any:
        parts = [jnp.ones((1, 1, width)) @ p["all"], x["example"] @ p["example"], x["own"] @ p["own"]]
        h = sum(share**0.5 * part for share, part in zip(shares, parts, strict=True))
        return jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", h @ p["q"], h @ p["k"]) / width**0.5) @ p["head"]

    shapes = {name: jax.ShapeDtypeStruct((width, width), "float32") for name in (*names, "q", "k")}
    shapes["head"] = jax.ShapeDtypeStruct((tokens, tokens), "float32")
    x = {
        "example": jax.ShapeDtypeStruct((examples, 1, width), "float32"),
        "own": jax.ShapeDtypeStruct((examples, tokens, width), "float32"),
    }
    records = jinit.predict(apply, weights=lambda path: 1 / width, backward=False)(shapes, x)
    rng, draws, scores = np.random.default_rng(0), 100_000, 0.0
    for i, j in itertools.product(range(3), range(3)):
        shape = (draws, tokens if i == 2 else 1, tokens if j == 2 else 1)
        scores = scores + (shares[i] * shares[j]) ** 0.5 * rng.normal(size=shape)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights = weights / weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(records["head"].input.second_moment, (weights**2).mean(), rtol=5e-3)
