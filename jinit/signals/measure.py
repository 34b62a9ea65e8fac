"""Forward and backward statistics at every site of a network, from one jitted program."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from jinit._errors import message
from jinit._typing import Array, Key, PyTree
from jinit.jaxprs.sites import Site
from jinit.jaxprs.tracing import Signature, check_call, split
from jinit.signals.moments import Moments
from jinit.signals.observe import Gauge, Pass, observe
from jinit.signals.records import Record, Records


def records_of(run: Pass, arrays: list[Array]) -> Records:
    """One record for every parameter at every site, then one for each that was not followed."""
    records = Records()
    for site, found in zip(run.sites.sites, run.found, strict=True):
        fields = {f.name: found[f.name] for f in dataclasses.fields(Record) if f.name in found}
        record = _whole(Record(**fields, note=_note(site)))
        records.update(dict.fromkeys(site.names, record))
    by_path = dict(zip(run.program.paths, arrays, strict=False))
    for path, reason in run.sites.not_followed.items():
        records[path] = Record(weight=Moments.of(by_path[path], stored=True), note=f"not followed: {reason}")
    return records


def _whole(record: Record) -> Record:
    """What comes back is as many arrays as went forward, also where no gradient arrives to be counted."""

    def fill(back: Moments | None, like: Moments | None) -> Moments | None:
        return back if back is None or like is None else dataclasses.replace(back, times=like.times)

    return dataclasses.replace(
        record,
        cotangent=fill(record.cotangent, record.output),
        weight_gradient=fill(record.weight_gradient, record.weight),
    )


def _note(site: Site) -> str:
    if "custom" in site.regions:
        return "inside a function with its own derivative rule: seen going forward only"
    if "while" in site.regions:
        return "inside a while_loop: sums over its steps, seen going forward only"
    if "unchecked_shard_map" in site.regions:
        return "inside shard_map(check_vma=False): gradients are each device's own part of the sum"
    return ""


def measure(
    apply: Callable[..., PyTree],
    *,
    backward: bool = True,
    loss: Callable[[PyTree], Array] | None = None,
    key: Key | None = None,
) -> Callable[..., tuple[PyTree, Records]]:
    """Measure the signals of a network, forward and backward, at every use of a weight.

    A *site* is a contraction or an embedding lookup that a weight takes part in. At each, moments of
    what enters and leaves it, `E[x]`, `E[x²]`, and of the gradient `δ = ∂loss/∂output` that comes back,
    are summed while one jitted program runs; no activation is kept for them. Outputs and gradients of
    the measured function are those of `apply`.

    Args:
      apply: any pure `(params, *inputs, **kwargs) -> outputs`: `model.apply` of a linen module, the
        `apply` of `jinit.functional`, or a function of your own. Arguments that are no arrays
        (`train=True`, `mutable=["batch_stats"]`) are held as they are.
      backward: whether to measure cotangents and weight gradients too.
      loss: a function of the outputs to one number, whose gradient is pulled back. Without it a
        standard normal cotangent enters at every floating output: the classical random-cotangent
        experiment, which shows what the network itself does to gradients.
      key: key of that cotangent, consumed; `jax.random.key(0)` if None.

    Returns:
      A function `(params, *inputs, **kwargs) -> (outputs, records)`, to be called as `apply` is, under
      `jax.jit` or not. `records` maps site names, in program order, to `Record` objects of `Moments` of shape
      `[]`, or `[length]` inside a `scan`. A weight used at n > 1 sites is named `path#0` … `path#n-1`;
      a weight made of several parameters (concatenated kernels) has a record under each of their names.
      A parameter that has the shape of a weight but could not be followed has a record too, with the
      reason in `note`.
      Outputs and records are differentiable functions of `params` and the inputs.

    Raises:
      TypeError: `apply` is no function.
      ValueError: `loss` is given with `backward=False`, or is no single number; `params` is empty, or
        no output depends on it; a `while_loop` stands in the way of the backward pass.

    Example:
      >>> import flax.linen as nn, jax, jinit
      >>> model = nn.Sequential([nn.Dense(256), nn.relu, nn.Dense(10)])
      >>> x = jax.random.normal(jax.random.key(0), (64, 128))
      >>> variables = model.init(jax.random.key(1), x)
      >>> outputs, records = jinit.measure(model.apply)(variables, x)
      >>> list(records)
      ['params/layers_0/kernel', 'params/layers_2/kernel']
      >>> site = records["params/layers_2/kernel"]
      >>> float(site.input.zero_fraction) > 0.4  # ReLU
      True
      >>> site.output.second_moment.shape, site.cotangent.mean.shape
      ((), ())

    References:
      Glorot and Bengio, *Understanding the difficulty of training deep feedforward neural networks*,
      2010, §4.2: activations and back-propagated gradients by layer. Schoenholz et al., *Deep
      Information Propagation*, 2017, for the random-cotangent view.
    """
    caller = "jinit.measure(...)"
    check_call(apply, caller=caller)
    if loss is not None and not backward:
        raise ValueError(
            message(caller, "`loss` needs `backward=True`", "backward=False", "Drop one of them.")
        )

    @functools.partial(jax.jit, static_argnums=0)
    def run(signature: Signature, arrays: list[Array], key: Key) -> tuple[PyTree, Records]:
        outputs, one_pass = observe(
            apply, signature, arrays, Gauge(), backward=backward, loss=loss, key=key, caller=caller
        )
        return outputs, records_of(one_pass, arrays)

    def measured(params: PyTree, *inputs: Any, **kwargs: Any) -> tuple[PyTree, Records]:
        signature, arrays = split(params, inputs, kwargs)
        return run(signature, arrays, jax.random.key(0) if key is None else key)

    return measured
