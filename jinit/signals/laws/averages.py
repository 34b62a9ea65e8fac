"""Means over entries, broadcast back to those that they were taken over."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence

import numpy as np

from jinit._typing import Array
from jinit.signals.laws import places
from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.law import Law, all_axes, average, mean_square, without
from jinit.signals.laws.roots import COTANGENT, DEVIATION, Root

# A mean over more independent entries is taken to have nothing in common with any one of them.
FEW = 64
# Nodes for the remainder of a mean: few where it is small beside the mean, as of squares, or not known.
COARSE, FINE = 6, 24
# Mean squares of a gradient that differ by less, relatively, are taken as one.
SAME = 0.01
# Of mean squares: what a sum of many adds to is not the same without it if it changes by more.
FELT = 0.02


def comes_back(law: Law, laws: Sequence[Law], shape: Sequence[int]) -> bool:
    """Whether a law that may be of averages meets entries, be it repeated already or now."""
    if law.size < math.prod(shape):
        return True
    repeated = any(r.average for r in law.roots) and all_axes(shape) - law.axes_varying()
    return bool(repeated) and any(places.others(x) for x in laws if x is not law)


def real_alike(laws: Sequence[Law]) -> list[Law]:
    """The laws, averages as roots like any other where another law has them so already."""
    real = {r for law in laws for r in law.roots if not r.average}
    found = []
    for law in laws:
        as_real = [
            i for i, r in enumerate(law.roots) if r.average and dataclasses.replace(r, average=False) in real
        ]
        found.append(_as_real(law, as_real) if as_real else law)
    return found


def forgotten(law: Law, shape: Sequence[int]) -> Law:
    """`law` with means over entries taken as exact, where it meets an array of this shape.

    The value at the mean is kept: averaging would change a function of it, so that for instance a normalised
    signal no longer had second moment one. What a gradient is multiplied by may depend on a mean by more
    than that, as behind an activation: this is kept, as something that entries share.
    """
    nodes, gone, real = law.nodes, [], []
    for i in [i for i, r in enumerate(law.roots) if r.average and not _is_of_many(r, shape)]:
        if is_felt(law, i, shape):
            real.append(i)
            continue
        if law.roots[i].kind == COTANGENT:
            exact = average(law, [i], nodes)
        else:
            exact = _middle(nodes, i)
            if law.is_linear and law.weights[i].size == FINE and _differs(law, nodes, exact, SAME):
                real.append(i)
                continue
        nodes = exact
        gone.append(i)
    return without(_as_real(law, real) if real else law, gone, nodes)


def _is_of_many(root: Root, shape: Sequence[int]) -> bool:
    """Whether it is what is left of a sum of many gradients, which counts where little else comes back."""
    whole = root.summed if root.average and root.kind == COTANGENT else None
    return whole is not None and not whole.few and whole.is_at(root, shape)


def without_unfelt(laws: Sequence[Law], shape: Sequence[int]) -> list[Law]:
    """Gradients that are added up, without those sums of many that make no difference beside the others."""
    sizes = [mean_square(law) if law.is_linear and not is_traced(law.nodes) else 0.0 for law in laws]
    found = []
    for k, law in enumerate(laws):
        least = FELT * max(sizes[:k] + sizes[k + 1 :], default=0.0)
        for i in reversed([i for i, r in enumerate(law.roots) if _is_of_many(r, shape)]):
            exact = average(law, [i])
            if mean_square(law, law.nodes - exact) > least:
                law = _as_real(law, [i])
            else:
                law = without(law, [i], exact)
        found.append(law)
    return found


def _as_real(law: Law, positions: Collection[int]) -> Law:
    roots = (
        dataclasses.replace(r, average=r.average and i not in positions) for i, r in enumerate(law.roots)
    )
    return dataclasses.replace(law, roots=tuple(roots))


def with_real(law: Law, root: Root) -> Law:
    """`law`, with the average that is `root` but for that as a root like any other."""
    average_root = dataclasses.replace(root, average=True)
    return _as_real(law, [law.roots.index(average_root)]) if average_root in law.roots else law


def is_felt(law: Law, i: int, shape: Sequence[int]) -> bool:
    """Whether what is left of a known sum, at position `i`, makes a difference to an array of this shape.

    Not where it is no longer known of which of them it is, as behind a reshape.
    """
    root = law.roots[i]
    known = root.smoothed if root.summed is None else root.summed
    if known is None or not known.is_at(root, shape):
        return False
    if root.summed is None:
        return True
    if root.summed.few or is_traced(law.nodes) or not np.issubdtype(law.nodes.dtype, np.floating):
        return root.summed.few
    exact = average(law, [i]) if root.kind == COTANGENT else _middle(law.nodes, i)
    if root.kind == COTANGENT:
        return mean_square(law, law.nodes - exact) > FELT * mean_square(root.summed.law)
    return _differs(law, law.nodes, exact, FELT)


def _middle(nodes: Array, i: int) -> Array:
    """The value at the mean, of a root on an even number of nodes the mean of the two beside it."""
    n = nodes.shape[i]
    before, after = (xp.take(nodes, np.asarray([k]), axis=i) for k in ((n - 1) // 2, n // 2))
    return (before + after) / 2 if np.issubdtype(nodes.dtype, np.inexact) else before


def _differs(law: Law, nodes: Array, exact: Array, least: float) -> bool:
    """Whether the mean square is another one, relatively by more than that."""
    whole, left = (mean_square(law, x) for x in (nodes, exact))
    return abs(whole - left) > least * whole


def without_deviations(laws: Sequence[Law]) -> list[Law]:
    """Signals, each with a standard deviation as of many where it meets entries that are not known by it."""
    if any(law.is_linear for law in laws):
        return list(laws)
    return [_as_of_many(law, [other for other in laws if other is not law]) for law in laws]


def _as_of_many(law: Law, others: Sequence[Law]) -> Law:
    met = [x for x in others if not x.is_weight]
    gone = [
        i for i, r in enumerate(law.roots)
        if r.kind == DEVIATION and not law.axes_varying() - r.axes
        and any(x.axes_varying() - r.axes for x in met) and not any(r in x.roots for x in met)
    ]  # fmt: skip
    last = tuple(slice(-1, None) if i in gone else slice(None) for i in range(len(law.roots)))
    return without(law, gone, law.nodes[last])
