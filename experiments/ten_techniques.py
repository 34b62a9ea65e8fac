"""Ten techniques, ten seeds.

The table that people pass on gives each of ten ways to initialize a range of test accuracies, and does not
say on what network. Here every technique initializes all kernels of a perceptron, biases start at zero, and
Adam (1e-3) takes 390 steps on batches of 128. *Shallow* is two hidden layers of 64, *deep* is ten. The
claims are held against the shallow ReLU network on scikit-learn's digits; the second table shows the
others. All hundred runs of a network are one jitted program, and the ten techniques see the same ten
sequences of batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import jinit
from experiments._data import DATA
from experiments._networks import ACTIVATIONS, MLP, plan
from experiments._numbers import listed, percent, summary, table
from experiments._results import Claim, Track
from experiments._training import compare

TECHNIQUES: dict[str, Any] = {
    "random": jinit.normal(1.0),
    "zero": jinit.zeros,
    "Gaussian": jinit.normal(0.05),
    "Xavier": jinit.glorot_normal(),
    "He": jinit.he_normal(),
    "orthogonal": jinit.orthogonal(),
    "sparse": jinit.sparse(sparsity=0.9),
    "uniform": jinit.uniform(minval=-0.05, maxval=0.05),
    "constant": jinit.constant(0.05),
    "positive": jinit.positive(jinit.glorot_normal()),
}
CLAIMED = {  # test accuracy in percent
    "random": (88, 91), "zero": (9, 13), "Gaussian": (92, 93), "Xavier": (95, 95), "He": (97, 98),
    "orthogonal": (91, 93), "sparse": (88, 90), "uniform": (90, 92), "constant": (11, 14),
    "positive": (94, 95),
}  # fmt: skip
REFERENCE = "digits relu shallow"
DEPTHS, WIDTH = {"shallow": 2, "deep": 10}, 64
NETWORKS = [(data, name, depth) for data in DATA for name in ("relu", "tanh") for depth in DEPTHS]


def accuracies(data: str, activation: str, depth: str, *, seeds: int, steps: int) -> dict[str, Any]:
    """Test accuracy of every technique: one program, all runs."""
    model = MLP(DEPTHS[depth], WIDTH, ACTIVATIONS[activation])
    plans = {name: plan(init) for name, init in TECHNIQUES.items()}
    found = compare(model, plans, DATA[data](), seeds=seeds, steps=steps)
    return {name: each["accuracy"] for name, each in found.items()}


def run(track: Track, *, small: bool = False) -> dict[str, Any]:
    """Accuracies by network and technique."""
    size = {"seeds": 2, "steps": 20} if small else {"seeds": 10, "steps": 390}
    return {" ".join(network): accuracies(*network, **size) for network in track(NETWORKS)}


def within(found: dict[str, Any], low: float, high: float) -> bool:
    """Whether the interval of the mean, to the whole percent of the claim, meets the claimed range."""
    mean, half = 100 * found["mean"], 100 * found["half_width"]
    return low - 0.5 <= mean + half and mean - half < high + 0.5


def claims(data: dict[str, Any]) -> list[Claim]:
    """The ranges, and what the table is taken to show."""
    return [ranges(data[REFERENCE]), who_learns(data), best_of_all(data), he_for_relu(data)]


def ranges(found: dict[str, Any]) -> Claim:
    """Which techniques lie where the table says."""
    held = {name: within(found[name], *CLAIMED[name]) for name in TECHNIQUES}
    others = [name for name in TECHNIQUES if not held[name]]
    above = [name for name in others if 100 * found[name]["mean"] > CLAIMED[name][1]]
    below = [name for name in others if name not in above]
    inside = [name for name in TECHNIQUES if held[name]]
    return Claim.of(
        "each technique reaches its range (first table).",
        f"the interval of the mean meets the range for {listed(inside) or 'none'}; it lies above for "
        f"{listed(above) or 'none'}, and below for {listed(below) or 'none'}.",
        list(held.values()),
    )


def who_learns(data: dict[str, Any]) -> Claim:
    """Whether symmetry alone decides between learning and not."""
    symmetric = ("zero", "constant")
    worst = min(TECHNIQUES, key=lambda t: 2 if t in symmetric else data[REFERENCE][t]["mean"])
    never = max(each[t]["mean"] for each in data.values() for t in symmetric)
    fail = [
        f"{t} on {name} ({100 * each[t]['mean']:.0f} %)"
        for name, each in data.items()
        for t in TECHNIQUES
        if t not in symmetric and each[t]["mean"] <= never
    ]
    found = (
        f"zero and constant stay at or below {100 * never:.1f} % on all {len(data)} networks, and the "
        "worst of "
        f"the others, {worst}, reaches {percent(data[REFERENCE][worst])} % on the reference network. But "
        "others "
        f"do no better elsewhere: {listed(fail) or 'none'}."
    )
    total = len(data) * (len(TECHNIQUES) - len(symmetric))
    return Claim.of(
        "zero and constant weights learn next to nothing, all else learns.",
        found,
        [True] * (total - len(fail)) + [False] * len(fail),
    )


def best_of_all(data: dict[str, Any]) -> Claim:
    """Whether He has the highest mean, network by network."""
    best = {name: max(TECHNIQUES, key=lambda t: each[t]["mean"]) for name, each in data.items()}
    found = ", ".join(f"{t} on {name}" for name, t in best.items())
    return Claim.of(
        "He is the best of the ten.", f"highest means: {found}.", [t == "He" for t in best.values()]
    )


def he_for_relu(data: dict[str, Any]) -> Claim:
    """Whether the advice of He for ReLU and Xavier for tanh shows, over pairs with equal batches."""
    words, right = [], []
    for name, each in data.items():
        gap = summary(np.subtract(each["He"]["each"], each["Xavier"]["each"]))
        words.append(f"{name} {percent(gap)}")
        toward = gap["mean"] if "relu" in name else -gap["mean"]
        right.append(toward - gap["half_width"] > 0)
    return Claim.of(
        "He is better for ReLU, and Xavier for tanh.",
        f"He minus Xavier, in points, paired by seed: {', '.join(words)}; it counts where the interval is "
        "on the "
        "right side of zero.",
        right,
    )


def tables(data: dict[str, Any]) -> Iterator[str]:
    """The table people know, and the means of all networks."""
    rows = []
    for name, init in TECHNIQUES.items():
        found, (low, high) = data[REFERENCE][name], CLAIMED[name]
        spread = f"{100 * min(found['each']):.1f} … {100 * max(found['each']):.1f}"
        claimed = str(low) if low == high else f"{low}–{high}"
        rows.append([name, f"`{init!r}`", claimed, percent(found), f"{100 * found['deviation']:.1f}", spread])
    yield table(["technique", "as drawn", "claimed %", "found %", "deviation", "from … to"], rows)
    rows = [[name, *(percent(each[name]) for each in data.values())] for name in TECHNIQUES]
    yield table(["technique", *data], rows)


def panel(axes: Any, found: dict[str, Any], label: str) -> None:
    """The runs of one network over the claimed ranges."""
    for row, (name, each) in enumerate(found.items()):
        low, high = CLAIMED[name]
        axes.barh(row, high - low + 1, left=low - 0.5, height=0.8, color="0.85", zorder=0)
        axes.plot(100 * np.asarray(each["each"]), [row] * len(each["each"]), "o", ms=3, alpha=0.6)
    axes.set(title=label, xlabel="test accuracy, %", xlim=(0, 100))


def draw(data: dict[str, Any], figure: Any) -> None:
    """Shallow and deep ReLU networks on both sets."""
    axes = figure.subplots(1, 4, sharey=True)
    for each, name in zip(axes, [name for name in data if "relu" in name], strict=True):
        panel(each, data[name], name)
    axes[0].set_yticks(range(len(TECHNIQUES)), list(TECHNIQUES))
    axes[0].invert_yaxis()
