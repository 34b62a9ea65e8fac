"""The finding about kernels whose scale goes by the shape of the array instead of its use."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jinit.initializers.fans import compute_fans
from jinit.plans.assignment import Assignment
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
        return _severity(self.factor, thresholds)


@dataclasses.dataclass(frozen=True)
class Astray:
    """A kernel whose variance is not what a plan gives it.

    Attributes:
      assignment: what the plan gives.
      factor: by what the variance is off.
    """

    assignment: Assignment
    factor: float


def wrong_fan(case: Case) -> list[Finding]:
    """Kernels whose scale is not what their use asks for: by the plan given, else by the rule they follow."""
    uses: tuple[WeightUse, ...] = case.survey.described or ()
    variances = case.survey.variances
    astray = [a for one in case.declared.values() if (a := _astray(one, variances.get(one.path)))]
    off = {a.assignment.path for a in astray}
    found = [m for use in uses if use.path not in off and (m := misread(use, variances.get(use.path)))]
    return [
        *_worst(astray, case.thresholds, lambda a: a.assignment.path, _astray_evidence, _astray_remedy),
        *_worst(found, case.thresholds, lambda m: m.use.path, _evidence, _remedy),
    ]


def _worst(
    found: list[Any],
    thresholds: Thresholds,
    path: Callable[[Any], str],
    evidence: Callable[[Any], str],
    remedy: Callable[[Any], str],
) -> list[Finding]:
    """One finding on the first of the worst kernels, which says how many more there are."""
    if not found:
        return []
    severities: list[Severity] = [_severity(one.factor, thresholds) for one in found]
    top = worst(severities)
    first = found[severities.index(top)]
    more = f" So do {len(found) - 1} more kernels." if len(found) > 1 else ""
    return [Finding(top, "wrong_fan", path(first), evidence(first) + more, remedy(first))]


def _severity(factor: float, thresholds: Thresholds) -> Severity:
    # Exactly the threshold counts, as for a stride of 2 along one axis.
    off = max(factor, 1 / factor)
    return grade(off, 0.999 * thresholds.fan_warning, 0.999 * thresholds.fan_severe) or "info"


def _astray(one: Assignment, variance: float | None) -> Astray | None:
    declared = one.variance
    if one.use.fan_in is None or not declared or not variance or one.use.size < _FEWEST:
        return None
    factor = variance / declared
    known = max(factor, 1 / factor) < _OFF or abs(factor - 1) < _bound(one.use)
    return None if known else Astray(one, factor)


def _astray_evidence(a: Astray) -> str:
    fan_in, declared = a.assignment.use.fan_in or math.nan, a.assignment.variance or math.nan
    gain = math.sqrt(declared * fan_in)
    return (
        f"std·√fan_in is {number(gain * math.sqrt(a.factor))}, where rule {a.assignment.rule} of the plan "
        f"gives {number(gain)}: the outputs have {number(a.factor)} times the variance it asks for."
    )


def _astray_remedy(a: Astray) -> str:
    return (
        f"params = jinit.redraw(apply, plan)(key, params, *inputs)  # {a.assignment.path} and all others\n"
        f"# or multiply the present weights by {a.factor**-0.5:.3g}"
    )


def misread(use: WeightUse, variance: float | None) -> Misread | None:
    """What went wrong with a kernel of this variance; None if nothing did, or it can't be told."""
    if use.role != "kernel" or use.note or len(use.shape) < 2 or use.size < _FEWEST or not variance:
        return None  # a lookup sums nothing, so a table's scale is anyone's choice
    if use.fan_in is None:
        return None
    readings = [fans for fans in _readings(use) if max(fans[0] / use.fan_in, use.fan_in / fans[0]) > _OFF]
    bound = _bound(use)
    fan_out = use.fan_out or use.fan_in
    if any(abs(variance / rule(use.fan_in, fan_out) - 1) < bound for _, _, rule in _RULES):
        return None
    for fans in readings:
        fitting = [
            (abs(variance / rule(*fans) - 1), name, remedy, rule(*fans) / rule(use.fan_in, fan_out))
            for name, remedy, rule in _RULES
        ]
        off, name, remedy, factor = min(fitting, key=lambda found: found[0])
        if off < bound:
            return Misread(use, name, remedy, fans[0], factor)
    return None


def _readings(use: WeightUse) -> list[tuple[float, float]]:
    """The fans that the shape suggests: along the axes that hold inputs and outputs, and with these last."""
    last: tuple[float, float] = compute_fans(use.shape)
    if not use.in_axes or not use.out_axes:
        return [last]

    def size(without: tuple[int, ...]) -> float:
        return math.prod(n for axis, n in enumerate(use.shape) if axis not in (*without, *use.batch_axes))

    return [(size(use.out_axes), size(use.in_axes)), last]


def _bound(use: WeightUse) -> float:
    """A normal sample's variance has the relative standard error √(2/n); rounding adds half a unit."""
    return 5 * math.sqrt(2 / use.size) + float(jnp.finfo(use.dtype).eps)


def _evidence(m: Misread) -> str:
    return (
        f"Drawn by {m.rule} with a fan-in of {m.fan:.0f}, read off the shape {m.use.shape}; its use sums "
        f"{m.use.fan_in:g} products, so the outputs have {number(m.factor)} times the variance meant."
    )


def _remedy(m: Misread) -> str:
    return (
        f'params = jinit.redraw(apply, [("{m.use.path}", {m.remedy})])(key, params, *inputs)\n'
        f"# or multiply the present weights by {m.factor**-0.5:.3g}"
    )
