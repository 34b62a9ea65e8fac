"""Xavier for tanh and sigmoid, He for ReLU.

Perceptrons of width 64 on scikit-learn's digits with either scheme, in 2 and in 30 hidden layers, biases
zero; 600 steps of SGD with momentum 0.9, at a rate of 0.005, on batches of 128; five seeds. Adam would hide
the difference, for it rescales every gradient. The factor per layer is the geometric mean of the ratio of
second moments of pre-activations from one hidden layer to the next, in 30 layers of 512 ReLU units before
training, over ten seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jinit
from experiments._data import digits
from experiments._networks import ACTIVATIONS, MLP, initialize, plan
from experiments._numbers import listed, percent, summary, table
from experiments._results import Claim, Track
from experiments._training import compare

SCHEMES = {"Xavier": jinit.glorot_normal(), "He": jinit.he_normal()}
SUITS = {"relu": "He", "tanh": "Xavier", "sigmoid": "Xavier"}
DEPTHS = (2, 30)
LEARNT = 0.5  # chance is 0.1


def factor(init: Any, *, seeds: int, depth: int, width: int = 512) -> dict[str, Any]:
    """Second moments through a deep ReLU network: the factor per layer, and the mean by layer."""
    model, x = MLP(depth, width), digits().x[:256]
    params = initialize(model, plan(init), jax.random.split(jax.random.key(0), seeds), x.shape[1])

    @jax.jit
    def moments(params: Any) -> jax.Array:
        _, records = jinit.measure(model.apply, backward=False)(params, x)
        return jnp.stack([records[f"params/Dense_{i}/kernel"].output.second_moment for i in range(depth)])

    found = np.asarray(jax.lax.map(moments, params), np.float64)
    per_layer = (found[:, -1] / found[:, 0]) ** (1 / (depth - 1))
    return {"per_layer": summary(per_layer), "second_moment": np.exp(np.log(found).mean(0))}


def run(track: Track, *, small: bool = False) -> dict[str, Any]:
    """Accuracies by network and scheme, and the signal without and with the factor 2."""
    seeds, steps, depth = (2, 20, 4) if small else (5, 600, 30)
    plans = {name: plan(init) for name, init in SCHEMES.items()}
    rate = optax.sgd(0.005, momentum=0.9)
    trained = {}
    for activation, layers in track([(name, min(layers, depth)) for name in SUITS for layers in DEPTHS]):
        model = MLP(layers, 64, ACTIVATIONS[activation])
        found = compare(model, plans, digits(), seeds=seeds, steps=steps, optimizer=rate)
        trained[f"{activation}, {layers} layers"] = {name: each["accuracy"] for name, each in found.items()}
    laws = {"1/fan_in": jinit.lecun_normal(), "2/fan_in": jinit.he_normal()}
    signal = {name: factor(laws[name], seeds=2 * seeds, depth=depth) for name in track(list(laws))}
    return {"trained": trained, "signal": signal}


def suited(network: str) -> tuple[str, str]:
    """The scheme that is advised, and the other."""
    scheme = SUITS[network.split(",")[0]]
    return scheme, next(name for name in SCHEMES if name != scheme)


def advice(claimed: str, trained: dict[str, Any]) -> Claim:
    """Whether the advised scheme is ahead, pair by pair."""
    words, right = [], []
    for network, found in trained.items():
        scheme, other = suited(network)
        gap = summary(np.subtract(found[scheme]["each"], found[other]["each"]))
        words.append(f"{network}: {scheme} {percent(found[scheme])} %, {other} {percent(found[other])} %")
        right.append(gap["mean"] - gap["half_width"] > 0)
    end = "It counts where the interval of the paired difference lies above zero."
    return Claim.of(claimed, f"{'; '.join(words)}. {end}", right)


def claims(data: dict[str, Any]) -> list[Claim]:
    """The advice, shallow and deep, and where the factor 2 comes from."""
    trained, signal = data["trained"], data["signal"]
    deep = {name: each for name, each in trained.items() if "2 layers" not in name}
    shallow = {name: each for name, each in trained.items() if name not in deep}
    stuck = [
        f"{network} by {name}"
        for network, each in deep.items()
        for name in each
        if each[name]["mean"] < LEARNT
    ]
    without, with_two = (each["per_layer"] for each in signal.values())
    expected = [
        abs(without["mean"] - 0.5) < without["half_width"],
        abs(with_two["mean"] - 1) < with_two["half_width"],
    ]
    return [
        advice("He is better for ReLU, Xavier for tanh and sigmoid, in shallow networks.", shallow),
        advice("The same in deep networks.", deep),
        Claim.of(
            "with the right scheme a deep network of each of the three learns.",
            f"below {100 * LEARNT:.0f} %: {listed(stuck) or 'none'}.",
            [each[suited(network)[0]]["mean"] >= LEARNT for network, each in deep.items()],
        ),
        Claim.of(
            "without the factor 2, ReLU halves the second moment at every layer; with it, it stays (He "
            "et al. 2015).",
            f"{without['mean']:.3f} ± {without['half_width']:.3f} per layer without, "
            f"{with_two['mean']:.3f} ± {with_two['half_width']:.3f} with. It counts where the interval "
            "holds 1/2, or 1.",
            expected,
        ),
    ]


def tables(data: dict[str, Any]) -> Iterator[str]:
    """Accuracy by network and scheme."""
    rows = [
        [name, *(percent(found[scheme]) for scheme in SCHEMES)] for name, found in data["trained"].items()
    ]
    yield table(["accuracy, %", *SCHEMES], rows)


def draw(data: dict[str, Any], figure: Any) -> None:
    """Accuracies as bars, and the signal over depth."""
    left, right = figure.subplots(1, 2)
    for i, scheme in enumerate(SCHEMES):
        found = [each[scheme] for each in data["trained"].values()]
        rows = np.arange(len(found)) + 0.4 * i
        left.barh(
            rows,
            [100 * f["mean"] for f in found],
            0.4,
            xerr=[100 * f["half_width"] for f in found],
            label=scheme,
        )
    left.set_yticks(np.arange(len(data["trained"])) + 0.2, list(data["trained"]))
    left.set(xlabel="test accuracy, %", xlim=(0, 100))
    left.invert_yaxis()
    left.legend()
    for name, each in data["signal"].items():
        right.semilogy(each["second_moment"], "o-", ms=3, label=f"variance {name}")
    right.set(xlabel="hidden layer (ReLU)", ylabel="second moment of pre-activations")
    right.legend()
