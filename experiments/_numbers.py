"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats


def summary(values: Any) -> dict[str, Any]:
    """Every value, their mean and deviation, and the half width of the 95 % interval of the mean."""
    values = np.asarray(values, np.float64)
    deviation = values.std(ddof=1)
    half = stats.t.ppf(0.975, len(values) - 1) * deviation / np.sqrt(len(values))
    return {"each": values, "mean": values.mean(), "deviation": deviation, "half_width": half}


def percent(found: dict[str, Any], digits: int = 1) -> str:
    """Mean and half width in percent: `97.2 ± 0.4`."""
    return f"{100 * found['mean']:.{digits}f} ± {100 * found['half_width']:.{digits}f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def listed(words: Sequence[str]) -> str:
    """`a, b and c`; nothing for none."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
