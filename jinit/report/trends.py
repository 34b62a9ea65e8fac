"""Findings about the network as a whole: do signals and gradients keep their size through depth?"""

from __future__ import annotations

import math
import statistics

import numpy as np

from jinit.report.finding import SEVERITIES, Case, Finding, Severity, grade, number, number_square
from jinit.report.rows import Row, Stats

_LSUV = "# or mend them layer by layer:\nparams, _ = jinit.lsuv(apply)(params, *inputs)"


def exploding_signal(case: Case) -> list[Finding]:
    """Some input is larger than what enters the network, by the factor of the threshold."""
    rows = [row for row in _with_input(case.rows) if not row.info.reads_network_input]
    if not rows:
        return []
    # A timestep or a pixel may be large as it comes; what counts is what the network makes of its inputs.
    entering = [_q(row) for row in _with_input(case.rows) if row.info.reads_network_input]
    start = max(1.0, *(q for q in [*entering, _q(_with_input(case.rows)[0])] if math.isfinite(q)))
    top = max(rows, key=_q)
    severity = grade(_q(top) / start, 1 / case.thresholds.signal_warning, 1 / case.thresholds.signal_severe)
    if severity is None:
        return []
    first = next(row for row in rows if _q(row) / start > 1 / case.thresholds.signal_warning)
    rate = _rate([_q(row) for row in _with_input(case.rows)])
    evidence = (
        f"E[x²] of the inputs grows from {number_square(start)} to {number_square(_q(top))} at {top.label}"
        f"{_per_site(rate)}."
    )
    return [Finding(severity, "exploding_signal", first.site, evidence, _rescale(rate, _LSUV), first.step)]


def vanishing_signal(case: Case) -> list[Finding]:
    """The inputs of the last third are all smaller than the network's own input, by the factor."""
    rows = _with_input(case.rows)
    start = next((_q(row) for row in rows if _q(row) > 0), 0.0)
    start = min(start, 1.0)
    if len(rows) < 2 or start == 0:
        return []
    end = max(_last_third(rows), key=_q)
    limits = case.thresholds.signal_warning, case.thresholds.signal_severe
    severity = _grade_low(_q(end) / start, *limits)
    if severity is None or (_gone(end.input) and case.starts_at_zero(end, above=False)):
        return []
    first = next(row for row in rows if _q(row) / start < limits[0])
    # Once the whole third is small, how small is told by its median: the largest is where the third begins.
    if statistics.median(map(_q, _last_third(rows))) / start < limits[1]:
        severity = "severe"
    rate = _rate([_q(row) for row in rows])
    evidence = (
        f"E[x²] of the inputs falls from {number_square(start)} to "
        f"{'exactly 0' if _gone(rows[-1].input) else number_square(_q(rows[-1]))} at {rows[-1].label}"
        f"{_per_site(rate)}."
    )
    return [Finding(severity, "vanishing_signal", first.site, evidence, _rescale(rate, _LSUV), first.step)]


def exploding_gradient(case: Case) -> list[Finding]:
    """The early sites together, not only one of them, receive more gradient than the late ones."""
    ways = _ways(case)
    late: dict[int, Row] = {}
    for way in ways:  # what early sites share with another way may come from there
        first, latest = way[0].info.index, max(_last_third(way), key=_energy)
        late[first] = max(late.get(first, latest), latest, key=_energy)
    return _first_of_the_worst([_exploding_along(case, way, late[way[0].info.index]) for way in ways])


def _exploding_along(case: Case, body: list[Row], late: Row) -> list[Finding]:
    # The median: one early site behind a normaliser of small embeddings rightly gets a larger gradient.
    early = statistics.median(_energy(row) for row in _first_third(body))
    if _energy(late) == 0 or not math.isfinite(_energy(late)):
        return []
    limits = 1 / case.thresholds.gradient_warning, 1 / case.thresholds.gradient_severe
    severity = grade(early / _energy(late), *limits)
    if severity is None:
        return []
    top = max(_first_third(body), key=_energy)
    rate = _rate([_energy(row) for row in reversed(body)])
    evidence = (
        f"Going backward the gradient's energy Σδ² grows from {number_square(_energy(late))} at {late.label} "
        f"to {number_square(_energy(top))} at {top.label}{_per_site(rate)}."
    )
    return [Finding(severity, "exploding_gradient", top.site, evidence, _rescale(rate), top.step)]


def vanishing_gradient(case: Case) -> list[Finding]:
    """The early sites all receive less gradient than the late ones, by the factor of the threshold."""
    return _first_of_the_worst([_vanishing_along(case, way) for way in _ways(case)])


def _vanishing_along(case: Case, body: list[Row]) -> list[Finding]:
    early, late = max(_first_third(body), key=_energy), max(_last_third(body), key=_energy)
    limits = case.thresholds.gradient_warning, case.thresholds.gradient_severe
    if _gone(early.cotangent):
        return _no_gradient(case, body)
    ratio = _energy(early) / _energy(late) if _energy(late) else math.nan
    severity = _grade_low(ratio, *limits)
    if _energy(early) == 0 and _energy(late) == 0:
        severity = "severe"  # every cotangent is there, and so small that its square is none
    if severity is None:
        return []
    if statistics.median(map(_energy, _first_third(body))) < limits[1] * _energy(late):
        severity = "severe"
    first = next((row for row in body if _energy(row) < limits[0] * _energy(late)), early)
    return [_vanishing(severity, body, first, late)]


