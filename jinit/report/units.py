"""Findings about the units and the examples at one site: dead, saturated, equal, or shifted."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from jinit.report.finding import Case, Finding, Severity, grade, number, worst
from jinit.report.rows import Row, Stats


@dataclasses.dataclass(frozen=True)
class _Hit:
    """One site over its threshold."""

    severity: Severity
    row: Row
    value: float


def _gather(case: Case, check: Callable[[Case, Row], tuple[Severity | None, float]]) -> list[_Hit]:
    hits = []
    for row in case.chain:
        # Shares and cosines of what never came (a branch not taken), of what holds NaN, or whose squares are
        # out of range, mean nothing.
        if row.input is None or not _in_range(row.input):
            continue
        severity, value = check(case, row)
        if severity is not None:
            hits.append(_Hit(severity, row, value))
    return hits


def _in_range(stats: Stats) -> bool:
    return not stats.nonfinite_count and (stats.all_zero or 1e-30 < stats.second_moment < 1e30)


def _one_finding(kind: str, hits: list[_Hit], what: Callable[[_Hit], str], remedy: str) -> list[Finding]:
    """One finding for all sites: at the first one of the worst severity, with the number of the others."""
    if not hits:
        return []
    severity = worst([hit.severity for hit in hits])
    hit = next(hit for hit in hits if hit.severity == severity)
    others = len(hits) - 1
    evidence = what(hit) + (f" Likewise at {others} other site{'s' * (others > 1)}." if others else "")
    return [Finding(severity, kind, hit.row.site, evidence, remedy, hit.row.step)]


def symmetric_units(case: Case) -> list[Finding]:
    """Units that compute the same, and that training can't tell apart where their gradients agree too."""
    hits = _gather(case, _symmetric)

    def what(hit: _Hit) -> str:
        units = hit.row.info.units
        weight = "all zero" if hit.row.weight and hit.row.weight.all_zero else "the same"
        never = " and gradients: no training step can tell them apart" if hit.row.identical else ""
        return (
            f"{100 * hit.value:.0f} % of the {units} units at {hit.row.label} are copies of others: weights "
            f"{weight}, equal outputs{never}."
        )

    return _one_finding("symmetric_units", hits, what, "kernel_init=jinit.he_normal()  # any random one")


def _symmetric(case: Case, row: Row) -> tuple[Severity | None, float]:
    if row.info.units < 2 or row.weight is None or row.output is None:
        return None, 0.0
    t = case.thresholds
    zero = row.weight.all_zero
    if row.identical is not None:
        severity = grade(row.identical, t.identical_warning, t.identical_severe)
        stopped = row.cotangent is not None and row.cotangent.all_zero
        if (
            severity
            and row.identical * row.info.units > 1.5
            and not (zero and stopped and case.starts_at_zero(row, above=True))
        ):
            return severity, row.identical
    if row.identical_forward is not None and not zero and row.identical_forward > t.identical_severe:
        return "warning", row.identical_forward
    return None, 0.0


def dead_units(case: Case) -> list[Finding]:
    """Input features that are zero on every example, more of them than chance explains."""

    def what(hit: _Hit) -> str:
        return (
            f"{100 * (hit.row.dead or 0):.0f} % of the features that enter {hit.row.label} are zero on all "
            f"{_rows(hit.row)} examples (chance explains {100 * _chance(hit.row):.0f} %)."
        )

    remedy = "bias_init=jinit.zeros_init(), kernel_init=jinit.he_normal()"
    return _one_finding("dead_units", _gather(case, _dead), what, remedy)


def _dead(case: Case, row: Row) -> tuple[Severity | None, float]:
    if row.dead is None or row.info.reads_network_input or not row.dead > 0:
        return None, 0.0
    if row.dead == 1 and case.starts_at_zero(row, above=False):
        return None, 0.0
    chance, features = _chance(row), _features(row)
    excess = (row.dead - chance) / (1 - chance)
    noise = 3 * math.sqrt(chance * (1 - chance) / features) / (1 - chance)
    t = case.thresholds
    if not excess - noise > t.dead_warning:
        return None, excess
    return ("severe" if excess > t.dead_severe else "warning"), excess


def _chance(row: Row) -> float:
    return dead_by_chance(_rows(row), row.cosine or 0.0)


def _rows(row: Row) -> int:
    return max(1, round(math.prod(row.info.output_shape) / max(1, row.info.units)))


def _features(row: Row) -> float:
    return max(1.0, row.input.count / _rows(row)) if row.input else 1.0


def _live_features(row: Row) -> int:
    return round(_features(row) * (1 - (row.dead or 0.0)))


