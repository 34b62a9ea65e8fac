"""`jinit demo`: what `diagnose` says before training, and what training says after it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jinit.initializers.distributions import normal
from jinit.initializers.lecun_glorot_he import he_normal, lecun_normal
from jinit.report.load import UsageError
from jinit.report.networks import cnn, mlp
from jinit.report.report import Report, diagnose

CHUNK = 50  # training steps in one call, and in one tick of the progress bar


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One network under one initializer: the report before training, and loss and accuracy after it."""

    network: str
    scheme: str
    report: Report
    loss: float
    accuracy: float


def schemes() -> dict[str, Any]:
    """The initializers, by how one writes them: too small, too large, Flax's default, and right for ReLU."""
    return {
        "jinit.normal(0.01)": normal(0.01),
        "jinit.normal(0.5)": normal(0.5),
        "jinit.lecun_normal()": lecun_normal(),
        "jinit.he_normal()": he_normal(),
    }


def networks(quick: bool) -> dict[str, Callable[[Any], Any]]:
    """Functions from an initializer to a model; `quick` leaves out the convolutional one."""
    both: dict[str, Callable[[Any], Any]] = {"MLP, 30 layers": mlp, "CNN, 12 layers": cnn}
    return dict(list(both.items())[: 1 if quick else 2])


def digits() -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Standardized 8×8 digits: 1437 images and labels to train on, 360 to test on.

    Raises:
      UsageError: scikit-learn, which brings them, is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UsageError("the demo needs scikit-learn for its digits: pip install scikit-learn") from error
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x = ((images - images.mean()) / images.std()).astype(np.float32)[order]
    y = labels.astype(np.int32)[order]
    held = len(x) // 5
    return jnp.asarray(x[held:]), jnp.asarray(y[held:]), jnp.asarray(x[:held]), jnp.asarray(y[:held])


def trainer(model: Any, x: jax.Array, y: jax.Array, batch: int = 32) -> tuple[Any, Callable[..., Any]]:
    """The optimizer, and a jitted function that takes `CHUNK` steps of Adam on random batches."""
    import optax

    optimizer = optax.adam(1e-3)

    def loss(params: Any, rows: jax.Array) -> jax.Array:
        logits = model.apply(params, x[rows])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y[rows]).mean()

    def step(state: tuple[Any, Any], key: jax.Array) -> tuple[tuple[Any, Any], jax.Array]:
        params, moments = state
        rows = jax.random.randint(key, (batch,), 0, len(x))
        value, gradient = jax.value_and_grad(loss)(params, rows)
        updates, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(params, updates), moments), value

    return optimizer, jax.jit(lambda state, key: jax.lax.scan(step, state, jax.random.split(key, CHUNK)))


def follow(
    name: str,
    make: Callable[[Any], Any],
    data: tuple[jax.Array, ...],
    steps: int,
    tick: Callable[[str], None],
) -> Iterator[Outcome]:
    """Diagnose a network under every scheme, train it, test it.

    The schemes share their compiled programs: `apply` does not depend on the initializer.
    """
    x, y, x_test, y_test = data
    model = make(he_normal())
    diagnosed, predict = diagnose(model.apply, predict=False), jax.jit(model.apply)
    optimizer, chunk = trainer(model, x, y)
    for scheme, init in schemes().items():
        params = make(init).init(jax.random.key(0), x[:2])
        tick(f"{name}, {scheme}: diagnosing")
        report = diagnosed(params, x[:64])
        state, losses = (params, optimizer.init(params)), jnp.nan
        for key in jax.random.split(jax.random.key(1), steps // CHUNK):
            tick(f"{name}, {scheme}: training")
            state, losses = jax.block_until_ready(chunk(state, key))
        accuracy = (predict(state[0], x_test).argmax(-1) == y_test).mean()
        yield Outcome(name, scheme, report, float(jnp.mean(losses)), float(accuracy))


def demo(*, quick: bool = False) -> int:
    """Run everything, show progress on stderr and results on stdout; returns the exit status."""
    from rich.console import Console
    from rich.progress import Progress

    data, todo = digits(), networks(quick)
    steps = 200 if quick else 300
    outcomes: list[Outcome] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(todo) * len(schemes()) * (1 + steps // CHUNK))

        def tick(doing: str) -> None:
            progress.update(task, description=doing, advance=1)

        for name, make in todo.items():
            outcomes.extend(follow(name, make, data, steps, tick))
    show(Console(), outcomes, steps)
    return 0


def show(console: Any, outcomes: list[Outcome], steps: int) -> None:
    """The worst and the best report of each network, and one table of all."""
    from rich.rule import Rule

    for outcome in outcomes:
        if outcome.scheme in ("jinit.lecun_normal()", "jinit.he_normal()"):
            console.print(Rule(f"{outcome.network}, kernel_init={outcome.scheme}"))
            console.print(outcome.report)
    console.print(Rule(f"before and after {steps} steps of Adam"))
    console.print(summary(outcomes))


def summary(outcomes: list[Outcome]) -> Any:
    """Network, scheme, what `diagnose` said, and what came of it."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for header in ("network", "kernel_init", "diagnose, before training", "loss", "accuracy"):
        table.add_column(header, justify="right" if header in ("loss", "accuracy") else "left")
    for before, outcome in zip([None, *outcomes], outcomes, strict=False):
        name = "" if before and before.network == outcome.network else outcome.network
        found = [f"{f.severity}: {f.kind}" for f in outcome.report.findings if f.severity != "info"]
        verdict = Text("\n".join(found) or "nothing found", style="yellow" if found else "green")
        numbers = f"{outcome.loss:.3g}", f"{100 * outcome.accuracy:.1f} %"
        table.add_row(name, outcome.scheme, verdict, *numbers)
    return table
