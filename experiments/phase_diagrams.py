"""Phase diagrams of tanh and gelu, with known points on them.

    python -m experiments.phase_diagrams [--side 60] [--out docs/phase_diagrams.png]

Colors and lines are jinit's. Crosses are critical weight variances by adaptive quadrature and Brent's method,
apart from jinit. Where the line is dashed no forward pass stays on it; white is where signals explode.
"""

from __future__ import annotations

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
from matplotlib.colors import LogNorm

import jinit

# (σ_b², σ_w²) at which chi_1 = 1, from tests/meanfield/data/meanfield.json.
KNOWN = {
    "tanh": [(0.01, 1.42420529), (0.05, 1.76095464), (0.1, 1.98607264), (0.2, 2.28515247), (0.3, 2.50512719)],
    "gelu": [(0.01, 2.98279937), (0.05, 2.30251951), (0.1, 2.07667619), (0.2, 1.97067181), (0.3, 1.95615863)],
}


def diagram(activation: str, side: int) -> Any:
    """Fixed points over σ_w² from 0.5 to 4 and σ_b² from 0 to 0.3."""
    weights, biases = jnp.linspace(0.5, 4.0, side), jnp.linspace(0.0, 0.3, side // 2)
    return jinit.meanfield.phase_diagram(activation, weight_variance=weights, bias_variance=biases)


def draw(axes: Any, name: str, found: Any) -> Any:
    """One panel."""
    grid = np.asarray(found.weight_variance), np.asarray(found.bias_variance)
    image = axes.pcolormesh(*grid, np.asarray(found.points.xi_c), norm=LogNorm(0.5, 500), shading="nearest")
    line = found.critical
    for stable, style in ((True, "-"), (False, "--")):
        keep = (np.asarray(line.chi_q) < 1) == stable
        curve = (np.where(keep, np.asarray(x), np.nan) for x in (line.weight_variance, line.bias_variance))
        axes.plot(*curve, style, color="tab:red", label=f"χ₁ = 1, {'stable' if stable else 'unstable'}")
    biases, weights = zip(*KNOWN[name], strict=True)
    # Some of them lie on the edge of the diagram, which must not cut them in half.
    axes.plot(weights, biases, "kx", label="by adaptive quadrature", clip_on=False, zorder=5)
    axes.set(title=name, xlabel="σ_w²", xlim=grid[0][[0, -1]], ylim=grid[1][[0, -1]])
    return image


def main() -> None:
    """Draws both, and says how far the line is from the known points."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=60)
    parser.add_argument("--out", default="docs/phase_diagrams.png")
    arguments = parser.parse_args()
    figure = matplotlib.figure.Figure(figsize=(9, 3.6), layout="constrained")
    with jax.enable_x64(True):
        for axes, name in zip(figure.subplots(1, 2, sharey=True), KNOWN, strict=True):
            biases, wanted = np.array(KNOWN[name]).T
            found = jinit.meanfield.critical_weight_variance(name, bias_variance=biases)[:, 0]
            print(f"{name}: {np.abs(np.asarray(found) / wanted - 1).max():.1e} from the known points")
            image = draw(axes, name, diagram(name, arguments.side))
    figure.axes[0].set_ylabel("σ_b²")
    figure.axes[0].legend(fontsize="small")
    figure.colorbar(image, ax=figure.axes, label="depth scale ξ_c of correlations, in layers")
    figure.savefig(arguments.out, dpi=90)


if __name__ == "__main__":
    main()
