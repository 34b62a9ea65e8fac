"""Activations that go on oscillating: far from zero, what a blur makes of them is smooth.

`E g(√q z) = E G(√(q − s²) z)` with `G(x) = E g(x + s y)`, exactly, for every s² < q. If s is some periods
long, little more than the mean over a period is left in G, of which a few nodes are enough, however large
q is. G itself takes panels about x, as narrow as the oscillation.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jinit.meanfield.resolution import NODES, SHELLS, chebyshev

BESIDE = (1.2, 3.5, 7.0)  # edges of panels beside zero, in widths of the blur
BLURS = (1.0, 2.0, 4.0)  # in widths of a panel of the activation
SMOOTH = 1e-10  # of the largest square nearby: what may be left of the oscillation
SPREAD = 8.0  # deviations of a blur that count
PLACES = 64  # where we look
SHARE = 0.7  # of the smallest deviation: the blur may be so wide


class Far(NamedTuple):
    """How to integrate an oscillation that is followed near zero only. All fields hash by value.

    Attributes:
      edges: of panels on which the blurred activation is smooth.
      blur: s, a length.
      fine: edges of the activation itself where its panels are narrower than elsewhere, and its kinks.
      tiles: number of panels over `2 SPREAD s` that resolve the activation everywhere else.
    """

    edges: tuple[float, ...]
    blur: float
    fine: tuple[float, ...]
    tiles: int


def find_far(
    function: Callable[[np.ndarray], np.ndarray],
    scale: Callable[[np.ndarray], np.ndarray],
    unresolved: Callable[..., np.ndarray],
    edges: np.ndarray,
    kinks: np.ndarray,
    deviation: float,
) -> Far | None:
    """How to go on beyond the outermost edges; None for what does not oscillate evenly, as sin(x²).

    Args:
      function: the activation.
      scale: its largest absolute value up to a point.
      unresolved: says of panels how much worse than allowed polynomials are.
      edges: of its panels, near zero.
      kinks: those at which it is not smooth.
      deviation: the least standard deviation for which they do not serve.
    """
    widths = np.diff(edges)
    outer = np.maximum(np.abs(edges[1:]), np.abs(edges[:-1])) > edges[-1] / 2
    tile = float(widths[outer].min())
    low = np.geomspace(edges[-1], SHELLS[-1], PLACES) * np.resize([1.0, -1.0], PLACES)
    if not (unresolved(low, low + tile) < 1).all():
        return None
    narrow = np.append(widths < tile / 2, False)
    needed = narrow | np.append(False, narrow[:-1]) | np.isin(edges, kinks)
    fine = tuple(edges[needed].tolist())
    for blur in (tile * x for x in BLURS if tile * x < SHARE * deviation):
        beside = [blur * x for x in BESIDE]
        far = Far(
            (*(-x for x in beside[::-1]), 0.0, *beside), blur, fine, math.ceil(2 * SPREAD * blur / tile)
        )
        if _is_smooth(function, scale, far):
            return far
    return None


def _is_smooth(function: Callable[..., Any], scale: Callable[..., Any], far: Far) -> bool:
    """Whether polynomials are as good as the blurred activation and its blurred square."""
    ends = np.array([-SHELLS[-1], *far.edges, SHELLS[-1]])
    points, others, predict = chebyshev()
    middle, half = (ends[1:] + ends[:-1])[:, None] / 2, np.diff(ends)[:, None] / 2
    x = middle + half * np.concatenate([points, others])
    y, weights = blur_nodes(far, x)
    values = function(y)
    for power in (1, 2):
        blurred = np.sum(weights * values**power, axis=-1)
        wrong = np.abs(blurred[:, : points.size] @ predict.T - blurred[:, points.size :])
        size = scale(np.abs(x[:, points.size :]) + SPREAD / 2 * far.blur)
        if not (wrong <= SMOOTH * size**power).all():
            return False
    return True


def blur_nodes(far: Far, x: Any, numpy: Any = np) -> tuple[Any, Any]:
    """Nodes about every x, on one more axis, and weights, of a Gaussian of deviation `far.blur`."""
    tiles = np.linspace(-SPREAD, SPREAD, far.tiles + 1).astype(x.dtype)
    fine = numpy.clip((np.array(far.fine, x.dtype) - x[..., None]) / far.blur, -SPREAD, SPREAD)
    shape = (*x.shape, tiles.size)
    edges = numpy.sort(numpy.concatenate([numpy.broadcast_to(tiles, shape), fine], axis=-1), axis=-1)
    points, mass = (p.astype(x.dtype)[None] for p in _gauss_legendre())
    middle, half = (edges[..., 1:] + edges[..., :-1])[..., None] / 2, numpy.diff(edges)[..., None] / 2
    y = (middle + half * points).reshape(*x.shape, -1)
    weights = (half * mass).reshape(*x.shape, -1) * numpy.exp(-(y**2) / 2)
    return x[..., None] + far.blur * y, weights


@functools.cache
def _gauss_legendre() -> tuple[np.ndarray, np.ndarray]:
    points, weights = np.polynomial.legendre.leggauss(NODES)
    return points, weights / math.sqrt(2 * math.pi)
