"""Dropout and normalization layers.

Perceptrons of ten hidden layers of 64 ReLU units on scikit-learn's digits, 390 steps of Adam (1e-3) on
batches of 128, five seeds. Four schemes draw the kernels; between each hidden layer and its ReLU stands
nothing, LayerNorm, or BatchNorm by the statistics of the batch (in testing, of the test set). A
normalization layer's scale starts at one, or is drawn around one or around zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jinit
from experiments._data import digits
from experiments._networks import MLP
from experiments._numbers import percent, summary, table
from experiments._results import Claim, Track
from experiments._training import compare

SCHEMES = {
    "normal 0.01": jinit.normal(0.01),
    "Xavier": jinit.glorot_normal(),
    "He": jinit.he_normal(),
    "normal 1": jinit.normal(1.0),
}
SCALES = {
    "ones": jinit.ones,
    "normal 1 ± 0.1": jinit.normal(0.1, mean=1.0),
    "normal 0 ± 1": jinit.normal(1.0),
}
POINTS = 0.01


class BatchNorm(nn.Module):
    """Batch normalization without running statistics, so that it is a pure function of its batch."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, features] -> the same."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        x = (x - x.mean(0, keepdims=True)) * jax.lax.rsqrt(x.var(0, keepdims=True) + 1e-5)
        return x * scale[None] + bias[None]


NORMALIZERS: dict[str, Callable[[], Any] | None] = {
    "none": None,
    "LayerNorm": nn.LayerNorm,
    "BatchNorm": BatchNorm,
}


def plan(kernel: Any, scale: Any | None) -> jinit.Plan:
    """Kernels and, where there are any, scales; biases zero."""
    rules = [("*/kernel", kernel), ("*/bias", jinit.zeros)]
    return jinit.plan(rules if scale is None else [*rules, ("*/scale", scale)])


class Dropped(nn.Module):
    """A layer, dropout, and both normalization layers."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, features] -> [batch, 10]."""
        x = nn.Dropout(0.5, deterministic=True)(nn.LayerNorm()(nn.Dense(64)(x)))
        return nn.Dense(10)(BatchNorm()(nn.relu(x)))


def parameters() -> dict[str, Any]:
    """The role of every parameter of a network with all three, and whether two keys give it two values."""
    model, x = Dropped(), jnp.zeros((2, 64))
    a, b = (model.init(jax.random.key(seed), x) for seed in range(2))
    roles = {use.path: use.role for use in jinit.audit(model.apply)(a, x)}
    same = jax.tree.leaves(jax.tree.map(lambda u, v: bool((u == v).all()), a, b))
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(a)
    ]
    return {path: {"role": roles[path], "random": not equal} for path, equal in zip(paths, same, strict=True)}


def run(track: Track, *, small: bool = False) -> dict[str, Any]:
    """Parameters, schemes by normalizer, scales by normalizer."""
    depth, size = (3, {"seeds": 2, "steps": 20}) if small else (10, {"seeds": 5, "steps": 390})
    schemes: dict[str, Any] = {}
    scales: dict[str, Any] = {}
    for name in track(list(NORMALIZERS)):
        model, ones = MLP(depth, 64, normalize=NORMALIZERS[name]), None if name == "none" else jinit.ones
        plans = {scheme: plan(init, ones) for scheme, init in SCHEMES.items()}
        if ones is not None:
            plans |= {f"scale {label}": plan(jinit.he_normal(), init) for label, init in SCALES.items()}
        found = {label: each["accuracy"] for label, each in compare(model, plans, digits(), **size).items()}
        schemes[name] = {scheme: found[scheme] for scheme in SCHEMES}
        if ones is not None:
            scales[name] = {label: found[f"scale {label}"] for label in SCALES}
    return {"parameters": parameters(), "schemes": schemes, "scales": scales}


def claims(data: dict[str, Any]) -> list[Claim]:
    """Of parameters, of scales, and of the importance of the scheme."""
    leaves, schemes, scales = data["parameters"], data["schemes"], data["scales"]
    layers = [path for path in leaves if "Dense" not in path]
    ranges = {
        name: max(each["mean"] for each in found.values()) - min(each["mean"] for each in found.values())
        for name, found in schemes.items()
    }
    gaps = {
        (name, label): summary(np.subtract(found[label]["each"], found["ones"]["each"]))
        for name, found in scales.items()
        for label in SCALES
        if label != "ones"
    }
    told = "; ".join(
        f"{name}: {', '.join(f'{label} {percent(each)} %' for label, each in found.items())}"
        for name, found in scales.items()
    )
    return [
        Claim.of(
            "dropout has no parameters, and those of normalization layers are constants: no randomness "
            "is needed.",
            f"dropout adds {sum('Dropout' in path for path in leaves)} parameters; of the {len(layers)} "
            "of LayerNorm and "
            f"BatchNorm, {sum(leaves[path]['random'] for path in layers)} depend on the key.",
            [
                not any("Dropout" in path for path in leaves),
                not any(leaves[path]["random"] for path in layers),
            ],
        ),
        Claim.of(
            "a random scale does not help a normalization layer.",
            f"{told}.",
            [gap["mean"] - gap["half_width"] <= 0 for gap in gaps.values()],
        ),
        Claim.of(
            f"with normalization the scheme hardly matters: all come within {100 * POINTS:.0f} point of "
            "one another.",
            "between the best and the worst of four schemes lie "
            + ", ".join(f"{100 * each:.1f} points with {name}" for name, each in ranges.items())
            + ".",
            [each < POINTS for name, each in ranges.items() if name != "none"],
        ),
        Claim.of(
            "with normalization the scheme matters less than without.",
            "the same ranges.",
            [each < ranges["none"] for name, each in ranges.items() if name != "none"],
        ),
    ]


def tables(data: dict[str, Any]) -> Iterator[str]:
    """Accuracy by scheme and normalizer."""
    rows = [[scheme, *(percent(found[scheme]) for found in data["schemes"].values())] for scheme in SCHEMES]
    yield table(["accuracy, %", *data["schemes"]], rows)


def draw(data: dict[str, Any], figure: Any) -> None:
    """The table as bars."""
    axes = figure.subplots()
    for i, (name, found) in enumerate(data["schemes"].items()):
        every = [found[scheme] for scheme in SCHEMES]
        heights, halves = ([100 * each[part] for each in every] for part in ("mean", "half_width"))
        axes.bar(np.arange(len(every)) + 0.27 * i, heights, 0.27, yerr=halves, label=name)
    axes.set_xticks(np.arange(len(SCHEMES)) + 0.27, list(SCHEMES))
    axes.set(ylabel="test accuracy, %")
    axes.legend()
