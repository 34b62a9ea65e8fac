"""`Finding`, and the case the rules that make findings look at."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any, Literal

from jinit.plans.assignment import Assignment
from jinit.report.rows import Row, merge_shared
from jinit.report.thresholds import Thresholds
from jinit.signals.survey import Survey

Severity = Literal["info", "warning", "severe"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "severe")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a network, or worth knowing.

    Args:
      severity: `info`, `warning` or `severe`.
      kind: what is wrong, such as `vanishing_signal` or `dead_units`.
      site: the first site where it shows, a key of the records of `measure`; for findings on parameters
        the path of the parameter; the empty string where it concerns the network as a whole.
      evidence: a sentence with the numbers.
      remedy: lines of code that mend it, or the empty string.
      step: the loop step at that site; `()` outside of loops.

    Example:
      >>> Finding("warning", "dead_units", "params/Dense_3/kernel", "31 % of the inputs are zero.", "")
      Finding(severity='warning', kind='dead_units', site='params/Dense_3/kernel', ...)
    """

    severity: Severity
    kind: str
    site: str
    evidence: str
    remedy: str = ""
    step: tuple[int, ...] = ()

    @property
    def label(self) -> str:
        """The site's name, with the loop step in brackets where there is one."""
        return f"{self.site}[{','.join(map(str, self.step))}]" if self.step else self.site

    def to_dict(self) -> dict[str, Any]:
        """The finding as a dict that JSON takes."""
        return dataclasses.asdict(self) | {"step": list(self.step)}


# Zero in every entry and added to something: the usual start of a bias, and no reason for a gradient to stop.
_ADDED = re.compile(r"(^|_)(b|bias|biases|beta|offset|shift|mean|var|pos\w*|cls|token|embed\w*)$")


@dataclasses.dataclass(frozen=True)
class Case:
    """What the rules look at.

    Attributes:
      rows: every site at every loop step.
      survey: what `rows` came from, on the host.
      thresholds: when to speak up.
      declared: what a plan gives each parameter, where the user named one.
    """

    rows: tuple[Row, ...]
    survey: Survey
    thresholds: Thresholds
    declared: Mapping[str, Assignment] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def chain(self) -> tuple[Row, ...]:
        """The rows with every weight once, where it is first used."""
        return merge_shared(self.rows)

    def starts_at_zero(self, row: Row, *, above: bool) -> bool:
        """Whether zeros at `row` come from a weight that was set to zero on purpose and will move.

        A zero weight with a gradient leaves zero at the first step: that is how residual branches and heads
        are started. Two zero weights in a row have no gradient, and never move. `above` asks for such a
        weight after `row` (the gradient has to pass it), otherwise for one before it.
        """
        if any(map(_zero_and_stuck, self.rows)):
            return False
        place = self.place(row.site, row.step)
        around = self.rows[place:] if above else self.rows[:place]
        return any(map(_zero_but_moving, around)) or bool(self._zero_scales)

    def place(self, site: str, step: tuple[int, ...]) -> int:
        """Where a row stands in the order of the program; after all of them if there is no such row."""
        return self._places.get((site, step), len(self.rows))

    @functools.cached_property
    def _places(self) -> dict[tuple[str, tuple[int, ...]], int]:
        return {(row.site, row.step): i for i, row in enumerate(self.rows)}

    @functools.cached_property
    def _zero_scales(self) -> tuple[str, ...]:
        """Zero parameters that no site holds and that, by their name, are not just added: scales, gates."""
        held = {leaf for info in self.survey.sites for leaf in info.leaves}
        last = {path: re.sub(r"^.*[/.]", "", path).lower() for path in self.survey.zero_parameters}
        unused = set(self.survey.unused)
        return tuple(p for p, end in last.items() if p not in held | unused and not _ADDED.search(end))


def _zero_but_moving(row: Row) -> bool:
    weight, gradient = row.weight, row.weight_gradient
    if weight is None or not weight.all_zero:
        return False
    # Without a backward pass, a signal that arrives is the best sign there is.
    return not gradient.all_zero if gradient else row.input is not None and not row.input.all_zero


def _zero_and_stuck(row: Row) -> bool:
    """A zero weight that sees nothing but zeros: its gradient is zero whatever arrives from above."""
    return row.input is not None and row.weight is not None and row.input.all_zero and row.weight.all_zero


def grade(value: float, warning: float, severe: float) -> Severity | None:
    """The severity of a share or ratio that is bad when it is large; None below the warning, and for NaN."""
    if value > severe:
        return "severe"
    return "warning" if value > warning else None


def worst(severities: list[Severity]) -> Severity:
    """The highest of some severities, which must not be empty."""
    return max(severities, key=SEVERITIES.index)


def number(value: float) -> str:
    """A number for a sentence: three digits, and said in words where the square has under- or overflowed."""
    if value == 0:
        return "0"
    return f"{value:.2e}" if not 1e-2 <= abs(value) < 1e4 else f"{value:.3g}"


def number_square(value: float) -> str:
    """A second moment that may have under- or overflowed although the entries are finite and not zero."""
    if value == 0:
        return "under 1e-38"
    return "over 3e38" if value == float("inf") else number(value)
