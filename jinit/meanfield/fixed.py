"""Fixed points of the maps: where a deep network settles, how fast, and in which phase."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jinit._typing import Activation, Array
from jinit.meanfield.entries import integrand, numbers, over_entries, refuse_traced
from jinit.meanfield.integrals import Integrand, inner_half_difference, mean, second_moment, slope_moment
from jinit.meanfield.maps import PLANES, next_variance
from jinit.meanfield.roots import root
from jinit.meanfield.search import GRID, all_roots, blind, check_size, every_root, search


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FixedPoint:
    """A fixed point of the maps, from `jinit.meanfield.fixed_point`. A pytree; all fields of one shape.

    Attributes:
      q: the second moment, with V(q) = q; infinite if signals explode.
      c: the correlation to which two inputs tend: 1 in the ordered phase, below 1 in the chaotic one. NaN
        where `q` is infinite, and in the chaotic phase at q = 0, where every c is a fixed point.
      chi_1: σ_w² E[φ'(h)²], the slope of the correlation map at c = 1, and the factor by which the second
        moment of gradients grows per layer backwards. Infinite for an activation with jumps, or as steep as
        a square root.
      chi_q: the slope of the variance map. For an infinite `q`, this and `chi_1` are taken at q = 1e12.
      chi_c: the slope of the correlation map at `c`.

    Example:
      >>> import jax.numpy as jnp, jinit
      >>> point = jinit.meanfield.fixed_point(jnp.tanh, weight_variance=2.5, bias_variance=0.05)
      >>> point.phase, bool(point.stable), round(float(point.c), 4)
      ('chaotic', True, 0.4468)
    """

    q: Array
    c: Array
    chi_1: Array
    chi_q: Array
    chi_c: Array

    @property
    def xi_q(self) -> Array:
        """Layers in which a deviation of q shrinks by e: -1 / ln abs(chi_q); infinite at 1, NaN beyond."""
        return _depth_scale(self.chi_q)

    @property
    def xi_c(self) -> Array:
        """Layers in which a deviation of c shrinks by e: -1 / ln abs(chi_c); infinite at 1.

        Plain networks were found to train up to a depth of some six times this.
        """
        return _depth_scale(self.chi_c)

    @property
    def stable(self) -> Array:
        """Whether deviations of q shrink; not so for marginal points (chi_q = 1), as relu's at σ_w² = 2."""
        return jnp.abs(self.chi_q) < 1 - _margin(self.chi_q)

    @property
    def phase(self) -> Any:
        """'ordered', 'chaotic' or 'critical', by chi_1 against 1; an array of them for arrays.

        Critical is what differs from 1 by less than 1e-8, in float32 1e-5; NaN is
        'undefined'.

        Raises:
          TypeError: under `jax.jit` and the like, where there are no values.
        """
        refuse_traced("FixedPoint.phase", self.chi_1, "Under it, compare `chi_1` with 1.")
        chi = np.asarray(self.chi_1)
        near = np.abs(chi - 1) <= _margin(self.chi_1)
        names = np.where(chi < 1, "ordered", np.where(np.isnan(chi), "undefined", "chaotic"))
        names = np.where(near, "critical", names)
        return str(names) if names.ndim == 0 else names


def fixed_point(
    activation: str | Activation,
    *,
    weight_variance: ArrayLike,
    bias_variance: ArrayLike,
    initial_q: ArrayLike = 1.0,
) -> FixedPoint:
    """The fixed point at which a deep plain network settles, and what happens about it.

    It is the one towards which `V` moves `initial_q`: the next above if `V` lengthens, the next below if it
    shortens; infinite if there is none above. An activation may have several: gelu, silu and mish have
    unstable ones, at which no forward pass stays, and `stable` tells them. `initial_q` is returned only if it
    is a fixed point itself, to rounding errors; `jinit.meanfield.fixed_points` gives all.

    Differentiable in both variances, by the implicit function theorem, where the fixed point is isolated.

    Args:
      activation: an elementwise JAX function, or the name of one as in `jinit.gain`.
      weight_variance: σ_w², the variance of a weight times fan_in.
      bias_variance: σ_b².
      initial_q: the second moment of the pre-activations of the first layer.

    Returns:
      A `jinit.meanfield.FixedPoint` of the shape to which the three broadcast. Fixed points are looked for
      from 1e-16 to 1e12, and at zero.

    Raises:
      ValueError: as `jinit.meanfield.variance_map`.
      TypeError: as `jinit.meanfield.variance_map`.

    Example:
      >>> import jax.numpy as jnp, jinit
      >>> point = jinit.meanfield.fixed_point(jnp.tanh, weight_variance=1.3, bias_variance=0.05)
      >>> round(float(point.q), 5), round(float(point.chi_1), 5), round(float(point.xi_c), 2)
      (0.31532, 0.88016, 7.83)

    References:
      Schoenholz, Gilmer, Ganguli, Sohl-Dickstein, "Deep Information Propagation", 2017, sections 3 and 4.
    """
    caller = "jinit.meanfield.fixed_point(...)"
    values = {"weight_variance": weight_variance, "bias_variance": bias_variance, "initial_q": initial_q}
    return over_entries(_settled, integrand(caller, activation), *numbers(caller, **values), batch=PLANES)


def fixed_points(
    activation: str | Activation,
    *,
    weight_variance: ArrayLike,
    bias_variance: ArrayLike,
    size: int | None = None,
) -> FixedPoint:
    """Every fixed point of the maps, stable or not, by ascending q.

    Args:
      activation: an elementwise JAX function, or the name of one as in `jinit.gain`.
      weight_variance: σ_w², the variance of a weight times fan_in.
      bias_variance: σ_b².
      size: how many to return, the lowest; missing ones are NaN. By default as many as there are, which
        cannot be known under a transformation.

    Returns:
      A `jinit.meanfield.FixedPoint` whose fields have a last axis over the fixed points. Empty where every q
      is one, as for relu at (2, 0), apart from q = 0.

    Raises:
      ValueError: as `jinit.meanfield.variance_map`, and if `size` is needed or out of range.
      TypeError: as `jinit.meanfield.variance_map`.

    Example:
      >>> import jax, jinit
      >>> points = jinit.meanfield.fixed_points("gelu", weight_variance=2.2, bias_variance=0.05)
      >>> [round(float(q), 4) for q in points.q], points.stable.tolist()
      ([0.1563, 1.1881], [True, False])

    References:
      Roberts, Yaida, Hanin, "The Principles of Deep Learning Theory", 2022, section 5.3, for gelu and silu.
    """
    caller = "jinit.meanfield.fixed_points(...)"
    arrays = numbers(caller, weight_variance=weight_variance, bias_variance=bias_variance)
    check_size(caller, size, arrays)
    function = integrand(caller, activation)
    q = every_root(_all, function, *arrays, size=size, batch=PLANES)
    variances = (jnp.broadcast_to(x[..., None], q.shape) for x in arrays)
    return over_entries(_around, function, q, *variances, batch=PLANES)


def _settled(
    integrand: Integrand, weight_variance: Array, bias_variance: Array, initial: Array
) -> FixedPoint:
    q = _reached(integrand, initial, weight_variance, bias_variance)
    return _around(integrand, q, weight_variance, bias_variance)


def _reached(integrand: Integrand, initial: Array, weight_variance: Array, bias_variance: Array) -> Array:
    """The fixed point in the direction of the first step."""

    def excess(q: Array) -> Array:
        return _excess(integrand, q, weight_variance, bias_variance)

    dtype = initial.dtype
    seen = search(_excess, integrand, weight_variance, bias_variance)
    first, at_zero = jax.vmap(excess)(jnp.stack([initial, jnp.zeros_like(initial)]))
    points = jnp.append(jnp.zeros(1, dtype), seen.points)
    values = jnp.append(at_zero, seen.values)
    ups = (points > initial) & (jnp.append(jnp.zeros(1, dtype), seen.signs) < 0)
    downs = (points < initial) & (jnp.append(jnp.sign(at_zero), seen.signs) > 0)
    rises = first > 0
    up, down = jnp.argmax(ups), points.size - 1 - jnp.argmax(downs[::-1])
    # The root lies between `outer`, the first point beyond it, and the last before it or `initial`.
    outer = jnp.where(rises, up, down)
    inner = jnp.where(rises, up - 1, jnp.minimum(down + 1, points.size - 1))
    passed = jnp.where(rises, points[inner] <= initial, points[inner] >= initial)
    near = jnp.where(passed, initial, points[inner]), jnp.where(passed, first, values[inner])
    stays = jnp.abs(first) <= blind(dtype) * initial
    real = jnp.where(rises, ups.any(), downs.any()) & ~stays
    q = root(excess, near, (points[outer], values[outer]), real)
    beyond = jnp.where(jnp.isnan(seen.values[-1]), jnp.nan, jnp.inf)
    q = jnp.where(rises, jnp.where(ups.any(), q, beyond), jnp.where(downs.any(), q, 0))
    return jnp.where(stays, initial, q)


def _excess(integrand: Integrand, q: Array, weight_variance: Array, bias_variance: Array) -> Array:
    return next_variance(integrand, q, weight_variance, bias_variance) - q


def _all(integrand: Integrand, room: int, *variances: Array) -> tuple[Array, Array]:
    excess = functools.partial(_excess, integrand)
    found, changes = all_roots(lambda q: excess(q, *variances), search(_excess, integrand, *variances), room)
    zero = jnp.zeros((), found.dtype)
    # Zero comes first, and NaN, where there is none, last.
    return jnp.sort(jnp.append(jnp.where(excess(zero, *variances) == 0, zero, jnp.nan), found)), changes


def _around(integrand: Integrand, q: Array, weight_variance: Array, bias_variance: Array) -> FixedPoint:
    """What happens about a fixed point of the variance map."""
    known = jnp.isfinite(q)
    at = jnp.where(known, q, GRID[-1])
    chi_1 = weight_variance * slope_moment(integrand, at)
    chi_q = (
        weight_variance * jax.jvp(functools.partial(second_moment, integrand), (at,), (jnp.ones_like(at),))[1]
    )
    spreads = chi_1 > 1 + _margin(chi_1)  # by more than rounding errors, of which a linear network has a c
    chaotic = spreads & known & (q > 0)
    safe = jnp.where(chaotic, at, 1)  # where there is nothing to solve, any q will do
    gap = jnp.where(chaotic, _gap(integrand, chaotic, safe, jnp.where(chaotic, weight_variance, 2), chi_1), 0)
    slope = jax.jvp(lambda x: inner_half_difference(integrand, safe, x), (gap,), (jnp.ones_like(gap),))[1]
    chi_c = jnp.where(chaotic, weight_variance * slope / safe, chi_1)
    lost = ~known | ((q == 0) & spreads)
    nothing = jnp.isnan(q)
    c, chi_c = jnp.where(lost, jnp.nan, 1 - gap), jnp.where(lost, jnp.nan, chi_c)
    return FixedPoint(q, c, *(jnp.where(nothing, jnp.nan, x) for x in (chi_1, chi_q, chi_c)))


def _gap(integrand: Integrand, real: Array, q: Array, weight_variance: Array, chi_1: Array) -> Array:
    """1 − c at the fixed point below 1: there the mean slope of the correlation map from c to 1 is 1.

    The mean slope falls from chi_1 at c = 1 to at most 1 at c = 0, since the map is a power series in c with
    coefficients that are not negative. The angle arccos c is the variable in which it is smooth.
    """

    def excess(gap: Array) -> Array:
        return weight_variance * inner_half_difference(integrand, q, gap) / (q * gap) - 1

    right = jnp.full_like(q, np.pi / 2)
    spread = second_moment(integrand, q) - mean(integrand, q) ** 2  # the half difference at c = 0
    ends = (jnp.zeros_like(q), chi_1 - 1), (right, weight_variance * spread / q - 1)
    return root(excess, *ends, real, curve=lambda angle: 2 * jnp.sin(angle / 2) ** 2)


def _margin(x: Array) -> float:
    """How near to one counts as one."""
    return max(1e-8, 80 * float(jnp.finfo(x.dtype).eps))


def _depth_scale(chi: Array) -> Array:
    size, margin = jnp.abs(chi), _margin(chi)
    below, beyond = size < 1 - margin, ~(size <= 1 + margin)
    return jnp.where(below, -1 / jnp.log(jnp.where(below, size, 0.5)), jnp.where(beyond, jnp.nan, jnp.inf))
