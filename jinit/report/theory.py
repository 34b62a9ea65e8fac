"""Measured signals beside what theory says of them, and where the two part."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from jinit.report.finding import Case, Finding, number, number_square
from jinit.report.rows import Row, Stats
from jinit.signals.records import Records

# Relative variance, over draws of the weights, of the mean square of n pre-activations: 2/n of a normal one,
# and up to 5/n behind a ReLU (Hanin and Nica, *Products of Many Large Random Matrices and Gradients in Deep
# Neural Networks*, 2020). It adds up over depth, in the logarithm.
_CHANCE = 5.0


def theory_of(predicted: Callable[..., Records], *args: Any, **kwargs: Any) -> tuple[Records, str]:
    """The predicted records on the host, and why there are none."""
    try:
        return jax.device_get(predicted(*args, **kwargs)), ""
    except NotImplementedError as error:
        return Records(), str(error)


def departs_from_theory(case: Case) -> list[Finding]:
    """The first site, going forward, and else going backward, that chance and the threshold do not explain."""
    rows = [row for row in case.rows if row.predicted is not None]
    forward = _first(case, rows, lambda row: (row.output, row.predicted and row.predicted.output))
    if forward is not None:
        row, measured, theory = forward
        return [_finding(row, "E[x²] of the outputs is", number_square(measured), theory)]
    backward = _first(case, rows[::-1], lambda row: (row.cotangent, row.predicted and row.predicted.cotangent))
    if backward is not None:
        row, measured, theory = backward
        return [_finding(row, "Going backward E[δ²] is", number_square(measured), theory)]
    return []


Pair = tuple[Stats | None, float | None]


def _first(
    case: Case, rows: Iterable[Row], pair: Callable[[Row], Pair]
) -> tuple[Row, float, float] | None:
    chance = 0.0
    for row, stats, theory in _both(rows, pair):
        chance += _CHANCE / max(row.info.units, 1)
        apart = abs(math.log(stats.second_moment / theory))
        if apart > math.log(case.thresholds.theory_info) + 3 * math.sqrt(chance):
            return row, stats.second_moment, theory
    return None


def _both(rows: Iterable[Row], pair: Callable[[Row], Pair]) -> Iterator[tuple[Row, Stats, float]]:
    """The rows where both numbers are ordinary."""
    for row in rows:
        stats, theory = pair(row)
        if stats is None or theory is None or stats.nonfinite_count > 0:
            continue
        if 1e-30 < stats.second_moment < 1e30 and 1e-30 < theory < 1e30:
            yield row, stats, theory


def _finding(row: Row, what: str, measured: str, theory: float) -> Finding:
    evidence = (
        f"{what} {measured} at {row.label}, where theory says {number(theory)} for independent weights of the "
        "same mean and variance. Weights that were trained, shared over steps, or drawn together do that."
    )
    return Finding("info", "departs_from_theory", row.site, evidence, "", row.step)
