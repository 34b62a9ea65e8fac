"""Kernel shaping: activations transformed so that a deep network has the kernel of a shallow one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from jinit._errors import message
from jinit._typing import Activation, Array
from jinit.meanfield.conditions import LeakyRelu, Shape, Shaped, leaky_c_map, solved_shape
from jinit.meanfield.entries import as_integer, integrand
from jinit.meanfield.subnetworks import Layer

Network = Callable[[float, Layer], float]


@dataclasses.dataclass(frozen=True)
class ShapedActivation:
    """`x ↦ output_scale · (activation(input_scale · x + input_shift) + output_shift)`.

    Attributes:
      activation: the activation that is transformed.
      input_scale: α.
      input_shift: β.
      output_shift: δ.
      output_scale: γ.

    Example:
      >>> import jax.numpy as jnp, jinit
      >>> shaped = jinit.meanfield.ShapedActivation(jnp.tanh, input_scale=2.0, output_scale=0.5)
      >>> bool(shaped(1.0) == 0.5 * jnp.tanh(2.0))
      True
    """

    activation: Activation
    input_scale: float = 1.0
    input_shift: float = 0.0
    output_shift: float = 0.0
    output_scale: float = 1.0

    def __call__(self, x: Array) -> Array:
        """The transformed activation of `x`."""
        return self.output_scale * (
            self.activation(self.input_scale * x + self.input_shift) + self.output_shift
        )


def dks(
    activation: str | Activation,
    *,
    depth: int | None = None,
    maximal_c_map: Network | None = None,
    zeta: float = 1.5,
) -> ShapedActivation:
    """Deep kernel shaping: an activation with which a deep network has the kernel of a shallow one.

    Of `γ (φ(α x + β) + δ)`, for x standard normal, four conditions: `Q(1) = 1`, `Q'(1) = 1`, `C(0) = 0` and
    `C'(1) = ξ`. Here Q is the map of second moments and C that of correlations, and ξ is such that the
    largest slope of C over all subnetworks is `zeta`: in a plain network of `depth` nonlinear layers, ξ^depth
    = zeta.

    To be used with zero biases, orthogonal weights of gain one, inputs of mean square one, and no
    normalisation.

    Args:
      activation: an elementwise, twice differentiable JAX function, or the name of one as in `jinit.gain`.
      depth: the number of nonlinear layers of a plain network.
      maximal_c_map: for other networks, in place of `depth`: `jinit.meanfield.maximal_c_map` of the model, or
        your own `(c, layer) -> c`, the largest value, over all subnetworks, of what becomes of c, where
        `layer` is what one nonlinear layer makes of a number. Plain layers apply it, sums take averages
        weighted by squared weights that add up to one.
      zeta: the slope of the network, above 1.

    Returns:
      A `jinit.meanfield.ShapedActivation`.

    Raises:
      ValueError: if both or neither of `depth` and `maximal_c_map` are given, if `zeta` is not above 1, if
        the activation jumps, or if there is no solution (relu: use `jinit.meanfield.tat_leaky_relu`).

    Example:
      >>> import jax.numpy as jnp, jinit
      >>> shaped = jinit.meanfield.dks(jnp.tanh, depth=50)
      >>> round(shaped.input_scale, 5), round(shaped.input_shift, 5)
      (0.12844, 0.57078)

    References:
      Martens, Ballard, Desjardins, Swirszcz, Dalibard, Sohl-Dickstein, Schoenholz, "Rapid training of deep
      neural networks without skip connections or normalization layers using Deep Kernel Shaping", 2021. The
      integrals are found to 1e-10 for any activation, where the authors' code has a fixed grid; of several
      solutions theirs was found wherever we compared.
    """
    caller = "jinit.meanfield.dks(...)"
    if not zeta > 1:
        raise ValueError(message(caller, "`zeta` must be above 1", f"zeta={zeta!r}"))
    network = _network(caller, depth, maximal_c_map)
    slope = _solved(caller, lambda x: network(1.0, lambda y: x * y) - zeta, 1.0, zeta)

    def conditions(shaped: Shaped) -> tuple[float, ...]:
        return shaped.q_slope - 1, shaped.mean, shaped.c_slope / slope - 1

    return _shaped(caller, activation, conditions, math.sqrt(2 * (slope - 1)), smooth=False)


def tat(
    activation: str | Activation,
    *,
    depth: int | None = None,
    maximal_c_map: Network | None = None,
    tau: float = 0.3,
) -> ShapedActivation:
    """Tailored activation transformation: a correlation map of slope one, with the curvature that is wanted.

    Of `γ (φ(α x + β) + δ)`, for x standard normal, four conditions: `Q(1) = 1`, `Q'(1) = 1`, `C'(1) = 1` and
    `C''(1) = κ`, where κ is such that the largest curvature over all subnetworks is `tau`: in a plain network
    of `depth` nonlinear layers, κ depth = tau.

    Args:
      activation: an elementwise, twice differentiable JAX function, or the name of one as in `jinit.gain`.
        For relu see `jinit.meanfield.tat_leaky_relu`.
      depth: the number of nonlinear layers of a plain network.
      maximal_c_map: for other networks, in place of `depth`, as in `jinit.meanfield.dks`.
      tau: the curvature of the network, above 0.

    Returns:
      A `jinit.meanfield.ShapedActivation`.

    Raises:
      ValueError: if both or neither of `depth` and `maximal_c_map` are given, if `tau` is not above 0, or if
        there is no solution.

    Example:
      >>> import jax.numpy as jnp, jinit
      >>> shaped = jinit.meanfield.tat(jnp.tanh, depth=50)
      >>> round(shaped.input_scale, 5), round(shaped.input_shift, 5)
      (0.08166, 0.52585)

    References:
      Zhang, Botev, Martens, "Deep Learning without Shortcuts: Shaping the Kernel with Tailored Rectifiers",
      2022.
    """
    caller = "jinit.meanfield.tat(...)"
    if not tau > 0:
        raise ValueError(message(caller, "`tau` must be above 0", f"tau={tau!r}"))
    network = _network(caller, depth, maximal_c_map)
    curvature = _solved(caller, lambda x: network(0.0, lambda y: x + y) - tau, 0.0, tau)

    def conditions(shaped: Shaped) -> tuple[float, ...]:
        return shaped.q_slope - 1, shaped.c_slope - 1, shaped.c_curvature / curvature - 1

    return _shaped(caller, activation, conditions, math.sqrt(curvature), smooth=True)


def tat_leaky_relu(
    *, depth: int | None = None, maximal_c_map: Network | None = None, eta: float = 0.9
) -> ShapedActivation:
    """Tailored rectifier: the leaky relu with which inputs at right angles end up at correlation `eta`.

    The slope a < 1 for negative arguments is such that the network's correlation map takes 0 to `eta`, and
    the output is scaled by `√(2 / (1 + a²))`. Any positively homogeneous activation has `Q(1) = Q'(1) = C'(1)
    = 1`.

    Args:
      depth: the number of nonlinear layers of a plain network.
      maximal_c_map: for other networks, in place of `depth`, as in `jinit.meanfield.dks`.
      eta: the correlation, above 0 and below 1.

    Returns:
      A `jinit.meanfield.ShapedActivation` of a leaky relu.

    Raises:
      ValueError: if both or neither of `depth` and `maximal_c_map` are given, if `eta` is out of range, or if
        the network is so shallow that not even relu reaches `eta`.

    Example:
      >>> import jinit
      >>> shaped = jinit.meanfield.tat_leaky_relu(depth=50)
      >>> round(float(-shaped(-1.0) / shaped(1.0)), 5)
      0.43052

    References:
      Zhang, Botev, Martens, "Deep Learning without Shortcuts: Shaping the Kernel with Tailored Rectifiers",
      2022, section 4.
    """
    caller = "jinit.meanfield.tat_leaky_relu(...)"
    if not 0 < eta < 1:
        raise ValueError(message(caller, "`eta` must be above 0 and below 1", f"eta={eta!r}"))
    network = _network(caller, depth, maximal_c_map)
    if network(0.0, lambda c: leaky_c_map(c, 0.0)) <= eta:
        must = "the network must be so deep that relu exceeds `eta`"
        raise ValueError(message(caller, must, f"eta={eta!r}", "Choose a smaller `eta`, or relu itself."))
    slope = _solved(caller, lambda a: eta - network(0.0, lambda c: leaky_c_map(c, a)), 0.0, 1.0)
    return ShapedActivation(LeakyRelu(slope), output_scale=math.sqrt(2 / (1 + slope**2)))


def _network(caller: str, depth: int | None, maximal_c_map: Network | None) -> Network:
    if (depth is None) == (maximal_c_map is None):
        must, got = (
            "one of `depth` and `maximal_c_map` must be given",
            f"depth={depth!r}, maximal_c_map={maximal_c_map!r}",
        )
        raise ValueError(message(caller, must, got))
    if maximal_c_map is not None:
        return maximal_c_map
    layers = as_integer(depth)
    if layers is None or layers < 1:
        raise ValueError(message(caller, "`depth` must be an integer of at least 1", f"depth={depth!r}"))

    def plain(c: float, layer: Layer) -> float:
        for _ in range(layers):
            c = layer(c)
        return c

    return plain


def _solved(caller: str, excess: Callable[[float], float], low: float, high: float) -> float:
    """The root of a function that does not fall, by bisection to the last digit."""
    if not excess(low) <= 0 <= excess(high):
        got = f"excesses {excess(low):.3g} and {excess(high):.3g} at the ends of the range"
        advice = "It takes `(c, layer)`, and applies `layer` at least once."
        raise ValueError(message(caller, "`maximal_c_map` must reach its target", got, advice))
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return middle


def _shaped(
    caller: str,
    activation: str | Activation,
    conditions: Callable[[Shaped], tuple[float, ...]],
    bend: float,
    *,
    smooth: bool,
) -> ShapedActivation:
    function = integrand(caller, activation)
    if function.panels.jumps:
        must = "`activation` must be continuous, or its correlation map is infinitely steep at one"
        got = f"activation={activation!r}, which jumps at {function.panels.jumps[0]:.6g}"
        raise ValueError(message(caller, must, got))
    shape: Shape | None = solved_shape(function, conditions, bend, smooth=smooth)
    if shape is None:
        advice = "Positively homogeneous activations have none: use `jinit.meanfield.tat_leaky_relu`."
        got = f"activation={activation!r}, for which none was found"
        raise ValueError(message(caller, "the conditions must have a solution", got, advice))
    return ShapedActivation(function.activation, *shape.parameters())
