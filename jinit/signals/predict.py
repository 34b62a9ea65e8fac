"""What theory says the signals of a network are, before any data."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jinit._compat import not_tracing, opened, source_of
from jinit._errors import message
from jinit._typing import Array, PyTree
from jinit.jaxprs.sites import Site, Sites, find_sites
from jinit.jaxprs.tracing import Program, check_call, split, trace
from jinit.jaxprs.walk import Extras, Parts, walk
from jinit.signals.given import Call, Variances, call_of
from jinit.signals.laws.arrays import xp
from jinit.signals.laws.interpret import Interpreter, MomentRule
from jinit.signals.laws.loops import has_loop
from jinit.signals.laws.law import COTANGENT, WEIGHT, Law, average, normal, squared
from jinit.signals.laws.softmax import with_softmax
from jinit.signals.laws.values import INPUTS, PARAMS, Held, Stacked, Unknown, Value
from jinit.signals.moments import Moments
from jinit.signals.observe import inexact
from jinit.signals.records import Record, Records
from jinit.signals.tap import tap

CALLER = "jinit.predict(...)"


def predict(
    apply: Callable[..., PyTree],
    *,
    weights: Variances | None = None,
    backward: bool = True,
    rules: Mapping[Any, MomentRule] | None = None,
) -> Callable[..., Records]:
    r"""Predict the signals of a network at every use of a weight, from the laws of its weights.

    In a wide network with independent weights every pre-activation is normal, and its variance follows from
    the layer before: with `n` terms in a sum, weights of mean zero and variance `σ²`, and an activation `φ`,

    $$q^{l+1} = n σ_w^2\, \mathbb E[φ(\sqrt{q^l} z)^2] + σ_b^2, \qquad
      c^{l+1} q^{l+1} = n σ_w^2\, \mathbb E[φ(u) φ(v)] + σ_b^2,$$

    where `u` and `v` are the pre-activations of one unit for two examples, of correlation `c`. Cotangents
    obey `E[δ²] ← n_out σ_w² E[φ'(z)²] E[δ²]`, if forward and backward weights are taken to be independent.
    `predict` does this for the traced program of *any* model, running its own equations on quadrature nodes
    instead of arrays. No table of activations or layers is behind it. Given shapes and variances its cost
    does not depend on width or batch; given arrays, it takes their moments.

    Moments hold on average over draws of the weights, up to terms of order one over width. See the guide for
    where, and by how much, real networks differ.

    Args:
      apply: any pure `(params, *inputs, **kwargs) -> outputs`, as for `measure`.
      weights: the law of each weight: a mapping or a function from path to variance, or to
        `(mean, variance)`. A path that a mapping lacks, or that the function gives None for, and every path
        by default, has the mean and variance of the given array.
      backward: whether to predict cotangents and weight gradients too, for a standard normal cotangent at
        every floating output.
      rules: how a primitive of your own acts, or one without a rule: from primitive to
        `rule([(mean, variance) of each operand], eqn)`, which gives `(mean, variance)` of each result, the
        entries of which are taken as independent and normal.

    Returns:
      A function `(params, *inputs, **kwargs) -> records`, to be called as `apply` is; arrays may be
      `jax.ShapeDtypeStruct`s. An input without values is standard normal, a parameter without values needs
      `weights`. `records` has the names of `measure`, and `Moments` of shape `[]`, or `[length]` in a `scan`.

    Raises:
      TypeError: `apply` is no function.
      ValueError: a parameter without values has no variance; `weights` names a path that does not exist.
      NotImplementedError: a site depends on something that has no law (the equation and its line are named).

    Example:
      >>> import flax.linen as nn, jax, jinit
      >>> model = nn.Sequential([nn.Dense(512), nn.relu, nn.Dense(10)])
      >>> x = jax.ShapeDtypeStruct((64, 512), "float32")
      >>> params = jax.eval_shape(model.init, jax.random.key(0), x)
      >>> variances = lambda path: 2 / 512 if path.endswith("kernel") else 0.0
      >>> records = jinit.predict(model.apply, weights=variances)(params, x)
      >>> round(float(records["params/layers_2/kernel"].input.second_moment), 3)
      1.0

    References:
      Poole, Lahiri, Raghu, Sohl-Dickstein, Ganguli, *Exponential expressivity in deep neural networks through
      transient chaos*, 2016, for the maps; Schoenholz, Gilmer, Ganguli, Sohl-Dickstein, *Deep information
      propagation*, 2017, for gradients; Yang, *Tensor programs II*, 2020, for why this holds for any program.
    """
    check_call(apply, caller=CALLER)
    interpreter = Interpreter(dict(rules or {}))

    runs: dict[Call, Callable[..., Records]] = {}

    def run_of(call: Call) -> Callable[..., Records]:
        if call in runs and not_tracing():
            return runs[call]
        traced = _traced(apply, call, backward)
        run = functools.partial(_laws, traced, call, interpreter)
        if not_tracing() and not traced.holds_tracers:
            # What a loop does is compiled, all else would take far longer to compile than to do.
            run = runs[call] = jax.jit(run) if has_loop(traced.closed) else run
        return run

    def predicted(params: PyTree, *inputs: Any, **kwargs: Any) -> Records:
        signature, arrays = split(params, inputs, kwargs)
        call, compact, moments = call_of(signature, arrays, weights, CALLER)
        with np.errstate(all="ignore"):
            records = run_of(call)(compact, moments)
        return jax.tree.map(jnp.asarray, records)

    return predicted


class _Keep:
    """The visitor that returns what it sees; gradients with respect to its probes are cotangents."""

    rewrites = False

    def __init__(self, sites: Sequence[Site]):
        self.sites = sites

    def enter(self, index: int, operands: list[Array], extra: PyTree) -> tuple[list[Array], PyTree]:
        site = self.sites[index]
        found = {"weight": operands[site.weight]}
        if site.signal is not None:
            found["input"] = operands[site.signal]
        if extra is not None and extra["weight"] is not None:
            operands = list(operands)
            operands[site.weight] = tap(lambda ct: ct, operands[site.weight], extra["weight"])
        return operands, jax.tree.map(jax.lax.stop_gradient, found)

    def leave(self, index: int, output: Array, extra: PyTree) -> tuple[Array, PyTree]:
        found = {"output": jax.lax.stop_gradient(output)}
        return (output if extra is None else tap(lambda ct: ct, output, extra["output"])), found

    def probes(self) -> Extras:
        extras: Extras = {}
        for index, site in enumerate(self.sites):
            weight = site.operands[site.weight]
            if site.regions & {"while", "custom"} or not inexact(site.output):
                continue
            extras[index] = {
                "output": jnp.zeros((*site.lengths, *site.output.shape), site.output.dtype),
                "weight": jnp.zeros((*site.lengths, *weight.shape), weight.dtype)
                if inexact(weight)
                else None,
            }
        return extras


def _signals(
    program: Program, sites: Sites, arrays: list[Any], cotangents: list[Any], backward: bool
) -> list[dict[str, Any]]:
    """The arrays themselves that `measure` takes moments of, site by site."""
    keep = _Keep(sites.sites)
    program = dataclasses.replace(program, jaxpr=with_softmax(program.jaxpr))

    def run(probes: Extras) -> tuple[list[Array], Parts]:
        return walk(program, sites.sites, arrays, keep, probes)

    back: Extras = {}
    if backward:
        outs, pull, parts = jax.vjp(run, keep.probes(), has_aux=True)
        rest = iter(cotangents)
        (back,) = pull([next(rest) if inexact(o) else np.zeros(o.shape, jax.dtypes.float0) for o in outs])
    else:
        _, parts = run({})
    found = []
    for i in range(len(sites.sites)):
        here = {**parts[i, "enter"], **parts[i, "leave"]}
        if i in back:
            here["cotangent"] = back[i]["output"]
            if back[i]["weight"] is not None:
                here["weight_gradient"] = back[i]["weight"]
        found.append(here)
    return found


@dataclasses.dataclass(frozen=True)
class _Traced:
    """What a call traces to, forward and backward.

    Attributes:
      program: the model.
      sites: its sites.
      cotangents: shapes and dtypes of what enters at its outputs.
      closed: from its arrays and cotangents to the signals of every site.
      structure: of those signals.
    """

    program: Program
    sites: Sites
    cotangents: list[Any]
    closed: Any
    structure: Any

    @property
    def holds_tracers(self) -> bool:
        """Whether the model is made of values that are being traced outside."""
        consts = (*self.program.consts, *opened(self.closed)[1])
        return any(isinstance(c, jax.core.Tracer) for c in consts)


def _traced(apply: Any, call: Call, backward: bool) -> _Traced:
    avals = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in call.shapes]
    program = trace(apply, call.signature, avals, caller=CALLER)  # type: ignore[arg-type]
    sites = find_sites(program)
    outs = [v.aval for v in program.jaxpr.outvars if inexact(v.aval)]
    cotangents = [jax.ShapeDtypeStruct(o.shape, o.dtype) for o in outs] if backward else []

    def signals(arrays: list[Any], cotangents: list[Any]) -> list[dict[str, Any]]:
        return _signals(program, sites, arrays, cotangents, backward)

    closed, shapes = jax.make_jaxpr(signals, return_shape=True)(avals, cotangents)
    return _Traced(program, sites, cotangents, closed, jax.tree.structure(shapes))


def _laws(
    traced: _Traced, call: Call, interpreter: Interpreter, arrays: list[Any], moments: list[Any]
) -> Records:
    program, sites = traced.program, traced.sites
    values = [
        _value(i, call, x, m, len(program.paths))
        for i, (x, m) in enumerate(zip(arrays, moments, strict=True))
    ]
    values += [
        normal(0.0, 1.0, ("cotangent", i), c.shape, c.dtype, kind=COTANGENT)
        for i, c in enumerate(traced.cotangents)
    ]
    found = jax.tree.unflatten(traced.structure, interpreter.inner(traced.closed, values, ()))
    records = Records()
    for site, here in zip(sites.sites, found, strict=True):
        for field, value in here.items():
            if isinstance(value, Unknown):
                raise NotImplementedError(_refusal(value, field, site, program))
        fields: dict[str, Any] = {k: _moments(v, len(site.lengths)) for k, v in here.items()}
        record = Record(**fields)
        records.update(dict.fromkeys(site.names, record))
    return records


def numbers_of(
    function: Callable[[list[Array]], Any], signature: Any, arrays: list[Any], loops: list[int], rules: Any, caller: str
) -> Any:
    """What a function of the arrays of a call returns, run on their laws: one pytree of scalars for each site.

    Args:
      function: from arrays to a list with a pytree for every site.
      signature: from `split`.
      arrays: from `split`; inputs may be shapes alone.
      loops: how many loops there are around each site.
      rules: laws for primitives.
      caller: whom an error names.
    """
    call, compact, moments = call_of(signature, arrays, None, caller)
    avals = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in call.shapes]
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(avals)
    values = [
        _value(i, call, x, m, signature.num_params) for i, (x, m) in enumerate(zip(compact, moments, strict=True))
    ]
    interpreter = Interpreter(dict(rules))
    found = interpreter.inner(closed, values, ())
    tree = jax.tree.unflatten(jax.tree.structure(shapes), found)
    return [jax.tree.map(functools.partial(_number, loops=n), x, is_leaf=_is_value) for x, n in zip(tree, loops)]


def _is_value(x: Any) -> bool:
    return isinstance(x, (Held, Law, Stacked, Unknown))


def _number(value: Value, loops: int) -> Array:
    if isinstance(value, Stacked):
        return jax.vmap(lambda v: _number(v, loops - 1))(value.step)
    if isinstance(value, Law):
        return jnp.asarray(average(value).reshape(()))
    if isinstance(value, Unknown):
        raise NotImplementedError(value.reason)
    return jnp.asarray(value.whole())


def _refusal(value: Unknown, field: str, site: Site, program: Program) -> str:
    where = _line_of(program.jaxpr, value.primitive)
    got = f"none, since {value.reason}" + (f" ({where})" if where else "")
    must = f"the {field} of {', '.join(site.names)} ({site.source}) must have a law"
    return message(CALLER, must, got, "Give it one with `rules`, or measure with `jinit.measure`.")


def _line_of(jaxpr: Any, primitive: str) -> str | None:
    """The user's line of the first equation of this primitive, also inside of others; or None."""
    jaxpr, _ = opened(jaxpr)
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == primitive:
            return source_of(eqn)
        for param in eqn.params.values():
            for inner in param if isinstance(param, (tuple, list)) else (param,):
                holds = hasattr(inner, "eqns") or hasattr(inner, "jaxpr")
                if holds and (found := _line_of(inner, primitive)) is not None:
                    return found or source_of(eqn)  # a cached function does not know its lines
    return None


