"""The law of `f'(h)²` for a Gaussian pre-activation `h`, as nodes and weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jinit.initializers._quadrature import NoExpectationError, Pointwise

REACH, PANELS, POINTS = 12.0, 768, 8  # panels of 1/32 standard deviation
HALVINGS = 40  # of the panels that hold a kink


class DerivativeLaw(NamedTuple):
    """A discrete law: `E[g(f'²)] = Σ weights · g(values)`."""

    values: np.ndarray
    weights: np.ndarray

    def moment(self, order: int) -> float:
        """`E[f'^{2 order}]`."""
        return float(self.weights @ self.values**order)


def derivative_law(activation: Callable[[Any], Any], variance: float) -> DerivativeLaw:
    """The law of `f'(h)²`, `h ~ N(0, variance)`.

    Gauss-Legendre panels, halved where the square of the derivative is no polynomial, which finds kinks
    wherever they are. Equal values, of which ReLU has two and a linear function one, are joined.

    Raises:
      NotElementwiseError: if the activation does not map each number by itself.
      NoExpectationError: if its derivative is not finite.
    """
    slope = Pointwise(_derivative(activation))
    deviation = math.sqrt(variance)
    x, w = np.polynomial.legendre.leggauss(POINTS)
    vandermonde = np.polynomial.legendre.legvander(x, POINTS - 1)
    to_coefficients = np.linalg.inv(vandermonde)
    edges = np.linspace(-REACH, REACH, PANELS + 1)
    low, high = edges[:-1], edges[1:]
    points, masses = [], []
    for halving in range(HALVINGS + 1):
        z = (low + high)[:, None] / 2 + (high - low)[:, None] / 2 * x
        squares = slope(deviation * z) ** 2
        if not np.isfinite(squares).all():
            raise NoExpectationError("its derivative is not finite")
        mass = (high - low)[:, None] / 2 * w * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        coefficients = np.abs(squares @ to_coefficients.T)
        rough = coefficients[:, -2:].max(axis=1) > 1e-7 * coefficients.max(axis=1)
        rough &= mass.sum(axis=1) * coefficients.max(axis=1) > 1e-14
        done = ~rough if halving < HALVINGS else np.ones_like(rough)
        points.append(squares[done].ravel())
        masses.append(mass[done].ravel())
        middle = (low + high)[rough] / 2
        low, high = np.concatenate([low[rough], middle]), np.concatenate([middle, high[rough]])
        if done.all():
            break
    return _joined(np.concatenate(points), np.concatenate(masses))


def _derivative(activation: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def derivative(x: Any) -> Any:
        y, pull = jax.vjp(activation, x)
        return pull(jnp.ones_like(y))[0] if y.shape == x.shape else y

    return derivative


def _joined(values: np.ndarray, weights: np.ndarray) -> DerivativeLaw:
    """The same law with values that agree to rounding joined."""
    values = np.where(values > 1e-14 * values.max(initial=0.0), values, 0.0)
    order = np.argsort(values)
    values, weights = values[order], weights[order]
    new = np.append(True, np.diff(values) > 1e-13 * values[-1])
    index = np.cumsum(new) - 1
    joined = np.bincount(index, weights)
    return DerivativeLaw(values[new], joined / joined.sum())
