"""Passes over a network that rescale it, and what they leave behind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jinit._sharding import whole
from jinit._typing import Array, at_least_float32
from jinit.calibrate.biases import Bias, find_bias
from jinit.calibrate.calibration import Calibration
from jinit.calibrate.knobs import Knobs, Slots, find_knobs
from jinit.calibrate.rescaler import BATCHES, Found, Rescaler, find_stations
from jinit.calibrate.search import common_factors
from jinit.jaxprs.entries import Entries
from jinit.jaxprs.sites import Analysis
from jinit.jaxprs.tracing import Program
from jinit.jaxprs.walk import walk
from jinit.signals.moments import Moments
from jinit.signals.records import Records


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that tracing tells about how a network is to be calibrated."""

    program: Program
    analysis: Analysis
    targets: list[float | None]
    knobs: Knobs
    biases: list[Bias | None]
    iterate: bool
    max_passes: int
    batched: bool
    center: bool
    unset: frozenset[str]  # paths of the parameters chosen that could not be followed, and that nothing sets

    def is_exact(self, index: int) -> bool:
        """Whether a site is rescaled in flight."""
        knob = self.knobs.knobs[index]
        return bool(knob.exponents) and not knob.reason


def make_plan(
    program: Program,
    analysis: Analysis,
    targets: list[float | None],
    *,
    chosen: Callable[[str], bool],
    per_unit: bool,
    center: bool,
    iterate: bool,
    max_passes: int,
    batched: bool,
) -> Plan:
    """Decide what is rescaled by what; `chosen` tells it for parameters that have no site."""
    knobs = find_knobs(program, analysis, [t is not None for t in targets], per_unit)
    biases: list[Bias | None] = [None] * len(targets)
    iterate = iterate and knobs.num_groups > 0
    scaled = {program.paths[leaf] for knob in knobs.knobs if not knob.reason for leaf in knob.exponents}
    unset = frozenset(path for path in analysis.sites.not_followed if chosen(path) and path not in scaled)
    plan = Plan(program, analysis, targets, knobs, biases, iterate, max_passes, batched, center, unset)
    if center:
        shapes = [tuple(v.aval.shape) for v in program.jaxpr.invars[: len(program.paths)]]
        entries = Entries(analysis.graph, analysis.flow, shapes, scaled=False)
        for index, station in enumerate(find_stations(program, analysis, knobs.knobs)):
            if plan.is_exact(index):
                bias = find_bias(analysis, entries, station, knobs.uses)
                # What several units have in common can't take away the mean of each.
                units = {i for i in station.unit_axes or () if station.site.output.shape[i] > 1}
                biases[index] = None if bias is not None and units & set(bias.over) else bias
    return plan


def calibrate(plan: Plan, arrays: list[Array], *, verify: bool) -> tuple[dict[int, Array], Records]:
    """The leaves that changed, by index, and the records."""
    if plan.iterate:
        log_scales, found, passes = _iterate(plan, arrays)
    else:
        log_scales, found, passes = None, run_pass(plan, arrays, exact=True), None
    changed = changed_leaves(plan, arrays, log_scales, found)
    checked = None
    if verify:
        # Behind a barrier: XLA for GPU leaves out a rounding to few bits and back.
        after = [lax.optimization_barrier(changed[i]) if i in changed else x for i, x in enumerate(arrays)]
        checked = run_pass(plan, after, exact=False)
    return changed, records_of(plan, arrays, log_scales, found, checked, passes)


def run_pass(
    plan: Plan,
    arrays: list[Array],
    *,
    exact: bool,
    multiples: dict[int, Array] | None = None,
    visitor: type[Rescaler] = Rescaler,
) -> list[Found]:
    """One walk over the network; exact sites are rescaled in flight.

    Args:
      plan: what is rescaled by what.
      arrays: of the parameters, then of the inputs.
      exact: whether to rescale; else everything is measured.
      multiples: of the target, by site, with one entry for each step of the scans around it.
      visitor: how a site is rescaled and measured.
    """
    sites = plan.analysis.sites.sites
    stations = find_stations(plan.program, plan.analysis, plan.knobs.knobs)
    in_flight = [exact and plan.is_exact(i) for i in range(len(sites))]
    center = [None if b is None else b.over for b in plan.biases]
    rescaler = visitor(stations, plan.targets, in_flight, center, plan.batched)
    num_params = len(plan.program.paths)

    def run(*inputs: Array) -> list[Found]:
        stops = [s.site for s in stations]
        _, parts = walk(plan.program, stops, [*arrays[:num_params], *inputs], rescaler, multiples or {})
        either = [(parts[i, "enter"], parts[i, "leave"]) for i in range(len(sites))]
        return [entered if left is None else left for entered, left in either]

    inputs = arrays[num_params:]
    if not plan.batched:
        return run(*inputs)
    found = jax.vmap(run, axis_name=BATCHES)(*inputs)
    return [_over_batches(part) for part in found]


def _over_batches(part: Found) -> Found:
    """Sums over the batches, of the errors the largest."""
    sums = jax.tree.map(lambda x: jnp.sum(x, axis=0), part)
    if part.unit_error is None:
        return sums
    return dataclasses.replace(sums, unit_error=jnp.max(part.unit_error, axis=0))


def _iterate(plan: Plan, arrays: list[Array]) -> tuple[Array, list[Found], Array]:
    """Passes until the sites that share a factor have their target on average, and how many those were."""

    def evaluate(log_scales: Array) -> tuple[Array, list[Found]]:
        found = run_pass(plan, _scaled(plan, arrays, log_scales), exact=True)
        return jnp.log(_reached(plan, found)), found

    return common_factors(evaluate, plan.knobs.num_groups, plan.max_passes)


