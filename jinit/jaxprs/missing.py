"""Parameters that have the shape of a weight and yet no site: named, with the reason."""

from __future__ import annotations

from jinit._compat import source_of
from jinit.jaxprs.dataflow import AS_WEIGHT, PARAMS, SIGNAL, Flow, weight_position
from jinit.jaxprs.graph import Graph, Node
from jinit.jaxprs.tracing import Program

# Adding a parameter to a signal, or laying it beside one, is what biases and learned tokens do.
_ADDITIONS = (
    "add",
    "add_any",
    "sub",
    "concatenate",
    "select_n",
    "join",
    "dynamic_update_slice",
    "pad",
    "max",
)


def not_followed(program: Program, graph: Graph, flow: Flow, layers: list[Node]) -> dict[str, str]:
    """Path of a parameter -> why it has no site of its own."""
    found: set[int] = set()
    partial: dict[int, str] = {}
    for node in layers:
        operand = node.ins[weight_position(node, flow)]
        entries = flow.entries[operand] or flow.leaves[operand]
        found |= entries
        for i in _matrices(program, flow.leaves[operand] - entries):
            owner = ", ".join(program.paths[k] for k in sorted(entries))
            partial.setdefault(i, f"it only goes into making the weight of {owner}")
    reasons = _opaque(graph, flow)
    for i, reason in {**partial, **_meetings(graph, flow, layers)}.items():
        reasons.setdefault(i, reason)
    return {program.paths[i]: reasons[i] for i in sorted(reasons) if i not in found}


def _matrices(program: Program, indices: frozenset[int]) -> list[int]:
    shapes = {i: program.jaxpr.invars[i].aval.shape for i in indices}
    return [i for i, shape in shapes.items() if sum(size > 1 for size in shape) >= 2]


def _opaque(graph: Graph, flow: Flow) -> dict[int, str]:
    reasons: dict[int, str] = {}
    for node in graph.nodes:
        if node.opaque and any(flow.live[o] for o in node.outs):
            for i in frozenset().union(*(flow.leaves[i] for i in node.ins)):
                reasons.setdefault(i, f"it enters `{node.kind}`, whose inside was not seen{_at(node)}")
    return reasons


def _meetings(graph: Graph, flow: Flow, layers: list[Node]) -> dict[int, str]:
    """For every parameter the first equation, no addition, where it meets a signal outside of a site."""
    sites = {id(n) for n in layers}
    reasons: dict[int, str] = {}
    for node in graph.nodes:
        if id(node) in sites or node.kind in _ADDITIONS or not any(flow.live[o] for o in node.outs):
            continue
        if flow.status[node.outs[0]] != SIGNAL:
            continue
        for value in node.ins:
            if flow.status[value] != PARAMS or flow.use[value] & AS_WEIGHT:
                continue
            # What came out of a layer among parameters is a signal; a vector is a scale, as in LayerNorm.
            if flow.dotted[value] or flow.axes[value] < 2:
                continue
            for i in flow.leaves[value]:
                reasons.setdefault(
                    i, f"it meets the signal in `{node.kind}`, in no contraction or lookup{_at(node)}"
                )
    return reasons


def _at(node: Node) -> str:
    where = source_of(node.eqn) if node.eqn is not None else ""
    return f" ({where})" if where else ""
