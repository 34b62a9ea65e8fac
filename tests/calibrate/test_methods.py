"""The other methods on the same walk: closed forms, and the papers' own formulas in NumPy."""

from __future__ import annotations

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import jinit
from tests.zoo import array

pytestmark = pytest.mark.slow

X = array(64, 12, seed=5)
SIZES = (12, 20, 6, 4)
CHAIN = [array(a, b, seed=i) for i, (a, b) in enumerate(itertools.pairwise(SIZES))]


def chain(params, x):
    for w in params[:-1]:
        x = jax.nn.relu(x @ w)
    return x @ params[-1]


def linear(params, x):
    for w in params:
        x = x @ w
    return x


def log_rates(apply, params):
    _, records = jinit.measure(apply)(params, X)
    found = [r.weight_gradient.second_moment / r.weight.second_moment for r in records.values()]
    return np.log(np.hstack([np.ravel(x) for x in found]))


def test_weight_normalisation_is_initialized_by_its_gain_and_bias():
    """Salimans and Kingma 2016, equation (6): g = 1/σ[t], b = −μ[t]/σ[t] with t = v·x/‖v‖."""
    model = nn.WeightNorm(nn.Dense(5))
    params = model.init(jax.random.key(0), X)
    new, records = jinit.lsuv(model.apply, per_unit=True, center=True)(params, X)
    v = np.asarray(params["params"]["layer_instance"]["kernel"], np.float64)
    t = np.asarray(X, np.float64) @ (v / np.linalg.norm(v, axis=0))
    np.testing.assert_allclose(new["params"]["layer_instance/kernel/scale"], 1 / t.std(0), rtol=1e-5)
    np.testing.assert_allclose(new["params"]["layer_instance"]["bias"], -t.mean(0) / t.std(0), atol=1e-5)
    assert new["params"]["layer_instance"]["kernel"] is params["params"]["layer_instance"]["kernel"]
    assert all(r.problem == "" for r in records.values())


def test_equalize_makes_the_relative_gradients_equal():
    new, records = jinit.equalize(chain, per_unit=False, center=False, passes=3)(CHAIN, X)
    assert np.std(log_rates(chain, CHAIN)) > 0.3
    assert np.std(log_rates(chain, new)) < 1e-4
    outputs = jinit.measure(chain, backward=False)(new, X)[1]
    for name, record in records.items():
        np.testing.assert_allclose(record.output.variance, outputs[name].output.variance, rtol=1e-4)
        assert record.problem == ""
    np.testing.assert_allclose(records["2"].output.variance, 1.0, rtol=1e-4)


@pytest.mark.slow
def test_equalize_sets_every_layer_of_a_scan():
    params = {"w": array(5, 12, 12, seed=1), "out": array(12, 3, seed=2)}

    def apply(p, x):
        return lax.scan(lambda h, w: (jax.nn.relu(h @ w), None), x, p["w"])[0] @ p["out"]

    new, _ = jax.jit(jinit.equalize(apply, per_unit=False, center=False, passes=4))(params, X)
    assert np.std(log_rates(apply, params)) > 0.1
    assert np.std(log_rates(apply, new)) < 1e-4


@pytest.mark.parametrize("share", [0.4, pytest.param(0.0, marks=pytest.mark.slow)])
def test_compromise_between_both_directions(share):
    new, records = jinit.compromise(linear, backward_share=share)(CHAIN, X)
    forward, _ = jinit.lsuv(linear)(CHAIN, X)
    cotangent = np.asarray(jax.random.normal(*_cotangent()), np.float64)
    for i in reversed(range(len(CHAIN))):
        w = np.asarray(CHAIN[i], np.float64)
        before = cotangent @ w.T
        asked = np.sqrt(np.mean(cotangent**2) / np.mean(before**2))
        f = np.mean(np.asarray(forward[i]) / CHAIN[i])
        expected = f ** (1 - share) * asked**share
        np.testing.assert_allclose(new[i], w * expected, rtol=2e-4, atol=1e-6)
        np.testing.assert_allclose(records[str(i)].factor, expected, rtol=2e-4)
        cotangent = before


def _cotangent():
    """What `measure` without a loss pulls back: the key is split over the outputs."""
    return jax.random.split(jax.random.key(0), 1)[0], (len(X), SIZES[-1])


def test_gradient_quotient_of_a_quadratic():
    """With L = ½ wᵀAw, g = Aw and Hg = A²w."""
    a = np.asarray(array(6, 6), np.float64)
    a, w = 0.1 * (a + a.T), np.asarray(array(6, seed=1), np.float64)
    found = jinit.gradient_quotient(lambda w, a: 0.5 * w @ a @ w)(jnp.float32(w), jnp.float32(a))
    g, p = a @ w, a @ a @ w
    expected = np.mean(np.abs((g - p) / (g + np.where(g >= 0, 1e-5, -1e-5)) - 1))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def squared(params, x):
    for layer in params["layers"]:
        x = jnp.tanh(x @ layer["w"] + layer["b"][None])
    return jnp.mean((x - 0.5) ** 2)


