"""How each value made of parameters shows their entries: where the axes went, and what was done to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jinit.jaxprs.constants import numbers
from jinit.jaxprs.dataflow import CONST, PARAMS, Flow, until_stable
from jinit.jaxprs.graph import Address, Graph, Node
from jinit.jaxprs.pieces import MOVES, Axes, moved, repeated, stored_axes, whole


Scanned = tuple[tuple[int, Address], ...]  # stored axes that scans step along, outermost first


@dataclasses.dataclass(frozen=True)
class View:
    """How a value shows the entries of one parameter.

    Attributes:
      axes: for every axis of the value the pieces of stored axes it runs over.
      scanned: stored axes that a scan steps along, with the scan's address, outermost first.
      square: by what constant scaling has multiplied the variance.
      linear: whether the entries are the parameter's own, up to factors; else they are a function of them.
      normalised: whether they were multiplied or divided by something computed from the parameter itself.
    """

    axes: Axes
    scanned: Scanned = ()
    square: float = 1.0
    linear: bool = True
    normalised: bool = False


Views = dict[int, View]  # by index of the parameter

# Entries stay in their places, or are picked, and remain what they were; so do those of the moves.
_UNCHANGED = (
    *MOVES, "slice", "dynamic_slice", "split", "concatenate", "pad", "rev", "dynamic_update_slice", "select_n",
    "convert_element_type", "copy", "sharding_constraint", "optimization_barrier", "reduce_precision",
    "stop_gradient", "pvary", "pcast", "psum_invariant", "neg", "real", "imag", "complex", "conj",
    "sub", "add", "add_any", "mesh_cast", "reshard", "device_put", "all_gather", "all_gather_invariant",
)  # fmt: skip


def find_views(graph: Graph, flow: Flow, shapes: Sequence[tuple[int, ...]]) -> list[Views]:
    """For every value made of parameters alone, the views of the parameters whose entries it holds.

    Args:
      graph: from `flatten`.
      flow: from `analyse`.
      shapes: shape of every parameter.
    """
    found: list[Views] = [{} for _ in range(graph.num_values)]
    for index, shape in enumerate(shapes):
        if flow.status[graph.inputs[index]] == PARAMS:
            found[graph.inputs[index]] = {index: View(whole(tuple(shape)))}
    nodes = [n for n in graph.nodes if any(flow.entries[o] for o in n.outs)]
    step = _Step(flow, numbers(graph), found)
    until_stable(lambda: any([step(node) for node in nodes]))
    return found


def scanned_axes(graph: Graph, views: list[Views]) -> dict[int, Scanned]:
    """For every parameter that scans step through: along which of its axes."""
    found: dict[int, Scanned] = {}
    for node in graph.nodes:
        if node.kind == "unstack":
            for leaf, view in views[node.outs[0]].items():
                found[leaf] = max(found.get(leaf, ()), view.scanned, key=len)
    return found


@dataclasses.dataclass(frozen=True)
class _Step:
    flow: Flow
    known: dict[int, float]
    found: list[Views]

    def __call__(self, node: Node) -> bool:
        """Views of a node's results; whether there are new ones. A loop's carry is visited again."""
        changed = False
        for position, out in enumerate(node.outs):
            for operand, value in enumerate(node.ins):
                for leaf, view in self.found[value].items():
                    if leaf in self.found[out] or leaf not in self.flow.entries[out]:
                        continue
                    after = self.through(node, operand, position, view)
                    if after is not None:
                        self.found[out][leaf] = after
                        changed = True
        return changed

    def through(self, node: Node, operand: int, position: int, view: View) -> View | None:
        """A view of an operand, as a view of a result."""
        if node.kind == "join":
            return view
        if node.kind == "unstack":
            steps = tuple((axis, node.region) for axis in sorted(stored_axes(view.axes[0])))
            return dataclasses.replace(view, axes=view.axes[1:], scanned=view.scanned + steps)
        if node.kind == "stack":
            return dataclasses.replace(view, axes=(repeated(1), *view.axes))
        shape = tuple(node.eqn.outvars[position].aval.shape)
        before = tuple(node.eqn.invars[operand].aval.shape)
        axes = moved(node.kind, node.eqn.params, view.axes, before, shape)
        return None if axes is None else self.mapped(node, operand, dataclasses.replace(view, axes=axes))

    def mapped(self, node: Node, operand: int, view: View) -> View:
        """What an equation does to the entries themselves."""
        if node.kind in _UNCHANGED:
            return view
        if node.kind != "mul" and not (node.kind == "div" and operand == 0):
            return dataclasses.replace(view, linear=False)
        other = node.ins[1 - operand]
        if self.flow.status[other] == CONST:
            factor = self.known.get(other, 1.0)
            square = factor**2 if node.kind == "mul" else factor**-2 if factor else 1.0
            return dataclasses.replace(view, square=view.square * square)
        own = bool(self.flow.entries[node.ins[operand]] & self.flow.leaves[other])
        return dataclasses.replace(view, normalised=view.normalised or own)