def _reached(plan: Plan, found: list[Found]) -> Array:
    """For each common factor variance over target, all steps and all its sites together."""
    sums = [[jnp.zeros((), jnp.float32)] * 2 for _ in range(plan.knobs.num_groups)]
    for knob, part, target in zip(plan.knobs.knobs, found, plan.targets, strict=True):
        if knob.group is not None and target is not None:
            count = jnp.sum(part.output.count)
            mean = jnp.abs(jnp.sum(part.output.total)) / count
            square = jnp.sum(part.output.total_square)
            variance = jnp.where(count > 0, square - count * jnp.square(mean), jnp.zeros_like(square))
            sums[knob.group][0] += variance.astype(jnp.float32)
            sums[knob.group][1] += count.astype(jnp.float32) * target
    return jnp.stack([variance / wanted for variance, wanted in sums])


def _group_exponents(plan: Plan) -> dict[int, tuple[int, float]]:
    """Leaf -> its common factor, and the exponent of it."""
    shared = [k for k in plan.knobs.knobs if k.group is not None]
    return {leaf: (k.group, a) for k in shared for leaf, a in k.exponents.items() if k.group is not None}


def _scaled(plan: Plan, arrays: list[Array], log_scales: Array | None) -> list[Array]:
    """The leaves with common factors applied."""
    scaled = list(arrays)
    if log_scales is not None:
        for leaf, (group, exponent) in _group_exponents(plan).items():
            scaled[leaf] = times(arrays[leaf], jnp.exp(exponent * log_scales[group]))
    return scaled


def changed_leaves(
    plan: Plan, arrays: list[Array], log_scales: Array | None, found: list[Found]
) -> dict[int, Array]:
    """The leaves that the factors found change, by index."""
    changed = {}
    if log_scales is not None:
        scaled = _scaled(plan, arrays, log_scales)
        changed = {leaf: scaled[leaf] for leaf in _group_exponents(plan)}
    for leaf, slots in plan.knobs.slots.items():
        changed[leaf] = times(arrays[leaf], _factors(slots, found))
    for bias, part in zip(plan.biases, found, strict=True):
        if bias is not None and part.shift is not None:
            changed[bias.leaf] = bias.shifted(changed.get(bias.leaf, arrays[bias.leaf]), part.shift)
    return changed


def _factors(slots: Slots, found: list[Found]) -> Array:
    """The factor of every entry of a leaf, broadcasting against it."""
    factors = [jnp.exp(a * _log_factor(found[i])) for i, a in slots.sites]
    if slots.labels.size == 1 and sum(f.size for f in factors) == 1:
        return factors[0].reshape(())
    numbered = jnp.concatenate([whole(f).reshape(-1) for f in factors] + [jnp.ones(1, factors[0].dtype)])
    return numbered[slots.labels]


def _log_factor(part: Found) -> Array:
    assert part.log_factor is not None
    return part.log_factor


def times(x: Array, factor: Array) -> Array:
    """A product in float32 or wider, rounded once to the dtype of `x`."""
    wide = at_least_float32(x.dtype)
    return (x.astype(wide) * factor.astype(wide)).astype(x.dtype)


def records_of(
    plan: Plan,
    arrays: list[Array],
    log_scales: Array | None,
    found: list[Found],
    checked: list[Found] | None,
    passes: Array | None = None,
) -> Records:
    """The records of a calibration."""
    records = Records()
    reached = None if log_scales is None else _reached(plan, found if checked is None else checked)
    for index, site in enumerate(plan.analysis.sites.sites):
        knob, bias, part = plan.knobs.knobs[index], plan.biases[index], found[index]
        last = part if checked is None else checked[index]
        factor = None
        if part.log_factor is not None:
            factor = jnp.exp(part.log_factor)
        elif knob.group is not None and log_scales is not None:
            factor = jnp.exp(log_scales[knob.group])
        record = Calibration(
            output=last.output,
            unit_error=last.unit_error,
            before=part.before,
            factor=factor,
            target=plan.targets[index],
            scales=tuple(plan.program.paths[i] for i in knob.exponents),
            shifts=() if bias is None else (plan.program.paths[bias.leaf],),
            shifted=None if part.shift is None else jnp.any(part.shift != 0),
            note=_note(plan, index),
            verified=checked is not None,
            together=None if reached is None or knob.group is None else reached[knob.group],
            passes=passes if knob.group is not None else None,
            obstacle=part.obstacle,
            asked=bool(knob.exponents or knob.reason),
        )
        records.update(dict.fromkeys(site.names, record))
    for path, reason in plan.analysis.sites.not_followed.items():
        weight = Moments.of(arrays[plan.program.paths.index(path)])
        records[path] = Calibration(weight=weight, note=f"not followed: {reason}", asked=path in plan.unset)
    return records


def _note(plan: Plan, index: int) -> str:
    knob = plan.knobs.knobs[index]
    uncentered = plan.center and plan.is_exact(index) and plan.biases[index] is None
    no_bias = "not centered: it has no bias that is a parameter of its own" if uncentered else ""
    if no_bias and knob.unit_axes:
        no_bias += ", one entry for each unit"
    notes = [f"not exact: {knob.reason}" if knob.reason else "", knob.note, no_bias]
    return "; ".join(n for n in notes if n)
