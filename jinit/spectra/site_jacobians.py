"""The Jacobians inside a network: a zero probe at a site's output is the variable to differentiate by."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jinit._errors import message
from jinit._typing import Array, PyTree
from jinit.jaxprs.sites import Analysis, Site, analyse_sites
from jinit.jaxprs.tracing import Program, Signature, trace
from jinit.jaxprs.walk import walk
from jinit.spectra.calls import Call, Output, is_floating
from jinit.spectra.jacobian import MOST_ENTRIES
from jinit.spectra.linear_maps import (
    RealFunction,
    first_that_works,
    from_real,
    jacobian_matrix,
    on_basis,
    pull_of,
    push_of,
    real_dtype,
    real_size,
    to_real,
)
from jinit.spectra.spectrum import Spectrum, exact_spectrum

Between = Literal["site_to_output", "input_to_site", "site_to_site"]

_UNSEEN = {
    "while": "inside a while_loop",
    "cond": "inside a cond",
    "custom": "inside a function with its own derivative rule",
    "shard_map": "inside shard_map",
    "unchecked_shard_map": "inside shard_map",
}


@dataclasses.dataclass(frozen=True)
class _Probes:
    """The visitor: adds a probe to a site's output where there is one, and hands out what leaves it."""

    watched: frozenset[int]
    rewrites = False

    def in_branch(self, taken: Array) -> _Probes:
        """Looks at every branch alike."""
        del taken
        return self

    def enter(self, index: int, operands: list[Array], extra: PyTree) -> tuple[list[Array], PyTree]:
        return operands, {}

    def leave(self, index: int, output: Array, extra: PyTree) -> tuple[Array, PyTree]:
        output = output if extra is None else output + extra
        return output, {"output": output} if index in self.watched else {}


