"""Units that start equal stay equal.

A perceptron of two hidden layers of 32 tanh units on scikit-learn's digits, 390 steps of Adam (1e-3), five
seeds. The *spread* of a layer is the largest difference between the incoming weights of two units, over the
root mean square of its weights: exactly equal units have 0, and rounding leaves some 1e-6. Noise is normal,
added to kernels that are 0.1 everywhere or zero everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

import jinit
from experiments._data import digits
from experiments._networks import MLP, initialize, plan, stack
from experiments._numbers import listed, percent, summary, table
from experiments._results import Claim, Track
from experiments._training import train

WIDTH, EQUAL, POINTS = 32, 1e-3, 0.01
SYMMETRIC = {"zeros": jinit.zeros, "ones": jinit.ones, "constant 0.1": jinit.constant(0.1)}
MEANS = (0.1, 0.0)
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
        **{
            f"noise on {mean}": {f"{noise:.0e}": plan(jinit.normal(noise, mean=mean)) for noise in NOISE}
            for mean in MEANS
        },
        "random": {
            "Xavier, zero biases": plan(jinit.glorot_normal()),
            "Xavier, random biases": jinit.plan([("*/kernel", jinit.glorot_normal()), random_bias]),
            "zero weights, random biases": jinit.plan([("*/kernel", jinit.zeros), random_bias]),
        },
    }
    return {name: fate(groups[name], *size) for name in track(list(groups))}


def best(noise: dict[str, Any]) -> str:
    """The level of noise with the highest accuracy."""
    return max(noise, key=lambda level: noise[level]["accuracy"]["mean"])


def enough(noise: dict[str, Any], goal: dict[str, Any]) -> str:
    """What noise of each level does, in words."""
    least, level = next(iter(noise)), best(noise)
    good = [name for name, each in noise.items() if each["accuracy"]["mean"] >= goal["mean"] - POINTS]
    return (
        f"{least} ends at a spread of {max(noise[least]['after']):.1e} and "
        f"{percent(noise[least]['accuracy'])} %, the "
        f"best is {level} with {percent(noise[level]['accuracy'])} %, and within {100 * POINTS:.0f} point "
        "of Xavier are "
        f"{listed(good) or 'none'}"
    )


def claims(data: dict[str, Any]) -> list[Claim]:
    """Of symmetry, noise and biases."""
    symmetric, noises = data["symmetric"], {mean: data[f"noise on {mean}"] for mean in MEANS}
    ends = {name: max(each["after"]) for name, each in symmetric.items()}
    fates = ", ".join(
        f"{name} {e:.1e} ({percent(symmetric[name]['accuracy'])} %)" for name, e in ends.items()
    )
    zero, drawn = (data["random"][f"Xavier, {word} biases"]["accuracy"] for word in ("zero", "random"))
    gap = summary(np.subtract(zero["each"], drawn["each"]))
    told = "; ".join(f"on weights of {mean}, {enough(noise, zero)}" for mean, noise in noises.items())
    return [
        Claim.of(
            "zero, ones and constant weights keep the units of a layer identical through training.",
            f"largest spread after training, and accuracy: {fates}.",
            [end < EQUAL for end in ends.values()],
        ),
        Claim.of(
            "a little noise breaks the symmetry.",
            f"units part, but most noise is too little to train well: {told}. Xavier reaches "
            f"{percent(zero)} %.",
            [
                each["accuracy"]["mean"] >= zero["mean"] - POINTS
                for noise in noises.values()
                for each in noise.values()
            ],
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
        [
            f"{group}: {name}",
            f"{max(each['before']):.1e}",
            f"{max(each['after']):.1e}",
            percent(each["accuracy"]),
        ]
        for group, found in data.items()
        for name, each in found.items()
    ]
    yield table(["weights", "spread before", "spread after", "accuracy, %"], rows)


def draw(data: dict[str, Any], figure: Any) -> None:
    """Against the noise."""
    left, right = figure.subplots(1, 2)
    for i, mean in enumerate(MEANS):
        noise = data[f"noise on {mean}"]
        levels, every = [float(level) for level in noise], list(noise.values())
        for when, style in (("before", "o--"), ("after", "s-")):
            spreads = [max(each[when]) for each in every]
            left.loglog(levels, spreads, style, color=f"C{i}", ms=4, label=f"on {mean}, {when} training")
        means, halves = ([100 * each["accuracy"][name] for each in every] for name in ("mean", "half_width"))
        right.errorbar(levels, means, halves, fmt="o-", ms=4, label=f"on {mean}")
    left.set(xlabel="deviation of the noise", ylabel="spread of units")
    left.legend(fontsize="small")
    right.axhline(100 * data["random"]["Xavier, zero biases"]["accuracy"]["mean"], color="0.5", ls="--")
    right.set(xscale="log", xlabel="deviation of the noise", ylabel="test accuracy, % (dashed: Xavier)")
