"""What the parameters that have no site are for: added to a signal, multiplied with it, or neither."""

from __future__ import annotations

import math

from jinit.jaxprs.dataflow import AS_SIGNAL, AS_WEIGHT, PARAMS, SIGNAL, Flow
from jinit.jaxprs.graph import Address, Node
from jinit.jaxprs.sites import Analysis
from jinit.plans.uses import Role

_ADDITIONS = ("add", "add_any", "sub")
_PRODUCTS = ("mul", "div", "dot_general")


def first_uses(analysis: Analysis, sizes: list[int]) -> tuple[dict[int, Role], dict[int, Address]]:
    """Role, and place of first use, of every parameter that meets a signal outside of a site.

    Args:
      analysis: from `analyse_sites`.
      sizes: number of entries of every parameter, one step of the loops that scan it.
    """
    roles: dict[int, Role] = {}
    places: dict[int, Address] = {}
    layers = {id(node) for node in analysis.layers}
    contractions = [site for site in analysis.sites.sites if site.signal is not None]
    biases = {site.result[0] for site in contractions if site.result[0] != site.address}
    for node in analysis.graph.nodes:
        if id(node) in layers or node.eqn is None or not _meets(node, analysis):
            continue
        for value in node.ins:
            for leaf in _taking_part(node, value, analysis.flow):
                role = _role(node, value, analysis, biases, sizes[leaf])
                places.setdefault(leaf, node.address)
                # Multiplying decides: a bias may be scaled with what it was added to.
                roles[leaf] = _stronger(roles.get(leaf), role)
    return roles, places


def weight_makers(analysis: Analysis, indices: list[int]) -> set[int]:
    """Those of some parameters that go into making a weight, without being its entries."""
    used: set[int] = set()
    for value, use in enumerate(analysis.flow.use):
        if use & AS_WEIGHT:
            used |= analysis.flow.leaves[value]
    return used & set(indices)


def _meets(node: Node, analysis: Analysis) -> bool:
    """Whether signals are made here, be they signals made of parameters alone, such as learned tokens."""
    flow = analysis.flow
    made = any(flow.status[o] == SIGNAL or flow.use[o] == AS_SIGNAL for o in node.outs)
    return made and any(flow.live[o] for o in node.outs)


def _taking_part(node: Node, value: int, flow: Flow) -> frozenset[int]:
    """The parameters that an operand brings to a signal."""
    if flow.status[value] != PARAMS:
        return frozenset()
    if flow.status[node.outs[0]] == SIGNAL:
        return flow.entries[value] or flow.leaves[value]
    # Among parameters alone that which has fewer axes is the bias or the scale, the other one the signal.
    return flow.entries[value] if flow.axes[value] < flow.axes[node.outs[0]] else frozenset()


def _role(node: Node, value: int, analysis: Analysis, biases: set[Address], size: int) -> Role:
    flow = analysis.flow
    if node.kind in _ADDITIONS:
        one_axis = flow.axes[value] <= 1 and not flow.dotted[value]
        return "bias" if node.address in biases or one_axis else "other"
    if node.kind in _PRODUCTS:
        atom = node.eqn.invars[list(node.ins).index(value)]
        # A part of a parameter that multiplies is a tap of a convolution done by shifts, no scale.
        whole = math.prod(atom.aval.shape) >= size
        return "scale" if whole and not flow.dotted[value] else "other"
    return "other"


_STRENGTH: tuple[Role | None, ...] = (None, "other", "bias", "scale")


def _stronger(a: Role | None, b: Role) -> Role:
    return b if a is None or _STRENGTH.index(b) > _STRENGTH.index(a) else a