class SiteJacobians:
    """One example, or the whole batch, and the Jacobians inside it."""

    def __init__(
        self, call: Call, apply: Any, signature: Signature, output: Output, arrays: Any, caller: str
    ):
        def selected(*args: Any, **kwargs: Any) -> list[Array]:
            outs = apply(*args, **kwargs)
            leaves = [jnp.asarray(x) for x in jax.tree.leaves(outs if output is None else output(outs))]
            return [x for x in leaves if is_floating(x)]

        self.call, self.arrays, self.caller = call, arrays, caller
        self.program: Program = trace(selected, signature, arrays, caller=caller)
        self.analysis: Analysis = analyse_sites(self.program)
        self.sites: tuple[Site, ...] = self.analysis.sites.sites
        self.skipped = {i: why for i, s in enumerate(self.sites) if (why := _unseen(s))}
        self.seen = [i for i in range(len(self.sites)) if i not in self.skipped]

    def spectra(self, between: Between) -> tuple[dict[str, Spectrum], dict[str, str]]:
        """By name of the site: spectra, and reasons why there is none."""
        ways = {
            "site_to_output": self.site_to_output,
            "input_to_site": self.input_to_site,
            "site_to_site": self.site_to_site,
        }
        found = ways[between]()
        spectra = {name: found[i] for i in sorted(found) for name in self.sites[i].names}
        skipped = {name: why for i, why in self.skipped.items() for name in self.sites[i].names}
        return spectra, skipped

    def run(
        self, probes: dict[int, Array], arrays: Sequence[Array], watched: Sequence[int] = ()
    ) -> tuple[list[Array], dict[int, Array]]:
        """Outputs, and those of the watched sites."""
        visitor = _Probes(frozenset(watched))
        outs, parts = walk(self.program, self.sites, arrays, visitor, probes)
        return outs, {i: parts[i, "leave"]["output"] for i in watched}

    def probe(self, index: int) -> Array:
        """Zeros to add to a site's output."""
        site = self.sites[index]
        return jnp.zeros((*site.lengths, *site.output.shape), site.output.dtype)

    def site_to_output(self) -> dict[int, Spectrum]:
        """Columns of all Jacobians at once, from the rows of the outputs."""
        probes = {i: self.probe(i) for i in self.seen}
        outputs = self.call.flat(list(self.arrays))
        rows = sum(map(real_size, outputs))
        self._check_sizes(rows)
        dtype = real_dtype([*outputs, *probes.values()])

        def pulled(cotangent: Array) -> dict[int, Array]:
            return {i: to_real(x, dtype, len(self.sites[i].lengths)) for i, x in pull(cotangent).items()}

        def flat(probes: dict[int, Array]) -> Array:
            return jnp.concatenate([to_real(y, dtype) for y in self.run(probes, self.arrays)[0]])

        pull = pull_of(flat, probes)
        columns = on_basis(pulled, rows, dtype)
        return {i: exact_spectrum(jnp.moveaxis(x, 0, -2)) for i, x in columns.items()}

    def input_to_site(self) -> dict[int, Spectrum]:
        """Columns of all Jacobians at once, from the entries of the input."""
        point = self.call.at(self.arrays)
        vector = RealFunction(lambda xs: xs, point)
        columns = vector.shape[1]
        if not columns:
            raise ValueError(message(self.caller, "the input must have entries", "none"))
        self._check_sizes(columns)

        def forward(flat: Array) -> dict[int, Array]:
            sizes = [real_size(x) for x in point]
            parts = jnp.split(flat, [sum(sizes[:k]) for k in range(1, len(sizes))])
            arrays = list(self.arrays)
            for i, part, x in zip(self.call.wanted, parts, point, strict=True):
                arrays[i] = from_real(part, x)
            outs = self.run({}, arrays, self.seen)[1]
            return {i: to_real(x, vector.dtype, len(self.sites[i].lengths)) for i, x in outs.items()}

        push = first_that_works(self.caller, lambda: push_of(forward, vector.vector))
        rows = on_basis(push, columns, vector.dtype)
        return {i: exact_spectrum(jnp.moveaxis(x, 0, -1)) for i, x in rows.items()}

    def site_to_site(self) -> dict[int, Spectrum]:
        """Each from the last site before it, on its own."""
        looped = [i for i in self.seen if self.sites[i].lengths]
        self.skipped.update(dict.fromkeys(looped, "inside a scan, where sites follow on themselves"))
        found, unseen = {}, set(self.skipped)
        for i in self.seen:
            before = _last_before(self.analysis, i)
            if i in looped:
                continue
            if before is not None and before in unseen:
                self.skipped[i] = f"after {self.sites[before].names[0]}, which is {self.skipped[before]}"
            elif before is None and not self.call.wanted:
                self.skipped[i] = "after an input that has no derivative"
            elif before is None and not any(self.arrays[k].size for k in self.call.wanted):
                self.skipped[i] = "after an input without entries"
            else:
                found[i] = exact_spectrum(jacobian_matrix(self._between(before, i), self.caller))
        return found

    def _between(self, before: int | None, index: int) -> RealFunction:
        if before is not None:
            self._check_sizes(real_size(self.sites[before].output), [index])
            return RealFunction(
                lambda xs: [self.run({before: xs[0]}, self.arrays, [index])[1][index]], [self.probe(before)]
            )

        def function(wanted: list[Array]) -> list[Array]:
            arrays = list(self.arrays)
            for i, x in zip(self.call.wanted, wanted, strict=True):
                arrays[i] = x
            return [self.run({}, arrays, [index])[1][index]]

        return RealFunction(function, self.call.at(self.arrays))

    def _check_sizes(self, other: int, indices: Sequence[int] | None = None) -> None:
        for i in self.seen if indices is None else indices:
            site = self.sites[i]
            size = other * real_size(site.output) * math.prod(site.lengths)
            if size > MOST_ENTRIES:
                must = f"the Jacobian at each site may have {MOST_ENTRIES} entries at most"
                advice = "Use `jinit.jacobian_spectrum` from end to end, smaller inputs, or fewer `output`s."
                raise ValueError(message(self.caller, must, f"{size} at {site.names[0]}", advice))


def _unseen(site: Site) -> str:
    for region, why in _UNSEEN.items():
        if region in site.regions:
            return why
    if not is_floating(site.output):
        return "no floating output"
    return "" if site.output.size else "without entries in its output"


def _last_before(analysis: Analysis, index: int) -> int | None:
    """The last site before this one, in program order, that its operands come from."""
    makers = {o: n for n in analysis.graph.nodes for o in n.outs}
    results = {s.result[0]: i for i, s in enumerate(analysis.sites.sites)}
    found, done, todo = set(), set(), list(analysis.layers[index].ins)
    while todo:
        value = todo.pop()
        if value in done or value not in makers:
            continue
        done.add(value)
        node = makers[value]
        if node.eqn is not None and node.address in results:
            found.add(results[node.address])
        else:
            todo.extend([*node.ins, *node.control])
    return max((i for i in found if i < index), default=None)
