"""Sums over draws of what a network of very wide layers makes, whatever weights it uses again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Times = Callable[[Any, str], np.ndarray]
Normal = Callable[[], np.ndarray]


def of_shared_weights(network: Callable[[Times, Normal], Any], draws: int = 200_000) -> float:
    """The second moment of an entry of `network(times, normal)`, forward.

    `times(x, weight)` stands for `x W` with weights of variance one over width, `normal()` for an input.
    Whatever signals `x` meet one weight, the sums are jointly normal, of covariances `E[x xᵀ]` (Yang, 2020).
    """
    rng = np.random.default_rng(0)
    met: dict[str, tuple[list[Any], list[Any]]] = {}

    def times(x: Any, weight: str) -> np.ndarray:
        x = np.asarray(x, np.float64)
        signals, sums = met.setdefault(weight, ([], []))
        covariances = np.array([[np.mean(u * v) for v in [*signals, x]] for u in [*signals, x]])
        shared = (
            np.linalg.lstsq(covariances[:-1, :-1], covariances[:-1, -1], rcond=1e-9)[0] if signals else []
        )
        left = covariances[-1, -1] - np.dot(shared, covariances[:-1, -1] if signals else [])
        out = np.sqrt(max(left, 0)) * rng.standard_normal(draws)
        out = out + sum(a * y for a, y in zip(shared, sums, strict=True))
        signals.append(x)
        sums.append(out)
        return out

    return float(
        np.mean(np.square(np.asarray(network(times, lambda: rng.standard_normal(draws)), np.float64)))
    )
