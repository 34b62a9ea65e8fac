"""Where the output units of a weight go, and which entries of which parameters they meet there.

Every unit gets a tag, which stands on the entries of the weight that make it. The tags are carried
through the program: where a tagged weight meets a signal the tags pass to its output, and where a
tagged signal is summed over by another weight they arrive, on the rows of that weight.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from jinit._compat import source_of
from jinit.jaxprs.dataflow import AS_WEIGHT, PARAMS, SIGNAL, contracts, weight_position
from jinit.jaxprs.graph import COPIES, Node
from jinit.jaxprs.sites import Analysis
from jinit.jaxprs.tags import (
    MIXES,
    MOVES,
    NONE,
    NotFollowedError,
    Tags,
    compressed,
    concatenated,
    split,
    varies,
)
from jinit.jaxprs.ways import Ways

_ENTRYWISE = frozenset((
    *COPIES, "neg", "sign", "floor", "ceil", "round", "is_finite", "exp", "exp2", "log", "log1p", "expm1",
    "tanh", "sinh", "cosh", "asinh", "acosh", "atanh", "sin", "cos", "tan", "asin", "acos", "atan",
    "erf", "erfc", "erf_inv", "lgamma", "digamma", "logistic", "sqrt", "rsqrt", "cbrt", "square",
    "integer_pow", "abs", "not", "real", "imag", "conj", "add", "add_any",
    "sub", "mul", "div", "rem", "max", "min", "pow", "atan2", "and", "or", "xor",
    "nextafter", "complex", "eq", "ne", "lt", "le", "gt", "ge", "select_n", "clamp",
))  # fmt: skip
_CARRIED = "it is carried from step to step of a loop"
_ADDITIONS = ("add", "add_any", "sub")


@dataclasses.dataclass(frozen=True)
class Tagged:
    """Tags of a value, with how many loops it stands in."""

    tags: Tags
    loops: int

    def inside(self, loops: int) -> Tags:
        """The tags as seen from further loops inside, whose steps all see the same."""
        if loops < self.loops:
            raise NotFollowedError("it is carried out of a loop")
        shape = self.tags.shape
        return self.tags.reshape([*shape[: self.loops], *[1] * (loops - self.loops), *shape[self.loops :]])


@dataclasses.dataclass(frozen=True)
class Arrival:
    """Units summed over at a site.

    Attributes:
      site: index of the site.
      value: the weight operand.
      tags: of its entries, with the loops the site stands in.
    """

    site: int
    value: int
    tags: Tagged


@dataclasses.dataclass(frozen=True)
class Course:
    """Where units go.

    Attributes:
      arrivals: the sites that sum over them.
      additions: parameters added to them on their way: value id, and tags of its entries.
      lost: why they could not be followed everywhere; empty where they were.
    """

    arrivals: tuple[Arrival, ...]
    additions: tuple[tuple[int, Tagged], ...]
    lost: tuple[str, ...]


def follow(analysis: Analysis, leaf: int, tags: Tags) -> Course:
    """Follow the units of a parameter.

    Args:
      analysis: from `analyse_sites`.
      leaf: index of the parameter.
      tags: of its entries.
    """
    walk = Walk(analysis)
    walk.tagged[analysis.graph.inputs[leaf]] = Tagged(compressed(tags), 0)
    for node in analysis.graph.nodes:
        if any(analysis.flow.live[o] for o in node.outs):
            try:
                walk.visit(node)
            except NotFollowedError as reason:
                where = source_of(node.eqn) if node.eqn is not None else ""
                walk.lost.append(f"{reason} ({where})" if where else str(reason))
    if any(node.kind == "join" and walk.is_new(node) for node in analysis.graph.nodes):
        walk.lost.append(_CARRIED)
    if any(value in walk.tagged and walk.is_signal(value) for value in analysis.graph.outputs):
        walk.lost.append("it is an output of the network")
    return Course(tuple(walk.arrivals), tuple(walk.additions), tuple(dict.fromkeys(walk.lost)))


class Walk:
    """Tags of the values, found node by node."""

    def __init__(self, analysis: Analysis):
        self.flow = analysis.flow
        self.regions = analysis.graph.regions
        self.sites = {id(node): i for i, node in enumerate(analysis.layers)}
        self.tagged: dict[int, Tagged] = {}
        self.arrivals: list[Arrival] = []
        self.additions: list[tuple[int, Tagged]] = []
        self.lost: list[str] = []

    def is_signal(self, value: int) -> bool:
        """Whether a value depends on the inputs, or stands for one that does."""
        return self.flow.status[value] == SIGNAL or self.flow.dotted[value]

    def visit(self, node: Node) -> None:
        """The tags of a node's results."""
        if any(i in self.tagged for i in node.control):
            raise NotFollowedError("it decides a branch or the end of a loop")
        if not any(i in self.tagged for i in node.ins):
            return
        self.refuse(node)
        if node.kind in ("join", "steps of", "all steps"):
            return self.join(node)
        loops = len(node.lengths)
        operands = [self.tagged[i].inside(loops) if i in self.tagged else None for i in node.ins]
        for out, tags in zip(node.outs, self.through(node, operands, loops), strict=True):
            if tags is not None and (tags != NONE).any():
                self.tagged[out] = Tagged(tags, loops)
        return None

    def refuse(self, node: Node) -> None:
        """Raise for what hides its inside, or has other shapes on every device."""
        if node.opaque:
            raise NotFollowedError(f"it enters `{node.kind}`, whose inside was not seen")
        around = {self.regions.get(node.address[:k]) for k in range(1, len(node.address) + 1)}
        if around & {"shard_map", "unchecked_shard_map"}:
            raise NotFollowedError("it is inside a `shard_map`")

    def join(self, node: Node) -> None:
        """Values that enter or leave a loop, a branch or a call."""
        first = self.tagged.get(node.ins[0])
        if len(node.ins) > 1:
            others = [self.tagged.get(i) for i in node.ins[1:]]
            same = first is not None and all(o is not None and _same(first, o) for o in others)
            if not same or self.is_carry(node):
                raise NotFollowedError(_CARRIED if self.is_carry(node) else "it is made in one branch only")
        assert first is not None
        loops = len(node.lengths)
        if node.kind == "steps of":
            # The first axis of the stacked value is the innermost loop.
            self.tagged[node.outs[0]] = Tagged(first.inside(loops - 1), loops)
        elif node.kind == "all steps":
            self.tagged[node.outs[0]] = Tagged(first.inside(loops + 1), loops)
        else:
            self.tagged[node.outs[0]] = Tagged(first.inside(loops), loops)

    def is_new(self, node: Node) -> bool:
        """Whether tags reach a join that had been passed before they were there."""
        live = any(self.flow.live[o] for o in node.outs)
        return live and node.outs[0] not in self.tagged and any(i in self.tagged for i in node.ins)

    def is_carry(self, node: Node) -> bool:
        """Whether a node joins the steps of a loop."""
        return self.regions.get(node.address) in ("scan", "while")

    def through(self, node: Node, operands: list[Tags | None], loops: int) -> list[Tags | None]:
        """Tags of the results of an equation."""
        if node.kind == "dot_general" or contracts(node):
            return [self.contraction(node, operands, loops)]
        if node.kind in _ENTRYWISE:
            return [self.entrywise(node, operands, loops)]
        if node.kind == "optimization_barrier":
            return operands
        if node.kind == "concatenate":
            return [concatenated(node.eqn, operands, loops)]
        first, *rest = operands
        if first is None or any(tags is not None for tags in rest):
            raise NotFollowedError(f"it decides in `{node.kind}` what is picked or written")
        if node.kind == "split":
            return list(split(node.eqn, first, loops))
        move = MOVES.get(node.kind) or MIXES.get(node.kind)
        if move is None or len(node.outs) != 1:
            raise NotFollowedError(f"what `{node.kind}` does with it is not known")
        return [compressed(move(node.eqn, first, loops))]

    def entrywise(self, node: Node, operands: list[Tags | None], loops: int) -> Tags:
        """Tags of a result whose entries are made one by one."""
        rank = len(node.eqn.outvars[0].aval.shape)
        # A scalar operand (of `clamp`, `select_n`) goes with every entry.
        given = {i: t.reshape([*t.shape[:loops], *[1] * (rank + loops - t.ndim), *t.shape[loops:]])
                 for i, t in enumerate(operands) if t is not None}  # fmt: skip
        merged = np.full([1] * (rank + loops), NONE)
        for tags in given.values():
            clash = (merged != NONE) & (tags != NONE) & (merged != tags)
            if clash.any():
                raise NotFollowedError("it is combined with other units")
            merged = np.where(tags == NONE, merged, tags)
        out = node.outs[0]
        weight = self.flow.status[out] == PARAMS and bool(self.flow.use[out] & AS_WEIGHT)
        for position, value in enumerate(node.ins):
            alone = not weight and ((merged != NONE) & (given.get(position, np.array(NONE)) == NONE)).any()
            if alone and self.is_signal(value) and not _modulates(node.kind, position):
                what = "added to" if node.kind in _ADDITIONS else f"combined in `{node.kind}` with"
                raise NotFollowedError(f"it is {what} another signal")
            if alone and node.kind in _ADDITIONS and self.flow.status[value] == PARAMS:
                self.additions.append((value, Tagged(merged, loops)))
        return compressed(merged)

    def contraction(self, node: Node, operands: list[Tags | None], loops: int) -> Tags | None:
        """Tags of the result; none where a weight sums over the units, which is noted."""
        if operands[0] is not None and operands[1] is not None:
            raise NotFollowedError("it is multiplied with itself in a contraction")
        position = 0 if operands[0] is not None else 1
        tags = operands[position]
        assert tags is not None
        ways = Ways(node, position)
        site = self.sites.get(id(node))
        summed = any(varies(tags, loops + axis) for axis in ways.summed)
        if site is None or position == weight_position(node, self.flow):
            if summed:
                raise NotFollowedError(
                    "it is combined with another signal in a contraction, which has no weight"
                )
            return ways.onward(tags, loops)
        free = any(varies(tags, loops + axis) for axis in ways.free)
        if free and not summed:
            return ways.onward(tags, loops)  # summed over positions, unit by unit
        if free:
            raise NotFollowedError("only a part of what a weight sums over is made of it")
        rows = Tagged(ways.across(tags, loops), loops)
        self.arrivals.append(Arrival(site, node.ins[1 - position], rows))
        return None


def _same(a: Tagged, b: Tagged) -> bool:
    return a.loops == b.loops and a.tags.shape == b.tags.shape and bool((a.tags == b.tags).all())


def _modulates(kind: str, position: int) -> bool:
    """Whether another signal only scales what it meets, so that zero stays zero."""
    return kind == "mul" or (kind == "div" and position == 1) or (kind == "select_n" and position == 0)
