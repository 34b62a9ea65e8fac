"""`jinit.compare` against the same done by hand, one draw after another."""

from __future__ import annotations

import json
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax

import jinit
from jinit.report.comparison import Comparison, ComparisonRow
from tests.zoo import array

pytestmark = pytest.mark.slow

X, WANTED = array(32, 8, seed=1), array(32, 8, seed=2)
PARAMS = {"w": array(4, 8, 8, seed=3, scale=0.3), "b": jnp.zeros((4, 8))}


def scanned(params, x):
    def layer(h, p):
        return jnp.tanh(h @ p["w"] + p["b"][None]), None

    return lax.scan(layer, x, params)[0]


def unrolled(params, x):
    for w, b in zip(params["w"], params["b"], strict=True):
        x = jnp.tanh(x @ w + b[None])
    return x


def loss(outputs, wanted):
    return jnp.mean((outputs - wanted) ** 2)


PLAN = jinit.plan([("w", jinit.glorot_normal()), ("b", jinit.zeros)])
LSUV = jinit.lsuv(scanned)
KEYS = [jax.random.fold_in(jax.random.key(5), i) for i in range(2)]


@pytest.fixture(scope="module")
def found():
    methods = {
        "plan": PLAN,
        "function": lambda key, params, x: jinit.init(scanned, PLAN)(key, params, x),
        "initializer": jinit.glorot_normal(),
        "lsuv": [PLAN, LSUV],
        "pair": lambda key, params, x: LSUV(jinit.init(scanned, PLAN)(key, params, x), x),
        "small": [jinit.normal(1e-3)],
        "as given": lambda key, params, x: params,
    }
    options = {
        "labels": WANTED,
        "steps": 3,
        "optimizer": optax.sgd(0.5),
        "seeds": 2,
        "key": jax.random.key(5),
    }
    return jinit.compare(methods, scanned, loss=loss, **options)(PARAMS, X)


def test_losses_are_those_of_training_by_hand(found):
    optimizer = optax.sgd(0.5)
    for key, losses in zip(KEYS, found["lsuv"].losses, strict=True):
        params, _ = LSUV(jinit.init(scanned, PLAN)(key, PARAMS, X), X)
        state, expected = optimizer.init(params), []
        for _ in range(4):
            value, slope = jax.value_and_grad(lambda p: loss(scanned(p, X), WANTED))(params)
            updates, state = optimizer.update(slope, state)
            params = optax.apply_updates(params, updates)
            expected.append(value)
        np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_signals_are_those_measured(found):
    for i, key in enumerate(KEYS):
        params = jinit.init(scanned, PLAN)(key, PARAMS, X)
        measured = jinit.measure(scanned, loss=lambda y: loss(y, WANTED))
        record = measured(params, X)[1]["w"]
        row = found["plan"]
        np.testing.assert_allclose(row.signal[i], record.input.second_moment, rtol=1e-5)
        np.testing.assert_allclose(row.gradient[i], record.cotangent.total_square, rtol=1e-5)
        error = np.max(np.abs(np.sqrt(record.output.variance) - 1))
        np.testing.assert_allclose(row.variance_error[i], error, rtol=1e-4)


@pytest.mark.parametrize(("name", "same"), [("function", "plan"), ("initializer", "plan"), ("pair", "lsuv")])
def test_forms_of_a_method_are_one(found, name, same):
    assert found[name].losses == found[same].losses
    assert found[name].signal == found[same].signal


def test_numbers_of_the_methods(found):
    assert max(found["lsuv"].variance_error) < 1e-3
    assert (found.sites, found.steps) == (4, 3)
    assert found["lsuv"].signal_depth == found["lsuv"].gradient_depth == (4, 4)
    assert found["small"].signal_depth == (1, 1)
    assert found["as given"].losses[0] == found["as given"].losses[1]
    assert found["plan"].losses[0] != found["plan"].losses[1]


def test_cost_in_forward_passes(found):
    costs = {row.method: row.forward_passes for row in found.rows}
    assert costs["plan"] == costs["initializer"] == costs["small"] == 0
    assert 1 <= costs["lsuv"] < 1.6  # the network is 8 wide: sums over outputs count
    assert costs["pair"] > costs["lsuv"]


