"""Measured and predicted second moments through a deep network, forward and backward.

    python -m experiments.predicted_moments docs/predicted_moments.svg

A residual network of 50 blocks of width 256 with gelu, initialized at three scales. Dots are means of
`measure` over 4 draws of the weights at every block, lines are `predict` from shapes and variances alone.
"""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jinit

WIDTH, DEPTH, BATCH, DRAWS = 256, 50, 64, 4
SCALES = (0.25, 0.5, 1.0)


def apply(params: Any, x: jax.Array) -> jax.Array:
    """The network."""

    def block(h: jax.Array, p: Any) -> tuple[jax.Array, None]:
        return h + jax.nn.gelu(h @ p["up"]) @ p["down"], None

    return jax.lax.scan(block, x, params)[0]


def draw(key: jax.Array, scale: float) -> Any:
    """Weights of variance `scale / WIDTH`."""
    shape = (DEPTH, WIDTH, WIDTH)
    up, down = jax.random.normal(key, (2, *shape), jnp.float32) * (scale / WIDTH) ** 0.5
    return {"up": up, "down": down}


def curves(scale: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By field, `(predicted, measured)` second moments of every block."""
    shapes = jax.eval_shape(draw, jax.random.key(0), scale)
    predicted = jinit.predict(apply, weights=lambda path: scale / WIDTH)(
        shapes, jax.ShapeDtypeStruct((BATCH, WIDTH), "float32")
    )["up"]
    measure = jax.jit(lambda p, x, key: jinit.measure(apply, key=key)(p, x)[1]["up"])
    records = []
    for i in range(DRAWS):
        k1, k2, k3 = jax.random.split(jax.random.key(i), 3)
        records.append(measure(draw(k1, scale), jax.random.normal(k2, (BATCH, WIDTH)), k3))
    found = {}
    for field in ("input", "cotangent"):
        measured = np.mean([getattr(r, field).second_moment for r in records], axis=0)
        found[field] = np.asarray(getattr(predicted, field).second_moment), measured
    return found


def main(path: str) -> None:
    """Draws the figure and prints the largest relative differences."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for scale in SCALES:
        for axis, (field, (predicted, measured)) in zip(axes, curves(scale).items(), strict=True):
            (line,) = axis.semilogy(predicted, label=f"variance {scale:g} / width")
            axis.semilogy(measured, "o", ms=3, color=line.get_color())
            axis.set(title=f"{field} of `up`", xlabel="block", ylabel="second moment")
            print(f"{scale:5g} {field:10s} {np.max(np.abs(predicted / measured - 1)):.3f}")
    axes[0].legend(frameon=False)
    # What dots and lines are, apart from their colors.
    kinds = ({"ls": "-", "label": "predicted"}, {"ls": "", "marker": "o", "ms": 3, "label": "measured"})
    axes[1].legend(handles=[plt.Line2D([], [], color="0.3", **kind) for kind in kinds], frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
