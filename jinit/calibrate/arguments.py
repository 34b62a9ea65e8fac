"""Checks on what the caller of a calibration wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jinit._errors import message
from jinit._typing import Array, Key
from jinit.initializers._arguments import count, positive_number, single_key, traced
from jinit.jaxprs.tracing import Signature, check_params


def check_flags(caller: str, **flags: Any) -> None:
    """Raise unless all are booleans: text such as `"false"` would count as true."""
    for name, value in flags.items():
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(message(caller, f"`{name}` must be True or False", f"{name}={value!r}"))


def check_positive(caller: str, **numbers: Any) -> None:
    """Raise unless all are positive real numbers; what is traced passes."""
    for name, value in numbers.items():
        if not traced(value):
            positive_number(caller, name, value)


def check_loss_of_outputs(caller: str, loss: Any) -> None:
    """Raise unless `loss` is None or a function."""
    if loss is not None and not callable(loss):
        must = "`loss` must be a function of the outputs"
        raise TypeError(message(caller, must, f"loss={loss!r}", "Such as `lambda y: jnp.mean(y**2)`."))


def check_loss_of_params(caller: str, loss: Any) -> None:
    """Raise unless `loss` is a function."""
    if not callable(loss):
        must = "`loss` must be a function `(params, *inputs)` -> one floating number"
        advice = "Such as `lambda params, x: jnp.mean(model.apply(params, x) ** 2)`."
        raise TypeError(message(caller, must, f"loss={loss!r}", advice))


def check_patterns(caller: str, name: str, patterns: Any) -> None:
    """Raise unless it is a glob, or several of them."""
    several = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(several, Sequence) or not several or not all(isinstance(p, str) for p in several):
        must = f"`{name}` must be a pattern or several of them"
        raise TypeError(message(caller, must, f"{name}={patterns!r}", 'Such as "*/kernel".'))


def check_optimizer(caller: str, optimizer: Any) -> None:
    """Raise unless `optimizer` is None or one of optax."""
    if optimizer is not None and not all(callable(getattr(optimizer, n, None)) for n in ("init", "update")):
        must = "`optimizer` must be an optax optimizer"
        raise TypeError(message(caller, must, f"optimizer={optimizer!r}", "Such as `optax.adam(0.01)`."))


def check_search(caller: str, loss: Any, steps: Any, patience: Any, optimizer: Any, parameters: Any) -> None:
    """Raise unless scales of parameters can be learned so."""
    check_loss_of_params(caller, loss)
    count(caller, "steps", steps)
    count(caller, "patience", patience)
    check_optimizer(caller, optimizer)
    check_patterns(caller, "parameters", parameters)


def cotangent_key(caller: str, key: Key | None) -> Key:
    """The key given, or the one that stands for None."""
    return jax.random.key(0) if key is None else single_key(caller, key)


def check_arrays(signature: Signature, arrays: list[Array], caller: str) -> None:
    """Raise unless there are parameters, and numbers in all arrays."""
    check_params(signature, caller=caller)
    for number, x in enumerate(arrays):
        if isinstance(x, jax.ShapeDtypeStruct):
            where = "`params`" if number < signature.num_params else "the inputs"
            got = f"a `jax.ShapeDtypeStruct` of shape {x.shape}"
            advice = "Draw parameters with `jinit.init`. `jinit.autoinit` takes shapes as inputs."
            raise ValueError(message(caller, f"{where} must hold arrays, not shapes", got, advice))


def check_batches(inputs: list[Array], caller: str) -> None:
    """Raise unless every input has a leading axis, of one size."""
    sizes = {jnp.shape(x)[:1] for x in inputs}
    if len(sizes) != 1 or sizes & {(), (0,)}:
        shapes = ", ".join(str(jnp.shape(x)) for x in inputs) or "no input"
        must = "with `batches=True` every input must have a leading axis, one entry a batch, of one size"
        raise ValueError(message(caller, must, shapes, "Stack the batches: `jnp.stack([x1, x2])`."))
