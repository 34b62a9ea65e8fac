"""The report as a matplotlib figure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jinit._errors import message
from jinit.report.finding import Finding
from jinit.report.rows import Row, Stats

if TYPE_CHECKING:
    from jinit.report.report import Report

_COLORS = {"info": "tab:cyan", "warning": "tab:orange", "severe": "tab:red"}
Panel = tuple[str, tuple[tuple[str, str, str, str], ...]]

# Title, and the lines in it: label, field of the row, number in it, color.
_PANELS: tuple[Panel, ...] = (
    (
        "signal E[x²]",
        (("in", "input", "second_moment", "tab:blue"), ("out", "output", "second_moment", "tab:cyan")),
    ),
    ("gradient E[δ²]", (("cotangent of out", "cotangent", "second_moment", "tab:purple"),)),
    (
        "weight rms",
        (("weight", "weight", "rms", "tab:gray"), ("its gradient", "weight_gradient", "rms", "tab:olive")),
    ),
)


def figure_class(caller: str) -> Any:
    """`matplotlib.figure.Figure`.

    Raises:
      ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        advice = "Install the optional extra: pip install jinit[plots]"
        raise ImportError(message(caller, "matplotlib must be installed", str(error), advice)) from error
    return Figure


def plot(report: Report) -> Any:
    """One panel each for signals, gradients and weights, over the sites from first to last."""
    figure_type = figure_class("Report.plot()")
    # Figure without pyplot: no window, no global state, nothing for the caller to close.
    figure = figure_type(figsize=(9, 7.5), layout="constrained")
    axes = figure.subplots(len(_PANELS), 1, sharex=True)
    for axis, panel in zip(axes, _PANELS, strict=True):
        _draw(axis, report, panel)
    axes[-1].set_xlabel("site, in program order")
    _name_sites(axes[-1], report)
    count = len(report.findings)
    figure.suptitle(f"{len(report.rows)} rows, {count} finding{'s' * (count != 1)}")
    return figure


def _draw(axis: Any, report: Report, panel: Panel) -> None:
    title, lines = panel
    for label, field, what, color in lines:
        values = [_value(row, field, what) for row in report.rows]
        if any(map(math.isfinite, values)):
            axis.plot(range(len(values)), values, ".-", label=label, color=color, linewidth=1)
            axis.set_yscale("log")
        theory = [_ordinary(getattr(row.predicted, field, None)) for row in report.rows]
        if any(map(math.isfinite, theory)):
            axis.plot(range(len(theory)), theory, ":", label=f"{label}, predicted", color=color, linewidth=2)
    axis.set_ylabel(title)
    axis.grid(alpha=0.3)
    for place, finding in _places(report):
        axis.axvline(place, color=_COLORS[finding.severity], alpha=0.5, linestyle="--", linewidth=1)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="best", fontsize="small")


def _value(row: Row, field: str, what: str) -> float:
    """NaN, a gap in the line, for what is missing or has no place on a logarithmic axis."""
    stats: Stats | None = getattr(row, field)
    return _ordinary(None if stats is None else getattr(stats, what))


def _ordinary(value: float | None) -> float:
    return math.nan if value is None or not 0 < value < math.inf else value


def _places(report: Report) -> list[tuple[int, Finding]]:
    index = {(row.site, row.step): i for i, row in reversed(list(enumerate(report.rows)))}
    places = [(index.get((f.site, f.step)), f) for f in report.findings]
    return [(place, finding) for place, finding in places if place is not None]


def _name_sites(axis: Any, report: Report, most: int = 12) -> None:
    """Names at a dozen sites at most, those with findings first."""
    wanted: dict[int, str] = {}
    nearest: Callable[[int], bool] = lambda i: all(abs(i - j) * 3 * most > len(report.rows) for j in wanted)  # noqa: E731
    stride = max(1, math.ceil(len(report.rows) / most))
    for i in [place for place, _ in _places(report)] + list(range(0, len(report.rows), stride)):
        if i not in wanted and nearest(i):
            wanted[i] = report.rows[i].label
    axis.set_xticks(
        sorted(wanted), [wanted[i] for i in sorted(wanted)], rotation=30, ha="right", fontsize="x-small"
    )
