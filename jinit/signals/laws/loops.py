"""Calls, loops and branches on laws."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jinit._compat import scan_arity
from jinit.jaxprs.graph import called
from jinit.signals.laws import moving, places
from jinit.signals.laws.align import canonical
from jinit.signals.laws.arrays import xp
from jinit.signals.laws.as_laws import as_law, of_one_form
from jinit.signals.laws.holding import run_held, unknown
from jinit.signals.laws.law import Law, as_float
from jinit.signals.laws.levels import Level, limited
from jinit.signals.laws.steps import Runs, is_known, is_short, written_out
from jinit.signals.laws.values import Each, Held, Stacked, Unknown, Value

Name = Hashable


def _call(run: Runs, eqn: Any, ins: list[Value], at: tuple[int, ...]) -> list[Value]:
    return run.inner(called(eqn), ins, (*at, 0))


def _runs_whole(eqn: Any, ins: Sequence[Value]) -> bool:
    """Whether no layer can be inside: nothing, or only one kind of thing, goes in."""
    source = frozenset().union(*(x.source for x in ins if isinstance(x, Held)))
    whole = all(isinstance(x, Held) and x.array.shape == x.shape for x in ins)
    return whole and len(source) <= 1 and bool(ins)


def _scan(run: Runs, eqn: Any, ins: list[Value], at: tuple[int, ...]) -> list[Value]:
    if _runs_whole(eqn, ins):
        return run_held(eqn, ins)  # type: ignore[arg-type]
    if is_short(eqn) and is_known(ins):
        return written_out(run, eqn, ins, at)
    num_consts, num_carries = scan_arity(eqn)
    length = eqn.params["length"]
    consts = ins[:num_consts]
    carry = [_carried(x, (at, "start", i)) for i, x in enumerate(ins[num_consts : num_consts + num_carries])]
    xs = [_unstacked(x, (at, "xs", i)) for i, x in enumerate(ins[num_consts + num_carries :])]

    def step(carry: list[Value], x: list[Any]) -> tuple[list[Value], list[Value]]:
        full = [s.rebuild(v) for s, v in zip(xs, x, strict=True)]
        outs = run.apart().in_loop().inner(eqn.params["jaxpr"], [*consts, *carry, *full], (*at, 0))
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
    law = as_law(x, name) if isinstance(x, (Each, Stacked)) else x
    return places.as_signals(law) if isinstance(law, Law) else law


@dataclasses.dataclass(frozen=True)
class _Scanned:
    """What a loop runs over: arrays with a leading axis, and how one step's value is made of theirs."""

    arrays: Any
    rebuild: Callable[[Any], Value]


def _unstacked(x: Value, name: Name) -> _Scanned:
    if isinstance(x, Each):
        x = of_one_form(x, name)
    if isinstance(x, Stacked):
        return _Scanned(x.step, lambda step: step)
    if isinstance(x, Held):
        full = xp.broadcast_to(x.array, (x.shape[0], *x.array.shape[1:]))
        return _Scanned(full, lambda row: Held(row, x.shape[1:], x.source))
    if isinstance(x, Law):
        one = moving.relabelled(
            x.without_sums(frozenset([0])),
            [frozenset(), *(frozenset([i]) for i in range(len(x.shape) - 1))],
            x.shape[1:],
            lambda r: (r.name, name),
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
        return Held(xp.broadcast_to(old.array, compact), old.shape, source)
    a, b = _lawful(old, name), _lawful(new, name)
    if isinstance(a, Unknown) or isinstance(b, Unknown):
        return a if isinstance(a, Unknown) else b
    a, b = places.as_signals(a), places.as_signals(b)
    levels = limited({Level(r.axes) for law in (a, b) for r in law.roots})
    if not jnp.issubdtype(a.dtype, jnp.inexact):
        return Unknown("a loop carries whole numbers that depend on signals")
    form = canonical(a, levels, name, linear=a.is_linear or b.is_linear)
    form = moving.without_runs(form, frozenset(range(len(form.shape))))
    normal = a.is_normal and b.is_normal
    return dataclasses.replace(
        form, origin=name, is_normal=normal, fixed_sums=frozenset(), parameters=frozenset()
    )


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
        return Held(xp.broadcast_to(new.array, old.array.shape), old.shape, old.source)
    law = as_law(new, name)
    assert isinstance(old, Law)
    assert isinstance(law, Law)
    levels = tuple(Level(r.axes) for r in old.roots)
    out = canonical(places.as_signals(as_float(law)), levels, name, linear=old.is_linear)
    return dataclasses.replace(
        out,
        nodes=out.nodes.astype(old.nodes.dtype),
        roots=old.roots,
        origin=old.origin,
        is_normal=old.is_normal,
        fixed_sums=frozenset(),
        parameters=frozenset(),
    )


def _cond(run: Runs, eqn: Any, ins: list[Value], at: tuple[int, ...]) -> list[Value]:
    which = ins[0]
    if isinstance(which, Held) and not which.source and not isinstance(which.array, Tracer):
        branches = eqn.params["branches"]
        k = int(np.clip(int(which.array), 0, len(branches) - 1))
        return run.inner(branches[k], ins[1:], (*at, k))
    if _runs_whole(eqn, ins):
        return run_held(eqn, ins)  # type: ignore[arg-type]
    return unknown(eqn, "which branch of a `cond` is taken depends on values")


def _while(run: Runs, eqn: Any, ins: list[Value], at: tuple[int, ...]) -> list[Value]:
    if _runs_whole(eqn, ins):
        return run_held(eqn, ins)  # type: ignore[arg-type]
    return unknown(eqn, "a `while_loop` has no rule")


_CALLS = (
    "jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint",
    "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr",
    "stack", "unstack", "call_hi_primitive",
)  # fmt: skip
CONTROL = {**dict.fromkeys(_CALLS, _call), "scan": _scan, "cond": _cond, "while": _while}