def _first_of_the_worst(found: list[list[Finding]]) -> list[Finding]:
    findings = [finding for along in found for finding in along]
    return sorted(findings, key=lambda f: -SEVERITIES.index(f.severity))[:1]


def _vanishing(severity: Severity, body: list[Row], early: Row, late: Row) -> Finding:
    rate = _rate([_energy(row) for row in reversed(body)])
    ends = "exactly 0" if _gone(early.cotangent) else number_square(_energy(early))
    evidence = (
        f"Going backward the gradient's energy Σδ² falls from {number_square(_energy(late))} at {late.label} "
        f"to {ends} at {early.label}{_per_site(rate)}."
    )
    return Finding(severity, "vanishing_gradient", early.site, evidence, _rescale(rate), early.step)


def _no_gradient(case: Case, body: list[Row]) -> list[Finding]:
    """No gradient at all at the early sites: started at zero, run out of range on its way, or cut off."""
    blocked = [row for row in body if _gone(row.cotangent)]
    last = blocked[-1]
    if case.starts_at_zero(last, above=True):
        return []
    after = [row for row in body[body.index(last) + 1 :] if not _gone(row.cotangent)]
    if after and nearly_gone(after[0].cotangent, after[0].info.dtype):
        return [_vanishing("severe", body, blocked[0], max(after, key=_energy))]
    where = (
        f"ends between {last.label} and {after[0].label}" if after else f"does not even reach {last.label}"
    )
    evidence = f"The gradient {where}: every cotangent before is exactly 0, and no zero weight explains it."
    remedy = "# look there for stop_gradient, argmax, round,\n# a cast to integers, or units that are all off"
    return [Finding("warning", "vanishing_gradient", last.site, evidence, remedy, last.step)]


def nearly_gone(stats: Stats | None, dtype: str) -> bool:
    """So small that zeros further back are underflow: near the dtype's smallest number, or its square."""
    smallest = {"float16": 6e-8, "bfloat16": 1e-40}.get(dtype, 0.0)
    return stats is not None and stats.second_moment < max(1e-30, (1e4 * smallest) ** 2)


def _with_input(rows: tuple[Row, ...]) -> list[Row]:
    """Rows whose input can be compared: what holds NaN or infinity is the matter of `nonfinite`."""
    return [row for row in rows if row.input is not None and not row.input.nonfinite_count]


def _body(case: Case) -> list[Row]:
    """Sites whose gradients are to be compared: no lookups, whose rows few examples touch, and no heads.

    Between head and body there often is a pool or a mean over positions, which divides the gradient's energy
    once by the number of positions, and heads are often started small. Neither grows with depth.
    """
    rows = [row for row in case.chain if row.cotangent and not row.cotangent.nonfinite_count]
    return [row for row in rows if row.input is not None and not row.info.feeds_output_only]


def _ways(case: Case) -> list[list[Row]]:
    """The sites to compare, once for every last one of them: those that it depends on, and itself.

    No gradient goes from one branch to another beside it, such as from a critic to an actor, or between the
    towers of image and text.
    """
    body = _body(case)
    infos = {row.info.index: row.info for row in body}.values()
    ways = {}
    for end in infos:
        after = [info for info in infos if end.leads_to(info)]
        if all(info.leads_to(end) for info in after):  # none, or only around a loop
            on_way = frozenset(info.index for info in infos if info is end or info.leads_to(end))
            ways[on_way] = [row for row in body if row.info.index in on_way]
    reached = [way for way in ways.values() if not all(_gone(row.cotangent) for row in way)]
    # One way without gradients beside others is frozen, as a teacher or a target network is.
    return [way for way in reached or ways.values() if len(way) > 1]


def _first_third(rows: list[Row]) -> list[Row]:
    return rows[: math.ceil(len(rows) / 3)]


def _last_third(rows: list[Row]) -> list[Row]:
    """At least two sites: the last one alone may sit behind an average over positions."""
    return rows[-max(2, math.ceil(len(rows) / 3)) :]


def _q(row: Row) -> float:
    assert row.input is not None
    return row.input.second_moment


def _energy(row: Row) -> float:
    assert row.cotangent is not None
    return row.cotangent.total_square


def _gone(stats: Stats | None) -> bool:
    return stats is not None and stats.all_zero


def _grade_low(ratio: float, warning: float, severe: float) -> Severity | None:
    return grade(-ratio, -warning, -severe)


def _rate(values: list[float]) -> float | None:
    """Factor per site by least squares on the logarithms, over the values that have one."""
    points = [(i, math.log(v)) for i, v in enumerate(values) if 0 < v < math.inf]
    if len(points) < 3:
        return None
    places, logs = np.array(points).T
    return math.exp(np.polyfit(places, logs, 1)[0])


def _per_site(rate: float | None) -> str:
    if rate is None:
        return ""
    if 0.4 < rate < 0.6:
        return f": ×{number(rate)} per site, the half that ReLU takes and He's factor 2 gives back"
    return f": ×{number(rate)} per site"


def _rescale(rate: float | None, *mends: str) -> str:
    """Lines short enough for a narrow terminal."""
    lines = ["kernel_init=jinit.he_normal()  # for ReLU", "kernel_init=jinit.for_activation(f)  # for any f"]
    if rate is not None and 0 < rate < math.inf:
        lines.append(f"# or multiply the present weights by {rate**-0.5:.3g}")
    return "\n".join([*lines, *mends])
