"""Which entries of a parameter a value is made of, followed by their flat index through moves.

Where entries are only moved, picked, cast or scaled, each is followed on its own; past any other equation,
what it yields holds all entries that went in. Steps of the scans around a value are kept apart. This is asked
only where one parameter serves at several places or unit by unit; elsewhere a factor applies to all of it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from jinit.jaxprs.dataflow import Flow
from jinit.jaxprs.graph import COPIES, Graph, Node

Indices = np.ndarray  # flat indices into the leaf, or -1; the steps of the scans around come first
_LARGEST = 2**26  # entries; a larger parameter is taken as a whole


class Entries:
    """The entries of the parameters in the values of a graph.

    Args:
      graph: from `flatten`.
      flow: from `analyse`.
      shapes: shape of each leaf; leaf k is input k of the graph.
      scaled: whether an entry is followed through a multiplication.
    """

    def __init__(self, graph: Graph, flow: Flow, shapes: list[tuple[int, ...]], *, scaled: bool = True):
        self._rules = RULES if scaled else {k: r for k, r in RULES.items() if k not in _FACTORS}
        self._shapes = shapes
        self._graph = graph
        self._numbers = graph.numbers
        self._flow = flow
        self._makers = {o: n for n in graph.nodes for o in n.outs}
        self._found: dict[tuple[int, int], Any] = {}

    def of(self, value: int, leaf: int, lengths: tuple[int, ...]) -> tuple[Indices, bool]:
        """Indices into `leaf`, and whether each stands at its place in the value.

        Args:
          value: id of a value that depends on the leaf.
          leaf: index of a parameter.
          lengths: lengths of the scans around the place where the value is read.

        Returns:
          Indices of shape `[*lengths, *shape of the value]`, or `[*lengths, n]` in no order.
        """
        indices, depth, placed = self._find(value, leaf)
        return _lift(indices, depth, lengths), placed

    def stack_depth(self, value: int, leaf: int) -> int | None:
        """How many leading axes of the leaf are steps of scans around the value, if it is stacked so."""
        if value == self._graph.inputs[leaf]:
            return 0
        node = self._makers.get(value)
        if node is None or (node.eqn is None and len(node.ins) > 1):
            return None
        if node.kind == "steps of":
            depth = len(node.lengths)
            while node.kind == "steps of" and node.ins[0] in self._makers:
                node = self._makers[node.ins[0]]
            stacked = node.ins[0] == self._graph.inputs[leaf] and len(node.lengths) == 1
            return depth if stacked else None
        depths = {self.stack_depth(i, leaf) for i in node.ins if self._depends(i, leaf)}
        return depths.pop() if len(depths) == 1 else None

    def _depends(self, value: int, leaf: int) -> bool:
        return leaf in self._flow.leaves[value]

    def _find(self, value: int, leaf: int) -> tuple[Indices, int, bool]:
        """Indices, how many of their leading axes are steps of scans, and whether they are placed."""
        shape = self._shapes[leaf]
        every = np.arange(math.prod(shape), dtype=np.int64)
        if value == self._graph.inputs[leaf]:
            return every.reshape(shape), 0, True
        if (value, leaf) not in self._found:
            self._found[value, leaf] = (every, 0, False)  # what a loop that leads back here finds
            node = self._makers.get(value)
            if node is not None and every.size <= _LARGEST:
                self._found[value, leaf] = self._through(node, value, leaf) or (every, 0, False)
        return self._found[value, leaf]

    def _through(self, node: Node, value: int, leaf: int) -> tuple[Indices, int, bool] | None:
        found = {p: self._find(i, leaf) for p, i in enumerate(node.ins) if self._depends(i, leaf)}
        if not found or (node.eqn is None and len(node.ins) > 1):
            return None
        depth = max(f[1] for f in found.values())
        indices = {p: _lift(f[0], f[1], node.lengths[:depth]) for p, f in found.items()}
        placed = all(f[2] for f in found.values())
        if node.eqn is None:
            return self._across(node, indices[0], depth, placed)
        fits = all(x.shape[depth:] == node.eqn.invars[p].aval.shape for p, x in indices.items())
        if placed and fits and (rule := self._rules.get(node.kind)):
            starts = [self._number(i) for i in node.ins[1:]] if node.kind == "dynamic_slice" else []
            moved = rule(node, indices, depth, node.outs.index(value), starts)
            if moved is not None:
                return moved, depth, True
        steps = node.lengths[:depth]
        return np.concatenate([x.reshape(*steps, -1) for x in indices.values()], axis=-1), depth, False

    def _across(self, node: Node, x: Indices, depth: int, placed: bool) -> tuple[Indices, int, bool] | None:
        """Into a scan, out of it, or out of a function with its own derivative."""
        if node.kind == "steps of":
            if not placed:
                return None
            return _lift(x, depth, node.lengths[:-1]), len(node.lengths), True
        if node.kind == "all steps":
            return (x, len(node.lengths), True) if placed and depth == len(node.lengths) + 1 else None
        return (x, depth, placed) if depth <= len(node.lengths) else None

    def _number(self, value: int) -> int | None:
        """The whole number that a scalar is, where the program says so."""
        if value in self._numbers:
            number = self._numbers[value]
            return (
                int(np.real(number)) if number == np.floor(np.real(number)) and np.isfinite(number) else None
            )
        node = self._makers.get(value)
        if node is None or node.kind not in _FOLDED:
            return None
        numbers = [self._number(i) for i in node.ins]
        return None if None in numbers else int(_FOLDED[node.kind](*numbers))


_FOLDED: dict[str, Callable[..., Any]] = {
    "convert_element_type": lambda x: x,
    "copy": lambda x: x,
    "lt": operator.lt,
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "select_n": lambda which, *cases: cases[which],
}


def _lift(indices: Indices, depth: int, lengths: tuple[int, ...]) -> Indices:
    """Repeat over the steps of the scans that the value is the same in."""
    missing = lengths[depth:]
    at = (*indices.shape[:depth], *(1 for _ in missing), *indices.shape[depth:])
    shape = (*indices.shape[:depth], *missing, *indices.shape[depth:])
    return np.broadcast_to(indices.reshape(at), shape)


Rule = Callable[[Node, dict[int, Indices], int, int, list[int | None]], Indices | None]


def _one(move: Callable[[Indices, int, Any, tuple[int, ...]], Indices | None]) -> Rule:
    """A rule for equations that move the entries of their first operand."""

    def rule(
        node: Node, ins: dict[int, Indices], depth: int, out: int, _: list[int | None]
    ) -> Indices | None:
        if list(ins) != [0]:
            return None
        return move(ins[0], depth, node.eqn.params, tuple(node.eqn.outvars[out].aval.shape))

    return rule


def _reshape(x: Indices, depth: int, params: Any, shape: tuple[int, ...]) -> Indices:
    return x.reshape(*x.shape[:depth], *shape)


def _transpose(x: Indices, depth: int, params: Any, shape: tuple[int, ...]) -> Indices:
    return x.transpose(*range(depth), *(depth + i for i in params["permutation"]))


def _broadcast(x: Indices, depth: int, params: Any, shape: tuple[int, ...]) -> Indices:
    steps, at = x.shape[:depth], [1] * len(shape)
    for axis, size in zip(params["broadcast_dimensions"], x.shape[depth:], strict=True):
        at[axis] = size
    return np.broadcast_to(x.reshape(*steps, *at), (*steps, *shape))


def _slice(x: Indices, depth: int, params: Any, shape: tuple[int, ...]) -> Indices:
    strides = params["strides"] or [1] * len(shape)
    bounds = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return x[(*[slice(None)] * depth, *(slice(*b) for b in bounds))]


def _rev(x: Indices, depth: int, params: Any, shape: tuple[int, ...]) -> Indices:
    return np.flip(x, tuple(depth + i for i in params["dimensions"]))


def _split(node: Node, ins: dict[int, Indices], depth: int, out: int, _: list[int | None]) -> Indices:
    bounds = np.cumsum(node.eqn.params["sizes"])[:-1]
    return np.split(ins[0], bounds, axis=depth + node.eqn.params["axis"])[out]


def _same(node: Node, ins: dict[int, Indices], depth: int, out: int, _: list[int | None]) -> Indices | None:
    """Entry by entry: one operand holds the entries, the other is a factor that does not depend on them."""
    shape = node.eqn.outvars[out].aval.shape
    (x,) = ins.values() if len(ins) == 1 else (None,)
    if x is None or any(a not in (1, b) for a, b in zip(x.shape[depth:], shape, strict=True)):
        return None
    return np.broadcast_to(x, (*x.shape[:depth], *shape))


def _concatenate(node: Node, ins: dict[int, Indices], depth: int, out: int, _: list[int | None]) -> Indices:
    steps = next(iter(ins.values())).shape[:depth]
    none = [np.full((*steps, *v.aval.shape), -1) for v in node.eqn.invars]
    return np.concatenate(
        [ins.get(p, n) for p, n in enumerate(none)], axis=depth + node.eqn.params["dimension"]
    )


def _dynamic_slice(
    node: Node, ins: dict[int, Indices], depth: int, out: int, starts: list[int | None]
) -> Indices | None:
    taken: list[slice] = []
    sizes, lengths = node.eqn.invars[0].aval.shape, node.eqn.params["slice_sizes"]
    for start, size, length in zip(starts, sizes, lengths, strict=True):
        if list(ins) != [0] or (start is None and size != length):
            return None
        first = min(max(start or 0, 0), size - length)
        taken.append(slice(first, first + length))
    return ins[0][(*[slice(None)] * depth, *taken)]


_SAME = (*COPIES, "real", "conj")
_FACTORS = ("neg", "mul", "div")
RULES: dict[str, Rule] = {
    **dict.fromkeys((*_SAME, *_FACTORS), _same),
    **dict.fromkeys(("reshape", "squeeze", "expand_dims"), _one(_reshape)),
    "transpose": _one(_transpose),
    "broadcast_in_dim": _one(_broadcast),
    "slice": _one(_slice),
    "rev": _one(_rev),
    "split": _split,
    "concatenate": _concatenate,
    "dynamic_slice": _dynamic_slice,
}
