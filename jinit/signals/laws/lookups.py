"""Rows picked by index: along which axes they differ, and which of them are the same."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable
from typing import Any

import numpy as np

from jinit._typing import Array
from jinit.signals.laws import places
from jinit.signals.laws.align import sizes_of
from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.law import Law, average, constant, plus_normal, squared, two_moments
from jinit.signals.laws.moving import relabelled, squeezed, without_runs
from jinit.signals.laws.parts import spread_by_reach
from jinit.signals.laws.pointwise import pointwise
from jinit.signals.laws.runs import Axes
from jinit.signals.laws.values import Held, Value

# Rows that come again are told apart from others if, of those that one stands beside, so many are it.
SEEN = 0.02


def gathered(law: Law, eqn: Any, name: Hashable) -> Law:
    """`gather`: rows picked by index stand along the axes of the indices."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape = eqn.outvars[0].aval.shape
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    windows = [i for i in range(len(law.shape)) if i not in gone]
    place = dict(zip(windows, numbers.offset_dims, strict=True))
    batch = frozenset(range(len(shape))) - frozenset(numbers.offset_dims)
    axis_map, picked = [], set()
    for i, (size, whole) in enumerate(zip(sizes, law.shape, strict=True)):
        partial = size < whole
        axis_map.append(
            (frozenset([place[i]]) if i in place else frozenset()) | (batch if partial else frozenset())
        )
        picked |= {i} if partial else set()
    law = places.as_signals(without_runs(law, frozenset(picked)), picked)
    law = law.without_sums(frozenset(picked))
    return relabelled(law, axis_map, shape, lambda r: (r.name, name) if r.axes & picked else r.name)


def looked_up(eqn: Any, table: Value, indices: Value, name: Hashable) -> Law | None:
    """Numbers of a table along one axis, by an index that is a function of entries: so are they."""
    if not isinstance(table, Held) or not isinstance(indices, Law) or len(table.shape) != 1:
        return None
    if is_traced(table.array) or indices.shape[-1] != 1 or eqn.params["slice_sizes"] != (1,):
        return None
    numbers, out = np.asarray(table.whole()), eqn.outvars[0].aval
    if out.shape not in (indices.shape, indices.shape[:-1]):
        return None

    def number(at: Any) -> list[Any]:
        return [xp.asarray(numbers)[xp.clip(at, 0, len(numbers) - 1)]]

    at = indices if out.shape == indices.shape else squeezed(indices, [len(out.shape)], out.shape)
    (found,) = pointwise(number, [at], [out], name)
    return found


def repeats(eqn: Any, indices: Value) -> Axes:
    """Axes of the result of a `gather` along which the same rows come again, for the indices are the same."""
    if eqn.primitive.name != "gather" or eqn.params["dimension_numbers"].operand_batching_dims:
        return frozenset()
    result = [
        i for i in range(eqn.outvars[0].aval.ndim) if i not in eqn.params["dimension_numbers"].offset_dims
    ]
    if isinstance(indices, Law):
        return frozenset(i for k, i in enumerate(result) if k not in indices.axes_varying())
    if not isinstance(indices, Held):
        return frozenset()
    x = indices.array
    return frozenset(i for k, i in enumerate(result) if x.shape[k] == 1 or _is_constant_along(x, k))


def _is_constant_along(x: Any, axis: int) -> bool:
    return not is_traced(x) and bool(np.all(np.asarray(x) == np.take(x, [0], axis)))


def of_rows(law: Law, eqn: Any, indices: Value, name: Hashable) -> Law:
    """`law`, of rows picked by these indices, with what those that come again share."""
    same = repeats(eqn, indices)
    law = _repeated(law, same)
    if eqn.primitive.name != "gather" or not isinstance(indices, Held) or is_traced(indices.array):
        return law
    return _with_rows_again(law, eqn, np.asarray(indices.whole()), same, name)


def _repeated(law: Law, axes: Axes) -> Law:
    """`law`, the same along these axes."""
    law = places.as_signals(without_runs(law, axes), axes)
    roots = tuple(dataclasses.replace(r, axes=r.axes - axes) for r in law.roots)
    return dataclasses.replace(law, roots=roots)


