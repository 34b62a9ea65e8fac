"""The conditions of kernel shaping, solved by Newton's method on the host, in float64."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jinit._typing import Array
from jinit.meanfield.integrals import Integrand, normal_nodes

SHIFTS = (0.5, 0.25, 1.0, 0.0, -0.5, -0.25, -1.0, 1.5, -1.5, 2.0, -2.0, 3.0, -3.0)  # where to start
STEPS = 60
ENOUGH = 1e-11


class Shape(NamedTuple):
    """What Newton's method moves: α by its logarithm, β, and δ; γ follows from Q(1) = 1."""

    log_scale: float
    input_shift: float
    output_shift: float
    output_scale: float = 1.0

    def parameters(self) -> tuple[float, float, float, float]:
        """α, β, δ and γ."""
        return math.exp(self.log_scale), self.input_shift, self.output_shift, self.output_scale


class Shaped(NamedTuple):
    """Of f(x) = γ (φ(α x + β) + δ), x standard normal, with E f² = 1.

    Attributes:
      mean: E f, whose square is C(0).
      q_slope: E[f f' x] = Q'(1).
      c_slope: E[f'²] = C'(1).
      c_curvature: E[f''²] = C''(1).
      output_scale: γ.
    """

    mean: float
    q_slope: float
    c_slope: float
    c_curvature: float
    output_scale: float


@dataclasses.dataclass(frozen=True)
class LeakyRelu:
    """A leaky relu as a value: equal where the slope is."""

    slope: float

    def __call__(self, x: Array) -> Array:
        """The leaky relu of `x`."""
        return jax.nn.leaky_relu(x, self.slope)


def leaky_c_map(c: float, slope: float) -> float:
    """The correlation map of a leaky relu with σ_w² = 2 / (1 + slope²) and no bias."""
    c = min(1.0, max(-1.0, c))
    rectified = (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / math.pi
    return ((1 - slope) ** 2 * rectified + 2 * slope * c) / (1 + slope**2)


def solved_shape(
    integrand: Integrand, conditions: Callable[[Shaped], tuple[float, ...]], bend: float, *, smooth: bool
) -> Shape | None:
    """The first solution found from several starts.

    Args:
      integrand: the activation.
      conditions: three numbers that must vanish.
      bend: what |α φ'' / φ'| will be about, for small ones.
      smooth: whether the second derivative is needed, so that there is none where the slope jumps.
    """
    derivatives = _Derivatives(integrand)
    if smooth and derivatives.corners:
        return None

    def residuals(x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.array(conditions(derivatives.shaped(*x)))

    for start in _starts(derivatives, bend):
        found = _newton(residuals, start)
        if found is not None and abs(found[0]) < 7 and abs(found[1]) < 10:
            scale, shift, output_shift = found.tolist()
            return Shape(scale, shift, output_shift, derivatives.shaped(*found).output_scale)
    return None


class _Derivatives:
    """φ, φ' and φ'' at α z + β, at nodes z of the standard normal."""

    def __init__(self, integrand: Integrand):
        self.panels = integrand.panels
        slope = lambda h: jax.jvp(integrand.value, (h,), (jnp.ones_like(h),))  # noqa: E731

        def all_three(h: Array) -> tuple[Array, Array, Array]:
            (value, first), (_, second) = jax.jvp(slope, (h,), (jnp.ones_like(h),))
            return value, first, second

        self.all_three = jax.jit(all_three)
        kinks = np.array(self.panels.kinks)
        below, above = (self(kinks + step)[1] for step in (-1e-9, 1e-9)) if kinks.size else (kinks, kinks)
        self.corners = bool(np.any(np.abs(above - below) > 1e-6 * np.abs(above + below)))

    def __call__(self, h: np.ndarray) -> list[np.ndarray]:
        with jax.ensure_compile_time_eval(), jax.enable_x64(True):
            return [np.asarray(x) for x in self.all_three(jnp.asarray(h, np.float64))]

    def shaped(self, log_scale: float, shift: float, output_shift: float) -> Shaped:
        scale = math.exp(min(log_scale, 10.0))
        with jax.ensure_compile_time_eval(), jax.enable_x64(True):
            edges = jnp.asarray((np.array(self.panels.edges) - shift) / scale, np.float64)
            z, weights = (np.asarray(x) for x in normal_nodes(edges, np.dtype(np.float64)))
        value, first, second = self(scale * z + shift)
        value = value + output_shift
        power = float(weights @ value**2)
        moments = value, scale * value * first * z / math.sqrt(power), scale**2 * first**2 / math.sqrt(power)
        mean, q_slope, c_slope = (float(weights @ x) / math.sqrt(power) for x in moments)
        c_curvature = float(weights @ second**2) * scale**4 / power
        return Shaped(mean, q_slope, c_slope, c_curvature, 1 / math.sqrt(power))


def _starts(derivatives: _Derivatives, bend: float) -> list[np.ndarray]:
    """For small α the activation is its second-order expansion about β, and so is what α must be."""
    starts = []
    for shift in SHIFTS:
        value, first, second = (float(x[0]) for x in derivatives(np.full(1, shift)))
        if first and math.isfinite(first):
            scale = bend * abs(first / second) if second else 0.5
            for more in (1.0, 0.4):
                starts.append(np.array([math.log(min(scale * more, 3.0)), shift, -value]))
    return starts


def _newton(residuals: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray | None:
    """Newton's method with central differences and halved steps; None where it does not get there."""
    now = residuals(x)
    for _ in range(STEPS):
        if not np.isfinite(now).all():
            return None
        steps = 1e-5 * np.eye(x.size)
        jacobian = np.stack([(residuals(x + d) - residuals(x - d)) / 2e-5 for d in steps], axis=1)
        try:
            move = np.linalg.solve(jacobian, -now)
        except np.linalg.LinAlgError:
            return None
        move *= min(1.0, 1.0 / max(1e-300, float(np.abs(move).max())))
        for _ in range(12):
            ahead = residuals(x + move)
            if np.abs(ahead).max() < np.abs(now).max():
                break
            move /= 2
        else:
            return x if np.abs(now).max() < ENOUGH else None
        x, now = x + move, ahead
        if np.abs(now).max() < 1e-14:
            return x
    return x if np.abs(now).max() < ENOUGH else None
