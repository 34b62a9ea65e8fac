"""Plans: what a rule takes, what it gives, and what is an error."""

from __future__ import annotations

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit

from .uses import kernel, other

MODEL = [
    kernel("params/Dense_0/kernel", (8, 16), index=0, count=3),
    other("params/Dense_0/bias", (16,)),
    kernel("params/Dense_1/kernel", (16, 16), index=1, count=3),
    other("params/Dense_1/bias", (16,)),
    other("params/LayerNorm_0/scale", (16,), "scale"),
    kernel("params/head/kernel", (16, 4), index=2, count=3),
    other("params/head/bias", (4,)),
]
PLAN = jinit.plan(
    [
        ("params/head/*", jinit.zeros),
        (jinit.role("bias"), jinit.zeros),
        (lambda use: use.role == "scale", jinit.ones),
        ("*/kernel", lambda use: jinit.variance_scaling(1 / (use.index + 1), "fan_in", "normal")),
    ]
)


def taken(plan, uses=MODEL):
    return {path: assignment.rule for path, assignment in plan.assign(uses).items()}


def test_the_first_match_wins():
    assert list(taken(PLAN).values()) == [3, 1, 3, 1, 2, 0, 0]
    assert list(taken(PLAN)) == [use.path for use in MODEL]


def test_provenance_and_law():
    assignment = PLAN.assign(MODEL)["params/Dense_1/kernel"]
    assert (assignment.rule, assignment.pattern) == (3, "*/kernel")
    assert assignment.initializer == jinit.variance_scaling(0.5, "fan_in", "normal").with_fans(16.0, 16.0)
    assert (assignment.mean, assignment.variance, assignment.std) == (0.0, 1 / 32, (1 / 32) ** 0.5)
    foreign = jinit.plan([("*", jax.nn.initializers.normal())]).assign(MODEL)["params/head/kernel"]
    assert (foreign.mean, foreign.variance, foreign.std) == (None, None, None)


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("*/kernel", {0, 2, 5}),
        ("*kernel", {0, 2, 5}),
        ("params/Dense_?/*", {0, 1, 2, 3}),
        ("params/Dense_[1-9]/*", {2, 3}),
        ("params/*/bias", {1, 3, 6}),
        ("*", set(range(7))),
        (jinit.role("bias", "scale"), {1, 3, 4, 6}),
        (lambda use: use.fan_out == 4, {5}),
        (lambda use: np.bool_(use.size > 100), {0, 2}),
    ],
)
def test_patterns(pattern, paths):
    rules = [(pattern, jinit.ones)] + ([("*", jinit.zeros)] if len(paths) < len(MODEL) else [])
    assert {i for i, rule in enumerate(taken(jinit.plan(rules)).values()) if rule == 0} == paths


def test_case_matters():
    with pytest.raises(ValueError, match=r"Did you mean '\*/kernel'"):
        jinit.plan([("*/Kernel", jinit.zeros), ("*", jinit.zeros)]).assign(MODEL)


def test_plans_are_values():
    rules = [(jinit.role("bias", "scale"), jinit.zeros), ("*", jinit.he_normal(mode="fan_out"))]
    plan = jinit.plan(rules)
    assert plan == jinit.plan(iter(rules)) != jinit.plan(rules[:1])
    assert eval(repr(plan)) == plan
    assert hash(plan) == hash(eval(repr(plan)))
    assert plan.rules == tuple(rules)


def test_layers_of_a_stack_are_asked_one_by_one():
    asked = []

    def rule(use):
        asked.append(use.index)
        return jinit.normal(1 / (1 + use.index))

    stack = kernel(
        "blocks/kernel", (3, 2, 8, 8), batch_axes=(0, 1), scan_axes=(0, 1), index=1, steps=(4, 2), count=13
    )
    assignment = jinit.plan([("*", rule)]).assign([stack])["blocks/kernel"]
    assert asked == [1, 3, 5, 7, 9, 11]
    assert assignment.initializer == tuple(jinit.normal(1 / (1 + index)) for index in asked)
    assert assignment.variance == pytest.approx(np.mean([1 / (1 + index) ** 2 for index in asked]))
    same = jinit.plan([("*", lambda use: jinit.normal(use.count**-0.5))]).assign([stack])["blocks/kernel"]
    assert same.initializer == jinit.normal(13**-0.5)


def test_what_is_one_required_argument():
    class Initializer:
        def __call__(self, key, shape, dtype=jnp.float32):
            return jnp.zeros(shape, dtype)

    def options(use, *, factor=2.0):
        return jinit.normal(factor)

    for init in (Initializer(), options, jax.nn.initializers.zeros, jax.nn.initializers.he_normal()):
        assert len(jinit.plan([("*/kernel", init), ("*", jinit.zeros)]).assign(MODEL)) == 7


@pytest.mark.parametrize(
    ("rules", "error", "text"),
    [
        ([], ValueError, "at least one rule"),
        ({"*": jinit.zeros}, TypeError, r"list of pairs; got dict.\nWrite .*rules.items"),
        ("*", TypeError, "list of pairs; got str"),
        (3, TypeError, "list of pairs; got int"),
        (["*/kernel"], TypeError, r"rule 0 must be a pair"),
        ([("*", jinit.zeros, 3)], TypeError, r"rule 0 must be a pair"),
        ([(3, jinit.zeros)], TypeError, r"pattern of rule 0 must be text or a predicate .*; got 3"),
        ([(jinit.zeros, "*")], TypeError, "rule 0 must name the pattern first"),
        ([("*", jinit.role("bias"))], TypeError, "rule 0 must name the pattern first"),
        ([("*", 0.02)], TypeError, r"rule 0 \('\*'\) must give an initializer.*; got 0.02"),
        ([("*", None)], TypeError, r"got None"),
        ([("*", jinit.he_normal)], TypeError, r"Did you forget the \(\)\?"),
        ([("*", jax.nn.initializers.he_normal)], TypeError, r"Did you forget the \(\)\?"),
        ([("*", jinit.zeros), ("a", jinit.ones), ("*", jinit.ones)], ValueError, r"'\*' in rules 0 and 2"),
        ([(jinit.role("bias"), jinit.zeros), (jinit.role("bias"), jinit.ones)], ValueError, "rules 0 and 1"),
    ],
)
def test_bad_rules(rules, error, text):
    with pytest.raises(error, match=text):
        jinit.plan(rules)


