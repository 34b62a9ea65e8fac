"""Where an activation is smooth: panels of the line on which a polynomial of low degree is as good as it.

A panel is *resolved* if the polynomial through its Chebyshev points agrees with the activation at other
points. Panels that are not are halved, down to rounding errors: what is left is a kink or a jump. Then
neighbours are joined again as long as their union is resolved, so an edge between two panels is either a kink
or the limit of what one polynomial can do. All of it on the host, in float64, with no table of activations.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jinit.initializers._quadrature import NoExpectationError, Pointwise
from jinit.meanfield.oscillation import Far, find_far
from jinit.meanfield.powers import Power, find_powers
from jinit.meanfield.resolution import CORE, FEW, MANY, SHELLS, Scale, halved, joined, unresolved

SEEN = 9.0  # deviations within which the panels must serve


class Panels(NamedTuple):
    """The panels of an activation. All fields hash by value.

    Attributes:
      edges: where panels meet, ascending.
      reach: how far from zero they serve: infinity, unless the activation overflows or goes on oscillating.
      far: how to integrate beyond, where that is known.
      kinks: those of the edges at which the activation is not smooth.
      jumps: those of the kinks at which it is not continuous.
      powers: those of the kinks beside which its slope is a broken power of the distance.
      origin: its value at zero, or zero where it has none.
      starts: whether it is not zero next to zero.
      bend: how far from zero its square has changed by a hundredth, on average of both sides.
      single: whether it insists on float32.
      digest: of its values at many points.
    """

    edges: tuple[float, ...]
    reach: float
    far: Far | None
    kinks: tuple[float, ...]
    jumps: tuple[float, ...]
    powers: tuple[Power, ...]
    origin: float
    starts: bool
    bend: float
    single: bool
    digest: str

    @property
    def steep(self) -> tuple[float, ...]:
        """Where it rises so steeply that E φ'² is infinite: jumps, and roots of the distance."""
        return (*self.jumps, *(power.place for power in self.powers if power.infinite))


def find_panels(activation: Callable[[Any], Any]) -> Panels:
    """The panels of an elementwise function.

    Raises:
      NotElementwiseError: if it does not map each number by itself.
      NoExpectationError: if it is not finite near zero, has a pole, or varies too fast.
    """
    pointwise = Pointwise(activation)
    scale = Scale(pointwise)
    unsolved = functools.partial(unresolved, pointwise, scale)
    edges, pins = np.zeros(1), np.zeros(0)
    for inner, outer in zip((0.0, *SHELLS), SHELLS, strict=False):
        if outer > scale.reach:
            break
        (left, lows), (right, highs) = (
            halved(unsolved, *ends) for ends in ((-outer, -inner), (inner, outer))
        )
        pins = np.concatenate([lows, pins, highs])
        scale.see(np.concatenate([left, right]))
        wider = joined(unsolved, np.concatenate([left[:-1], edges, right[1:]]), pins)
        if wider.size - 1 > (MANY if outer <= CORE else FEW):
            break
        edges = wider
    if edges.size == 1:
        raise NoExpectationError("it varies too fast to be integrated")
    kinks = _kinks(unsolved, edges)
    _check_bounded(pointwise, kinks)
    jumps = _jumps(pointwise, scale, kinks)
    powers = find_powers(activation, kinks[~np.isin(kinks, jumps)])
    reach = np.inf if edges[-1] == SHELLS[-1] else edges[-1]
    even = math.isfinite(reach) and scale.reach >= SHELLS[-1] and not powers
    far = find_far(pointwise, scale, unsolved, edges, kinks, reach / SEEN) if even else None
    inner, kinks, jumps = (tuple(x.tolist()) for x in (edges[1:-1], kinks, jumps))
    single = pointwise.precision is np.float32
    rest = scale.origin, scale.starts, scale.bend, single, scale.digest
    return Panels(inner, float(reach), far, kinks, jumps, powers, *rest)


def _kinks(unresolved: Callable[..., np.ndarray], edges: np.ndarray) -> np.ndarray:
    inner = edges[1:-1]
    if not inner.size:
        return inner
    width = np.minimum(np.diff(edges)[:-1], np.diff(edges)[1:]) / 4
    return inner[unresolved(inner - width, inner + width) >= 1]


def _check_bounded(pointwise: Pointwise, kinks: np.ndarray) -> None:
    """Refuses poles: of all but logarithms the squares are not integrable, or not by panels."""
    if not kinks.size:
        return
    steps = np.maximum(1.0, np.abs(kinks)) * np.array([[1e-12], [1e-8]])
    with np.errstate(all="ignore"):
        nearer, near = np.maximum(np.abs(pointwise(kinks - steps)), np.abs(pointwise(kinks + steps)))
    bad = kinks[nearer > 2 * near]
    if bad.size:
        raise NoExpectationError(f"it is not bounded near {bad[0]:.6g}")


def _jumps(pointwise: Pointwise, scale: Scale, kinks: np.ndarray) -> np.ndarray:
    if not kinks.size:
        return kinks
    steps = np.maximum(1.0, np.abs(kinks)) * np.array([[1e-12], [1e-10]])
    near, wider = np.abs(pointwise(kinks + steps) - pointwise(kinks - steps))
    # A root of the distance is steep, too, but what it rises by shrinks with the step.
    return kinks[(near > 1e-5 * scale(np.abs(kinks) + 1.0)) & (near > 0.9 * wider)]
