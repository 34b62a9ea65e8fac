"""Scales of parameters, learned by gradient descent on some objective: what the learning methods share."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jinit._errors import message
from jinit._typing import Array, PyTree, at_least_float32
from jinit.calibrate.passes import times
from jinit.jaxprs.tracing import Signature, param_paths
from jinit.signals.observe import inexact

Scales = dict[str, Array]
# (scales, number of the step) -> (value to report, gradient of what is to be lowered)
Objective = Callable[[Scales, Array], tuple[Array, Scales]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LearnedScales:
    """What a method that learns scales did.

    Attributes:
      scales: path of each parameter -> what it was multiplied with.
      values: objective before each step, shape `[steps]`; NaN once it had stopped.
      steps: how many steps were taken.
      forward_passes: cost of the whole search in forward passes of the loss, by the floating-point operations
        of the traced programs: every step of a `scan` counts, the body of a `while_loop` in the loss once,
        of a `cond` the most expensive branch. NaN where that cannot be told.

    Example:
      >>> import jax, jax.numpy as jnp, jinit
      >>> x = jax.random.normal(jax.random.key(0), (32, 8))
      >>> def loss(w, x):
      ...     return jnp.mean((jnp.tanh(x @ w) - 1) ** 2)
      >>> w = 3 * jax.random.normal(jax.random.key(1), (8, 4))
      >>> w, learned = jinit.metainit(loss, steps=30)(w, x)
      >>> list(learned.scales), learned.values.shape, int(learned.steps) <= 30
      (['params'], (30,), True)
    """

    scales: Scales
    values: Array
    steps: Array
    forward_passes: Array


def chosen_paths(
    parameters: str | Sequence[str], signature: Signature, arrays: list[Array], min_axes: int, caller: str
) -> dict[str, int]:
    """Path -> index of the floating parameters that the patterns fit."""
    patterns = [parameters] if isinstance(parameters, str) else list(parameters)
    paths = param_paths(signature, arrays)
    if not paths:
        must = "`params` must hold at least one array"
        raise ValueError(message(caller, must, "none", "Call it as `f(params, *inputs)`, parameters first."))
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(path, pattern) for path in paths):
            must = "every pattern of `parameters` must fit a parameter"
            raise ValueError(message(caller, must, repr(pattern), f"There are {', '.join(paths[:5])}, …"))
    fits = [any(fnmatch.fnmatchcase(path, p) for p in patterns) for path in paths]
    pairs = enumerate(zip(paths, fits, strict=True))
    found = {p: i for i, (p, fit) in pairs if fit and inexact(arrays[i]) and arrays[i].ndim >= min_axes}
    if not found:
        must = f"there must be a floating parameter of at least {min_axes} axes to scale"
        raise ValueError(message(caller, must, "none", "Pass other `parameters`."))
    return found


def scaled(arrays: list[Array], chosen: dict[str, int], scales: Scales) -> list[Array]:
    """The arrays, some of them multiplied."""
    new = list(arrays)
    for path, index in chosen.items():
        new[index] = times(arrays[index], scales[path])
    return new


class _State(NamedTuple):
    step: Array
    scales: Scales
    optimizer: PyTree
    best: Scales
    best_value: Array
    since: Array  # steps since the best value last fell noticeably
    values: Array


def learn(
    objective: Objective,
    start: Scales,
    optimizer: optax.GradientTransformation,
    *,
    steps: int,
    patience: int,
    floor: Scales,
    keep_best: bool,
) -> tuple[Scales, Array, Array]:
    """Lower the objective; gives the scales, its values, and how many steps were taken.

    The scales are the best met, or the last with `keep_best=False` and where no value was finite. Stops when
    the lowest value has not fallen by a thousandth for `patience` steps.
    """

    def step(state: _State) -> _State:
        value, gradient = objective(state.scales, state.step)
        value = value.astype(jnp.float32)
        better = value < state.best_value
        notable = value < state.best_value - 1e-3 * jnp.abs(state.best_value)
        notable = notable | jnp.isinf(state.best_value)
        best = jax.tree.map(lambda a, b: jnp.where(better, a, b), state.scales, state.best)
        gradient = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, jnp.zeros_like(g)), gradient)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
            updates, inner = optimizer.update(gradient, state.optimizer, state.scales)
        moved = jax.tree.map(lambda s, u, f: jnp.maximum(s + u, f), state.scales, updates, floor)
        return _State(
            state.step + 1, moved, inner, best, jnp.where(better, value, state.best_value),
            jnp.where(notable, 0, state.since + 1), state.values.at[state.step].set(value),
        )  # fmt: skip

    def goes_on(state: _State) -> Array:
        return (state.step < steps) & (state.since < patience)

    zero = jnp.zeros((), jnp.int32)
    none = jnp.full((steps,), jnp.nan)
    initial = _State(zero, start, optimizer.init(start), start, jnp.full((), jnp.inf), zero, none)
    end = lax.while_loop(goes_on, step, initial)
    use_best = jnp.isfinite(end.best_value) & keep_best
    scales = jax.tree.map(lambda a, b: jnp.where(use_best, a, b), end.best, end.scales)
    return scales, end.values, end.step


def check_loss(value: Array, caller: str) -> Array:
    """The loss in float32 or wider; raises unless it is one number."""
    if jnp.shape(value) != () or not inexact(jnp.asarray(value)):
        must = "`loss` must map `(params, *inputs)` to one floating number"
        got = jax.typeof(value).str_short()
        raise ValueError(message(caller, must, got, "Take the mean over the batch."))
    return value.astype(at_least_float32(value.dtype))
