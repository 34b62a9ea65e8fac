"""Many draws of one network measured and trained, each by one compiled program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jinit._errors import message
from jinit._typing import Array, Key, PyTree
from jinit.calibrate.order import in_order
from jinit.jaxprs.sites import Site
from jinit.jaxprs.tracing import split
from jinit.report.methods import Call
from jinit.report.trained import trained_part
from jinit.signals.moments import Moments
from jinit.signals.observe import Gauge, inexact, observe


class Signals(NamedTuple):
    """Signals at every site and loop step, in the order of the program; NaN where there is none.

    Attributes:
      variance: of what leaves a site.
      signal: second moment of what enters it; of what leaves it where that is a number of a row.
      gradient: sum of the squares of the gradient with respect to what leaves it.
    """

    variance: Array
    signal: Array
    gradient: Array


def signals(
    apply: Callable[..., PyTree], loss: Callable[..., Array] | None, backward: bool
) -> Callable[[PyTree, Call, Key, PyTree], Signals]:
    """A measurement of one draw: `(params, call, key, labels) -> Signals`."""

    def look(params: PyTree, call: Call, key: Key, labels: PyTree) -> Signals:
        signature, arrays = split(params, *call)
        value = None if loss is None or not backward else _of_outputs(loss, labels)
        caller = "jinit.compare(...)"
        _, seen = observe(
            apply, signature, arrays, Gauge(), backward=backward, loss=value, key=key, caller=caller
        )
        pairs = zip(seen.sites.sites, seen.found, strict=True)
        columns = [_columns(site, found) for site, found in pairs]
        order = in_order(seen.analysis, list(range(len(columns))))
        if not order:
            return Signals(*[jnp.zeros(0)] * 3)
        return Signals(*[jnp.stack([columns[i][c].reshape(-1)[k] for i, k in order]) for c in range(3)])

    return look


def _of_outputs(loss: Callable[..., Array], labels: PyTree) -> Callable[[PyTree], Array]:
    """The loss as a function of the outputs alone."""
    return loss if labels is None else lambda outputs: loss(outputs, labels)


def _columns(site: Site, found: dict[str, Any]) -> tuple[Array, ...]:
    out: Moments = found["output"]
    nothing = jnp.full(jnp.shape(out.total_square), jnp.nan)
    floating = site.signal is not None and inexact(site.operands[site.signal])
    back = found.get("cotangent")
    columns = (
        out.variance,
        found["input"].second_moment if floating else out.second_moment,
        nothing if back is None else back.total_square,
    )
    return tuple(c.astype(jnp.float32) for c in columns)


def trained(
    apply: Callable[..., PyTree],
    loss: Callable[..., Array],
    optimizer: optax.GradientTransformation,
    steps: int,
    batch_size: int | None,
) -> Callable[[PyTree, Call, Key, PyTree], Array]:
    """A training of one draw: `(params, call, key, labels) -> losses`, shape `[steps + 1]`.

    Loss `t` is that of the batch of step `t`, before the step; the last is that of all examples, at the end.
    """
    caller = "jinit.compare(...)"

    def train(params: PyTree, call: Call, key: Key, labels: PyTree) -> Array:
        inputs, kwargs = call
        examples = (inputs, labels)
        leaves, rebuild = _free(params)

        def value(leaves: list[Array], examples: PyTree) -> Array:
            inputs, labels = examples
            outputs = apply(rebuild(leaves), *inputs, **kwargs)
            found = _of_outputs(loss, labels)(outputs)
            if jnp.shape(found) != () or not inexact(jnp.asarray(found)):
                must = "`loss` must map the outputs to one floating number"
                raise ValueError(message(caller, must, f"shape {jnp.shape(found)}", "Take the mean."))
            return found.astype(jnp.float32)

        def step(state: Any, key: Key) -> tuple[Any, Array]:
            leaves, inner = state
            now, slopes = jax.value_and_grad(value)(leaves, _batch(examples, key, batch_size, caller))
            with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
                moves, inner = optimizer.update([jnp.conj(g) for g in slopes], inner, leaves)
                moved = optax.apply_updates(leaves, moves)
            return (moved, inner), now

        state = leaves, optimizer.init(leaves)
        (leaves, _), losses = lax.scan(step, state, jax.random.split(key, steps))
        return jnp.append(losses, value(leaves, examples))

    return train


def _free(params: PyTree) -> tuple[list[Array], Callable[[list[Array]], PyTree]]:
    """The floating leaves that a training changes, and how the whole is made of them."""
    part, whole = trained_part(params)
    leaves, tree = jax.tree.flatten(part)
    places = [i for i, x in enumerate(leaves) if hasattr(x, "dtype") and inexact(x)]

    def rebuild(free: list[Array]) -> PyTree:
        given = dict(zip(places, free, strict=True))
        return whole(jax.tree.unflatten(tree, [given.get(i, x) for i, x in enumerate(leaves)]))

    return [leaves[i] for i in places], rebuild


def _batch(examples: PyTree, key: Key, size: int | None, caller: str) -> PyTree:
    """As many examples, drawn anew each step; all of them without a size."""
    if size is None:
        return examples
    arrays = [x for x in jax.tree.leaves(examples) if hasattr(x, "shape")]
    counts = {x.shape[:1] for x in arrays}
    if len(counts) != 1 or () in counts:
        must = "with `batch_size` every input, and the labels, must have one leading axis of examples"
        raise ValueError(message(caller, must, ", ".join(str(x.shape) for x in arrays)))
    rows = jax.random.randint(key, (size,), 0, arrays[0].shape[0])
    return jax.tree.map(lambda x: jnp.take(x, rows, axis=0) if hasattr(x, "shape") else x, examples)


def over_draws(
    one: Callable[[PyTree, Call, Key, PyTree], PyTree],
    params: PyTree,
    call: Call,
    keys: Sequence[Key],
    labels: PyTree,
) -> PyTree:
    """`one(params, call, key, labels)` of every draw, one after another in one compiled program."""
    signature, arrays = split(params, *call)
    number = signature.num_params

    @jax.jit
    def run(arrays: list[Array], keys: Key, labels: PyTree) -> PyTree:
        def at(mapped: tuple[list[Array], Key]) -> PyTree:
            params, inputs, kwargs = signature.arguments([*mapped[0], *arrays[number:]])
            return one(params, (inputs, kwargs), mapped[1], labels)

        return lax.map(at, (arrays[:number], keys))

    return jax.device_get(run(arrays, jnp.stack(list(keys)), labels))