def _value(index: int, call: Call, array: Any, moments: Any, num_params: int) -> Value:
    shape, dtype = call.shapes[index]
    if call.laws[index]:
        mean, variance = moments
        return normal(mean, variance, ("weight", index), shape, dtype, size=15, kind=WEIGHT)
    source = frozenset([PARAMS if index < num_params else INPUTS])
    if call.given[index]:
        return Held(array, shape, source)
    if not jnp.issubdtype(dtype, jnp.floating):
        return Unknown("it depends on the values of an input that only has a shape")
    return normal(0.0, 1.0, ("input", index), shape, dtype)


def _moments(value: Value, loops: int) -> Moments:
    """Moments of the entries of a value, with a leading axis for each loop around the site."""
    if isinstance(value, Stacked):
        return jax.vmap(lambda v: _moments(v, loops - 1))(value.step)
    if isinstance(value, Law):
        return _of_law(value)
    assert isinstance(value, Held)
    measured: Any = Moments.of
    for _ in range(loops):
        measured = jax.vmap(measured)
    return measured(value.whole())


def _of_law(law: Law) -> Moments:
    x = law.nodes if jnp.issubdtype(law.nodes.dtype, jnp.inexact) else law.nodes.astype(jnp.float32)

    def total(values: Array) -> Array:
        return average(law, of=values).reshape(()) * xp.asarray(law.size, values.dtype)

    real = xp.real(x).dtype
    return Moments(
        total=total(x),
        total_square=total(squared(x)),
        zeros=total((x == 0).astype(real)),
        nonfinite_count=total((~xp.isfinite(x)).astype(real)),
        size=law.size,
    )
