"""Run a jaxpr on laws."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jinit._compat import Literal, bind, opened, scan_arity
from jinit.jaxprs.dataflow import CONTRACTIONS
from jinit.jaxprs.graph import called
from jinit.signals.laws import moving
from jinit.signals.laws.align import canonical, limited
from jinit.signals.laws.law import Law, Root, all_axes, as_float, normal, two_moments
from jinit.signals.laws.rules import RULES, contracted, contraction_of, elementwise, is_elementwise
from jinit.signals.laws.values import (
    INPUTS,
    PARAMS,
    Held,
    Stacked,
    Unknown,
    Value,
    as_law,
    held,
    of_examples,
    of_weight,
)

# `rule([(mean, variance) of each operand], eqn) -> [(mean, variance) of each result]`.
MomentRule = Callable[[list[tuple[Any, Any]], Any], Sequence[tuple[Any, Any]]]
Name = Hashable

NOISE_NODES = 4096
# What entries that are all alike do not notice.
LAYOUT = ("reshape", "transpose", "squeeze", "expand_dims", "slice", "split", "rev", "dynamic_slice", "copy")


@dataclasses.dataclass(frozen=True)
class Interpreter:
    """Runs equations on laws.

    Attributes:
      rules: the user's own, by primitive.
    """

    rules: Mapping[Any, MomentRule]

    def body(self, jaxpr: Any, consts: Sequence[Value], args: Sequence[Value], at: tuple[int, ...]) -> list[Value]:
        """The laws of a jaxpr's results."""
        env: dict[Any, Value] = dict(zip(jaxpr.constvars, consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> Value:
            return held(np.asarray(atom.val, atom.aval.dtype)) if isinstance(atom, Literal) else env[atom]

        for i, eqn in enumerate(jaxpr.eqns):
            outs = self.equation(eqn, [read(v) for v in eqn.invars], (*at, i))
            env.update((v, _made(x, (*at, i, k))) for k, (v, x) in enumerate(zip(eqn.outvars, outs, strict=True)))
        return [read(v) for v in jaxpr.outvars]

    def inner(self, jaxpr: Any, args: Sequence[Value], at: tuple[int, ...]) -> list[Value]:
        """The laws of an inner jaxpr's results."""
        opened_jaxpr, consts = opened(jaxpr)
        return self.body(opened_jaxpr, [held(c) for c in consts], args, at)

    def equation(self, eqn: Any, ins: list[Value], at: tuple[int, ...]) -> list[Value]:
        """The laws of one equation's results."""
        kind = eqn.primitive.name
        if eqn.primitive in self.rules:
            return self.by_moments(self.rules[eqn.primitive], eqn, ins, at)
        if kind in CONTROL:
            return CONTROL[kind](self, eqn, ins, at)
        if kind == "random_bits" and eqn.outvars[0].aval.shape != ():
            return [noise(eqn, at)]
        if any(isinstance(x, Unknown) for x in ins) and not _picks_rows(kind, ins):
            return [next(x for x in ins if isinstance(x, Unknown))] * len(eqn.outvars)
        if all(isinstance(x, Held) for x in ins):
            sources = [x.source for x in ins if isinstance(x, Held)]
            if not (kind in CONTRACTIONS and _is_layer(*sources[:2])):
                return run_held(eqn, ins)  # type: ignore[arg-type]
        return self.on_laws(eqn, ins, at)

    def on_laws(self, eqn: Any, ins: list[Value], at: tuple[int, ...]) -> list[Value]:
        """The laws of a first-order equation's results, some operand being a law."""
        kind = eqn.primitive.name
        if kind in ("dot_general", "conv_general_dilated"):
            return contraction(eqn, ins, at)
        if _picks_rows(kind, ins):
            ins = ins[:1]
        laws = [as_law(x, (at, i)) for i, x in enumerate(ins)]
        if broken := [x for x in laws if isinstance(x, Unknown)]:
            return broken[:1] * len(eqn.outvars)
        if kind in RULES:
            return list(RULES[kind](eqn, laws, at))  # type: ignore[arg-type]
        if is_elementwise(eqn):
            return [_coin(x) for x in elementwise(eqn, laws, at)]  # type: ignore[arg-type]
        return unknown(eqn, f"`{kind}` has no rule")

    def by_moments(self, rule: MomentRule, eqn: Any, ins: list[Value], at: tuple[int, ...]) -> list[Value]:
        """The user's rule: normal entries of the moments it gives."""
        laws = [as_law(x, (at, i)) for i, x in enumerate(ins)]
        if broken := [x for x in laws if isinstance(x, Unknown)]:
            return broken[:1] * len(eqn.outvars)
        moments = rule([two_moments(x) for x in laws], eqn)  # type: ignore[arg-type]
        linear = any(x.is_linear for x in laws if isinstance(x, Law))
        kind = "cotangent" if linear else "signal"
        return [
            normal(m, v, (at, i), out.aval.shape, out.aval.dtype, kind=kind)
            for i, ((m, v), out) in enumerate(zip(moments, eqn.outvars, strict=True))
        ]


def _made(x: Value, at: Name) -> Value:
    return dataclasses.replace(x, origin=at) if isinstance(x, Law) and x.origin is None else x


def unknown(eqn: Any, reason: str) -> list[Value]:
    """All results of an equation that was not followed."""
    return [Unknown(reason, eqn.primitive.name)] * len(eqn.outvars)


def _picks_rows(kind: str, ins: Sequence[Value]) -> bool:
    """Whether the equation picks or places entries by indices, whatever those are."""
    return kind in ("gather", "dynamic_slice") and isinstance(ins[0], Law)


def _is_layer(a: frozenset[str], b: frozenset[str]) -> bool:
    """Whether parameters alone meet what depends on inputs."""
    return (a == {PARAMS} and INPUTS in b) or (b == {PARAMS} and INPUTS in a)


def run_held(eqn: Any, ins: Sequence[Held]) -> list[Value]:
    """The equation itself, on arrays: at once where they are numbers that stand in the program."""
    if all(not isinstance(x.array, jax.core.Tracer) for x in ins):
        with jax.ensure_compile_time_eval():
            return _run_held(eqn, ins)
    return _run_held(eqn, ins)


def _run_held(eqn: Any, ins: Sequence[Held]) -> list[Value]:
    """Entries that repeat stay repeated."""
    kind = eqn.primitive.name
    source = frozenset().union(*(x.source for x in ins))
    shapes = [v.aval.shape for v in eqn.outvars]
    if kind == "broadcast_in_dim" and len(ins) == 1:
        (x,), dims = ins, eqn.params["broadcast_dimensions"]
        place = dict(zip(dims, x.array.shape, strict=True))
        return [Held(x.array.reshape([place.get(i, 1) for i in range(len(shapes[0]))]), tuple(shapes[0]), source)]
    if kind in LAYOUT and ins[0].array.size == 1:
        return [Held(ins[0].array.reshape((1,) * len(s)), tuple(s), source) for s in shapes]
    repeated = any(x.array.shape != x.shape for x in ins)
    if repeated and is_elementwise(eqn):
        compact = jnp.broadcast_shapes(*(x.array.shape for x in ins))
        outs = bind(eqn, [jnp.broadcast_to(x.array, compact) if x.shape != () else x.array for x in ins])
        return [Held(o, tuple(s), source) for o, s in zip(outs, shapes, strict=True)]
    outs = bind(eqn, [x.whole() for x in ins])
    return [Held(o, tuple(o.shape), source) for o in outs]


def _is_weight(x: Value) -> bool:
    return x.is_weight if isinstance(x, Law) else isinstance(x, Held) and x.source == {PARAMS}


def contraction(eqn: Any, ins: list[Value], at: tuple[int, ...]) -> list[Value]:
    """A contraction, of which arrays need no more than two moments."""
    if any(jnp.issubdtype(v.aval.dtype, jnp.complexfloating) for v in eqn.invars):
        return unknown(eqn, f"`{eqn.primitive.name}` of complex numbers has no rule")
    how = contraction_of(eqn)
    weights = [i for i, x in enumerate(ins) if _is_weight(x)]
    laws: list[Any] = []
    for i, x in enumerate(ins):
        if isinstance(x, Held) and jnp.issubdtype(x.dtype, jnp.floating):
            laws.append(of_weight(x, (at, i)) if x.source == {PARAMS} else of_examples(x, how.free[i], (at, i)))
        else:
            laws.append(as_law(x, (at, i)))
    if broken := [x for x in laws if isinstance(x, Unknown)]:
        return broken[:1] * len(eqn.outvars)
    return list(contracted(eqn, laws, at, weight=weights[0] if len(weights) == 1 else None))


def noise(eqn: Any, at: tuple[int, ...]) -> Law:
    """Uniform bits."""
    shape, dtype = eqn.outvars[0].aval.shape, eqn.outvars[0].aval.dtype
    share = (np.arange(NOISE_NODES) + 0.5) / NOISE_NODES
    nodes = jnp.asarray((share * 2.0 ** eqn.params["bit_width"]).astype(dtype))
    weights = jnp.full(NOISE_NODES, 1 / NOISE_NODES, jnp.float32)
    return Law(nodes, (weights,), (Root(at, all_axes(shape)),), tuple(shape), dtype)


def _coin(law: Law) -> Law:
    """A yes or no made of noise, on two nodes."""
    if law.dtype != jnp.bool_ or law.nodes.shape != (NOISE_NODES,):
        return law
    yes = jnp.sum(law.nodes.astype(law.weights[0].dtype) * law.weights[0])
    root = dataclasses.replace(law.roots[0], name=(law.roots[0].name, "coin"))
    return dataclasses.replace(
        law, nodes=jnp.array([False, True]), weights=(jnp.stack([1 - yes, yes]),), roots=(root,)
    )


def _call(run: Interpreter, eqn: Any, ins: list[Value], at: tuple[int, ...]) -> list[Value]:
    return run.inner(called(eqn), ins, (*at, 0))


def _runs_whole(eqn: Any, ins: Sequence[Value]) -> bool:
    """Whether no layer can be inside: nothing, or only one kind of thing, goes in."""
    source = frozenset().union(*(x.source for x in ins if isinstance(x, Held)))
    whole = all(isinstance(x, Held) and x.array.shape == x.shape for x in ins)
    return whole and len(source) <= 1 and bool(ins)


def _scan(run: Interpreter, eqn: Any, ins: list[Value], at: tuple[int, ...]) -> list[Value]:
    if _runs_whole(eqn, ins):
        return run_held(eqn, ins)  # type: ignore[arg-type]
    num_consts, num_carries = scan_arity(eqn)
    length = eqn.params["length"]
    consts = ins[:num_consts]
    carry = [_carried(x, (at, "start", i)) for i, x in enumerate(ins[num_consts : num_consts + num_carries])]
    xs = [_unstacked(x, (at, "xs", i)) for i, x in enumerate(ins[num_consts + num_carries :])]

    def step(carry: list[Value], x: list[Any]) -> tuple[list[Value], list[Value]]:
        full = [s.rebuild(v) for s, v in zip(xs, x, strict=True)]
        outs = run.inner(eqn.params["jaxpr"], [*consts, *carry, *full], (*at, 0))
        return outs[:num_carries], outs[num_carries:]

    scanned = [s.arrays for s in xs]
    first = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), scanned)
    carry = _settled(step, carry, first, at)

    def settled_step(carry: list[Value], x: list[Any]) -> Any:
        new, ys = step(carry, x)
        return [_like(n, c, (at, "carry", i)) for i, (n, c) in enumerate(zip(new, carry, strict=True))], ys

    keep = {k: eqn.params[k] for k in ("reverse", "length")}
    end, ys = lax.scan(settled_step, carry, scanned, **keep)
    return [*end, *(_stacked(y, length) for y in ys)]


