"""The finding about kernels whose scale goes by the shape of the array instead of its use."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp

from jinit.initializers.fans import compute_fans
from jinit.plans.uses import WeightUse
from jinit.report.finding import Case, Finding, Severity, grade, number, worst
from jinit.report.thresholds import Thresholds

# Rules that fans go into, with what they make the variance.
_RULES = (
    ("LeCun's rule", "jinit.lecun_normal()", lambda fan_in, fan_out: 1 / fan_in),
    ("He's rule", "jinit.he_normal()", lambda fan_in, fan_out: 2 / fan_in),
    ("Glorot's rule", "jinit.glorot_normal()", lambda fan_in, fan_out: 2 / (fan_in + fan_out)),
    ("the 1/√n rule", "jinit.fan_in_uniform()", lambda fan_in, fan_out: 1 / (3 * fan_in)),
)
_FEWEST = 100  # entries from which a variance can be told: to 70 % at five standard errors
_OFF = 1.2  # fans that differ by less are not told apart by any rule in use


@dataclasses.dataclass(frozen=True)
class Misread:
    """A kernel drawn by a known rule from the fan-in of its shape.

    Attributes:
      use: how it is used.
      rule: name of the rule.
      remedy: the initializer, as code.
      fan: fan-in that the shape suggests.
      factor: by what the variance of the outputs is off.
    """

    use: WeightUse
    rule: str
    remedy: str
    fan: float
    factor: float

    def severity(self, thresholds: Thresholds) -> Severity:
        """How bad that is."""
        off = max(self.factor, 1 / self.factor)
        # Exactly the threshold counts, as for a stride of 2 along one axis.
        return grade(off, 0.999 * thresholds.fan_warning, 0.999 * thresholds.fan_severe) or "info"


def wrong_fan(case: Case) -> list[Finding]:
    """Kernels drawn by a known rule from the fan-in of their shape, where their use has another."""
    uses = case.survey.described or ()
    found = [m for use in uses if (m := misread(use, case.survey.variances.get(use.path)))]
    graded: list[tuple[Severity, Misread]] = [(m.severity(case.thresholds), m) for m in found]
    if not graded:
        return []
    top = worst([severity for severity, _ in graded])
    first = next(m for severity, m in graded if severity == top)
    return [Finding(top, "wrong_fan", first.use.path, _evidence(first, len(found)), _remedy(first))]


def misread(use: WeightUse, variance: float | None) -> Misread | None:
    """What went wrong with a kernel of this variance; None if nothing did, or it can't be told."""
    if use.fan_in is None or use.note or len(use.shape) < 2 or use.size < _FEWEST or not variance:
        return None
    in_shape, out_shape = compute_fans(use.shape)
    if max(in_shape / use.fan_in, use.fan_in / in_shape) < _OFF:
        return None
    # A normal sample's variance has the relative standard error √(2/n); rounding adds half a unit.
    bound = 5 * math.sqrt(2 / use.size) + float(jnp.finfo(use.dtype).eps)
    fan_out = use.fan_out or use.fan_in
    if any(abs(variance / rule(use.fan_in, fan_out) - 1) < bound for _, _, rule in _RULES):
        return None
    for name, remedy, rule in _RULES:
        if abs(variance / rule(in_shape, out_shape) - 1) < bound:
            factor = rule(in_shape, out_shape) / rule(use.fan_in, fan_out)
            return Misread(use, name, remedy, in_shape, factor)
    return None


def _evidence(m: Misread, count: int) -> str:
    evidence = (
        f"Drawn by {m.rule} with a fan-in of {m.fan:.0f}, read off the shape {m.use.shape}; its use sums "
        f"{m.use.fan_in:g} products, so the outputs have {number(m.factor)} times the variance meant."
    )
    return evidence + (f" So do {count - 1} more kernels." if count > 1 else "")


def _remedy(m: Misread) -> str:
    return (
        f'params = jinit.redraw(apply, [("{m.use.path}", {m.remedy})])(key, params, *inputs)\n'
        f"# or multiply the present weights by {m.factor**-0.5:.3g}"
    )
