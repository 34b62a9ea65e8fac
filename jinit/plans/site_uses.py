"""How each parameter is used at each site: its axes, its fans."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from jinit.jaxprs.dataflow import contracts, weight_position
from jinit.jaxprs.graph import Address, Node
from jinit.jaxprs.pieces import Axis, stored_axes
from jinit.jaxprs.sites import Analysis, Site
from jinit.jaxprs.support import Support
from jinit.jaxprs.views import Factor, Scanned, View, Views
from jinit.plans.contraction import Contraction, contraction_of, without_zeros


@dataclasses.dataclass(frozen=True)
class SiteUse:
    """One parameter at one site.

    Attributes:
      leaf: index of the parameter.
      site: name of the site.
      address: where it stands.
      lookup: whether rows of it are picked.
      fan_in: as in `WeightUse`.
      fan_out: as in `WeightUse`.
      in_axes: stored axes that are summed over.
      out_axes: stored axes that make different outputs.
      batch_axes: stored axes of independent kernels.
      scanned: stored axes that loops step along, with the address of the loop, outermost first.
      note: what should be known.
    """

    leaf: int
    site: str
    address: Address
    lookup: bool
    fan_in: float | None
    fan_out: float | None
    in_axes: tuple[int, ...] = ()
    out_axes: tuple[int, ...] = ()
    batch_axes: tuple[int, ...] = ()
    scanned: Scanned = ()
    note: str = ""


@dataclasses.dataclass(frozen=True)
class _Among:
    """A parameter in a weight operand that holds zeros too.

    Attributes:
      present: where entries of parameters stand.
      own: where those of this one do.
      square: by what constants have multiplied their variance, on average.
    """

    present: np.ndarray
    own: np.ndarray
    square: float


def site_uses(analysis: Analysis, views: list[Views], shapes: list[tuple[int, ...]]) -> Iterator[SiteUse]:
    """Every parameter at every site, in program order."""
    makers = {o: n for n in analysis.graph.nodes for o in n.outs}
    support = Support(analysis.graph, analysis.flow)
    picked = _picked(analysis, views)
    for node, site in zip(analysis.layers, analysis.sites.sites, strict=True):
        lookup = not contracts(node) or _one_hot(node, site, makers)
        seen = views[node.ins[weight_position(node, analysis.flow)]]
        names = dict(zip(site.leaves, site.names, strict=True))
        factors = {leaf: site.names[0] for leaf, view in seen.items() if view.factor is not None}
        for leaf, name in {**factors, **names}.items():
            base = SiteUse(leaf, name, site.address, lookup, None, None)
            if (leaf, site.address) in picked:
                taker, operand, view = picked[leaf, site.address]
                base = dataclasses.replace(base, lookup=False)
                yield _site_use(base, taker, operand, view, _lengths(taker, operand), shapes[leaf])
            else:
                view = seen.get(leaf)
                sizes, among = _sizes(site, view), _among_zeros(support, node.ins[site.weight], leaf)
                found = _site_use(base, site.eqn, site.weight, view, sizes, shapes[leaf], among)
                several = view is None and len(site.leaves) > 1
                if several and len(shapes[leaf]) < 2:
                    continue  # a vector in between, such as singular values, is no kernel
                yield dataclasses.replace(found, note=_PRODUCT) if several else found


def _among_zeros(support: Support, value: int, leaf: int) -> _Among | None:
    """Where a weight operand holds entries of a parameter, if it holds zeros beside them."""
    squares = support.of(value)
    if squares is None or squares.all() or (own := support.of(value, leaf)) is None or not own.any():
        return None
    return _Among(squares != 0, np.broadcast_to(own != 0, squares.shape), float(own[own != 0].mean()))


_PRODUCT = "multiplied with other parameters into one weight; the fans are those of the product"


def _picked(analysis: Analysis, views: list[Views]) -> dict[tuple[int, Address], tuple[Any, int, View]]:
    """Whole kernels that the data pick from a stack: parameter and lookup -> the contraction that takes one.

    The rows of an embedding meet a signal in a contraction too, in attention or in a score. They have no
    axis of their own that makes different outputs.
    """
    found: dict[tuple[int, Address], tuple[Any, int, View]] = {}
    for node in analysis.graph.nodes:
        if not contracts(node) or not analysis.flow.live[node.outs[0]]:
            continue
        for operand, value in enumerate(node.ins[:2]):
            for leaf, view in views[value].items():
                if view.picked is None:
                    continue
                address, along = view.picked
                contraction = contraction_of(node.eqn, operand, _lengths(node.eqn, operand))
                pairs = zip(view.axes, contraction.roles if contraction else (), strict=False)
                own = {role for axis, role in pairs if stored_axes(axis) - along}
                if "in" in own and own & {"out", "grouped"}:
                    found.setdefault((leaf, address), (node.eqn, operand, view))
    return found


# What stands between the comparison that makes a one-hot vector and its use.
_PASSES = (
    "convert_element_type",
    "reshape",
    "broadcast_in_dim",
    "transpose",
    "squeeze",
    "copy",
    "stop_gradient",
)


def _one_hot(node: Node, site: Site, makers: dict[int, Node]) -> bool:
    """Whether the signal is 0 and 1 from a comparison: each row of it picks a row of the weight."""
    if site.signal is None:
        return True
    maker = makers.get(node.ins[site.signal])
    while maker is not None and maker.kind in _PASSES:
        maker = makers.get(maker.ins[0])
    return maker is not None and maker.kind == "eq"


def _site_use(
    base: SiteUse,
    eqn: Any,
    weight: int,
    view: View | None,
    sizes: list[int],
    shape: tuple[int, ...],
    among: _Among | None = None,
) -> SiteUse:
    found = contraction_of(eqn, weight, sizes)
    if found is None:
        kind = eqn.primitive.name
        return dataclasses.replace(
            base, note=f"a weight that `{kind}` takes as its other operand has no fans"
        )
    if base.lookup:
        found, among = dataclasses.replace(found, fan_in=1.0, fan_out=None), None
    elif among is not None:
        found = without_zeros(found, among.present, among.own)
    if view is None:
        note = "mixed or repeated on its way; the fans are those of the operand"
        return dataclasses.replace(base, fan_in=found.fan_in, fan_out=found.fan_out, note=note)
    if view.factor is not None and not base.lookup:
        found = _of_factor(found, view, view.factor)
    square = 1.0 if not view.linear else view.square if among is None else among.square
    fan_out = None if found.fan_out is None else found.fan_out * square
    use = dataclasses.replace(base, fan_in=found.fan_in * square, fan_out=fan_out, note=_note(view))
    return _with_axes(use, found, view, shape)


def _of_factor(found: Contraction, view: View, factor: Factor) -> Contraction:
    """The fans of one factor of a weight.

    They are those of the same network with the factors as layers, one after the other: of the factor next
    to the signal the inputs are the site's, of the other one the entries that were summed over.
    """
    own, whole = {}, {}
    for role in ("in", "field", "out"):
        axes = [axis for axis, of_axis in zip(view.axes, found.roles, strict=True) if of_axis == role]
        whole[role] = math.prod(piece.size for axis in axes for piece in axis)
        own[role] = math.prod(piece.size for axis in axes for piece in axis if piece.axes)
    sides = {role for axis, role in zip(view.axes, found.roles, strict=True) if stored_axes(axis)}
    fan_in = found.fan_in * own["in"] * own["field"] / (whole["in"] * whole["field"])
    rank = float(factor.rank)
    if not sides & {"in", "field"}:
        return dataclasses.replace(found, fan_in=rank, fan_out=float(own["out"]))
    fan_out = (found.fan_out or 0.0) * own["out"] / whole["out"]
    between = fan_in * rank if "out" in sides else fan_in  # with both, which comes first is not known
    return dataclasses.replace(found, fan_in=between, fan_out=fan_out * rank)


def _lengths(eqn: Any, operand: int) -> list[int]:
    """Lengths of the axes of an operand."""
    return list(eqn.invars[operand].aval.shape)


def _sizes(site: Site, view: View | None) -> list[int]:
    """Lengths of the weight operand's axes: inside `shard_map` those of the whole array."""
    local = _lengths(site.eqn, site.weight)
    if view is None or not site.regions & {"shard_map", "unchecked_shard_map"}:
        return local
    whole = (math.prod(piece.size for piece in axis) for axis in view.axes)
    return [max(pair) for pair in zip(local, whole, strict=True)]