def _carried(x: Value, name: Name) -> Value:
    law = as_law(x, name) if isinstance(x, Stacked) else x
    return law


@dataclasses.dataclass(frozen=True)
class _Scanned:
    """What a loop runs over: arrays with a leading axis, and how one step's value is made of theirs."""

    arrays: Any
    rebuild: Callable[[Any], Value]


def _unstacked(x: Value, name: Name) -> _Scanned:
    if isinstance(x, Stacked):
        return _Scanned(x.step, lambda step: step)
    if isinstance(x, Held):
        full = jnp.broadcast_to(x.array, (x.shape[0], *x.array.shape[1:]))
        return _Scanned(full, lambda row: Held(row, x.shape[1:], x.source))
    if isinstance(x, Law):
        one = moving.relabelled(
            x, [frozenset(), *(frozenset([i]) for i in range(len(x.shape) - 1))], x.shape[1:], lambda r: (r.name, name)
        )
        return _Scanned((), lambda _: one)
    return _Scanned((), lambda _: x)


def _stacked(y: Value, length: int) -> Value:
    if isinstance(y, Held):
        repeated = (length, *y.shape)
        return Held(y.array, repeated, y.source)
    return y if isinstance(y, Unknown) else Stacked(y, length)


def _settled(step: Any, carry: list[Value], first: Any, at: tuple[int, ...]) -> list[Value]:
    """The carry, in a form that every step keeps: on the levels that any step brings in."""
    for _ in range(8):
        new, _ = jax.eval_shape(step, carry, first)
        joined = [_join(c, n, (at, "carry", i)) for i, (c, n) in enumerate(zip(carry, new, strict=True))]
        if jax.tree.structure(joined) == jax.tree.structure(carry) and _shapes(joined) == _shapes(carry):
            return joined
        carry = joined
    raise RuntimeError("a loop's carry found no lasting form")


