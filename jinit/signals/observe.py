"""One pass over a network with a gauge at every site, forward and backward."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jinit._compat import vary, varying_axes
from jinit._errors import message
from jinit._sharding import sharded_like
from jinit._typing import Array, Key, PyTree, at_least_float32
from jinit.jaxprs.sites import Analysis, Site, Sites, analyse_sites
from jinit.jaxprs.tracing import Program, Signature, trace
from jinit.jaxprs.walk import Extras, Parts, walk
from jinit.signals.moments import Moments
from jinit.signals.tap import probe_of, probe_shape, tap


class Gauge:
    """What to compute at a site, forward and backward; moments alone, in `measure`.

    Each method returns a pytree of arrays. They are traced once a site, inside one program.
    """

    def enter(self, site: Site, operands: list[Array]) -> dict[str, Any]:
        """Statistics of the operands of the contraction."""
        found: dict[str, Any] = {"weight": _moments(site, operands[site.weight], stored=True)}
        if site.signal is not None:
            found["input"] = _moments(site, operands[site.signal])
        return found

    def leave(self, site: Site, output: Array) -> dict[str, Any]:
        """Statistics of the output."""
        return {"output": _moments(site, output)}

    def back_to_output(self, site: Site, cotangent: Array) -> dict[str, Any]:
        """Statistics of the gradient with respect to the output."""
        return {"cotangent": _moments(site, cotangent)}

    def back_to_weight(self, site: Site, cotangent: Array) -> dict[str, Any]:
        """Statistics of the gradient with respect to the weight operand."""
        return {"weight_gradient": _moments(site, cotangent, stored=True)}


# Enclosures that decide at run time how often a site is reached, or on how many devices.
_COUNTED = frozenset({"while", "cond", "shard_map", "unchecked_shard_map"})


def _moments(site: Site, x: Array, stored: bool = False) -> Moments:
    return Moments.of(x, counted=bool(site.regions & _COUNTED), stored=stored)


@dataclasses.dataclass(frozen=True)
class _Taps:
    """The visitor that measures: parts going forward, probes for what comes back."""

    gauge: Gauge
    sites: tuple[Site, ...]
    rewrites = False

    def in_branch(self, taken: Array) -> _Taps:
        """Looks at every branch alike."""
        del taken
        return self

    def enter(self, index: int, operands: list[Array], extra: PyTree) -> tuple[list[Array], PyTree]:
        site = self.sites[index]
        found = self.gauge.enter(site, operands)
        if extra is not None and extra["weight"] is not None:
            operands = list(operands)
            operands[site.weight] = tap(self._back_to_weight(site), operands[site.weight], extra["weight"])
        return operands, found

    def leave(self, index: int, output: Array, extra: PyTree) -> tuple[Array, PyTree]:
        site = self.sites[index]
        found = self.gauge.leave(site, output)
        if extra is not None:
            output = tap(functools.partial(self.gauge.back_to_output, site), output, extra["output"])
        return output, found

    def _back_to_weight(self, site: Site) -> Callable[[Array], PyTree]:
        # Each device holds its part of the gradient of a weight that is copied to all of them.
        total = functools.partial(lax.psum, axis_name=site.replicated) if site.replicated else lambda x: x
        return lambda cotangent: self.gauge.back_to_weight(site, total(cotangent))

    def probes(self) -> Extras:
        """Zero probes for every site that a gradient can be measured at."""
        extras: Extras = {}
        alike: dict[Any, PyTree] = {}
        for index, site in enumerate(self.sites):
            weight = site.operands[site.weight]
            if site.regions & {"while", "custom"} or not inexact(site.output):
                continue
            extras[index] = {
                "output": self._probe(alike, self.gauge.back_to_output, site, site.output),
                "weight": self._probe(alike, self.gauge.back_to_weight, site, weight)
                if inexact(weight)
                else None,
            }
        return extras

    def _probe(
        self, alike: dict[Any, PyTree], statistic: Callable[..., PyTree], site: Site, aval: Any
    ) -> PyTree:
        # Layers alike share the zeros of their statistics, which are traced once.
        params = tuple((k, str(v)) for k, v in site.eqn.params.items())
        operands = tuple(a.shape for a in site.operands)
        like = (statistic.__name__, aval.shape, aval.dtype, operands, params, site.lengths)
        if like not in alike:
            alike[like] = probe_of(probe_shape(functools.partial(statistic, site), aval), site.lengths)
        return alike[like]


def inexact(x: Any) -> bool:
    """Whether an array, or its shape and dtype, is floating or complex."""
    return jnp.issubdtype(x.dtype, jnp.inexact)


@dataclasses.dataclass(frozen=True)
class Pass:
    """One pass over a network: its program, its sites, and what the gauge found.

    Attributes:
      analysis: the graph of the program, and its sites.
      found: for every site, what the gauge's methods returned, in one dict.
    """

    program: Program
    analysis: Analysis
    found: list[dict[str, Any]]

    @property
    def sites(self) -> Sites:
        """All sites."""
        return self.analysis.sites


def observe(
    apply: Callable[..., PyTree],
    signature: Signature,
    arrays: list[Array],
    gauge: Gauge,
    *,
    backward: bool,
    loss: Callable[[PyTree], Array] | None,
    key: Key,
    caller: str,
) -> tuple[PyTree, Pass]:
    """Trace `apply`, run it with a gauge at every site, and pull a cotangent back through it."""
    program = trace(apply, signature, arrays, caller=caller)
    analysis = analyse_sites(program)
    sites = analysis.sites
    _check_params(program, sites, caller)
    taps = _Taps(gauge, sites.sites)

    def run(probes: Extras) -> tuple[list[Array], Parts]:
        return walk(program, sites.sites, arrays, taps, probes, frugal=backward)

    if not backward:
        outs, parts = run({})
        back: Extras = {}
    else:
        # Inside of the caller's `shard_map` every device has statistics of its own, as forward.
        here = frozenset[str]().union(*map(varying_axes, arrays))
        probes = jax.tree.map(lambda probe: vary(probe, here), taps.probes())
        outs, back, parts = pull_back(run, probes, program.out_tree, loss, key, caller)
    found = [_merge(parts, back, index) for index in range(len(sites.sites))]
    return jax.tree.unflatten(program.out_tree, outs), Pass(program, analysis, found)


def pull_back(
    run: Callable[[Extras], tuple[list[Array], Parts]],
    probes: Extras,
    out_tree: Any,
    loss: Callable[[PyTree], Array] | None,
    key: Key,
    caller: str,
) -> tuple[list[Array], Extras, Parts]:
    """Outputs, gradients with respect to the probes, and parts of a run forward and back."""
    try:
        outs, pull, parts = jax.vjp(run, probes, has_aux=True)
        cotangents = (
            _random_cotangents(outs, key) if loss is None else _loss_cotangents(outs, out_tree, loss, caller)
        )
        (back,) = pull(cotangents)  # only here does JAX notice a loop that it cannot run backward
    except ValueError as error:
        if "while_loop" in str(error):
            error.add_note(
                f"`{caller}`: `apply` holds a `while_loop`, which has no reverse-mode derivative. "
                "Measure forward alone with `backward=False`."
            )
        raise
    return outs, back, parts


def _random_cotangents(outs: list[Array], key: Key) -> list[Array]:
    cotangents = []
    for out, subkey in zip(outs, jax.random.split(key, max(len(outs), 1)), strict=False):
        if not inexact(out):
            cotangents.append(np.zeros(out.shape, jax.dtypes.float0))
            continue
        # Sampled wide and rounded once: narrow samplers are biased.
        wide = jax.random.normal(subkey, out.shape, at_least_float32(out.dtype))
        narrow = vary(lax.convert_element_type(wide, out.dtype), varying_axes(out))
        cotangents.append(sharded_like(narrow, out))
    return cotangents


def _loss_cotangents(
    outs: list[Array], out_tree: Any, loss: Callable[[PyTree], Array], caller: str
) -> list[Array]:
    value, pull = jax.vjp(lambda outs: loss(jax.tree.unflatten(out_tree, outs)), outs)
    if jnp.shape(value) != () or not inexact(value):
        must = "`loss` must map the outputs to one floating number"
        raise ValueError(
            message(caller, must, jax.typeof(value).str_short(), "Take the mean over the batch.")
        )
    (cotangents,) = pull(jnp.ones_like(value))
    return cotangents


def _merge(parts: Parts, back: Extras, index: int) -> dict[str, Any]:
    probes = back.get(index, {})
    forward = {**parts[index, "enter"], **parts[index, "leave"]}
    return {**forward, **probes.get("output", {}), **(probes.get("weight") or {})}


def _check_params(program: Program, sites: Sites, caller: str) -> None:
    if len(sites.unused) == len(program.paths):
        shown = ", ".join(sites.unused[:3])
        must = "the outputs of `apply` must depend on `params`"
        advice = "Was a model closed over? For nnx use `apply, params = jinit.functional(model)`."
        raise ValueError(
            message(
                caller, must, f"{len(sites.unused)} leaves that no output depends on ({shown}, …)", advice
            )
        )
