"""Fine-tuning, and a population that evolves.

*Fine-tuning* on scikit-learn's digits: a perceptron of two hidden layers of 64 ReLU units learns to tell 0
to 4 apart (390 steps of Adam, 1e-3), `jinit.from_pretrained` carries its hidden layers over, the head is
drawn anew, and it learns 5 to 9 from a few examples of each; the same network from scratch takes the same
batches. Ten seeds.

*Evolution*: 256 networks of one hidden layer of 32 ReLU units, drawn by `jinit.init` from a vector of keys.
Each of 150 generations keeps the 32 with the least loss on the training set, and every survivor has eight
offspring: itself, and seven copies with normal noise of deviation 0.02 on every weight. No gradient is
taken. Three seeds for each way to draw the first population.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jinit
from experiments._data import Data, digits
from experiments._networks import MLP, initialize, plan, stack
from experiments._numbers import percent, summary, table
from experiments._results import Claim, Track
from experiments._training import cross_entropy, train

SHOTS = (1, 5, 20)  # examples of each class
BUDGETS = (20, 100)  # steps
POPULATIONS = {
    "He": jinit.he_normal(),
    "normal 1": jinit.normal(1.0),
    "normal 0.01": jinit.normal(0.01),
    "zero": jinit.zeros,
}
NOISE, LEARNT = 0.02, 0.5


def halves() -> tuple[Data, Data]:
    """The digits 0 to 4, and 5 to 9 with labels 0 to 4."""
    low, high = (digits().where(np.arange(first, first + 5)) for first in (0, 5))
    return low, high._replace(y=high.y - 5, y_test=high.y_test - 5)


def few(data: Data, shots: int) -> Data:
    """The first examples of each class."""
    rows = np.concatenate([np.flatnonzero(np.asarray(data.y) == label)[:shots] for label in range(5)])
    return data._replace(x=data.x[rows], y=data.y[rows])


def carried(fresh: Any, pretrained: Any) -> Any:
    """Fresh parameters with the hidden layers of others; the head stays as drawn."""
    hidden = {"params": {name: layer for name, layer in pretrained["params"].items() if name != "out"}}
    return jinit.from_pretrained(fresh, hidden, missing=[("*/out/*", "keep")])[0]


def fine_tuning(track: Track, *, seeds: int, steps: int) -> dict[str, Any]:
    """Accuracies on the new classes, by examples, steps and start."""
    source, target = halves()
    model, rules = MLP(2, 64, outputs=5), plan(jinit.he_normal())
    before, fresh = (
        initialize(model, rules, jax.random.split(jax.random.key(seed), seeds), 64) for seed in range(2)
    )
    pretrained = train(model.apply, before, source, steps=steps)
    starts = stack([fresh, carried(fresh, pretrained.params)])  # one after the other, on equal batches
    found: dict[str, Any] = {"source": summary(pretrained.accuracy)}
    for shots, budget in track([(shots, budget) for shots in SHOTS for budget in BUDGETS]):
        trained = train(model.apply, starts, few(target, shots), steps=budget, batch=32, seeds=seeds)
        scratch, tuned = np.asarray(trained.accuracy).reshape(2, seeds)
        found[f"{shots} of each, {budget} steps"] = {
            "scratch": summary(scratch),
            "pre-trained": summary(tuned),
            "gap": summary(tuned - scratch),
        }
    return found


def evolve(init: Any, *, seeds: int, generations: int, size: int) -> dict[str, Any]:
    """The best member's loss by generation and its accuracy in the end, over seeds."""
    data, model = digits(), MLP(1, 32)
    kept = size // 8
    fitness = jax.vmap(lambda params: cross_entropy(model.apply(params, data.x), data.y))

    def generation(members: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        losses = fitness(members)
        best = jnp.argsort(losses)[:kept]
        parents = jax.tree.map(lambda leaf: jnp.concatenate([leaf[best]] * 8), members)
        leaves, tree = jax.tree.flatten(parents)
        keys = jax.random.split(key, len(leaves))
        noise = [
            NOISE * jax.random.normal(k, leaf.shape).at[:kept].set(0)
            for k, leaf in zip(keys, leaves, strict=True)
        ]
        return jax.tree.map(jnp.add, parents, jax.tree.unflatten(tree, noise)), losses.min()

    @jax.jit
    def history(members: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        members, losses = jax.lax.scan(generation, members, jax.random.split(key, generations))
        winner = jax.tree.map(lambda leaf: leaf[0], members)
        right = jnp.argmax(model.apply(winner, data.x_test), axis=-1) == data.y_test
        return losses, jnp.mean(right, dtype=jnp.float32)

    runs = []
    for seed in range(seeds):
        draws, noises = jax.random.split(jax.random.key(seed))
        runs.append(history(initialize(model, plan(init), jax.random.split(draws, size), 64), noises))
    losses, accuracy = (np.stack([run[i] for run in runs]) for i in range(2))
    return {"accuracy": summary(accuracy), "loss": losses.mean(0)}


def run(track: Track, *, small: bool = False) -> dict[str, Any]:
    """Fine-tuning, then evolution."""
    size = {"seeds": 2, "steps": 20} if small else {"seeds": 10, "steps": 390}
    shape = (
        {"seeds": 2, "generations": 5, "size": 16} if small else {"seeds": 3, "generations": 150, "size": 256}
    )
    tuned = fine_tuning(track, **size)
    return {
        "tuned": tuned,
        "evolved": {name: evolve(POPULATIONS[name], **shape) for name in track(list(POPULATIONS))},
    }


def claims(data: dict[str, Any]) -> list[Claim]:
    """Of transfer and of populations."""
    tuned = {name: each for name, each in data["tuned"].items() if name != "source"}
    evolved = {name: each["accuracy"] for name, each in data["evolved"].items()}
    best = max(evolved, key=lambda name: evolved[name]["mean"])
    gaps = ", ".join(f"{name} {percent(each['gap'])}" for name, each in tuned.items())
    return [
        Claim.of(
            "pre-trained weights with a new head beat training from scratch when data and steps are few.",
            f"pre-trained minus scratch, in points, paired by seed: {gaps}. The source task reached "
            f"{percent(data['tuned']['source'])} %.",
            [each["gap"]["mean"] - each["gap"]["half_width"] > 0 for each in tuned.values()],
        ),
        Claim.of(
            "an evolution strategy learns from a population of well-drawn networks, without gradients.",
            f"the fittest of the population drawn by He reaches {percent(evolved['He'])} %.",
            evolved["He"]["mean"] - evolved["He"]["half_width"] > LEARNT,
        ),
        Claim.of(
            "the draw matters to evolution too: He's population ends best.",
            f"{', '.join(f'{name} {percent(each)} %' for name, each in evolved.items())}; best is {best}. "
            "Its noise breaks "
            "the symmetry of zeros by itself.",
            [
                evolved["He"]["mean"] - evolved["He"]["half_width"] > each["mean"] + each["half_width"]
                for name, each in evolved.items()
                if name != "He"
            ],
        ),
    ]


def tables(data: dict[str, Any]) -> Iterator[str]:
    """Fine-tuning."""
    rows = [
        [name, percent(each["scratch"]), percent(each["pre-trained"])]
        for name, each in data["tuned"].items()
        if name != "source"
    ]
    yield table(["examples, steps", "from scratch, %", "pre-trained, %"], rows)


def draw(data: dict[str, Any], figure: Any) -> None:
    """Fine-tuning as bars, evolution over generations."""
    left, right = figure.subplots(1, 2)
    tuned = {name: each for name, each in data["tuned"].items() if name != "source"}
    for i, start in enumerate(("scratch", "pre-trained")):
        every = [each[start] for each in tuned.values()]
        rows, halves = np.arange(len(every)) + 0.4 * i, [100 * each["half_width"] for each in every]
        left.barh(rows, [100 * each["mean"] for each in every], 0.4, xerr=halves, label=start)
    left.set_yticks(np.arange(len(tuned)) + 0.2, list(tuned))
    left.set(xlabel="test accuracy, %")
    left.invert_yaxis()
    left.legend()
    for name, each in data["evolved"].items():
        right.plot(each["loss"], label=name)
    right.set(xlabel="generation", ylabel="least training loss", yscale="log")
    right.legend()
