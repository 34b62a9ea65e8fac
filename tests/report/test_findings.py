"""Every kind of finding, just above its threshold and just below."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jinit.report.thresholds import Thresholds
from jinit.report.units import dead_by_chance
from tests.report import helpers
from tests.report.helpers import WIDTH, chain, moments, name, scanned

HUGE = np.float32(np.inf)


def test_a_healthy_chain_has_no_findings():
    for depth in (1, 2, 3, 12, 100):
        assert chain(depth).kinds() == {}
    assert scanned(96).kinds() == {}


@pytest.mark.parametrize(("factor", "severity"), [(1e-2, None), (1e-4, "warning"), (1e-7, "severe")])
def test_vanishing_signal(factor, severity):
    net = chain(12)
    for i in range(6, 12):
        net.record(name(i), input=moments(factor))
    assert net.kinds().get("vanishing_signal") == severity
    if severity:
        (finding,) = net.report().findings
        assert finding.site == name(6)
        assert "falls from 1 to" in finding.evidence


def test_vanishing_signal_needs_all_of_the_last_third():
    net = chain(12)
    for i in (6, 7, 8, 10, 11):
        net.record(name(i), input=moments(1e-8))
    assert net.kinds() == {}


def test_small_inputs_of_the_network_are_no_vanishing():
    assert chain(12, first=1e-8).kinds() == {}


@pytest.mark.parametrize(
    ("factor", "severity"), [(1e2, None), (1e4, "warning"), (1e7, "severe"), (HUGE, "severe")]
)
def test_exploding_signal(factor, severity):
    net = chain(12).record(name(7), input=moments(factor))
    assert net.kinds().get("exploding_signal") == severity


def test_large_inputs_of_the_network_are_no_explosion():
    assert chain(12, first=65025.0).kinds() == {}
    late = chain(12).record(name(8), input=moments(1e6)).info(name(8), reads_network_input=True)
    assert "exploding_signal" not in late.kinds()


def test_evidence_names_the_missing_factor_two():
    evidence = {f.kind: f for f in chain(30, 0.5).report().findings}["vanishing_signal"]
    assert "He's factor 2" in evidence.evidence
    assert "multiply the present weights by 1.41" in evidence.remedy


@pytest.mark.parametrize(("rate", "severity"), [(0.5, None), (0.2, "warning"), (0.02, "severe")])
def test_vanishing_gradient(rate, severity):
    assert chain(12, gradient=rate).kinds().get("vanishing_gradient") == severity


@pytest.mark.parametrize(("rate", "severity"), [(2.0, None), (5.0, "warning"), (50.0, "severe")])
def test_exploding_gradient(rate, severity):
    assert chain(12, gradient=rate).kinds().get("exploding_gradient") == severity


def test_how_severe_is_told_by_the_median_of_the_third():
    assert chain(30, 0.5, 0.5).kinds() == {"vanishing_signal": "severe", "vanishing_gradient": "severe"}
    assert chain(20, 0.5, 0.5).kinds() == {"vanishing_signal": "warning", "vanishing_gradient": "warning"}


def test_one_large_gradient_is_no_explosion_and_one_small_one_no_vanishing():
    assert chain(12).record(name(0), cotangent=moments(1e8)).kinds() == {}
    assert chain(12).record(name(1), cotangent=moments(1e-12)).kinds() == {}


def test_the_head_is_not_compared():
    assert chain(12).record(name(11), cotangent=moments(1e9)).kinds() == {}


def _without_gradient(up_to: int, depth: int = 12):
    net = chain(depth)
    for i in range(up_to):
        gone = moments(0.0, zeros=1.0)
        net.record(name(i), cotangent=gone, weight_gradient=moments(0.0, zeros=1.0))
    return net


def test_gradient_cut_off():
    net = _without_gradient(6)
    assert net.kinds() == {"vanishing_gradient": "warning"}
    assert "stop_gradient" in net.report().findings[0].remedy


def test_gradient_underflows_to_zero():
    faded = moments(0.0, mean=1e-30)  # the squares underflow, the entries do not
    net = _without_gradient(6).record(name(6), cotangent=faded)
    assert net.kinds() == {"vanishing_gradient": "severe"}


def test_zero_init_that_will_move_is_benign():
    zero = moments(0.0, zeros=1.0, count=WIDTH * WIDTH)
    head = _without_gradient(11).record(name(11), weight=zero, output=moments(0.0, zeros=1.0))
    assert head.kinds() == {}
    stuck = head.record(name(11), weight_gradient=zero, input=moments(0.0, zeros=1.0))
    assert stuck.kinds() != {}


def test_zero_scale_is_benign_and_zero_bias_explains_nothing():
    assert _without_gradient(6).set(zero_parameters=("params/Norm_3/scale",)).kinds() == {}
    assert _without_gradient(6).set(zero_parameters=("params/Dense_3/bias",)).kinds() != {}


@pytest.mark.parametrize(("share", "severity"), [(0.15, None), (0.3, "warning"), (0.95, "severe")])
def test_dead_units(share, severity):
    assert chain(12).unit(name(5), dead=share).kinds().get("dead_units") == severity
    assert chain(12).unit(name(0), dead=share).kinds() == {}, "raw data may have constant pixels"


def test_dead_by_chance_is_subtracted():
    alone = chain(12).info(name(5), output_shape=(1, WIDTH)).record(name(5), input=moments(1.0, count=WIDTH))
    assert alone.unit(name(5), dead=0.5, cosine=None).kinds() == {}
    similar = chain(12).unit(name(5), dead=0.35, cosine=0.99)
    assert similar.kinds() == {}
    assert similar.unit(name(5), cosine=0.3).kinds() == {"dead_units": "warning"}


@pytest.mark.parametrize(("n", "rho"), [(1, 0.0), (4, 0.0), (4, 0.5), (32, 0.9)])
def test_dead_by_chance_against_sampling(n, rho):
    rng, trials = np.random.default_rng(0), 200_000
    common = rng.standard_normal((trials, 1))
    z = math.sqrt(rho) * common + math.sqrt(1 - rho) * rng.standard_normal((trials, n))
    share, p = (z < 0).all(1).mean(), dead_by_chance(n, rho)
    assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / trials)


@pytest.mark.parametrize(("share", "severity"), [(0.4, None), (0.6, "warning"), (0.95, "severe")])
def test_saturated_units(share, severity):
    assert chain(12).unit(name(5), saturated=share).kinds().get("saturated_units") == severity
    assert chain(12).unit(name(0), saturated=share).kinds() == {}


@pytest.mark.parametrize(
    ("share", "severity"), [(0.0, None), (0.005, None), (0.1, "warning"), (1.0, "severe")]
)
def test_symmetric_units(share, severity):
    assert chain(12).unit(name(5), identical=share).kinds().get("symmetric_units") == severity
    assert chain(12).unit(name(5), identical=share).info(name(5), units=1).kinds() == {}


def test_units_that_training_separates():
    assert chain(12).unit(name(5), identical_forward=1.0).kinds() == {"symmetric_units": "warning"}
    assert chain(12).unit(name(5), identical_forward=0.4).kinds() == {}
    zero = moments(0.0, zeros=1.0, count=WIDTH * WIDTH)
    assert chain(12).unit(name(5), identical_forward=1.0).record(name(5), weight=zero).kinds() == {}


def test_symmetry_explains_the_rest():
    net = chain(30, 0.5, 0.5).unit(name(3), identical=1.0, identical_forward=1.0)
    assert net.kinds() == {"symmetric_units": "severe"}


@pytest.mark.parametrize(("apart", "severity"), [(2e-3, None), (5e-4, "warning"), (1e-6, "severe")])
def test_collapsed_inputs(apart, severity):
    assert chain(12).unit(name(5), cosine=1 - apart).kinds().get("collapsed_inputs") == severity
    equal_inputs = chain(12).unit(name(5), cosine=1 - apart).unit(name(0), cosine=0.9999999)
    assert equal_inputs.kinds() == {}
    assert chain(12).unit(name(11), cosine=1 - apart).kinds() == {}, "a head may read a class token"


@pytest.mark.parametrize(("shift", "severity"), [(0.4, None), (1.0, "warning"), (8.0, "severe")])
def test_mean_shift_by_weights(shift, severity):
    # fan_in · w̄ · x̄ = shift, with x̄ = 1/2 as the chain has it.
    weight = moments(2 / WIDTH, count=WIDTH * WIDTH, mean=2 * shift / WIDTH)
    shifted = moments(1 + shift**2, mean=shift)
    assert chain(12).record(name(5), weight=weight, output=shifted).kinds().get("mean_shift") == severity
    assert chain(12).record(name(11), weight=weight, output=shifted).kinds() == {}


@pytest.mark.parametrize(("shift", "severity"), [(3.0, None), (8.0, "warning")])
def test_mean_shift_by_a_bias(shift, severity):
    shifted = moments(1 + shift**2, mean=shift)
    assert chain(12).record(name(5), output=shifted).kinds().get("mean_shift") == severity


def test_nonfinite_is_found_once_and_first():
    nan = moments(np.nan, nonfinite=3)
    net = chain(12)
    for i in range(5, 12):
        net.record(name(i), input=nan, output=nan, cotangent=nan)
    net.record(name(5), input=moments(1.0))
    (finding,) = net.report().findings
    assert (finding.kind, finding.severity, finding.site) == ("nonfinite", "severe", name(5))
    assert "in the output of" in finding.evidence
    (finding,) = net.set(nonfinite_parameters={name(5): 2}).report().findings
    assert "parameters" in finding.evidence


def test_nonfinite_elsewhere():
    nan = moments(np.nan, nonfinite=3)
    (finding,) = chain(12).record(name(0), input=nan).report().findings
    assert "inputs of the network" in finding.evidence
    net = chain(12)
    for i in range(7):
        net.record(name(i), cotangent=nan)
    (finding,) = net.report().findings
    assert finding.site == name(6), "going backward it starts at the last site that has it"
    (finding,) = chain(12).set(nonfinite_outputs=4).report().findings
    assert finding.site == ""


@pytest.mark.parametrize(
    ("dtype", "rms", "severity"),
    [
        ("float16", 1e-4, None),
        ("float16", 1e-6, "warning"),
        ("float16", 1e-8, "severe"),
        ("bfloat16", 1e-8, None),
        ("float32", 1e-8, None),
        ("float8_e5m2", 1e-6, "severe"),
    ],
)
def test_underflow(dtype, rms, severity):
    net = chain(12).record(name(5), cotangent=moments(rms**2)).info(name(5), dtype=dtype)
    assert net.kinds().get("underflow") == severity


def test_unused_parameters_in_one_finding():
    (finding,) = chain(12).set(unused=("params/a", "params/b", "batch_stats/mean")).report().findings
    assert (finding.kind, finding.severity) == ("unused_parameter", "warning")
    assert finding.evidence.startswith("2 parameters")
    assert chain(12).set(unused=("batch_stats/mean",)).kinds() == {}


def test_not_followed_is_told():
    net = chain(12).set(not_followed={"params/a": "an FFT"}, backward_error="no derivative")
    assert [f.severity for f in net.report().findings] == ["info", "info"]
    assert net.report().ok
    assert net.record(name(1), note="was inside a while loop").report().findings[1].site == name(1)


def test_recurrent_weights_are_judged_by_the_sum_over_time():
    def net(weight):
        steps = np.float32(0.1) ** np.arange(40, dtype=np.float32)[::-1]
        whole = {"weight": weight, "cotangent": moments(steps), "weight_gradient": moments(steps)}
        return scanned(40).record("params/blocks/kernel", **whole)

    stacked = moments(2 / WIDTH * (1 + 1e-3 * np.arange(40)), count=WIDTH * WIDTH)
    assert net(moments(np.full(40, 2 / WIDTH), count=WIDTH * WIDTH)).kinds() == {}
    small = moments(1e-30)
    assert net(stacked).record(name(0), cotangent=small).kinds() == {"vanishing_gradient": "severe"}


def test_scan_steps_run_in_place():
    rows = scanned(3, sites=("params/a", "params/b")).report().rows
    assert [row.label for row in rows][1:-1] == [f"params/{s}[{i}]" for i in range(3) for s in "ab"]


def test_thresholds_are_settable_and_checked():
    net = chain(12).unit(name(5), dead=0.3)
    assert net.kinds(Thresholds(dead_warning=0.4)) == {}
    assert net.kinds(Thresholds(dead_severe=0.25)) == {"dead_units": "severe"}
    for bad in (
        {"dead_warning": -1.0},
        {"dead_warning": 0.95},
        {"signal_severe": 1e-2},
        {"dead_severe": math.nan},
    ):
        with pytest.raises(ValueError, match="Thresholds"):
            Thresholds(**bad)


def test_helper_moments_are_what_they_say():
    m = helpers.moments(2.0, mean=0.5, zeros=0.25, count=100)
    assert (float(m.second_moment), float(m.mean), float(m.zero_fraction)) == (2.0, 0.5, 0.25)
