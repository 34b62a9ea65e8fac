"""What theory says the signals of a network are, before any data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jinit._typing import Array, PyTree
from jinit.jaxprs.sites import Site
from jinit.signals.given import Plan, Variances
from jinit.signals.laws.arrays import xp
from jinit.signals.laws.as_laws import all_steps
from jinit.signals.laws.by_moments import MomentRule
from jinit.signals.laws.law import Law, average, squared
from jinit.signals.laws.steps import SHORT
from jinit.signals.laws.values import Each, Held, Stacked, Value, by_step
from jinit.signals.moments import Moments
from jinit.signals.records import Record, Records
from jinit.signals.run_laws import run_on_laws

CALLER = "jinit.predict(...)"
IN_LOOP = "the weight meets what it made at other steps, and counts as a new one, of the same law, at each"
MEETS_OWN = (
    "the weight meets what it had a part in before, of which not all is known: see the guide on predicting"
)


def predict(
    apply: Callable[..., PyTree],
    *,
    weights: Variances | Plan | None = None,
    backward: bool = True,
    rules: Mapping[Any, MomentRule] | None = None,
) -> Callable[..., Records]:
    r"""Predict the signals of a network at every use of a weight, from the laws of its weights.

    In a wide network with independent weights every pre-activation is normal, and its variance follows from
    the layer before: with `n` terms in a sum, weights of mean zero and variance `σ²`, and an activation `φ`,

    $$q^{l+1} = n σ_w^2\, \mathbb E[φ(\sqrt{q^l} z)^2] + σ_b^2, \qquad
      c^{l+1} q^{l+1} = n σ_w^2\, \mathbb E[φ(u) φ(v)] + σ_b^2,$$

    where `u` and `v` are the pre-activations of one unit for two examples, of correlation `c`. Cotangents
    obey `E[δ²] ← n_out σ_w² E[φ'(z)²] E[δ²]`, if forward and backward weights are taken to be independent.
    `predict` does this for the traced program of *any* model, running its own equations on quadrature nodes
    instead of arrays. No table of activations or layers is behind it. Given shapes and variances its cost
    does not depend on width or batch; given arrays, it takes their moments.

    Moments hold on average over draws of the weights, up to terms of order one over width. See the guide for
    where, and by how much, real networks differ.

    Args:
      apply: any pure `(params, *inputs, **kwargs) -> outputs`, as for `measure`.
      weights: the law of each weight: a `jinit.plan`, for what `jinit.init` would draw; or a mapping or a
        function from path to variance, or to `(mean, variance)`, numbers or, for the layers of a stack along
        the first axis, arrays `[length]`. A path that a mapping lacks, or that the function gives None for,
        and every path by default, has the mean and variance of the given array.
      backward: whether to predict cotangents and weight gradients too, for a standard normal cotangent at
        every floating output.
      rules: how a primitive of your own acts, or one without a rule: from primitive to
        `rule([(mean, variance) of each operand], eqn)`, which gives `(mean, variance)` of each result, the
        entries of which are taken as independent and normal.

    Returns:
      A function `(params, *inputs, **kwargs) -> records`, to be called as `apply` is; arrays may be
      `jax.ShapeDtypeStruct` objects. An input without values is standard normal, a parameter without values
      needs `weights`. `records` has the names of `measure`, and `Moments` of shape `[]`, or `[length]` in a
      `scan`.

    Raises:
      TypeError: `apply` is no function, `weights` no law, or `rules` are not by primitive.
      ValueError: a parameter without values has no variance; `weights` names a path that does not exist.
      NotImplementedError: a site depends on something that has no law (the equation and its line are named).

    Example:
      >>> import flax.linen as nn, jax, jinit
      >>> model = nn.Sequential([nn.Dense(512), nn.relu, nn.Dense(10)])
      >>> x = jax.ShapeDtypeStruct((64, 512), "float32")
      >>> params = jax.eval_shape(model.init, jax.random.key(0), x)
      >>> variances = lambda path: 2 / 512 if path.endswith("kernel") else 0.0
      >>> records = jinit.predict(model.apply, weights=variances)(params, x)
      >>> round(float(records["params/layers_2/kernel"].input.second_moment), 3)
      1.0

    References:
      Poole, Lahiri, Raghu, Sohl-Dickstein, Ganguli, *Exponential expressivity in deep neural networks through
      transient chaos*, 2016, for the maps; Schoenholz, Gilmer, Ganguli, Sohl-Dickstein, *Deep information
      propagation*, 2017, for gradients; Yang, *Tensor programs II*, 2020, for why this holds for any program.
    """
    run = run_on_laws(apply, weights=weights, rules=rules, backward=backward, caller=CALLER, read=_record)

    def predicted(params: PyTree, *inputs: Any, **kwargs: Any) -> Records:
        return Records(run(params, *inputs, **kwargs))

    return predicted


def _record(site: Site, found: dict[str, Value]) -> Record:
    fields: dict[str, Any] = {k: _moments(v, len(site.lengths)) for k, v in found.items()}
    return Record(**fields, note=_note(site))


def _note(site: Site) -> str:
    if not site.meets_own:
        return ""
    return IN_LOOP if any(length > SHORT for length in site.lengths) else MEETS_OWN


def _moments(value: Value, loops: int) -> Moments:
    """Moments of the entries of a value, with a leading axis for each loop around the site."""
    value = value if loops else all_steps(value)
    if isinstance(value, (Stacked, Each)):
        return by_step(value, lambda step: _moments(step, loops - 1))
    if isinstance(value, Law):
        return _of_law(value)
    assert isinstance(value, Held)
    measured: Any = Moments.of
    for _ in range(loops):
        measured = jax.vmap(measured)
    return measured(value.whole())


def _of_law(law: Law) -> Moments:
    x = law.nodes if jnp.issubdtype(law.nodes.dtype, jnp.inexact) else law.nodes.astype(jnp.float32)

    def total(values: Array) -> Array:
        return average(law, of=values).reshape(()) * xp.asarray(law.size, values.dtype)

    real = xp.real(x).dtype
    return Moments(
        total=total(x),
        total_square=total(squared(x)),
        zeros=total((x == 0).astype(real)),
        nonfinite_count=total((~xp.isfinite(x)).astype(real)),
        size=law.size,
    )