def _shapes(values: Any) -> Any:
    return [(jnp.shape(x), x.dtype) for x in jax.tree.leaves(values)]


def _join(old: Value, new: Value, name: Name) -> Value:
    """`old`, in a form that can hold `new` as well."""
    for x in (old, new):
        if isinstance(x, Unknown):
            return x
    if isinstance(old, Held) and isinstance(new, Held):
        source = old.source | new.source
        compact = jnp.broadcast_shapes(old.array.shape, new.array.shape)
        return Held(jnp.broadcast_to(old.array, compact), old.shape, source)
    a, b = _lawful(old, name), _lawful(new, name)
    if isinstance(a, Unknown) or isinstance(b, Unknown):
        return a if isinstance(a, Unknown) else b
    levels = limited({r.axes for law in (a, b) for r in law.roots})
    linear = a.is_linear or b.is_linear
    return dataclasses.replace(canonical(a, levels, name, linear=linear), origin=name) if jnp.issubdtype(a.dtype, jnp.inexact) else Unknown(
        "whole numbers that depend on signals are carried by a loop"
    )  # fmt: skip


def _lawful(x: Value, name: Name) -> Law | Unknown:
    """The law of a value, or of its shape alone."""
    if isinstance(x, Held) and isinstance(x.array, jax.ShapeDtypeStruct):
        out = jax.eval_shape(lambda v: as_law(v, name), x)
        return out  # type: ignore[return-value]
    return as_law(x, name)


