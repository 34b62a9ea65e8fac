"""The numbers that docs/calibrating.md quotes are those of the committed results."""

from __future__ import annotations

import json
from pathlib import Path

from jinit.report.comparison import Comparison, ComparisonRow

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/calibrating.md").read_text()


def row(plain):
    names = ("method", "variance_error", "signal", "gradient", "losses", "forward_passes", "within")
    return ComparisonRow(**{name: plain[name] for name in names})


def test_table_of_training():
    plain = json.loads((ROOT / "docs/calibrated_training.json").read_text())
    found = Comparison(tuple(map(row, plain["rows"])), plain["sites"], plain["steps"])
    assert found.render(80) in PAGE
    assert found["LeCun (Flax)"].loss == tuple(plain["rows"][0]["loss"])


def test_ratios_to_the_package():
    result = json.loads((ROOT / "experiments/lsuv_vs_torch.json").read_text())
    ratios, passes = result["medians"]["ratios"], result["passes"]
    told = {
        f"{ratios['package / jinit']:.0f} times": "package / jinit",
        f"{ratios['repeated / jinit']:.0f} times": "repeated / jinit",
        f"{ratios['jinit / jax_forward']:.1f} times": "jinit / jax_forward",
        f"{passes['package']} forward passes": "passes",
        f"in {result['rounds']} rounds": "rounds",
    }
    assert [what for words, what in told.items() if words not in PAGE.replace("\n", " ")] == []
