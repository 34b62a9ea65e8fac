"""The report as text for a terminal: a summary, trends over all sites, a table, the findings."""

from __future__ import annotations

import io
import itertools
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from jinit.report.finding import SEVERITIES, Finding
from jinit.report.fold import Fold, fold, shorten
from jinit.report.rows import Row, Stats

if TYPE_CHECKING:
    from jinit.report.report import Report

NARROWEST = 60
STYLES = {"info": "cyan", "warning": "yellow", "severe": "bold red"}
MARKS = {"info": "·", "warning": "!", "severe": "‼"}
_BARS = "▁▂▃▄▅▆▇█"


def render(report: Report, width: int | None = None) -> str:
    """Plain text of at most `width` columns."""
    return text_of(lambda columns: renderables(report, columns), width)


def text_of(renderables: Callable[[int], Iterator[Any]], width: int | None) -> str:
    """What `rich` prints of some parts in so many columns; by default those of the terminal."""
    from rich.console import Console

    columns = shutil.get_terminal_size((100, 24)).columns if width is None else width
    columns = max(NARROWEST, columns)
    out = io.StringIO()
    console = Console(file=out, width=columns, color_system=None, force_terminal=False, legacy_windows=False)
    for item in renderables(columns):
        console.print(item)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def renderables(report: Report, width: int) -> Iterator[Any]:
    """The parts, for `rich` to print."""
    yield _summary(report)
    if report.rows:
        yield from _trends(report, width)
        yield _table(report, width)
    if report.no_prediction:
        yield _no_prediction(report.no_prediction)
    for before, finding in zip((None, *report.findings), report.findings, strict=False):
        yield from _finding(finding, before is not None and before.remedy == finding.remedy)


def _summary(report: Report) -> Any:
    from rich.text import Text

    sites = len({row.site for row in report.rows})
    steps = f" ({len(report.rows)} rows with their loop steps)" if len(report.rows) > sites else ""
    text = Text(f"jinit diagnose: {sites} site{'s' * (sites != 1)}{steps}: ")
    counts = Counter(finding.severity for finding in report.findings)
    if not counts:
        return text.append("nothing found", style="green")
    parts = [f"{counts[s]} {s}" for s in reversed(SEVERITIES) if counts[s]]
    return text.append(", ".join(parts), style=STYLES[report.worst or "info"])


def _trends(report: Report, width: int) -> Iterator[Any]:
    """One line of bars for the signal and one for the gradient, over all sites from first to last."""
    from rich.text import Text

    lines = (
        ("signal E[x²]", _q),
        ("  predicted", _theory("input")),
        ("gradient E[δ²]", _delta),
        ("  predicted", _theory("cotangent")),
    )
    for name, get in lines:
        values = [value for row in report.rows if (value := get(row)) is not None]
        if not values:
            continue
        first, last = compact(values[0]), compact(values[-1])
        room = max(8, width - 14 - 2 * 8 - 3)
        text = Text(f"{name:<14} {first:>7} ")
        text.append(sparkline(values, min(room, len(values))), style="cyan")
        yield text.append(f" {last}")


def _q(row: Row) -> float | None:
    return row.input.second_moment if row.input else None


def _delta(row: Row) -> float | None:
    return row.cotangent.second_moment if row.cotangent else None


def _theory(field: str) -> Callable[[Row], float | None]:
    return lambda row: getattr(row.predicted, field, None)


def sparkline(values: Sequence[float], width: int) -> str:
    """Bars on a logarithmic scale of at least six decades; `·` is zero, `×` is NaN or infinite.

    >>> sparkline([1e-6, 1e-3, 1.0], 3)
    '▁▅█'
    >>> sparkline([1.0, 0.0, float("inf")], 3)
    '▅·×'
    """
    logs = [math.log10(v) for v in values if 0 < v < math.inf]
    middle = (max(logs) + min(logs)) / 2 if logs else 0.0
    half = max(3.0, (max(logs) - min(logs)) / 2) if logs else 3.0
    edges = [round(i * len(values) / width) for i in range(width + 1)]
    bins = [values[a : max(b, a + 1)] for a, b in itertools.pairwise(edges)]
    return "".join(_bar(group, middle - half, 2 * half) for group in bins)


def _bar(group: Sequence[float], low: float, span: float) -> str:
    """The bar of a group of values: its geometric mean, unless one of them is not finite or all are zero."""
    if not all(map(math.isfinite, group)):
        return "×"
    logs = [math.log10(v) for v in group if v > 0]
    if not logs:
        return "·"
    height = (sum(logs) / len(logs) - low) / span
    return _BARS[min(len(_BARS) - 1, int(height * (len(_BARS) - 1) + 0.5))]


def compact(value: float | None) -> str:
    """At most seven characters.

    >>> [compact(v) for v in (None, 0.0, 1.5, -0.0321, 1234.5, 9.26e-10, -1.6e-30)]
    ['', '0', '1.50', '-0.032', '1.2e3', '9.3e-10', '-2e-30']
    """
    if value is None:
        return ""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    if 0.01 <= abs(value) < 1000:
        digits = 2 - max(-2, min(2, math.floor(math.log10(abs(value)))))
        return f"{value:.{max(0, min(3, digits))}f}"
    mantissa, exponent = f"{value:.{0 if value < 0 and abs(value) < 1e-9 else 1}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


Column = tuple[str, Callable[[Row], float | None], int]


