"""Between what the forward and what the backward direction ask for."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jinit._errors import message
from jinit._typing import Array, Key, PyTree
from jinit.calibrate.arguments import check_arrays, check_loss_of_outputs, cotangent_key
from jinit.calibrate.lsuv import replaced
from jinit.calibrate.passes import changed_leaves, make_plan, records_of, run_pass
from jinit.calibrate.rescaler import Found
from jinit.calibrate.solve import NO_GRADIENT
from jinit.calibrate.targets import Choice, Target, check_target, is_chosen, targets_of
from jinit.initializers._arguments import number
from jinit.jaxprs.sites import Site, analyse_sites
from jinit.jaxprs.tracing import Program, Signature, check_call, split, trace
from jinit.jaxprs.walk import walk
from jinit.signals.moments import Moments
from jinit.signals.observe import inexact, pull_back
from jinit.signals.records import Records
from jinit.signals.tap import probe_of, probe_shape, tap


def compromise(
    apply: Callable[..., PyTree],
    *,
    backward_share: float = 0.5,
    target: Target = 1.0,
    sites: Choice = "*",
    loss: Callable[[PyTree], Array] | None = None,
    key: Key | None = None,
) -> Callable[..., tuple[PyTree, Records]]:
    """Rescale weights by the geometric mean of what the forward and the backward direction ask for.

    Forward, a site asks for the factor `f` of `jinit.lsuv`, with which its output has the target variance.
    Backward, it asks for the factor that keeps the size of a gradient on its way through the weight,

        b = √(E[δ_out²] / E[δ_in²]),

    `δ_out` being the gradient with respect to the output of the contraction, `δ_in` that with respect to its
    input. The weight is multiplied by `f^(1−p) · b^p` with `p = backward_share`. For a dense layer on inputs
    of unit variance `f² = 1 / (n_in Var W)` and `b² = 1 / (n_out Var W)`, so `p = ½` gives `Var W = 1 /
    √(n_in n_out)`.

    Args:
      apply: any pure `(params, *inputs, **kwargs) -> outputs`, as for `jinit.measure`.
      backward_share: `p`, from 0 (forward alone, as `lsuv`) to 1 (backward alone).
      target: the variance that the forward direction asks for, as in `jinit.lsuv`.
      sites: which sites to rescale, as in `jinit.lsuv`.
      loss: a function of the outputs to one number, whose gradient counts; without it a standard normal
        cotangent enters at every floating output.
      key: key of that cotangent, consumed; `jax.random.key(0)` if None.

    Returns:
      A function `(params, *inputs, **kwargs) -> (params, records)`, as that of `jinit.lsuv`. Sites that
      cannot be set exactly stay as they are, and the records say why; so do those where one of the two has
      nothing to ask for: zero variance, a zero gradient, NaN. Where no gradient can be followed (lookups,
      functions with their own derivative) the forward direction decides. `output` is measured with the new
      parameters.

    Raises:
      TypeError: `apply` or `loss` is no function, `target`, `sites` or `key` are of the wrong kind.
      ValueError: `backward_share` is outside of [0, 1], a target is not positive, a pattern fits no site.

    Example:
      >>> import jax, jax.numpy as jnp, jinit
      >>> x = jax.random.normal(jax.random.key(0), (512, 400))
      >>> w = jax.random.normal(jax.random.key(1), (400, 100))
      >>> w, _ = jinit.compromise(lambda w, x: x @ w)(w, x)
      >>> bool(abs(jnp.var(w) * 200 - 1) < 0.05)
      True

    References:
      Glorot and Bengio, *Understanding the difficulty of training deep feedforward neural networks*, 2010,
      §4.2.1: the two demands, and their arithmetic mean for a linear network. Here they are measured.
    """
    caller = "jinit.compromise(...)"
    check_call(apply, caller=caller)
    check_target(target, sites, caller)
    check_loss_of_outputs(caller, loss)
    if not 0 <= number(caller, "backward_share", backward_share) <= 1:
        must = "`backward_share` must lie between 0 and 1"
        raise ValueError(message(caller, must, f"backward_share={backward_share}", "One half is the middle."))

    @functools.partial(jax.jit, static_argnums=0)
    def run(signature: Signature, arrays: list[Array], key: Key) -> tuple[dict[int, Array], Records]:
        program = trace(apply, signature, arrays, caller=caller)
        analysis = analyse_sites(program)
        targets = targets_of(target, sites, analysis.sites.sites, caller)
        plan = make_plan(
            program,
            analysis,
            targets,
            chosen=functools.partial(is_chosen, target, sites),
            per_unit=False,
            center=False,
            iterate=False,
            max_passes=1,
            batched=False,
        )
        asked = _backward(program, analysis.sites.sites, arrays, loss, key, caller)
        found = run_pass(plan, arrays, exact=True)
        found = [_mixed(part, asked.get(index), backward_share) for index, part in enumerate(found)]
        changed = changed_leaves(plan, arrays, None, found)
        checked = run_pass(plan, [changed.get(i, x) for i, x in enumerate(arrays)], exact=False)
        unset = dataclasses.replace(plan, targets=[None] * len(targets))
        return changed, records_of(unset, arrays, None, found, checked)

    def compromised(params: PyTree, *inputs: Any, **kwargs: Any) -> tuple[PyTree, Records]:
        signature, arrays = split(params, inputs, kwargs)
        check_arrays(signature, arrays, caller)
        changed, records = run(signature, arrays, cotangent_key(caller, key))
        return replaced(signature, arrays, changed), records

    return compromised


def _mixed(forward: Found, backward: Array | None, share: float) -> Found:
    """What one pass found, with the factor between both directions; one where a direction asks for none."""
    if forward.log_factor is None or forward.obstacle is None or backward is None or not share:
        return forward
    obstacle = forward.obstacle if share < 1 else jnp.zeros_like(forward.obstacle)
    lost = ~jnp.isfinite(backward) & (obstacle == 0)
    obstacle = jnp.where(lost, jnp.asarray(NO_GRADIENT, obstacle.dtype), obstacle)
    factor = (1 - share) * forward.log_factor + share * backward
    factor = jnp.where(obstacle == 0, factor, jnp.zeros_like(factor))
    return dataclasses.replace(forward, log_factor=factor, obstacle=obstacle)


def _backward(
    program: Program,
    sites: tuple[Site, ...],
    arrays: list[Array],
    loss: Callable[[PyTree], Array] | None,
    key: Key,
    caller: str,
) -> dict[int, Array]:
    """Logarithm of the factor that the backward direction asks for, where a gradient can be followed."""
    taps = _BothSides(sites)
    probes = {i: taps.probes(s) for i, s in enumerate(sites) if _can_follow(s)}

    def run(probes: dict[int, PyTree]) -> tuple[list[Array], Any]:
        return walk(program, sites, arrays, taps, probes)

    _, back, _ = pull_back(run, probes, program.out_tree, loss, key, caller)
    return {
        i: 0.5 * (jnp.log(of["output"].second_moment) - jnp.log(of["input"].second_moment))
        for i, of in back.items()
    }


def _can_follow(site: Site) -> bool:
    inside = site.regions & {"while", "custom", "shard_map", "unchecked_shard_map"}
    return not inside and site.signal is not None and all(inexact(a) for a in site.operands[:2])


@dataclasses.dataclass(frozen=True)
class _BothSides:
    """The visitor that looks at the gradient before and behind every contraction."""

    sites: tuple[Site, ...]
    rewrites = False

    def in_branch(self, taken: Array) -> _BothSides:
        """Looks at every branch alike."""
        del taken
        return self

    def enter(self, index: int, operands: list[Array], extra: PyTree) -> tuple[list[Array], PyTree]:
        """Taps the signal."""
        signal = self.sites[index].signal
        if extra is None or signal is None:
            return operands, None
        operands = list(operands)
        operands[signal] = tap(Moments.of, operands[signal], extra["input"])
        return operands, None

    def leave(self, index: int, output: Array, extra: PyTree) -> tuple[Array, PyTree]:
        """Taps the output."""
        return (output if extra is None else tap(Moments.of, output, extra["output"])), None

    def probes(self, site: Site) -> dict[str, PyTree]:
        """Zero probes for one site."""
        assert site.signal is not None
        avals = {"input": site.operands[site.signal], "output": site.output}
        return {k: probe_of(probe_shape(Moments.of, a), site.lengths) for k, a in avals.items()}
