"""What `jinit.compare` found."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jinit.report.report import strict
from jinit.report.table import NARROWEST, compact, middle, text_of


@dataclasses.dataclass(frozen=True)
class ComparisonRow:
    """One method, over all seeds.

    Attributes:
      method: its name.
      variance_error: `max |√Var[output] − 1|` over the sites, for each seed.
      signal: second moment of what enters every site and loop step, in the order of the program, for each
        seed; of an embedding what leaves it.
      gradient: sum of the squares of the gradient with respect to the outputs of every site, likewise; NaN
        where there is none.
      losses: for each seed the loss before every step, and after the last; empty without a loss.
      forward_passes: cost of the method in forward passes of the network, by the floating-point operations of
        the traced programs. Every step of a `scan` counts; of a `while_loop` those that a `jinit.Calibration`
        or `jinit.LearnedScales` which the method returns tells of, else one. NaN where it cannot be told.
      within: factor that a signal may fall or grow by and count as kept.

    Example:
      >>> row = ComparisonRow("zeros", (1.0,), ((1.0, 0.0),), ((0.0, 1.0),), ((2.3, 2.2),), 0.0)
      >>> row.signal_depth, row.gradient_depth, row.loss
      ((1,), (1,), (2.2,))
    """

    method: str
    variance_error: tuple[float, ...]
    signal: tuple[tuple[float, ...], ...]
    gradient: tuple[tuple[float, ...], ...]
    losses: tuple[tuple[float, ...], ...]
    forward_passes: float
    within: float = 1e3

    @property
    def signal_depth(self) -> tuple[int, ...]:
        """At how many sites the signal is within the factor of the first one's, for each seed."""
        return tuple(_kept(profile, self.within) for profile in self.signal)

    @property
    def gradient_depth(self) -> tuple[int, ...]:
        """At how many sites the gradient is within the factor of the last one's, for each seed."""
        return tuple(_kept(profile[::-1], self.within) for profile in self.gradient)

    @property
    def loss(self) -> tuple[float, ...]:
        """The loss after the last step, for each seed; empty without a loss."""
        return tuple(losses[-1] for losses in self.losses)

    def to_dict(self) -> dict[str, Any]:
        """Everything as a dict of strict JSON values; profiles and curves are lists for each seed."""
        derived = {name: getattr(self, name) for name in ("signal_depth", "gradient_depth", "loss")}
        return strict(dataclasses.asdict(self) | derived)


def _kept(profile: Sequence[float], within: float) -> int:
    """How many are within a factor of the first that is a positive number."""
    known = np.asarray([q for q in profile if not math.isnan(q)])
    first = next((q for q in known if 0 < q < math.inf), math.inf)
    return int(np.sum((known >= first / within) & (known <= first * within) & np.isfinite(known)))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What `jinit.compare` found: a row for each method, in the order given.

    `str()` of it is a table that fits a terminal; so is its value in a notebook.

    Attributes:
      rows: one `jinit.ComparisonRow` a method.
      sites: how many sites there are, loop steps counted.
      steps: how many steps of training.

    Example:
      >>> row = ComparisonRow("he", (0.4, 0.5), ((1.0,),) * 2, ((1.0,),) * 2, ((2.0, 1.0), (2.0, 1.5)), 0.0)
      >>> print(Comparison((row,), sites=1, steps=1).render(60))
      jinit compare: 1 method, 2 seeds, 1 site, loss after 1 step
              output  signal    grad    loss forward
      method |std−1|   depth   depth  median  passes
      he       0.450       1       1    1.25       0
    """

    rows: tuple[ComparisonRow, ...]
    sites: int
    steps: int

    def __getitem__(self, method: str) -> ComparisonRow:
        """The row of a method."""
        return {row.method: row for row in self.rows}[method]

    @property
    def ranked(self) -> tuple[ComparisonRow, ...]:
        """The rows, best first: by the median loss; without one, by how far signal and gradient get."""
        return tuple(sorted(self.rows, key=_rank))

    def to_dict(self) -> dict[str, Any]:
        """Everything as a dict of strict JSON values."""
        return {"sites": self.sites, "steps": self.steps, "rows": [row.to_dict() for row in self.rows]}

    def render(self, width: int | None = None) -> str:
        """Plain text of at most `width` columns (60 at least; the terminal's by default)."""
        return text_of(self._renderables, width)

    def plot(self) -> Any:
        """A matplotlib `Figure`: signal and gradient over the sites, loss over the steps, error over cost.

        Lines and points are medians over the seeds, shades reach from the lowest to the highest.

        Raises:
          ImportError: matplotlib is not installed.
        """
        from jinit.report.compare_plot import plot

        return plot(self)

    def __str__(self) -> str:
        return self.render()

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        yield from self._renderables(options.max_width)

    def _repr_html_(self) -> str:
        import html

        return f"<pre>{html.escape(self.render(120))}</pre>"

    def _renderables(self, width: int) -> Iterator[Any]:
        from rich.text import Text

        seeds = len(self.rows[0].variance_error)
        parts = [_counted(len(self.rows), "method"), _counted(seeds, "seed"), _counted(self.sites, "site")]
        if self.rows[0].losses:
            parts.append(f"loss after {_counted(self.steps, 'step')}")
        yield Text(f"jinit compare: {', '.join(parts)}")
        yield _table(self, max(width, NARROWEST))


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _rank(row: ComparisonRow) -> tuple[float, float]:
    depth = median(row.signal_depth) + median(row.gradient_depth)
    return (median(row.loss) if row.losses else 0.0), -depth


def median(values: Sequence[float]) -> float:
    """The median, infinite if half of the values are no numbers."""
    return float(np.median([math.inf if math.isnan(v) else v for v in values]))


def _worst(values: Sequence[float]) -> float:
    return max(math.inf if math.isnan(v) else v for v in values)


# Header, the number of a row in it, and the narrowest terminal that shows it.
_COLUMNS: tuple[tuple[str, Callable[[ComparisonRow], float], int], ...] = (
    ("output\n|std−1|", lambda row: median(row.variance_error), 0),
    ("signal\ndepth", lambda row: median(row.signal_depth), 0),
    ("grad\ndepth", lambda row: median(row.gradient_depth), 0),
    ("loss\nmedian", lambda row: median(row.loss), 0),
    ("loss\nworst", lambda row: _worst(row.loss), 72),
    ("forward\npasses", lambda row: row.forward_passes, 0),
)


def _table(comparison: Comparison, width: int) -> Any:
    from rich.table import Table
    from rich.text import Text

    lost = not comparison.rows[0].losses
    columns = [c for c in _COLUMNS if width >= c[2] and not (lost and c[0].startswith("loss"))]
    longest = max(len("method"), *(len(row.method) for row in comparison.rows))
    room = min(longest, width - 8 * len(columns) - 1)
    table = Table(box=None, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False, header_style="bold")
    table.add_column("\nmethod", width=room, no_wrap=True)
    for header, _, _ in columns:
        table.add_column(header, width=7, justify="right", no_wrap=True)
    best = comparison.ranked[0]
    for row in comparison.rows:
        cells = [_cell(header, get(row)) for header, get, _ in columns]
        style = "bold green" if row is best and len(comparison.rows) > 1 else ""
        table.add_row(Text(middle(row.method, room), style=style), *(Text(c, style=style) for c in cells))
    return table


def _cell(header: str, value: float) -> str:
    if math.isnan(value):
        return "?"
    return f"{value:g}" if header.endswith("depth") else compact(value)
