"""The critical line, on which gradients neither grow nor shrink: chi_1 = 1."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jinit._typing import Activation, Array
from jinit.meanfield.entries import integrand, numbers, over_entries
from jinit.meanfield.integrals import Integrand, floored, second_moment, slope_moment
from jinit.meanfield.maps import LINES, PLANES
from jinit.meanfield.search import all_roots, check_size, every_root, search


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CriticalLine:
    """Points of the critical line, from `jinit.meanfield.critical_line`. A pytree; all fields of one shape.

    Attributes:
      q: the second moment at the fixed point.
      weight_variance: σ_w² = 1 / E[φ'(h)²].
      bias_variance: σ_b² = q − σ_w² E[φ(h)²]; where it is negative there is no such network.
      chi_q: the slope of the variance map there: above 1 no forward pass stays.

    Example:
      >>> import jinit
      >>> round(float(jinit.meanfield.critical_line("relu", 1.0).weight_variance), 5)
      2.0
    """

    q: Array
    weight_variance: Array
    bias_variance: Array
    chi_q: Array


def critical_line(activation: str | Activation, q: ArrayLike) -> CriticalLine:
    """The critical line, followed by its second moment q.

    Each q is the fixed point of exactly one critical network, if of any: `σ_w² = 1 / E[φ'(√q z)²]` and
    `σ_b² = q − σ_w² E[φ(√q z)²]`.

    Args:
      activation: an elementwise JAX function, or the name of one as in `jinit.gain`.
      q: second moments of the pre-activations.

    Returns:
      A `jinit.meanfield.CriticalLine` of the shape of `q`.

    Raises:
      ValueError: as `jinit.meanfield.variance_map`.
      TypeError: as `jinit.meanfield.variance_map`.

    Example:
      >>> import jinit
      >>> line = jinit.meanfield.critical_line("tanh", 0.5700478816)
      >>> round(float(line.weight_variance), 4), round(float(line.bias_variance), 4)
      (1.761, 0.05)

    References:
      Hayou, Doucet, Rousseau, "On the Impact of the Activation Function on Deep Neural Networks Training",
      2019, algorithm 1.
    """
    caller = "jinit.meanfield.critical_line(...)"
    return over_entries(_point, integrand(caller, activation), *numbers(caller, q=q), batch=LINES)


def critical_weight_variance(
    activation: str | Activation, *, bias_variance: ArrayLike, size: int | None = None
) -> Array:
    """Every weight variance at which a deep network is critical, for a given bias variance.

    `chi_1 = σ_w² E[φ'(h)²] = 1` at a fixed point of the variance map. It may be an unstable one (gelu and
    silu with small biases), at which no forward pass stays: `jinit.meanfield.fixed_points` with the result
    tells. Differentiable in `bias_variance`.

    Args:
      activation: an elementwise JAX function, or the name of one as in `jinit.gain`.
      bias_variance: σ_b².
      size: how many to return, the lowest; missing ones are NaN. By default as many as there are, which
        cannot be known under a transformation: there all are NaN where there are more than 64.

    Returns:
      An array with a last axis over the roots, ascending. Empty where there are none: for relu with biases,
      for an activation with jumps, or one as steep as a square root.

    Raises:
      ValueError: as `jinit.meanfield.variance_map`, and if `size` is needed or out of range.
      TypeError: as `jinit.meanfield.variance_map`.

    Example:
      >>> import jax.numpy as jnp, jinit
      >>> [round(float(w), 4) for w in jinit.meanfield.critical_weight_variance(jnp.tanh, bias_variance=0.05)]
      [1.761]

    References:
      Schoenholz, Gilmer, Ganguli, Sohl-Dickstein, "Deep Information Propagation", 2017, section 3; Hayou,
      Doucet, Rousseau, "On the Impact of the Activation Function on Deep Neural Networks Training", 2019.
    """
    caller = "jinit.meanfield.critical_weight_variance(...)"
    arrays = numbers(caller, bias_variance=bias_variance)
    check_size(caller, size, arrays)
    return every_root(_roots, integrand(caller, activation), *arrays, size=size, batch=PLANES)


def _point(integrand: Integrand, q: Array) -> CriticalLine:
    weight_variance = 1 / slope_moment(integrand, q)
    moment, slope = jax.jvp(functools.partial(second_moment, integrand), (q,), (jnp.ones_like(q),))
    return CriticalLine(q, weight_variance, q - weight_variance * moment, weight_variance * slope)


def _excess(integrand: Integrand, q: Array, bias_variance: Array) -> Array:
    return q - second_moment(integrand, q) / slope_moment(integrand, q) - bias_variance


def _roots(integrand: Integrand, room: int, bias_variance: Array) -> tuple[Array, Array]:
    """From the roots in q of the bias variance along the line."""

    def excess(q: Array) -> Array:
        return _excess(integrand, q, bias_variance)

    found, changes = all_roots(excess, search(_excess, integrand, bias_variance), room)
    zero = jnp.zeros((), bias_variance.dtype)
    near = slope_moment(integrand, 100 * floored(integrand, zero)) / slope_moment(integrand, zero)
    flat = (near > 0.9) & (near < 1.1)  # else φ'(0)² is zero or infinite
    start = jnp.where((excess(zero) == 0) & flat, zero, jnp.nan)
    found = jnp.append(found, start)
    weights = jax.vmap(lambda q: 1 / slope_moment(integrand, q))(found)
    # Of a linear activation the slope is known even where there is no q. Left out by their q, those that
    # remain would not be the lowest.
    real = ~jnp.isnan(found) & jnp.isfinite(weights) & (weights > 0) & (changes <= room)
    return jnp.sort(jnp.where(real, weights, jnp.nan)), changes
