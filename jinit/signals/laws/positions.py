"""What positions of one class of places differ by, which is known where their correlations are."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jinit._typing import Array
from jinit.signals.laws import places
from jinit.signals.laws.arrays import is_traced
from jinit.signals.laws.classes import means_of
from jinit.signals.laws.kernels import Kernel, grouped
from jinit.signals.laws.law import Law, average, squared
from jinit.signals.laws.roots import Root
from jinit.signals.laws.runs import Reach, Run, kernel_of, runs_of


def with_covariances(law: Law, i: int, axis: int, kernel: Kernel) -> Law:
    """`law`, the copies of a root along an axis of these covariances, and of their mean variance by class."""
    k = places.position_along(law, axis)
    known = None if k is None else law.roots[k].places
    of = np.zeros(kernel.size, int) if known is None else np.asarray(known.of)
    variance = kernel.by_entry
    size = np.sqrt(means_of(of, variance))
    along = [len(size) if j == k else 1 for j in range(len(law.roots))]
    mean = average(law, [i])
    nodes = mean + (law.nodes - mean) * size.reshape(along).astype(law.nodes.dtype)
    run = Run.of(kernel.scaled(grouped(1 / np.maximum(size, 1e-6)[of])))
    root = dataclasses.replace(law.roots[i], runs=runs_of({**dict(law.roots[i].runs), axis: run}))
    return dataclasses.replace(law, nodes=nodes, roots=(*law.roots[:i], root, *law.roots[i + 1 :]))


def without_places(law: Law, axis: int) -> Law:
    """`law`, of one class of places along an axis, the copies of its roots there as large as they were."""
    i = places.position_along(law, axis)
    if i is None or is_traced(law.nodes):
        return law
    size, roots = law.shape[axis], list(law.roots)
    for k in places.others(law):
        variance = np.broadcast_to(places.along_axis(variance_of(law, k), law.roots, axis), size)
        if not np.mean(variance) > 0:
            continue
        before = Reach(roots[k].axes, roots[k].runs)
        run = before.run(axis) if axis in before.axes else float(size)
        deviation = grouped(np.sqrt(variance / np.mean(variance)))
        now = runs_of({**dict(before.runs), axis: Run.of(kernel_of(run, size).scaled(deviation))})
        name = roots[k].name if axis in before.axes else (roots[k].name, "by place", axis)
        roots[k] = dataclasses.replace(roots[k], name=name, axes=before.axes | {axis}, runs=now)
    return places.alike(dataclasses.replace(law, roots=tuple(roots)), [axis])


def refined(laws: Sequence[Law]) -> list[Law]:
    """The laws, with the same classes of places along the same axes; gradients with what these differ by."""
    found = places.refined(laws)
    if not any(law.is_linear for law in laws):
        return found
    at = places.union_of(found)
    return [
        _with_runs(law, after, [r for r in at if _has_runs(law, r)]) if law.is_linear else after
        for law, after in zip(laws, found, strict=True)
    ]


def refined_apart(laws: Sequence[Law]) -> list[Law]:
    """The same of laws whose roots are those of no other, be they gradients or signals."""
    return [_with_runs(law, after, ()) for law, after in zip(laws, places.refined(laws), strict=True)]


def _has_runs(law: Law, at: Root) -> bool:
    """Whether correlations along the axis of these places are known."""
    return any(isinstance(run, Run) for r in law.roots for k, run in r.runs if k in at.axes)


def _with_runs(before: Law, after: Law, at: Sequence[Root]) -> Law:
    """`after`, the copies of its roots as large as before, in other classes or at these places as well."""
    if is_traced(before.nodes):
        return after
    own = [r for i, r in enumerate(after.roots) if i in places.positions(after)]
    new = [r for r in at if r not in own]
    if after is before and not new:
        return after
    after = places.along(after, [*own, *new]) if new else after
    for i in places.others(after):
        for axis, run in after.roots[i].runs:
            if not isinstance(run, Run) or run.kernel.size != after.shape[axis]:
                continue
            if axis in places.axes_of(after) | places.axes_of(before):
                was, now = (_along(x, after.roots[i], axis) for x in (before, after))
                size = np.sqrt(np.where(now > 0, was / np.where(now > 0, now, 1), 1))
                kernel = run.kernel.scaled(grouped(np.broadcast_to(size, run.kernel.size)))
                after = with_covariances(after, i, axis, kernel)
    return after


def _along(law: Law, root: Root, axis: int) -> np.ndarray:
    """The variance of what depends on a root, at each index along an axis."""
    i = next(i for i, r in enumerate(law.roots) if (r.name, r.axes) == (root.name, root.axes))
    return places.along_axis(variance_of(law, i), law.roots, axis)


def variance_of(law: Law, i: int) -> Array:
    """Of what depends on the root at position `i`, by place."""
    return average(law, places.others(law), squared(law.nodes - average(law, [i])))