def network(scale):
    layers = [{"w": scale * array(12, 12, seed=i), "b": array(12, seed=9)} for i in range(3)]
    return {"layers": layers, "count": jnp.int32(3)}


def test_metainit_lowers_the_gradient_quotient():
    params = network(1.0)
    new, learned = jinit.metainit(squared, steps=40, learning_rate=0.3)(params, X)
    quotient = jax.jit(jinit.gradient_quotient(squared))
    assert quotient(new, X) < 0.8 * quotient(params, X)
    np.testing.assert_allclose(quotient(new, X), np.nanmin(learned.values), rtol=1e-3)
    np.testing.assert_allclose(quotient(params, X), learned.values[0], rtol=1e-4)
    assert jax.tree.structure(new) == jax.tree.structure(params)
    assert new["count"] is params["count"]
    for i, (a, b) in enumerate(zip(new["layers"], params["layers"], strict=True)):
        assert a["b"] is b["b"]
        np.testing.assert_allclose(a["w"], learned.scales[f"layers/{i}/w"] * b["w"], rtol=1e-6)
    assert float(learned.forward_passes) > 5 * int(learned.steps)


def test_learning_stops_early():
    _, learned = jinit.metainit(lambda w, x: jnp.sum(x @ w), steps=50, patience=3)(CHAIN[0], X)
    assert int(learned.steps) <= 8
    assert np.isnan(learned.values[-1])


@pytest.mark.parametrize(("bound", "slope"), [(100.0, 2.0 * 3.0**2 * (1 - 0.1 * 2.0) ** 2), (1.0, 2.0 * 3.0)])
def test_gradinit_differentiates_through_the_inner_step(bound, slope):
    """With L = ½aθ², the loss after the step is ½a m²θ²(1 − ηa)², and the gradient's norm |amθ|."""

    def loss(theta, a):
        return 0.5 * a * theta[0] ** 2

    new, learned = jinit.gradinit(
        loss, step_size=0.1, max_norm=bound, steps=1, optimizer=optax.sgd(0.01), batches=True
    )(jnp.array([3.0]), jnp.array([2.0, 2.0]))
    np.testing.assert_allclose(learned.scales["params"], 1 - 0.01 * slope, rtol=1e-5)
    np.testing.assert_allclose(new, 3.0 * (1 - 0.01 * slope), rtol=1e-5)


@pytest.mark.parametrize("rule", ["sgd", "sign"])
def test_gradinit_lowers_the_loss_after_a_step(rule):
    options = {"step_size": 0.1, "max_norm": 5.0} if rule == "sgd" else {"step_size": 1e-3, "max_norm": 100.0}
    params = network(1.5)
    new, learned = jinit.gradinit(squared, rule=rule, steps=60, learning_rate=0.05, **options)(params, X)
    values = np.asarray(learned.values)
    assert np.nanmin(values) < 0.9 * values[np.isfinite(values)][0]
    assert all(float(s) >= np.float32(0.01) for s in learned.scales.values())
    assert len(learned.scales) == 6
    assert new["count"] is params["count"]


def test_scales_never_fall_under_the_floor():
    _, learned = jinit.gradinit(lambda w, x: jnp.sum(w**2), steps=50, learning_rate=0.2, floor=0.3)(
        CHAIN[0], X
    )
    np.testing.assert_allclose(learned.scales["params"], 0.3, rtol=1e-6)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"`backward_share` must lie between 0 and 1; got backward_share=2"):
        jinit.compromise(linear, backward_share=2)
    with pytest.raises(ValueError, match=r"`passes` must be a whole number of at least 1"):
        jinit.equalize(linear, passes=0)
    with pytest.raises(ValueError, match=r"`steps` must be a whole number of at least 1"):
        jinit.metainit(squared, steps=0)
    with pytest.raises(ValueError, match=r"`epsilon` must be positive"):
        jinit.gradient_quotient(squared, epsilon=0.0)
    with pytest.raises(ValueError, match=r"every pattern of `parameters` must fit"):
        jinit.metainit(squared, parameters="*/kernel")(network(1.0), X)
    with pytest.raises(ValueError, match=r"`loss` must map"):
        jinit.metainit(linear)(CHAIN, X)
    with pytest.raises(ValueError, match=r"`floor` must be positive"):
        jinit.gradinit(squared, floor=0.0)
    with pytest.raises(ValueError, match=r'`rule` must be "sgd" or "sign"'):
        jinit.gradinit(squared, rule="adam")
