"""Means over entries, broadcast back to those that they were taken over."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence

import jax
import numpy as np

from jinit._typing import Array
from jinit.signals.laws import places
from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.grids import grid_of, on_grid
from jinit.signals.laws.law import Axes, Law, all_axes, average, mean_square, squared, without
from jinit.signals.laws.parts import parts_by_reach
from jinit.signals.laws.roots import COTANGENT, DEVIATION, Root
from jinit.signals.laws.runs import copies_in

# A mean over more independent entries is taken to have nothing in common with any one of them.
FEW = 64
# Nodes for the remainder of a mean: few where it is small beside the mean, as of squares, or not known.
COARSE, FINE = 6, 24
# Mean squares of a gradient that differ by less, relatively, are taken as one.
SAME = 0.01
# The largest grid to say what it has in common on.
LARGEST = 2**18


@dataclasses.dataclass(frozen=True, eq=False)
class Summed:
    """What a sum was taken over.

    Attributes:
      law: of the entries.
      axes: along which they were added up.
      left: axes along which the sums differ.
    """

    law: Law
    axes: Axes
    left: Axes

    def in_common(self) -> Law:
        """What the mean has in common with an entry, in standard deviations of the mean.

        The mean of `n` independent copies of a part `x` is `x / n` and what the others add. It comes back
        for a projection, which leaves `v - V` of a variance `v`, where `V` is that of the mean. As what the
        others add is left out, `x / n` counts by so much that this holds.
        """
        law, dtype = self.law, self.law.nodes.dtype
        varying = [i for i, r in enumerate(law.roots) if r.axes & self.axes]
        counts = {i: float(law.shape[i]) for i in self.axes}
        common, variance, known = (xp.zeros((), dtype) for _ in range(3))
        for reach, x in parts_by_reach(law, varying):
            if reach is not None:
                n = xp.asarray(copies_in(reach, counts, law.shape), dtype)
                v = average(law, varying, squared(x))
                common, variance, known = common + x / n, variance + v / n, known + v / n**2
        least = xp.asarray(np.finfo(dtype).tiny, dtype)
        variance = xp.maximum(variance, least)
        share = xp.clip(known / variance, least, 1)
        counted = (1 - xp.sqrt(1 - share)) / share
        common = xp.broadcast_to(counted * common / xp.sqrt(variance), law.nodes.shape)
        return dataclasses.replace(law, nodes=common)


def summed(law: Law, axes: Axes, left: Axes, copies: Sequence[float]) -> Summed | None:
    """What a gradient is summed over, if there are few independent copies of any of its parts."""
    few = law.is_linear and not is_traced(law.nodes) and min(copies) <= FEW
    return Summed(law, axes, left) if few else None


def comes_back(law: Law, laws: Sequence[Law], shape: Sequence[int]) -> bool:
    """Whether a law that may be of averages meets entries, be it repeated already or now."""
    if law.size < math.prod(shape):
        return True
    repeated = any(r.average for r in law.roots) and all_axes(shape) - law.axes_varying()
    return bool(repeated) and any(places.others(x) for x in laws if x is not law)


def returned(law: Law, shape: Sequence[int]) -> Law:
    """`law`, of an array of this rank, broadcast to `shape`."""
    known = [r for r in law.roots if _is_of(r, shape)]
    law = forgotten(law, but=known)
    for root in known:
        law = _with_common(law, root) or law
    return forgotten(law)


def _is_of(root: Root, shape: Sequence[int]) -> bool:
    whole = root.summed
    return root.average and whole is not None and whole.law.shape == tuple(shape) and whole.left == root.axes


def _with_common(law: Law, root: Root) -> Law | None:
    """`law`, with the average at `root` as a function of the entry; unless that takes too large a grid."""
    i = law.roots.index(root)
    common = root.summed.in_common()
    slope = (law.nodes.take(xp.asarray([1]), i) - law.nodes.take(xp.asarray([0]), i)) / 2
    laws = [without(law, [i], average(law, [i])), without(law, [i], slope), common]
    laws = places.refined(laws)
    if grid_of(laws) > LARGEST:
        return None
    out = jax.ShapeDtypeStruct(common.shape, law.dtype)
    (found,) = on_grid(lambda mean, a, x: [mean + a * x], laws, [out])
    return dataclasses.replace(found, fixed_sums=law.fixed_sums, alike=root.summed.axes)


def forgotten(law: Law, but: Collection[Root] = ()) -> Law:
    """`law` with means over entries taken as exact, `but` for these.

    The value at the mean is kept: averaging would change a function of it, so that for instance a normalised
    signal no longer had second moment one. What a gradient is multiplied by may depend on a mean by more
    than that, as behind an activation: this is kept, as something that entries share.
    """
    nodes, gone, real = law.nodes, [], []
    for i in [i for i, r in enumerate(law.roots) if r.average and r not in but]:
        if law.roots[i].kind == COTANGENT:
            exact = average(law, [i], nodes)
        else:
            exact = _middle(nodes, i)
            if law.is_linear and law.weights[i].size == FINE and _differs(law, nodes, exact):
                real.append(i)
                continue
        nodes = exact
        gone.append(i)
    roots = tuple(
        dataclasses.replace(r, average=r.average and i not in real) for i, r in enumerate(law.roots)
    )
    return without(dataclasses.replace(law, roots=roots) if real else law, gone, nodes)


def _middle(nodes: Array, i: int) -> Array:
    """The value at the mean, of a root on an even number of nodes the mean of the two beside it."""
    n = nodes.shape[i]
    before, after = (xp.take(nodes, np.asarray([k]), axis=i) for k in ((n - 1) // 2, n // 2))
    return (before + after) / 2 if np.issubdtype(nodes.dtype, np.inexact) else before


def _differs(law: Law, nodes: Array, exact: Array) -> bool:
    """Whether the mean square is another one."""
    whole, left = (mean_square(law, x) for x in (nodes, exact))
    return abs(whole - left) > SAME * whole


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