def _note(view: View) -> str:
    if view.normalised:
        return "behind a normaliser: its own scale does not reach the output"
    if not view.linear:
        return "used through a nonlinear function of its entries"
    if view.masked:
        return "multiplied by a mask or by numbers that tracing does not know: the fans are those without it"
    if view.factor is not None:
        return "a factor of a weight: the fans are those of the factors as layers, one after the other"
    return ""


def _with_axes(use: SiteUse, found: Contraction, view: View, shape: tuple[int, ...]) -> SiteUse:
    """The roles of the stored axes, from those of the operand's axes."""
    roles: dict[str, set[int]] = {"in": set(), "out": set(), "batch": set(), "field": set()}
    for axis, role in zip(view.axes, found.roles, strict=True):
        if role != "grouped":
            roles[role] |= stored_axes(axis)
            continue
        groups, rest = _groups(axis, found.groups)
        roles["batch"] |= groups
        roles["out"] |= rest
    if view.factor is not None:
        roles["out" if roles["in"] else "in"] |= view.factor.summed
    scanned = {axis for axis, _ in view.scanned}
    picked = view.picked[1] if view.picked is not None else frozenset()
    for of_role in ("in", "out"):
        roles[of_role] -= picked
    roles["batch"] |= picked
    used = set().union(*roles.values(), scanned)
    left = {axis for axis, size in enumerate(shape) if size > 1 and axis not in used}
    return dataclasses.replace(
        use,
        in_axes=tuple(sorted(roles["in"])),
        out_axes=tuple(sorted(roles["out"])),
        batch_axes=tuple(sorted(roles["batch"] | scanned | left)),
        scanned=view.scanned,
    )


def _groups(axis: Axis, groups: int) -> tuple[frozenset[int], frozenset[int]]:
    """Stored axes of the groups and of the outputs in a group, along an axis that holds both."""
    slow: frozenset[int] = frozenset()
    fast: frozenset[int] = frozenset()
    left = groups
    for piece in axis:
        if left > 1:
            slow |= piece.axes
            if piece.size > left:
                fast |= piece.axes
            left = max(left // piece.size, 1)
        else:
            fast |= piece.axes
    return slow, fast
