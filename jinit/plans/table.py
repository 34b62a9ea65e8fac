"""The dry run of a plan as text for a terminal."""

from __future__ import annotations

import io
import math
import re
import shutil
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinit.plans.assignment import Assignment
    from jinit.plans.patterns import Rule

NARROWEST = 60
_NUMBER = re.compile(r"\d+")


def render(rules: Sequence[Rule], assignments: Sequence[Assignment], width: int | None = None) -> str:
    """Plain text of at most `width` columns; parameters that differ in numbers of their path share a line."""
    from rich.console import Console

    columns = shutil.get_terminal_size((100, 24)).columns if width is None else width
    out = io.StringIO()
    console = Console(
        file=out, width=max(NARROWEST, columns), color_system=None, force_terminal=False, legacy_windows=False
    )
    console.print(_summary(rules, assignments), markup=False, highlight=False)
    console.print(_table(_groups(assignments)))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _summary(rules: Sequence[Rule], assignments: Sequence[Assignment]) -> str:
    entries = sum(math.prod(assignment.use.shape) for assignment in assignments)
    counts = ((len(assignments), "parameter"), (entries, "entries"), (len(rules), "rule"))
    return ", ".join(f"{n:,} {word}{'s' * (n != 1 and word != 'entries')}" for n, word in counts)


def _groups(assignments: Sequence[Assignment]) -> list[list[Assignment]]:
    """Parameters of one rule, role, shape and dtype whose paths differ only in numbers."""
    groups: dict[Any, list[Assignment]] = defaultdict(list)
    for one in assignments:
        groups[_NUMBER.sub("#", one.path), one.rule, one.use.role, one.use.shape, one.use.dtype].append(one)
    return sorted(groups.values(), key=lambda group: group[0].rule)


def _table(groups: Sequence[Sequence[Assignment]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False)
    for header, wraps in (
        ("rule", False), ("parameter", True), ("role", False), ("shape", False), ("initializer", True),
        ("mean", False), ("std", False),
    ):  # fmt: skip
        table.add_column(header, no_wrap=not wraps, overflow="fold")
    for group in groups:
        first = group[0]
        cells = [
            str(first.rule),
            _common([one.path for one in group]) + (f" ({len(group)})" if len(group) > 1 else ""),
            first.use.role,
            "×".join(map(str, first.use.shape)) or "()",
            _ends([repr(init) for one in group for init in one.initializers]),
            _ends([_number(one.mean) for one in group]),
            _ends([_number(one.std) for one in group]),
        ]
        table.add_row(*map(Text, cells))
    return table


def _common(paths: Sequence[str]) -> str:
    """One name for all: `params/Dense_{0…97}/kernel`."""
    columns = zip(*(map(int, _NUMBER.findall(path)) for path in paths), strict=True)
    spans = iter([(min(column), max(column)) for column in columns])

    def span(_: Any) -> str:
        low, high = next(spans)
        return str(low) if low == high else f"{{{low}…{high}}}"

    return paths[0] if len(paths) == 1 else _NUMBER.sub(span, paths[0])


def _ends(texts: Sequence[str]) -> str:
    """The one text, or the first and the last."""
    return texts[0] if len(set(texts)) == 1 else f"{texts[0]} … {texts[-1]}"


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.3g}"
