"""Short loops, one step after another: every step has laws of its own, as if the loop were written out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jinit._compat import inner_jaxprs, opened, scan_arity
from jinit.signals.laws import moving, places
from jinit.signals.laws.arrays import is_traced, near, xp
from jinit.signals.laws.law import Law
from jinit.signals.laws.values import Each, Held, Stacked, Value

# Steps of a loop that is written out, and layers of a stack. A longer one is compiled, with laws of one form
# for all of its steps.
SHORT, LAYERS = 16, 48


class Runs(Protocol):
    """What runs an inner jaxpr."""

    def inner(self, jaxpr: Any, args: Sequence[Value], at: tuple[int, ...]) -> list[Value]:
        """The laws of its results."""
        ...

    def in_loop(self) -> Runs:
        """The same, at one step of a loop."""
        ...

    def apart(self) -> Runs:
        """The same, which knows of nothing that was run so far: traced values must not leave their trace."""
        ...


def is_short(eqn: Any) -> bool:
    """Whether a `scan` has few steps."""
    return 0 < eqn.params["length"] <= (LAYERS if _is_stack(eqn) else SHORT)


def _is_stack(eqn: Any) -> bool:
    """Whether no matrix that is the same at every step is contracted, so that each has weights of its own.

    One that is only added or compared, as what stands for minus infinity behind a mask, is none.
    """
    num_consts, _ = scan_arity(eqn)
    body, _ = opened(eqn.params["jaxpr"])
    given = [v for v in body.invars[:num_consts] if sum(n > 1 for n in v.aval.shape) > 1]
    return not _is_contracted(body, {v for v in given if jnp.issubdtype(v.aval.dtype, jnp.floating)})[0]


def _is_contracted(jaxpr: Any, matrices: set[Any]) -> tuple[bool, list[bool]]:
    """Whether one of these, or what is made of them alone, is; and which results are made of them alone."""
    known = set(matrices)
    for eqn in jaxpr.eqns:
        ins = [not hasattr(v, "val") and v in known for v in eqn.invars]
        if not any(ins):
            continue
        if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
            return True, []
        alone = all(k or hasattr(v, "val") for k, v in zip(ins, eqn.invars, strict=True))
        outs = [alone] * len(eqn.outvars)
        if inner := [opened(p)[0] for p in inner_jaxprs(eqn)]:
            if len(inner) > 1 or len(inner[0].invars) != len(ins):
                return True, []
            given = {v for v, k in zip(inner[0].invars, ins, strict=True) if k}
            met, outs = _is_contracted(inner[0], given)
            if met:
                return True, []
        known |= {v for v, k in zip(eqn.outvars, outs, strict=True) if k}
    return False, [not hasattr(v, "val") and v in known for v in jaxpr.outvars]


def has_long_loop(jaxpr: Any) -> bool:
    """Whether there is a `scan` of many steps anywhere in a jaxpr."""
    jaxpr, _ = opened(jaxpr)
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "scan" and not is_short(eqn):
            return True
        if any(map(has_long_loop, inner_jaxprs(eqn))):
            return True
    return False


def is_known(ins: Any) -> bool:
    """Whether nothing of these is traced."""
    return not any(map(is_traced, jax.tree.leaves(ins)))


def written_out(run: Runs, eqn: Any, ins: Sequence[Value], at: tuple[int, ...]) -> list[Value]:
    """The laws of a `scan`'s results."""
    num_consts, num_carries = scan_arity(eqn)
    consts, carry, xs = (
        ins[:num_consts],
        ins[num_consts : num_consts + num_carries],
        ins[num_consts + num_carries :],
    )
    steps = range(eqn.params["length"])
    ys: dict[int, Sequence[Value]] = {}
    for k in reversed(steps) if eqn.params["reverse"] else steps:
        here = [_at_step(x, k) for x in xs]
        outs = run.inner(eqn.params["jaxpr"], [*consts, *carry, *here], (*at, 0, k))
        carry, ys[k] = outs[:num_carries], outs[num_carries:]
    return [*carry, *map(_together, zip(*(ys[k] for k in steps), strict=True))]


def _at_step(x: Value, step: int) -> Value:
    """What a loop runs over, at one step; the same wherever it is run over."""
    if isinstance(x, Each):
        return x.steps[step]
    if isinstance(x, Held):
        return Held(x.array[step if x.array.shape[0] > 1 else 0], x.shape[1:], x.source)
    if isinstance(x, Stacked):
        return _renamed(jax.tree.map(lambda a: near(a[step]), x.step), step)
    if not isinstance(x, Law):
        return x
    here = places.picked(x.without_sums(frozenset([0])), {0: np.asarray([step])})
    axes = [frozenset[int](), *(frozenset([i]) for i in range(len(x.shape) - 1))]
    found = moving.relabelled(
        here, axes, x.shape[1:], lambda root: (root.name, "step", step) if 0 in root.axes else root.name
    )
    return _own(found, x, step)


def _renamed(x: Value, step: int) -> Value:
    """What has a law of its own at every step has entries of its own, too."""
    if isinstance(x, Stacked):
        return Stacked(_renamed(x.step, step), x.length)
    if not isinstance(x, Law):
        return x
    names = ((root.name, "step", step) for root in x.roots)
    roots = tuple(dataclasses.replace(r, name=n) for r, n in zip(x.roots, names, strict=True))
    return _own(dataclasses.replace(x, roots=roots), x, step)


def _own(law: Law, whole: Law, step: int) -> Law:
    """The law of one step's entries: another variable, of other parameters, at every step."""
    parameters = frozenset((name, "step", step) for name in whole.parameters)
    return dataclasses.replace(law, origin=(whole.variable, "step", step), parameters=parameters)


def picked(eqn: Any, ins: Sequence[Value]) -> Value | None:
    """Some of the steps, where an equation picks them by the first axis; or nothing."""
    if not ins or not isinstance(value := ins[0], Each):
        return None
    kind, p, steps, shape = eqn.primitive.name, eqn.params, value.steps, [*eqn.invars[0].aval.shape]
    if kind == "slice":
        begin, end, stride = (list(p[name] or ()) for name in ("start_indices", "limit_indices", "strides"))
        whole = not any(begin[1:]) and end[1:] == shape[1:] and not set(stride[1:]) - {1}
        return Each(steps[begin[0] : end[0] : (stride or [1])[0]]) if whole else None
    if kind == "pad" and not any(map(any, p["padding_config"][1:])) and isinstance(ins[1], Held):
        low, high, between = p["padding_config"][0]
        kept = steps[max(0, -low) : len(steps) + min(0, high)]
        copy = Held(ins[1].array.reshape((1,) * len(shape[1:])), tuple(shape[1:]), ins[1].source)
        return None if between else Each((*[copy] * max(0, low), *kept, *[copy] * max(0, high)))
    if kind == "rev" and tuple(p["dimensions"]) == (0,):
        return Each(steps[::-1])
    return steps[0] if kind == "squeeze" and tuple(p["dimensions"]) == (0,) else None


def _together(ys: Sequence[Value]) -> Value:
    """What every step gives."""
    if not all(isinstance(y, Held) for y in ys):
        return Each(tuple(ys))
    arrays, shape = [y.array for y in ys], ys[0].shape  # type: ignore[union-attr]
    compact = np.broadcast_shapes(*(x.shape for x in arrays))
    source = frozenset[str]().union(*(y.source for y in ys))  # type: ignore[union-attr]
    return Held(xp.stack([xp.broadcast_to(x, compact) for x in arrays]), (len(ys), *shape), source)
