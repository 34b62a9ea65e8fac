"""The same relative gradient at every layer."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jinit._typing import Array, Key, PyTree
from jinit.calibrate.arguments import check_arrays, check_flags, check_loss_of_outputs, cotangent_key
from jinit.calibrate.lsuv import replaced
from jinit.calibrate.order import in_order
from jinit.calibrate.passes import Plan, changed_leaves, make_plan, records_of, run_pass
from jinit.calibrate.rescaler import Found
from jinit.calibrate.solve import NO_GRADIENT
from jinit.calibrate.targets import Choice, check_target, is_chosen, targets_of
from jinit.initializers._arguments import count
from jinit.jaxprs.sites import analyse_sites
from jinit.jaxprs.tracing import Signature, check_call, split, trace
from jinit.signals.observe import Gauge, observe
from jinit.signals.records import Records


def equalize(
    apply: Callable[..., PyTree],
    *,
    loss: Callable[[PyTree], Array] | None = None,
    key: Key | None = None,
    sites: Choice = "*",
    per_unit: bool = True,
    center: bool = True,
    passes: int = 10,
) -> Callable[..., tuple[PyTree, Records]]:
    """Rescale weights so that each layer changes at the same rate, relative to its size, in a gradient step.

    Within layers, every output unit gets the same variance and, through its bias, mean zero, as with
    `jinit.lsuv(apply, per_unit=True, center=True)`. Between layers, the variances `v_k` of the outputs are
    chosen so that the relative gradient

        C_k = E[(∂L/∂W_k)²] / E[W_k²]

    is the same at all sites. In a chain of homogeneous layers `C_k ∝ (v_{k−1} / v_k)²`, so that
    `log v_k ← log v_k + ½ Σ_{j≤k} (log C_j − mean log C)` solves it at once; elsewhere it is repeated, half
    a step at a time if a step made it worse, and the best pass counts. Variances of the sites that feed the
    outputs alone stay one, so the scale of the outputs is kept.

    Args:
      apply: any pure `(params, *inputs, **kwargs) -> outputs`, as for `jinit.measure`.
      loss: a function of the outputs to one number, whose gradient counts; without it a standard normal
        cotangent enters at every floating output.
      key: key of that cotangent, consumed; `jax.random.key(0)` if None.
      sites: which sites to rescale: a glob, several, or a predicate on the name.
      per_unit: whether every output unit has a factor of its own.
      center: whether biases take the mean of the outputs away.
      passes: how many passes, forward and backward, to look for the variances in.

    Returns:
      A function `(params, *inputs, **kwargs) -> (params, records)`, as that of `jinit.lsuv`. Sites that
      cannot be set exactly stay as they are, and the records say why, as they do where the gradient is zero
      or no number. `factor` and `output.variance` tell what was chosen.

    Raises:
      TypeError: `apply` or `loss` is no function, `key` no key, an option no boolean or whole number.
      ValueError: `passes` is less than one; a pattern fits no site; `params` is empty.

    Example:
      >>> import flax.linen as nn, jax, jinit
      >>> model = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(64), nn.relu, nn.Dense(8)])
      >>> x = jax.random.normal(jax.random.key(0), (128, 32))
      >>> variables = model.init(jax.random.key(1), x)
      >>> variables, _ = jinit.equalize(model.apply)(variables, x)
      >>> _, records = jinit.measure(model.apply)(variables, x)
      >>> rates = [r.weight_gradient.second_moment / r.weight.second_moment for r in records.values()]
      >>> bool(max(rates) / min(rates) < 1.1)
      True

    References:
      Krähenbühl, Doersch, Donahue and Darrell, *Data-dependent Initializations of Convolutional Neural
      Networks*, 2016, §3. There the rate is averaged over columns of the weight and layers are scaled one at
      a time, damped, with the scale undone above; here sites keep their variance because they are rescaled
      in flight.
    """
    caller = "jinit.equalize(...)"
    check_call(apply, caller=caller)
    check_target(1.0, sites, caller)
    check_flags(caller, per_unit=per_unit, center=center)
    count(caller, "passes", passes)
    check_loss_of_outputs(caller, loss)

    @functools.partial(jax.jit, static_argnums=0)
    def run(signature: Signature, arrays: list[Array], key: Key) -> tuple[dict[int, Array], Records]:
        program = trace(apply, signature, arrays, caller=caller)
        analysis = analyse_sites(program)
        targets = targets_of(1.0, sites, analysis.sites.sites, caller)
        plan = make_plan(
            program,
            analysis,
            targets,
            chosen=functools.partial(is_chosen, 1.0, sites),
            per_unit=per_unit,
            center=center,
            iterate=False,
            max_passes=1,
            batched=False,
        )

        def rates(arrays: list[Array]) -> list[Array]:
            _, seen = observe(
                apply, signature, arrays, Gauge(), backward=True, loss=loss, key=key, caller=caller
            )
            return [f["weight_gradient"].second_moment / f["weight"].second_moment for f in seen.found]

        return _search(plan, arrays, rates, passes)

    def equalized(params: PyTree, *inputs: Any, **kwargs: Any) -> tuple[PyTree, Records]:
        signature, arrays = split(params, inputs, kwargs)
        check_arrays(signature, arrays, caller)
        changed, records = run(signature, arrays, cotangent_key(caller, key))
        return replaced(signature, arrays, changed), records

    return equalized


def _told(part: Found, step: int, known: Array) -> Found:
    """What a pass found, with the word that the rate is none at one step of the scans around the site."""
    assert part.obstacle is not None
    flat = part.obstacle.reshape(-1)
    met = jnp.where(known | (flat[step] != 0), flat[step], jnp.asarray(NO_GRADIENT, flat.dtype))
    return dataclasses.replace(part, obstacle=flat.at[step].set(met).reshape(part.obstacle.shape))


class _Best(NamedTuple):
    """The best logarithms of the variances so far, and how unequal the rates are with them."""

    logs: Array
    spread: Array
    known: Array  # whether each rate is a positive number
    step: Array  # from the best
    size: Array


def _search(
    plan: Plan, arrays: list[Array], rates: Callable[[list[Array]], list[Array]], passes: int
) -> tuple[dict[int, Array], Records]:
    sites = plan.analysis.sites.sites
    exact = [i for i in range(len(sites)) if plan.is_exact(i)]
    order = in_order(plan.analysis, exact)
    free = np.array([sites[i].before_site for i, _ in order])

    def multiples(logs: Array) -> dict[int, Array]:
        values = {i: jnp.zeros(int(np.prod(sites[i].lengths))) for i in exact}
        for number, (i, k) in enumerate(order):
            values[i] = values[i].at[k].set(logs[number])
        return {i: jnp.exp(v).reshape(sites[i].lengths) for i, v in values.items()}

    def log_rates(logs: Array) -> tuple[Array, Array]:
        found = run_pass(plan, arrays, exact=True, multiples=multiples(logs))
        changed = changed_leaves(plan, arrays, None, found)
        seen = rates([changed.get(i, x) for i, x in enumerate(arrays)])
        c = jnp.stack([jnp.log(seen[i]).reshape(-1)[k] for i, k in order])
        known = jnp.isfinite(c)
        return jnp.where(known, c, jnp.mean(c, where=known)), known

    def improve(_: Any, best: _Best) -> _Best:
        logs = best.logs + best.size * best.step
        c, known = log_rates(logs)
        spread = jnp.var(c)
        step = jnp.where(free, 0.5 * jnp.cumsum(c - jnp.mean(c)), 0.0)
        better = _Best(logs, spread, known, step, jnp.minimum(1.0, 2 * best.size))
        worse = best._replace(size=best.size / 2)
        return jax.tree.map(lambda a, b: jnp.where(spread < best.spread, a, b), better, worse)

    zeros = jnp.zeros(len(order))
    start = _Best(zeros, jnp.full((), jnp.inf), zeros != 0, zeros, jnp.ones(()))
    best = lax.fori_loop(0, passes, improve, start) if order else start
    found = run_pass(plan, arrays, exact=True, multiples=multiples(best.logs))
    for number, (i, k) in enumerate(order):
        found[i] = _told(found[i], k, best.known[number])
    unset = dataclasses.replace(plan, targets=[None] * len(sites))
    return changed_leaves(plan, arrays, None, found), records_of(unset, arrays, None, found, None)
