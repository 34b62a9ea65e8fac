"""Where the scale of a parameter makes a difference."""

from __future__ import annotations

from jinit.jaxprs.dataflow import SIGNAL
from jinit.jaxprs.degrees import Form
from jinit.jaxprs.graph import Node
from jinit.jaxprs.sites import Analysis

# A value made of parameters alone meets a signal in this operand of this node (-1: it decides what is run).
Use = tuple[Node, int, int]


def find_uses(analysis: Analysis, forms: list[Form]) -> dict[int, list[Use]]:
    """Where each leaf's scale meets a signal, or decides what is run."""
    graph, flow = analysis.graph, analysis.flow
    layers = {id(n) for n in analysis.layers}
    uses: dict[int, list[Use]] = {}
    for node in graph.nodes:
        if node.outs and not any(flow.live[o] for o in node.outs):
            continue
        if id(node) not in layers and not any(flow.status[o] == SIGNAL for o in node.outs):
            continue
        values = [*enumerate(node.ins), *((-1, i) for i in node.control)]
        for position, value in values:
            if flow.status[value] != SIGNAL:
                for leaf in forms[value].leaves:
                    uses.setdefault(leaf, []).append((node, position, value))
    return uses
