"""Units that start equal stay equal.

A perceptron of two hidden layers of 32 tanh units on scikit-learn's digits, 390 steps of Adam (1e-3), five seeds. The *spread* of a
layer is the largest difference between the incoming weights of two units, over the root mean square of its weights: exactly equal
units have 0, and rounding leaves some 1e-6. Noise is normal, added to kernels that are 0.1 everywhere, whose mean it cannot take away.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

import jinit
from experiments._data import digits
from experiments._networks import MLP, initialize, plan, stack
from experiments._numbers import percent, summary, table
from experiments._results import Claim, Track
from experiments._training import train

WIDTH, EQUAL, POINTS = 32, 1e-3, 0.01
SYMMETRIC = {"zeros": jinit.zeros, "ones": jinit.ones, "constant 0.1": jinit.constant(0.1)}
NOISE = [10.0**power for power in range(-9, 1)]


def spread(kernel: np.ndarray) -> float:
    """Of one layer, [in, out]."""
    return float(np.ptp(kernel, axis=1).max() / (np.sqrt(np.mean(kernel**2)) + 1e-30))


def fate(plans: dict[str, jinit.Plan], seeds: int, steps: int) -> dict[str, Any]:
    """Accuracy, and spread of both hidden layers before and after, by plan."""
    data, model = digits(), MLP(2, WIDTH, jax.numpy.tanh)
    keys = jax.random.split(jax.random.key(0), seeds)
    before = stack([initialize(model, each, keys, 64) for each in plans.values()])
    trained = train(model.apply, before, data, steps=steps, seeds=seeds)
    accuracy = np.asarray(trained.accuracy).reshape(-1, seeds)

    def spreads(params: Any) -> np.ndarray:
        kernels = [np.asarray(params["params"][f"Dense_{i}"]["kernel"]) for i in range(2)]
        return np.array([[spread(one) for one in kernel] for kernel in kernels]).max(0).reshape(-1, seeds)

    first, last = spreads(before), spreads(trained.params)
    return {
        name: {"accuracy": summary(accuracy[i]), "before": first[i], "after": last[i]}
        for i, name in enumerate(plans)
    }


def run(track: Track, *, small: bool = False) -> dict[str, Any]:
    """Symmetric, noisy and random starts."""
    size = (2, 20) if small else (5, 390)
    random_bias = ("*/bias", jinit.normal(0.1))
    groups = {
        "symmetric": {name: plan(init) for name, init in SYMMETRIC.items()},
        "noise": {f"{noise:.0e}": plan(jinit.normal(noise, mean=0.1)) for noise in NOISE},
        "random": {
            "Xavier, zero biases": plan(jinit.glorot_normal()),
            "Xavier, random biases": jinit.plan([("*/kernel", jinit.glorot_normal()), random_bias]),
            "zero weights, random biases": jinit.plan([("*/kernel", jinit.zeros), random_bias]),
        },
    }
    return {name: fate(groups[name], *size) for name in track(list(groups))}


def best(data: dict[str, Any]) -> str:
    """The level of noise with the highest accuracy."""
    return max(data["noise"], key=lambda level: data["noise"][level]["accuracy"]["mean"])


def claims(data: dict[str, Any]) -> list[Claim]:
    """Of symmetry, noise and biases."""
    symmetric, noise = data["symmetric"], data["noise"]
    ends = {name: max(each["after"]) for name, each in symmetric.items()}
    fates = ", ".join(f"{name} {e:.1e} ({percent(symmetric[name]['accuracy'])} %)" for name, e in ends.items())
    least, level = next(iter(noise)), best(data)
    zero, drawn = (data["random"][f"Xavier, {word} biases"]["accuracy"] for word in ("zero", "random"))
    gap = summary(np.subtract(zero["each"], drawn["each"]))
    return [
        Claim.of(
            "zero, ones and constant weights keep the units of a layer identical through training.",
            f"largest spread after training, and accuracy: {fates}.",
            [end < EQUAL for end in ends.values()],
        ),
        Claim.of(
            "a little noise breaks the symmetry.",
            f"the units do part, but too late: noise of {least} ends at a spread of {max(noise[least]['after']):.1e} and "
            f"{percent(noise[least]['accuracy'])} %. The best noise tried, {level} on weights of 0.1, gives "
            f"{percent(noise[level]['accuracy'])} %, Xavier {percent(zero)} %. It counts where noise comes within "
            f"{100 * POINTS:.0f} point of Xavier.",
            [each["accuracy"]["mean"] >= zero["mean"] - POINTS for each in noise.values()],
        ),
        Claim.of(
            "biases may start at zero when the weights are random.",
            f"{percent(zero)} % with zero biases, {percent(drawn)} % with random ones; paired difference "
            f"{percent(gap)} points. Random biases alone do not replace random weights: "
            f"{percent(data['random']['zero weights, random biases']['accuracy'])} %.",
            gap["mean"] + gap["half_width"] > -POINTS,
        ),
    ]


def tables(data: dict[str, Any]) -> Iterator[str]:
    """Every start."""
    rows = [
        [name, f"{max(each['before']):.1e}", f"{max(each['after']):.1e}", percent(each["accuracy"])]
        for group in data.values()
        for name, each in group.items()
    ]
    for row, level in zip(rows[len(SYMMETRIC) :], data["noise"], strict=False):
        row[0] = f"0.1 + noise of {level}"
    yield table(["weights", "spread before", "spread after", "accuracy, %"], rows)


def draw(data: dict[str, Any], figure: Any) -> None:
    """Against the noise."""
    left, right = figure.subplots(1, 2)
    levels = [float(level) for level in data["noise"]]
    for when, marker in (("before", "o--"), ("after", "s-")):
        left.loglog(levels, [max(each[when]) for each in data["noise"].values()], marker, label=f"{when} training")
    left.set(xlabel="deviation of the noise", ylabel="spread of units")
    left.legend()
    found = [each["accuracy"] for each in data["noise"].values()]
    right.errorbar(
        levels, [100 * each["mean"] for each in found], [100 * each["half_width"] for each in found], fmt="o-"
    )
    right.axhline(100 * data["random"]["Xavier, zero biases"]["accuracy"]["mean"], color="0.5", ls="--")
    right.set(xscale="log", xlabel="deviation of the noise", ylabel="test accuracy, % (dashed: Xavier)")
