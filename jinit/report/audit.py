"""The audit as text for a terminal: one line a parameter, repeated layers folded."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from jinit.plans.uses import WeightUse
from jinit.report.fans import Misread, misread
from jinit.report.finding import number
from jinit.report.fold import folded_names, natural_order
from jinit.report.table import MARKS, NARROWEST, STYLES, common_prefix, middle, text_of
from jinit.report.thresholds import Thresholds


@dataclasses.dataclass(frozen=True)
class AuditTable:
    """What `jinit.audit` found, for people and for programs.

    Attributes:
      uses: from `jinit.audit`.
    """

    uses: tuple[WeightUse, ...]

    @property
    def misread(self) -> dict[str, Misread]:
        """Path -> what went wrong, of the kernels drawn with the fan of their shape."""
        found = {use.path: misread(use, _variance(use)) for use in self.uses}
        return {path: m for path, m in found.items() if m is not None}

    @property
    def severe(self) -> bool:
        """Whether a kernel is severely off."""
        return any(m.severity(Thresholds()) == "severe" for m in self.misread.values())

    def to_dict(self) -> dict[str, Any]:
        """The table as a dict that JSON takes."""
        return {"uses": [_plain(use, self.misread.get(use.path)) for use in self.uses]}

    def render(self, width: int | None = None) -> str:
        """Plain text of at most `width` columns (60 at least; the terminal's by default)."""
        return text_of(self._renderables, width)

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        yield from self._renderables(options.max_width)

    def _renderables(self, width: int) -> Iterator[Any]:
        from rich.text import Text

        roles = Counter(use.role for use in self.uses)
        counted = ", ".join(f"{count} {role}" for role, count in roles.most_common())
        yield Text(f"jinit audit: {len(self.uses)} parameters: {counted}")
        # `layers_10` after `layers_9`, which no tree of dicts has it.
        counted_up = sorted(self.uses, key=lambda use: natural_order(use.path))
        yield _table(counted_up, self.misread, max(width, NARROWEST))
        yield from _remarks(self.uses, self.misread)


def _variance(use: WeightUse) -> float | None:
    return use.gain**2 / use.fan_in if use.gain is not None and use.fan_in else None


def _plain(use: WeightUse, wrong: Misread | None) -> dict[str, Any]:
    fields = {f.name: getattr(use, f.name) for f in dataclasses.fields(use)}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
    gain = use.gain if use.gain is None or math.isfinite(use.gain) else str(use.gain)
    wrong_fan = None if wrong is None else {"rule": wrong.rule, "fan_in": wrong.fan, "factor": wrong.factor}
    return plain | {"dtype": str(use.dtype), "gain": gain, "wrong_fan": wrong_fan}


# Header, text of a cell, width of the column, and the narrowest terminal that shows it.
_COLUMNS = (
    ("role", lambda use: use.role, 9, 0),
    ("shape", lambda use: "×".join(map(str, use.shape)) or "scalar", 16, 72),
    ("fan_in", lambda use: _fan(use.fan_in), 8, 0),
    ("fan_out", lambda use: _fan(use.fan_out), 8, 0),
    ("uses", lambda use: str(use.uses or ""), 4, 84),
    ("gain", lambda use: "" if use.gain is None else number(use.gain), 8, 64),
)


def _fan(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _table(uses: Sequence[WeightUse], wrong: dict[str, Misread], width: int) -> Any:
    from rich.table import Table
    from rich.text import Text

    columns = [c for c in _COLUMNS if width >= c[3]]
    room = width - sum(c[2] + 1 for c in columns) - 1
    prefix = common_prefix([use.path for use in uses])
    table = Table(box=None, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False, header_style="bold")
    table.add_column(
        Text(middle(f"  {prefix}…" if prefix else "  parameter", room)), width=room, no_wrap=True
    )
    for header, _, size, _ in columns:
        justify: Any = "left" if header == "role" else "right"
        table.add_column(header, width=size, justify=justify, no_wrap=True)
    for name, group in folded_names([use.path for use in uses], lambda i: _alike(uses[i])):
        use = uses[group[0]]
        mark, style = _mark([wrong.get(uses[i].path) for i in group], use)
        label = f"{mark} {middle(name[len(prefix) :], room - 2)}"
        table.add_row(Text(label, style=style), *(Text(cell(use), style=style) for _, cell, _, _ in columns))
    return table


def _alike(use: WeightUse) -> Any:
    """What layers must have in common to be shown as one line."""
    # Steps of √2 around 1, so that samples of LeCun's rule and of He's each stay together.
    gain = round(2 * math.log2(use.gain)) if use.gain else use.gain
    return use.role, use.shape, use.fan_in, use.fan_out, use.uses, use.note, gain


def _mark(wrong: list[Misread | None], use: WeightUse) -> tuple[str, str]:
    severities = [m.severity(Thresholds()) for m in wrong if m is not None]
    if severities:
        return MARKS[severities[0]], STYLES[severities[0]]
    return ("·", STYLES["info"]) if use.note or use.role == "unused" else (" ", "")


def _remarks(uses: Sequence[WeightUse], wrong: dict[str, Misread]) -> Iterator[Any]:
    """What is off, then what should be known; the same text once."""
    from rich.padding import Padding
    from rich.text import Text

    said: dict[str, list[str]] = {}
    for use in uses:
        if m := wrong.get(use.path):
            text = (
                f"drawn by {m.rule} with a fan-in of {m.fan:g}, read off the shape, where {use.fan_in:g} "
                f"products are summed: outputs have {number(m.factor)} times the variance that was meant. "
                f"{m.remedy} in a `jinit.plan` takes the true fan."
            )
            said.setdefault(text, []).append(use.path)
        if use.note:
            said.setdefault(use.note, []).append(use.path)
        if use.role == "unused":
            said.setdefault("no output depends on it", []).append(use.path)
    for text, paths in said.items():
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        yield Padding(Text(f"{paths[0]}{more}: {text}"), (1, 0, 0, 0))