def test_bad_roles():
    with pytest.raises(ValueError, match="Did you mean 'kernel'"):
        jinit.role("kernels")
    with pytest.raises(ValueError, match="at least one role"):
        jinit.role()


@pytest.mark.parametrize(
    ("rules", "error", "text"),
    [
        (
            [("*", jinit.zeros), ("*/kernel", jinit.ones)],
            ValueError,
            r"rule 1 \('\*/kernel'\) takes none; got params/Dense_0/kernel, .* taken before by rule 0"
            r" \('\*'\).\nThe first match wins: move rule 1 up, or drop it.",
        ),
        ([("*", jinit.zeros), ("*/kernle", jinit.ones)], ValueError, r"Did you mean '\*/kernel'\?"),
        ([("*", jinit.zeros), ("kernel", jinit.ones)], ValueError, r"match the whole path.*/kernel'"),
        (
            [("*", jinit.zeros), (jinit.role("embedding"), jinit.ones)],
            ValueError,
            r"3 bias, 3 kernel, 1 scale",
        ),
        (
            [("*/kernel", jinit.zeros)],
            ValueError,
            r"4 of 7 that none takes: params/Dense_0/bias \(bias\), .*\n"
            r'Add for example \("\*/bias", jinit.zeros\), \("\*/scale", jinit.ones\)',
        ),
        ([("*", jinit.he_normal())], ValueError, r"rule 0 \('\*'\) for 'params/Dense_0/bias' needs .* fans"),
        ([("*", lambda use: None)], TypeError, r"must give an initializer.*; got None"),
        ([("*", lambda use: lambda key: 0)], TypeError, r"must give an initializer; got .* one argument"),
        (
            [(lambda use: use.role, jinit.zeros)],
            TypeError,
            r"must return True or False; got 'kernel' for 'params",
        ),
        (
            [("*", jinit.orthogonal())],
            ValueError,
            r"`shape` needs at least two axes(.|\n)*in rule 0 .*Dense_0/bias",
        ),
        ([("*", lambda use: 1 / 0)], ZeroDivisionError, r"in rule 0 \('\*'\) for 'params/Dense_0/kernel'"),
        ([(lambda use: use.nothing, jinit.zeros)], AttributeError, r"raised by the pattern"),
    ],
)
def test_a_plan_that_does_not_fit(rules, error, text):
    with pytest.raises(error) as caught:
        jinit.plan(rules).assign(MODEL)
    whole = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert re.search(text, whole), whole


def test_suggestions_for_state():
    uses = [other("batch_stats/BatchNorm_0/var", (4,), "other"), kernel("params/Dense_0/kernel"), other("b")]
    with pytest.raises(ValueError, match=r'\("batch_stats/\*/var", jinit.ones\), \("b", jinit.zeros\)'):
        jinit.plan([("*/kernel", jinit.zeros)]).assign(uses)


def test_a_dtype_that_does_not_fit():
    with pytest.raises(TypeError, match="must be a floating") as caught:
        jinit.plan([("*", jinit.normal())]).assign([other("steps", (), "other", jnp.int32)])
    assert "'steps'" in caught.value.__notes__[0]


def test_random_keys_are_left_out():
    use = jinit.WeightUse("rng", (), jax.random.key(0).dtype, "other")
    assert list(jinit.plan([("b", jinit.zeros)]).assign([use, other("b")])) == ["b"]


def test_to_dict():
    data = json.loads(json.dumps(PLAN.assign(MODEL).to_dict()))
    assert [rule["pattern"] for rule in data["rules"][:2]] == ["params/head/*", "jinit.role('bias')"]
    row = data["parameters"][2]
    assert (row["path"], row["rule"], row["fan_in"], row["variance"]) == (
        "params/Dense_1/kernel",
        3,
        16.0,
        1 / 32,
    )
    assert row["initializer"] == "jinit.variance_scaling(0.5, 'fan_in', 'normal').with_fans(16.0, 16.0)"


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_table_fits_a_terminal(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    uses = [kernel(f"params/Block_{i}/Dense_{j}/kernel", (8, 8), index=i) for i in range(12) for j in (0, 1)]
    lines = str(jinit.plan([("*", lambda use: jinit.normal(1 / (1 + use.index)))]).assign(uses)).splitlines()
    assert max(map(len, lines)) <= columns
    assert lines[0] == "24 parameters, 1,536 entries, 1 rule"
    if columns == 200:
        assert "params/Block_{0…11}/Dense_{0…1}/kernel (24)" in lines[2]
        assert "jinit.normal(1.0) … jinit.normal(0.08333333333333333)" in lines[2]
        assert lines[2].endswith("1 … 0.0833")
        assert len(lines) == 3


def test_mapping():
    assigned = PLAN.assign(MODEL)
    assert "params/head/bias" in assigned
    assert assigned.get("nothing") is None
    with pytest.raises(KeyError):
        assigned["nothing"]
