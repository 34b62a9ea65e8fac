"""The common core of the experiments: data, training, numbers, results."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jinit
from experiments import _results as results
from experiments._data import digits, mnist1d
from experiments._networks import MLP, initialize, plan, stack
from experiments._numbers import listed, percent, summary, table
from experiments._training import compare, cross_entropy, train

SEEDS = jax.random.split(jax.random.key(0), 2)


@pytest.mark.parametrize(
    ("load", "test"), [(digits, 360), (lambda: mnist1d(200), 40)], ids=["digits", "mnist1d"]
)
def test_data(load, test):
    data = load()
    assert len(data.x_test) == len(data.y_test) == test
    every = np.concatenate([data.x, data.x_test]).astype(np.float64)
    assert abs(every.mean()) < 1e-6
    assert abs(every.std() - 1) < 1e-6
    assert set(np.unique(data.y)) == set(range(10))
    few = data.where(np.array([3, 7]))
    assert set(np.unique(few.y)) == set(np.unique(few.y_test)) == {3, 7}


def test_mnist1d_leaves_the_global_generator_alone():
    np.random.seed(3)  # noqa: NPY002
    expected = np.random.random(2)  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    first = np.random.random()  # noqa: NPY002
    mnist1d.cache_clear()
    mnist1d(20)
    assert [first, np.random.random()] == expected.tolist()  # noqa: NPY002


def slow_twin(model, params, key, data, steps, batch):
    """One run, as a Python loop."""
    optimizer = optax.adam(1e-3)
    state, losses = optimizer.init(params), []
    for step in jax.random.split(key, steps):
        rows = jax.random.randint(step, (batch,), 0, len(data.x))
        loss, gradient = jax.value_and_grad(
            lambda p, rows=rows: cross_entropy(model.apply(p, data.x[rows]), data.y[rows])
        )(params)
        updates, state = optimizer.update(gradient, state)
        params = optax.apply_updates(params, updates)
        losses.append(float(loss))
    return losses, float(np.mean(np.argmax(model.apply(params, data.x_test), 1) == data.y_test))


@pytest.mark.standard_promotion  # optax.adam
@pytest.mark.slow
def test_training_is_the_plain_loop_run_by_run():
    data, model = digits(), MLP(1, 8)
    params = initialize(model, plan(jinit.he_normal()), SEEDS, 64)
    trained = train(model.apply, params, data, steps=6, batch=16)
    keys = jax.random.split(jax.random.key(1), 2)
    for i in range(2):
        member = jax.tree.map(lambda leaf, i=i: leaf[i], params)
        losses, accuracy = slow_twin(model, member, keys[i], data, 6, 16)
        np.testing.assert_allclose(trained.loss[i], losses, rtol=1e-4)
        assert abs(float(trained.accuracy[i]) - accuracy) < 1.5 / 360  # one tie may go either way
    assert not np.allclose(trained.loss[0], trained.loss[1])


@pytest.mark.standard_promotion  # optax.adam
def test_schemes_see_equal_batches():
    data, model = digits(), MLP(1, 8)
    params = initialize(model, plan(jinit.he_normal()), SEEDS, 64)
    trained = train(model.apply, stack([params, params]), data, steps=3, batch=16, seeds=2)
    np.testing.assert_array_equal(trained.loss[:2], trained.loss[2:])
    apart = train(model.apply, stack([params, params]), data, steps=3, batch=16)
    assert not np.allclose(apart.loss[:2], apart.loss[2:])


@pytest.mark.slow
def test_compare_keeps_plans_apart():
    plans = {"zero": plan(jinit.zeros), "He": plan(jinit.he_normal())}
    found = compare(MLP(1, 16), plans, digits(), seeds=2, steps=40, optimizer=optax.sgd(0.1))
    assert found["zero"]["first_loss"]["mean"] == pytest.approx(math.log(10), rel=1e-6)
    assert found["He"]["accuracy"]["mean"] > 0.5 > 0.2 > found["zero"]["accuracy"]["mean"]
    assert found["He"]["last_loss"]["mean"] < found["He"]["first_loss"]["mean"]


def test_summary_is_students():
    found = summary([1.0, 2.0, 4.0])
    assert found["deviation"] == pytest.approx(math.sqrt(7 / 3))
    assert found["half_width"] == pytest.approx(4.302652730 * math.sqrt(7 / 9), rel=1e-8)  # tables of t, 2 df
    assert percent(found) == "233.3 ± 379.5"


def test_words():
    assert [listed(list(word)) for word in ("", "a", "ab", "abc")] == ["", "a", "a and b", "a, b and c"]
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


@pytest.mark.parametrize(
    ("parts", "holds", "verdict"),
    [
        ([True, True], True, "holds"),
        ([False, False], False, "does not hold"),
        ([True, False, False], "in 1 of 3", "holds in 1 of 3"),
        (np.bool_(True), True, "holds"),
    ],
)
def test_verdicts(parts, holds, verdict):
    claim = results.Claim.of("a.", "b.", parts)
    assert (claim.holds, claim.verdict) == (holds, verdict)
    assert claim.sentence() == f"- **Claimed:** a. **Found:** b. **It {verdict}.**"


def test_plain_numbers():
    given = {"a": jnp.array([1.0, jnp.inf]), 2: (np.float32(0.1), True, None), "c": np.int64(3), "d": "e"}
    assert results.plain(given) == {"a": [1.0, None], "2": [0.1, True, None], "c": 3, "d": "e"}
    assert '"a": [1.0, null]' in results.dumps(results.plain(given))
