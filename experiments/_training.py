"""Training: all runs of an experiment are one jitted program, and one run is a scan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jinit
from experiments._data import Data
from experiments._networks import initialize, stack
from experiments._numbers import summary


class Trained(NamedTuple):
    """What becomes of every run; NaN and infinity are kept as they are."""

    params: Any  # every leaf [runs, …]
    loss: jax.Array  # [runs, steps], on the batch before each step
    accuracy: jax.Array  # [runs], share of the test examples


def cross_entropy(logits: jax.Array, y: jax.Array) -> jax.Array:
    """Mean over a batch, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def program(
    apply: Callable[..., jax.Array], optimizer: optax.GradientTransformation, *, steps: int, batch: int
) -> Callable[[Any, jax.Array, Data], Trained]:
    """The program that trains every member of a population: `(params, keys, data) -> Trained`, jitted.

    The runs are shared out among the devices. On each they follow one another in a `lax.map`, which on a CPU
    is faster than a `vmap` over all of them. A run draws its batches, with replacement, by its own key.
    """

    def run(params: Any, key: jax.Array, data: Data) -> Trained:
        def step(state: tuple[Any, Any], key: jax.Array) -> tuple[tuple[Any, Any], jax.Array]:
            params, moments = state
            rows = jax.random.randint(key, (batch,), 0, len(data.x))
            loss, gradient = jax.value_and_grad(
                lambda params: cross_entropy(apply(params, data.x[rows]), data.y[rows])
            )(params)
            updates, moments = optimizer.update(gradient, moments, params)
            return (optax.apply_updates(params, updates), moments), loss

        state = params, optimizer.init(params)
        (params, _), loss = jax.lax.scan(step, state, jax.random.split(key, steps))
        right = jnp.argmax(apply(params, data.x_test), axis=-1) == data.y_test
        return Trained(params, loss, jnp.mean(right, dtype=jnp.float32))

    def share(params: Any, keys: jax.Array, data: Data) -> Trained:
        return jax.lax.map(lambda one: run(*one, data), (params, keys))

    def every_run(params: Any, keys: jax.Array, data: Data) -> Trained:
        specs = (P("runs"), P("runs"), P())
        mesh = _mesh(len(keys))
        return jax.shard_map(share, mesh=mesh, in_specs=specs, out_specs=P("runs"), check_vma=False)(
            params, keys, data
        )

    return jax.jit(every_run)


def _mesh(runs: int) -> jax.sharding.Mesh:
    """As many devices as can take equal shares."""
    count = max(n for n in range(1, len(jax.devices()) + 1) if runs % n == 0)
    return jax.sharding.Mesh(np.array(jax.devices()[:count]), "runs")


def train(
    apply: Callable[..., jax.Array],
    params: Any,
    data: Data,
    *,
    steps: int,
    batch: int = 128,
    optimizer: optax.GradientTransformation | None = None,
    seeds: int | None = None,
) -> Trained:
    """A population trained by Adam at 1e-3, or by `optimizer`.

    Run i takes its batches from seed i modulo `seeds`, so that schemes with equal seeds see equal batches.
    """
    runs = len(jax.tree.leaves(params)[0])
    keys = jax.random.split(jax.random.key(1), seeds or runs)[jnp.arange(runs) % (seeds or runs)]
    optimizer = optax.adam(1e-3) if optimizer is None else optimizer
    shares = NamedSharding(_mesh(runs), P("runs"))  # wherever the parameters come from
    return program(apply, optimizer, steps=steps, batch=batch)(*jax.device_put((params, keys), shares), data)


def compare(
    model: Any,
    plans: dict[str, jinit.Plan],
    data: Data,
    *,
    seeds: int,
    steps: int,
    optimizer: optax.GradientTransformation | None = None,
) -> dict[str, dict[str, Any]]:
    """One network drawn by several plans and trained on equal batches, by one program.

    By plan: the accuracy, the loss on the first batch and the mean loss of the last tenth, over seeds.
    """
    keys = jax.random.split(jax.random.key(0), seeds)
    params = stack([initialize(model, rules, keys, data.x.shape[1]) for rules in plans.values()])
    trained = train(model.apply, params, data, steps=steps, optimizer=optimizer, seeds=seeds)
    loss = np.asarray(trained.loss).reshape(len(plans), seeds, steps)
    accuracy = np.asarray(trained.accuracy).reshape(len(plans), seeds)
    return {
        name: {
            "accuracy": summary(accuracy[i]),
            "first_loss": summary(loss[i, :, 0]),
            "last_loss": summary(loss[i, :, -max(steps // 10, 1) :].mean(-1)),
        }
        for i, name in enumerate(plans)
    }
