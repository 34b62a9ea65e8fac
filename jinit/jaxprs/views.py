"""How each value made of parameters shows their entries: where the axes went, and what was done to them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from jinit.jaxprs.constants import Constants
from jinit.jaxprs.dataflow import (
    AS_WEIGHT,
    CONST,
    PARAMS,
    SIGNAL,
    Flow,
    is_layer,
    is_lookup,
    keeps,
    until_stable,
)
from jinit.jaxprs.graph import COPIES, Address, Graph, Node
from jinit.jaxprs.pieces import MOVES, Axes, moved, repeated, stored_axes, whole

Scanned = tuple[tuple[int, Address], ...]  # stored axes that scans step along, outermost first


@dataclasses.dataclass(frozen=True)
class Factor:
    """What a parameter has gone through that was multiplied with another one into one weight.

    Attributes:
      summed: stored axes that were summed over.
      rank: how many products were summed.
    """

    summed: frozenset[int]
    rank: int


@dataclasses.dataclass(frozen=True)
class View:
    """How a value shows the entries of one parameter.

    Attributes:
      axes: for every axis of the value the pieces of stored axes it runs over.
      scanned: stored axes that a scan steps along, with the scan's address, outermost first.
      square: by what constant factors and masks have multiplied the variance, on average.
      linear: whether the entries are the parameter's own, up to factors; else they are a function of them.
      normalised: whether they were multiplied or divided by something computed from the parameter itself.
      masked: whether they were multiplied by, or chosen by, constants that tracing does not know.
      factor: set if they are entries of a product with another parameter.
      picked: address of the lookup that picked them by the data, and the stored axes it picked along.
    """

    axes: Axes
    scanned: Scanned = ()
    square: float = 1.0
    linear: bool = True
    normalised: bool = False
    masked: bool = False
    factor: Factor | None = None
    picked: tuple[Address, frozenset[int]] | None = None


Views = dict[int, View]  # by index of the parameter

# Between a lookup and the contraction that takes what it picked as a kernel.
_LAYOUT = (*MOVES, *COPIES, "select_n")
# Entries stay in their places, or are picked, and remain what they were; so do those of the moves.
_UNCHANGED = (
    *MOVES, *COPIES, "slice", "dynamic_slice", "split", "concatenate", "pad", "rev", "dynamic_update_slice",
    "scatter", "optimization_barrier", "psum_invariant", "neg", "real", "imag", "complex", "conj",
    "sub", "add", "add_any", "all_gather", "all_gather_invariant",
)  # fmt: skip


def find_views(graph: Graph, flow: Flow, shapes: Sequence[tuple[int, ...]]) -> list[Views]:
    """For every value, the views of the parameters whose entries it holds, alone or picked by the data.

    Args:
      graph: from `flatten`.
      flow: from `analyse`.
      shapes: shape of every parameter.
    """
    found: list[Views] = [{} for _ in range(graph.num_values)]
    for index, shape in enumerate(shapes):
        if flow.status[graph.inputs[index]] == PARAMS:
            found[graph.inputs[index]] = {index: View(whole(tuple(shape)))}
    step = _Step(flow, Constants(graph), found)
    nodes = [n for n in graph.nodes if any(flow.status[o] == PARAMS for o in n.outs) or n.kind in _LAYOUT]
    nodes += [n for n in graph.nodes if n.kind == "dynamic_slice" and flow.status[n.outs[0]] == SIGNAL]
    until_stable(lambda: sum(step(node) for node in nodes) > 0)
    return found


def scanned_axes(graph: Graph, views: list[Views]) -> dict[int, Scanned]:
    """For every parameter that scans step through: along which of its axes."""
    found: dict[int, Scanned] = {}
    for node in graph.nodes:
        if node.kind == "steps of":
            for leaf, view in views[node.outs[0]].items():
                found[leaf] = max(found.get(leaf, ()), view.scanned, key=len)
    return found


@dataclasses.dataclass(frozen=True)
class _Step:
    flow: Flow
    constants: Constants
    found: list[Views]

    def __call__(self, node: Node) -> bool:
        """Views of a node's results; whether there are new ones. A loop's carry is visited again."""
        changed = False
        for position, out in enumerate(node.outs):
            for operand, value in enumerate(node.ins):
                for leaf, view in self.found[value].items():
                    if leaf in self.found[out]:
                        continue
                    after = self.through(node, operand, position, leaf, view)
                    if after is not None:
                        self.found[out][leaf] = after
                        changed = True
        return changed

    def through(self, node: Node, operand: int, position: int, leaf: int, view: View) -> View | None:
        """A view of an operand, as a view of a result."""
        if self.flow.status[node.outs[position]] == SIGNAL:
            view_or_none = self.picked(node, operand, view)
            return None if view_or_none is None else self.along(node, operand, position, view_or_none)
        if node.kind == "dot_general":
            return self.product(node, operand, leaf, view)
        return self.along(node, operand, position, view) if keeps(node, operand) else None

    def picked(self, node: Node, operand: int, view: View) -> View | None:
        """What a lookup picks by the data, as long as it is only laid out anew."""
        if operand == 0 and is_lookup(node, self.flow):
            numbers = node.eqn.params.get("dimension_numbers")
            along = numbers.collapsed_slice_dims if numbers is not None else _cut(node)
            axes = frozenset().union(*(stored_axes(view.axes[i]) for i in along))
            return dataclasses.replace(view, picked=(node.address, axes))
        return view if view.picked and node.kind in _LAYOUT and keeps(node, operand) else None

    def along(self, node: Node, operand: int, position: int, view: View) -> View | None:
        """A view through an equation that keeps the entries, or a join of control flow."""
        if node.kind == "join":
            return view
        if node.kind == "steps of":
            steps = tuple((axis, node.region) for axis in sorted(stored_axes(view.axes[0])))
            return dataclasses.replace(view, axes=view.axes[1:], scanned=view.scanned + steps)
        if node.kind == "all steps":
            return dataclasses.replace(view, axes=(repeated(1), *view.axes))
        shape = tuple(node.eqn.outvars[position].aval.shape)
        before = tuple(node.eqn.invars[operand].aval.shape)
        axes = moved(node.kind, node.eqn.params, view.axes, before, shape)
        return None if axes is None else self.mapped(node, operand, dataclasses.replace(view, axes=axes))

    def mapped(self, node: Node, operand: int, view: View) -> View:
        """What an equation does to the entries themselves."""
        if node.kind in _UNCHANGED:
            return view
        if node.kind == "select_n" and operand > 0:
            return self.scaled(view, self.constants.share(node.ins[0], operand - 1))
        if node.kind != "mul" and not (node.kind == "div" and operand == 0):
            return dataclasses.replace(view, linear=False)
        other = node.ins[1 - operand]
        if self.flow.status[other] == CONST:
            divided = node.kind == "div"
            known = self.constants
            return self.scaled(view, (known.mean_inverse_square if divided else known.mean_square)(other))
        own = bool(self.flow.entries[node.ins[operand]] & self.flow.leaves[other])
        return dataclasses.replace(view, normalised=view.normalised or own)

    def scaled(self, view: View, square: float | None) -> View:
        if not square:  # unknown, or all of it zero
            return dataclasses.replace(view, masked=True)
        return dataclasses.replace(view, square=view.square * square)

    def product(self, node: Node, operand: int, leaf: int, view: View) -> View | None:
        """A factor of a weight that is a product of parameters, such as one of low rank."""
        other = node.ins[1 - operand]
        makes_weight = bool(self.flow.use[node.outs[0]] & AS_WEIGHT) and not is_layer(node, self.flow)
        if not makes_weight or not self.flow.entries[other] or leaf in self.flow.leaves[other]:
            return None
        if view.factor is not None:
            return None
        contracted, batch = (of_both[operand] for of_both in node.eqn.params["dimension_numbers"])
        own = [view.axes[i] for i in range(len(view.axes)) if i not in (*contracted, *batch)]
        shape, result = node.eqn.invars[operand].aval.shape, node.eqn.outvars[0].aval.shape
        others = len(result) - len(batch) - len(own)
        sizes = result[len(result) - others :] if operand == 0 else result[len(batch) : len(batch) + others]
        beside = [repeated(size) for size in sizes]
        axes = (*(view.axes[i] for i in batch), *(own + beside if operand == 0 else beside + own))
        summed = frozenset().union(*(stored_axes(view.axes[i]) for i in contracted))
        return dataclasses.replace(
            view, axes=axes, factor=Factor(summed, math.prod(shape[i] for i in contracted))
        )


def _cut(node: Node) -> list[int]:
    """Axes along which a `dynamic_slice` takes a part."""
    shape = node.eqn.invars[0].aval.shape
    return [i for i, size in enumerate(node.eqn.params["slice_sizes"]) if size < shape[i]]
