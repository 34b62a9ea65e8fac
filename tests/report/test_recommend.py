"""What is recommended is the best of what was tried, and the code does it."""

from __future__ import annotations

import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit.report.cli import main

DEPTH, WIDTH = 14, 32
SLOW = ["He", "orthogonal, √2", "orthogonal, lsuv"]
X = jax.random.normal(jax.random.key(0), (64, 8))
LABELS = jnp.sin(2 * X[:, :1])


def network(kernel_init=nn.linear.default_kernel_init):
    layers = [f for _ in range(DEPTH) for f in (nn.Dense(WIDTH, kernel_init=kernel_init), nn.relu)]
    model = nn.Sequential([*layers, nn.Dense(1, kernel_init=kernel_init)])
    return model.apply, model.init(jax.random.key(1), X)


def loss(outputs, labels):
    return jnp.mean((outputs - labels) ** 2)


@pytest.mark.slow
def test_the_best_of_what_was_tried():
    apply, params = network(jinit.normal(0.02))
    found = jinit.recommend(apply, loss=loss, labels=LABELS, steps=60, seeds=2)(params, X)
    medians = {row.method: np.median(row.loss) for row in found.comparison.rows}
    assert set(found.code) == set(medians)
    assert medians[found.best] == min(medians.values())
    assert medians[found.best] < medians["as given"] / 1.2
    assert [medians[row.method] for row in found.ranked] == sorted(medians.values())
    assert f"{medians[found.best]:.4g}" in found.reason
    assert found.code[found.best].splitlines()[0] in found.render(120)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["best"] == found.best


@pytest.mark.slow
@pytest.mark.parametrize("scheme", [*SLOW, "He, lsuv"])
def test_the_code_does_what_was_measured(scheme):
    apply, params = network()
    found = jinit.recommend(apply, seeds=1, key=jax.random.key(5))(params, X)
    scope = {"jinit": jinit, "apply": apply, "params": params, "inputs": (X,)}
    scope["key"] = jax.random.fold_in(jax.random.key(5), 0)
    exec(found.code[scheme], scope)
    _, records = jinit.measure(apply, backward=False)(scope["params"], X)
    signal = [float(record.input.second_moment) for record in records.values()]
    np.testing.assert_allclose(found.comparison[scheme].signal[0], signal, rtol=1e-4)


@pytest.mark.slow
def test_without_a_loss_by_depth_and_variance():
    apply, params = network(jinit.normal(0.02))
    found = jinit.recommend(apply, seeds=2)(params, X)
    assert "lsuv" in found.best
    assert found.ranked[-1].method in ("as given", "normal, 0.02")
    assert "Without a loss" in found.reason


@pytest.mark.slow
def test_command_line(tmp_path, capsys):
    path = tmp_path / "net.py"
    path.write_text(
        "import flax.linen as nn, jax.numpy as jnp\n"
        "model = nn.Sequential([nn.Dense(16), nn.tanh, nn.Dense(1)])\n"
        "x = jnp.linspace(-1.0, 1.0, 32)[:, None]\n"
        "def setup():\n"
        "    return model, x, lambda y: jnp.mean((y - jnp.sin(3.0 * x)) ** 2)\n"
    )
    assert main(["recommend", f"{path}:setup", "--steps", "5", "--seeds", "1", "--width", "80"]) == 0
    shown = capsys.readouterr().out
    assert "jinit recommend: " in shown
    assert "as given" in shown
    assert main(["recommend", f"{path}:setup", "--steps", "0"]) == 2
    assert "at least 1" in capsys.readouterr().err
    assert main(["recommend", f"{path}:nothing"]) == 2


@pytest.mark.slow
def test_what_is_given_costs_nothing():
    apply, params = network()
    keep = {"as given": lambda key, params, x: params}
    assert jinit.compare(keep, apply, seeds=1)(params, X)["as given"].forward_passes == 0


def test_a_module_is_no_function():
    with pytest.raises(TypeError, match=r"`jinit.recommend\(\.\.\.\)`: `apply` must be a function"):
        jinit.recommend(nn.Dense(3))


HE = {"He": jinit.he_normal()}
BAD = {
    "no weight": (r": every rule must take a parameter", lambda p, x: x, {}),
    "no array": (r": `apply` must return arrays; got a str at \[1\]", lambda p, x: (x @ p["w"], "a"), {}),
    "no seeds": (r": `seeds` must be a whole number of at least 1", lambda p, x: x @ p["w"], {"seeds": 0}),
    "no loss": (r": `labels` need a `loss`", lambda p, x: x @ p["w"], {"labels": LABELS}),
    "no number": (r": `loss` must map the outputs", lambda p, x: x @ p["w"], {"loss": lambda y: y}),
    "no key": (r": `key` must be a JAX random key; got key=3", lambda p, x: x @ p["w"], {"key": 3}),
}


@pytest.mark.parametrize("caller", ["recommend", "compare"])
@pytest.mark.parametrize("name", BAD)
def test_complaints_are_in_the_name_of_what_was_called(name, caller):
    words, apply, options = BAD[name]
    functions = {"recommend": jinit.recommend, "compare": functools.partial(jinit.compare, HE)}
    with pytest.raises((TypeError, ValueError), match=rf"^`jinit.{caller}\(\.\.\.\)`{words}"):
        functions[caller](apply, **options)({"w": jnp.ones((8, 2))}, X)


def test_notes_are_in_the_name_of_what_was_called():
    with pytest.raises(TypeError) as raised:
        jinit.recommend(lambda p, x: x @ p["w"].T)({"w": jnp.ones((8, 2))}, X)
    assert raised.value.__notes__[-1].startswith("`jinit.recommend(...)`: tracing `apply(params, *inputs)`")
