"""What theory says stands beside what was measured, and is spoken of where the two part."""

from __future__ import annotations

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit.report.report import report_of
from jinit.report.thresholds import Thresholds
from jinit.signals.records import Record
from tests.report.helpers import chain, moments, name
from tests.zoo import ZOO

WIDTH = 128
X = jax.random.normal(jax.random.key(0), (64, WIDTH))


def stack(depth, activation=jnp.tanh):
    model = nn.Sequential([f for _ in range(depth) for f in (nn.Dense(WIDTH), activation)])
    return model, model.init(jax.random.key(1), X)


def kinds(report):
    return [f.kind for f in report.findings]


def test_predictions_stand_beside_what_was_measured():
    model, params = stack(6)
    report = jinit.diagnose(model.apply)(params, X)
    predicted = jinit.predict(model.apply)(params, X)
    assert kinds(report) == []
    for row in report.rows:
        theory = predicted[row.site]
        assert row.predicted.output == pytest.approx(float(theory.output.second_moment))
        assert row.predicted.cotangent == pytest.approx(float(theory.cotangent.second_moment))
        assert row.to_dict()["predicted_input_second_moment"] == pytest.approx(
            float(theory.input.second_moment)
        )
        # Ten times what a mean over WIDTH units and 64 examples strays by, a tanh being under its input.
        assert abs(np.log(row.output.second_moment / row.predicted.output)) < 10 / np.sqrt(WIDTH * 6)
    text = report.render(100)
    assert text.count("predicted") == 2
    assert text.count("theory") == 2
    json.dumps(report.to_dict(), allow_nan=False)


def test_without_prediction():
    model, params = stack(2)
    report = jinit.diagnose(model.apply, predict=False)(params, X)
    assert all(row.predicted is None for row in report.rows)
    assert "theory" not in report.render(100)
    assert "predicted" not in report.render(100)


def test_with_a_loss_the_forward_pass_alone_is_predicted():
    model, params = stack(2)
    rows = jinit.diagnose(model.apply, loss=lambda y: jnp.mean(y**2))(params, X).rows
    assert all(row.predicted.output is not None and row.predicted.cotangent is None for row in rows)


@pytest.mark.slow
def test_weights_that_are_no_independent_draws_are_found():
    model, params = stack(8, nn.relu)

    def aligned(path, w):  # rows and columns that go the same way for all: a large singular value
        return w + 0.5 / jnp.sqrt(WIDTH) if w.ndim > 1 else w

    params = jax.tree_util.tree_map_with_path(aligned, params)
    centered = jax.tree.map(lambda w: w - jnp.mean(w) if w.ndim > 1 else w, params)
    assert "departs_from_theory" not in kinds(jinit.diagnose(model.apply)(centered, X))

    # The same entries, sorted: no mean or variance tells it.
    ordered = jax.tree.map(lambda w: jnp.sort(w, axis=1) if w.ndim > 1 else w, centered)
    (finding,) = [f for f in jinit.diagnose(model.apply)(ordered, X).findings if "theory" in f.kind]
    assert finding.severity == "info"
    assert "theory says" in finding.evidence


@pytest.mark.parametrize(("factor", "found"), [(1.0, []), (0.05, ["departs_from_theory"]), (1e-40, [])])
def test_where_they_part(factor, found):
    net = chain(12)
    predicted = {n: Record(output=r.output, cotangent=r.cotangent) for n, r in net.records.items()}
    predicted[name(7)] = Record(output=moments(np.float64(2 * factor)))
    report = report_of(net.survey(), Thresholds(), predicted=predicted)
    assert kinds(report) == found
    assert all(f.site == name(7) for f in report.findings)
    loose = report_of(net.survey(), Thresholds(theory_info=1e3), predicted=predicted)
    assert kinds(loose) == []


def test_going_backward():
    net = chain(12)
    predicted = {n: Record(output=r.output, cotangent=r.cotangent) for n, r in net.records.items()}
    for i in range(5):
        predicted[name(i)] = Record(output=moments(2.0), cotangent=moments(100.0))
    (finding,) = report_of(net.survey(), Thresholds(), predicted=predicted).findings
    assert (finding.kind, finding.site) == ("departs_from_theory", name(4))
    assert "backward" in finding.evidence.lower()


def test_what_cannot_be_predicted_is_said():
    def apply(params, x):
        return jax.lax.top_k(x @ params["w"], 4)[0] @ params["v"]

    params = {"w": X[:8].T / 8, "v": X[:4, :4]}
    report = jinit.diagnose(apply)(params, X)
    assert "top_k" in report.no_prediction
    assert "No prediction" in report.render(80)
    assert report.to_dict()["no_prediction"] == report.no_prediction


@pytest.mark.slow
@pytest.mark.parametrize("case", [name for name in ZOO if name != "empty_batch"])  # nothing to diagnose
def test_no_model_of_the_zoo_stops_it(case):
    member = ZOO[case]
    with member.promotion():
        apply, params, inputs, kwargs = member.make()
        report = jinit.diagnose(apply, backward=member.backward)(params, *inputs, **kwargs)
    assert report.no_prediction or any(row.predicted for row in report.rows)