def test_loops_are_in_the_order_of_the_program(found):
    plan = jinit.plan([("w", jinit.glorot_normal()), ("b", jinit.zeros)])
    draw = lambda key, params, x: jinit.init(scanned, plan)(key, params, x)  # noqa: E731
    straight = jinit.compare({"plan": draw}, unrolled, seeds=2, key=jax.random.key(5))(PARAMS, X)
    np.testing.assert_allclose(straight["plan"].signal, found["plan"].signal, rtol=1e-5)


def test_one_program_trains_all():
    traced = []

    def counted(outputs, wanted):
        traced.append(outputs.shape)
        return loss(outputs, wanted)

    compare = lambda methods: jinit.compare(  # noqa: E731
        methods, scanned, loss=counted, labels=WANTED, steps=2, seeds=2, backward=False
    )(PARAMS, X)
    compare({"one": PLAN})
    once = len(traced)
    compare({str(i): jinit.normal(0.1 * (i + 1)) for i in range(4)})
    assert len(traced) == 2 * once


def test_batches_are_the_same_for_all_methods():
    options = {"loss": loss, "labels": WANTED, "steps": 4, "batch_size": 5, "seeds": 1, "backward": False}
    found = jinit.compare({"a": PLAN, "b": PLAN}, scanned, **options)(PARAMS, X)
    whole = jinit.compare({"a": PLAN}, scanned, **options | {"batch_size": None})(PARAMS, X)
    assert found["a"].losses == found["b"].losses
    assert found["a"].losses != whole["a"].losses
    with pytest.raises(ValueError, match=r"one leading axis of examples; got \(7, 8\), \(32, 8\)"):
        jinit.compare({"a": PLAN}, scanned, **options)(PARAMS, X[:7])


class Net(nn.Module):
    @nn.compact
    def __call__(self, tokens, train):
        x = nn.Embed(7, 8, param_dtype=jnp.bfloat16)(tokens)
        x = nn.BatchNorm(use_running_average=not train, param_dtype=jnp.bfloat16)(x)
        return nn.Dense(3, param_dtype=jnp.bfloat16, dtype=jnp.float32)(x)


@pytest.mark.standard_promotion
def test_variables_of_linen_and_settings():
    tokens = jnp.arange(24).reshape(8, 3) % 7
    model = Net()
    params = model.init(jax.random.key(0), tokens, False)

    def own(key, params, tokens, train):
        return model.init(key, tokens, train)

    options = {"loss": lambda y: jnp.mean(y**2), "steps": 3, "seeds": 2, "optimizer": optax.adam(0.05)}
    found = jinit.compare({"own": own}, model.apply, **options)(params, tokens, train=False)
    assert found.sites == 2
    for losses in found["own"].losses:
        assert losses[-1] < losses[0]
    only = lambda p, t, train: model.apply(  # noqa: E731
        {"params": p["params"], "batch_stats": lax.stop_gradient(p["batch_stats"])}, t, train
    )
    held = jinit.compare({"own": own}, only, **options)(params, tokens, train=False)
    np.testing.assert_allclose(found["own"].losses, held["own"].losses, rtol=1e-6)


def test_shapes_are_enough_for_a_plan_and_modules_work():
    shapes = jax.eval_shape(lambda: PARAMS)
    found = jinit.compare({"plan": PLAN}, scanned, seeds=1)(shapes, X)
    assert found["plan"].signal_depth == (4,)
    with pytest.raises(ValueError, match="parameters that stay must be arrays"):
        jinit.compare({"init": jinit.he_normal()}, scanned, seeds=1)(shapes, X)
    apply, params = jinit.functional(nnx.Linear(8, 8, rngs=nnx.Rngs(0)))
    found = jinit.compare({"he": jinit.he_normal()}, apply, loss=loss, labels=WANTED, steps=1)(params, X)
    assert len(found["he"].losses) == 3


def row(name, loss, cost=0.0):
    return ComparisonRow(name, (0.1,) * len(loss), ((1.0, 1.0),) * len(loss), ((1.0, math.nan),) * len(loss),
                         tuple((2.0, x) for x in loss), cost)  # fmt: skip


def test_a_diverged_run_counts_as_the_worst():
    nan = math.nan
    found = Comparison(
        (row("bad", [nan, nan, 0.0]), row("mixed", [0.1, nan, 0.2]), row("good", [0.3, 0.3, 0.3])), 2, 1
    )
    assert [r.method for r in found.ranked] == ["mixed", "good", "bad"]
    lines = found.render(80).splitlines()
    assert lines[-2].split()[-3:] == ["0.200", "inf", "0"]
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["rows"][0]["loss"] == ["nan", "nan", 0.0]
    assert found["good"].gradient_depth == (1, 1, 1)