def dead_by_chance(examples: int, cosine: float) -> float:
    """Probability that a ReLU unit with zero-mean weights is off on all of `examples` inputs.

    Its pre-activations are jointly Gaussian with the inputs' cosine ρ as correlation, so with a common part g

        P = E_g[Φ(−g √(ρ / (1 − ρ)))ⁿ],  g ~ N(0, 1):

    2⁻ⁿ for unrelated inputs and 1/2 for equal ones. Deep ReLU networks make their inputs similar, so a third
    of their units may be off on a whole batch and nothing be wrong.

    >>> round(dead_by_chance(3, 0.0), 6), round(dead_by_chance(64, 0.99), 2)
    (0.125, 0.41)
    """
    rho = min(max(cosine, 0.0), 1 - 1e-9) if math.isfinite(cosine) else 0.0
    g = np.linspace(-8, 8, 2001)
    slope = math.sqrt(rho / (1 - rho))
    below = np.array([0.5 * math.erfc(slope * x / math.sqrt(2)) for x in g])
    density = np.exp(-(g**2) / 2)
    return float((below**examples * density).sum() / density.sum())


def saturated_units(case: Case) -> list[Finding]:
    """Inputs that pile up at the ends of their range, where an activation has no slope left."""

    def what(hit: _Hit) -> str:
        share = f"{100 * hit.value:.0f} % of the nonzero inputs of {hit.row.label}"
        return f"{share} lie at the ends of their range."

    def check(case: Case, row: Row) -> tuple[Severity | None, float]:
        # With two examples a batch normaliser returns nothing but ±1; a handful of rows says little.
        if row.saturated is None or row.info.reads_network_input or _rows(row) < 4:
            return None, 0.0
        t = case.thresholds
        return grade(row.saturated, t.saturated_warning, t.saturated_severe), row.saturated

    remedy = "kernel_init=jinit.for_activation(jnp.tanh)  # the one in use"
    return _one_finding("saturated_units", _gather(case, check), what, remedy)


def collapsed_inputs(case: Case) -> list[Finding]:
    """Different examples arrive as one: the network has forgotten what it was given."""
    t = case.thresholds
    if any((row.cosine or 0) > 1 - t.collapse_warning for row in case.chain if row.info.reads_network_input):
        return []  # the inputs came that way

    def check(case: Case, row: Row) -> tuple[Severity | None, float]:
        # A head may read one token that has hardly met the input yet, as class tokens do.
        info = row.info
        if row.cosine is None or info.reads_network_input or info.feeds_output_only:
            return None, 0.0
        if _rows(row) < 2 or _live_features(row) < 2:
            return None, 0.0  # numbers of one sign all point the same way
        apart = 1 - row.cosine
        return grade(-apart, -t.collapse_warning, -t.collapse_severe), max(apart, 0.0)

    def what(hit: _Hit) -> str:
        return (
            f"Different examples enter {hit.row.label} as good as equal: mean cosine 1 − {number(hit.value)}."
        )

    remedy = (
        "bias_init=jinit.zeros_init(), kernel_init=jinit.he_normal()\n"
        "# or skip connections, which keep examples apart"
    )
    return _one_finding("collapsed_inputs", _gather(case, check), what, remedy)


def mean_shift(case: Case) -> list[Finding]:
    """Outputs whose common mean outweighs what tells them apart."""

    def what(hit: _Hit) -> str:
        out = hit.row.output
        assert out is not None
        cause = "the weights' own mean" if _by_weights(hit.row) else "a bias"
        return (
            f"The outputs of {hit.row.label} have mean {number(out.mean)} and standard deviation "
            f"{number(out.std)}: {cause} pushes all of them one way."
        )

    remedy = "kernel_init=jinit.he_normal(), bias_init=jinit.zeros_init()"
    return _one_finding("mean_shift", _gather(case, _shifted), what, remedy)


def _shifted(case: Case, row: Row) -> tuple[Severity | None, float]:
    out, t = row.output, case.thresholds
    if out is None or row.input is None or row.info.feeds_output_only or row.info.units < 2:
        return None, 0.0
    if not out.std > 0 or not math.isfinite(out.total_square):
        return None, 0.0
    shift = abs(out.mean) / out.std
    by_chance = 5 / math.sqrt(row.info.units)
    if _by_weights(row):
        return grade(shift, max(t.mean_shift_warning, by_chance), max(t.mean_shift_severe, by_chance)), shift
    # Gates and step sizes get a bias on purpose, in loops above all; so speak up only when it is extreme.
    looped = bool(row.info.lengths)
    return ("warning" if shift > t.mean_shift_severe and not looped else None), shift


def _by_weights(row: Row) -> bool:
    """Whether weights of nonzero mean, and not a bias, make at least half of the shift.

    A unit sums `fan_in` products, so weights of mean w̄ shift it by `fan_in · w̄ · x̄`.
    """
    if row.weight is None or row.input is None or row.output is None:
        return True
    fan_in = row.weight.count / row.info.units
    made = fan_in * row.weight.mean * row.input.mean
    return made * row.output.mean > 0 and abs(made) > 0.5 * abs(row.output.mean)