def _with_rows_again(law: Law, eqn: Any, indices: np.ndarray, same: Axes, name: Hashable) -> Law:
    """A normal for each set of axes of the indices, of as much as rows share that differ along no others."""
    numbers = eqn.params["dimension_numbers"]
    result = [i for i in range(len(law.shape)) if i not in numbers.offset_dims]
    rows = indices[tuple(slice(0, 1) if i in same else slice(None) for i in result)]
    differ = frozenset(i for i, n in zip(result, rows.shape, strict=False) if n > 1)
    plain = rows.shape[-1] == 1 and not numbers.operand_batching_dims and len(law.roots) == 1
    if not plain or not differ or not law.roots[0].axes >= differ:
        return law
    shares = {frozenset(result[k] for k in own): share for own, share in _shares(rows[..., 0]).items()}
    beside = {own: math.prod(law.shape[i] for i in differ - own) for own in shares}
    if not any(n > 1 and shares[own] * n > SEEN for own, n in beside.items()):
        return law
    kept = sorted(
        (own for own, share in shares.items() if share > 0), key=lambda own: (len(own), sorted(own))
    )
    mean, variance = two_moments(law)
    found = dataclasses.replace(constant(mean, law.shape, law.dtype), is_normal=True)
    for k, (own, size) in enumerate(zip(kept, sizes_of(len(kept), ()), strict=True)):
        axes = (law.roots[0].axes - differ) | own
        root = dataclasses.replace(law.roots[0], name=(name, k), axes=axes)
        found = plus_normal(found, variance * np.float32(shares[own]), root, size)
    return found


def _shares(rows: np.ndarray) -> dict[Axes, float]:
    """Of the variance of a row, what those that differ along no other axes share."""
    pairs, differ = pairs_of(rows), frozenset(i for i, n in enumerate(rows.shape) if n > 1)
    often = {along: same / max(whole, 1) for along, (same, whole) in pairs.items() if along < differ}
    chance = often[frozenset()]
    shares = {along: max(x - chance, 0.0) if along else x for along, x in often.items()}
    return {**shares, differ: max(1 - sum(shares.values()), 0.0)}


def pairs_of(rows: np.ndarray) -> dict[Axes, tuple[float, float]]:
    """Ordered pairs of indices that stand at the same place along some axes alone: with equal rows, and all.

    Of the first axis that varies, and of the others, which count as one.
    """
    varying = [i for i, n in enumerate(rows.shape) if n > 1]
    first, rest = frozenset(varying[:1]), frozenset(varying[1:])
    flat = rows.reshape(rows.shape[varying[0]] if varying else 1, -1)
    codes = np.unique(flat, return_inverse=True)[1].reshape(flat.shape)
    (b, t), kinds = codes.shape, codes.max(initial=0) + 1
    within = _pairs(codes + kinds * np.arange(b)[:, None])
    across = _pairs(codes + kinds * np.arange(t)[None])
    both = _pairs(codes) - within - across
    found = {frozenset[int](): (both, b * (b - 1.0) * t * (t - 1.0))}
    if not rest:
        return {frozenset(): (across, b * (b - 1.0)), first: (float(b), float(b))}
    return {
        **found,
        first: (within, b * t * (t - 1.0)),
        rest: (across, t * b * (b - 1.0)),
        first | rest: (float(b * t), float(b * t)),
    }


def _pairs(codes: np.ndarray) -> float:
    _, counts = np.unique(codes, return_counts=True)
    return float((counts * (counts - 1.0)).sum())


def added(eqn: Any, updates: Law, indices: Value) -> Array | None:
    """Mean square of the sums of rows that have the same index, if indices are known: of what comes to one.

    A part of the rows that differs along some axes of the indices adds up over all pairs that differ along no
    others.
    """
    numbers = eqn.params["dimension_numbers"]
    window = frozenset(numbers.update_window_dims)
    batch = [i for i in range(len(updates.shape)) if i not in window]
    if not isinstance(indices, Held) or is_traced(indices.array) or indices.shape[-1] != 1:
        return None
    rows = np.asarray(indices.whole())[..., 0]
    if rows.ndim != len(batch) or not rows.size:
        return None
    pairs = {frozenset(batch[k] for k in own): same for own, (same, _) in pairs_of(rows).items()}
    mean, parts = spread_by_reach(updates, places.others(updates))
    whole: Any = xp.zeros((), updates.nodes.dtype)
    for axes, square in [(frozenset[int](), squared(mean)), *((r.axes, v) for r, v in parts.items())]:
        along = axes & {i for i in batch if updates.shape[i] > 1}
        number = sum(same for own, same in pairs.items() if own >= along)
        whole = whole + average(updates, of=square).reshape(()) * xp.asarray(number, updates.nodes.dtype)
    columns = math.prod(updates.shape[i] for i in window)
    return whole * xp.asarray(columns / eqn.outvars[0].aval.size, whole.dtype)