def test_the_table_fits():
    rows = tuple(row(f"a method with a long name, number {i}", [0.5]) for i in range(3))
    for width in (60, 72, 100):
        lines = Comparison(rows, 2, 1).render(width).splitlines()
        assert max(map(len, lines)) <= width
        assert len(lines) == 6
    assert "a method with a long name, number 2" in Comparison(rows, 2, 1).render(100)


def test_plot(found):
    pytest.importorskip("matplotlib")
    axes = found.plot().axes
    assert [axis.get_xlabel() for axis in axes] == ["site", "site", "step", "forward passes"]
    points = {line.get_label(): line.get_xydata()[0] for line in axes[3].lines}
    row = found["lsuv"]
    np.testing.assert_allclose(points["lsuv"], [row.forward_passes, np.median(row.variance_error)])
    assert len(axes[0].lines) == len(found.rows)
    np.testing.assert_allclose(axes[2].lines[0].get_ydata(), np.median(found.rows[0].losses, axis=0))


def bad(methods=None, apply=scanned, params=PARAMS, **options):
    jinit.compare({"plan": PLAN} if methods is None else methods, apply, **options)(params, X)


ERRORS = {
    "no dict": (TypeError, "must be a dict", {"methods": [PLAN]}),
    "empty": (ValueError, "at least one method", {"methods": {}}),
    "no method": (TypeError, "method 'a' must be a `jinit.plan`", {"methods": {"a": 3}}),
    "empty list": (TypeError, "method 'a' must be a `jinit.plan`", {"methods": {"a": []}}),
    "plan second": (TypeError, "method 'a' must be", {"methods": {"a": [LSUV, PLAN]}}),
    "other tree": (
        ValueError, "method 'a' must return parameters like", {"methods": {"a": lambda k, p, x: p["w"]}}
    ),
    "other shape": (
        ValueError, r"float32\(3, 8\) for float32\(4, 8\) at \['b'\]",
        {"methods": {"a": lambda k, p, x: {**p, "b": p["b"][1:]}}},
    ),
    "loss": (ValueError, "one floating number", {"loss": lambda y: y, "backward": False}),
    "labels": (ValueError, "`labels` need a `loss`", {"labels": WANTED}),
    "steps": (ValueError, "`steps` must be a whole number of at least 1", {"steps": 0}),
    "seeds": (ValueError, "`seeds` must be a whole number of at least 1", {"seeds": 0}),
    "batch_size": (ValueError, "`batch_size` must be a whole number of at least 1", {"batch_size": 0}),
    "within": (ValueError, "`within` must be more than 1", {"within": 0.5}),
    "text": (TypeError, "`seeds` must be a whole number; got seeds='3'", {"seeds": "3"}),
    "half": (TypeError, "`steps` must be a whole number; got steps=2.5", {"steps": 2.5}),
    "backward": (TypeError, "`backward` must be True or False; got backward='no'", {"backward": "no"}),
    "no loss": (TypeError, "`loss` must be a function of the outputs; got loss=3", {"loss": 3}),
    "optimizer": (TypeError, "must be an optax optimizer; got optimizer='adam'", {"optimizer": "adam"}),
    "bound": (
        TypeError, r"(?s)method 'a' must be .* first argument is `params`\.\n.*\{'a': \[plan, method\]\}",
        {"methods": {"a": LSUV}},
    ),
    "bound first": (TypeError, "whose first argument is `params`", {"methods": {"a": [LSUV]}}),
    "not bound": (TypeError, "(?s)first argument is `apply`.*jinit.lsuv", {"methods": {"a": jinit.lsuv}}),
    "not bound in a list": (TypeError, "is `apply`", {"methods": {"a": [jinit.orthogonal(), jinit.lsuv]}}),
    "apply": (TypeError, "`apply` must be a function", {"apply": Net()}),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    kind, words, options = ERRORS[name]
    with pytest.raises(kind, match=words):
        bad(**options)


def test_not_while_tracing():
    with pytest.raises(TypeError, match=r"must be concrete arrays"):
        jax.jit(lambda x: jinit.compare({"plan": PLAN}, scanned)(PARAMS, x).sites)(X)
