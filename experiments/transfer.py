"""Fine-tuning, and a population that evolves.

*Fine-tuning* on scikit-learn's digits: a perceptron of two hidden layers of 64 ReLU units learns a source
task (390 steps of Adam, 1e-3), `jinit.from_pretrained` carries its hidden layers over, the head is drawn
anew, and it learns a target task from a few examples of each class, in 50 steps on batches of 32; the same
network from scratch takes the same batches. Ten seeds. *Other classes*: from the digits 0 to 4 to the
digits 5 to 9. *Coarser classes*: from all ten digits to odd and even.

*Evolution*: 128 networks of one hidden layer of 32 ReLU units, drawn by `jinit.init` from a vector of keys.
Each of 200 generations keeps the 16 with the least loss on 500 training examples, and every survivor has
eight offspring: itself, and seven copies with normal noise of deviation 0.05 on every weight. No gradient
is taken. Three seeds for each way to draw the first population.
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

SHOTS = (5, 20)  # examples of each class
BUDGET = 50  # steps
POPULATIONS = {
    "He": jinit.he_normal(),
    "normal 1": jinit.normal(1.0),
    "normal 0.01": jinit.normal(0.01),
    "zero": jinit.zeros,
}
NOISE, JUDGES, LEARNT = 0.05, 500, 0.5


def halves() -> tuple[Data, Data]:
    """The digits 0 to 4, and 5 to 9 with labels 0 to 4."""
    low, high = (digits().where(np.arange(first, first + 5)) for first in (0, 5))
    return low, high._replace(y=high.y - 5, y_test=high.y_test - 5)


def parity() -> tuple[Data, Data]:
    """The ten digits, and whether they are odd."""
    data = digits()
    return data, data._replace(y=data.y % 2, y_test=data.y_test % 2)


TASKS = {"other classes": halves, "coarser classes": parity}


def few(data: Data, shots: int) -> Data:
    """The first examples of each class."""
    labels = np.asarray(data.y)
    rows = np.concatenate([np.flatnonzero(labels == label)[:shots] for label in np.unique(labels)])
    return data._replace(x=data.x[rows], y=data.y[rows])


def carried(fresh: Any, pretrained: Any) -> Any:
    """Fresh parameters with the hidden layers of others; the head stays as drawn."""
    hidden = {"params": {name: layer for name, layer in pretrained["params"].items() if name != "out"}}
    return jinit.from_pretrained(fresh, hidden, missing=[("*/out/*", "keep")])[0]


def fine_tuning(task: str, *, seeds: int, steps: int) -> dict[str, Any]:
    """Accuracies on the target, by examples, steps and start."""
    both, rules = TASKS[task](), plan(jinit.he_normal())
    models = [MLP(2, 64, outputs=len(np.unique(data.y))) for data in both]
    before, fresh = (
        initialize(model, rules, jax.random.split(jax.random.key(seed), seeds), 64)
        for seed, model in enumerate(models)
    )
    pretrained = train(models[0].apply, before, both[0], steps=steps)
    starts = stack([fresh, carried(fresh, pretrained.params)])  # one after the other, on equal batches
    found: dict[str, Any] = {}
    for shots in SHOTS:
        trained = train(models[1].apply, starts, few(both[1], shots), steps=BUDGET, batch=32, seeds=seeds)
        scratch, tuned = np.asarray(trained.accuracy).reshape(2, seeds)
        found[f"{shots} of each"] = {
            "scratch": summary(scratch),
            "pre-trained": summary(tuned),
            "gap": summary(tuned - scratch),
        }
    return {"source": summary(pretrained.accuracy), "target": found}


def evolve(inits: dict[str, Any], *, seeds: int, generations: int, size: int) -> dict[str, Any]:
    """The least loss by generation and the fittest's accuracy in the end, over seeds: one program."""
    data, model = digits(), MLP(1, 32)
    x, y, kept = data.x[:JUDGES], data.y[:JUDGES], size // 8
    fitness = jax.vmap(lambda params: cross_entropy(model.apply(params, x), y))

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

    def history(members: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        members, losses = jax.lax.scan(generation, members, jax.random.split(key, generations))
        winner = jax.tree.map(lambda leaf: leaf[0], members)
        right = jnp.argmax(model.apply(winner, data.x_test), axis=-1) == data.y_test
        return losses, jnp.mean(right, dtype=jnp.float32)

    draws, noises = jax.random.split(jax.random.key(0), (2, seeds))
    keys = jax.vmap(lambda key: jax.random.split(key, size))(draws).reshape(-1)
    drawn = stack([initialize(model, plan(init), keys, 64) for init in inits.values()])
    runs = jax.tree.map(lambda leaf: leaf.reshape(-1, size, *leaf.shape[1:]), drawn)
    every = jax.jit(lambda *args: jax.lax.map(lambda one: history(*one), args))
    losses, accuracy = every(runs, jnp.tile(noises, len(inits)))
    losses, accuracy = np.asarray(losses), np.asarray(accuracy)
    return {
        name: {"accuracy": summary(accuracy[rows]), "loss": losses[rows].mean(0)}
        for name, rows in zip(inits, np.split(np.arange(len(losses)), len(inits)), strict=True)
    }


def run(track: Track, *, small: bool = False) -> dict[str, Any]:
    """Fine-tuning, then evolution."""
    size = {"seeds": 2, "steps": 20} if small else {"seeds": 10, "steps": 390}
    shape = (
        {"seeds": 2, "generations": 5, "size": 16} if small else {"seeds": 3, "generations": 200, "size": 128}
    )
    tuned = {task: fine_tuning(task, **size) for task in track(list(TASKS))}
    (evolved,) = (evolve(POPULATIONS, **shape) for _ in track(["evolution"]))
    return {"tuned": tuned, "evolved": evolved}


def claims(data: dict[str, Any]) -> list[Claim]:
    """Of transfer and of populations."""
    evolved = {name: each["accuracy"] for name, each in data["evolved"].items()}
    best = max(evolved, key=lambda name: evolved[name]["mean"])
    return [
        *(of_task(task, each) for task, each in data["tuned"].items()),
        Claim.of(
            "an evolution strategy learns from a population of well-drawn networks, without gradients.",
            f"the fittest of the population drawn by He reaches {percent(evolved['He'])} %.",
            evolved["He"]["mean"] - evolved["He"]["half_width"] > LEARNT,
        ),
        Claim.of(
            "the draw matters to evolution too: He's population ends best.",
            f"{', '.join(f'{name} {percent(each)} %' for name, each in evolved.items())}; best is {best}. "
            "The noise of evolution breaks the symmetry of zeros by itself.",
            [
                evolved["He"]["mean"] - evolved["He"]["half_width"] > each["mean"] + each["half_width"]
                for name, each in evolved.items()
                if name != "He"
            ],
        ),
    ]


def of_task(task: str, found: dict[str, Any]) -> Claim:
    """Whether pre-training helps on one target."""
    gaps = {name: each["gap"] for name, each in found["target"].items()}
    told = ", ".join(f"{name} {percent(gap)}" for name, gap in gaps.items())
    return Claim.of(
        f"pre-trained weights with a new head beat training from scratch on few data and steps ({task}).",
        f"pre-trained minus scratch, in points, paired by seed: {told}. The source task reached "
        f"{percent(found['source'])} %.",
        [gap["mean"] - gap["half_width"] > 0 for gap in gaps.values()],
    )


def tables(data: dict[str, Any]) -> Iterator[str]:
    """Fine-tuning."""
    rows = [
        [f"{task}, {name}", percent(each["scratch"]), percent(each["pre-trained"])]
        for task, found in data["tuned"].items()
        for name, each in found["target"].items()
    ]
    yield table(["task, examples", "from scratch, %", "pre-trained, %"], rows)


def draw(data: dict[str, Any], figure: Any) -> None:
    """Fine-tuning as bars, evolution over generations."""
    left, right = figure.subplots(1, 2)
    tuned = {
        f"{task},\n{name}": each
        for task, found in data["tuned"].items()
        for name, each in found["target"].items()
    }
    for i, start in enumerate(("scratch", "pre-trained")):
        every = [each[start] for each in tuned.values()]
        rows, halves = np.arange(len(every)) + 0.4 * i, [100 * each["half_width"] for each in every]
        left.barh(rows, [100 * each["mean"] for each in every], 0.4, xerr=halves, label=start)
    left.set_yticks(np.arange(len(tuned)) + 0.2, list(tuned), fontsize="x-small")
    left.set(xlabel="test accuracy, %")
    left.invert_yaxis()
    left.legend()
    for name, each in data["evolved"].items():
        right.plot(each["loss"], label=name)
    right.set(xlabel="generation", ylabel="least training loss", yscale="log")
    right.legend()
