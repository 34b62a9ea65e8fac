"""The report as text, JSON and figure."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jinit.report.fold import fold
from jinit.report.report import Report
from jinit.report.table import compact, sparkline
from tests.report.helpers import chain, moments, name, scanned


@pytest.mark.parametrize("width", [60, 80, 100, 140])
@pytest.mark.parametrize("depth", [1, 3, 30, 100])
def test_the_table_fits(width, depth):
    text = chain(depth, 0.5, 0.7).report().render(width)
    assert max(map(len, text.splitlines())) <= width
    assert len(text.splitlines()) <= 60
    assert "E[x²]" in text


def test_small_networks_show_every_row_and_large_ones_fold():
    small = chain(10).report().render(100)
    assert all(f"Dense_{i}/kernel" in small for i in range(10))
    large = chain(100).report().render(100)
    assert "Dense_{0…99}/kernel" in large
    assert "last of 100" in large
    assert "blocks/kernel[0…95]" in scanned(96).report().render(100)


def test_rows_with_findings_are_never_hidden():
    text = chain(100).unit(name(57), dead=0.6).report().render(100)
    assert "! └ Dense_57/kernel" in text


def test_an_extreme_inside_a_fold_is_shown():
    assert "extreme" not in chain(100).report().render(100)
    text = chain(100).record(name(50), output=moments(1e9)).report().render(100)
    assert "extreme" in text
    assert "1.0e9" in text


def test_transformer_blocks_fold_by_their_period():
    net = scanned(40, sites=("params/q", "params/k", "params/v"))
    lines = fold(net.report().rows, frozenset())
    assert [len(line.rows) for line in lines] == [1, 40, 40, 40, 1]


def test_many_different_sites_are_cut_short():
    net = chain(120)
    words = [f"params/{chr(97 + i % 26)}{chr(97 + i // 26)}{'x' * (i % 7)}/w" for i in range(120)]
    for old, new in zip(list(net.records), words, strict=True):
        net.records[new], net.units[new] = net.records.pop(old), net.units.pop(old)
        net.infos[new] = net.infos.pop(old)
        net.info(new, name=new)
    text = net.unit(words[60], dead=0.7).report().render(80)
    assert len(text.splitlines()) <= 60
    assert "more rows" in text
    assert words[60].removeprefix("params/") in text


def test_findings_come_with_evidence_and_code():
    text = chain(30, 0.5).report().render(100)
    assert "SEVERE vanishing_signal" in text
    assert "jinit.he_normal()" in text
    assert "[bold" not in text


def test_site_names_are_not_markup():
    net = chain(1)
    site = "[red]w"
    net.records = {site: net.records[name(0)]}
    net.units = {site: net.units[name(0)]}
    net.infos = {site: net.info(name(0), name=site).infos[name(0)]}
    assert site in net.report().render(100)


def test_json_is_strict():
    net = chain(4).record(name(1), input=moments(np.inf)).record(name(2), cotangent=None)
    net.record(name(3), output=moments(np.nan, nonfinite=1))
    written = net.report().to_dict()
    text = json.dumps(written, allow_nan=False)
    assert json.loads(text) == written
    assert written["rows"][1]["input_second_moment"] == "inf"
    assert written["rows"][2]["cotangent_second_moment"] is None
    assert written["worst"] == "severe"
    assert {f["kind"] for f in written["findings"]} >= {"nonfinite", "exploding_signal"}


def test_verdicts():
    healthy = chain(12).report()
    assert (healthy.ok, healthy.worst) == (True, None)
    assert "nothing found" in str(healthy)
    warned = chain(12).unit(name(5), dead=0.6).report()
    assert (warned.ok, warned.worst) == (False, "warning")
    assert str(Report((), ())).startswith("jinit diagnose: 0 sites")
    assert "<pre>" in healthy._repr_html_()


def test_sparkline_bounds():
    assert sparkline([1.0] * 50, 10) == "▅" * 10 or set(sparkline([1.0] * 50, 10)) == {"▅"}
    assert len(sparkline(list(np.logspace(-30, 0, 1000)), 40)) == 40
    assert sparkline([0.0, np.nan], 2) == "·×"


@pytest.mark.parametrize("exponent", range(-40, 39))
@pytest.mark.parametrize("mantissa", [1.0, 9.96, -1.0, -9.996])
def test_numbers_are_compact_and_right(exponent, mantissa):
    value = mantissa * 10.0**exponent
    assert len(compact(value)) <= 7
    assert float(compact(value)) == pytest.approx(value, rel=0.06 if value > 0 or exponent > -9 else 0.5)


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    figure = chain(30, 0.5).unit(name(5), dead=0.6).report().plot()
    figure.savefig(tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 10_000
    assert len(figure.axes) == 3
    Report((), ()).plot().savefig(tmp_path / "empty.png")


def test_plot_without_matplotlib(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install jinit\[plots\]"):
        chain(3).report().plot()
