"""Where a value made of parameters holds entries of them, and where only zeros that were laid beside them."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jinit._compat import bind
from jinit.jaxprs.constants import Constants, wide
from jinit.jaxprs.dataflow import CONST, Flow
from jinit.jaxprs.elementwise import is_elementwise
from jinit.jaxprs.graph import COPIES, Graph, Node

_LARGEST = 2**22  # entries of a value that is worked out
# Equations that lay entries out anew, with the operands that hold them; the others are places.
_LAID: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys(("reshape", "transpose", "squeeze", "broadcast_in_dim", "slice", "split", "rev"), (0,)),
    **dict.fromkeys(("gather", "dynamic_slice"), (0,)),
    "pad": (0, 1),
    "dynamic_update_slice": (0, 1),
    "scatter": (0, 2),
    "concatenate": None,  # all of them
}
_PASSED = (*COPIES, "neg", "real", "imag", "conj")
_SUMS = ("add", "sub", "add_any", "complex")


class Support:
    """Mean squares of the entries of values, if those of parameters are one; computed when asked for.

    Args:
      graph: from `flatten`.
      flow: from `analyse`.
    """

    def __init__(self, graph: Graph, flow: Flow):
        self._flow, self._constants = flow, Constants(graph)
        self._inputs = frozenset(graph.inputs)
        self._makers = {o: (n, k) for n in graph.nodes for k, o in enumerate(n.outs)}
        self._all: dict[int, np.ndarray | None] = {}
        self._own: tuple[int, dict[int, np.ndarray | None]] = -1, {}

    def of(self, value: int, leaf: int | None = None) -> np.ndarray | None:
        """Mean squares, one number where they are alike or alike on average; None if not known.

        Args:
          value: id of a value made of parameters.
          leaf: index of the parameter that alone counts; None for all of them, and constants.
        """
        found, todo, entered = self._kept(leaf), [value], set()
        while todo:  # no recursion: weights may come out of long computations
            if todo[-1] not in found:
                entered.add(todo[-1])
                found[todo[-1]] = None  # until it is known: a loop's carry depends on itself
                todo += [i for i in self._before(todo[-1], leaf) if i not in found]
            elif (last := todo.pop()) in entered:
                entered.remove(last)
                found[last] = self._find(last, leaf, found)
        return found[value]

    def _kept(self, leaf: int | None) -> dict[int, np.ndarray | None]:
        """What is known already; of one parameter at a time, since each may lie in zeros for all of them."""
        if leaf is None:
            return self._all
        if self._own[0] != leaf:
            self._own = leaf, {}
        return self._own[1]

    def _before(self, value: int, leaf: int | None) -> list[int]:
        made = self._flow.status[value] != CONST and value not in self._inputs
        return self._makers[value][0].ins if made and self._is_in(leaf, value) else []

    def _is_in(self, leaf: int | None, value: int) -> bool:
        return leaf is None or leaf in self._flow.leaves[value]

    def _find(self, value: int, leaf: int | None, found: dict[int, Any]) -> np.ndarray | None:
        if not self._is_in(leaf, value):
            return np.zeros(())
        if self._flow.status[value] == CONST:
            known = self._constants.value(value)
            return np.ones(()) if known is None else np.abs(wide(known)) ** 2
        if value in self._inputs:
            return np.ones(())
        node, position = self._makers[value]
        ins = [found[i] for i in node.ins]
        if node.kind in _LAID:
            return self._laid(node, position, ins)
        if node.eqn is None:
            return _joined(node, ins)
        if node.kind in _PASSED:
            return ins[0]
        known = [x for x in ins if x is not None]
        if node.kind in _SUMS and len(known) == len(ins):
            return np.maximum(*known)
        if node.kind in ("mul", "div"):
            return self._scaled(node, ins, leaf)
        if node.kind == "select_n" and len(known) == len(ins):
            return self._chosen(node, known[1:])
        if len(known) == len(ins) == 1 and known[0].ndim and _keeps_zero(node):
            return (known[0] != 0).astype(np.float64)
        # A function of entries all alike, or a sum of such.
        if len(known) < len(ins) or any(x.ndim for x in known):
            return None
        mixed = [x for x, i in zip(known, node.ins, strict=True) if self._flow.status[i] != CONST]
        return np.asarray(float(any(mixed)))

    def _laid(self, node: Node, position: int, ins: list[np.ndarray | None]) -> np.ndarray | None:
        data = _LAID[node.kind] or range(len(ins))
        held = [x for k, x in enumerate(ins) if k in data and x is not None]
        if len(held) < len(data):
            return None
        if all(not x.ndim and x == held[0] for x in held):
            return held[0]
        avals = [v.aval for v in node.eqn.invars]
        if any(a.size > _LARGEST for a in (*avals, node.eqn.outvars[position].aval)):
            return None
        places = {k: self._constants.value(i) for k, i in enumerate(node.ins) if k not in data}
        if any(x is None for x in places.values()):
            return None
        operands = [ins[k] if k in data else places[k] for k in range(len(ins))]
        try:
            with jax.ensure_compile_time_eval():
                arrays = [
                    jnp.broadcast_to(jnp.asarray(x, jnp.float32 if k in data else a.dtype), a.shape)
                    for k, (x, a) in enumerate(zip(operands, avals, strict=True))
                ]
                return np.asarray(bind(node.eqn, arrays)[position], np.float64)
        except Exception:  # it may need a mesh, or a loop around it: left unknown
            return None

    def _scaled(self, node: Node, ins: list[np.ndarray | None], leaf: int | None) -> np.ndarray | None:
        """Multiplied or divided by a constant, or by what is computed from parameters."""
        constant = [self._flow.status[i] == CONST for i in node.ins]
        if not any(constant):
            known = [np.ones(()) if x is None and leaf is None else x for x in ins]
            first, second = known if node.kind == "mul" else (known[0], known[0])
            if first is None or second is None:
                return None
            if node.kind == "div":
                return first
            return first * second if leaf is None else np.maximum(first, second)
        x = ins[constant.index(False)]
        factor = self._constants.value(node.ins[constant.index(True)])
        if x is None or factor is None or (node.kind == "div" and constant[0]):
            return None if x is None or x.ndim else x
        with np.errstate(all="ignore"):
            square = np.abs(wide(factor)) ** (2 if node.kind == "mul" else -2)
            scaled = x * (square if x.ndim else np.mean(square))
        return scaled if np.all(np.isfinite(scaled)) else x

    def _chosen(self, node: Node, cases: list[np.ndarray]) -> np.ndarray | None:
        which = self._constants.value(node.ins[0])
        if which is None:
            return np.max(np.stack(np.broadcast_arrays(*cases)), axis=0)
        if any(x.ndim for x in cases):
            return np.choose(np.asarray(which, int), cases)
        return np.asarray(sum(x * np.mean(which == number) for number, x in enumerate(cases)))


def _keeps_zero(node: Node) -> bool:
    """Whether a function of single entries is zero at zero."""
    if not is_elementwise(node.eqn):
        return False
    with jax.ensure_compile_time_eval():
        return not bind(node.eqn, [jnp.zeros((), node.eqn.invars[0].aval.dtype)])[0].any()


def _joined(node: Node, ins: list[np.ndarray | None]) -> np.ndarray | None:
    """Out of a call, a branch or a loop, or into one: what is the same whichever way it came."""
    first = ins[0]
    if first is None or any(x is None or not np.array_equal(x, first) for x in ins):
        return None
    if not first.ndim or node.kind == "join":
        return first
    if node.kind == "steps of" and math.prod(first.shape) and (first == first[:1]).all():
        return first[0]
    return None
