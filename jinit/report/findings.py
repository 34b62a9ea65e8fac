"""All rules in one table, and which finding makes which other one superfluous."""

from __future__ import annotations

from collections.abc import Callable

from jinit.report import fans, numerics, theory, trends, units
from jinit.report.finding import SEVERITIES, Case, Finding

Rule = Callable[[Case], list[Finding]]

# Causes before consequences: findings of equal severity are shown in this order.
RULES: tuple[Rule, ...] = (
    units.symmetric_units,
    fans.wrong_fan,
    trends.exploding_signal,
    trends.vanishing_signal,
    numerics.nonfinite,
    units.saturated_units,
    units.dead_units,
    units.collapsed_inputs,
    trends.exploding_gradient,
    trends.vanishing_gradient,
    units.mean_shift,
    numerics.underflow,
    numerics.unused_parameter,
    numerics.not_followed,
    theory.departs_from_theory,
)

# A severe finding of the first kind explains findings of the kinds after it.
_EXPLAINS: dict[str, frozenset[str]] = {
    "symmetric_units": frozenset(
        {
            "exploding_signal",
            "vanishing_signal",
            "saturated_units",
            "dead_units",
            "collapsed_inputs",
            "exploding_gradient",
            "vanishing_gradient",
            "mean_shift",
            "departs_from_theory",
        }
    ),
    # NaN stops ReLU's gradient as well as passing through everything.
    "nonfinite": frozenset({"vanishing_gradient", "exploding_gradient", "underflow", "departs_from_theory"}),
}


def find(case: Case) -> tuple[Finding, ...]:
    """All findings, the most severe first and causes before what follows from them."""
    found = [finding for rule in RULES for finding in rule(case)]
    found = [finding for finding in found if not _explained(case, finding, found)]
    return tuple(sorted(found, key=lambda f: -SEVERITIES.index(f.severity)))


def _explained(case: Case, finding: Finding, found: list[Finding]) -> bool:
    severe = {f.kind: f for f in found if f.severity == "severe"}
    if any(finding.kind in _EXPLAINS.get(kind, ()) for kind in severe):
        return True
    row = next((r for r in case.rows if (r.site, r.step) == (finding.site, finding.step)), None)
    if row is None:
        return False
    if finding.kind == "vanishing_gradient" and severe.keys() & {"vanishing_signal", "underflow"}:
        # ReLU passes no gradient where its signal has gone to zero.
        return finding.severity == "warning" and row.cotangent is not None and row.cotangent.all_zero
    faded = severe.get("vanishing_signal")
    if finding.kind == "dead_units":
        # Where the signal had faded before, zeros are the end of that, not units that are off.
        before = faded is not None and case.place(faded.site, faded.step) < case.place(row.site, row.step)
        return before and trends.nearly_gone(row.input, row.info.dtype)
    # Units that are all off stop signal and gradient: name the units, not what is missing after them.
    off = severe.get("dead_units")
    if off is None or _explained(case, off, [f for f in found if f.kind != "dead_units"]):
        return False
    return finding.kind in ("vanishing_signal", "vanishing_gradient", "underflow", "mean_shift")
