"""A jaxpr with all its inner jaxprs laid out flat, so that dataflow questions are loops over a list.

Every occurrence of an equation is one `Node`, known by its address: the indices of the equations
and inner jaxprs that lead to it. Two calls of one jitted function share a jaxpr but not an address.
Where control flow joins values (a loop's carry, the branches of a `cond`) stands a node of its own.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jinit._compat import Literal, inner_jaxprs, opened, primitives, scan_arity

Address = tuple[int, ...]

# What gives its one operand again: in another place, dtype or layout, or under a name.
COPIES = (
    "convert_element_type", "reduce_precision", "copy", "copy_p", "stop_gradient", "name", "device_put",
    "sharding_constraint", "layout_constraint", "mesh_cast", "reshard", "relayout", "pvary", "pcast",
)  # fmt: skip


@dataclasses.dataclass
class Node:
    """One occurrence of an equation, or a join of control flow.

    Attributes:
      kind: name of the primitive, or `join`, or `steps of` and `all steps` where a `scan` takes arrays apart
        and puts them together.
      ins: ids of the values it reads.
      outs: ids of the values it makes.
      address: where it stands.
      region: address of the innermost loop, branch or other enclosure that its values cannot leave.
      lengths: lengths of the scans around it, outermost first.
      eqn: the equation; None for a join.
      control: ids that decide which values come out, without entering them.
      opaque: whether it holds a jaxpr, or calls a function, that the walk cannot enter.
    """

    kind: str
    ins: list[int]
    outs: list[int]
    address: Address
    region: Address
    lengths: tuple[int, ...]
    eqn: Any = None
    control: Sequence[int] = ()
    opaque: bool = False


@dataclasses.dataclass
class Graph:
    """All nodes in program order.

    Attributes:
      nodes: the nodes.
      inputs: value ids of the jaxpr's inputs.
      outputs: value ids of its outputs.
      num_values: value ids are `0 … num_values - 1`.
      regions: what kind of enclosure each region is (`scan`, `while`, `cond`, `shard_map`,
        `unchecked_shard_map`, `custom`).
      constants: id -> value, of the values that stand in the program.
    """

    nodes: list[Node] = dataclasses.field(default_factory=list)
    inputs: list[int] = dataclasses.field(default_factory=list)
    outputs: list[int] = dataclasses.field(default_factory=list)
    num_values: int = 0
    regions: dict[Address, str] = dataclasses.field(default_factory=dict)
    constants: dict[int, Any] = dataclasses.field(default_factory=dict)

    def value(self) -> int:
        """A new value id."""
        self.num_values += 1
        return self.num_values - 1

    @property
    def numbers(self) -> dict[int, np.ndarray]:
        """The constants that are single numbers, known while tracing."""
        held = {i: c for i, c in self.constants.items() if not isinstance(c, Tracer)}
        # By NumPy: under an outer jit a comparison with a JAX array would be traced.
        return {i: np.asarray(c) for i, c in held.items() if _is_number(c)}

    def constant(self, constant: Any) -> int:
        """The id of a value that stands in the program."""
        value = self.value()
        self.constants[value] = constant
        return value


def _is_number(constant: Any) -> bool:
    dtype = getattr(constant, "dtype", np.result_type(type(constant)) if np.isscalar(constant) else None)
    number = dtype is not None and (jnp.issubdtype(dtype, jnp.number) or jnp.issubdtype(dtype, jnp.bool_))
    return number and np.ndim(constant) == 0


def flatten(jaxpr: Any, consts: Sequence[Any] = ()) -> Graph:
    """The graph of a jaxpr.

    Args:
      jaxpr: closed or open.
      consts: values of its `constvars`, if it does not hold them itself.
    """
    graph = Graph()
    graph.inputs = [graph.value() for _ in jaxpr.invars]
    graph.outputs = _Builder(graph).body(jaxpr, graph.inputs, (), (), (), consts)
    return graph


@dataclasses.dataclass
class _Builder:
    graph: Graph

    def body(
        self,
        jaxpr: Any,
        ins: Sequence[int],
        address: Address,
        region: Address,
        lengths: tuple[int, ...],
        consts: Sequence[Any] = (),
    ) -> list[int]:
        """Lay out a jaxpr whose inputs are `ins`; returns its outputs."""
        jaxpr, held = opened(jaxpr)
        env: dict[Any, int] = dict(zip(jaxpr.invars, ins, strict=True))
        env.update((v, self.graph.value()) for v in jaxpr.constvars)
        self.graph.constants.update(zip([env[v] for v in jaxpr.constvars], held or consts, strict=False))

        def read(atom: Any) -> int:
            return self.graph.constant(atom.val) if isinstance(atom, Literal) else env[atom]

        for i, eqn in enumerate(jaxpr.eqns):
            outs = self.equation(eqn, [read(v) for v in eqn.invars], (*address, i), region, lengths)
            env.update(zip(eqn.outvars, outs, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def equation(self, eqn: Any, ins: list[int], at: Address, region: Address, lengths: Any) -> list[int]:
        if rule := RULES.get(eqn.primitive.name):
            return rule(self, eqn, ins, at, region, lengths)
        outs = [self.graph.value() for _ in eqn.outvars]
        opaque = is_opaque(eqn)
        self.graph.nodes.append(Node(eqn.primitive.name, ins, outs, at, region, lengths, eqn, opaque=opaque))
        return outs

    def join(self, kind: str, ins: list[int], at: Address, region: Address, lengths: Any) -> Node:
        node = Node(kind, ins, [self.graph.value()], at, region, lengths)
        self.graph.nodes.append(node)
        return node

    def call(self, eqn: Any, ins: list[int], at: Address, region: Address, lengths: Any) -> list[int]:
        return self.body(called(eqn), ins, (*at, 0), region, lengths)

    def enclosure(self, eqn: Any, ins: list[int], at: Address, region: Address, lengths: Any) -> list[int]:
        """A call whose values cannot be handed out by the side: `shard_map`, custom derivatives."""
        shared = "shard_map" if eqn.params.get("check_vma", True) else "unchecked_shard_map"
        self.graph.regions[at] = shared if eqn.primitive.name == "shard_map" else "custom"
        inner = self.body(called(eqn), ins, (*at, 0), at, lengths)
        return [self.join("join", [i], at, region, lengths).outs[0] for i in inner]

    def scan(self, eqn: Any, ins: list[int], at: Address, region: Address, lengths: Any) -> list[int]:
        self.graph.regions[at] = "scan"
        num_consts, num_carries = scan_arity(eqn)
        inside = (*lengths, eqn.params["length"])
        start = ins[num_consts : num_consts + num_carries]
        carries = [self.join("join", [i], at, at, inside) for i in start]
        scanned = [self.join("steps of", [i], at, at, inside) for i in ins[num_consts + num_carries :]]
        outs = self.body(
            eqn.params["jaxpr"],
            ins[:num_consts] + [n.outs[0] for n in carries + scanned],
            (*at, 0), at, inside,
        )  # fmt: skip
        for node, out in zip(carries, outs, strict=False):
            node.ins.append(out)
        kinds = ["join"] * num_carries + ["all steps"] * (len(outs) - num_carries)
        return [self.join(k, [o], at, region, lengths).outs[0] for k, o in zip(kinds, outs, strict=True)]

    def loop(self, eqn: Any, ins: list[int], at: Address, region: Address, lengths: Any) -> list[int]:
        self.graph.regions[at] = "while"
        a, b = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        carries = [self.join("join", [i], at, at, lengths) for i in ins[a + b :]]
        state = [n.outs[0] for n in carries]
        (go_on,) = self.body(eqn.params["cond_jaxpr"], ins[:a] + state, (*at, 0), at, lengths)
        outs = self.body(eqn.params["body_jaxpr"], ins[a : a + b] + state, (*at, 1), at, lengths)
        for node, out in zip(carries, outs, strict=True):
            node.ins.append(out)
            node.control = (go_on,)
        return [self.join("join", [s], at, region, lengths).outs[0] for s in state]

    def cond(self, eqn: Any, ins: list[int], at: Address, region: Address, lengths: Any) -> list[int]:
        branches = []
        for k, branch in enumerate(eqn.params["branches"]):
            self.graph.regions[(*at, k)] = "cond"
            branches.append(self.body(branch, ins[1:], (*at, k), (*at, k), lengths))
        nodes = [self.join("join", list(outs), at, region, lengths) for outs in zip(*branches, strict=True)]
        for node in nodes:
            node.control = (ins[0],)
        return [n.outs[0] for n in nodes]


_CALLS = ("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint")
_CUSTOM = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
RULES = {
    **dict.fromkeys(_CALLS, _Builder.call),
    **dict.fromkeys(("stack", "unstack", "call_hi_primitive"), _Builder.call),
    **dict.fromkeys((*_CUSTOM, "shard_map"), _Builder.enclosure),
    primitives.scan_p.name: _Builder.scan,
    primitives.while_p.name: _Builder.loop,
    primitives.cond_p.name: _Builder.cond,
}

# Their jaxpr combines two elements: an update rule, not a function of the network's values.
_UPDATE_RULES = ("scatter", "reduce", "select_and", "cum", "arg")


def called(eqn: Any) -> Any:
    """The one jaxpr that a call-like equation runs; of a `stack` and the like, the one that it stands for."""
    if eqn.primitive.name == "call_hi_primitive":  # such as `searchsorted` of newer JAX
        return jax.make_jaxpr(eqn.params["_prim"].expand)(*(v.aval for v in eqn.invars))
    if eqn.primitive.name in _STANDS_FOR:
        operands = tuple((v.aval.shape, v.aval.dtype) for v in eqn.invars)
        return _written_out(eqn.primitive.name, eqn.params["axis"], operands)
    return next(eqn.params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in eqn.params)


@functools.lru_cache(maxsize=256)
def _written_out(kind: str, axis: int, operands: tuple[tuple[tuple[int, ...], Any], ...]) -> Any:
    arrays = [jax.ShapeDtypeStruct(*operand) for operand in operands]
    return jax.make_jaxpr(functools.partial(_STANDS_FOR[kind], axis))(*arrays)


def _stack(axis: int, *arrays: jax.Array) -> jax.Array:
    return jax.lax.concatenate([jax.lax.expand_dims(x, [axis]) for x in arrays], axis)


def _unstack(axis: int, x: jax.Array) -> list[jax.Array]:
    parts = [jax.lax.slice_in_dim(x, i, i + 1, axis=axis) for i in range(x.shape[axis])]
    return [jax.lax.squeeze(part, [axis]) for part in parts]


_STANDS_FOR = {"stack": _stack, "unstack": _unstack}


def is_opaque(eqn: Any) -> bool:
    """Whether a first-order equation hides a function of its operands."""
    name = eqn.primitive.name
    if name.startswith(_UPDATE_RULES):
        return False
    if "callback" in name or name.startswith("ffi") or name == "pallas_call":
        return True
    return bool(inner_jaxprs(eqn))
