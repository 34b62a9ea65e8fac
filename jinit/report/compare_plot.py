"""A comparison as a matplotlib figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jinit.report.plot import figure_class

if TYPE_CHECKING:
    from jinit.report.comparison import Comparison, ComparisonRow


def plot(comparison: Comparison) -> Any:
    """Panels of signal and gradient over the sites, of the loss over the steps, and of error over cost."""
    panels = [("signal E[x²]", "signal", "site"), ("gradient Σδ²", "gradient", "site")]
    panels += [("loss", "losses", "step")] if comparison.rows[0].losses else []
    figure = figure_class("Comparison.plot()")(figsize=(4.2 * len(panels) + 4.2, 3.6), layout="constrained")
    *axes, last = figure.subplots(1, len(panels) + 1)
    for axis, (title, field, over) in zip(axes, panels, strict=True):
        for number, row in enumerate(comparison.rows):
            _line(axis, getattr(row, field), row.method, f"C{number % 10}", "-" if number < 10 else "--")
        axis.set_title(title)
        axis.set_xlabel(over)
        axis.set_yscale("log")
        axis.grid(alpha=0.3)
    if comparison.rows[0].losses:
        # A run that explodes shall not flatten the others.
        started = [losses[0] for row in comparison.rows for losses in row.losses if losses[0] > 0]
        axes[-1].set_ylim(top=min([axes[-1].get_ylim()[1], 1e3 * min(started, default=np.inf)]))
    _costs(last, comparison.rows)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    return figure


def _line(axis: Any, seeds: Sequence[Sequence[float]], label: str, color: str, style: str) -> None:
    """Median and range over the seeds; a gap where a value has no place on a logarithmic axis."""
    values = np.asarray(seeds, float)
    values = np.where(np.isfinite(values) & (values > 0), values, np.nan)
    gone = np.isnan(values).any(0)
    low, middle, high = (np.where(gone, np.nan, f(values, axis=0)) for f in (np.min, np.median, np.max))
    marker = "." if values.shape[1] < 40 else ""
    places = np.arange(values.shape[1])
    axis.plot(places, middle, style, marker=marker, label=label, color=color, linewidth=1.2)
    axis.fill_between(places, low, high, color=color, alpha=0.2, linewidth=0)


def _costs(axis: Any, rows: Sequence[ComparisonRow]) -> None:
    """Median and range over the seeds of each method's variance error, over what it costs."""
    for number, row in enumerate(rows):
        errors = np.asarray([e for e in row.variance_error if 0 < e < np.inf])
        if errors.size:
            low, middle, high = np.min(errors), np.median(errors), np.max(errors)
            color, marker = f"C{number % 10}", "o" if number < 10 else "s"
            axis.plot([row.forward_passes] * 2, [low, high], color=color, alpha=0.4, linewidth=3)
            axis.plot([row.forward_passes], [middle], marker, color=color, label=row.method)
    axis.set_title("output |std−1|")
    axis.set_xlabel("forward passes")
    axis.set_xscale("symlog", linthresh=1)
    axis.set_xlim(left=-0.1)
    axis.set_yscale("log")
    axis.grid(alpha=0.3)