def _of(field: str, what: str) -> Callable[[Row], float | None]:
    def get(row: Row) -> float | None:
        stats: Stats | None = getattr(row, field)
        return None if stats is None else getattr(stats, what)

    return get


def _zeros(row: Row) -> float | None:
    return None if row.input is None else 100 * row.input.zero_fraction


# Header, value, and the narrowest terminal that shows it.
_COLUMNS: tuple[Column, ...] = (
    ("in\nE[x²]", _q, 0),
    ("out\nE[x²]", _of("output", "second_moment"), 0),
    ("theory\nE[x²]", _theory("output"), 92),
    ("out\nmean", _of("output", "mean"), 76),
    ("grad\nE[δ²]", _delta, 0),
    ("theory\nE[δ²]", _theory("cotangent"), 92),
    ("in\nzero %", _zeros, 80),
    ("W\nrms", _of("weight", "rms"), 0),
    ("dW\nrms", _of("weight_gradient", "rms"), 68),
)


def _table(report: Report, width: int) -> Any:
    from rich.table import Table
    from rich.text import Text

    columns = [c for c in _COLUMNS if width >= c[2] and any(c[1](row) is not None for row in report.rows)]
    room = width - 8 * len(columns) - 1
    prefix = common_prefix([row.site for row in report.rows])
    table = Table(box=None, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False, header_style="bold")
    head = middle(f"  {prefix}…" if prefix else "  site", room)
    table.add_column(Text(f"\n{head}"), width=room, no_wrap=True)
    for header, _, _ in columns:
        table.add_column(Text(header), width=7, justify="right", no_wrap=True)
    severities = {(f.site, f.step): f.severity for f in reversed(report.findings)}
    flagged = frozenset(severities)
    for line in shorten(fold(report.rows, flagged), flagged):
        if isinstance(line, int):
            table.add_row(f"   ⋮ {line} more rows", style="dim")
            continue
        row = line.rows[0]
        severity = severities.get((row.site, row.step), "") if len(line.rows) == 1 else ""
        label = ("└ " if line.marked else "") + line.label[len(prefix) :]
        name = f"{MARKS.get(severity, ' ')} {middle(label, room - 2)}"
        for text, cells, style in _lines(name, line, columns, STYLES.get(severity, "")):
            table.add_row(Text(text, style=style), *(Text(cell, style=style) for cell in cells))
    return table


def _lines(name: str, line: Fold, columns: list[Column], style: str) -> Iterator[tuple[str, list[str], str]]:
    """The first values; for a fold also the last, and the extremes where the ends don't show them."""
    first, last = line.rows[0], line.rows[-1]
    yield name, [compact(get(first)) for _, get, _ in columns], style
    if len(line.rows) == 1:
        return
    yield f"   … last of {len(line.rows)}", [compact(get(last)) for _, get, _ in columns], ""
    extremes = [_extreme([get(row) for row in line.rows]) for _, get, _ in columns]
    if any(value is not None for value in extremes):
        yield "   … extreme", [compact(value) for value in extremes], "yellow"


def common_prefix(names: list[str]) -> str:
    """What all names begin with, up to a slash and short of a whole name; shown once, in the header."""
    folders = [name.split("/")[:-1] for name in names]
    shared = list(itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False)))
    return "".join(f"{parts[0]}/" for parts in shared)


def _extreme(values: list[float | None]) -> float | None:
    """The value farthest outside of the range of the two ends; None within a factor of 10."""
    ends = values[0], values[-1]
    if None in ends:
        return None
    low, high = sorted(abs(v or 0.0) for v in ends)
    inside = [v for v in values if v is not None]
    if any(math.isnan(v) for v in inside):
        return math.nan
    top, bottom = max(inside, key=abs), min(inside, key=abs)
    if abs(top) > 10 * high and abs(top) > 1e-3:
        return top
    return bottom if 0 < abs(bottom) < low / 10 and low > 1 else None


def middle(name: str, width: int) -> str:
    """A name shortened in the middle, after leaving out that it is a kernel.

    >>> middle("params/layers_3/mlp/kernel[7]", 26)
    'params/layers_3/mlp[7]'
    >>> middle("params/encoder/layers_3/attention/key/kernel", 20)
    'params/en…ention/key'
    """
    if len(name) > width:
        name = re.sub(r"/kernel(?=$|[\[#])", "", name)
    if len(name) <= width:
        return name
    tail = (width - 1) - (width - 1) // 2
    return name[: (width - 1) // 2] + "…" + name[len(name) - tail :]


def _no_prediction(reason: str) -> Any:
    from rich.text import Text

    return Text(f"\nNo prediction: {reason}", style="dim")


def _finding(finding: Finding, again: bool) -> Iterator[Any]:
    from rich.padding import Padding
    from rich.text import Text

    style = STYLES[finding.severity]
    head = Text("\n").append(finding.severity.upper(), style=style).append(f" {finding.kind}", style="bold")
    yield head.append(f"  {finding.label}") if finding.site else head
    yield Padding(Text(finding.evidence), (0, 0, 0, 2))
    if finding.remedy and again:
        yield Padding(Text("Remedy as above.", style="dim"), (0, 0, 0, 4))
    elif finding.remedy:
        # Code is folded at the edge, never re-flowed.
        yield Padding(Text(finding.remedy, style="green", overflow="fold"), (0, 0, 0, 4))
