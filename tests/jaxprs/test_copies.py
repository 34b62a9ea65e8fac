"""What gives its operand again changes nothing, wherever it stands: every verb sees through it."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

import jinit
from tests.zoo import array

PARAMS = {"a": array(12, 24), "b": array(24, seed=1), "c": array(24, 6, seed=2)}
X = array(8, 12, seed=3)
COPIES = {
    "name": lambda x: checkpoint_name(x, "here"),
    "device_put": lambda x: jax.device_put(x, jax.devices()[0]),
    "copy": lambda x: lax.copy_p.bind(x),
    "reduce_precision": lambda x: lax.reduce_precision(x, 8, 23),
    "optimization_barrier": lax.optimization_barrier,
    "convert_element_type": lambda x: lax.convert_element_type(x, jnp.float32),
}


def network(weight, output, signal):
    """With a copy of a weight, of an output before its bias is added, and of a signal."""

    def apply(params, x):
        y = output(x @ weight(params["a"])) + params["b"][None]
        return signal(jax.nn.relu(y)) @ params["c"]

    return apply


def told(apply):
    """All that the verbs tell of it, as numbers."""
    uses = [(u.role, u.fan_in, u.fan_out, u.uses) for u in jinit.audit(apply)(PARAMS, X)]
    measured, predicted = jinit.measure(apply)(PARAMS, X)[1], jinit.predict(apply)(PARAMS, X)
    calibrated, records = jinit.lsuv(apply, inexact="error")(PARAMS, X)
    moments = [
        getattr(r, field).second_moment
        for found in (measured, predicted)
        for r in found.values()
        for field in ("input", "output", "cotangent", "weight", "weight_gradient")
    ]
    return uses, [*map(float, moments)], calibrated, list(records)


@functools.cache
def plainly():
    return told(network(*(3 * [lambda x: x])))


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=() if k == "name" else pytest.mark.slow) for k in COPIES]
)
@pytest.mark.slow
def test_a_copy_changes_nothing(kind):
    plain = plainly()
    copied = told(network(*(3 * [COPIES[kind]])))
    assert copied[0] == plain[0]
    np.testing.assert_allclose(copied[1], plain[1], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), copied[2], plain[2])
    assert copied[3] == plain[3]


def test_behind_stop_gradient_no_gradient_arrives():
    apply = network(lambda w: w, lax.stop_gradient, lambda x: x)
    records = jinit.measure(apply)(PARAMS, X)[1]
    assert list(records) == ["c"] or float(records["a"].weight_gradient.second_moment) == 0
