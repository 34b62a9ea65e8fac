"""Surveys built by hand: a healthy chain of sites, to be made ill in one place at a time."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jinit.report.report import Report, report_of
from jinit.report.thresholds import Thresholds
from jinit.signals.moments import Moments
from jinit.signals.records import Record, Records
from jinit.signals.survey import SiteInfo, Survey, UnitStatistics

BATCH, WIDTH = 64, 256


def moments(q, *, count=BATCH * WIDTH, mean=0.0, zeros=0.0, nonfinite=0.0) -> Any:
    """Moments with second moment `q` (a number, or one for each loop step)."""
    q = np.asarray(q, np.float32)
    full = np.broadcast_to
    return Moments(
        times=full(np.float32(count), q.shape),
        total=full(np.float32(mean * count), q.shape),
        total_square=q * np.float32(count),
        zeros=full(np.asarray(zeros, np.float32) * np.float32(count), q.shape),
        nonfinite_count=full(np.float32(nonfinite), q.shape),
    )


@dataclasses.dataclass
class Net:
    """A mutable survey: `record`, `unit` and `info` change one site, `survey` freezes it."""

    records: dict[str, Record]
    infos: dict[str, SiteInfo]
    units: dict[str, UnitStatistics]
    extra: dict[str, Any]

    def record(self, site: str, /, **fields: Any) -> Net:
        self.records[site] = dataclasses.replace(self.records[site], **fields)
        return self

    def info(self, site: str, /, **fields: Any) -> Net:
        self.infos[site] = dataclasses.replace(self.infos[site], **fields)
        return self

    def unit(self, site: str, /, **fields: Any) -> Net:
        self.units[site] = dataclasses.replace(self.units[site], **fields)
        return self

    def set(self, **fields: Any) -> Net:
        self.extra |= fields
        return self

    def survey(self) -> Survey:
        given = {
            "unused": (), "not_followed": {}, "nonfinite_parameters": {}, "zero_parameters": (),
            "nonfinite_outputs": 0,
        } | self.extra  # fmt: skip
        return Survey(Records(self.records), tuple(self.infos.values()), self.units, **given)

    def report(self, thresholds: Thresholds | None = None) -> Report:
        return report_of(self.survey(), thresholds or Thresholds())

    def kinds(self, thresholds: Thresholds | None = None) -> dict[str, str]:
        """Kind to severity of all findings."""
        return {f.kind: f.severity for f in self.report(thresholds).findings}


def name(i: int) -> str:
    return f"params/Dense_{i}/kernel"


def site_info(
    site: str,
    *,
    first: bool = False,
    last: bool = False,
    lengths=(),
    units=WIDTH,
    dtype="float32",
    index: int = 0,
):
    return SiteInfo(
        name=site, kind="dot_general", leaves=(site.split("#")[0],), dtype=dtype, output_shape=(BATCH, units),
        units=units, lengths=lengths, source="net.py:12 (__call__)", reads_network_input=first,
        feeds_output_only=last, index=index, upstream=(1 << index) - 1,
    )  # fmt: skip


def chain(depth: int = 12, signal: float = 1.0, gradient: float = 1.0, first: float = 1.0) -> Net:
    """E[x²] changes by `signal` per site, E[δ²] by `gradient` per site going back."""
    net = Net({}, {}, {}, {})
    for i in range(depth):
        q, delta = np.float32(first * signal**i), np.float32(gradient ** (depth - 1 - i))
        # Weights of one law, but no two of them with the very same sums.
        weight = moments(2 / WIDTH * (1 + 1e-3 * i), count=WIDTH * WIDTH, mean=1e-5)
        net.records[name(i)] = Record(
            input=moments(q, mean=float(0.5 * q**0.5), zeros=0.5 if i else 0.0), output=moments(q * 2),
            cotangent=moments(delta), weight=weight, weight_gradient=moments(q * delta, count=WIDTH * WIDTH),
        )  # fmt: skip
        net.infos[name(i)] = site_info(name(i), first=i == 0, last=i == depth - 1, index=i)
        shares: dict[str, Any] = {"dead": 0.0, "saturated": 0.02, "identical_forward": 0.0, "identical": 0.0}
        net.units[name(i)] = UnitStatistics(cosine=0.3, **shares)
    return net


def scanned(length: int = 96, signal: float = 1.0, sites: tuple[str, ...] = ("params/blocks/kernel",)) -> Net:
    """An input layer, a scan over stacked weights, and a head."""
    net, whole = Net({}, {}, {}, {}), chain(2)
    for i, (site, record) in enumerate(whole.records.items()):
        if i == 1:
            q = np.float32(signal) ** np.arange(length, dtype=np.float32)
            for s in sites:
                gradient = moments(q[::-1])
                weight = moments(2 / WIDTH * (1 + 1e-3 * np.arange(length)), count=WIDTH * WIDTH)
                net.records[s] = Record(moments(q), moments(2 * q), gradient, weight, gradient)
                net.infos[s] = site_info(s, lengths=(length,), index=len(net.infos))
                net.units[s] = UnitStatistics()
        edge = site_info(site, first=i == 0, last=i == 1, index=len(net.infos))
        net.records[site], net.infos[site], net.units[site] = record, edge, whole.units[site]
    return net
