"""Where an activation is smooth: panels of the line on which a polynomial of low degree is as good as it.

A panel is *resolved* if the polynomial through its Chebyshev points agrees with the activation at other
points. Panels that are not are halved, down to rounding errors: what is left is a kink or a jump. Then
neighbours are joined again as long as their union is resolved, so an edge between two panels is either a kink
or the limit of what one polynomial can do. All of it on the host, in float64, with no table of activations.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jinit.initializers._quadrature import NoExpectationError, Pointwise

NODES = 12  # Gauss-Legendre nodes of a panel: exact for the square of what DEGREE resolves
DEGREE = 2 * NODES
TOLERANCE = 1e-12
SHELLS = (0.5, *(2.0**k for k in range(15)))  # how far we look, step by step
TINY = 1e-8  # panels narrower than this, relatively, hold a kink
MANY, CORE = 192, 32.0  # panels that we are ready to spend within CORE …
FEW = 56  # … and on everything, when we go beyond it
ROUNDS = 64


class Panels(NamedTuple):
    """The panels of an activation. All fields hash by value.

    Attributes:
      edges: where panels meet, ascending.
      reach: how far from zero they serve: infinity, unless the activation overflows or goes on oscillating.
      kinks: those of the edges at which the activation is not smooth.
      jumps: those of the kinks at which it is not continuous.
      origin: its value at zero, or zero where it has none.
      single: whether it insists on float32.
      digest: of its values at many points.
    """

    edges: tuple[float, ...]
    reach: float
    kinks: tuple[float, ...]
    jumps: tuple[float, ...]
    origin: float
    single: bool
    digest: str


def find_panels(activation: Callable[[Any], Any]) -> Panels:
    """The panels of an elementwise function.

    Raises:
      NotElementwiseError: if it does not map each number by itself.
      NoExpectationError: if it is not finite near zero, or varies too fast.
    """
    pointwise = Pointwise(activation)
    scale = _Scale(pointwise)
    resolved = functools.partial(_unresolved, pointwise, scale)
    edges, pins = np.zeros(1), np.zeros(0)
    for inner, outer in zip((0.0, *SHELLS), SHELLS, strict=False):
        if outer > scale.reach:
            break
        (left, lows), (right, highs) = (
            _halved(resolved, *ends) for ends in ((-outer, -inner), (inner, outer))
        )
        pins = np.concatenate([lows, pins, highs])
        wider = _joined(resolved, np.concatenate([left[:-1], edges, right[1:]]), pins)
        if wider.size - 1 > (MANY if outer <= CORE else FEW):
            break
        edges = wider
    if edges.size == 1:
        raise NoExpectationError("it varies too fast to be integrated")
    kinks = _kinks(resolved, edges)
    jumps = _jumps(pointwise, scale, kinks)
    reach = np.inf if edges[-1] == SHELLS[-1] else edges[-1]
    inner, kinks, jumps = (tuple(x.tolist()) for x in (edges[1:-1], kinks, jumps))
    return Panels(
        inner, float(reach), kinks, jumps, scale.origin, pointwise.precision is np.float32, scale.digest
    )


class _Scale:
    """The largest absolute value so far, on the way out from zero: errors further out weigh against it."""

    def __init__(self, pointwise: Pointwise):
        self.radius = np.concatenate([[0.0], np.geomspace(1e-6, SHELLS[-1], 2175)])
        values = pointwise(np.concatenate([-self.radius, self.radius]))
        self.origin = float(values[0]) if np.isfinite(values[0]) else 0.0
        self.digest = hashlib.sha256(values.tobytes()).hexdigest()
        values = np.abs(values).reshape(2, -1).max(axis=0)
        values[0] = abs(self.origin)
        bad = np.flatnonzero(~np.isfinite(values))
        self.reach = self.radius[bad[0] - 1] if bad.size else SHELLS[-1]
        if self.reach < SHELLS[0]:
            where = self.radius[bad[0]]
            raise NoExpectationError(f"it is not finite at {where:.3g} or -{where:.3g}")
        self.largest = np.maximum.accumulate(values)
        self.noise = max(pointwise.epsilon, _noise(pointwise))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        at = np.searchsorted(self.radius, np.abs(x), side="right") - 1
        return self.largest[np.minimum(at, self.largest.size - 1)]


def _noise(pointwise: Pointwise) -> float:
    """The relative rounding error of a function that computes in float32 inside and does not say so.

    A second difference over 1e-7 shows it: no smooth function bends so fast at a quarter of all points.
    """
    x = np.random.default_rng(1).uniform(0.1, 3.0, 512)
    step = 1e-7 * x
    values = pointwise(np.stack([x - step, x, x + step]))
    with np.errstate(all="ignore"):
        bend = np.abs(values[0] - 2 * values[1] + values[2]) / np.abs(values).max(axis=0)
    typical = float(np.nanquantile(bend, 0.75))
    return 4 * typical if 1e-10 < typical < 1e-5 else 0.0


def _unresolved(pointwise: Pointwise, scale: _Scale, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """How much worse than allowed polynomials are, for it and its square, on each panel: resolved below 1."""
    if not low.size:
        return low
    points, others, predict = _chebyshev()
    middle, half = (low + high)[:, None] / 2, (high - low)[:, None] / 2
    with np.errstate(all="ignore"):
        values = pointwise(middle + half * np.concatenate([points, others]))
        allowed = max(TOLERANCE, 8 * scale.noise) * scale(middle + half * others)
        worst = np.zeros(low.shape)
        for power in (1, 2):
            wrong = np.abs(values[:, : points.size] ** power @ predict.T - values[:, points.size :] ** power)
            peak = (np.abs(values) ** power).max(axis=1, keepdims=True)
            most = allowed * scale(middle + half * others) ** (power - 1) + 32 * scale.noise * peak
            worst = np.maximum(worst, np.where(wrong <= most, 0.0, wrong / most).max(axis=1))
    return np.where(np.isfinite(values).all(axis=1), worst, np.inf)


@functools.cache
def _chebyshev() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of a panel, other points between them, and the matrix from values at the one to the other."""
    points = -np.cos(np.pi * np.arange(DEGREE + 1) / DEGREE) * (1 - 1e-10)  # a jump may be at the end
    others = -np.cos(np.pi * (np.arange(39) + 0.5) / 39)
    vander = np.polynomial.chebyshev.chebvander
    return points, others, vander(others, DEGREE) @ np.linalg.inv(vander(points, DEGREE))


def _halved(unresolved: Callable[..., np.ndarray], a: float, b: float) -> tuple[np.ndarray, np.ndarray]:
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


def _joined(unresolved: Callable[..., np.ndarray], edges: np.ndarray, pins: np.ndarray) -> np.ndarray:
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


def _kinks(unresolved: Callable[..., np.ndarray], edges: np.ndarray) -> np.ndarray:
    inner = edges[1:-1]
    if not inner.size:
        return inner
    width = np.minimum(np.diff(edges)[:-1], np.diff(edges)[1:]) / 4
    return inner[unresolved(inner - width, inner + width) >= 1]


def _jumps(pointwise: Pointwise, scale: _Scale, kinks: np.ndarray) -> np.ndarray:
    if not kinks.size:
        return kinks
    step = 1e-12 * np.maximum(1.0, np.abs(kinks))
    gap = np.abs(pointwise(kinks + step) - pointwise(kinks - step))
    return kinks[gap > 1e-5 * scale(np.abs(kinks) + 1.0)]
