"""Training after each method of calibration, on the handwritten digits of scikit-learn.

    python -m experiments.calibrated_training [--steps 300] [--seeds 3] [--write docs/calibrated_training]

A ReLU network of 16 hidden layers, 64 wide, trained with Adam on batches of 64. Every method but the first
two starts from the weights of the first, Flax's default, whose signal halves at every layer. All comes from
`jinit.compare`. `--write PATH` leaves `PATH.json` and `PATH.png`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import jinit

DEPTH, WIDTH, BATCH = 16, 64, 64
LEARNING_RATE = 1e-3


class Net(nn.Module):
    """A plain network."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, 64] -> [batch, 10]."""
        for _ in range(DEPTH):
            x = nn.relu(nn.Dense(WIDTH)(x))
        return nn.Dense(10)(x)


def digits() -> tuple[jax.Array, jax.Array]:
    """Standardized images, flat, and their labels."""
    images, labels = load_digits(return_X_y=True)
    return jnp.asarray((images - images.mean()) / images.std(), jnp.float32), jnp.asarray(labels, jnp.int32)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over the batch."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def methods(apply: Callable[..., Any], x: jax.Array, labels: jax.Array) -> dict[str, Any]:
    """Every method of calibration, those that need a batch with the first 256 images."""

    def loss(params: Any, _: jax.Array) -> jax.Array:
        return cross_entropy(apply(params, x[:256]), labels[:256])

    default = jinit.lecun_normal()
    on_batch = lambda calibrate: lambda params, _: calibrate(params, x[:256])  # noqa: E731
    return {
        "LeCun (Flax)": default,
        "He": jinit.he_normal(),
        "lsuv": [default, on_batch(jinit.lsuv(apply))],
        "autoinit": [default, on_batch(jinit.autoinit(apply))],
        "orthogonal, lsuv": [jinit.orthogonal(), on_batch(jinit.lsuv(apply))],
        "lsuv by unit, centered": [default, on_batch(jinit.lsuv(apply, per_unit=True, center=True))],
        "equalize": [default, on_batch(jinit.equalize(apply))],
        "compromise": [default, on_batch(jinit.compromise(apply))],
        "metainit": [default, jinit.metainit(loss, steps=100)],
        "gradinit": [default, jinit.gradinit(loss, rule="sign", step_size=LEARNING_RATE, max_norm=1e3,
                                             learning_rate=0.05, steps=100)],
    }  # fmt: skip


def run(steps: int, seeds: int) -> Any:
    """The comparison."""
    (x, labels), model = digits(), Net()
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    params = jax.tree.map(
        lambda s: jnp.zeros(s.shape, s.dtype), shapes
    )  # kernels are drawn, biases stay zero
    compare = jinit.compare(
        methods(model.apply, x, labels), model.apply, loss=cross_entropy, labels=labels, steps=steps,
        seeds=seeds, batch_size=BATCH, optimizer=optax.adam(LEARNING_RATE),
    )  # fmt: skip
    return compare(params, x)


def plot(found: Any) -> Any:
    """Losses, smoothed over ten steps: medians over the seeds, in one panel."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axis = figure.subplots()
    for row in found.rows:
        curves = np.asarray(row.losses)[:, :-1]
        smooth = np.stack([np.convolve(c, np.ones(10) / 10, "valid") for c in curves])
        axis.plot(np.arange(smooth.shape[1]) + 9, np.median(smooth, axis=0), label=row.method, linewidth=1.3)
    axis.set(xlabel="step", ylabel="cross-entropy", yscale="log")
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    return figure


def main() -> None:
    """Print the table, and write the result if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", type=Path, metavar="PATH")
    arguments = parser.parse_args()
    found = run(arguments.steps, arguments.seeds)
    print(found.render(80))
    if arguments.write:
        arguments.write.with_suffix(".json").write_text(json.dumps(found.to_dict(), allow_nan=False) + "\n")
        plot(found).savefig(arguments.write.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
