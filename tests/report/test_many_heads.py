"""Gradients along the ways of a network with a head of two layers at every layer: each way is read once."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

from jinit.report import trends


@dataclasses.dataclass(frozen=True)
class Info:
    index: int
    upstream: int
    feeds_output_only: bool = False

    def leads_to(self, other):
        return bool(other.upstream >> self.index & 1)


def energies_read(heads, monkeypatch):
    """How often a network's gradients are looked at."""
    infos, above, read = [], 0, []
    for i in range(heads):
        infos += [Info(2 * i, above), Info(2 * i + 1, above | 1 << 2 * i)]
        above |= 1 << 2 * i
    rows = [SimpleNamespace(info=info, cotangent=None) for info in infos]
    monkeypatch.setattr(trends, "_body", lambda case: rows)
    monkeypatch.setattr(trends, "_gone", lambda cotangent: False)
    monkeypatch.setattr(trends, "_energy", lambda row: read.append(row) or 1.0)
    limits = SimpleNamespace(gradient_warning=1e-3, gradient_severe=1e-6)
    assert not trends.exploding_gradient(SimpleNamespace(thresholds=limits))
    return len(read)


def test_every_way_is_read_once(monkeypatch):
    few, many = (energies_read(heads, monkeypatch) for heads in (10, 40))
    assert many < 1.1 * 4**2 * few
