"""Where the weights of a program meet its signals."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections import Counter
from typing import Any

import jax.numpy as jnp

from jinit._compat import source_of
from jinit.jaxprs.dataflow import (
    CONST,
    PARAMS,
    SIGNAL,
    Flow,
    analyse,
    contracts,
    is_layer,
    until_stable,
    weight_position,
)
from jinit.jaxprs.graph import COPIES, Address, Graph, Node, flatten
from jinit.jaxprs.missing import not_followed
from jinit.jaxprs.tracing import Program


@dataclasses.dataclass(frozen=True)
class Site:
    """A contraction or a lookup, one operand of which is a weight.

    Attributes:
      names: one for each parameter in the weight operand: its path, `#k` added if it is used again elsewhere.
      leaves: indices of those parameters.
      eqn: the contraction or lookup.
      address: where it stands.
      result: `(address, index)` of the value that is its output: after the bias, where there is one.
      output: shape and dtype of that value.
      weight: position of the weight operand.
      signal: position of the other operand; None in a lookup.
      lengths: lengths of the scans around it, outermost first.
      replicated: mesh axes along which `shard_map` copies the weight: its gradient is the sum over them.
      regions: kinds of all enclosures around it, such as `scan`, `while`, `custom`.
      after_site: whether the signal comes out of another site, rather than straight from the inputs.
      before_site: whether another site comes after it.
      upstream: the sites that its operands depend on, bit `i` for site `i`; in a loop that may be itself.
      meets_own: whether its weight, or one of them, made something before that its operands depend on.
    """

    names: tuple[str, ...]
    leaves: tuple[int, ...]
    eqn: Any
    address: Address
    result: tuple[Address, int]
    output: Any
    weight: int
    signal: int | None
    lengths: tuple[int, ...]
    replicated: tuple[str, ...]
    regions: frozenset[str]
    after_site: bool
    before_site: bool
    upstream: int
    meets_own: bool

    @property
    def source(self) -> str:
        """The user's line, as `file.py:12 (function)`."""
        return source_of(self.eqn)

    @property
    def operands(self) -> list[Any]:
        """Shapes and dtypes of the operands."""
        return [v.aval for v in self.eqn.invars]


