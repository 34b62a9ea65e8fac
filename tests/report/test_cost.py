"""What a method costs, as `jinit.compare` tells it."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import pytest

import jinit
from tests.report.test_compare import PARAMS, PLAN, X, loss, scanned, unrolled

pytestmark = pytest.mark.slow


def test_cost_of_what_tells_its_own_and_of_what_cannot_be_traced():
    def whole(params, x):
        return loss(scanned(params, x), x)

    metainit = jinit.metainit(whole, steps=4)
    methods = {
        "metainit": [PLAN, metainit],
        "verified": [PLAN, jinit.lsuv(scanned, verify=True)],
        "host": [PLAN, lambda params, x: jax.tree.map(lambda p: p * float(p.sum() < 1e9), params)],
    }
    found = jinit.compare(methods, scanned, seeds=1, backward=False)(PARAMS, X)
    _, learned = metainit(jinit.init(scanned, PLAN)(jax.random.fold_in(jax.random.key(0), 0), PARAMS, X), X)
    assert found["metainit"].forward_passes == pytest.approx(float(learned.forward_passes), rel=1e-6)
    assert 2 <= found["verified"].forward_passes < 3.2
    assert math.isnan(found["host"].forward_passes)
    assert found["host"].losses == ()
    assert found["host"].gradient_depth == (0,)
    text = found.render(60)
    assert " ?" in text
    assert "loss" not in text


def passes_of(methods, apply, params=PARAMS):
    found = jinit.compare(methods, apply, seeds=1, backward=False)(params, X)
    return {row.method: row.forward_passes for row in found.rows}


def test_cost_counts_every_pass_of_a_search():
    given = lambda key, params, x: params  # noqa: E731
    methods = {n: [given, jinit.equalize(unrolled, passes=n)] for n in (1, 2, 11)}
    costs = passes_of(methods | {0: given}, unrolled)
    assert costs["11"] - costs["1"] == pytest.approx(10 * (costs["2"] - costs["1"]), rel=1e-6)
    assert 3 < costs["2"] - costs["1"] < 6  # forward, forward and backward, and sums over 8 units
    assert costs["0"] == 0


def test_cost_counts_the_passes_that_a_loop_took():
    def tied(params, x):
        return jnp.tanh(jnp.tanh(x @ params["w"][0]) @ params["w"][0])

    lsuv = jinit.lsuv(tied)
    given = lambda key, params, x: params  # noqa: E731
    methods = {
        "search": [given, lsuv],
        "drawn": lambda key, params, x: lsuv(params, x),
        "silent": [given, lambda params, x: lsuv(params, x)[0]],
    }
    costs, taken = passes_of(methods, tied), int(lsuv(PARAMS, X)[1]["w#0"].passes)
    assert taken > 2
    assert costs["search"] == costs["drawn"]
    assert taken < costs["search"] < 1.6 * taken
    assert costs["search"] > 0.9 * taken * costs["silent"]


def test_a_network_without_operations():
    def moved(params, x):
        return params["w"][0].T

    doubled = {"a": lambda key, params, x: jax.tree.map(lambda p: 2 * p, params)}
    assert math.isnan(passes_of(doubled, moved)["a"])
