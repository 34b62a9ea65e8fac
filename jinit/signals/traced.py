"""A model traced, forward and backward, to the signals at its sites: what laws are run on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jinit._compat import opened
from jinit._typing import Array, PyTree
from jinit.jaxprs.sites import Site, Sites, find_sites
from jinit.jaxprs.tracing import Program, trace
from jinit.jaxprs.walk import Extras, Parts, walk
from jinit.signals.given import Call
from jinit.signals.laws.wholes import with_wholes
from jinit.signals.observe import inexact
from jinit.signals.tap import tap


class _Keep:
    """The visitor that returns what it sees; gradients with respect to its probes are cotangents."""

    rewrites = False

    def __init__(self, sites: Sequence[Site]):
        self.sites = sites

    def enter(self, index: int, operands: list[Array], extra: PyTree) -> tuple[list[Array], PyTree]:
        site = self.sites[index]
        found = {"weight": operands[site.weight]}
        if site.signal is not None:
            found["input"] = operands[site.signal]
        if extra is not None and extra["weight"] is not None:
            operands = list(operands)
            operands[site.weight] = tap(lambda ct: ct, operands[site.weight], extra["weight"])
        return operands, jax.tree.map(jax.lax.stop_gradient, found)

    def leave(self, index: int, output: Array, extra: PyTree) -> tuple[Array, PyTree]:
        found = {"output": jax.lax.stop_gradient(output)}
        return (output if extra is None else tap(lambda ct: ct, output, extra["output"])), found

    def in_branch(self, taken: Array) -> _Keep:
        return self  # both branches are followed

    def probes(self) -> Extras:
        extras: Extras = {}
        for index, site in enumerate(self.sites):
            weight = site.operands[site.weight]
            if site.regions & {"while", "custom"} or not inexact(site.output):
                continue
            extras[index] = {
                "output": jnp.zeros((*site.lengths, *site.output.shape), site.output.dtype),
                "weight": jnp.zeros((*site.lengths, *weight.shape), weight.dtype)
                if inexact(weight)
                else None,
            }
        return extras


def _signals(
    program: Program, sites: Sites, arrays: list[Any], cotangents: list[Any], backward: bool
) -> list[dict[str, Any]]:
    """The arrays themselves that `measure` takes moments of, site by site."""
    keep = _Keep(sites.sites)
    program = dataclasses.replace(program, jaxpr=with_wholes(program.jaxpr))

    def run(probes: Extras) -> tuple[list[Array], Parts]:
        return walk(program, sites.sites, arrays, keep, probes)

    back: Extras = {}
    if backward:
        outs, pull, parts = jax.vjp(run, keep.probes(), has_aux=True)
        rest = iter(cotangents)
        (back,) = pull([next(rest) if inexact(o) else np.zeros(o.shape, jax.dtypes.float0) for o in outs])
    else:
        _, parts = run({})
    found = []
    for i in range(len(sites.sites)):
        here = {**parts[i, "enter"], **parts[i, "leave"]}
        if i in back:
            here["cotangent"] = back[i]["output"]
            if back[i]["weight"] is not None:
                here["weight_gradient"] = back[i]["weight"]
        found.append(here)
    return found


@dataclasses.dataclass(frozen=True)
class Traced:
    """What a call traces to, forward and backward.

    Attributes:
      program: the model.
      sites: its sites.
      cotangents: shapes and dtypes of what enters at its outputs.
      closed: from its arrays and cotangents to the signals of every site.
      structure: of those signals.
    """

    program: Program
    sites: Sites
    cotangents: list[Any]
    closed: Any
    structure: Any

    @property
    def holds_tracers(self) -> bool:
        """Whether the model is made of values that are being traced outside."""
        consts = (*self.program.consts, *opened(self.closed)[1])
        return any(isinstance(c, Tracer) for c in consts)


def traced(apply: Any, call: Call, *, backward: bool, caller: str) -> Traced:
    """Trace a call of `apply`, forward and backward, from its shapes."""
    avals = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in call.shapes]
    program = trace(apply, call.signature, avals, caller=caller)  # type: ignore[arg-type]
    sites = find_sites(program)
    outs = [v.aval for v in program.jaxpr.outvars if inexact(v.aval)]
    cotangents = [jax.ShapeDtypeStruct(o.shape, o.dtype) for o in outs] if backward else []

    def signals(arrays: list[Any], cotangents: list[Any]) -> list[dict[str, Any]]:
        return _signals(program, sites, arrays, cotangents, backward)

    closed, shapes = jax.make_jaxpr(signals, return_shape=True)(avals, cotangents)
    return Traced(program, sites, cotangents, closed, jax.tree.structure(shapes))
