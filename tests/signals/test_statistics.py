"""Every statistic against one computed by hand: networks written out, perturbations, `jax.grad`."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jinit
from jinit.signals.moments import Moments
from tests.signals.compare import FIELDS, assert_moments, loss
from tests.zoo import array

X = array(3, 4, seed=5)


def assert_record(record: Any, expected: dict[str, Any], name: str) -> None:
    for field in FIELDS:
        assert_moments(getattr(record, field), expected[field], f"{name} {field}")


def convolve(x: Any, w: Any) -> Any:
    return lax.conv_general_dilated(x, w, (2, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


MLP = {"a": array(4, 6), "b": array(6, seed=1), "c": array(6, 2, seed=2)}
CNN = {"a": array(3, 3, 2, 4), "b": array(4, seed=1), "c": array(3, 3, 4, 2, seed=2)}


def network(params: Any, x: Any, push: Any = None, *, product: Any) -> Any:
    """Two layers and what each consists of; `push` holds perturbations of weights and outputs."""
    push = push or {}
    shape = (1,) * (x.ndim - 1)
    w = {k: params[k] + push.get(k, 0) for k in "ac"}
    first = product(x, w["a"]) + params["b"].reshape(*shape, -1)
    first = first + push.get("first", jnp.zeros_like(first))
    hidden = jax.nn.relu(first)
    second = product(hidden, w["c"])
    second = second + push.get("second", jnp.zeros_like(second))
    return second, {"first": first, "second": second, "hidden": hidden}


@pytest.mark.parametrize(
    ("params", "x", "product"),
    [(MLP, X, jnp.matmul), (CNN, array(2, 5, 5, 2), convolve)],
    ids=["mlp", "cnn"],
)
def test_by_hand(params, x, product):
    run = functools.partial(network, product=product)

    def apply(params: Any, x: Any) -> Any:
        hidden = jax.nn.relu(product(x, params["a"]) + params["b"].reshape(*(1,) * (x.ndim - 1), -1))
        return product(hidden, params["c"])

    outputs, records = jinit.measure(apply, loss=loss)(params, x)
    _, seen = run(params, x)
    like = {"a": params["a"], "c": params["c"], "first": seen["first"], "second": seen["second"]}
    zero = jax.tree.map(jnp.zeros_like, like)
    back = jax.grad(lambda push: loss(run(params, x, push)[0]))(zero)
    np.testing.assert_allclose(outputs, seen["second"], rtol=1e-5, atol=1e-5)
    parts = {"a": (x, "first"), "c": (seen["hidden"], "second")}
    for name, (entering, at) in parts.items():
        expected = {
            "input": entering, "output": seen[at], "cotangent": back[at],
            "weight": params[name], "weight_gradient": back[name],
        }  # fmt: skip
        assert_record(records[name], expected, name)


def test_each_use_of_a_shared_weight():
    """Per use, and together the gradient of the weight."""
    w = array(4, 4, seed=1)

    def apply(params: Any, x: Any) -> Any:
        return jnp.tanh(x @ params["w"]) @ params["w"].T

    _, records = jinit.measure(apply, loss=loss)({"w": w}, X)
    first, second = jax.grad(lambda a, b: loss(jnp.tanh(X @ a) @ b.T), argnums=(0, 1))(w, w)
    assert list(records) == ["w#0", "w#1"]
    assert_moments(records["w#0"].weight_gradient, first)
    assert_moments(records["w#1"].weight_gradient, second)
    assert_moments(records["w#1"].input, jnp.tanh(X @ w))


@pytest.mark.slow
def test_an_embedding():
    table, ids = array(7, 4), jnp.array([[1, 1, 2], [0, 6, 1]])
    _, records = jinit.measure(lambda p, i: p["table"][i] ** 2, loss=loss)({"table": table}, ids)
    record = records["table"]
    assert record.input is None
    assert_moments(record.output, table[ids])
    assert_moments(record.weight_gradient, jax.grad(lambda t: loss(t[ids] ** 2))(table))
    assert_moments(record.cotangent, jax.grad(lambda rows: loss(rows**2))(table[ids]))


# The larger ones are summed by rows where they are stored, the last but one cannot be.
@pytest.mark.parametrize(
    "shape", [(50, 40), (1024, 512), (3, 3, 256, 256), (1023, 513), (16, 32, 1024)], ids=str
)
@pytest.mark.parametrize(
    "dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.complex64, jnp.int32, jnp.bool_]
)
def test_moments_of_dtypes(dtype, shape):
    complex_ = dtype == jnp.complex64
    x = (array(*shape, dtype=np.complex64 if complex_ else np.float32) * 3).astype(dtype)
    wide = x if complex_ else x.astype(jnp.float32)
    assert_moments(Moments.of(x, stored=True), wide)
    if x.size < 2**18:
        assert_moments(Moments.of(x), wide)


def test_sums_of_what_is_all_alike_are_precise():
    """Rounding errors of one sign: in one long row they would add up to 1e-3."""
    moments = Moments.of(jnp.full((2048, 1024), np.float32(1.1)), stored=True)
    np.testing.assert_allclose(moments.mean, np.float32(1.1), rtol=1e-6)
    np.testing.assert_allclose(moments.second_moment, 1.1**2, rtol=1e-6)


@pytest.mark.parametrize("size", [10, 1024])
def test_planted_entries(size):
    x = np.ones((size, size), np.float32)
    x[0, :7] = 0.0
    x[1, 0] = -0.0
    assert float(Moments.of(jnp.asarray(x), stored=True).zero_count) == 8
    x[2, :2], x[3, 0], x[4, 0] = np.nan, np.inf, -np.inf
    moments = Moments.of(jnp.asarray(x), stored=True)
    assert float(moments.nonfinite_count) == 4
    assert float(moments.zero_count) == 8
    assert np.isnan(moments.mean)
    assert float(Moments.of(jnp.asarray([1 + 1j * np.inf, 0], np.complex64)).nonfinite_count) == 1


def test_planted_entries_in_a_network():
    """A NaN at the input of one layer is counted at every place it reaches."""
    x = X.at[0, 0].set(jnp.nan)
    _, records = jinit.measure(lambda p, x: jax.nn.relu(x @ p["a"] + p["b"][None]) @ p["c"], loss=loss)(
        MLP, x
    )
    assert float(records["a"].input.nonfinite_count) == 1
    assert float(records["a"].output.nonfinite_count) == 6
    assert float(records["c"].output.nonfinite_count) == 2
    # The rows that are whole give finite gradients, the loss being a sum of means.
    assert float(records["c"].weight.nonfinite_count) == 0


def test_adding_up():
    x = array(30)
    parts = [Moments.of(x[:10]), Moments.of(x[10:])]
    assert_moments(parts[0] + parts[1], x)


def test_random_cotangents():
    """A standard normal one enters at every output, another for another key, and `key(0)` by default."""
    w = array(4, 50)
    x = array(200, 4, seed=1)

    def apply(params: Any, x: Any) -> Any:
        y = x @ params["w"]
        return {"y": y, "rounded": y.astype(jnp.int32)}

    second = []
    for key in (None, jax.random.key(0), jax.random.key(1)):
        _, records = jinit.measure(apply, key=key)({"w": w}, x)
        second.append(float(records["w"].cotangent.second_moment))
        mean = float(records["w"].cotangent.mean)
        n = 200 * 50
        assert abs(mean) < 4 / n**0.5
        assert abs(second[-1] - 1) < 4 * (2 / n) ** 0.5
    assert second[0] == second[1] != second[2]


def test_the_check_can_fail():
    x = array(100)
    for wrong in (x[:50], x * 1.001, x.at[0].set(0.0), x + 1e-3):
        with pytest.raises(AssertionError):
            assert_moments(Moments.of(wrong), x)
