"""What each value of a program depends on, and what a value made of parameters alone is used for.

A value is CONST, depends on PARAMS alone, or is a SIGNAL: it depends on the inputs. A contraction of
a signal with a value made of parameters is a layer. Contractions *among* parameters need a second
look: a learned query times a kernel is a layer, the power iteration of spectral normalisation and the
product of two low-rank factors are not. What the result is used for tells them apart.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from jinit.jaxprs.graph import Graph, Node

CONST, PARAMS, SIGNAL = range(3)
# Uses of a value made of parameters alone: as a weight; among signals.
AS_WEIGHT, AS_SIGNAL = 1, 2

CONTRACTIONS = ("dot_general", "conv_general_dilated", "ragged_dot", "ragged_dot_general")
NOISE = ("random_bits", "random_split", "random_wrap", "random_fold_in", "random_seed", "threefry2x32")
# Entries move or are picked, and stay what they were.
_MOVES = (
    "slice", "dynamic_slice", "gather", "concatenate", "pad", "dynamic_update_slice", "select_n",
    "scatter", "steps of", "all steps", "join", "split",
)  # fmt: skip


def contracts(node: Node) -> bool:
    """Whether the node sums products over at least one axis."""
    if node.kind == "dot_general":
        (lhs, _), _ = node.eqn.params["dimension_numbers"]
        return len(lhs) > 0
    return node.kind in CONTRACTIONS


def has_batch_axes(node: Node) -> bool:
    """Whether the node is a `dot_general` with batch axes, as attention scores are."""
    return node.kind == "dot_general" and len(node.eqn.params["dimension_numbers"][1][0]) > 0


@dataclasses.dataclass
class Flow:
    """Facts about the values of a graph, each a list indexed by value id.

    Attributes:
      status: CONST, PARAMS or SIGNAL.
      leaves: for PARAMS values, indices of the parameters it is computed from.
      entries: those of them whose entries it holds, moved, cast, scaled or mapped one by one.
      dotted: for PARAMS values, whether it comes out of a contraction among parameters.
      axes: for PARAMS values, how many axes of more than one entry it has, repetition not counted.
      use: for PARAMS values, AS_WEIGHT and AS_SIGNAL bits.
      live: whether an output of the program depends on it.
    """

    status: list[int]
    leaves: list[frozenset[int]]
    entries: list[frozenset[int]]
    dotted: list[bool]
    axes: list[int]
    use: list[int]
    live: list[bool]


def analyse(graph: Graph, status: Sequence[int]) -> Flow:
    """Dataflow of a graph.

    Args:
      graph: from `flatten`.
      status: of every input of the graph. An input that is PARAMS is the parameter of its own index.
    """
    n = graph.num_values
    none: frozenset[int] = frozenset()
    flow = Flow([CONST] * n, [none] * n, [none] * n, [False] * n, [0] * n, [0] * n, [False] * n)
    for index, (value, of_input) in enumerate(zip(graph.inputs, status, strict=True)):
        flow.status[value] = of_input
        if of_input == PARAMS:
            flow.leaves[value] = flow.entries[value] = frozenset([index])
    shapes = _shapes(graph)
    for value in graph.inputs:
        flow.axes[value] = _num_axes(shapes.get(value, ()))
    until_stable(lambda: _forward(graph, flow, shapes))
    until_stable(lambda: _liveness(graph, flow))
    for value in graph.outputs:
        if flow.status[value] == PARAMS:
            flow.use[value] |= AS_SIGNAL
    until_stable(lambda: _uses(graph, flow))
    return flow


def until_stable(step: Callable[[], bool]) -> None:
    """Repeat a step until it reports no change."""
    while step():
        pass


def _shapes(graph: Graph) -> dict[int, tuple[int, ...]]:
    """Shape of every value an equation touches."""
    shapes: dict[int, tuple[int, ...]] = {}
    for node in graph.nodes:
        if node.eqn is not None:
            values, atoms = (*node.ins, *node.outs), (*node.eqn.invars, *node.eqn.outvars)
            shapes.update((i, getattr(a.aval, "shape", ())) for i, a in zip(values, atoms, strict=True))
    return shapes


def _num_axes(shape: tuple[int, ...]) -> int:
    return sum(size > 1 for size in shape)


def _forward(graph: Graph, flow: Flow, shapes: dict[int, tuple[int, ...]]) -> bool:
    changed = False
    for node in graph.nodes:
        status = max((flow.status[i] for i in node.ins), default=CONST)
        if node.kind in NOISE or status == CONST:
            continue
        leaves = entries = frozenset()
        dotted, axes = False, 0
        if status == PARAMS:
            leaves = frozenset().union(*(flow.leaves[i] for i in node.ins))
            entries = frozenset().union(*(flow.entries[i] for p, i in enumerate(node.ins) if keeps(node, p)))
            dotted = contracts(node) or any(flow.dotted[i] for i in node.ins)
            deeper = (node.kind == "all steps") - (node.kind == "steps of")
            axes = max(flow.axes[i] for i in node.ins) + deeper
        for out in node.outs:
            here = min(axes, _num_axes(shapes[out])) if node.eqn is not None else axes
            changed |= _set(flow, out, (status, leaves, entries, dotted, here))
    return changed


def _set(flow: Flow, value: int, facts: tuple[int, frozenset[int], frozenset[int], bool, int]) -> bool:
    lists = (flow.status, flow.leaves, flow.entries, flow.dotted, flow.axes)
    changed = facts != tuple(facts_of[value] for facts_of in lists)
    for facts_of, fact in zip(lists, facts, strict=True):
        facts_of[value] = fact  # type: ignore[index]
    return changed


def keeps(node: Node, position: int) -> bool:
    """Whether the entries of an operand are the entries of the result."""
    if node.kind in _MOVES:
        return True
    if contracts(node) or len(node.outs) != 1:
        return False
    return node.eqn.invars[position].aval.size == node.eqn.outvars[0].aval.size


def _liveness(graph: Graph, flow: Flow) -> bool:
    changed = False
    for value in graph.outputs:
        flow.live[value] = True
    for node in reversed(graph.nodes):
        if any(flow.live[o] for o in node.outs):
            for i in (*node.ins, *node.control):
                changed |= not flow.live[i]
                flow.live[i] = True
    return changed


def _uses(graph: Graph, flow: Flow) -> bool:
    changed = False
    for node in reversed(graph.nodes):
        if not any(flow.live[o] for o in node.outs):
            continue
        for i, use in _operand_uses(node, flow):
            if flow.status[i] == PARAMS and flow.use[i] | use != flow.use[i]:
                flow.use[i] |= use
                changed = True
    return changed


def _operand_uses(node: Node, flow: Flow) -> list[tuple[int, int]]:
    """What the node uses each of its operands as."""
    if is_layer(node, flow):
        weight = weight_position(node, flow)
        roles = [AS_WEIGHT if p == weight else AS_SIGNAL for p in range(len(node.ins))]
        return list(zip(node.ins, roles, strict=True))
    if flow.status[node.outs[0]] == SIGNAL:
        return [(i, AS_SIGNAL) for i in node.ins]
    use = 0
    for out in node.outs:
        use |= flow.use[out]
    if contracts(node) and use and _makes_a_weight(node, flow):
        use = AS_WEIGHT
    if node.kind == "stop_gradient":
        use &= AS_WEIGHT
    return [(i, use) for i in node.ins]


def _makes_a_weight(node: Node, flow: Flow) -> bool:
    """Whether a contraction among parameters, being no layer, is a step in making a weight.

    The other kind are attention scores between learned queries and learned keys.
    """
    scores = all(flow.dotted[i] for i in node.ins[:2]) and _rank(node) > 0
    return not scores or bool(flow.use[node.outs[0]] & AS_WEIGHT)


def is_lookup(node: Node, flow: Flow) -> bool:
    """Whether the node picks rows of a table of parameters: by the inputs, or several at fixed places."""
    if node.kind not in ("gather", "dynamic_slice") or flow.status[node.ins[0]] != PARAMS:
        return False
    if math.prod(node.eqn.params["slice_sizes"]) == node.eqn.invars[0].aval.size:
        return False
    if any(flow.status[i] == SIGNAL for i in node.ins[1:]):
        return True
    several = node.kind == "gather" and math.prod(node.eqn.invars[1].aval.shape[:-1]) > 1
    return several and flow.use[node.outs[0]] == AS_SIGNAL


def is_layer(node: Node, flow: Flow) -> bool:
    """Whether a weight meets a signal here, in a contraction or in a lookup."""
    if not contracts(node):
        return is_lookup(node, flow)
    operands = [flow.status[i] for i in node.ins[:2]]
    if PARAMS not in operands:
        return False
    if SIGNAL in operands:
        weight = node.ins[operands.index(PARAMS)]
        # A learned query that went through its own layer meets the keys: scores, no layer.
        return not (flow.dotted[weight] and has_batch_axes(node))
    if flow.use[node.outs[0]] != AS_SIGNAL or _rank(node) == 0:
        return False
    both = all(flow.dotted[i] for i in node.ins[:2])
    return not both and not flow.entries[node.ins[0]] & flow.entries[node.ins[1]]


def weight_position(node: Node, flow: Flow) -> int:
    """Which operand of a layer is the weight: 0 or 1."""
    if not contracts(node):
        return 0
    a, b = node.ins[:2]
    if flow.status[a] != flow.status[b]:
        return 0 if flow.status[a] == PARAMS else 1
    return 0 if flow.dotted[b] and not flow.dotted[a] else 1


def _rank(node: Node) -> int:
    return len(node.eqn.outvars[0].aval.shape)
