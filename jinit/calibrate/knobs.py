"""Which parameters a site's output can be rescaled by, decided by tracing alone.

A site is *exact* if its weight operand is a homogeneous function of parameters, or of parts of them, that
nothing else uses: then scaling them scales the operand, and nothing but the operand.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from jinit._compat import source_of
from jinit.calibrate.labels import compressed, unit_numbers
from jinit.calibrate.uses import Use, find_uses
from jinit.jaxprs.axes import axes_of
from jinit.jaxprs.degrees import Form, exponents, find_degrees
from jinit.jaxprs.entries import Entries
from jinit.jaxprs.graph import Node
from jinit.jaxprs.sites import Analysis, Site
from jinit.jaxprs.tracing import Program
from jinit.signals.observe import inexact


@dataclasses.dataclass(frozen=True)
class Knob:
    """How the output of one site can be rescaled.

    Attributes:
      exponents: leaf -> `a`: scaling the leaf by `s^a` scales the operand by `s`. Empty if nothing does.
      reason: why it is not exact; empty if it is.
      group: which common factor it shares where it is not exact; None if exact, or if nothing rescales it.
      unit_axes: axes of the operand, one index of which has its own factor; empty for one factor.
      note: what else there is to say.
    """

    exponents: dict[int, float]
    reason: str = ""
    group: int | None = None
    unit_axes: tuple[int, ...] = ()
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Slots:
    """Which factor every entry of a leaf gets.

    Attributes:
      sites: `(site, exponent)`; their factors, raveled and one after another, and a final one, are numbered.
      labels: number of the factor for each entry, broadcasting against the leaf.
    """

    sites: tuple[tuple[int, float], ...]
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Knobs:
    """How all sites of a program can be rescaled.

    Attributes:
      knobs: one for each site.
      slots: for every leaf that exact sites rescale.
      num_groups: how many common factors there are.
      uses: of each leaf, those that its scale makes a difference to.
    """

    knobs: list[Knob]
    slots: dict[int, Slots]
    num_groups: int
    uses: dict[int, list[Use]]


def find_knobs(program: Program, analysis: Analysis, chosen: Sequence[bool], per_unit: bool) -> Knobs:
    """How the chosen sites of a program can be rescaled."""
    return _Finder(program, analysis, chosen, per_unit).run()


class _Finder:
    def __init__(self, program: Program, analysis: Analysis, chosen: Sequence[bool], per_unit: bool):
        self.paths = program.paths
        self.analysis = analysis
        self.chosen = chosen
        self.forms = find_degrees(analysis)
        self.shapes = [tuple(v.aval.shape) for v in program.jaxpr.invars[: len(program.paths)]]
        self.entries = Entries(analysis.graph, analysis.flow, self.shapes)
        self.uses = find_uses(analysis, self.forms)
        self.by_node = {id(n): i for i, n in enumerate(analysis.layers)}
        self.knobs = [self._alone(i, per_unit) for i in range(len(analysis.layers))]

    def run(self) -> Knobs:
        slots = self._all_slots()
        num_groups = self._group()
        exact = {i for i, knob in enumerate(self.knobs) if knob.exponents and not knob.reason}
        kept = {k: s for k, s in slots.items() if {i for i, _ in s.sites} <= exact and s.sites}
        return Knobs(self.knobs, kept, num_groups, self.uses)

    def _all_slots(self) -> dict[int, Slots]:
        slots: dict[int, Slots] = {}
        for leaf in sorted({k for knob in self.knobs for k in knob.exponents}):
            if (found := self._slots(leaf)) is not None:
                slots[leaf] = found
                continue
            by_unit = [i for i in self._sites_of(leaf) if self.knobs[i].unit_axes]
            for i in by_unit:
                self.knobs[i] = dataclasses.replace(self.knobs[i], unit_axes=(), note=_NOT_BY_UNIT)
            if by_unit:
                return self._all_slots()
            self._share(leaf)
        return slots

    def _sites_of(self, leaf: int) -> list[int]:
        """The chosen sites that can be rescaled by a leaf."""
        found = {self._site_of(n, p) for n, p, _ in self.uses[leaf]}
        return sorted(i for i in found if i is not None and leaf in self.knobs[i].exponents)

    def _alone(self, index: int, per_unit: bool) -> Knob:
        """The knob of a site, as if nothing else used its parameters."""
        site, node = self.analysis.sites.sites[index], self.analysis.layers[index]
        form = self.forms[node.ins[site.weight]]
        scales = exponents(form, site.leaves) or exponents(form, form.leaves)
        if not self.chosen[index]:
            return Knob({})
        if not inexact(site.output):
            return Knob({}, "its output holds no floating numbers")
        if not math.prod(site.operands[site.weight].shape):
            return Knob({}, "its weight has no entries")
        if not scales:
            return self._rough(site, form)
        if "while" in site.regions:
            return Knob(scales, "it runs in a while_loop, with the same weight at every step")
        return self._by_unit(index, scales) if per_unit else Knob(scales)

    def _by_unit(self, index: int, scales: dict[int, float]) -> Knob:
        site, node = self.analysis.sites.sites[index], self.analysis.layers[index]
        axes = axes_of(site)
        if axes is None or not axes.units or site.regions & {"shard_map", "unchecked_shard_map"}:
            return Knob(
                scales, note="one factor for all units: they are not defined here, or spread over devices"
            )
        for leaf, exponent in scales.items():
            _, placed = self.entries.of(node.ins[site.weight], leaf, site.lengths)
            if not placed or exponent != 1:
                return Knob(scales, note=_NOT_BY_UNIT)
        return Knob(scales, unit_axes=axes.units)

    def _rough(self, site: Site, form: Form) -> Knob:
        own = {k: why for k, why in form.rough if k in site.leaves}
        if own:
            path = ", ".join(self.paths[k] for k in own)
            reason = (
                f"the weight is not proportional to {path}, which goes through {next(iter(own.values()))}"
            )
            return Knob(dict.fromkeys(own, 1.0), reason)
        if not any(k in form.leaves for k in site.leaves):
            return Knob({}, "the weight is normalised: the scale of its parameters is divided out")
        return Knob({}, "the weight is a sum of terms that no scaling of its parameters scales alike")

    def _slots(self, leaf: int) -> Slots | None:
        """Which entries belong to which site; None if some belong to several."""
        uses = self.uses[leaf]
        sites = self._sites_of(leaf)
        offset, offsets = 0, {}
        for i in sites:
            offsets[i] = offset
            offset += self._num_factors(i)
        pairs = tuple((i, self.knobs[i].exponents[leaf]) for i in sites)
        if any(self.knobs[i].reason for i in sites):
            return None
        if len(uses) == 1 and (simple := self._simple(leaf, sites[0], uses[0])) is not None:
            return Slots(pairs, simple)
        labels = np.full(math.prod(self.shapes[leaf]), -1, np.int64)
        for use in uses:
            if not self._label(labels, leaf, use, offsets):
                return None
        labels[(labels < 0) | (labels > offset)] = offset
        shaped = labels.reshape(self.shapes[leaf])
        return Slots(pairs, compressed(shaped, range(shaped.ndim)))

    def _simple(self, leaf: int, index: int, use: Use) -> np.ndarray | None:
        """One factor for all of it, or one for each step of the scans it is stacked for."""
        site, rank = self.analysis.sites.sites[index], len(self.shapes[leaf])
        if self.knobs[index].unit_axes:
            return None
        if self.entries.stack_depth(use[2], leaf) != len(site.lengths):
            return None
        steps = np.arange(math.prod(site.lengths))
        return steps.reshape(*site.lengths, *[1] * (rank - len(site.lengths)))

    def _label(self, labels: np.ndarray, leaf: int, use: Use, offsets: dict[int, int]) -> bool:
        """Mark the entries that a use holds; false if some are taken."""
        node, position, value = use
        index = self._site_of(node, position)
        indices, _ = self.entries.of(value, leaf, node.lengths)
        numbers = np.asarray(2 * len(labels) + 1)  # whoever else uses them
        if index is not None and index in offsets:
            shape = indices.shape[len(node.lengths) :]
            numbers = np.arange(math.prod(node.lengths)).reshape(*node.lengths, *[1] * len(shape))
            if axes := self.knobs[index].unit_axes:
                numbers = numbers * math.prod(shape[i] for i in axes) + unit_numbers(shape, axes)
            numbers = numbers + offsets[index]
        held = indices >= 0
        flat, wanted = indices[held], np.broadcast_to(numbers, indices.shape)[held]
        if np.any((labels[flat] >= 0) & (labels[flat] != wanted)):
            return False
        labels[flat] = wanted
        return bool(np.all(labels[flat] == wanted))

    def _num_factors(self, index: int) -> int:
        site, knob = self.analysis.sites.sites[index], self.knobs[index]
        weight = site.operands[site.weight].shape
        return math.prod(site.lengths) * math.prod(weight[i] for i in knob.unit_axes)

    def _site_of(self, node: Node, position: int) -> int | None:
        index = self.by_node.get(id(node))
        is_weight = index is not None and position == self.analysis.sites.sites[index].weight
        return index if index is not None and is_weight and self.chosen[index] else None

    def _share(self, leaf: int) -> None:
        """No site that uses the leaf is exact."""
        where = [self._place(n, p) for n, p, _ in self.uses[leaf]]
        for index in self._sites_of(leaf):
            knob = self.knobs[index]
            lengths = self.analysis.sites.sites[index].lengths
            used = (
                f"at {len(where)} places ({', '.join(where[:3])})"
                if len(where) > 1
                else f"at every step of a scan of length {' × '.join(map(str, lengths))}"
            )
            reason = knob.reason or f"{self.paths[leaf]} is used {used}"
            self.knobs[index] = dataclasses.replace(knob, reason=reason, unit_axes=())

    def _place(self, node: Node, position: int) -> str:
        index = self.by_node.get(id(node))
        if index is not None and position == self.analysis.sites.sites[index].weight:
            return self.analysis.sites.sites[index].names[0]
        return f"{node.kind} {source_of(node.eqn) if node.eqn is not None else ''}".strip()

    def _group(self) -> int:
        """Number the factors that sites have in common: sites that share a leaf share one."""
        members: list[set[int]] = []
        for index, knob in enumerate(self.knobs):
            if not (knob.reason and knob.exponents):
                continue
            if self._others_use(knob):
                self.knobs[index] = dataclasses.replace(knob, exponents={})
                continue
            group = {index}
            for other in [
                m for m in members if any(self.knobs[i].exponents.keys() & knob.exponents for i in m)
            ]:
                group |= other
                members.remove(other)
            members.append(group)
        for number, group in enumerate(members):
            for index in group:
                self.knobs[index] = dataclasses.replace(self.knobs[index], group=number)
        return len(members)

    def _others_use(self, knob: Knob) -> bool:
        """Whether a site that was not chosen would change too."""
        return any(
            id(n) in self.by_node and not self.chosen[self.by_node[id(n)]]
            for leaf in knob.exponents
            for n, _, _ in self.uses[leaf]
        )


_NOT_BY_UNIT = "one factor for all units: the weight is computed in a way that mixes them"
