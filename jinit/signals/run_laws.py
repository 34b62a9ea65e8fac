"""Run a model on laws, and read them at its sites."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jinit._compat import inner_jaxprs, not_tracing, opened, options_for_laws, source_of
from jinit._errors import message
from jinit._typing import PyTree
from jinit.jaxprs.sites import Site
from jinit.jaxprs.tracing import Program, Signature, check_call, split
from jinit.signals.given import Call, Plan, Variances, call_of, check_laws
from jinit.signals.laws.arrays import is_traced, near, xp
from jinit.signals.laws.as_laws import all_steps
from jinit.signals.laws.by_moments import MomentRule
from jinit.signals.laws.indexed import sizes_of
from jinit.signals.laws.interpret import Interpreter
from jinit.signals.laws.kernels import told_apart
from jinit.signals.laws.law import Law, average, normal, pair
from jinit.signals.laws.roots import COTANGENT, WEIGHT
from jinit.signals.laws.steps import has_long_loop, is_known
from jinit.signals.laws.values import INPUTS, PARAMS, Each, Held, Stacked, Unknown, Value, by_step
from jinit.signals.records import Records
from jinit.signals.traced import Traced, traced

T = TypeVar("T")
Read = Callable[[Site, dict[str, Value]], T]


def run_on_laws(
    apply: Callable[..., PyTree], *, weights: Variances | Plan | None, rules: Mapping[Any, MomentRule] | None,
    backward: bool, caller: str, read: Read[T], similarity: float | None = None,
) -> Callable[..., dict[str, T]]:  # fmt: skip
    """From the arguments of `apply` to what `read` makes of the laws at every site, by name.

    Args:
      apply: as for `predict`, like the next three.
      weights: the laws of parameters.
      rules: the user's own.
      backward: whether gradients are wanted.
      caller: whom an error names.
      read: of a site and the laws of its signals.
      similarity: if given, floating inputs are normal, and examples along axis 0 correlated by it.
    """
    check_call(apply, caller=caller)
    check_laws(weights, rules, caller)
    interpreter = Interpreter(dict(rules or {}))
    runs: dict[Call, Callable[..., dict[str, T]]] = {}

    def run_of(call: Call, known: bool) -> Callable[..., dict[str, T]]:
        known = known and not_tracing()
        if call in runs and known:
            return runs[call]
        model = traced(apply, call, backward=backward, caller=caller)
        run = functools.partial(_run, model, call, interpreter, read, similarity, caller)
        if not known:
            return _compiled_as_one(run)
        if not model.holds_tracers:
            run = runs[call] = _compiled_if_worth_it(run, model.closed)
        return run

    def ran(params: PyTree, *inputs: Any, **kwargs: Any) -> dict[str, T]:
        signature, arrays = split(params, inputs, kwargs)
        laws: Any = getattr(weights, "laws", None)  # those of a plan
        named: Any = weights if laws is None else laws(apply)(params, *inputs, **kwargs)
        call, compact, moments = call_of(signature, arrays, named, caller)
        with np.errstate(all="ignore"):
            found = run_of(call, is_known([compact, moments]))(compact, moments)
        return jax.tree.map(jnp.asarray, found)

    return ran


def _run(
    model: Traced, call: Call, interpreter: Interpreter, read: Read[T], similarity: float | None, caller: str,
    arrays: list[Any], moments: list[Any],
) -> Any:  # fmt: skip
    program, sites = model.program, model.sites
    values = _values(call, arrays, moments, similarity)
    values += [
        normal(0.0, 1.0, ("cotangent", i), c.shape, c.dtype, kind=COTANGENT)
        for i, c in enumerate(model.cotangents)
    ]
    found = jax.tree.unflatten(model.structure, _laws(interpreter, model.closed, values))
    records: Any = Records()
    for site, here in zip(sites.sites, found, strict=True):
        for field, value in here.items():
            if isinstance(value, Unknown):
                raise NotImplementedError(_refusal(value, field, site, program, caller))
        records.update(dict.fromkeys(site.names, read(site, here)))
    return records


def _laws(interpreter: Interpreter, closed: Any, values: list[Value]) -> list[Any]:
    """Those of a program's results."""
    with told_apart(sizes_of(closed)):
        return interpreter.apart().inner(closed, values, ())


def _compiled_if_worth_it(run: Callable[..., T], closed: Any) -> Callable[..., T]:
    """What a long loop does is compiled, all else would take far longer to compile than to do."""
    return jax.jit(run, compiler_options=options_for_laws()) if has_long_loop(closed) else run


def _compiled_as_one(run: Callable[..., T]) -> Callable[..., T]:
    """What is traced is compiled in one, not equation by equation; what is known stays known."""

    def compiled(*args: Any) -> T:
        leaves, structure = jax.tree.flatten(args)
        traced = [i for i, x in enumerate(leaves) if is_traced(x)]

        def of_traced(found: list[Any]) -> T:
            every = dict(enumerate(leaves)) | dict(zip(traced, found, strict=True))
            return run(*jax.tree.unflatten(structure, [every[i] for i in range(len(leaves))]))

        return jax.jit(of_traced)([leaves[i] for i in traced])

    return compiled


