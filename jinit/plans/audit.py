"""How each weight is used: role, true fans, how often, by tracing alone."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jinit._typing import Array, PyTree, at_least_float32
from jinit.jaxprs.sites import Analysis, analyse_sites
from jinit.jaxprs.tracing import Program, check_call, split, trace
from jinit.jaxprs.views import Scanned, find_views, scanned_axes
from jinit.plans.order import Kernel, Order, Place
from jinit.plans.roles import first_uses, weight_makers
from jinit.plans.site_uses import SiteUse, site_uses
from jinit.plans.uses import Role, WeightUse


def audit(apply: Callable[..., PyTree]) -> Callable[..., tuple[WeightUse, ...]]:
    """How each parameter of a network is used: its role, its true fans, how often.

    Frameworks read fans off an array's shape. The shape does not say which axes are summed over, which
    are heads, experts or scanned layers, how many products of a transposed convolution fall on zeros. The
    traced program does. `fan_in` is the number for which, with independent entries,

        Var[output entry] = fan_in · Var[w] · E[x²]

    holds at the site itself, and `fan_out` the same going backward. Nothing is computed but the scale of
    concrete parameters: `apply` is traced once, on shapes.

    Args:
      apply: any pure `(params, *inputs, **kwargs) -> outputs`.

    Returns:
      A function of `(params, *inputs, **kwargs)`, arrays or `jax.ShapeDtypeStruct`, that returns a
      `WeightUse` for every array of `params`, in the order of `jax.tree.leaves`.

    Raises:
      TypeError: `apply` is no function.
      ValueError: `params` is empty. Whatever `apply` raises comes through, with a note on its arguments.

    Example:
      >>> import flax.linen as nn, jax, jinit
      >>> layer = nn.ConvTranspose(8, (4, 4), strides=(2, 2))
      >>> x = jax.ShapeDtypeStruct((1, 16, 16, 32), "float32")
      >>> params = jax.eval_shape(layer.init, jax.random.key(0), x)
      >>> bias, kernel = jinit.audit(layer.apply)(params, x)
      >>> kernel.role, kernel.fan_in, kernel.fan_out  # 4·4·32 products, 3 in 4 of them with a zero
      ('kernel', 128.0, 128.0)
      >>> bias.role, bias.fan_in
      ('bias', None)

    References:
      Glorot and Bengio, *Understanding the difficulty of training deep feedforward neural networks*, 2010,
      §4.2.1; He et al., *Delving Deep into Rectifiers*, 2015, §2.2, for the two fans.
    """
    return audit_for("jinit.audit(...)", apply)


def audit_for(caller: str, apply: Callable[..., PyTree]) -> Callable[..., tuple[WeightUse, ...]]:
    """`audit` in the name of `caller`."""
    check_call(apply, caller=caller)

    def audited(params: PyTree, *inputs: Any, **kwargs: Any) -> tuple[WeightUse, ...]:
        signature, arrays = split(params, inputs, kwargs)
        program = trace(apply, signature, arrays, caller=caller)
        return weight_uses(program, analyse_sites(program), arrays[: len(program.paths)])

    return audited


def weight_uses(program: Program, analysis: Analysis, leaves: Sequence[Array]) -> tuple[WeightUse, ...]:
    """The use of every parameter of a traced and analysed program."""
    shapes = [tuple(x.shape) for x in leaves]
    at_sites: dict[int, list[SiteUse]] = defaultdict(list)
    views = find_views(analysis.graph, analysis.flow, shapes)
    for use in site_uses(analysis, views, shapes):
        at_sites[use.leaf].append(use)
    order = Order([_kernel(uses, shapes) for uses in at_sites.values() if not all(u.lookup for u in uses)])
    elsewhere = _elsewhere(program, analysis, shapes, scanned_axes(analysis.graph, views))
    deviations = _deviations(leaves)
    found = []
    for index, (path, leaf) in enumerate(zip(program.paths, leaves, strict=True)):
        facts = _at_sites(at_sites[index], order, index) if index in at_sites else elsewhere(index, order)
        deviation = deviations[index]
        if deviation is not None and facts.get("fan_in"):
            facts["gain"] = deviation * math.sqrt(facts["fan_in"])
        found.append(WeightUse(path, shapes[index], leaf.dtype, **facts, count=order.count))
    return tuple(found)


def _kernel(uses: list[SiteUse], shapes: list[tuple[int, ...]]) -> Kernel:
    first = next(use for use in uses if not use.lookup)
    loops = tuple((loop, shapes[first.leaf][axis]) for axis, loop in first.scanned)
    return Kernel(first.leaf, first.address, loops)


def _at_sites(uses: list[SiteUse], order: Order, index: int) -> dict[str, Any]:
    """What holds of a parameter that has sites; its largest fan decides, so that no use explodes."""
    lookup = any(use.lookup for use in uses)
    kernels = [use for use in uses if not use.lookup]
    main = max(kernels or uses, key=lambda use: use.fan_in or 0.0)
    loops = [loop for _, loop in main.scanned]
    place = order.places.get(index) or order.near(uses[0].address, loops)
    return {
        "role": "embedding" if lookup else "kernel",
        "fan_in": main.fan_in,
        "fan_out": main.fan_out,
        "in_axes": main.in_axes,
        "out_axes": main.out_axes,
        "batch_axes": main.batch_axes,
        "scan_axes": tuple(axis for axis, _ in main.scanned),
        "uses": len(uses),
        "sites": tuple(use.site for use in uses),
        "index": place.index,
        "steps": place.steps,
        "note": main.note,
    }


def _elsewhere(
    program: Program, analysis: Analysis, shapes: list[tuple[int, ...]], scanned: dict[int, Scanned]
) -> Callable[[int, Order], dict[str, Any]]:
    """What holds of a parameter that has no site."""
    stacks = {i: math.prod(shapes[i][axis] for axis, _ in scanned[i]) for i in scanned}
    roles, places = first_uses(
        analysis, [math.prod(s) // max(1, stacks.get(i, 1)) for i, s in enumerate(shapes)]
    )
    unused, notes = set(analysis.sites.unused), analysis.sites.not_followed
    makers = weight_makers(analysis, list(range(len(shapes))))
    in_collections = "params/" in {path[:7] for path in program.paths}

    def facts(index: int, order: Order) -> dict[str, Any]:
        path, stacked = program.paths[index], [axis for axis, _ in scanned.get(index, ())]
        long = [axis for axis, size in enumerate(shapes[index]) if size > 1 and axis not in stacked]
        role: Role = roles.get(index, "scale" if index in makers and len(long) <= 1 else "other")
        if path in unused:
            role = "unused"
        elif in_collections and not path.startswith("params/"):
            role = "other"  # batch statistics and other state of a linen module
        loops = [loop for _, loop in scanned.get(index, ())]
        place = order.near(places[index], loops) if index in places else Place(0, (0,) * len(loops))
        return {
            "role": role,
            "batch_axes": tuple(sorted(stacked)),
            "scan_axes": tuple(stacked),
            "index": place.index,
            "steps": place.steps,
            "note": notes.get(path, ""),
        }

    return facts


@jax.jit
def _deviation(x: Array) -> Array:
    return jnp.std(x.astype(at_least_float32(x.dtype)))


def _deviations(leaves: Sequence[Array]) -> list[float | None]:
    """Standard deviation of every concrete floating parameter; None for abstract and traced ones."""

    def deviation(x: Any) -> Array | None:
        concrete = isinstance(x, (jax.Array, np.ndarray)) and not isinstance(x, Tracer)
        return _deviation(x) if concrete and x.size and jnp.issubdtype(x.dtype, jnp.inexact) else None

    return [None if d is None else float(d) for d in jax.device_get([deviation(x) for x in leaves])]
