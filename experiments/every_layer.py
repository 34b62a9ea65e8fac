"""Every layer needs its own initialization.

Perceptrons of width 64 on scikit-learn's digits, 390 steps of Adam (1e-3) on batches of 128, five seeds;
ReLU and He unless said otherwise. *Same key* draws every hidden kernel from one key, so that all square
kernels are the same matrix, in every seed too. The output layer is tried on the ten digits, and its bias on
a rare class: is it an eight? There the prior-probability bias is the logarithm of each class's share in the
training set (Lin et al. 2017).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jinit
from experiments._data import Data, digits
from experiments._networks import ACTIVATIONS, MLP, plan
from experiments._numbers import percent, summary, table
from experiments._results import Claim, Track
from experiments._training import compare

WIDTH, RARE = 64, 8
POINTS = 0.01


def first_only(rest: Any) -> jinit.Plan:
    """He for the first kernel, `rest` for all others."""
    return plan(rest, ("*/Dense_0/kernel", jinit.he_normal()))


def same_key(init: Any) -> jinit.Plan:
    """Every hidden kernel but the first, which has another shape, from one key for each network."""

    def by_one_key(
        key: jax.Array, shape: tuple[int, ...], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        return init(jax.random.key(0), shape, dtype, out_sharding)

    return plan(init, ("*/Dense_[1-9]*/kernel", by_one_key))


def depth_plans(init: Any) -> dict[str, jinit.Plan]:
    """Own keys, and one key."""
    return {"own keys": plan(init), "same key": same_key(init)}


OUTPUTS = {"He": jinit.he_normal(), "small": jinit.normal(0.01), "zero": jinit.zeros}


def rare() -> Data:
    """Two classes, one of them rare."""
    data = digits()
    return data._replace(y=(data.y == RARE).astype(jnp.int32), y_test=(data.y_test == RARE).astype(jnp.int32))


def log_prior(data: Data) -> Any:
    """An initializer of the output bias: the logarithm of each class's share."""
    share = np.bincount(np.asarray(data.y)) / len(data.y)

    def bias(
        key: jax.Array, shape: tuple[int, ...], dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        del key, out_sharding
        return jnp.log(jnp.asarray(share, dtype)).reshape(shape)

    return bias


def run(track: Track, *, small: bool = False) -> dict[str, Any]:
    """First layer only, same keys, output layers, output biases."""
    size = {"seeds": 2, "steps": 20} if small else {"seeds": 5, "steps": 390}
    deep, data, prior = 3 if small else 10, rare(), log_prior(rare())
    outputs = {name: plan(jinit.he_normal(), ("*/out/kernel", init)) for name, init in OUTPUTS.items()}
    small_output = ("*/out/kernel", jinit.normal(0.01))
    biases = {
        "zero bias": plan(jinit.he_normal(), small_output),
        "prior bias": plan(jinit.he_normal(), small_output, ("*/out/bias", prior)),
    }
    first = {"every layer": plan(jinit.he_normal())}
    first |= {f"first only, rest {name}": first_only(init) for name, init in REST.items()}
    tasks = {
        "first": lambda: compare(MLP(3, WIDTH), first, digits(), **size),
        "relu": lambda: compare(MLP(deep, WIDTH), depth_plans(jinit.he_normal()), digits(), **size),
        "tanh": lambda: compare(
            MLP(deep, WIDTH, ACTIVATIONS["tanh"]), depth_plans(jinit.glorot_normal()), digits(), **size
        ),
        "output": lambda: compare(MLP(2, WIDTH), outputs, digits(), **size),
        "rare": lambda: compare(MLP(2, WIDTH, outputs=2), biases, data, **size),
    }
    found = {name: tasks[name]() for name in track(list(tasks))}
    share = float(jnp.mean(data.y, dtype=jnp.float32))
    return {**found, "entropy": -share * np.log(share) - (1 - share) * np.log(1 - share)}


REST = {"zero": jinit.zeros, "0.01": jinit.constant(0.01), "0.1": jinit.constant(0.1)}


def paired(found: dict[str, Any], a: str, b: str) -> dict[str, Any]:
    """The difference of accuracies, seed by seed."""
    return summary(np.subtract(found[a]["accuracy"]["each"], found[b]["accuracy"]["each"]))


def shown(found: dict[str, Any]) -> str:
    """Accuracy of each."""
    return ", ".join(f"{name} {percent(each['accuracy'])} %" for name, each in found.items())


def claims(data: dict[str, Any]) -> list[Claim]:
    """Of layers, keys, output kernels and output biases."""
    first, output, few = data["first"], data["output"], data["rare"]
    gaps = {name: paired(data[name], "own keys", "same key") for name in ("relu", "tanh")}
    ahead = [paired(first, "every layer", name) for name in first if name != "every layer"]
    start = {name: each["first_loss"] for name, each in output.items()}
    begin = {name: each["first_loss"] for name, each in few.items()}
    near = abs(begin["prior bias"]["mean"] - data["entropy"]) < 0.1 * data["entropy"]
    return [
        Claim.of(
            "it is not enough to initialize the first layer.",
            f"{shown(first)}.",
            [gap["mean"] - gap["half_width"] > 0 for gap in ahead],
        ),
        Claim.of(
            "layers drawn from the same key train worse than layers with keys of their own.",
            "own minus same, paired, over ten layers: "
            f"{', '.join(f'{n} {percent(g)} points' for n, g in gaps.items())}. "
            "Equal kernels are not equal units, so no symmetry is there to break.",
            [gap["mean"] - gap["half_width"] > 0 for gap in gaps.values()],
        ),
        Claim.of(
            f"an output layer of zeros starts at the loss of a guess, ln 10 = {np.log(10):.3f}, and a "
            "small one near it.",
            "first loss " + ", ".join(f"{name} {each['mean']:.3f}" for name, each in start.items()) + ".",
            [abs(start["zero"]["mean"] - np.log(10)) < 1e-5, abs(start["small"]["mean"] - np.log(10)) < 0.05],
        ),
        Claim.of(
            "an output layer may start at zero or small.",
            f"{shown(output)}; it counts within {100 * POINTS:.0f} point of He.",
            [paired(output, name, "He")["mean"] > -POINTS for name in ("small", "zero")],
        ),
        Claim.of(
            "with a rare class, the bias of prior probabilities starts at the entropy of the classes "
            "instead of ln 2.",
            f"first loss {begin['prior bias']['mean']:.3f} against {begin['zero bias']['mean']:.3f}; the "
            "entropy is "
            f"{data['entropy']:.3f}. Accuracy in the end: {shown(few)}.",
            [near, abs(begin["zero bias"]["mean"] - np.log(2)) < 0.05],
        ),
    ]


def tables(data: dict[str, Any]) -> Iterator[str]:
    """Losses and accuracies."""
    rows = [
        [
            f"{group}: {name}",
            f"{each['first_loss']['mean']:.3g}",
            f"{each['last_loss']['mean']:.3g}",
            percent(each["accuracy"]),
        ]
        for group, found in data.items()
        if group != "entropy"
        for name, each in found.items()
    ]
    yield table(["network", "first loss", "last loss", "accuracy, %"], rows)


def draw(data: dict[str, Any], figure: Any) -> None:
    """Accuracies by group."""
    groups = {name: found for name, found in data.items() if name != "entropy"}
    panels = figure.subplots(1, len(groups))
    for axes, (group, found) in zip(panels, groups.items(), strict=True):
        accuracy = [each["accuracy"] for each in found.values()]
        axes.bar(
            range(len(found)),
            [100 * a["mean"] for a in accuracy],
            yerr=[100 * a["half_width"] for a in accuracy],
        )
        axes.set_xticks(range(len(found)), list(found), rotation=60, ha="right", fontsize="small")
        axes.set(title=group)
    panels[0].set_ylabel("test accuracy, %")
