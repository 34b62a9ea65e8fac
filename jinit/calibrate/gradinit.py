"""GradInit: scales for which one optimizer step lowers the loss most."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jinit._errors import message
from jinit._typing import Array, PyTree
from jinit.calibrate.arguments import check_arrays, check_batches, check_flags, check_positive, check_search
from jinit.calibrate.learn import LearnedScales, Scales, check_loss, chosen_paths, learn, scaled
from jinit.calibrate.lsuv import replaced
from jinit.calibrate.operations import operations
from jinit.jaxprs.tracing import Signature, split
from jinit.signals.observe import inexact


def gradinit(
    loss: Callable[..., Array],
    *,
    step_size: float = 0.1,
    rule: Literal["sgd", "sign"] = "sgd",
    max_norm: float = 1.0,
    steps: int = 200,
    learning_rate: float = 0.01,
    optimizer: optax.GradientTransformation | None = None,
    floor: float = 0.01,
    parameters: str | Sequence[str] = "*",
    batches: bool = False,
    patience: int = 200,
) -> Callable[..., tuple[PyTree, LearnedScales]]:
    """Learn one scale a parameter so that the first optimizer step lowers the loss most.

    With parameters `θ_m = m ⊙ θ` and their gradient `g = ∇L(θ_m)`, scales `m` solve

        minimize  L̃(θ_m − η A[g])   subject to   ‖g‖ ≤ γ,

    `A[g] = g` and the Euclidean norm for `rule="sgd"`, `A[g] = sign g` and the sum of absolute values for
    `rule="sign"`, which stands for Adam. Where the bound is broken, a step lowers `‖g‖` instead. Both are
    differentiated through the inner step, second derivatives included.

    Args:
      loss: `(params, *inputs, **kwargs)` -> one floating number.
      step_size: `η`, the learning rate of the training to come.
      rule: the optimizer of the training to come.
      max_norm: `γ`.
      steps: how many steps at most.
      learning_rate: of the scales, with Adam.
      optimizer: an optax optimizer of the scales instead.
      floor: the smallest scale allowed; positive.
      parameters: globs over the paths of the parameters to be scaled. A parameter that is stacked for a
        `scan` has one scale.
      batches: whether every input array has a leading axis of batches. Step `t` takes its gradient from
        batch `t` and looks at the loss `L̃` on the next; else both are the one batch.
      patience: steps without an improvement of a thousandth after which it stops.

    Returns:
      A function `(params, *inputs, **kwargs) -> (params, LearnedScales)`, under `jax.jit` or not: with one
      batch the best parameters met, with several the last. `values` holds `L̃`, infinite where the bound was
      broken.

    Raises:
      TypeError: `loss` is no function, `optimizer` none of optax, an option of the wrong kind.
      ValueError: a number is not positive, `rule` is unknown, a pattern fits nothing, the loss is no single
      number, with `batches=True` the inputs do not hold equally many.

    Example:
      >>> import jax, jax.numpy as jnp, jinit
      >>> x = jax.random.normal(jax.random.key(0), (64, 16))
      >>> params = [4 * jax.random.normal(k, (16, 16)) for k in jax.random.split(jax.random.key(1), 3)]
      >>> def loss(params, x):
      ...     for w in params:
      ...         x = jnp.tanh(x @ w)
      ...     return jnp.mean((x - 0.1) ** 2)
      >>> calibrated, learned = jinit.gradinit(loss, learning_rate=0.05)(params, x)
      >>> bool(loss(calibrated, x) < loss(params, x)), min(learned.scales.values()) >= 0.01
      (True, Array(True, dtype=bool))

    References:
      Zhu, Ni, Xu, Kong, Huang and Goldstein, *GradInit: Learning to initialize neural networks for stable and
      efficient training*, 2021, algorithm 1. There the second batch overlaps the first by half.
    """
    caller = "jinit.gradinit(...)"
    check_search(caller, loss, steps, patience, optimizer, parameters)
    check_positive(caller, step_size=step_size, max_norm=max_norm, floor=floor, learning_rate=learning_rate)
    check_flags(caller, batches=batches)
    if rule not in ("sgd", "sign"):
        raise ValueError(message(caller, '`rule` must be "sgd" or "sign"', f"rule={rule!r}"))
    outer = optax.adam(learning_rate) if optimizer is None else optimizer

    @functools.partial(jax.jit, static_argnums=0)
    def run(signature: Signature, arrays: list[Array]) -> tuple[dict[int, Array], LearnedScales]:
        arrays = [jnp.asarray(x) for x in arrays]
        num_params = signature.num_params
        chosen = chosen_paths(parameters, signature, arrays, 0, caller)
        value = _value_at(loss, signature, arrays, batches, caller)
        objective = _objective(value, arrays[:num_params], chosen, step_size, rule, max_norm)
        start = {path: jnp.ones(()) for path in chosen}
        floors = dict.fromkeys(chosen, jnp.full((), floor))
        scales, values, taken = learn(
            objective, start, outer, steps=steps, patience=patience, floor=floors, keep_best=not batches
        )
        zero = jnp.zeros((), jnp.int32)
        once = operations(value, arrays[:num_params], zero) or jnp.nan
        ratio = operations(objective, start, zero) / once
        new = scaled(arrays, chosen, scales)
        learned = LearnedScales(scales, values, taken, taken.astype(jnp.float32) * ratio)
        return {i: new[i] for i in chosen.values()}, learned

    def calibrated(params: PyTree, *inputs: Any, **kwargs: Any) -> tuple[PyTree, LearnedScales]:
        signature, arrays = split(params, inputs, kwargs)
        check_arrays(signature, arrays, caller)
        if batches:
            check_batches(arrays[signature.num_params :], caller)
        changed, learned = run(signature, arrays)
        return replaced(signature, arrays, changed), learned

    return calibrated


def _value_at(
    loss: Callable[..., Array], signature: Signature, arrays: list[Array], batches: bool, caller: str
) -> Callable[[list[Array], Array], Array]:
    """The loss as a function of the parameters' arrays and of the step, which says which batch to take."""
    inputs = arrays[signature.num_params :]

    def value(leaves: list[Array], step: Array) -> Array:
        given = inputs
        if batches:
            given = [lax.dynamic_index_in_dim(x, step % x.shape[0], keepdims=False) for x in inputs]
        params, args, kwargs = signature.arguments([*leaves, *given])
        return check_loss(jnp.asarray(loss(params, *args, **kwargs)), caller)

    return value


