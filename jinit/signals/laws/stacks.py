"""A few arrays put side by side along an axis of their own: what is a function of all of them at one place.

As the conditions of `jnp.select` and `jnp.piecewise` are, and the terms of `jnp.stack(...).sum(0)`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import numpy as np

from jinit.signals.laws import joining
from jinit.signals.laws.arrays import xp
from jinit.signals.laws.as_laws import as_law
from jinit.signals.laws.coarse import as_coarse
from jinit.signals.laws.elementwise import on_nodes
from jinit.signals.laws.law import Law
from jinit.signals.laws.moving import squeezed
from jinit.signals.laws.pointwise import pointwise
from jinit.signals.laws.values import Held

# Arrays of one stack.
MOST = 8
# What is done along the axis, of nodes stacked last.
ALONG: dict[str, Callable[[Any], Any]] = {
    "argmax": lambda x: xp.argmax(x, -1), "argmin": lambda x: xp.argmin(x, -1),
    "reduce_sum": lambda x: xp.sum(x, -1), "reduce_prod": lambda x: xp.prod(x, -1),
    "reduce_or": lambda x: xp.any(x, -1), "reduce_and": lambda x: xp.all(x, -1),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Stack:
    """Laws side by side.

    Attributes:
      law: of all of them, kept so that its nodes, by which it is found, are no others.
      parts: of one entry along the axis each.
      axis: along which they stand.
    """

    law: Law
    parts: tuple[Law, ...]
    axis: int


@dataclasses.dataclass
class Stacks:
    """Those known so far."""

    known: dict[Hashable, Stack] = dataclasses.field(default_factory=dict)

    def note(self, eqn: Any, ins: Sequence[Any], outs: Sequence[Any], name: Hashable) -> None:
        """Remember what was stacked, or made of a stack entry by entry."""
        if len(outs) != 1 or not isinstance(outs[0], Law) or outs[0].is_linear:
            return
        if eqn.primitive.name == "concatenate":
            axis = eqn.params["dimension"]
            parts = [part for k, x in enumerate(ins) for part in self._parts(x, axis, (name, "part", k))]
            if len(parts) == outs[0].shape[axis] <= MOST:
                self._keep(outs[0], parts, axis)
            return
        stack = next((s for s in map(self._of, ins) if s is not None), None)
        rest = [x for x in ins if self._of(x) is None]
        if stack is None or len(ins) - len(rest) > 1 or any(not _is_number(x) for x in rest):
            return
        numbers = [as_law(x, name) for x in ins]

        def run(*nodes: Any) -> list[Any]:
            return on_nodes(eqn, nodes)

        parts = []
        for k, part in enumerate(stack.parts):
            out = jax.ShapeDtypeStruct(part.shape, eqn.outvars[0].aval.dtype)
            mine = [part if self._of(x) is stack else n for x, n in zip(ins, numbers, strict=True)]
            parts += pointwise(run, mine, [out], (name, "part", k))  # type: ignore[arg-type]
        self._keep(outs[0], parts, stack.axis)

    def along(self, eqn: Any, ins: Sequence[Any], name: Hashable) -> list[Law] | None:
        """The laws of what is done along the axis of a stack, or a piece of it; nothing if it is none."""
        if not self.known or not ins or (stack := self._of(ins[0])) is None:
            return None
        kind, axis, out = eqn.primitive.name, stack.axis, eqn.outvars[0].aval
        if kind == "slice":
            return _picked(stack, eqn)
        if kind == "cumsum" and eqn.params["axis"] == axis and not eqn.params["reverse"]:
            ends = [(*range(k + 1),) for k in range(len(stack.parts))]
            shape = jax.ShapeDtypeStruct(stack.parts[0].shape, out.dtype)
            parts = [
                _of_all(ALONG["reduce_sum"], [stack.parts[i] for i in end], shape, (name, "part", k))
                for k, end in enumerate(ends)
            ]
            law = joining.concatenated(parts, axis, out.shape, name)
            self._keep(law, parts, axis)
            return [law]
        if kind in ALONG and tuple(eqn.params["axes"]) == (axis,) and _have_something_in_common(stack.parts):
            return [_of_all(ALONG[kind], [squeezed(p, [axis], out.shape) for p in stack.parts], out, name)]
        return None

    def _parts(self, value: Any, axis: int, name: Hashable) -> Sequence[Any]:
        """Those of a stack, or the one that a value of one entry along the axis is."""
        if (stack := self._of(value)) is not None and stack.axis == axis:
            return stack.parts
        return [as_law(value, name)] if value.shape[axis] == 1 else []

    def _keep(self, law: Law, parts: Sequence[Any], axis: int) -> None:
        if all(isinstance(p, Law) for p in parts):
            self.known[law.identity] = Stack(law, tuple(parts), axis)

    def _of(self, value: Any) -> Stack | None:
        return self.known.get(value.identity) if isinstance(value, Law) else None


def _have_something_in_common(parts: Sequence[Law]) -> bool:
    """Whether any two are functions of one variable: of others the sum of an array is known better."""
    parts = as_coarse(parts)
    return len({r for p in parts for r in p.roots}) < sum(len(p.roots) for p in parts)


def _of_all(function: Callable[[Any], Any], parts: Sequence[Law], out: Any, name: Hashable) -> Law:
    def run(*nodes: Any) -> list[Any]:
        whole = np.broadcast_shapes(*(x.shape for x in nodes))
        return [function(xp.stack([xp.broadcast_to(x, whole) for x in nodes], -1)).astype(out.dtype)]

    (found,) = pointwise(run, parts, [out], name)
    return found


def _picked(stack: Stack, eqn: Any) -> list[Law] | None:
    p, shape = eqn.params, list(stack.law.shape)
    start, shape[stack.axis] = p["start_indices"][stack.axis], 1
    return [stack.parts[start]] if tuple(shape) == eqn.outvars[0].aval.shape else None


def _is_number(value: Any) -> bool:
    return isinstance(value, Held) and value.array.size == 1
