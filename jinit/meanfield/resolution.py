"""Whether a polynomial of low degree is as good as a function on a panel, and panels on which one is.

All on the host, in float64.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from jinit.initializers._quadrature import NoExpectationError, Pointwise

NODES = 12  # Gauss-Legendre nodes of a panel: exact for the square of what DEGREE resolves
DEGREE = 2 * NODES
TOLERANCE = 1e-12
SHELLS = (0.5, *(2.0**k for k in range(15)))  # how far we look, step by step
LEAST = 1e-150  # squares of what is smaller underflow
TINY = 1e-8  # panels narrower than this, relatively, hold a kink
MANY, CORE = 256, 32.0  # panels that we are ready to spend within CORE …
FEW = 128  # … and on everything, when we go beyond it
ROUNDS = 64


class Scale:
    """The largest absolute value so far, on the way out from zero: errors further out weigh against it."""

    def __init__(self, pointwise: Pointwise):
        self.radius = np.concatenate([[0.0], np.geomspace(1e-6, SHELLS[-1], 2175)])
        values = pointwise(np.concatenate([-self.radius, self.radius]))
        self.origin = float(values[0]) if np.isfinite(values[0]) else 0.0
        self.digest = hashlib.sha256(values.tobytes()).hexdigest()
        values = values.reshape(2, -1)
        with np.errstate(all="ignore"):
            bent = np.abs((values**2).mean(axis=0) - self.origin**2) > 0.01 * self.origin**2
        self.bend = float(self.radius[bent][:1].sum()) if bent.any() else np.inf
        values = np.abs(values).max(axis=0)
        self.starts = bool(values[1] > 0)
        values[0] = abs(self.origin)
        bad = np.flatnonzero(~np.isfinite(values))
        self.reach = self.radius[bad[0] - 1] if bad.size else SHELLS[-1]
        if self.reach < SHELLS[0]:
            where = self.radius[bad[0]]
            raise NoExpectationError(f"it is not finite at {where:.3g} or -{where:.3g}")
        self.largest = np.maximum.accumulate(values)
        self.noise = max(pointwise.epsilon, _noise(pointwise))
        self.pointwise = pointwise

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The largest absolute value from zero to the absolute value of `x`."""
        at = np.searchsorted(self.radius, np.abs(x), side="right") - 1
        return np.maximum(self.largest[np.minimum(at, self.largest.size - 1)], LEAST)

    def see(self, edges: np.ndarray) -> None:
        """Takes into account what lies between the radii, on the panels of a shell."""
        inner, outer = edges[:-1, None], edges[1:, None]
        x = (inner + (outer - inner) * np.linspace(0.02, 0.98, 13)).ravel()
        values = np.abs(self.pointwise(x))
        at = np.searchsorted(self.radius, np.abs(x))
        good = np.isfinite(values) & (at < self.radius.size)
        np.maximum.at(self.largest, at[good], values[good])
        self.largest = np.maximum.accumulate(self.largest)


def _noise(pointwise: Pointwise) -> float:
    """The relative rounding error of a function that computes in float32 inside and does not say so.

    Sixth differences over 1e-7 show it: they are far below it for functions that are smooth, even for narrow
    ones. Where the function all but vanishes, as beside a narrow bump, they would not be.
    """
    x = np.random.default_rng(1).uniform(0.1, 3.0, 512)
    values = pointwise(x * (1 + 1e-7 * np.arange(-3, 4)[:, None]))
    size = np.abs(values).max(axis=0)
    counts = size > 1e-3 * np.max(size, where=np.isfinite(size), initial=0.0)
    if not counts.any():
        return 0.0
    with np.errstate(all="ignore"):
        bend = np.abs(np.diff(values, n=6, axis=0)[0]) / size / 12  # rounding errors of some 1.5, as is usual
    typical = float(np.nanquantile(np.where(np.isfinite(bend[counts]), bend[counts], 0.0), 0.75))
    return 4 * typical if 1e-10 < typical < 1e-5 else 0.0


