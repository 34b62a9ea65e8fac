"""The spread of weights against fan-in.

`jinit.fan_in_uniform`, PyTorch's default, draws uniformly between ±1/√n. Weights are drawn for n from 1 to
10 000, a hundred thousand of each, and held against the exact law: bounds, deviation and Kolmogorov–Smirnov
test, at a family-wise level of 1 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from scipy import stats

import jinit
from experiments._numbers import table
from experiments._results import Claim, Track

FANS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
LEVEL = 0.01
BINS = 40


def spread(n: int, entries: int) -> dict[str, Any]:
    """Bounds, deviation and fit of a sample with fan-in n."""
    init, shape = jinit.fan_in_uniform(), (n, max(entries // n, 1))
    w = np.asarray(init(jax.random.fold_in(jax.random.key(0), n), shape), np.float64).ravel()
    bound = 1 / math.sqrt(n)
    deviation = float(w.std())
    # For a uniform law of variance v the sample variance has variance (9/5 - 1) v²/N.
    error = deviation * math.sqrt(0.8 / w.size) / 2
    return {
        "bound": bound,
        "largest": float(np.abs(w).max()),
        "deviation": deviation,
        "deviation_error": error,
        "exact_deviation": math.sqrt(init.variance(shape)),
        "p_value": float(stats.kstest(w, stats.uniform(-bound, 2 * bound).cdf).pvalue),
        "histogram": np.histogram(w, BINS, (-bound, bound), density=True)[0],
    }


def run(track: Track, *, small: bool = False) -> dict[str, Any]:
    """Samples by fan-in."""
    entries = 2000 if small else 100_000
    return {str(n): spread(n, entries) for n in track(FANS)}


def claims(data: dict[str, Any]) -> list[Claim]:
    """The example people give, and the law over all n."""
    ten, every = data["10"], list(data.values())
    z = [(each["deviation"] - each["exact_deviation"]) / each["deviation_error"] for each in every]
    limit = float(stats.norm.ppf(1 - LEVEL / len(z) / 2))
    slope = np.polyfit(np.log([int(n) for n in data]), np.log([each["deviation"] for each in every]), 1)[0]
    return [
        Claim.of(
            "with n = 10 inputs weights lie within ±0.316, with deviation 0.18.",
            f"within ±{ten['largest']:.4f} (exact bound {ten['bound']:.4f}), deviation "
            f"{ten['deviation']:.4f} ± "
            f"{1.96 * ten['deviation_error']:.4f} (exact {ten['exact_deviation']:.4f}).",
            [round(ten["bound"], 3) == 0.316, ten["largest"] <= 0.3163, round(ten["deviation"], 2) == 0.18],
        ),
        Claim.of(
            "weights stay within ±1/√n for every n.",
            f"the largest is {max(each['largest'] / each['bound'] for each in every):.6f} of the bound.",
            [each["largest"] <= each["bound"] * (1 + 1e-6) for each in every],
        ),
        Claim.of(
            "their deviation is 1/√(3n), so it falls as n^(−1/2).",
            f"slope {slope:.4f} in logarithms; largest z-score {max(map(abs, z)):.2f} (limit {limit:.2f}).",
            [abs(each) < limit for each in z],
        ),
        Claim.of(
            "the law is uniform.",
            f"least p-value {min(each['p_value'] for each in every):.3f} of {len(every)} "
            "Kolmogorov–Smirnov tests.",
            [each["p_value"] > LEVEL / len(every) for each in every],
        ),
    ]


def tables(data: dict[str, Any]) -> Iterator[str]:
    """Sampled against exact."""
    rows = [
        [n, *(f"{each[name]:.5f}" for name in ("largest", "bound", "deviation", "exact_deviation"))]
        for n, each in data.items()
    ]
    yield table(["n", "largest", "1/√n", "deviation", "1/√(3n)"], rows)


def draw(data: dict[str, Any], figure: Any) -> None:
    """The spread over n, and the law at n = 10."""
    left, right = figure.subplots(1, 2)
    n = np.array([int(each) for each in data])
    for name, exact, label in (("largest", "bound", "1/√n"), ("deviation", "exact_deviation", "1/√(3n)")):
        (line,) = left.loglog(n, [each[exact] for each in data.values()], "-", label=label)
        left.loglog(
            n, [each[name] for each in data.values()], "o", color=line.get_color(), label=f"{name}, sampled"
        )
    left.set(xlabel="fan-in n", ylabel="weight")
    left.legend()
    ten = data["10"]
    edges = np.linspace(-ten["bound"], ten["bound"], BINS + 1)
    right.stairs(ten["histogram"], edges, fill=True, alpha=0.5, label="sampled, n = 10")
    right.hlines(0.5 / ten["bound"], -ten["bound"], ten["bound"], color="black", label="exact")
    right.set(xlabel="weight", ylabel="density", ylim=(0, None))
    right.legend()