@dataclasses.dataclass(frozen=True)
class Sites:
    """All sites of a program, and what became of the other parameters.

    Attributes:
      sites: in program order.
      unused: paths of the parameters that no output depends on.
      not_followed: path of a parameter -> why it has no site although its shape says that it is a weight.
    """

    sites: tuple[Site, ...]
    unused: tuple[str, ...]
    not_followed: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What is known of a program by tracing: its graph, its dataflow, its sites.

    Attributes:
      graph: from `flatten`.
      flow: from `analyse`.
      layers: the node of every site.
      sites: the sites.
    """

    graph: Graph
    flow: Flow
    layers: list[Node]
    sites: Sites


def find_sites(program: Program) -> Sites:
    """The sites of a traced program."""
    return analyse_sites(program).sites


def analyse_sites(program: Program) -> Analysis:
    """The sites of a traced program, and what they were found from."""
    graph = flatten(program.jaxpr, program.consts)
    flow = analyse(graph, _statuses(program))
    layers = [n for n in graph.nodes if is_layer(n, flow) and flow.live[n.outs[0]]]
    order = _Order(graph, layers)
    leaves = [_leaves_of(n, flow) for n in layers]
    names = _names(program, leaves)
    same = _with_a_weight_of(program, layers, leaves)
    facts = zip(layers, leaves, names, same, strict=True)
    sites = tuple(_site(graph, flow, order, *of_site) for of_site in facts)
    unused = tuple(p for p, v in zip(program.paths, graph.inputs, strict=False) if not flow.live[v])
    return Analysis(graph, flow, layers, Sites(sites, unused, not_followed(program, graph, flow, layers)))


def _statuses(program: Program) -> list[int]:
    avals = [v.aval for v in program.jaxpr.invars]
    of_params = [
        PARAMS if jnp.issubdtype(aval.dtype, jnp.inexact) else CONST for aval in avals[: len(program.paths)]
    ]
    return of_params + [SIGNAL] * (len(avals) - len(of_params))


def _leaves_of(node: Node, flow: Flow) -> tuple[int, ...]:
    operand = node.ins[weight_position(node, flow)]
    return tuple(sorted(flow.entries[operand] or flow.leaves[operand]))


def _names(program: Program, leaves: list[tuple[int, ...]]) -> list[tuple[str, ...]]:
    uses = Counter(i for of_site in leaves for i in of_site)
    seen: Counter[int] = Counter()
    names = []
    for of_site in leaves:
        numbered = [f"{program.paths[i]}#{seen[i]}" if uses[i] > 1 else program.paths[i] for i in of_site]
        seen.update(of_site)
        names.append(tuple(numbered))
    return names


def _with_a_weight_of(program: Program, layers: list[Node], leaves: list[tuple[int, ...]]) -> list[int]:
    """The sites that have a weight of each, bit `i` for site `i`; not those that take slices of one."""
    sizes = [v.aval.size for v in program.jaxpr.invars[: len(program.paths)]]
    whole = [
        {i for i in of_site if sizes[i] <= max(v.aval.size for v in node.eqn.invars)}
        for node, of_site in zip(layers, leaves, strict=True)
    ]
    return [sum(1 << k for k, other in enumerate(whole) if other & mine) for mine in whole]


def _site(
    graph: Graph,
    flow: Flow,
    order: _Order,
    node: Node,
    leaves: tuple[int, ...],
    names: tuple[str, ...],
    same: int,
) -> Site:
    weight = weight_position(node, flow)
    signal = 1 - weight if contracts(node) else None
    enclosures = [node.address[:k] for k in range(1, len(node.address))]
    other = node.ins[1] if signal is None else node.ins[signal]
    last, upstream = (
        _last(node, flow, order),
        functools.reduce(operator.or_, (order.upstream[i] for i in node.ins)),
    )
    return Site(
        names, leaves, node.eqn, node.address, (last.address, 0), last.eqn.outvars[0].aval, weight, signal,
        lengths=node.lengths,
        replicated=order.replicated(node.ins[weight]),
        regions=frozenset(graph.regions[a] for a in enclosures if a in graph.regions),
        after_site=bool(order.upstream[other]),
        before_site=order.before[node.outs[0]],
        upstream=upstream,
        meets_own=bool(upstream & same),
    )  # fmt: skip


class _Order:
    """Which sites a value comes after, whether it comes before one, and who reads it."""

    def __init__(self, graph: Graph, layers: list[Node]):
        self.upstream = [0] * graph.num_values
        self.before = [False] * graph.num_values
        self.readers: dict[int, list[Node]] = {}
        self.outputs = set(graph.outputs)
        entered = {i for n in layers for i in n.ins}
        self.makers = {o: n for n in graph.nodes for o in n.outs}
        for node in graph.nodes:
            for i in node.ins:
                self.readers.setdefault(i, []).append(node)
        for i, node in enumerate(layers):
            self.upstream[node.outs[0]] |= 1 << i
        for value in entered:
            self.before[value] = True
        until_stable(lambda: self._spread(graph))

    def replicated(self, value: int) -> tuple[str, ...]:
        """Mesh axes along which a value was copied just before."""
        maker = self.makers.get(value)
        while maker is not None and maker.kind in _LAYOUT:
            value = maker.ins[0]
            maker = self.makers.get(value)
        return tuple(maker.eqn.params["axes"]) if maker is not None and maker.kind == "pvary" else ()

    def _spread(self, graph: Graph) -> bool:
        changed = False
        for node in graph.nodes:
            above = functools.reduce(operator.or_, (self.upstream[i] for i in node.ins), 0)
            for o in node.outs:
                changed |= bool(above & ~self.upstream[o])
                self.upstream[o] |= above
        for node in reversed(graph.nodes):
            if any(self.before[o] for o in node.outs):
                changed |= not all(self.before[i] for i in node.ins)
                for i in node.ins:
                    self.before[i] = True
        return changed


# Between a contraction and its bias the entries may only move or change dtype.
_LAYOUT = (
    *(kind for kind in COPIES if kind not in ("pvary", "pcast", "stop_gradient")),  # those change gradients
    "reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "rev", "optimization_barrier",
)  # fmt: skip
# The rest of a contraction that is spread over devices.
_COMPLETIONS = ("psum", "psum2", "psum_invariant")


def _last(node: Node, flow: Flow, order: _Order) -> Node:
    """What makes the site's output: the first addition of parameters, if that is all that reads it."""
    value, at = node.outs[0], node
    complete = node
    while value not in order.outputs:
        readers = [r for r in order.readers.get(value, []) if any(flow.live[o] for o in r.outs)]
        if len(readers) != 1 or readers[0].region != node.region or readers[0].eqn is None:
            break
        at = readers[0]
        if at.kind in ("add", "add_any", "sub") and at.ins[0] != at.ins[1]:
            other = at.ins[1] if at.ins[0] == value else at.ins[0]
            bias = flow.status[other] == PARAMS and not flow.dotted[other]
            same_size = at.eqn.outvars[0].aval.size == node.eqn.outvars[0].aval.size
            if bias and same_size and not (at.kind == "sub" and other == at.ins[0]):
                return at
            break
        if (
            at.kind not in (*_LAYOUT, *_COMPLETIONS)
            or at.eqn.outvars[0].aval.size != node.eqn.outvars[0].aval.size
        ):
            break
        value = at.outs[0]
        complete = at if at.kind in _COMPLETIONS else complete
    return complete