def unresolved(pointwise: Pointwise, scale: Scale, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """How much worse than allowed polynomials are, for it and its square, on each panel: resolved below 1."""
    if not low.size:
        return low
    points, others, predict = chebyshev()
    middle, half = (low + high)[:, None] / 2, (high - low)[:, None] / 2
    with np.errstate(all="ignore"):
        values = pointwise(middle + half * np.concatenate([points, others]))
        size = scale(middle + half * others)
        worst = np.zeros(low.shape)
        for power in (1, 2):
            powers = values**power
            here = powers[:, points.size :]
            wrong = np.abs(powers[:, : points.size] @ predict.T - here)
            shaken = _shaken(scale.noise, middle + half * others, here)
            rounding = scale.noise * np.abs(powers).max(axis=1, keepdims=True) + shaken
            most = max(TOLERANCE, 8 * scale.noise) * size**power + 32 * rounding
            worst = np.maximum(worst, np.where(wrong <= most, 0.0, wrong / most).max(axis=1))
    return np.where(np.isfinite(values).all(axis=1) & ~np.isnan(worst), worst, np.inf)


def _shaken(noise: float, x: np.ndarray, values: np.ndarray) -> np.ndarray:
    """What rounding errors of the argument do to the value, by its steepest rise between points of a panel.

    A jump, steep at any width, must not pass for that: hence the limit.
    """
    rise = np.abs(np.diff(values, axis=1))
    steepest = (rise / np.diff(x, axis=1)).max(axis=1)
    most = np.minimum(noise * np.abs(x).max(axis=1) * steepest, 1e-4 * rise.max(axis=1))
    return most[:, None]


@functools.cache
def chebyshev() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of a panel, other points between them, and the matrix from values at the one to the other."""
    points = -np.cos(np.pi * np.arange(DEGREE + 1) / DEGREE) * (1 - 1e-10)  # a jump may be at the end
    others = -np.cos(np.pi * (np.arange(39) + 0.5) / 39)
    vander = np.polynomial.chebyshev.chebvander
    return points, others, vander(others, DEGREE) @ np.linalg.inv(vander(points, DEGREE))


def halved(unresolved: Callable[..., np.ndarray], a: float, b: float) -> tuple[np.ndarray, np.ndarray]:
    """Edges from a to b of resolved panels, and those of them to which unresolved panels have shrunk."""
    count = max(1, int(b - a)) if b - a <= CORE / 2 else 2
    low, high = np.linspace(a, b, count + 1)[:-1], np.linspace(a, b, count + 1)[1:]
    leaves = []
    for _ in range(ROUNDS):
        done = (unresolved(low, high) < 1) | (high - low <= 2e-13 * np.maximum(1.0, np.abs(high)))
        leaves.append((low[done], high[done]))
        low, high = low[~done], high[~done]
        if not low.size or low.size > 4 * MANY:
            break
        middle = (low + high) / 2
        low, high = np.concatenate([low, middle]), np.concatenate([middle, high])
    leaves.append((low, high))
    lows, highs = zip(*leaves, strict=True)
    return _pinned(np.sort(np.concatenate(lows)), np.sort(np.concatenate(highs)))


def _pinned(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The edges of adjacent panels, where each run of tiny ones counts as one edge; and these edges."""
    tiny = high - low < TINY * np.maximum(1.0, np.abs(high))
    runs = np.split(np.arange(low.size), np.flatnonzero(np.diff(tiny)) + 1)
    pins = []
    for run in (run for run in runs if tiny[run[0]]):
        widths = high[run] - low[run]
        least = run[widths < 1.5 * widths.min()]
        pins.append(_simplest(low[least[0]], high[least[-1]]))
    kept = np.concatenate([low[~tiny], high[~tiny]])
    near = [np.abs(kept - pin) < 2 * TINY * max(1.0, abs(pin)) for pin in pins]
    kept = kept[~np.any(near, axis=0)] if pins else kept
    return np.unique([*kept, low[0], high[-1], *pins]), np.array(pins)


def _simplest(low: Any, high: Any) -> float:
    """The number between the two that has the fewest decimals: kinks are where somebody wrote them."""
    middle = (low + high) / 2
    near = (round(middle, digits) for digits in range(16))
    return next((float(x) for x in near if low <= x <= high), float(middle))


def joined(unresolved: Callable[..., np.ndarray], edges: np.ndarray, pins: np.ndarray) -> np.ndarray:
    """Removes every other edge that is not needed, then every other of the rest, until all are."""
    idle = 0
    start = 1
    while idle < 2 and edges.size > 2:
        at = np.arange(start, edges.size - 1, 2)
        needed = np.isin(edges[at], pins)
        needed[~needed] = unresolved(edges[at - 1][~needed], edges[at + 1][~needed]) >= 1
        idle = idle + 1 if needed.all() else 0
        edges = np.delete(edges, at[~needed])
        start = 3 - start
    return edges