def _like(new: Value, old: Value, name: Name) -> Value:
    """`new`, in the form of the carry `old`."""
    if isinstance(old, Unknown):
        return old
    if isinstance(old, Held):
        assert isinstance(new, Held)
        return Held(jnp.broadcast_to(new.array, old.array.shape), old.shape, old.source)
    law = as_law(new, name)
    assert isinstance(old, Law)
    assert isinstance(law, Law)
    levels = tuple(r.axes for r in old.roots)
    out = canonical(as_float(law), levels, name, linear=old.is_linear)
    return dataclasses.replace(out, nodes=out.nodes.astype(old.nodes.dtype), roots=old.roots, origin=old.origin)


def _cond(run: Interpreter, eqn: Any, ins: list[Value], at: tuple[int, ...]) -> list[Value]:
    which = ins[0]
    if isinstance(which, Held) and not isinstance(which.array, jax.core.Tracer):
        branches = eqn.params["branches"]
        k = int(np.clip(int(which.array), 0, len(branches) - 1))
        return run.inner(branches[k], ins[1:], (*at, k))
    if _runs_whole(eqn, ins):
        return run_held(eqn, ins)  # type: ignore[arg-type]
    return unknown(eqn, f"which branch of a `cond` is taken depends on values")


def _while(run: Interpreter, eqn: Any, ins: list[Value], at: tuple[int, ...]) -> list[Value]:
    if _runs_whole(eqn, ins):
        return run_held(eqn, ins)  # type: ignore[arg-type]
    return unknown(eqn, f"a `while_loop` has no rule")


_CALLS = (
    "jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint",
    "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr",
)  # fmt: skip
CONTROL = {**dict.fromkeys(_CALLS, _call), "scan": _scan, "cond": _cond, "while": _while}
