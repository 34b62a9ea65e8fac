"""The singular values of the Jacobian of an infinitely wide network, by free probability."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from jinit._errors import message
from jinit.initializers import _arguments as arguments
from jinit.initializers._quadrature import NoExpectationError, NotElementwiseError, Pointwise
from jinit.initializers.gains import activation_named, refuse_untraceable
from jinit.spectra.derivative_law import DerivativeLaw, derivative_law
from jinit.spectra.free_product import FreeProduct

Weights = Literal["gaussian", "orthogonal"]
LEAST = 1e-140  # singular values of which the squares are still numbers
POINTS, FADED = 400, 8.0  # of the grid of `cdf`, and logarithms by which it goes down per layer


@dataclasses.dataclass(frozen=True, eq=False)
class JacobianLaw:
    """What the singular values `s` of `J = D_L W_L … D_1 W_1` tend to as the width grows.

    Attributes:
      depth: L, the number of activations.
      weights: `"gaussian"` or `"orthogonal"`.
      weight_variance: `σ_w²`: width times the variance of a weight; `W / σ_w` is orthogonal, or has variance
        1/width.
      variance: of the pre-activations.
      slope_variance: relative variance of `f'²`, `μ_2 / μ_1² − 1` with `μ_k = E[f'(h)^{2k}]`.
      chi: `χ = σ_w² μ_1`, the mean squared singular value of one layer.
      readout: whether one more weight matrix follows.

    Example:
      >>> import jinit
      >>> law = jinit.jacobian_law("linear", depth=2)
      >>> round(law.largest**2, 6), round(law.moment(2), 6)  # Fuss and Catalan: 3³/2², 3
      (6.75, 3.0)
    """

    depth: int
    weights: Weights
    weight_variance: float
    variance: float
    slope_variance: float
    chi: float
    readout: bool
    _product: FreeProduct = dataclasses.field(repr=False)

    @property
    def mean_square(self) -> float:
        """`m_1 = χ^L`, times `σ_w²` for a readout."""
        return self.moment(1)

    @property
    def relative_variance(self) -> float:
        """Variance of `s²` over the square of its mean.

        `L (μ_2/μ_1² − 1 − s_1)`, with `s_1 = −1` for Gaussian weights, 0 for orthogonal ones; one more for a
        Gaussian readout.
        """
        spread = self.slope_variance + (1.0 if self.weights == "gaussian" else 0.0)
        return self.depth * spread + (1.0 if self.readout and self.weights == "gaussian" else 0.0)

    @property
    def isometry_gap(self) -> float:
        """Root mean square of `s² − 1`."""
        mean = self.mean_square
        return math.sqrt(self.relative_variance * mean**2 + (mean - 1) ** 2)

    def moment(self, order: int) -> float:
        """`m_j = E[s^{2j}]` for j = `order` from 1 up."""
        order = arguments.count("JacobianLaw.moment(...)", "order", order)
        return self._product.moments(order)[-1]

    @functools.cached_property
    def largest(self) -> float:
        """The upper edge of the spectrum."""
        return math.sqrt(self._product.edge())

    @property
    def zero_mass(self) -> float:
        """Share of singular values that are exactly zero: that of dead units, `P(f' = 0)`."""
        return self._product.zero_mass

    def density(self, points: ArrayLike) -> np.ndarray:
        """Density of the singular values at `points`, single points of mass (dead units) left out.

        Below 1e-140 it is that at 1e-140.

        Raises:
          ValueError: all singular values are equal, as in an orthogonal linear network, or the network is one
            orthogonal layer, where `s = σ_w |f'|` and only `cdf` is given.
        """
        if self._discrete:
            must = "the network must have more than one layer, with singular values that differ"
            got = f"depth={self.depth}, weights={self.weights!r}"
            raise ValueError(message("JacobianLaw.density(...)", must, got, "Use `cdf`."))
        s = np.asarray(points, float)
        inside = (s > 0) & (s < self.largest)
        found = np.zeros_like(s)
        at = np.maximum(s[inside], LEAST)
        found[inside] = 2 * at * self._product.density(at**2)
        return found

    def cdf(self, points: ArrayLike) -> np.ndarray:
        """Share of the singular values that are at most `points`, to about 1e-3.

        Where they are not zero, what lies between 0 and 1e-140 is not told apart.
        """
        s = np.asarray(points, float)
        if self._discrete:
            return self._product.cdf_of_one_layer(s**2) * (s >= 0)
        place, mass = self._product.atom
        grid, above = self._above
        between = 1 - np.interp(s, grid, above, left=float(above[0]), right=0.0)
        between = between - mass * (s < math.sqrt(place) * (1 - 1e-9))
        return np.where(s < 0, 0.0, np.where(s == 0, self.zero_mass, np.maximum(between, self.zero_mass)))

    @property
    def _discrete(self) -> bool:
        return self.weights == "orthogonal" and (self.depth == 1 or self.slope_variance == 0)

    @functools.cached_property
    def _above(self) -> tuple[np.ndarray, np.ndarray]:
        """Grid and `P(s > grid)`."""
        # In logarithms, as P(λ ≤ x) falls as x^(1/(L + 1)) only, over hundreds of decades in deep networks;
        # by the square of v, as densities begin with a root of the distance from the edge, or one over it.
        length = min(FADED * (self.depth + 2), math.log(self.largest) - math.log(LEAST))
        v = np.linspace(1, 0, POINTS)
        between = (v[1:] + v[:-1]) / 2
        middle = self.largest * np.exp(-length * between**2)
        mass = 2 * length * between * -np.diff(v) * middle * self.density(middle)
        return self.largest * np.exp(-length * v**2), np.append(np.cumsum(mass[::-1])[::-1], 0.0)


def jacobian_law(
    activation: str | Callable[..., Any],
    *,
    depth: int,
    weights: Weights = "gaussian",
    weight_variance: float | None = None,
    variance: float = 1.0,
    readout: bool = False,
) -> JacobianLaw:
    """The law of the singular values of the Jacobian of a wide fully connected network.

    For `h_l = W_l x_{l−1} + b_l`, `x_l = f(h_l)`, with square weights and pre-activations of variance q, the
    Jacobian `∂x_L/∂x_0` is a product of matrices that grow free of one another. The S-transforms multiply:

        S(m) = [S_W(m) S_{D²}(m)]^L,   S_W = 1/(σ_w² (1 + m)) for Gaussian, 1/σ_w² for orthogonal weights,

    and `z = (1 + m) / (m S(m))` gives the edge, the moments `E[s^{2j}]` and the density. Any elementwise
    activation will do: the law of `f'²` is found by quadrature.

    Args:
      activation: a function or the name of one, as in `jinit.gain`.
      depth: L, the number of layers, each with an activation.
      weights: `"gaussian"` (entries of any law with finite fourth moment behave alike) or `"orthogonal"`.
      weight_variance: `σ_w²`; None for the critical `1 / E[f'(h)²]`, which gives χ = 1.
      variance: q, of the pre-activations, the same in all layers: at a fixed point of the network.
      readout: whether a last weight matrix without activation follows.

    Returns:
      A `JacobianLaw`: `moment(j)`, `mean_square`, `relative_variance`, `largest`, `density(s)`, `cdf(s)`.

    Raises:
      TypeError: an option is no number, or `depth` no whole one; the activation is no function.
      ValueError: an option is out of range; the activation is unknown, is not elementwise, or has slope zero.

    Example:
      >>> import jinit
      >>> law = jinit.jacobian_law("relu", depth=8, weights="orthogonal")
      >>> round(law.largest**2, 4), round(law.relative_variance, 6), round(law.weight_variance, 6)
      (20.372, 8.0, 2.0)
      >>> jinit.jacobian_law("tanh", depth=8, weights="orthogonal", variance=1 / 80).relative_variance < 0.01
      True

    References:
      Pennington, Schoenholz, Ganguli, *Resurrecting the sigmoid in deep learning through dynamical isometry*,
      2017, §2.3-2.5, and *The emergence of spectral universality in deep networks*, 2018. Here the law of
      `f'²` is any, and the edge and density are solved for in its own transform instead of by series.
    """
    caller = "jinit.jacobian_law(...)"
    depth = arguments.count(caller, "depth", depth)
    if weights not in get_args(Weights):
        raise ValueError(message(caller, "`weights` must be 'gaussian' or 'orthogonal'", f"{weights=}"))
    variance = arguments.positive_number(caller, "variance", variance)
    slopes = _slopes(caller, activation, variance)
    mean = slopes.moment(1)
    given = 1 / mean if weight_variance is None else weight_variance
    scale = arguments.positive_number(caller, "weight_variance", given)
    chi = scale * mean
    # In units of χ per layer and 1 for a readout, so that deep products neither overflow nor vanish.
    unit = DerivativeLaw(slopes.values / mean, slopes.weights)
    log_scale = depth * math.log(chi) + (math.log(scale) if readout else 0.0)
    product = FreeProduct(unit, depth, weights == "gaussian", readout, log_scale)
    spread = max(unit.moment(2) - 1.0, 0.0)
    spread = 0.0 if spread < 1e-12 else spread
    return JacobianLaw(depth, weights, scale, variance, spread, chi, readout, product)


def _slopes(caller: str, activation: str | Callable[..., Any], variance: float) -> DerivativeLaw:
    name = activation if isinstance(activation, str) else getattr(activation, "__name__", activation)
    got = f"activation={name!r}"
    function = activation_named(caller, activation) if isinstance(activation, str) else activation
    if not callable(function):
        must = "`activation` must be a function or the name of one"
        raise TypeError(message(caller, must, got))
    try:
        Pointwise(function)  # looks whether each entry is mapped by itself, before anything else is tried
        refuse_untraceable(caller, function, got)
        slopes = derivative_law(function, variance)
    except NotElementwiseError as reason:
        raise ValueError(message(caller, f"`activation` must be elementwise, but {reason}", got)) from None
    except NoExpectationError as reason:
        must = f"`activation` must have a derivative, but {reason}"
        raise ValueError(message(caller, must, got)) from None
    if not slopes.moment(1) > 0:
        raise ValueError(message(caller, "`activation` must not have slope zero everywhere", got))
    return slopes
