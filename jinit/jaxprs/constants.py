"""Values of a program that are known by tracing, whatever the inputs are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jinit._compat import bind
from jinit.jaxprs.dataflow import NOISE
from jinit.jaxprs.graph import Graph, Node

_LARGEST = 2**22  # entries of a mask that is worked out

_FOLDED: dict[str, Callable[..., float]] = {
    "convert_element_type": lambda x: x,
    "broadcast_in_dim": lambda x: x,
    "reshape": lambda x: x,
    "squeeze": lambda x: x,
    "copy": lambda x: x,
    "neg": lambda x: -x,
    "sqrt": math.sqrt,
    "rsqrt": lambda x: 1 / math.sqrt(x),
    "exp": math.exp,
    "log": math.log,
    "square": lambda x: x * x,
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "pow": lambda x, y: x**y,
    "max": max,
    "min": min,
}


class Constants:
    """The values that are known by tracing, worked out when asked for.

    What is one number everywhere is folded in double precision. The rest are masks: arrays that stand in
    the program, or that it makes of them.
    """

    def __init__(self, graph: Graph):
        self._given = graph.constants
        self._makers = {o: (n, k) for n in graph.nodes for k, o in enumerate(n.outs)}
        self._known: dict[int, np.ndarray | None] = {}

    def value(self, value: int) -> np.ndarray | None:
        """The entries of a value, without axes if they are all one number; None if not known."""
        if value not in self._known:
            self._known[value] = None  # while it is being worked out: a loop's carry depends on itself
            self._known[value] = self._find(value)
        return self._known[value]

    def mean_square(self, value: int) -> float | None:
        """Mean of the squares of the entries."""
        return self._mean(value, lambda x: np.abs(x) ** 2)

    def mean_inverse_square(self, value: int) -> float | None:
        """Mean of the squares of one over each entry."""
        return self._mean(value, lambda x: 1 / np.abs(x) ** 2)

    def share(self, value: int, number: int) -> float | None:
        """Share of the entries that equal a number."""
        return self._mean(value, lambda x: x == number)

    def _mean(self, value: int, function: Callable[[np.ndarray], Any]) -> float | None:
        entries = self.value(value)
        if entries is None:
            return None
        with np.errstate(all="ignore"):
            mean = float(np.mean(function(wide(entries))))
        return mean if math.isfinite(mean) else None

    def _find(self, value: int) -> np.ndarray | None:
        if value in self._given:
            return _held(self._given[value])
        node, position = self._makers.get(value, (None, 0))
        if node is None or node.kind in NOISE or node.opaque:
            return None
        if node.eqn is None:
            # What comes out of a call; loops and branches have several sources.
            return self.value(node.ins[0]) if node.kind == "join" and len(node.ins) == 1 else None
        operands = [self.value(i) for i in node.ins]
        known = [x for x in operands if x is not None]
        if len(known) < len(operands):
            return None
        number = _fold(node, known)
        return _evaluated(node, known, position) if number is None else number


def _held(x: Any) -> np.ndarray | None:
    if isinstance(x, Tracer) or getattr(x, "size", 1) > _LARGEST or not _numeric(getattr(x, "dtype", None)):
        return None
    x = np.asarray(x)
    return x if x.ndim else wide(x)


def _numeric(dtype: Any) -> bool:
    return dtype is None or not jnp.issubdtype(dtype, jax.dtypes.extended)


def wide(x: np.ndarray) -> np.ndarray:
    """`x` in double precision."""
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def _fold(node: Node, operands: list[np.ndarray]) -> np.ndarray | None:
    rule = _FOLDED.get(node.kind)
    if node.kind == "integer_pow":
        power = node.eqn.params["y"]
        rule = lambda x: x**power  # noqa: E731
    if rule is None or any(x.ndim or np.iscomplexobj(x) for x in operands):
        return None
    try:
        return np.asarray(rule(*(float(x) for x in operands)), np.float64)
    except (ArithmeticError, ValueError, TypeError):
        return None  # no real number


def _evaluated(node: Node, operands: list[np.ndarray], position: int) -> np.ndarray | None:
    """The equation's own result, if it is small."""
    avals = [v.aval for v in (*node.eqn.invars, *node.eqn.outvars)]
    if any(aval.size > _LARGEST or not _numeric(aval.dtype) for aval in avals):
        return None
    ins = [np.broadcast_to(x, a.shape).astype(a.dtype) for x, a in zip(operands, avals, strict=False)]
    try:
        with jax.ensure_compile_time_eval():
            return np.asarray(bind(node.eqn, ins)[position])
    except Exception:  # it may need a mesh, or a loop around it: left unknown, and said so
        return None
