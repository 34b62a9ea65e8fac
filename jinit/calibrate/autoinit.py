"""Unit variance by theory: the walk of `lsuv`, on laws instead of data."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax.extend.core import Primitive

from jinit._typing import Array, PyTree, at_least_float32
from jinit.calibrate.arguments import check_arrays
from jinit.calibrate.lsuv import replaced
from jinit.calibrate.passes import changed_leaves, make_plan, records_of, run_pass
from jinit.calibrate.rescaler import Found, Rescaler
from jinit.calibrate.solve import obstacle_to
from jinit.calibrate.targets import Choice, Target, check_target, is_chosen, targets_of
from jinit.jaxprs.sites import analyse_sites
from jinit.jaxprs.tracing import check_call, split, trace
from jinit.signals.laws.by_moments import MomentRule
from jinit.signals.laws.wholes import with_wholes
from jinit.signals.moments import Moments
from jinit.signals.records import Records
from jinit.signals.run_laws import expected

_CALLER = "jinit.autoinit(...)"


def autoinit(
    apply: Callable[..., PyTree],
    *,
    target: Target = 1.0,
    sites: Choice = "*",
    rules: Mapping[Any, MomentRule] | None = None,
) -> Callable[..., tuple[PyTree, Records]]:
    """Rescale every weight so that theory says that the outputs of its site have unit variance, without data.

    As `jinit.lsuv` it walks through the network once and replaces the output `y = Wx + b` of each site by
    `sWx + b`. The variances are those that `jinit.predict` follows through the program: with `n` terms in a
    sum,

        s² n (E[w²] E[x²] − E[w]² E[x]²) + Var[b] = target,

    where the moments of the input come from the rescaled sites before it, through whatever lies between, and
    those of the weights from the given arrays. So no example is run, and any activation works.

    Args:
      apply: any pure `(params, *inputs, **kwargs) -> outputs` that `jinit.predict` can follow.
      target: the variance wanted: one number, pairs `(pattern, variance)` of which the first whose glob fits
        the site's name counts, or a function of the name (None: leave it alone).
      sites: which sites to rescale: a glob, several, or a predicate on the name. The others stay as they are.
      rules: laws for primitives, as for `jinit.predict`.

    Returns:
      A function `(params, *inputs, **kwargs) -> (params, records)`, to be called as `apply` is. Inputs may be
      `jax.ShapeDtypeStruct` objects, for standard normal ones; of arrays the moments count. `params` has the
      same tree, dtypes, shardings and boxes. `records` hold a `jinit.Calibration` of what theory says, before
      and after. Sites that are not exact (see `jinit.lsuv`) stay as they are, and the records say why.

    Raises:
      TypeError: `apply` is no function, `target` or `sites` are of the wrong kind.
      ValueError: a target is not positive, a pattern fits no site, `params` is empty or holds no values.
      NotImplementedError: a site depends on something that has no law; the equation and its line are named.

    Example:
      >>> import flax.linen as nn, jax, jinit
      >>> layers = [layer for _ in range(20) for layer in (nn.Dense(256), nn.tanh)]
      >>> model = nn.Sequential(layers)
      >>> shape = jax.ShapeDtypeStruct((64, 256), "float32")
      >>> params = model.init(jax.random.key(0), jax.numpy.zeros(shape.shape))
      >>> params, _ = jinit.autoinit(model.apply)(params, shape)
      >>> x = jax.random.normal(jax.random.key(1), shape.shape)
      >>> _, records = jinit.measure(model.apply, backward=False)(params, x)
      >>> all(0.8 < r.output.variance < 1.25 for r in records.values())
      True

    References:
      Bingham and Miikkulainen, *AutoInit: Analytic Signal-Preserving Weight Initialization for Neural
      Networks*, 2023, §3. There each type of layer has a function of its own for mean and variance; here the
      traced program itself is followed.
    """
    check_call(apply, caller=_CALLER)
    check_target(target, sites, _CALLER)

    def calibrated(params: PyTree, *inputs: Any, **kwargs: Any) -> tuple[PyTree, Records]:
        signature, arrays = split(params, inputs, kwargs)
        check_arrays(signature, arrays[: signature.num_params], _CALLER)
        program = trace(apply, signature, arrays, caller=_CALLER)
        analysis = analyse_sites(program)
        stops = analysis.sites.sites
        plan = make_plan(
            program, analysis, targets_of(target, sites, stops, _CALLER),
            chosen=functools.partial(is_chosen, target, sites), per_unit=False, center=False,
            iterate=False, max_passes=1, batched=False,
        )  # fmt: skip
        on_laws = dataclasses.replace(
            plan, program=dataclasses.replace(program, jaxpr=with_wholes(program.jaxpr))
        )
        walked = functools.partial(run_pass, on_laws, exact=True, visitor=Expected)
        known = {**(rules or {}), expected_p: _numbers}
        found = expected(walked, program, stops, signature, arrays, rules=known, caller=_CALLER)
        changed = changed_leaves(plan, arrays, None, found)
        return replaced(signature, arrays, changed), records_of(plan, arrays, None, found, None)

    return calibrated


expected_p = Primitive("expected_moments")
expected_p.multiple_results = True


@expected_p.def_abstract_eval
def _expected_avals(x: Any) -> tuple[Any, Any]:
    scalar = x.update(shape=(), dtype=at_least_float32(x.dtype), sharding=None)
    return scalar, scalar


def _numbers(moments: list[tuple[Any, Any]], eqn: Any) -> list[tuple[Any, Any]]:
    """The law of the moments of a law: they are numbers."""
    del eqn
    ((mean, variance),) = moments
    return [(mean, 0.0), (variance, 0.0)]


class Expected(Rescaler):
    """The visitor that rescales by the moments which the law of a contraction has."""

    def _measured(self, index: int, x: Array) -> Found:
        return Found(self._moments(self.stations[index], x.size, *expected_p.bind(x)))

    def _rescale(self, index: int, x: Array, bias: Array | None, extra: Array | None) -> Any:
        mean, variance = expected_p.bind(x)
        b_mean, b_variance = (jnp.zeros_like(mean),) * 2 if bias is None else expected_p.bind(bias)
        station, target = self.stations[index], self.targets[index]
        assert target is not None
        factor = jnp.sqrt((target - b_variance) / variance)
        valid = jnp.isfinite(factor) & (variance > 0)
        factor = jnp.where(valid, factor, jnp.ones_like(factor))
        obstacle = obstacle_to(valid, variance <= 0, variance + b_variance)

        def scaled(s: Array) -> Moments:
            moved = s * mean + station.sign * b_mean
            return self._moments(station, x.size, moved, jnp.square(s) * variance + b_variance)

        before, after = scaled(jnp.ones_like(factor)), scaled(factor)
        found = Found(after, before, jnp.log(factor), obstacle=obstacle)
        return x * factor.astype(x.dtype), None, found
