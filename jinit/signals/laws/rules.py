"""What each primitive does to laws, where it is no function of single entries."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np

from jinit._typing import Array
from jinit.jaxprs.graph import COPIES
from jinit.signals.laws import joining, moving, places
from jinit.signals.laws.arrays import xp
from jinit.signals.laws.coarse import as_coarse
from jinit.signals.laws.contracting import contract
from jinit.signals.laws.extremes import maximum
from jinit.signals.laws.holding import unknown
from jinit.signals.laws.largest import to_the_largest
from jinit.signals.laws.law import Law, all_axes, as_float, average, constant, plus_normal, squared
from jinit.signals.laws.lookups import gathered
from jinit.signals.laws.meeting import Contraction, of_convolution, of_dot
from jinit.signals.laws.moving import relabelled
from jinit.signals.laws.padding import padded
from jinit.signals.laws.pointwise import cast, pointwise
from jinit.signals.laws.pooling import pooled
from jinit.signals.laws.roots import COTANGENT, PLACE, Root
from jinit.signals.laws.totals import total
from jinit.signals.laws.windows import windows_of

Rule = Callable[[Any, list[Law], Hashable], list[Law]]


def contraction_of(eqn: Any) -> Contraction:
    """How the axes meet in a `dot_general` or a convolution."""
    return of_dot(eqn) if eqn.primitive.name == "dot_general" else of_convolution(eqn)


def contracted(eqn: Any, laws: list[Law], name: Hashable, weight: int | None = None) -> list[Law]:
    """A contraction of two laws."""
    a, b = as_coarse([as_float(laws[0]), as_float(laws[1])])
    how, aval = contraction_of(eqn), eqn.outvars[0].aval
    if _share_summed_roots(a, b, how):
        return [_contracted_together(a, b, how, aval, name)]
    return [contract(a, b, how, aval.dtype, name, weight=weight)]


def _share_summed_roots(a: Law, b: Law, how: Contraction) -> bool:
    def summed(law: Law, side: int) -> set[tuple[Hashable, frozenset[int]]]:
        found = set()
        for r in law.roots:
            axes = frozenset[int]().union(*(how.axes[side][i] for i in r.axes if r.kind != PLACE))
            found |= {(r.name, axes)} if axes & how.counts.keys() else set()
        return found

    return bool(summed(a, 0) & summed(b, 1))


def _contracted_together(a: Law, b: Law, how: Contraction, aval: Any, name: Hashable) -> Law:
    """The sum of a product of dependent factors, as that of squares."""
    wide = (*how.shape, *(2 for _ in how.counts))
    shape = jax.ShapeDtypeStruct(wide, aval.dtype)
    laws = [relabelled(x, m, wide) for x, m in zip((a, b), how.axes, strict=True)]
    (product,) = pointwise(lambda x, y: [x * y], laws, [shape], (name, "product"), "mul")
    return dataclasses.replace(
        total(
            product, frozenset(how.counts), (*how.shape, *(1 for _ in how.counts)), name, counts=how.counts
        ),
        shape=how.shape,
    )


def _dropped(axes: Any, rank: int) -> list[frozenset[int]]:
    kept = [i for i in range(rank) if i not in axes]
    place = {axis: k for k, axis in enumerate(kept)}
    return [frozenset([place[i]] if i in place else ()) for i in range(rank)]


def _reduce_sum(eqn: Any, laws: list[Law], name: Hashable) -> list[Law]:
    axes, law = frozenset(eqn.params["axes"]), as_float(laws[0])
    shape = [1 if i in axes else n for i, n in enumerate(law.shape)]
    summed = total(law, axes, shape, name)
    return [relabelled(summed, _dropped(axes, len(shape)), eqn.outvars[0].aval.shape)]


def _psum(eqn: Any, laws: list[Law], name: Hashable) -> list[Law]:
    """The sum over an axis that `jax.vmap` had a name for."""
    if not all(isinstance(i, (int, np.integer)) for i in eqn.params["axes"]):
        return unknown(eqn, "`psum` over devices has no rule")  # type: ignore[return-value]
    return [
        _reduce_sum(eqn.replace(outvars=[out]), [law], (name, i))[0]
        for i, (out, law) in enumerate(zip(eqn.outvars, laws, strict=True))
    ]


def _reduce_max(eqn: Any, laws: list[Law], name: Hashable) -> list[Law]:
    axes = frozenset(eqn.params["axes"])
    law = places.as_signals(laws[0], axes)
    varying = frozenset().union(*(r.axes & axes for r in law.roots))
    shape = [1 if i in axes else n for i, n in enumerate(law.shape)]
    count = math.prod(law.shape[i] for i in varying)
    largest = maximum(law, axes, name, shape, count, final=False)
    return [relabelled(largest, _dropped(axes, len(shape)), eqn.outvars[0].aval.shape)]


def _reduce_min(eqn: Any, laws: list[Law], name: Hashable) -> list[Law]:
    minus = dataclasses.replace(laws[0], nodes=-laws[0].nodes)
    (largest,) = _reduce_max(eqn, [minus], name)
    return [dataclasses.replace(largest, nodes=-largest.nodes)]


def _window_sum(eqn: Any, laws: list[Law], name: Hashable) -> list[Law]:
    windows, law, shape = windows_of(eqn), as_float(laws[0]), eqn.outvars[0].aval.shape
    picked = frozenset(i for i, (m, n) in enumerate(zip(law.shape, shape, strict=True)) if m != n)
    summed = pooled(law, windows, shape, name)
    return [moving.rearranged(summed, picked - windows.counts.keys(), shape, name)]


def _window_max(eqn: Any, laws: list[Law], name: Hashable) -> list[Law]:
    windows = windows_of(eqn)
    law, counts = windows.middles(laws[0]), windows.counts
    varying = frozenset().union(*(r.axes for r in law.roots if r.kind != PLACE)) & frozenset(counts)
    count = math.prod(counts[i] for i in varying)
    return [maximum(law, frozenset(counts), name, eqn.outvars[0].aval.shape, count, final=True)]  # type: ignore[arg-type]


def _scatter_to_largest(eqn: Any, laws: list[Law], name: Hashable) -> list[Law]:
    """The gradient of a maximum over windows."""
    windows, shape = windows_of(eqn), eqn.outvars[0].aval.shape
    gradient, operand, counts = windows.back(as_float(laws[0])), laws[1], windows.counts
    often = math.prod(gradient.shape) * math.prod(counts.values()) / math.prod(shape)
    steps = {i: (eqn.params["window_strides"][i], gradient.shape[i]) for i in counts}
    return [to_the_largest(operand, gradient, counts, often, shape, name, steps)]


def rows_added(eqn: Any, laws: list[Law], name: Hashable, square: Array | None = None) -> list[Law]:
    """Rows added up by index: each gets as many as come on average; of this mean square, if it is known."""
    start, updates = (places.as_signals(as_float(x)) for x in (laws[0], laws[-1]))
    window = frozenset(eqn.params["dimension_numbers"].update_window_dims)
    picks = frozenset(range(len(updates.shape))) - window
    shape = eqn.outvars[0].aval.shape
    share = updates.size / max(math.prod(shape), 1)
    varying = [i for i, r in enumerate(updates.roots) if r.axes & picks]
    mean = average(updates, varying)
    own = average(updates, varying, squared(updates.nodes - mean))
    squares = average(updates, of=squared(mean)).reshape(())
    variance = share * average(updates, of=own).reshape(()) + squares * max(share, share**2)
    variance = variance if square is None else square
    offset = average(updates).reshape(()) * xp.asarray(share, mean.dtype)
    out = constant(average(start).reshape(()) + offset, shape, start.dtype)
    variance = variance + average(start, of=squared(start.nodes - average(start))).reshape(()) - offset**2
    kind = {True: COTANGENT, False: "signal"}[start.is_linear or updates.is_linear]
    return [plus_normal(out, variance, Root(name, all_axes(shape), kind), 128)]


def _update_slice(eqn: Any, laws: list[Law], name: Hashable) -> list[Law]:
    start, update = laws[:2]
    shape = eqn.outvars[0].aval.shape
    axes = frozenset(i for i, (m, n) in enumerate(zip(shape, update.shape, strict=True)) if m != n)
    share = update.size / max(math.prod(shape), 1)
    return [joining.mixture([start, update], [1 - share, share], axes, shape, name)]


def _identity(eqn: Any, laws: list[Law], name: Hashable) -> list[Law]:
    return list(laws)


RULES: dict[str, Rule] = {
    "dot_general": contracted,
    "conv_general_dilated": contracted,
    "reduce_sum": _reduce_sum,
    "psum": _psum,
    "reduce_max": _reduce_max,
    "reduce_min": _reduce_min,
    "reduce_window_sum": _window_sum,
    "reduce_window_max": _window_max,
    "select_and_scatter_add": _scatter_to_largest,
    "scatter-add": rows_added,
    "scatter_add": rows_added,
    "broadcast_in_dim": lambda e, x, n: [
        moving.broadcast(x[0], e.params["broadcast_dimensions"], e.outvars[0].aval.shape)
    ],
    "reshape": lambda e, x, n: [moving.reshaped(x[0], e.outvars[0].aval.shape)],
    "squeeze": lambda e, x, n: [moving.squeezed(x[0], e.params["dimensions"], e.outvars[0].aval.shape)],
    "expand_dims": lambda e, x, n: [moving.reshaped(x[0], e.outvars[0].aval.shape)],
    "transpose": lambda e, x, n: [moving.transposed(x[0], e.params["permutation"])],
    "slice": lambda e, x, n: [moving.sliced(x[0], e)],
    "split": lambda e, x, n: moving.split(x[0], e),
    "tile": lambda e, x, n: [moving.tiled(x[0], e.params["reps"], n)],
    "rev": lambda e, x, n: [moving.reversed_along(x[0], e.params["dimensions"])],
    "dynamic_slice": lambda e, x, n: [moving.dynamically_sliced(x[0], e.outvars[0].aval.shape, n)],
    "dynamic_update_slice": _update_slice,
    "gather": lambda e, x, n: [gathered(x[0], e, n)],
    "concatenate": lambda e, x, n: [
        joining.concatenated(x, e.params["dimension"], e.outvars[0].aval.shape, n)
    ],
    "pad": lambda e, x, n: [padded(x[0], x[1], e, n)],
    **dict.fromkeys((*COPIES, "optimization_barrier"), _identity),
    "convert_element_type": lambda e, x, n: [cast(x[0], e.params["new_dtype"])],
}  # fmt: skip
