"""The survey as plain Python numbers: one row for each site and loop step, in the order they run."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from jinit.signals.moments import Moments
from jinit.signals.records import Record
from jinit.signals.survey import SiteInfo, Survey, UnitStatistics


@dataclasses.dataclass(frozen=True)
class Stats:
    """`Moments` of one array at one loop step, as floats (of a complex array, `mean` is the real part)."""

    count: float
    mean: float
    total_square: float
    zero_count: float
    nonfinite_count: float

    @property
    def second_moment(self) -> float:
        """Mean of the squares."""
        return self.total_square / self.count

    @property
    def rms(self) -> float:
        """Root of the second moment."""
        return math.sqrt(self.second_moment) if self.second_moment >= 0 else math.nan

    @property
    def std(self) -> float:
        """Standard deviation."""
        return math.sqrt(max(self.second_moment - self.mean**2, 0.0))

    @property
    def zero_fraction(self) -> float:
        """Share of the entries that are exactly zero."""
        return self.zero_count / self.count

    @property
    def all_zero(self) -> bool:
        """Every entry is exactly zero; a second moment of zero alone may be an underflow of the square."""
        return self.zero_count == self.count


@dataclasses.dataclass(frozen=True)
class Predicted:
    """Second moments that `jinit.predict` gives a site at one loop step; None where it gives none."""

    input: float | None = None
    output: float | None = None
    cotangent: float | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """The numbers of one site at one loop step.

    Attributes:
      site: name of the site, as in the records of `measure`.
      step: index into the loops around the site, outermost first; `()` outside of any.
      info: what tracing alone knows of the site.
      input, output, cotangent, weight, weight_gradient: as in `Record`; None where nothing was measured.
      dead, saturated, cosine, identical_forward, identical: as in `UnitStatistics`.
      predicted: what theory says; None where nothing was predicted.
    """

    site: str
    step: tuple[int, ...]
    info: SiteInfo
    input: Stats | None = None
    output: Stats | None = None
    cotangent: Stats | None = None
    weight: Stats | None = None
    weight_gradient: Stats | None = None
    dead: float | None = None
    saturated: float | None = None
    cosine: float | None = None
    identical_forward: float | None = None
    identical: float | None = None
    predicted: Predicted | None = None

    @property
    def label(self) -> str:
        """The site's name, with the loop step in brackets where there is one."""
        return f"{self.site}[{','.join(map(str, self.step))}]" if self.step else self.site

    def to_dict(self) -> dict[str, Any]:
        """The row as plain numbers, under one flat set of names; None where nothing was measured."""
        out: dict[str, Any] = {"site": self.site, "step": list(self.step), "source": self.info.source}
        for name in ("input", "output", "cotangent"):
            stats = getattr(self, name)
            out[f"{name}_second_moment"] = stats and stats.second_moment
            out[f"{name}_mean"] = stats and stats.mean
        out["input_zero_fraction"] = self.input and self.input.zero_fraction
        out["weight_rms"] = self.weight and self.weight.rms
        out["weight_gradient_rms"] = self.weight_gradient and self.weight_gradient.rms
        for field in dataclasses.fields(Predicted):
            out[f"predicted_{field.name}_second_moment"] = getattr(self.predicted, field.name, None)
        return out | {name: getattr(self, name) for name in _UNIT_FIELDS}


_MOMENT_FIELDS = ("input", "output", "cotangent", "weight", "weight_gradient")
_UNIT_FIELDS = tuple(field.name for field in dataclasses.fields(UnitStatistics))


def rows_of(survey: Survey, predicted: Mapping[str, Record]) -> tuple[Row, ...]:
    """All rows of a survey held on the host, loops expanded in place, beside predicted records.

    Sites that stand next to each other under the same loops run interleaved: all of them at step 0, then
    all of them at step 1.
    """
    rows: list[Row] = []
    for lengths, group in itertools.groupby(survey.sites, key=lambda info: info.lengths):
        infos = list(group)
        for step in np.ndindex(*lengths):
            rows.extend(_row(survey, info, step, predicted.get(info.name)) for info in infos)
    return tuple(rows)


def _row(survey: Survey, info: SiteInfo, step: tuple[int, ...], predicted: Record | None) -> Row:
    record, units = survey.records[info.name], survey.units.get(info.name)
    moments: dict[str, Any] = {name: _stats(getattr(record, name), step) for name in _MOMENT_FIELDS}
    shares: dict[str, Any] = {name: _at(getattr(units, name, None), step) for name in _UNIT_FIELDS}
    return Row(info.name, step, info, **moments, **shares, predicted=_predicted(predicted, step))


def _predicted(record: Record | None, step: tuple[int, ...]) -> Predicted | None:
    if record is None:
        return None
    stats = {f.name: _stats(getattr(record, f.name), step) for f in dataclasses.fields(Predicted)}
    return Predicted(**{name: found and found.second_moment for name, found in stats.items()})


def _stats(moments: Moments | None, step: tuple[int, ...]) -> Stats | None:
    """None also where nothing was counted: the branch of a `cond` that was not taken."""
    if moments is None:
        return None
    count = _at(moments.count, step) or 0.0
    if count == 0:
        return None
    total = np.real(np.asarray(moments.total))
    mean = (_at(total, step) or 0.0) / count
    rest = (moments.total_square, moments.zero_count, moments.nonfinite_count)
    return Stats(count, mean, *(_at(x, step) or 0.0 for x in rest))


def _at(value: Any, step: tuple[int, ...]) -> float | None:
    """The entry of one loop step; a value with fewer loop axes (summed by a `while`) serves every step."""
    if value is None:
        return None
    array = np.asarray(value)
    return float(array[step[: array.ndim]])


def merge_shared(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Rows of one weight used again and again (a recurrent cell, layers shared over depth) as one row.

    Such a weight moves by the sum of what its uses send it, so that sum is what decides whether it trains:
    the far end of a long recurrence always receives little, in healthy networks too. Rows are of the same
    weight when they name the same parameters and their weight operands have equal moments. The merged row
    stands where the first one stood.
    """
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(_shared_key(row), []).append(row)
    return tuple(group[0] if len(group) == 1 else _merge(group) for group in groups.values())


def _shared_key(row: Row) -> Any:
    info, weight = row.info, row.weight
    if weight is None or not info.leaves or not math.isfinite(weight.total_square):
        return (row.site, row.step)
    edge = info.reads_network_input, info.feeds_output_only
    return info.leaves, info.kind, info.units, edge, weight.count, weight.mean, weight.total_square


def _merge(rows: list[Row]) -> Row:
    """Sums of moments; of the shares the smallest, since a unit idle at one step may work at another."""
    sums: dict[str, Any] = {name: _sum(getattr(row, name) for row in rows) for name in _MOMENT_FIELDS[:3]}
    gradient = _sum(row.weight_gradient for row in rows)
    shares = {name: min(_numbers(getattr(row, name) for row in rows), default=None) for name in _UNIT_FIELDS}
    return dataclasses.replace(rows[0], **sums, weight_gradient=gradient, **shares)


def _numbers(values: Iterable[float | None]) -> Iterator[float]:
    return (value for value in values if value is not None and not math.isnan(value))


def _sum(stats: Iterable[Stats | None]) -> Stats | None:
    present = [s for s in stats if s is not None]
    if not present:
        return None
    count = sum(s.count for s in present)
    return Stats(
        count=count,
        mean=sum(s.mean * s.count for s in present) / count,
        total_square=sum(s.total_square for s in present),
        zero_count=sum(s.zero_count for s in present),
        nonfinite_count=sum(s.nonfinite_count for s in present),
    )