def _objective(
    value: Callable[[list[Array], Array], Array],
    leaves: list[Array],
    chosen: dict[str, int],
    step_size: float,
    rule: str,
    max_norm: float,
) -> Callable[[Scales, Array], tuple[Array, Scales]]:
    floating = [i for i, x in enumerate(leaves) if inexact(x)]

    def gradient(scales: Scales, step: Array) -> tuple[list[Array], list[Array]]:
        here = scaled(leaves, chosen, scales)

        def of_floating(free: list[Array]) -> Array:
            given = dict(zip(floating, free, strict=True))
            return value([given.get(i, x) for i, x in enumerate(here)], step)

        return here, jax.grad(of_floating)([here[i] for i in floating])

    def norm(scales: Scales, step: Array) -> Array:
        _, g = gradient(scales, step)
        if rule == "sign":
            return sum((jnp.sum(jnp.abs(x)).astype(jnp.float32) for x in g), jnp.zeros(()))
        return jnp.sqrt(sum((jnp.sum(jnp.abs(x) ** 2).astype(jnp.float32) for x in g), jnp.zeros(())))

    def after(scales: Scales, step: Array) -> Array:
        here, g = gradient(scales, step)
        moves = [jnp.sign(x) if rule == "sign" else x for x in g]
        for i, move in zip(floating, moves, strict=True):
            here[i] = (here[i] - jnp.asarray(step_size, here[i].dtype) * jnp.conj(move)).astype(here[i].dtype)
        return value(here, step + 1)

    def objective(scales: Scales, step: Array) -> tuple[Array, Scales]:
        size, pull = jax.vjp(lambda s: norm(s, step), scales)

        def lower_norm() -> tuple[Array, Scales]:
            return jnp.full((), jnp.inf), pull(jnp.ones_like(size))[0]

        def lower_loss() -> tuple[Array, Scales]:
            found, slope = jax.value_and_grad(after)(scales, step)
            return found.astype(jnp.float32), slope

        return lax.cond(size > max_norm, lower_norm, lower_loss)

    return objective
