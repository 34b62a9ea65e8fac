"""Values of a program that are one known number, whatever the inputs are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jinit._compat import Literal
from jinit.jaxprs.graph import Graph, Node

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


def numbers(graph: Graph) -> dict[int, float]:
    """Value id -> the one real number that all entries of the value are, where that is known by tracing."""
    known: dict[int, float] = {}
    for node in graph.nodes:
        if node.eqn is None:
            continue
        for value, atom in zip(node.ins, node.eqn.invars, strict=True):
            if isinstance(atom, Literal) and np.ndim(atom.val) == 0:
                _note(known, value, atom.val)
        if len(node.outs) == 1 and all(i in known for i in node.ins):
            _fold(known, node)
    return known


def _fold(known: dict[int, float], node: Node) -> None:
    values = [known[i] for i in node.ins]
    try:
        if node.kind == "integer_pow":
            _note(known, node.outs[0], values[0] ** node.eqn.params["y"])
        elif rule := _FOLDED.get(node.kind):
            _note(known, node.outs[0], rule(*values))
    except (ArithmeticError, ValueError, TypeError):
        return  # no real number: left unknown


def _note(known: dict[int, float], value: int, number: Any) -> None:
    try:
        known[value] = float(number)
    except (TypeError, ValueError):
        return
