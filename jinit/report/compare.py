"""`jinit.compare`: ways to initialize a network, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from jinit._errors import message
from jinit._typing import Array, Key, PyTree
from jinit.calibrate.arguments import check_flags, check_loss_of_outputs, check_optimizer
from jinit.initializers._arguments import count, number, single_key
from jinit.jaxprs.tracing import check_call, check_params, split
from jinit.report.comparison import Comparison, ComparisonRow
from jinit.report.methods import Draws, Method, draw_all, methods_of
from jinit.report.report import refuse_tracers
from jinit.report.runs import Signals, over_draws, signals, trained

_CALLER = "jinit.compare(...)"


def compare(
    methods: Mapping[str, Any],
    apply: Callable[..., PyTree],
    *,
    loss: Callable[..., Array] | None = None,
    labels: PyTree = None,
    steps: int = 100,
    optimizer: optax.GradientTransformation | None = None,
    batch_size: int | None = None,
    seeds: int = 3,
    key: Key | None = None,
    backward: bool = True,
    within: float = 1e3,
) -> Callable[..., Comparison]:
    """Ways to initialize a network, side by side: signals, gradients, training and cost, over seeds.

    For every method and seed it tells: the *variance error*, `max |√Var[output] − 1|` over all sites; the
    *signal depth*, at how many sites `E[x²]` is within a factor of that at the first; the *gradient depth*,
    at how many sites `Σδ²` is within the factor of that at the last; the *loss* after some steps of an
    optimizer, on the same batches for all methods; and the cost of the method in forward passes.

    Sites in loops count once a step. All draws are measured by one compiled program and trained by another,
    one after another.

    Args:
      methods: `{name: method}`. A method is a `jinit.plan`, which draws all parameters; or an initializer,
        of jinit or JAX, which draws the kernels with their true fans, all else staying as given; or a
        function `(key, params, *inputs, **kwargs)` to parameters, or to `(parameters, anything)`; or a list:
        first one of these, then functions `(params, *inputs, **kwargs)` to parameters, or to
        `(parameters, anything)`, such as `jinit.lsuv(apply)` or `jinit.metainit(loss)`.
      apply: any pure `(params, *inputs, **kwargs) -> outputs`, as for `jinit.measure`.
      loss: a function of the outputs to one number, or of the outputs and `labels`. Without it nothing is
        trained, and gradients are those of random cotangents.
      labels: what `loss` takes beside the outputs: arrays whose leading axis is that of the inputs.
      steps: of training.
      optimizer: an optax optimizer; `optax.adam(1e-3)` if None. It trains the floating parameters; of the
        variables of a linen module the collection `params` alone.
      batch_size: how many examples, drawn at random, a step takes; None for all of them. The inputs must
        then have one leading axis of examples.
      seeds: how many draws a method makes, with `key` folded with 0, 1, …
      key: `jax.random.key(0)` if None.
      backward: False leaves out gradients before training.
      within: the factor of the depths; a thousand is what `jinit.diagnose` warns at.

    Returns:
      A function `(params, *inputs, **kwargs) -> Comparison`, to be called as `apply` is. Of `params` methods
      that draw everything read the shapes alone, so each may be a `jax.ShapeDtypeStruct`. It needs memory for
      one copy of the parameters a draw.

    Raises:
      TypeError: `methods` is no dict or holds something else; an option is of the wrong kind; the returned
        function was called while tracing.
      ValueError: a number is too small, a method returns other parameters than it was given, the loss is
        no single number, `labels` come without a loss.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp, jinit
      >>> layers = [layer for _ in range(10) for layer in (nn.Dense(32), nn.relu)]
      >>> model = nn.Sequential([*layers, nn.Dense(1)])
      >>> x = jax.random.normal(jax.random.key(0), (64, 8))
      >>> params = model.init(jax.random.key(1), x)
      >>> methods = {
      ...     "small": jinit.normal(0.01),
      ...     "He": jinit.he_normal(),
      ...     "orthogonal, lsuv": [jinit.orthogonal(), jinit.lsuv(model.apply)],
      ... }
      >>> loss = lambda y, wanted: jnp.mean((y - wanted) ** 2)
      >>> labels = jnp.sin(x[:, :1])
      >>> found = jinit.compare(methods, model.apply, loss=loss, labels=labels, seeds=2)(params, x)
      >>> found.sites, max(found["small"].signal_depth), min(found["He"].signal_depth)
      (11, 1, 11)
      >>> max(found["orthogonal, lsuv"].variance_error) < 1e-3
      True
      >>> max(found["He"].loss) < min(found["small"].loss)
      True

    References:
      Mishkin and Matas, *All you need is a good init*, 2016, §4, where methods are compared so.
    """
    check_call(apply, caller=_CALLER)
    numbers = {"steps": steps, "seeds": seeds} | ({} if batch_size is None else {"batch_size": batch_size})
    for name, value in numbers.items():
        count(_CALLER, name, value)
    check_flags(_CALLER, backward=backward)
    check_loss_of_outputs(_CALLER, loss)
    check_optimizer(_CALLER, optimizer)
    if loss is None and labels is not None:
        raise ValueError(message(_CALLER, "`labels` need a `loss`", "loss=None"))
    if number(_CALLER, "within", within) <= 1:
        raise ValueError(message(_CALLER, "`within` must be more than 1", f"within={within}"))
    known = methods_of(methods, apply, _CALLER)
    look = signals(apply, loss, backward)
    train = None
    if loss is not None:
        train = trained(apply, loss, optax.adam(1e-3) if optimizer is None else optimizer, steps, batch_size)

    def compared(params: PyTree, *inputs: Any, **kwargs: Any) -> Comparison:
        refuse_tracers((params, inputs, kwargs), "jinit.compare(...)(...)")
        check_params(split(params, inputs, kwargs)[0], caller=_CALLER)
        root = jax.random.key(0) if key is None else single_key(_CALLER, key)
        keys = [jax.random.fold_in(root, i) for i in range(seeds)]
        draws = draw_all(known, apply, keys, params, (inputs, kwargs))
        every = keys * len(known)
        seen = over_draws(look, draws.params, (inputs, kwargs), every, labels)
        losses = None
        if train is not None:
            losses = over_draws(train, draws.params, (inputs, kwargs), every, labels)
        rows = [_row(m, i, seeds, draws, seen, losses, within) for i, m in enumerate(known)]
        return Comparison(tuple(rows), seen.signal.shape[1], steps)

    return compared


def _row(
    method: Method, index: int, seeds: int, draws: Draws, seen: Signals, losses: Any, within: float
) -> ComparisonRow:
    own = slice(index * seeds, (index + 1) * seeds)
    return ComparisonRow(
        method=method.name,
        variance_error=tuple(map(_variance_error, seen.variance[own])),
        signal=_floats(seen.signal[own]),
        gradient=_floats(seen.gradient[own]),
        losses=() if losses is None else _floats(losses[own]),
        forward_passes=draws.forward_passes[index],
        within=within,
    )


def _floats(values: Any) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(map(float, row)) for row in values)


def _variance_error(variances: Any) -> float:
    """The largest relative distance of a standard deviation from one; infinite where one is no number."""
    if not len(variances):
        return float("nan")
    return float(np.max(np.abs(np.sqrt(np.where(np.isnan(variances), np.inf, variances)) - 1)))
