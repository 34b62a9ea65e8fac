"""`jinit.redraw_units`: single units of a network anew, without a jump in what it computes."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jinit._errors import message
from jinit._typing import Array, Key, PyTree
from jinit.jaxprs.consumers import Course, follow
from jinit.jaxprs.sites import Analysis, analyse_sites
from jinit.jaxprs.stored import Stored
from jinit.jaxprs.tags import NONE, NotFollowedError, Tags
from jinit.jaxprs.tracing import check_call, split, trace
from jinit.plans import fitting
from jinit.plans.assignment import Assignment, assigned
from jinit.plans.audit import weight_uses
from jinit.plans.init import abstract, distinct_paths
from jinit.plans.patterns import Pattern
from jinit.plans.redraw import as_plan, draw_in_place, refuse_abstract, replaced, single_key
from jinit.plans.rules import Plan
from jinit.plans.uses import WeightUse

_CALLER = "jinit.redraw_units(...)"


def redraw_units(
    apply: Callable[..., PyTree],
    plan: Plan | Iterable[tuple[Pattern, Any]] | Callable[..., Any],
    *,
    outgoing: Literal["zero", "keep"] = "zero",
) -> Callable[..., PyTree]:
    """Draw single units anew: their incoming weights from a plan, their biases and outgoing weights zero.

    A unit is one entry of the output of a kernel, such as a feature or a channel. After the call the network
    computes what it would if the weights that read the unit had always got 0 from it. That is what it
    computed before, exactly, where they did: for a ReLU unit that is negative on all inputs, a dead one, to
    which no constant is added on the way. Through its outgoing weights the unit gets a gradient again.

    The outgoing weights are read off the program: the unit is followed through everything that treats
    entries one by one (biases, activations, dropout, gates), through pooling, reshapes, transposes,
    slices, concatenation and normalisation over other axes, into the kernels that sum over it. Biases with
    one entry for each unit that are added on the way become zero too, that of a batch normalisation
    included; its scale stays. Where the unit can't be followed so (it is added to a residual stream or
    normalised together with other units, it is an output of the network, it enters a kernel that also
    serves elsewhere) the call is refused, with the reason.

    Args:
      apply: any pure `(params, *inputs, **kwargs) -> outputs`. It is traced once, never run.
      plan: how to draw the incoming weights: an initializer, a plan, or its rules. Values are those of
        `jinit.init` for the same key and rule.
      outgoing: `"zero"`, or `"keep"` to leave the outgoing weights as they are and not to need them.

    Returns:
      A function of `(key, params, units, *inputs, **kwargs)` that returns a tree like `params`. `units`
      maps paths of kernels to boolean arrays, true for the units to draw anew, with one axis for each axis
      of the stored kernel that counts outputs, layers of a scan stack, experts or heads, in stored order:
      `[units]` for a dense or convolution kernel, `[length, units]` for a stack of them. They may be
      traced: under `jax.jit` the program is followed once. Leaves that are not touched are the same
      objects.

    Raises:
      TypeError: `apply` is no function, `units` no dict of boolean arrays, `key` no random key.
      ValueError: a path is no kernel, a mask has another shape, units can't be followed, or the plan does
        not take a kernel.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp, jinit
      >>> model, x = nn.Sequential([nn.Dense(3), nn.relu, nn.Dense(2)]), jnp.ones((1, 4))
      >>> params = model.init(jax.random.key(0), x)
      >>> renew = jinit.redraw_units(model.apply, jinit.he_normal())
      >>> dead = {"params/layers_0/kernel": jnp.array([False, True, False])}
      >>> new = renew(jax.random.key(1), params, dead, x)
      >>> new["params"]["layers_2"]["kernel"][1]
      Array([0., 0.], dtype=float32)

    References:
      Sokar, Agarwal, Castro, Evci, "The Dormant Neuron Phenomenon in Deep Reinforcement Learning", 2023,
      algorithm 1 (ReDo). There dormant units are those of a small share of their layer's activation, and the
      optimizer's moments of the weights are reset as well.
    """
    check_call(apply, caller=_CALLER)
    if outgoing not in ("zero", "keep"):
        raise ValueError(message(_CALLER, '`outgoing` must be "zero" or "keep"', f"outgoing={outgoing!r}"))

    def redrawn(key: Key, params: PyTree, units: Mapping[str, Any], *inputs: Any, **kwargs: Any) -> PyTree:
        keys = single_key(key, caller=_CALLER)
        paths = distinct_paths(params, caller=_CALLER)
        refuse_abstract(params, paths, set(), caller=_CALLER)
        signature, arrays = split(abstract(params), inputs, kwargs)
        program = trace(apply, signature, arrays, caller=_CALLER)
        analysis = analyse_sites(program)
        uses = weight_uses(program, analysis, arrays[: len(program.paths)])
        masks = _masks(units, uses)
        leaves = dict(zip(paths, jax.tree.leaves(params), strict=True))
        leaves = dict(zip(paths, jax.tree.leaves(params), strict=True))
        net = _Net(analysis, uses, leaves)
        chosen = [_assignment(path, plan, uses) for path in masks]
        fresh = draw_in_place(chosen, keys, params, paths, caller=_CALLER)
        return replaced(params, paths, net.changed(masks, fresh, outgoing == "zero"))

    return redrawn


def unit_axes(use: WeightUse) -> tuple[int, ...]:
    """Axes of a stored kernel that count its units: outputs, stacked layers, experts, heads."""
    return tuple(sorted({*use.out_axes, *use.batch_axes}))


def _masks(units: Any, uses: tuple[WeightUse, ...]) -> dict[str, Array]:
    """The masks, checked."""
    if not isinstance(units, Mapping):
        must = "`units` must be a dict from the path of a kernel to a boolean array"
        raise TypeError(message(_CALLER, must, f"units={type(units).__name__}"))
    kernels = {use.path: use for use in uses if use.role == "kernel"}
    for path, mask in units.items():
        if path not in kernels:
            use = next((use for use in uses if use.path == path), None)
            close = difflib.get_close_matches(str(path), list(kernels), 1, 0.0)
            got = f"{path!r}" if use is None else f"{path!r}, whose role is {use.role!r}"
            must = "every path in `units` must be that of a kernel"
            raise ValueError(message(_CALLER, must, got, f"Did you mean {close[0]!r}?" if close else ""))
        shape = tuple(kernels[path].shape[axis] for axis in unit_axes(kernels[path]))
        dtype = getattr(mask, "dtype", None)
        if dtype != np.bool_:
            must = "the values in `units` must be boolean arrays"
            raise TypeError(message(_CALLER, must, f"{dtype or type(mask).__name__} at {path!r}"))
        if tuple(mask.shape) != shape:
            axes = ", ".join(map(str, unit_axes(kernels[path])))
            must = f"the mask of {path!r} must have the shape {shape}, that of axes {axes} of the kernel"
            raise ValueError(message(_CALLER, must, f"shape={tuple(mask.shape)}"))
    return {path: jnp.asarray(mask) for path, mask in units.items()}


def _assignment(path: str, plan: Any, uses: tuple[WeightUse, ...]) -> Assignment:
    """How to draw a kernel: by a plan, or by an initializer for all."""
    if isinstance(plan, (Plan, list, tuple)):
        taken = assigned(as_plan(plan, caller=_CALLER).rules, uses, caller=_CALLER, every_leaf=False)
        if path not in taken:
            raise ValueError(
                message(_CALLER, "a rule of `plan` must take every kernel in `units`", f"{path!r}")
            )
        return taken[path]
    rules = as_plan([(lambda use: use.path == path, plan)], caller=_CALLER).rules
    return assigned(rules, uses, caller=_CALLER, every_leaf=False)[path]


@dataclasses.dataclass(frozen=True)
class _Net:
    """A traced network, how it uses its parameters, and their values by path."""

    analysis: Analysis
    uses: tuple[WeightUse, ...]
    leaves: dict[str, Any]

    def changed(self, masks: dict[str, Array], fresh: dict[str, Any], zero: bool) -> dict[str, Any]:
        """New values of all leaves that change: drawn first, zeros last, so that none is drawn over."""
        stored = Stored(self.analysis, [use.shape for use in self.uses])
        zeros: list[tuple[str, Tags, Array]] = []
        new: dict[str, Any] = {}
        for path, mask in masks.items():
            index = next(i for i, use in enumerate(self.uses) if use.path == path)
            tags = _unit_tags(self.uses[index])
            course = follow(self.analysis, index, tags)
            zeros += [(name, where, mask) for name, where in self.biases(course, stored, mask.size).items()]
            if zero:
                outgoing = self.outgoing(path, course, stored)
                zeros += [(name, where, mask) for name, where in outgoing.items()]
            new[path] = _where(tags, mask, fresh[path], self.leaves[path])
        for path, where, mask in zeros:
            new[path] = _where(where, mask, None, new.get(path, self.leaves[path]))
        return {path: fitting.place(value, self.leaves[path]) for path, value in new.items()}

    def outgoing(self, path: str, course: Course, stored: Stored) -> dict[str, Tags]:
        """Path -> tags of the weights that read the units."""
        reasons = course.lost
        if not reasons:
            try:
                return {self.uses[i].path: tags for i, tags in stored.rows(course.arrivals).items()}
            except NotFollowedError as reason:
                reasons = (str(reason),)
        must = f"the units of {path!r} must be followed into the weights that read them"
        advice = 'Pass `outgoing="keep"` to leave their outgoing weights as they are.'
        raise ValueError(message(_CALLER, must, f"a unit lost on its way: {reasons[0]}", advice))

    def biases(self, course: Course, stored: Stored, num_units: int) -> dict[str, Tags]:
        """Path -> tags of the biases that have one entry for each unit."""
        found = {}
        for value, tags in course.additions:
            for index in sorted(self.analysis.flow.entries[value]):
                try:
                    where = stored.at_leaf(index, value, tags) if self.uses[index].role == "bias" else None
                except NotFollowedError:
                    continue
                if where is not None and _one_each(where, self.uses[index].shape, num_units):
                    found[self.uses[index].path] = where
        return found


def _unit_tags(use: WeightUse) -> Tags:
    """A number for each unit, on the axes of the stored kernel."""
    axes = unit_axes(use)
    sizes = [size if axis in axes else 1 for axis, size in enumerate(use.shape)]
    return np.arange(math.prod(sizes)).reshape(sizes)


def _one_each(tags: Tags, shape: tuple[int, ...], num_units: int) -> bool:
    whole = np.broadcast_to(tags, shape)
    return np.array_equal(np.sort(whole[whole >= 0]), np.arange(num_units))


@jax.jit
def _where(tags: Array, mask: Array, new: Array | None, old: Array) -> Array:
    """`new`, by default zeros, where the tags are those of units in the mask, and `old` elsewhere."""
    chosen = mask.reshape(-1)[jnp.maximum(tags, 0)] & (tags > NONE)
    return jnp.where(chosen, jnp.zeros_like(old) if new is None else new, old)
