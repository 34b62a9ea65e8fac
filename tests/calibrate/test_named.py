"""What a calibration did not set it names, leaves as it was, and does not say that it changed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from tests.zoo import array

X = array(64, 32, seed=0)
TWO = {"a": array(32, 16, seed=1), "b": array(16, 8, seed=2)}
NO_HEAD = {**TWO, "b": jnp.zeros((16, 8))}
GRADIENT = "zero, NaN or infinite gradient"


def apply(p, x):
    return jax.nn.relu(x @ p["a"]) @ p["b"]


METHODS = {
    "lsuv": jinit.lsuv(apply),
    "verified": jinit.lsuv(apply, verify=True),
    "by unit, centered": jinit.lsuv(apply, per_unit=True, center=True),
    "autoinit": jinit.autoinit(apply),
    "compromise": jinit.compromise(apply),
    "equalize": jinit.equalize(apply, passes=2),
}


@pytest.mark.parametrize("method", METHODS)
def test_zero_variance(method):
    new, records = METHODS[method](NO_HEAD, X)
    assert "zero variance" in records["b"].problem
    assert records["b"].changed == ()
    np.testing.assert_array_equal(new["b"], NO_HEAD["b"])
    by_gradient = method in ("compromise", "equalize")
    assert records["a"].problem.startswith(GRADIENT) if by_gradient else records["a"].problem == ""
    assert records["a"].changed == (() if method == "compromise" else ("a",))


@pytest.mark.parametrize("method", METHODS)
def test_nan(method):
    new, records = METHODS[method](TWO, X.at[0, 0].set(jnp.nan))
    for name, record in records.items():
        assert "NaN" in record.problem
        assert record.changed == ()
        np.testing.assert_array_equal(new[name], TWO[name])


def test_methods_that_have_nothing_to_name():
    for calibrate in METHODS.values():
        _, records = calibrate(TWO, X)
        assert [(r.problem, r.changed) for r in records.values()] == [("", ("a",)), ("", ("b",))]


@pytest.mark.parametrize(("share", "problem"), [(0.0, ""), (0.5, GRADIENT), (1.0, GRADIENT)])
def test_compromise_needs_a_gradient_only_where_it_asks_one(share, problem):
    new, records = jinit.compromise(apply, backward_share=share)(NO_HEAD, X)
    assert records["a"].problem[: len(GRADIENT)] == problem
    assert bool(jnp.all(new["a"] == TWO["a"])) == bool(problem)


def test_a_dead_unit():
    dead = {**TWO, "a": TWO["a"].at[:, 3].set(0)}
    new, records = jinit.lsuv(apply, per_unit=True)(dead, X)
    assert "zero variance" in records["a"].problem
    assert "one unit" in records["a"].problem
    assert (records["a"].changed, records["b"].problem) == (("a",), "")
    assert float(records["a"].factor[3]) == 1
    np.testing.assert_array_equal(new["a"][:, 3], 0)


def biased(p, x):
    return x @ p["a"] + p["c"][None]


def test_a_zero_kernel_is_not_blamed_on_its_bias():
    params = {"a": jnp.zeros((32, 16)), "c": 0.1 * array(16, seed=3)}
    for calibrate in (jinit.lsuv(biased), jinit.autoinit(biased)):
        assert "zero variance" in calibrate(params, X)[1]["a"].problem
    assert "the bias alone" in jinit.lsuv(biased)({**TWO, "c": 9 * array(16, seed=3)}, X)[1]["a"].problem


def test_a_note_does_not_hide_the_cause():
    _, records = jinit.lsuv(apply, center=True)(NO_HEAD, X)
    assert records["b"].problem.startswith("not centered")
    assert "zero variance" in records["b"].problem


def test_a_bias_keeps_its_numbers_where_the_output_holds_nan():
    params = {"a": TWO["a"], "c": array(16, seed=3)}
    new, records = jinit.lsuv(biased, center=True)(params, X.at[0, 0].set(jnp.nan))
    np.testing.assert_array_equal(new["c"], params["c"])
    assert records["a"].changed == ()
    new, records = jinit.lsuv(biased, center=True)({**params, "a": jnp.zeros((32, 16))}, X)
    np.testing.assert_allclose(new["c"], 0, atol=1e-6)
    assert records["a"].changed == ("c",)


def test_what_changed_is_known_after_jit_too():
    _, records = jax.jit(jinit.lsuv(apply))(NO_HEAD, X)
    assert [r.changed for r in records.values()] == [("a",), ()]
    abstract = jax.eval_shape(jinit.lsuv(apply), NO_HEAD, X)[1]
    assert [r.changed for r in abstract.values()] == [("a",), ("b",)]


def adapted(p, x):
    return x @ (p["w"] + p["d"] @ p["u"])


LORA = {"w": array(32, 16, seed=3), "d": array(32, 4, seed=1), "u": array(4, 16, seed=2)}


@pytest.mark.parametrize("sites", ["w", "*", lambda name: name in "wd"])
def test_what_was_not_chosen_is_no_problem(sites):
    _, records = jinit.lsuv(adapted, sites=sites, inexact="error")(LORA, X)
    assert [r.problem for r in records.values()] == ["", "", ""]
    np.testing.assert_allclose(records["w"].output.variance, 1, rtol=1e-5)
    assert set(records["w"].changed) == {"w", "d", "u"}


def test_what_was_chosen_and_cannot_be_followed_is_one():
    def shifted(p, x):
        return x @ (jnp.sin(p["w"]) + p["d"] @ p["u"])

    with pytest.raises(ValueError, match="d: not followed"):
        jinit.lsuv(shifted, inexact="error")(LORA, X)
    with pytest.raises(ValueError, match=r"set exactly(?!.*not followed)"):
        jinit.lsuv(shifted, sites="w", inexact="error")(LORA, X)