def expected(
    function: Callable[[list[Any]], list[Any]], program: Program, sites: Sequence[Site],
    signature: Signature, arrays: list[Any], *, rules: Mapping[Any, MomentRule], caller: str,
) -> list[Any]:  # fmt: skip
    """What a function of a call's arrays is expected to return, from their laws alone.

    Args:
      function: from arrays to a pytree of numbers for each site, inside of its loops.
      program: the model, for the lines of the user's file.
      sites: its sites.
      signature: from `split`.
      arrays: from `split`; of the inputs shapes are enough.
      rules: laws for primitives.
      caller: whom an error names.
    """
    call, compact, moments = call_of(signature, arrays, None, caller)
    avals = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in call.shapes]
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(avals)
    interpreter = Interpreter(dict(rules))

    def run(arrays: list[Any], moments: list[Any]) -> list[Any]:
        return _laws(interpreter, closed, _values(call, arrays, moments, None))

    with np.errstate(all="ignore"):
        laws = _compiled_if_worth_it(run, closed)(compact, moments)
    found = jax.tree.unflatten(jax.tree.structure(shapes), laws)
    numbers = []
    for site, here in zip(sites, found, strict=True):
        for value in jax.tree.leaves(here, is_leaf=_is_value):
            if isinstance(value, Unknown):
                raise NotImplementedError(_refusal(value, "output", site, program, caller))
        number = functools.partial(_number, loops=len(site.lengths))
        numbers.append(jax.tree.map(number, here, is_leaf=_is_value))
    return numbers


def _is_value(x: Any) -> bool:
    return isinstance(x, (Held, Law, Stacked, Each, Unknown))


def _number(value: Value, loops: int) -> Any:
    """The mean of a value of no axes, with a leading axis for each loop around it."""
    value = value if loops else all_steps(value)
    if isinstance(value, (Stacked, Each)):
        return by_step(value, lambda step: _number(step, loops - 1))
    if isinstance(value, Law):
        return jnp.asarray(average(value).reshape(()))
    assert isinstance(value, Held)
    return jnp.asarray(value.whole())


def _refusal(value: Unknown, field: str, site: Site, program: Program, caller: str) -> str:
    where = _line_of(program.jaxpr, value.primitive)
    got = f"none, since {value.reason}" + (f" ({where})" if where else "")
    must = f"the {field} of {', '.join(site.names)} ({site.source}) must have a law"
    return message(caller, must, got, "Give it one with `rules`, or measure with `jinit.measure`.")


def _line_of(jaxpr: Any, primitive: str) -> str | None:
    """The user's line of the first equation of this primitive, also inside of others; or None."""
    jaxpr, _ = opened(jaxpr)
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == primitive:
            return source_of(eqn)
        for inner in inner_jaxprs(eqn):
            if (found := _line_of(inner, primitive)) is not None:
                return found or source_of(eqn)  # a cached function does not know its lines
    return None


def _values(call: Call, arrays: list[Any], moments: list[Any], similarity: float | None) -> list[Value]:
    """What is known of every array of a call."""
    num_params = call.signature.num_params
    pairs = enumerate(zip(arrays, moments, strict=True))
    return [_value(i, call, x, m, num_params, similarity) for i, (x, m) in pairs]


def _value(
    index: int, call: Call, array: Any, moments: Any, num_params: int, similarity: float | None
) -> Value:
    shape, dtype = call.shapes[index]
    source = frozenset([PARAMS if index < num_params else INPUTS])
    if (axes := call.laws[index]) is not None:
        mean, variance = moments
        if axes < 0:
            one = (
                xp.full((1,) * len(shape), mean, dtype) if not shape or min(shape) else xp.zeros(shape, dtype)
            )
            return Held(one, shape, source)
        return _weight(mean, variance, ("weight", index), shape, dtype, axes)
    if similarity is not None and index >= num_params and jnp.issubdtype(dtype, jnp.floating):
        square = jnp.mean(jnp.square(jnp.asarray(array, jnp.float32))) if call.given[index] else 1.0
        return pair(near(square), similarity, ("input", index), shape, dtype)
    if call.given[index]:
        return Held(array, shape, source)
    if not jnp.issubdtype(dtype, jnp.floating):
        return Unknown("it depends on the values of an input that only has a shape")
    return normal(0.0, 1.0, ("input", index), shape, dtype)


def _weight(mean: Any, variance: Any, name: Any, shape: tuple[int, ...], dtype: Any, axes: int) -> Value:
    """Normal entries; of moments of their own along the first axes."""
    if not axes:
        law = normal(mean, variance, name, shape, dtype, size=15, kind=WEIGHT)
        return dataclasses.replace(law, parameters=frozenset([name]))
    step = jax.vmap(lambda m, v: _weight(m, v, name, shape[1:], dtype, axes - 1))
    return Stacked(jax.tree.map(near, step(jnp.asarray(mean), jnp.asarray(variance))), shape[0])
