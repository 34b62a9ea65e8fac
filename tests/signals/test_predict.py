"""Predicted moments: those of closed forms, of integrals, and of measured networks over many draws."""

from __future__ import annotations

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

import jinit
from tests.signals.agreement import DRAWS, disagreement
from tests.zoo import array

Shape = jax.ShapeDtypeStruct


def two_layers(activation: Any) -> Any:
    return lambda p, x: activation(x @ p["a"]) @ p["b"]


def shapes(width: int, outputs: int = 10) -> Any:
    return {"a": Shape((width, width), "float32"), "b": Shape((width, outputs), "float32")}


def gaussian_mean(function: Any, variance: float, *kinks: float) -> float:
    """E[function(z)], z normal, by adaptive quadrature in float64."""
    scale = variance**0.5
    edges = [-9 * scale, *kinks, 9 * scale]
    density = lambda z: np.exp(-(z**2) / 2 / variance) / np.sqrt(2 * np.pi * variance)  # noqa: E731
    parts = itertools.pairwise(edges)
    return sum(integrate.quad(lambda z: function(z) * density(z), a, b, epsabs=1e-12)[0] for a, b in parts)


# activation, its values and derivative in NumPy, kinks, error of the second moment, error of the derivative.
# Kinks away from zero cost the square of the spacing of nodes, jumps the spacing itself.
ACTIVATIONS = {
    "relu": (jax.nn.relu, lambda z: max(z, 0), lambda z: z > 0, (0.0,), 1e-6, 1e-6),
    "tanh": (jnp.tanh, np.tanh, lambda z: 1 / np.cosh(z) ** 2, (), 1e-6, 1e-6),
    "own": (
        lambda x: jnp.sin(3 * x) + x**2, lambda z: np.sin(3 * z) + z**2, lambda z: 3 * np.cos(3 * z) + 2 * z,
        (), 1e-6, 1e-6,
    ),
    "hard_tanh": (
        jax.nn.hard_tanh, lambda z: np.clip(z, -1, 1), lambda z: abs(z) < 1, (-1.0, 1.0), 3e-4, 2e-2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("variance", [0.3, 1.7])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_one_layer_is_the_integral(name, variance):
    activation, value, slope, kinks, error, slope_error = ACTIVATIONS[name]
    weights = {"a": variance / 512, "b": 1 / 512}
    predicted = jinit.predict(two_layers(activation), weights=weights)
    records = predicted(shapes(512), Shape((64, 512), "float32"))
    second = gaussian_mean(lambda z: value(z) ** 2, variance, *kinks)
    np.testing.assert_allclose(records["b"].input.second_moment, second, rtol=error)
    mean = gaussian_mean(value, variance, *kinks)
    np.testing.assert_allclose(records["b"].input.mean, mean, atol=error * second**0.5)
    gradient = gaussian_mean(lambda z: slope(z) ** 2, variance, *kinks) * 10 / 512
    np.testing.assert_allclose(records["a"].cotangent.second_moment, gradient, rtol=slope_error)


def test_cost_does_not_depend_on_width():
    width = 2**20  # its kernel would take 4 TiB
    predicted = jinit.predict(two_layers(jnp.tanh), weights=lambda path: 1 / width)
    records = predicted(shapes(width), Shape((2, width), "float32"))
    assert 0.39 < float(records["b"].output.second_moment) < 0.4


def deep(params: Any, x: Any) -> Any:
    return jax.lax.scan(lambda h, p: (jnp.tanh(h @ p["w"] + p["b"][None]), None), x, params)[0]


def test_thousand_layers_reach_the_fixed_point():
    """Variance map of a tanh network, σ_w² = 1.5, σ_b² = 0.05, iterated in NumPy."""
    params = {"w": Shape((1000, 256, 256), "float32"), "b": Shape((1000, 256), "float32")}
    records = jinit.predict(deep, weights={"w": 1.5 / 256, "b": 0.05}, backward=False)(
        params, Shape((32, 256), "float32")
    )
    q = [1.5 + 0.05]
    for _ in range(9):
        q.append(1.5 * gaussian_mean(lambda z: np.tanh(z) ** 2, q[-1]) + 0.05)
    found = np.asarray(records["w"].output.second_moment)
    assert found.shape == (1000,)
    np.testing.assert_allclose(found[:10], q, rtol=1e-5)
    np.testing.assert_allclose(found[-1], found[200], rtol=1e-5)


def test_pooled_relus_have_what_examples_share():
    """The mean over many positions of ReLUs of positions that share nothing: only their mean is left."""

    def apply(p: Any, x: Any) -> Any:
        h = jax.nn.relu(jax.nn.relu(x @ p["a"]) @ p["b"])
        return h.mean(1) @ p["c"]

    n = 512
    params = {k: Shape((n, n), "float32") for k in "abc"}
    records = jinit.predict(apply, weights=lambda path: 2 / n, backward=False)(
        params, Shape((4, 4096, n), "float32")
    )
    # Cho and Saul (2009): E[relu(u) relu(v)] of unit variances and correlation c, 1/π after one layer.
    c = 1 / np.pi
    shared = (np.sqrt(1 - c**2) + c * (np.pi - np.arccos(c))) / (2 * np.pi) * 2
    np.testing.assert_allclose(records["c"].input.second_moment, shared + (1 - shared) / 4096, rtol=2e-3)


class Convolutions(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.relu(nn.Conv(64, (3, 3), padding="CIRCULAR")(x))
        x = nn.max_pool(nn.relu(nn.Conv(64, (3, 3), padding="CIRCULAR")(x)), (2, 2), (2, 2))
        return nn.Dense(64)(x.reshape(x.shape[0], -1))


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        for _ in range(2):
            h = nn.RMSNorm()(x)
            h = nn.silu(nn.Dense(256)(h)) * nn.Dense(256)(h)
            x = x + nn.Dense(128)(h)
        return nn.Dense(64)(x)


class Dropped(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.relu(nn.Dense(256)(x))
        x = nn.Dropout(0.3, deterministic=False)(x)
        return nn.Dense(64)(jnp.concatenate([x, nn.tanh(nn.Dense(128)(x))], -1))


MODELS = {
    "convolutions": (Convolutions(), (4, 8, 8, 16), {}),
    "residual": (Residual(), (32, 128), {}),
    "dropped": (Dropped(), (32, 128), {"rngs": {"dropout": jax.random.key(3)}}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_agrees_with_measure(name):
    model, shape, options = MODELS[name]
    x = array(*shape, seed=7)
    keys = ("params", "dropout")
    init = jax.jit(lambda key: model.init(dict.fromkeys(keys, key), x))
    measure = jax.jit(lambda p, key: jinit.measure(model.apply, key=key)(p, x, **options)[1])
    records = jinit.predict(model.apply)(init(jax.random.key(0)), x, **options)
    draws = [measure(init(jax.random.key(i)), jax.random.key(100 + i)) for i in range(DRAWS)]
    assert list(records) == list(draws[0])
    for site, record in records.items():
        for field in ("input", "output", "weight", "cotangent", "weight_gradient"):
            of_draws = [getattr(d[site], field) for d in draws]
            assert disagreement(getattr(record, field), of_draws) < 1, (site, field)
            assert float(getattr(record, field).count) == float(of_draws[0].count)


def test_disagreement_can_be_found():
    x = array(512)
    draws = [jinit.Moments.of(x * s) for s in (0.99, 1.0, 1.01)]
    assert disagreement(jinit.Moments.of(x), draws) < 1
    assert disagreement(jinit.Moments.of(x * 1.1), draws) > 1


def test_layer_norm_and_softmax_are_exact():
    """What they normalise comes out normalised, whatever went in."""

    def apply(p: Any, x: Any) -> Any:
        h = x @ p["a"]
        h = (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True))
        return h @ p["b"]

    records = jinit.predict(apply, weights=lambda path: 3.0)(shapes(256), Shape((8, 256), "float32"))
    np.testing.assert_allclose(records["b"].input.second_moment, 1, rtol=1e-5)
    np.testing.assert_allclose(records["b"].input.mean, 0, atol=1e-5)


@pytest.mark.slow
def test_works_under_jit_and_takes_moments_of_arrays():
    params = {"a": array(128, 128, scale=0.1), "b": array(128, 10, seed=1, scale=0.1)}
    x = array(64, 128, seed=2)
    predicted = jinit.predict(two_layers(jnp.tanh))
    plain, jitted = predicted(params, x), jax.jit(predicted)(params, x)
    for site in ("a", "b"):
        np.testing.assert_allclose(
            plain[site].output.second_moment, jitted[site].output.second_moment, rtol=1e-4
        )
    np.testing.assert_allclose(plain["a"].input.second_moment, np.mean(np.asarray(x) ** 2), rtol=1e-5)


def test_own_rule():
    def apply(p: Any, x: Any) -> Any:
        return jnp.cumsum(jnp.tanh(x @ p["a"]), axis=-1) @ p["b"]

    given = shapes(64), Shape((8, 64), "float32")
    with pytest.raises(NotImplementedError, match=r"(?s)`cumsum` has no rule \(.*test_predict.py.*rules"):
        jinit.predict(apply, weights=lambda path: 1 / 64)(*given)
    rules = {jax.lax.cumsum_p: lambda moments, eqn: [(moments[0][0] * 32.5, moments[0][1] * 32.5)]}
    records = jinit.predict(apply, weights=lambda path: 1 / 64, rules=rules, backward=False)(*given)
    np.testing.assert_allclose(records["b"].input.second_moment, 32.5 * 0.3943, rtol=1e-3)


def test_a_rule_that_gives_something_else_is_refused():
    rules = {jax.lax.cumsum_p: lambda moments, eqn: [moments[0][0]]}
    predicted = jinit.predict(
        lambda p, x: jnp.cumsum(x @ p["a"], axis=-1) @ p["b"], weights=lambda path: 1 / 64, rules=rules
    )
    with pytest.raises(ValueError, match=r"the rule of `cumsum` must give \(mean, variance\) of each result"):
        predicted(shapes(64), Shape((8, 64), "float32"))


@pytest.mark.parametrize("function", [jnp.sort, lambda x: jnp.argsort(x).astype(x.dtype), jnp.cumsum])
def test_what_mixes_entries_is_no_function_of_entries(function):
    def apply(p: Any, x: Any) -> Any:
        return jax.vmap(function)(x @ p["a"]) @ p["b"]

    predicted = jinit.predict(apply, weights=lambda path: 1 / 64, backward=False)
    with pytest.raises(NotImplementedError, match=r"`(sort|cumsum)` has no rule"):
        predicted(shapes(64), Shape((8, 64), "float32"))


def test_a_weight_that_meets_itself_is_refused_unless_given():
    """By its variances alone a power iteration came out a million times too large."""

    def scaled(w: Any) -> Any:
        u = w.T @ (w @ jnp.ones(64))
        return w / jnp.linalg.norm(w @ (u / jnp.linalg.norm(u)))

    def apply(p: Any, x: Any) -> Any:
        return x @ scaled(p["a"]) @ p["b"]

    x = Shape((8, 64), "float32")
    with pytest.raises(NotImplementedError, match=r"a weight meets what is made of it.*give `params`"):
        jinit.predict(apply, weights=lambda path: 1 / 64)(shapes(64), x)
    keys = dict(zip("ab", jax.random.split(jax.random.key(0)), strict=True))
    params = {k: jax.random.normal(key, (64, 64)) / 8 for k, key in keys.items()}
    records = jinit.predict(apply)(params, x)
    wanted = 64 * jnp.mean(jnp.square(scaled(params["a"])))
    np.testing.assert_allclose(records["a"].output.second_moment, wanted, rtol=1e-3)


@pytest.mark.parametrize(
    "of", [lambda w: w / jnp.linalg.norm(w, axis=0, keepdims=True), lambda w: (w - w.mean(0)[None]) * 2]
)
def test_a_weight_made_of_itself_entry_by_entry_is_followed(of):
    records = jinit.predict(lambda p, x: x @ of(p["a"]) @ p["b"], weights=lambda path: 1 / 64)(
        shapes(64), Shape((8, 64), "float32")
    )
    assert np.isfinite(records["b"].output.second_moment)


def test_what_is_not_needed_is_not_refused():
    def apply(p: Any, x: Any) -> Any:
        out = jnp.tanh(x @ p["a"]) @ p["b"]
        return out, jnp.argmax(out, -1), jnp.sort(jax.lax.stop_gradient(out))

    records = jinit.predict(apply, weights=lambda path: 1 / 64, backward=False)(
        shapes(64), Shape((8, 64), "float32")
    )
    assert list(records) == ["a", "b"]


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ({"a": 1.0}, "a parameter without values needs a variance in `weights`; got 'b'"),
        ({"a": 1.0, "c": 1.0}, "`weights` must name parameters by their paths; got 'c'"),
        ({"a": -1.0, "b": 1.0}, "variances that are not negative; got -1.0 for 'a'"),
    ],
)
def test_weights_are_checked(weights, text):
    with pytest.raises(ValueError, match=text):
        jinit.predict(two_layers(jnp.tanh), weights=weights)(shapes(8), Shape((2, 8), "float32"))
