"""Which rows of a long table to show one by one, and which as one line."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Sequence

from jinit.report.rows import Row

Flagged = frozenset[tuple[str, tuple[int, ...]]]  # site and step of the rows that have findings
_NUMBER = re.compile(r"\d+")


@dataclasses.dataclass(frozen=True)
class Fold:
    """One line, or two, of the table.

    Attributes:
      label: the name, with `{first…last}` for the number that counts.
      rows: the rows it stands for, at least one.
      marked: whether this row is shown for its own sake, out of the fold above it.
    """

    label: str
    rows: tuple[Row, ...]
    marked: bool = False


def fold(rows: Sequence[Row], flagged: Flagged, few: int = 24) -> list[Fold]:
    """The lines of a table: repeated groups of sites and loop steps folded, flagged rows shown besides.

    Tables of at most `few` rows stay as they are.
    """
    if len(rows) <= few:
        return [Fold(row.label, (row,)) for row in rows]
    folds: list[Fold] = []
    place = 0
    while place < len(rows):
        period, times = _repetition([row.label for row in rows], place)
        for offset in range(period):
            group = tuple(rows[place + offset + period * k] for k in range(times))
            folds.append(Fold(_common([row.label for row in group]), group))
        inside = rows[place : place + period * times] if times > 1 else ()
        folds += [Fold(r.label, (r,), marked=True) for r in inside if (r.site, r.step) in flagged]
        place += period * times
    return folds


def folded_names(
    names: Sequence[str], alike: Callable[[int], object], few: int = 24
) -> list[tuple[str, list[int]]]:
    """The lines of a table of named things: `(name, positions)`, repeated groups that are alike as one.

    Tables of at most `few` names stay as they are.
    """
    if len(names) <= few:
        return [(name, [i]) for i, name in enumerate(names)]
    lines: list[tuple[str, list[int]]] = []
    place = 0
    while place < len(names):
        period, times = _repetition(list(names), place)
        for offset in range(period):
            group = [place + offset + period * k for k in range(times)]
            for _, run in itertools.groupby(group, key=alike):
                same = list(run)
                lines.append((_common([names[i] for i in same]), same))
        place += period * times
    return lines


def natural_order(name: str) -> tuple[tuple[str, int], ...]:
    """A key to sort names by, the numbers in them as numbers.

    >>> sorted(["layers_10/b", "layers_9/w", "layers_9/b"], key=natural_order)
    ['layers_9/b', 'layers_9/w', 'layers_10/b']
    """
    return tuple((text, int(number or -1)) for text, number in re.findall(r"(\D*)(\d*)", name))


def _repetition(labels: list[str], place: int, longest: int = 64) -> tuple[int, int]:
    """`(period, times)` of the repetition from `place` on that covers most; `(1, 1)` if nothing repeats."""
    best = (1, 1)
    for period in range(1, min(longest, (len(labels) - place) // 2) + 1):
        times = _times(labels, place, period)
        if times >= 3 and period * times > best[0] * best[1]:
            best = (period, times)
    return best


def _times(labels: list[str], place: int, period: int) -> int:
    """How often the `period` names at `place` come again with only one number, the counter, changed."""
    counter: int | None = None
    times = 1
    while place + period * (times + 1) <= len(labels):
        start = place + period * times
        pairs = zip(labels[start - period : start], labels[start : start + period], strict=True)
        changes = {change for pair in pairs for change in [_changed(*pair)]}
        if len(changes) != 1 or None in changes or (counter is not None and counter not in changes):
            break
        counter = changes.pop()
        times += 1
    return times


def _changed(a: str, b: str) -> int | None:
    """Which number differs between two names that are equal in all else; None if not exactly one does."""
    if _NUMBER.sub("#", a) != _NUMBER.sub("#", b):
        return None
    pairs = zip(_NUMBER.findall(a), _NUMBER.findall(b), strict=True)
    differing = [i for i, (x, y) in enumerate(pairs) if x != y]
    return differing[0] if len(differing) == 1 else None


def _common(labels: list[str]) -> str:
    """One name for all: `params/Dense_{3…97}/kernel`, `params/blocks/kernel[0…95]`."""
    first, last = labels[0], labels[-1]
    if first == last or (place := _changed(first, last)) is None:
        return first
    return re.sub(r"\[\{(.*)\}\]$", r"[\1]", "".join(_spliced(first, _NUMBER.findall(last)[place], place)))


def _spliced(first: str, last: str, place: int) -> Iterator[str]:
    end = 0
    for i, match in enumerate(_NUMBER.finditer(first)):
        yield first[end : match.start()]
        yield f"{{{match.group()}…{last}}}" if i == place else match.group()
        end = match.end()
    yield first[end:]


def shorten(folds: list[Fold], flagged: Flagged, most: int = 40) -> list[Fold | int]:
    """At most about `most` lines: flagged ones and both ends stay; a number counts the rows left out."""
    if len(folds) <= most:
        return list(folds)
    keep = {i for i, f in enumerate(folds) if any((r.site, r.step) in flagged for r in f.rows)}
    ends = [i for pair in zip(range(len(folds)), reversed(range(len(folds))), strict=True) for i in pair]
    for i in ends:
        if len(keep) >= most:
            break
        keep.add(i)
    lines: list[Fold | int] = []
    for i, line in enumerate(folds):
        if i in keep:
            lines.append(line)
        elif lines and isinstance(lines[-1], int):
            lines[-1] += len(line.rows)
        else:
            lines.append(len(line.rows))
    return lines
