"""The maps from one layer of a wide network to the next, and their iteration."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jinit._errors import message
from jinit._typing import Activation, Array
from jinit.meanfield.entries import as_integer, integrand, numbers, over_entries
from jinit.meanfield.integrals import Integrand, floored, half_difference, second_moment

STARTED = 1e-6  # a variance next to zero, at which squares of cubes do not yet underflow in float32
LINES, PLANES = 1024, 8  # entries at a time: of integrals over a line, and over a plane


def variance_map(
    activation: str | Activation, q: ArrayLike, *, weight_variance: ArrayLike, bias_variance: ArrayLike
) -> Array:
    r"""The second moment of the pre-activations one layer on.

    `V(q) = σ_w² E[φ(√q z)²] + σ_b²`, z standard normal: in a wide layer with weights of mean zero and
    variance `σ_w² / fan_in` and biases of variance `σ_b²`, pre-activations are Gaussian, and `V` takes their
    second moment `q` from one layer to the next.

    In float64 the relative error is below 1e-8, kinks and jumps of the activation included: they are searched
    for, once per call, on the host in float64. In float32 it is some 1e-7. Works under `jax.jit`, `jax.vmap`
    and `jax.grad`, and is differentiable in `q`, `weight_variance` and `bias_variance`: to any order for q >
    0, once at q = 0.

    Args:
      activation: an elementwise JAX function, or the name of one as in `jinit.gain`. It must not close over
        traced values.
      q: second moments E[h²] of the pre-activations.
      weight_variance: σ_w², the variance of a weight times fan_in.
      bias_variance: σ_b².

    Returns:
      An array of the shape to which the three broadcast; of their dtype, at least float32. NaN, since `q` may
      be traced, where it is so large that an activation which oscillates ever faster, or with kinks, can no
      longer be followed (sin(x²): beyond 3, abs(sin(x)): beyond 200), that one which grows as an exponential
      matters beyond 12 deviations (exp: beyond 9), or that the integral diverges (exp(x²)).

    Raises:
      ValueError: if a variance or `q` is negative or not finite; if the activation is not elementwise, varies
        too fast, or has no Gaussian integrals for any `q` (NaN about zero, poles).
      TypeError: if the activation is no function, or an argument is no real number.

    Example:
      >>> import jax, jinit
      >>> q = jinit.meanfield.variance_map(jax.nn.relu, 3.0, weight_variance=2.0, bias_variance=0.5)
      >>> round(float(q), 5)
      3.5

    References:
      Poole, Lahiri, Raghu, Sohl-Dickstein, Ganguli, "Exponential expressivity in deep neural networks through
      transient chaos", 2016, equation 3.
    """
    caller = "jinit.meanfield.variance_map(...)"
    arrays = numbers(caller, q=q, weight_variance=weight_variance, bias_variance=bias_variance)
    return over_entries(next_variance, integrand(caller, activation), *arrays, batch=LINES)


def correlation_map(
    activation: str | Activation,
    q: ArrayLike,
    c: ArrayLike,
    *,
    weight_variance: ArrayLike,
    bias_variance: ArrayLike,
) -> Array:
    r"""The correlation of the pre-activations of two inputs one layer on.

    `C(q, c) = (σ_w² E[φ(h₁) φ(h₂)] + σ_b²) / V(q)`, where h₁ and h₂ are Gaussian with second moment `q` and
    correlation `c`. It is computed from E[(φ(h₁) − φ(h₂))²], so that `1 − C` keeps its relative precision as
    two inputs become alike, and `C(q, 1)` is exactly 1.

    The slope `∂C/∂c` at a fixed point of `V` is `σ_w² E[φ'(h₁) φ'(h₂)]`; at `c = 1` of an activation with
    jumps it is infinite. Next to `c = -1` rounding errors leave it wrong by some 3e-16 / (1 + c).
    Accuracy and transformations are otherwise as in `jinit.meanfield.variance_map`, over `c` as well.

    Args:
      activation: an elementwise JAX function, or the name of one as in `jinit.gain`.
      q: second moments of the pre-activations, the same for both inputs.
      c: their correlations, in [-1, 1].
      weight_variance: σ_w², the variance of a weight times fan_in.
      bias_variance: σ_b².

    Returns:
      An array of the shape to which the four broadcast. Where `V(q)` underflows since q is all but zero, the
      limit q → 0, to some 1e-6, if the activation itself is exact there. NaN where `V(q)` is zero otherwise:
      where the activation is dead (relu(x − 1) at q = 1e-3, without biases) both pre-activations are zero and
      have no correlation. NaN also where the variance map is, and where `q` is so large that an activation
      which goes on oscillating can no longer be followed (sin(x): beyond 800, sin(30 x): beyond 3).

    Raises:
      ValueError: as `jinit.meanfield.variance_map`, and if `|c| > 1`.
      TypeError: as `jinit.meanfield.variance_map`.

    Example:
      >>> import jax, jinit
      >>> c = jinit.meanfield.correlation_map(jax.nn.relu, 1.0, 0.0, weight_variance=2.0, bias_variance=0.0)
      >>> round(float(c), 5)  # 1/π
      0.31831

    References:
      Poole, Lahiri, Raghu, Sohl-Dickstein, Ganguli, "Exponential expressivity in deep neural networks through
      transient chaos", 2016, equation 5; Cho, Saul, "Kernel Methods for Deep Learning", 2009, for relu.
    """
    caller = "jinit.meanfield.correlation_map(...)"
    q, c, *variances = numbers(caller, q=q, c=c, weight_variance=weight_variance, bias_variance=bias_variance)
    return 1 - over_entries(next_gap, integrand(caller, activation), q, 1 - c, *variances, batch=PLANES)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trajectory:
    """Second moments and correlations layer by layer, from `jinit.meanfield.trajectory`.

    Attributes:
      q: second moments of the pre-activations, shape (depth + 1, …): entry 0 is the one given.
      c: correlations of two inputs, of the same shape.

    Example:
      >>> import jinit
      >>> path = jinit.meanfield.trajectory("relu", 1.0, 0.0, weight_variance=1.0, bias_variance=0.0, depth=2)
      >>> path.q.round(5).tolist()
      [1.0, 0.5, 0.25]
    """

    q: Array
    c: Array


def trajectory(
    activation: str | Activation,
    q: ArrayLike = 1.0,
    c: ArrayLike = 0.0,
    *,
    weight_variance: ArrayLike,
    bias_variance: ArrayLike,
    depth: int,
) -> Trajectory:
    """Both maps iterated: what two inputs become, layer by layer, in a wide plain network.

    Args:
      activation: an elementwise JAX function, or the name of one as in `jinit.gain`.
      q: second moments of the pre-activations of the first layer, the same for both inputs.
      c: their correlations, in [-1, 1].
      weight_variance: σ_w², the variance of a weight times fan_in.
      bias_variance: σ_b².
      depth: how many times the maps are applied.

    Returns:
      A `jinit.meanfield.Trajectory` with a leading axis of depth + 1.

    Raises:
      ValueError: as `jinit.meanfield.correlation_map`, and if `depth` is negative.
      TypeError: as `jinit.meanfield.correlation_map`, and if `depth` is no integer.

    Example:
      >>> import jax.numpy as jnp, jinit
      >>> variances = {"weight_variance": 1.3, "bias_variance": 0.05}
      >>> path = jinit.meanfield.trajectory(jnp.tanh, 1.0, 0.6, **variances, depth=9)
      >>> [round(float(c), 3) for c in path.c[:3]]
      [0.6, 0.609, 0.64]

    References:
      Schoenholz, Gilmer, Ganguli, Sohl-Dickstein, "Deep Information Propagation", 2017, section 3.
    """
    caller = "jinit.meanfield.trajectory(...)"
    layers = as_integer(depth)
    if layers is None:
        raise TypeError(message(caller, "`depth` must be an integer", f"depth={depth!r}"))
    if layers < 0:
        raise ValueError(message(caller, "`depth` must not be negative", f"depth={depth}"))
    arrays = numbers(caller, q=q, c=c, weight_variance=weight_variance, bias_variance=bias_variance)
    path = over_entries(_path, integrand(caller, activation), *arrays, batch=PLANES, static=(layers,))
    return jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), path)


def _path(integrand: Integrand, depth: int, q: Array, c: Array, *variances: Array) -> Trajectory:
    def layer(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        q, gap = carry
        ahead = next_variance(integrand, q, *variances), next_gap(integrand, q, gap, *variances)
        return ahead, ahead

    _, (qs, gaps) = jax.lax.scan(layer, (q, 1 - c), None, length=depth)
    return Trajectory(jnp.append(q, qs), jnp.append(c, 1 - gaps))


def next_variance(integrand: Integrand, q: Array, weight_variance: Array, bias_variance: Array) -> Array:
    """V(q) of scalars."""
    return weight_variance * second_moment(integrand, q) + bias_variance


def next_gap(
    integrand: Integrand, q: Array, gap: Array, weight_variance: Array, bias_variance: Array
) -> Array:
    """1 − C(q, 1 − gap) of scalars. At q = 0, and where V underflows next to it, the limit."""
    q = floored(integrand, q)
    if integrand.panels.origin == 0 and integrand.panels.starts:
        lost = next_variance(integrand, q, weight_variance, bias_variance) == 0
        q = jnp.where(lost, jnp.maximum(q, jnp.asarray(STARTED, q.dtype)), q)
    ahead = next_variance(integrand, q, weight_variance, bias_variance)
    return weight_variance * half_difference(integrand, q, gap) / ahead
