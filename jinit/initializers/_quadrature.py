"""Gaussian expectations of functions nobody has told us anything about.

The line is cut into panels; on each the integrand is sampled at Chebyshev points and expanded. A panel whose
last coefficients are not negligible is halved, down to the width of rounding errors, which finds kinks and
jumps wherever they are. A kink slows the decay of the coefficients, a jump stops it: neither can hide, as it
could from the difference of two rules. Evaluation is in float64, whatever JAX's default is, and in blocks of
one size, so that JAX compiles each operation once.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

REACH = 12.0  # deviations within which the function must be finite
FAR = 38.0  # beyond this the normal density is below the smallest float
POINTS = 17  # Chebyshev points of a panel
BLOCK = 64  # panels of one evaluation
DEPTH = 64  # halvings after which an integrand counts as divergent
BUDGET = 200_000  # panels after which we give up on an integrand


class NotElementwiseError(ValueError):
    """The function does not map each number by itself; the text says how."""


class NoExpectationError(ValueError):
    """The expectation does not exist or could not be found; the text says why."""


class Expectation(NamedTuple):
    """A value and an estimate of its absolute error."""

    value: float
    error: float


def gaussian_expectation(
    function: Callable[[Any], Any], power: int = 1, *, mean: float = 0.0, stddev: float = 1.0
) -> Expectation:
    """E[function(mean + stddev z)^power] for standard normal z.

    Args:
      function: maps an array of numbers to an array of the same shape, each entry by itself.
      power: the exponent.
      mean: the mean of its argument.
      stddev: the standard deviation of its argument.

    Raises:
      NotElementwiseError: if the function does not map each number by itself.
      NoExpectationError: if the function is not finite within 12 deviations, or the integral diverges.
    """
    if stddev == 0:
        value = float(Pointwise(function)(np.full(1, mean))[0]) ** power
        return Expectation(value, 0.0)
    pointwise = Pointwise(function)

    def integrand(z: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):
            values = pointwise(mean + stddev * z)
            bad = ~np.isfinite(values) & (np.abs(z) <= REACH)
            if bad.any():
                where = float(mean + stddev * z[bad][0])
                raise NoExpectationError(f"its value at {where:.6g} is {float(values[bad][0])}")
            return values**power * (np.exp(-z * z / 2) / math.sqrt(2 * math.pi))

    return _integrate(integrand, pointwise)


class Pointwise:
    """A function of one number, evaluated on the host in blocks of one shape, in float64 where it lets us."""

    def __init__(self, function: Callable[[Any], Any]):
        self.function = function
        self.precision = np.float64
        self.epsilon = float(np.finfo(np.float64).eps)
        self._check()

    def __call__(self, x: np.ndarray) -> np.ndarray:
        size = BLOCK * POINTS
        padded = np.resize(x.ravel(), -(-x.size // size) * size)
        blocks = [self._evaluate(block) for block in padded.reshape(-1, size)]
        return np.concatenate(blocks)[: x.size].reshape(x.shape)

    def _check(self) -> None:
        """One block, then its first half in other company and other order, must give the same values."""
        x = np.random.default_rng(0).normal(size=BLOCK * POINTS)
        half = x.size // 2
        shuffled = np.concatenate([x[:half][::-1], 3.0 * x[half:]])
        try:
            first = self._evaluate(x, checked=True)
        except (TypeError, ValueError) as error:
            if isinstance(error, (NotElementwiseError, NoExpectationError)):
                raise
            self.precision = np.float32  # a function that insists on float32 constants under strict promotion
            try:
                first = self._evaluate(x, checked=True)
            except NotElementwiseError:
                raise
            except (TypeError, ValueError):
                said = str(error).partition("\n")[0].rstrip(".")
                text = f"called with one array of shape {x.shape} it raises {type(error).__name__}: {said}"
                raise NotElementwiseError(text) from error
        second = self._evaluate(shuffled)
        if not np.allclose(first[:half], second[:half][::-1], rtol=1e-5, atol=1e-30, equal_nan=True):
            raise NotElementwiseError("its value at one entry depends on the other entries")

    def _evaluate(self, x: np.ndarray, checked: bool = False) -> np.ndarray:
        double = jax.enable_x64(True) if self.precision is np.float64 else contextlib.nullcontext()
        with jax.ensure_compile_time_eval(), double:
            values = self.function(jnp.asarray(x, self.precision))
            if isinstance(values, Tracer):  # as a jax.custom_jvp under jax.vmap is, even here
                values = jax.jit(self.function)(jnp.asarray(x, self.precision))
            if checked:
                self._check_result(values, x.shape)
            result = np.asarray(values)
        return result.astype(np.float64)

    def _check_result(self, values: Any, shape: tuple[int, ...]) -> None:
        if isinstance(values, Tracer):
            raise NoExpectationError("it gives a traced value, since it closes over one")
        if not hasattr(values, "dtype") or np.shape(values) != shape:
            got = (
                f"one of shape {np.shape(values)}"
                if hasattr(values, "shape")
                else f"a {type(values).__name__}"
            )
            raise NotElementwiseError(f"it turns an array of shape {shape} into {got}")
        if jnp.issubdtype(values.dtype, jnp.complexfloating):
            raise NoExpectationError("its values are complex")
        if jnp.issubdtype(values.dtype, jnp.floating):
            self.epsilon = max(self.epsilon, float(jnp.finfo(values.dtype).eps))


def _integrate(integrand: Callable[[np.ndarray], np.ndarray], pointwise: Pointwise) -> Expectation:
    low, high = _first_panels()
    coefficients = _expand(integrand, low, high)
    finite = np.isfinite(coefficients).all(axis=1)
    low, high, coefficients = _finite_reach(low, high, coefficients, finite)
    parents = np.full(low.size, np.inf)
    accepted: list[tuple[float, float, float]] = []  # integral, error and size of each panel we are done with
    evaluated = low.size
    for depth in range(DEPTH):
        widths = high - low
        integrals = widths / 2 * (coefficients @ _integrals())
        tails = np.abs(coefficients[:, -3:]).max(axis=1)
        peaks = np.abs(coefficients).sum(axis=1)
        size = math.fsum(abs(part[2]) for part in accepted) + float(np.abs(integrals).sum())
        noise = (tails <= 64 * pointwise.epsilon * peaks) | (
            (tails <= 1e-6 * peaks) & (tails > 0.7 * parents)
        )
        enough = 1e-14 if depth < DEPTH - 1 else 1e-9
        done = (tails * widths <= enough * size) | noise | (tails == 0)
        accepted += zip(integrals[done], (tails * widths)[done], np.abs(integrals[done]), strict=True)
        if done.all():
            return Expectation(
                math.fsum(part[0] for part in accepted), math.fsum(part[1] for part in accepted)
            )
        low, high, parents = _halved(low[~done], high[~done], tails[~done])
        evaluated += low.size
        if evaluated > BUDGET:
            raise NoExpectationError("it varies too fast to be integrated")
        coefficients = _expand(integrand, low, high)
        if not np.isfinite(coefficients).all():
            raise NoExpectationError("it is not finite everywhere")
    raise NoExpectationError("its integral against the normal density diverges")


def _first_panels() -> tuple[np.ndarray, np.ndarray]:
    """Panels of an eighth within reach, of a half beyond."""
    middle = np.linspace(-REACH, REACH, int(16 * REACH) + 1)
    outer = np.linspace(REACH, FAR, int(2 * (FAR - REACH)) + 1)[1:]
    edges = np.concatenate([-outer[::-1], middle, outer])
    return edges[:-1], edges[1:]


def _finite_reach(low, high, coefficients, finite):
    """Cuts the line where the function overflows, provided that nothing is lost there."""
    if finite.all():
        first, last = 0, low.size - 1
    else:
        bad = np.flatnonzero(~finite)
        first = bad[low[bad] < 0].max(initial=-1) + 1
        last = bad[low[bad] >= 0].min(initial=low.size) - 1
    keep = slice(first, last + 1)
    low, high, coefficients = low[keep], high[keep], coefficients[keep]
    mass = (high - low) * np.abs(coefficients).sum(axis=1)
    if max(mass[0], mass[-1]) > 1e-13 * mass.sum():
        raise NoExpectationError("its integral against the normal density diverges")
    return low, high, coefficients


def _halved(low, high, tails):
    middle = (low + high) / 2
    return np.concatenate([low, middle]), np.concatenate([middle, high]), np.concatenate([tails, tails])


def _expand(integrand, low, high) -> np.ndarray:
    """Chebyshev coefficients on each panel; the outermost points lie a hair inside its ends."""
    points = np.cos(np.pi * np.arange(POINTS) / (POINTS - 1))
    points = points * (1 - 1e-10)
    nodes = (low[:, None] + high[:, None]) / 2 + (high - low)[:, None] / 2 * points
    with np.errstate(invalid="ignore", over="ignore"):
        return integrand(nodes.ravel()).reshape(nodes.shape) @ _to_coefficients().T


@functools.cache
def _to_coefficients() -> np.ndarray:
    """From values at the Chebyshev points to coefficients."""
    n = POINTS - 1
    k, j = np.arange(POINTS)[:, None], np.arange(POINTS)
    halves = np.where((j == 0) | (j == n), 0.5, 1.0)
    return 2 / n * np.where((k == 0) | (k == n), 0.5, 1.0) * halves * np.cos(np.pi * k * j / n)


@functools.cache
def _integrals() -> np.ndarray:
    """The integrals of the Chebyshev polynomials over (-1, 1)."""
    return np.array([2 / (1 - k * k) if k % 2 == 0 else 0.0 for k in range(POINTS)])
