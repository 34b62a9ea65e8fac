"""What biases do to the signal and to training.

Perceptrons of ten hidden layers on scikit-learn's digits, ReLU by He and tanh by Xavier. The signal is
measured at width 256 before training, over five seeds: the second moment of the last hidden layer's
pre-activations beside what `jinit.meanfield.trajectory` predicts, the share of units there that are zero on
all 256 examples, and the mean cosine of two examples there. Training is 390 steps of Adam (1e-3) at width
64, five seeds. The output layer's bias is zero throughout.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jinit
from experiments._data import digits
from experiments._networks import ACTIVATIONS, MLP, initialize
from experiments._numbers import percent, summary, table
from experiments._results import Claim, Track
from experiments._training import compare

BIASES = {
    "zero": jinit.zeros,
    "constant 0.01": jinit.constant(0.01),
    "constant 0.1": jinit.constant(0.1),
    "constant 1": jinit.constant(1.0),
    "normal 0.1": jinit.normal(0.1),
    "normal 1": jinit.normal(1.0),
}
VARIANCE = {"zero": 0.0, "normal 0.1": 0.01, "normal 1": 1.0}  # of the random ones
KERNELS = {"relu": jinit.he_normal(), "tanh": jinit.glorot_normal()}
WIDTH = 256


def plan(kernel: Any, bias: Any) -> jinit.Plan:
    """Hidden biases by `bias`, that of the output zero."""
    return jinit.plan([("*/kernel", kernel), ("*/out/bias", jinit.zeros), ("*/bias", bias)])


def signal(activation: str, bias: str, *, depth: int, seeds: int) -> dict[str, Any]:
    """Second moment, zeros and cosines in the last hidden layer; the prediction where there is one."""
    model, x = MLP(depth, WIDTH, ACTIVATIONS[activation]), digits().x[:256]
    rules = plan(KERNELS[activation], BIASES[bias])
    params = initialize(model, rules, jax.random.split(jax.random.key(0), seeds), x.shape[1])
    body = MLP(depth, WIDTH, ACTIVATIONS[activation], outputs=WIDTH)

    @jax.jit
    def statistics(params: Any) -> tuple[jax.Array, ...]:
        _, records = jinit.measure(model.apply, backward=False)(params, x)
        hidden = {**params["params"], "out": {"kernel": jnp.eye(WIDTH), "bias": jnp.zeros(WIDTH)}}
        last = body.apply({"params": hidden}, x)  # the activations themselves
        dead = jnp.mean(jnp.all(last == 0, axis=0), dtype=jnp.float32)
        last = last / jnp.linalg.norm(last, axis=1, keepdims=True)
        moment = records[f"params/Dense_{depth - 1}/kernel"].output.second_moment
        cosine = (jnp.sum(last @ last.T) - len(x)) / (len(x) * (len(x) - 1))
        return moment, records["params/out/kernel"].input.zero_fraction, dead, cosine

    names = ("second_moment", "zeros", "dead", "cosine")
    found = dict(zip(names, map(summary, jax.lax.map(statistics, params)), strict=True))
    return {**found, "predicted": predicted(activation, bias, depth, float(jnp.mean(x**2)))}


def predicted(activation: str, bias: str, depth: int, energy: float) -> float | None:
    """Second moment of the last pre-activations by theory, for zero and random biases."""
    if bias not in VARIANCE:
        return None
    scale = KERNELS[activation].variance((WIDTH, WIDTH)) * WIDTH
    first = KERNELS[activation].variance((64, WIDTH)) * 64 * energy + VARIANCE[bias]
    path = jinit.meanfield.trajectory(
        ACTIVATIONS[activation],
        first,
        1.0,
        weight_variance=scale,
        bias_variance=VARIANCE[bias],
        depth=depth - 1,
    )
    return float(path.q[-1])


def run(track: Track, *, small: bool = False) -> dict[str, Any]:
    """Signals and accuracies by activation and bias."""
    depth, seeds, steps = (3, 2, 20) if small else (10, 5, 390)
    found: dict[str, Any] = {}
    for activation, bias in track([(a, b) for a in KERNELS for b in BIASES]):
        found.setdefault(activation, {})[bias] = signal(activation, bias, depth=depth, seeds=seeds)
    for activation in track(list(KERNELS)):
        plans = {name: plan(KERNELS[activation], bias) for name, bias in BIASES.items()}
        model = MLP(depth, 64, ACTIVATIONS[activation])
        trained = compare(model, plans, digits(), seeds=seeds, steps=steps)
        for name, each in trained.items():
            found[activation][name] |= {"accuracy": each["accuracy"]}
    return found


def gap(found: dict[str, Any], bias: str) -> dict[str, Any]:
    """Accuracy with this bias minus that with zeros, paired."""
    return summary(np.subtract(found[bias]["accuracy"]["each"], found["zero"]["accuracy"]["each"]))


def claims(data: dict[str, Any]) -> list[Claim]:
    """Of zero, constant and random biases."""
    relu, others = data["relu"], [name for name in BIASES if name != "zero"]
    gaps = {(a, b): gap(data[a], b) for a in data for b in others}
    worst = {a: min(others, key=lambda b: gaps[a, b]["mean"]) for a in data}
    dead = {name: each["dead"] for name, each in relu.items()}
    revived = summary(np.subtract(dead["zero"]["each"], dead["constant 0.01"]["each"]))
    gained = gap(relu, "constant 0.01")
    cosines = {a: {b: data[a][b]["cosine"]["mean"] for b in BIASES} for a in data}
    return [
        Claim.of(
            "zero is a good start for biases: none of the others does better.",
            "largest gain over zero, paired: "
            + ", ".join(
                f"{a} {percent(max((gaps[a, b] for b in others), key=lambda g: g['mean']))} points"
                for a in data
            )
            + ".",
            [each["mean"] - each["half_width"] <= 0 for each in gaps.values()],
        ),
        Claim.of(
            "a small positive constant keeps ReLU units alive.",
            f"units zero on every example: {', '.join(f'{b} {percent(d)} %' for b, d in dead.items())}; "
            f"paired, 0.01 revives {percent(revived)} points of them and adds {percent(gained)} points of "
            "accuracy.",
            [each["mean"] - each["half_width"] > 0 for each in (revived, gained)],
        ),
        Claim.of(
            "large biases drown the differences between examples and harm training.",
            "mean cosine of two examples with zero and with normal biases of deviation 1: "
            + ", ".join(f"{a} {c['zero']:.2f} and {c['normal 1']:.2f}" for a, c in cosines.items())
            + "; worst change of accuracy: "
            + ", ".join(f"{a} {percent(gaps[a, b])} points ({b})" for a, b in worst.items())
            + ".",
            [
                *(c["normal 1"] > c["zero"] for c in cosines.values()),
                *(
                    gaps[a, b]["mean"] + gaps[a, b]["half_width"] < 0
                    for a in data
                    for b in ("constant 1", "normal 1")
                ),
            ],
        ),
        by_theory(data),
    ]


def by_theory(data: dict[str, Any]) -> Claim:
    """Second moments, measured and predicted."""
    pairs = {
        f"{a} {b} {each['second_moment']['mean']:.3g} ± {each['second_moment']['half_width']:.2g} "
        f"({each['predicted']:.3g})": abs(each["second_moment"]["mean"] - each["predicted"])
        < each["second_moment"]["half_width"]
        for a, found in data.items()
        for b, each in found.items()
        if each["predicted"] is not None
    }
    return Claim.of(
        "theory predicts the second moment with zero and random biases.",
        f"measured (predicted): {', '.join(pairs)}; it counts where the interval holds the prediction.",
        list(pairs.values()),
    )


def tables(data: dict[str, Any]) -> Iterator[str]:
    """Every bias."""
    rows = [
        [
            f"{activation}, {bias}",
            f"{each['second_moment']['mean']:.3g}",
            "" if each["predicted"] is None else f"{each['predicted']:.3g}",
            percent(each["zeros"]),
            percent(each["dead"]),
            f"{each['cosine']['mean']:.3f}",
            percent(each["accuracy"]),
        ]
        for activation, found in data.items()
        for bias, each in found.items()
    ]
    yield table(["biases", "E[h²]", "predicted", "zeros, %", "dead units, %", "cosine", "accuracy, %"], rows)


def draw(data: dict[str, Any], figure: Any) -> None:
    """Cosines and accuracies."""
    left, right = figure.subplots(1, 2)
    for i, (activation, found) in enumerate(data.items()):
        rows, every = np.arange(len(found)) + 0.4 * i, list(found.values())
        left.barh(rows, [each["cosine"]["mean"] for each in every], 0.4, label=activation)
        means, halves = ([100 * each["accuracy"][name] for each in every] for name in ("mean", "half_width"))
        right.errorbar(means, rows, xerr=halves, fmt="o")
    for axes, label in (
        (left, "mean cosine of two examples, last hidden layer"),
        (right, "test accuracy, %"),
    ):
        axes.set_yticks(np.arange(len(BIASES)) + 0.2, list(BIASES))
        axes.set(xlabel=label)
        axes.invert_yaxis()
    left.legend(loc="lower left")
