"""What the experiments compute themselves, beside closed forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from experiments import (
    biases,
    crosswise,
    every_layer,
    gradients,
    normalization,
    symmetry,
    ten_techniques,
    transfer,
)
from experiments._data import digits
from experiments._networks import MLP, initialize
from experiments._numbers import summary

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("activation", "q", "expected"),
    [
        (jax.nn.relu, 3.0, 0.5),
        (lambda x: 2 * x, 1.0, 4.0),
        (jnp.sin, 0.7, (1 + np.exp(-1.4)) / 2),  # E[cos²(√q z)]
        (jax.scipy.special.erf, 0.5, 4 / np.pi / np.sqrt(1 + 4 * 0.5)),  # E[(2/√π)² exp(−2qz²)]
    ],
)
def test_energy_of_slopes(activation, q, expected):
    found = gradients.slope_energy(activation, np.array([q]))
    np.testing.assert_allclose(found, [expected], rtol=1e-5)


def test_gradients_of_a_relu_network_by_theory():
    found = gradients.predicted("relu", 1.0, 5)
    np.testing.assert_allclose(found, np.log10(0.5) * np.array([4, 3, 2, 1, 0]), rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_measured_gradients_start_at_the_last_layer():
    found = gradients.measured("relu", 2.0, 2, 3)
    assert found.shape == (2, 3)
    assert (found[:, -1] == 0).all()
    assert (found[:, 0] != 0).all()


def test_spread_of_units():
    equal = np.repeat(np.arange(1.0, 4.0)[:, None], 5, axis=1)
    assert symmetry.spread(equal) == 0
    equal[0, 2] += 1
    assert symmetry.spread(equal) == pytest.approx(1 / np.sqrt(np.mean(equal**2)))
    assert symmetry.spread(np.zeros((3, 5))) == 0


@pytest.mark.parametrize(
    ("accuracies", "inside"),
    [
        ([0.885, 0.895], True),
        ([0.95, 0.951], False),
        ([0.8, 0.801], False),
        ([0.917, 0.9171], False),
        ([0.914, 0.915], True),
    ],
)
def test_claimed_ranges_to_the_whole_percent(accuracies, inside):
    assert ten_techniques.within(summary(accuracies), 88, 91) == inside


def test_factor_of_a_linear_law():
    """Twice the variance gives twice the factor, seed by seed."""
    one, two = (crosswise.factor(gradients.law(scale), seeds=2, depth=3, width=16) for scale in (1.0, 2.0))
    np.testing.assert_allclose(two["per_layer"]["each"], 2 * one["per_layer"]["each"], rtol=1e-4)


def test_theory_of_biases():
    relu = biases.predicted("relu", "normal 1", 3, 1.0)
    assert relu == pytest.approx(3 + 1 + 1, rel=1e-5)  # q grows by the variance of the bias at every layer
    assert biases.predicted("relu", "constant 1", 3, 1.0) is None


def test_dead_units_are_seen(monkeypatch):
    monkeypatch.setitem(biases.BIASES, "zero", jinit.constant(-100.0))
    found = biases.signal("relu", "zero", depth=2, seeds=2)
    assert found["dead"]["mean"] == found["zeros"]["mean"] == 1


def test_same_key_gives_equal_kernels():
    model = MLP(4, 64)
    own, same = (
        initialize(model, rules, jax.random.split(KEY, 2), 64)["params"]
        for rules in every_layer.depth_plans(jinit.he_normal()).values()
    )
    for i in (2, 3):
        np.testing.assert_array_equal(same[f"Dense_{i}"]["kernel"], same["Dense_1"]["kernel"])
        assert not np.array_equal(own[f"Dense_{i}"]["kernel"], own["Dense_1"]["kernel"])


def test_prior_bias_starts_at_the_entropy():
    data = every_layer.rare()
    share = float(np.mean(np.asarray(data.y)))
    bias = every_layer.log_prior(data)(KEY, (2,), jnp.float32)
    loss = -np.mean(np.asarray(jax.nn.log_softmax(bias))[np.asarray(data.y)])
    assert loss == pytest.approx(-share * np.log(share) - (1 - share) * np.log(1 - share), rel=1e-5)


def test_classes_are_parted_and_examples_few():
    low, high = transfer.halves()
    assert len(low.x) + len(high.x) == len(digits().x)
    assert set(np.unique(high.y)) == set(range(5))
    few = transfer.few(high, 3)
    assert np.bincount(few.y).tolist() == [3] * 5


def test_hidden_layers_are_carried_and_the_head_kept():
    model, rules = MLP(1, 4, outputs=5), biases.plan(jinit.he_normal(), jinit.zeros)
    fresh, old = (initialize(model, rules, jax.random.split(jax.random.key(i), 2), 8) for i in range(2))
    moved = transfer.carried(fresh, old)["params"]
    np.testing.assert_array_equal(moved["Dense_0"]["kernel"], old["params"]["Dense_0"]["kernel"])
    np.testing.assert_array_equal(moved["out"]["kernel"], fresh["params"]["out"]["kernel"])


@pytest.mark.slow
def test_the_fittest_never_get_worse():
    inits = {"He": jinit.he_normal(), "zero": jinit.zeros}
    found = transfer.evolve(inits, seeds=2, generations=4, size=16)
    for each in found.values():
        assert (np.diff(each["loss"]) <= 1e-6).all()
        assert each["loss"][-1] < each["loss"][0]
    assert found["zero"]["loss"][0] == pytest.approx(np.log(10), rel=1e-5)


def test_batch_norm():
    x = 3 + 2 * jax.random.normal(KEY, (500, 4))
    model = normalization.BatchNorm()
    y = model.apply(model.init(KEY, x), x)
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(0), 1, rtol=1e-4)


@pytest.mark.slow
def test_no_parameter_of_dropout_or_normalization_is_random():
    found = normalization.parameters()
    assert {path for path, each in found.items() if each["random"]} == {
        "params/Dense_0/kernel",
        "params/Dense_1/kernel",
    }
