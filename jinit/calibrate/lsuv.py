"""Layer-sequential unit variance, in one pass."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jinit._errors import message
from jinit._typing import Array, PyTree
from jinit.calibrate.arguments import check_arrays, check_batches, check_flags
from jinit.calibrate.calibration import Calibration
from jinit.calibrate.passes import Plan, calibrate, make_plan
from jinit.calibrate.targets import Choice, Target, check_target, is_chosen, targets_of
from jinit.initializers._arguments import count
from jinit.jaxprs.sites import analyse_sites
from jinit.jaxprs.tracing import Signature, check_call, split, trace
from jinit.signals.records import Records


def lsuv(
    apply: Callable[..., PyTree],
    *,
    target: Target = 1.0,
    sites: Choice = "*",
    per_unit: bool = False,
    center: bool = False,
    inexact: Literal["error", "skip", "iterate"] = "iterate",
    batches: bool = False,
    verify: bool = False,
    max_passes: int = 30,
) -> Callable[..., tuple[PyTree, Records]]:
    """Rescale every weight so that the outputs of its site have unit variance on the given inputs.

    While the network runs once, the output `y = Wx + b` of each site is replaced by `sWx + b` with

        Var[s·Wx + b] = target,

    so the next site already sees the rescaled signal; `s` multiplies the parameters that `W` is made of. One
    forward pass is exact: for zero biases `s = √(target / Var[Wx])`, else `s` solves a quadratic equation.

    A site is exact if its weight is a homogeneous function of parameters, or of parts of them, that nothing
    else uses; this is proved by tracing. It covers stacks in a `scan` (one factor a layer), concatenated,
    sliced, packed, transposed, cast and masked kernels, weight-normalised ones (by their gain), products of
    factors, remat, convolutions, attention and embeddings. The others (a weight used at two sites or at
    every step of a recurrence, behind a normaliser, or not proportional to its parameters) are named, with
    the reason.

    Args:
      apply: any pure `(params, *inputs, **kwargs) -> outputs`, as for `jinit.measure`.
      target: the variance wanted: one number, pairs `(pattern, variance)` of which the first whose glob fits
        the site's name counts, or a function of the name (None: leave it alone).
      sites: which sites to rescale: a glob, several, or a predicate on the name. The others stay as they are.
      per_unit: whether every output unit (feature, channel) has a factor of its own and the target variance.
      center: whether to take the mean of the output away through the bias, for each entry of the bias.
      inexact: what to do about sites that one pass cannot set, and those whose output is constant, holds NaN
        or cannot reach the target. `"error"`: raise. `"skip"`: leave them. `"iterate"`: find the factor that
        weights in common need by repeated passes, so that the variance of their outputs, over all steps, is
        the target on average; leave those that no factor sets.
      batches: whether every input array has a leading axis of batches, whose statistics are taken together.
      verify: whether a second pass measures the outputs with the parameters that are returned; the records
        then hold what it saw, and say so (`verified`). It doubles the cost, one forward pass more. Without
        it they hold what the one pass arrived at, the same but for rounding.
      max_passes: how many passes `"iterate"` may take.

    Returns:
      A function `(params, *inputs, **kwargs) -> (params, records)`, to be called as `apply` is, under
      `jax.jit` or not. `params` has the same tree, dtypes, shardings and boxes, and leaves that no site
      scales are the same objects; `records` maps site names to a `jinit.Calibration` each: before, after,
      factor, and the `problem` if any. Under `jax.jit` a problem that only the values show is in the records,
      not an error.

    Raises:
      TypeError: `apply` is no function, `target` or `sites` are of the wrong kind, an option is no boolean.
      ValueError: a target is not positive, a pattern fits no site, `params` is empty or holds shapes,
        `max_passes` is less than one; with `inexact="error"` a site cannot be set.

    Example:
      >>> import flax.linen as nn, jax, jinit
      >>> model = nn.Sequential([nn.Dense(256), nn.relu, nn.Dense(256), nn.relu, nn.Dense(10)])
      >>> x = jax.random.normal(jax.random.key(0), (64, 128))
      >>> variables = model.init(jax.random.key(1), x)
      >>> variables, records = jinit.lsuv(model.apply)(variables, x)
      >>> _, measured = jinit.measure(model.apply, backward=False)(variables, x)
      >>> all(abs(r.output.variance - 1) < 1e-4 for r in measured.values())
      True

    References:
      Mishkin and Matas, *All you need is a good init*, 2016. There, after orthogonal initialization, every
      layer is divided by the standard deviation of its output until that is within a tolerance, with a
      forward pass for each trial. Here one pass serves all layers; draw orthogonal weights first, with
      `jinit.orthogonal`.
    """
    caller = "jinit.lsuv(...)"
    check_call(apply, caller=caller)
    check_target(target, sites, caller)
    check_flags(caller, per_unit=per_unit, center=center, batches=batches, verify=verify)
    count(caller, "max_passes", max_passes)
    if inexact not in ("error", "skip", "iterate"):
        must = '`inexact` must be "error", "skip" or "iterate"'
        raise ValueError(message(caller, must, f"inexact={inexact!r}"))

    @functools.partial(jax.jit, static_argnums=0)
    def run(signature: Signature, arrays: list[Array]) -> tuple[dict[int, Array], Records]:
        plan = _plan(signature, arrays)
        return calibrate(plan, arrays, verify=verify)

    def _plan(signature: Signature, arrays: list[Array]) -> Plan:
        one = [x if i < signature.num_params or not batches else x[0] for i, x in enumerate(arrays)]
        program = trace(apply, signature, one, caller=caller)
        analysis = analyse_sites(program)
        plan = make_plan(
            program, analysis, targets_of(target, sites, analysis.sites.sites, caller),
            chosen=functools.partial(is_chosen, target, sites), per_unit=per_unit, center=center,
            iterate=inexact == "iterate", max_passes=max_passes, batched=batches,
        )  # fmt: skip
        if inexact == "error":
            _raise_inexact(plan, caller)
        return plan

    def calibrated(params: PyTree, *inputs: Any, **kwargs: Any) -> tuple[PyTree, Records]:
        signature, arrays = split(params, inputs, kwargs)
        check_arrays(signature, arrays, caller)
        if batches:
            check_batches(arrays[signature.num_params :], caller)
        changed, records = run(signature, arrays)
        if inexact == "error":
            _raise_problems(records, caller)
        return replaced(signature, arrays, changed), records

    return calibrated


def replaced(signature: Signature, arrays: list[Array], changed: dict[int, Array]) -> PyTree:
    """`params` with some of its arrays changed, each where and what it was."""
    return signature.arguments([_like(changed[i], x) if i in changed else x for i, x in enumerate(arrays)])[0]


def _like(new: Array, old: Any) -> Any:
    """`new` on the devices of `old`, or in NumPy if `old` is."""
    if isinstance(new, Tracer):
        return new
    if isinstance(old, np.ndarray):
        return np.asarray(new).astype(old.dtype)
    if not isinstance(old, jax.Array) or new.sharding.is_equivalent_to(old.sharding, old.ndim):
        return new
    # What was bound to no device stays so, or a program for several devices would refuse it.
    return jax.device_put(new, old.sharding) if old.committed else jnp.asarray(np.asarray(new))


def _raise_inexact(plan: Plan, caller: str) -> None:
    sites = zip(plan.analysis.sites.sites, plan.knobs.knobs, strict=True)
    reasons = {site.names[0]: knob.reason for site, knob in sites if knob.reason}
    missed = plan.analysis.sites.not_followed
    reasons.update({path: f"not followed: {why}" for path, why in missed.items() if path in plan.unset})
    _raise(reasons, caller)


def _raise_problems(records: Records, caller: str) -> None:
    if not any(isinstance(x, Tracer) for x in jax.tree.leaves(records)):
        _raise({n: r.problem for n, r in records.items() if isinstance(r, Calibration) and r.problem}, caller)


def _raise(reasons: dict[str, str], caller: str) -> None:
    if reasons:
        must = 'every chosen site must be set exactly with `inexact="error"`'
        shown = "; ".join(f"{name}: {why}" for name, why in list(reasons.items())[:5])
        more = f"; and {len(reasons) - 5} more" if len(reasons) > 5 else ""
        advice = 'Choose other `sites`, or `inexact="skip"` or "iterate" and read `.problem` in the records.'
        raise ValueError(message(caller, must, shown + more, advice))
