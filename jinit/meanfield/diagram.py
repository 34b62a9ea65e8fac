"""The phase diagram: fixed points over both variances, and a plot of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from jinit._errors import message
from jinit._typing import Activation, Array
from jinit.meanfield.critical import CriticalLine, critical_line
from jinit.meanfield.entries import refuse_traced
from jinit.meanfield.fixed import FixedPoint, fixed_point


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PhaseDiagram:
    """Fixed points over a grid of variances, from `jinit.meanfield.phase_diagram`. A pytree.

    Attributes:
      weight_variance: σ_w², shape (w,).
      bias_variance: σ_b², shape (b,).
      points: a `jinit.meanfield.FixedPoint` with fields of shape (b, w).
      critical: the critical line, where it crosses the grid.

    Example:
      >>> import jax.numpy as jnp, jinit
      >>> diagram = jinit.meanfield.phase_diagram(
      ...     jnp.tanh, weight_variance=jnp.array([1.0, 2.0, 3.0]), bias_variance=jnp.array([0.05, 0.3])
      ... )
      >>> diagram.points.phase.tolist()
      [['ordered', 'chaotic', 'chaotic'], ['ordered', 'ordered', 'chaotic']]
    """

    weight_variance: Array
    bias_variance: Array
    points: FixedPoint
    critical: CriticalLine

    def plot(self) -> Any:
        """Depth scales of correlations as a matplotlib figure, with the critical line: dashed where unstable.

        White is where signals explode. Needs matplotlib, the optional extra `jinit[plots]`.

        Raises:
          TypeError: under `jax.jit` and the like, where there are no values.
          ImportError: matplotlib is not installed.
        """
        refuse_traced("PhaseDiagram.plot()", self.points.q, "")
        return _plot(self)


def phase_diagram(
    activation: str | Activation,
    *,
    weight_variance: ArrayLike,
    bias_variance: ArrayLike,
    initial_q: float = 1.0,
) -> PhaseDiagram:
    """Where a plain network is ordered and where chaotic: fixed points over a grid of variances.

    Args:
      activation: an elementwise JAX function, or the name of one as in `jinit.gain`.
      weight_variance: values of σ_w², ascending, shape (w,).
      bias_variance: values of σ_b², ascending, shape (b,).
      initial_q: the second moment of the pre-activations of the first layer.

    Returns:
      A `jinit.meanfield.PhaseDiagram`.

    Raises:
      ValueError: as `jinit.meanfield.fixed_point`, and if a grid does not have one axis or does
        not ascend.
      TypeError: as `jinit.meanfield.fixed_point`.

    Example:
      >>> import jax.numpy as jnp, jinit
      >>> values = jnp.array([0.5, 1.5])
      >>> diagram = jinit.meanfield.phase_diagram("relu", weight_variance=values, bias_variance=values)
      >>> diagram.points.q.shape
      (2, 2)

    References:
      Poole, Lahiri, Raghu, Sohl-Dickstein, Ganguli, "Exponential expressivity in deep neural networks through
      transient chaos", 2016, figure 1; Schoenholz, Gilmer, Ganguli, Sohl-Dickstein, "Deep Information
      Propagation", 2017, figure 1.
    """
    caller = "jinit.meanfield.phase_diagram(...)"
    grids = {"weight_variance": jnp.asarray(weight_variance), "bias_variance": jnp.asarray(bias_variance)}
    for name, grid in grids.items():
        if grid.ndim != 1 or not grid.size:
            raise ValueError(message(caller, f"`{name}` must have one axis", f"{name} of shape {grid.shape}"))
        if not isinstance(grid, Tracer) and not np.all(np.diff(np.asarray(grid)) > 0):
            raise ValueError(message(caller, f"`{name}` must ascend", f"{name}={grid.tolist()}"))
    points = fixed_point(
        activation,
        weight_variance=grids["weight_variance"][None, :],
        bias_variance=grids["bias_variance"][:, None],
        initial_q=initial_q,
    )
    line = critical_line(activation, jnp.geomspace(1e-8, 1e4, 1201, dtype=points.q.dtype))
    return PhaseDiagram(grids["weight_variance"], grids["bias_variance"], points, line)


def _plot(diagram: PhaseDiagram) -> Any:
    try:
        from matplotlib.colors import LogNorm
        from matplotlib.figure import Figure
    except ImportError as error:
        advice = "Install the optional extra: pip install jinit[plots]"
        raise ImportError(
            message("PhaseDiagram.plot()", "matplotlib must be installed", str(error), advice)
        ) from error
    # Figure without pyplot: no window, no global state, nothing for the caller to close.
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    weights, biases = np.asarray(diagram.weight_variance), np.asarray(diagram.bias_variance)
    image = axes.pcolormesh(
        weights,
        biases,
        np.asarray(diagram.points.xi_c),
        norm=LogNorm(0.5, 500),
        cmap="viridis",
        shading="nearest",
    )
    figure.colorbar(image, ax=axes, label="depth scale ξ_c of correlations, in layers")
    line = diagram.critical
    for stable, style in ((True, "-"), (False, "--")):
        keep = (np.asarray(line.chi_q) < 1) == stable
        where = (np.where(keep, np.asarray(x), np.nan) for x in (line.weight_variance, line.bias_variance))
        axes.plot(*where, style, color="tab:red", label=f"χ₁ = 1{'' if stable else ', unstable'}")
    axes.set(xlabel="σ_w²", ylabel="σ_b²", xlim=weights[[0, -1]], ylim=biases[[0, -1]])
    axes.legend(loc="best", fontsize="small")
    return figure
