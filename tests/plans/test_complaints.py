"""Errors are spoken in the name of the function that was called."""

from __future__ import annotations

import jax
import pytest

import jinit
from tests.zoos.member import array


@pytest.mark.parametrize("caller", ["init", "redraw", "plan.laws", "compare", "recommend"])
def test_who_complains_of_empty_params(caller):
    """They are what the user called, not the `audit` inside."""
    plan, key, apply = jinit.plan([("*", jinit.zeros)]), jax.random.key(0), lambda p, x: x
    call = {
        "init": lambda: jinit.init(apply, plan)(key, {}, array(3)),
        "redraw": lambda: jinit.redraw(apply, plan)(key, {}, array(3)),
        "plan.laws": lambda: plan.laws(apply)({}, array(3)),
        "compare": lambda: jinit.compare({"zeros": plan}, apply)({}, array(3)),
        "recommend": lambda: jinit.recommend(apply)({}, array(3)),
    }[caller]
    with pytest.raises(
        ValueError, match=rf"^`(jinit\.)?{caller}\(...\)`: `params` must hold at least one array"
    ):
        call()


@pytest.mark.parametrize("verb", [jinit.audit, jinit.measure, jinit.lsuv, jinit.jacobian_spectrum])
def test_an_output_that_is_no_array(verb):
    text = rf"^`jinit.{verb.__name__}\(...\)`: `apply` must return arrays; got a str at \['why'\]"
    with pytest.raises(TypeError, match=text):
        verb(lambda p, x: {"y": x @ p, "why": "so"})(array(2, 2), array(2, 2))
