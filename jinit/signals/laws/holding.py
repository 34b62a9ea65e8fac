"""Equations on arrays, run as they stand; and those that were not followed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jinit._compat import bind
from jinit.jaxprs.elementwise import is_elementwise
from jinit.signals.laws.arrays import at_hand, xp
from jinit.signals.laws.indexed import index_of
from jinit.signals.laws.values import PICKED, Held, Unknown, Value, held

# What entries that are all alike do not notice.
LAYOUT = ("reshape", "transpose", "squeeze", "expand_dims", "slice", "split", "rev", "dynamic_slice", "copy")


def unknown(eqn: Any, reason: str) -> list[Value]:
    """All results of an equation that was not followed."""
    return [Unknown(reason, eqn.primitive.name)] * len(eqn.outvars)


def run_held(eqn: Any, ins: Sequence[Held]) -> list[Value]:
    """The equation itself, on arrays: at once where they are numbers that stand in the program."""
    if all(not isinstance(x.array, Tracer) for x in ins):
        with jax.ensure_compile_time_eval():
            return _run_held(eqn, ins)
    return _run_held(eqn, ins)


def _picks_again(eqn: Any, ins: Sequence[Held]) -> bool:
    """Whether rows are picked of which some come again."""
    if eqn.primitive.name != "gather" or not ins[0].source:
        return False
    index = index_of(eqn, ins[1])
    return index is not None and index.repeats


def _run_held(eqn: Any, ins: Sequence[Held]) -> list[Value]:
    """Entries that repeat stay repeated."""
    kind = eqn.primitive.name
    source = frozenset().union(*(x.source for x in ins), [PICKED] if _picks_again(eqn, ins) else [])
    shapes = [v.aval.shape for v in eqn.outvars]
    if kind in ("pvary", "stop_gradient", "copy"):  # of a place that is not entered; the very same array
        return list(ins)
    if kind == "broadcast_in_dim" and len(ins) == 1:
        (x,), dims = ins, eqn.params["broadcast_dimensions"]
        place = dict(zip(dims, x.array.shape, strict=True))
        return [
            Held(x.array.reshape([place.get(i, 1) for i in range(len(shapes[0]))]), tuple(shapes[0]), source)
        ]
    if kind in LAYOUT and ins[0].array.size == 1:
        return [Held(ins[0].array.reshape((1,) * len(s)), tuple(s), source) for s in shapes]
    repeated = any(x.array.shape != x.shape for x in ins)
    if repeated and is_elementwise(eqn):
        compact = jnp.broadcast_shapes(*(x.array.shape for x in ins))
        outs = bind(eqn, [xp.broadcast_to(x.array, compact) if x.shape != () else x.array for x in ins])
        return [Held(at_hand(o), tuple(s), source) for o, s in zip(outs, shapes, strict=True)]
    outs = bind(eqn, [x.whole() for x in ins])
    return [held(o, source=source) for o in outs]
