"""How each parameter is used at each site: its axes, its fans."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from jinit.jaxprs.dataflow import contracts, weight_position
from jinit.jaxprs.graph import Address, Node
from jinit.jaxprs.pieces import Axis, stored_axes
from jinit.jaxprs.sites import Analysis, Site
from jinit.jaxprs.views import Scanned, View, Views
from jinit.plans.contraction import Contraction, contraction_of


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


def site_uses(analysis: Analysis, views: list[Views], shapes: list[tuple[int, ...]]) -> Iterator[SiteUse]:
    """Every parameter at every site, in program order."""
    makers = {o: n for n in analysis.graph.nodes for o in n.outs}
    for node, site in zip(analysis.layers, analysis.sites.sites, strict=True):
        lookup = not contracts(node) or _one_hot(node, site, makers)
        seen = views[node.ins[weight_position(node, analysis.flow)]]
        for leaf, name in zip(site.leaves, site.names, strict=True):
            yield _site_use(site, leaf, name, lookup, seen.get(leaf), shapes[leaf])


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
    site: Site, leaf: int, name: str, lookup: bool, view: View | None, shape: tuple[int, ...]
) -> SiteUse:
    sizes = _sizes(site, view)
    found = contraction_of(site, sizes, lookup=lookup)
    base = SiteUse(leaf, name, site.address, lookup, None, None)
    if found is None:
        kind = site.eqn.primitive.name
        return dataclasses.replace(
            base, note=f"a weight that `{kind}` takes as its other operand has no fans"
        )
    square = view.square if view is not None and view.linear else 1.0
    fan_out = None if found.fan_out is None else found.fan_out * square
    with_fans = dataclasses.replace(
        base, fan_in=found.fan_in * square, fan_out=fan_out, note=_note(site, view)
    )
    return with_fans if view is None else _with_axes(with_fans, found, view, shape)


def _sizes(site: Site, view: View | None) -> list[int]:
    """Lengths of the weight operand's axes: inside `shard_map` those of the whole array."""
    local = site.operands[site.weight].shape
    if view is None or not site.regions & {"shard_map", "unchecked_shard_map"}:
        return list(local)
    whole = (math.prod(piece.size for piece in axis) for axis in view.axes)
    return [max(pair) for pair in zip(local, whole, strict=True)]


def _note(site: Site, view: View | None) -> str:
    if view is None and len(site.leaves) > 1:
        return "multiplied with other parameters into one weight; the fans are those of the product"
    if view is None:
        return "mixed or repeated on its way; the fans are those of the operand"
    if view.normalised:
        return "behind a normaliser: its own scale does not reach the output"
    return "" if view.linear else "used through a nonlinear function of its entries"


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
    scanned = {axis for axis, _ in view.scanned}
    used = set().union(*roles.values(), scanned)
    picked = {axis for axis, size in enumerate(shape) if size > 1 and axis not in used}
    return dataclasses.replace(
        use,
        in_axes=tuple(sorted(roles["in"])),
        out_axes=tuple(sorted(roles["out"])),
        batch_axes=tuple(sorted(roles["batch"] | scanned | picked)),
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
