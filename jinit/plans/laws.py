"""The mean and variance that a plan gives every parameter, without drawing any."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from jinit._errors import message
from jinit.initializers import constants, distributions, orthogonal, variance_scaling
from jinit.initializers._base import Initializer
from jinit.plans.assignment import Assignment, called_shape, text_of
from jinit.plans.layers import layers_of

_MAKERS = {
    "normal": distributions.normal,
    "uniform": distributions.uniform,
    "truncated_normal": distributions.truncated_normal,
    "constant": constants.constant,
    "orthogonal": orthogonal.orthogonal,
    "delta_orthogonal": orthogonal.delta_orthogonal,
    "variance_scaling": variance_scaling.variance_scaling,
}
_FUNCTIONS = {"zeros": constants.zeros, "ones": constants.ones}


def law_of(assignment: Assignment, *, caller: str) -> tuple[Any, Any]:
    """Mean and variance of an entry; of `[length]` where the layers of a stack have laws of their own.

    Raises:
      ValueError: the law of an initializer is not known.
      NotImplementedError: a stack whose laws differ does not have its layers along the first axes.
    """
    layers = layers_of(assignment.use)
    inits = [known(init) for init in assignment.initializers]
    moments = []
    for init, given in zip(inits, assignment.initializers, strict=True):
        if init is None:
            raise ValueError(_refusal(assignment, given, caller))
        # A function that is not jinit's is called as it is, on a kernel.
        shape = called_shape(given, layers, whole=len(inits) == 1)
        moments.append((init.mean(shape), init.variance(shape, assignment.use.dtype)))
    if len(moments) == 1:
        return moments[0]
    if layers.scan_axes != tuple(range(len(layers.stack))):
        must = f"layers with laws of their own must be stacked along the first axes of {assignment.path!r}"
        raise NotImplementedError(message(caller, must, f"axes {layers.scan_axes}"))
    return tuple(np.reshape(x, layers.stack) for x in zip(*moments, strict=True))  # type: ignore[return-value]


def known(init: Any) -> Any:
    """An initializer of jinit of the same law, or None: functions of JAX and Flax are known by name."""
    if isinstance(init, Initializer):
        return init
    name, module = getattr(init, "__qualname__", ""), str(getattr(init, "__module__", ""))
    if isinstance(init, types.FunctionType) and module.startswith(("jax.", "flax.")):
        if name in _FUNCTIONS:
            return _FUNCTIONS[name]
        maker = _MAKERS.get(name.removesuffix(".<locals>.init"))
        return None if maker is None else _made(maker, init)
    declares = all(callable(getattr(init, what, None)) for what in ("mean", "variance"))
    return init if declares else None


def _made(maker: Callable[..., Any], init: types.FunctionType) -> Any:
    """The same maker of jinit, called with what the function has captured."""
    captured = inspect.getclosurevars(init).nonlocals
    wanted = inspect.signature(maker).parameters
    try:
        return maker(**{k: v for k, v in captured.items() if k in wanted and k != "dtype"})
    except (TypeError, ValueError):
        return None


def _refusal(assignment: Assignment, init: Any, caller: str) -> str:
    must = f"the law of {assignment.path!r} must be known"
    got = f"{init!r}, which rule {assignment.rule} ({text_of(assignment.pattern)}) gives it"
    advice = "Use an initializer of jinit, or one with methods `mean(shape)` and `variance(shape)`; or pass"
    return message(caller, must, got, f"{advice} `weights` a mapping from path to variance.")
