"""Methods of initialization as one kind of thing: keys and a network in, parameters out."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jinit._errors import message, speaking_as
from jinit._typing import Array, Key, PyTree
from jinit.calibrate.learn import LearnedScales, operations
from jinit.initializers._base import Initializer
from jinit.jaxprs.tracing import split
from jinit.plans.init import init
from jinit.plans.patterns import role
from jinit.plans.redraw import redraw
from jinit.plans.rules import Plan

_FORMS = (
    "a `jinit.plan`, an initializer for the kernels, a function `(key, params, *inputs) -> params`, or a "
    "list of one of these and then functions `(params, *inputs) -> params`, such as `jinit.lsuv(apply)`"
)
Call = tuple[tuple[Any, ...], dict[str, Any]]  # inputs and keyword arguments of `apply`


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to initialize a network.

    Attributes:
      name: as the user calls it.
      plan: draws all parameters, if a plan does.
      draw: `(key, params, *inputs, **kwargs) -> params` otherwise.
      counts: whether drawing may run the network, so that it has a cost.
      calibrations: what comes after, each `(params, *inputs, **kwargs) -> params` or `(params, anything)`.
    """

    name: str
    plan: Plan | None
    draw: Callable[..., PyTree]
    counts: bool
    calibrations: tuple[Callable[..., PyTree], ...] = ()


@dataclasses.dataclass(frozen=True)
class Draws:
    """What the methods made: parameters with a leading axis, seed by seed within method by method.

    Attributes:
      params: the stacked parameters.
      forward_passes: cost of each method; NaN where it cannot be told.
    """

    params: PyTree
    forward_passes: tuple[float, ...]


def methods_of(methods: Any, apply: Callable[..., PyTree], caller: str) -> list[Method]:
    """What `{name: method}` stands for.

    Raises:
      TypeError, ValueError: it is no mapping, empty, or one of its values is no method.
    """
    if not isinstance(methods, Mapping):
        raise TypeError(message(caller, "`methods` must be a dict `{name: method}`", type(methods).__name__))
    if not methods:
        raise ValueError(message(caller, "`methods` must name at least one method", "none"))
    return [_method(str(name), method, apply, caller) for name, method in methods.items()]


def _method(name: str, method: Any, apply: Callable[..., PyTree], caller: str) -> Method:
    if isinstance(method, (list, tuple)) and method:
        first = _method(name, method[0], apply, caller)
        if all(callable(step) and not isinstance(step, (Plan, Initializer)) for step in method[1:]):
            return dataclasses.replace(first, calibrations=tuple(method[1:]))
    if isinstance(method, Plan):
        draw = speaking_as(caller, "jinit.init(...)")(init(apply, method))
        return Method(name, method, draw, counts=False)
    if isinstance(method, Initializer) or (callable(method) and _second(method) == "shape"):
        draw = speaking_as(caller, "jinit.redraw(...)")(redraw(apply, [(role("kernel"), method)]))
        return Method(name, None, draw, counts=False)
    if callable(method):
        return Method(name, None, method, counts=True)
    raise TypeError(message(caller, f"method {name!r} must be {_FORMS}", repr(method)))


def _second(function: Callable[..., Any]) -> str:
    """Name of the second argument, which tells an initializer of JAX from a method."""
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ""
    return names[1] if len(names) > 1 else ""


def draw_all(
    methods: Sequence[Method], apply: Callable[..., PyTree], keys: Sequence[Key], params: PyTree, call: Call
) -> Draws:
    """Parameters by every method and key."""
    once = cost(apply, params, call)
    drawn: list[PyTree] = []
    passes = []
    for method in methods:
        taken = []
        for first in _first(method, keys, params, call):
            new, learned = _calibrated(method, first, params, call)
            drawn.append(_checked(method.name, new, params))
            taken.append(learned)
        passes.append(_passes(method, drawn[-1], keys[0], params, call, taken, once))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves) if _is_array(leaves[0]) else leaves[0], *drawn)
    return Draws(stacked, tuple(passes))


def _first(method: Method, keys: Sequence[Key], params: PyTree, call: Call) -> list[PyTree]:
    """What a method draws with every key, before it is calibrated; a plan is read once for all."""
    inputs, kwargs = call
    if method.plan is None:
        return [_alone(method.draw(key, params, *inputs, **kwargs), params) for key in keys]
    many = method.draw(jnp.stack(list(keys)), params, *inputs, **kwargs)
    return [jax.tree.map(lambda x, i=i: x[i] if _is_array(x) else x, many) for i in range(len(keys))]


def _alone(result: PyTree, params: PyTree) -> PyTree:
    """Parameters alone, of a method that returns something beside them."""
    pair = isinstance(result, tuple) and len(result) == 2
    return result[0] if pair and jax.tree.structure(result) != jax.tree.structure(params) else result


def _calibrated(method: Method, new: PyTree, params: PyTree, call: Call) -> tuple[PyTree, list[float | None]]:
    """The parameters after all calibrations, and what those that count it say each of them took."""
    inputs, kwargs = call
    taken: list[float | None] = []
    for calibrate in method.calibrations:
        result = calibrate(new, *inputs, **kwargs)
        new = _alone(result, params)
        learned = result[1] if new is not result else None
        taken.append(float(learned.forward_passes) if isinstance(learned, LearnedScales) else None)
    return new, taken


def _passes(
    method: Method, new: PyTree, key: Key, params: PyTree, call: Call, taken: list[Any], once: float
) -> float:
    """Cost of a method in forward passes, on average over the seeds."""
    free = not method.counts or new is params
    total = 0.0 if free else cost(method.draw, (key, params), call, apart=True) / once
    for number, calibrate in enumerate(method.calibrations):
        told = [of[number] for of in taken]
        total += cost(calibrate, new, call) / once if None in told else float(np.mean(told))
    return total


def cost(function: Callable[..., Any], params: PyTree, call: Call, *, apart: bool = False) -> float:
    """Floating-point operations of `function(params, *inputs, **kwargs)`; NaN if it cannot be traced.

    Args:
      function: what to call.
      params: its first argument, or with `apart` its first arguments.
      call: its inputs and keyword arguments.
      apart: see `params`.
    """
    signature, arrays = split(params, *call)

    def flat(arrays: list[Array]) -> PyTree:
        first, inputs, kwargs = signature.arguments(arrays)
        return function(*first, *inputs, **kwargs) if apart else function(first, *inputs, **kwargs)

    try:
        return operations(flat, [jnp.asarray(x) if np.isscalar(x) else x for x in arrays]) or float("nan")
    except Exception:  # whatever a method of the user does that only runs with numbers
        return float("nan")


def _checked(name: str, new: PyTree, params: PyTree) -> PyTree:
    """The parameters a method made, which must be like those given."""
    caller, must = "jinit.compare(...)", f"method {name!r} must return parameters like those given"
    if jax.tree.structure(new) != jax.tree.structure(params):
        raise ValueError(message(caller, must, f"{jax.tree.structure(new)}"))
    pairs = zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(new), strict=True)
    for (path, leaf), found in pairs:
        if _is_array(leaf) and (np.shape(found), found.dtype) != (leaf.shape, leaf.dtype):
            got = f"{found.dtype}{np.shape(found)} for {leaf.dtype}{leaf.shape}"
            raise ValueError(message(caller, must, f"{got} at {jax.tree_util.keystr(path)}"))
        if isinstance(found, jax.ShapeDtypeStruct):
            advice = "Call it with arrays, or let a plan draw all parameters."
            raise ValueError(message(caller, must, f"a shape at {jax.tree_util.keystr(path)}", advice))
    return new


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")
