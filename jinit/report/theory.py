"""Measured signals beside what theory says of them, and where the two part."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from jinit.report.finding import Case, Finding, number
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
    except Exception as error:  # what was measured must not be lost for want of a prediction
        return Records(), f"{type(error).__name__}: {error}"


def departs_from_theory(case: Case) -> list[Finding]:
    """The first site, going forward or else backward, that chance and the threshold do not explain."""
    rows = [row for row in case.rows if row.predicted is not None]
    forward = _first(case, rows, "output", "E[x²] of the outputs is")
    return forward or _first(case, rows[::-1], "cotangent", "Going backward E[δ²] is")


def _first(case: Case, rows: Iterable[Row], field: str, what: str) -> list[Finding]:
    chance = 0.0
    for row, measured, theory in _both(rows, field):
        chance += _CHANCE / max(row.info.units, 1)
        allowed = math.log(case.thresholds.theory_info) + 3 * math.sqrt(chance)
        if not abs(math.log(measured / theory)) <= allowed:
            evidence = f"{what} {number(measured)} at {row.label}, where theory " + (
                "knows no number: some function of a signal has no mean square, or none that is known."
                if math.isnan(theory)
                else f"says {number(theory)} for weights drawn independently, of the same mean and variance. "
                "Weights that were trained, shared over steps, or drawn together do that, and what the guide "
                "on predicting says is not known."
            )
            return [Finding("info", "departs_from_theory", row.site, evidence, "", row.step)]
    return []


def _both(rows: Iterable[Row], field: str) -> Iterator[tuple[Row, float, float]]:
    """The rows where both second moments are ordinary numbers, or theory's is none."""
    for row in rows:
        stats: Stats | None = getattr(row, field)
        theory: float | None = getattr(row.predicted, field)
        if stats is None or theory is None or stats.nonfinite_count > 0:
            continue
        if 1e-30 < stats.second_moment < 1e30 and (math.isnan(theory) or 1e-30 < theory < 1e30):
            yield row, stats.second_moment, theory
