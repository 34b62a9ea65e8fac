"""Methods of initialization as one kind of thing: keys and a network in, parameters out."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jinit._errors import message, speaking_as
from jinit._typing import Array, Key, PyTree
from jinit.calibrate.calibration import Calibration
from jinit.calibrate.learn import LearnedScales
from jinit.calibrate.operations import operations
from jinit.initializers._base import Initializer
from jinit.jaxprs.tracing import split
from jinit.plans.init import init
from jinit.plans.patterns import role
from jinit.plans.redraw import redraw
from jinit.plans.rules import Plan
from jinit.signals.records import Records

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


class _Told(NamedTuple):
    """What a method tells of its own cost.

    Attributes:
      passes: forward passes that it took; None if it does not say.
      iterations: of the loop in it.
    """

    passes: float | None = None
    iterations: int = 1


class _Made(NamedTuple):
    """Parameters, and what the method that made them tells of its cost."""

    params: PyTree
    told: _Told = _Told()


class _Drawn(NamedTuple):
    """What all seeds of a method came to.

    Attributes:
      given: a key, and the parameters that it was called with.
      new: parameters that it made.
      as_given: whether what it draws are those that it was called with.
      told: for each seed, and each function of the method, what that tells of its cost.
    """

    given: tuple[Key, PyTree]
    new: PyTree
    as_given: bool
    told: list[list[_Told]]


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
    for step in method if isinstance(method, (list, tuple)) else [method]:
        if callable(step) and _arguments(step)[:1] == ["apply"]:
            got, advice = "a function whose first argument is `apply`", "Call it: `jinit.lsuv(apply)`."
            raise TypeError(message(caller, f"method {name!r} must be {_FORMS}", got, advice))
    if isinstance(method, (list, tuple)) and method:
        first = _method(name, method[0], apply, caller)
        if all(callable(step) and not isinstance(step, (Plan, Initializer)) for step in method[1:]):
            return dataclasses.replace(first, calibrations=tuple(method[1:]))
    if isinstance(method, Plan):
        draw = speaking_as(caller, "jinit.init(...)")(init(apply, method))
        return Method(name, method, draw, counts=False)
    if isinstance(method, Initializer) or (callable(method) and _arguments(method)[1:2] == ["shape"]):
        draw = speaking_as(caller, "jinit.redraw(...)")(redraw(apply, [(role("kernel"), method)]))
        return Method(name, None, draw, counts=False)
    if callable(method) and _arguments(method)[:1] == ["params"]:
        got = "a function whose first argument is `params`"
        advice = f"Let a plan or an initializer draw what it starts from: {{{name!r}: [plan, method]}}."
        raise TypeError(message(caller, f"method {name!r} must be {_FORMS}", got, advice))
    if callable(method):
        return Method(name, None, method, counts=True)
    raise TypeError(message(caller, f"method {name!r} must be {_FORMS}", repr(method)))


def _arguments(function: Callable[..., Any]) -> list[str]:
    """Names of the arguments, which tell an initializer of JAX, or a calibration, from a method."""
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def draw_all(
    methods: Sequence[Method], apply: Callable[..., PyTree], keys: Sequence[Key], params: PyTree, call: Call
) -> Draws:
    """Parameters by every method and key."""
    once = cost(apply, params, call) or float("nan")
    drawn: list[PyTree] = []
    passes = []
    for method in methods:
        told, as_given = [], False
        for first in _first(method, keys, params, call):
            steps = [first, *_calibrated(method, first.params, params, call)]
            drawn.append(_checked(method.name, steps[-1].params, params))
            told.append([step.told for step in steps])
            as_given = first.params is params
        last = _Drawn((keys[0], params), drawn[-1], as_given, told)
        passes.append(_passes(method, last, call, once))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves) if _is_array(leaves[0]) else leaves[0], *drawn)
    return Draws(stacked, tuple(passes))


def _first(method: Method, keys: Sequence[Key], params: PyTree, call: Call) -> list[_Made]:
    """What a method draws with every key, before it is calibrated; a plan is read once for all."""
    inputs, kwargs = call
    if method.plan is None:
        return [_made(method.draw(key, params, *inputs, **kwargs), params) for key in keys]
    many = method.draw(jnp.stack(list(keys)), params, *inputs, **kwargs)
    return [_Made(jax.tree.map(lambda x, i=i: x[i] if _is_array(x) else x, many)) for i in range(len(keys))]


def _made(result: PyTree, params: PyTree) -> _Made:
    """The parameters of a method that may return something beside them, and what that tells of its cost."""
    pair = isinstance(result, tuple) and len(result) == 2
    if not pair or jax.tree.structure(result) == jax.tree.structure(params):
        return _Made(result)
    new, beside = result
    if isinstance(beside, LearnedScales):
        return _Made(new, _Told(float(beside.forward_passes), int(beside.steps)))
    records = beside.values() if isinstance(beside, Records) else ()
    counted = [int(r.passes) for r in records if isinstance(r, Calibration) and r.passes is not None]
    return _Made(new, _Told(iterations=max(counted, default=1)))


def _calibrated(method: Method, new: PyTree, params: PyTree, call: Call) -> list[_Made]:
    """What each of the calibrations made of the parameters."""
    inputs, kwargs = call
    steps: list[_Made] = []
    for calibrate in method.calibrations:
        steps.append(_made(calibrate(new, *inputs, **kwargs), params))
        new = steps[-1].params
    return steps


def _passes(method: Method, drawn: _Drawn, call: Call, once: float) -> float:
    """Cost of a method in forward passes, on average over the seeds."""
    of_first, *of_others = zip(*drawn.told, strict=True)
    total = 0.0
    if method.counts and not drawn.as_given:
        total = cost(method.draw, drawn.given, call, apart=True, iterations=_iterations(of_first)) / once
    for calibrate, told in zip(method.calibrations, of_others, strict=True):
        passes = [t.passes for t in told if t.passes is not None]
        if passes:
            total += float(np.mean(passes))
        else:
            total += cost(calibrate, drawn.new, call, iterations=_iterations(told)) / once
    return total


def _iterations(told: Sequence[_Told]) -> float:
    return float(np.mean([t.iterations for t in told]))


def cost(
    function: Callable[..., Any], params: PyTree, call: Call, *, apart: bool = False, iterations: float = 1
) -> float:
    """Floating-point operations of `function(params, *inputs, **kwargs)`; NaN if it cannot be traced.

    Args:
      function: what to call.
      params: its first argument, or with `apart` its first arguments.
      call: its inputs and keyword arguments.
      apart: see `params`.
      iterations: of each `while_loop` in it.
    """
    signature, arrays = split(params, *call)

    def flat(arrays: list[Array]) -> PyTree:
        first, inputs, kwargs = signature.arguments(arrays)
        return function(*first, *inputs, **kwargs) if apart else function(first, *inputs, **kwargs)

    try:
        arrays = [jnp.asarray(x) if np.isscalar(x) else x for x in arrays]
        return operations(flat, arrays, iterations=iterations)
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
