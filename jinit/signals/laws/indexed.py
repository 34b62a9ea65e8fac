"""Rows along one axis, picked and added up by indices that are known: who shares a row, who gets which sum.

As in message passing over the edges of a graph. Picking rows takes the correlations of those picked, and
adding up by index is a product with a matrix of zeros and ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np

from jinit._compat import inner_jaxprs, opened
from jinit.signals.laws import places
from jinit.signals.laws.arrays import is_traced
from jinit.signals.laws.images import Image, Images
from jinit.signals.laws.kernels import Kernel, is_told_apart
from jinit.signals.laws.law import Law, as_float, average
from jinit.signals.laws.moving import relabelled
from jinit.signals.laws.roots import Root
from jinit.signals.laws.runs import Reach, Run, kernel_of, runs_of
from jinit.signals.laws.values import Held, Value

# Nodes and edges of a graph that are told from each other at most.
MOST = 2048

TOO_MANY = (
    f"it adds up messages along more than {MOST} edges, or to as many nodes, which are not told apart: give "
    "a smaller graph, as the shapes of parameters do not depend on it"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """Which row of an array stands where along an axis of another.

    Attributes:
      rows: the axis of rows, of the array that they are picked from or added to.
      along: the axis of those picked or added.
      count: the number of rows.
      of: the row of each that is picked or added.
    """

    rows: int
    along: int
    count: int
    of: np.ndarray

    @property
    def repeats(self) -> bool:
        """Whether a row comes again."""
        return len(np.unique(self.of)) < len(self.of)

    @property
    def is_told_apart(self) -> bool:
        """Whether rows are few enough, those that there are and those picked."""
        return is_told_apart(self.count) and is_told_apart(len(self.of))

    @property
    def matrix(self) -> np.ndarray:
        """One where a row is picked: `[picked, row]`."""
        return (self.of[:, None] == np.arange(self.count)).astype(np.float32)


def index_of(eqn: Any, indices: Value) -> Index | None:
    """The index of a `gather` or `scatter-add` of whole rows along one axis, if it is of those and known."""
    axes = _axes_of(eqn)
    if axes is None or not isinstance(indices, Held) or is_traced(indices.array):
        return None
    of, count = np.asarray(indices.whole())[..., 0], eqn.invars[0].aval.shape[axes[0]]
    fits = of.size and of.min() >= 0 and of.max() < count  # others are dropped, or filled in
    return Index(*axes, count, of) if fits else None


def _axes_of(eqn: Any) -> tuple[int, int] | None:
    """The axis of rows, and that of those picked or added, of what takes whole rows along one axis."""
    numbers, adds = eqn.params["dimension_numbers"], eqn.primitive.name != "gather"
    rows_at = numbers.scatter_dims_to_operand_dims if adds else numbers.start_index_map
    gone = numbers.inserted_window_dims if adds else numbers.collapsed_slice_dims
    windows = numbers.update_window_dims if adds else numbers.offset_dims
    operand = eqn.invars[0].aval.shape
    picked = eqn.invars[2].aval.shape if adds else eqn.outvars[0].aval.shape
    own = [i for i in range(len(picked)) if i not in windows]
    if numbers.operand_batching_dims or len(rows_at) != 1 or tuple(gone) != tuple(rows_at) or len(own) != 1:
        return None
    whole = tuple(n for i, n in enumerate(operand) if i != rows_at[0])
    return (rows_at[0], own[0]) if tuple(picked[i] for i in windows) == whole else None


def sizes_of(jaxpr: Any) -> Iterator[int]:
    """Those of the axes of a program along which rows are added up by index, if they are few enough."""
    for eqn in opened(jaxpr)[0].eqns:
        if eqn.primitive.name in ("scatter-add", "scatter_add") and (axes := _axes_of(eqn)) is not None:
            sizes = eqn.invars[0].aval.shape[axes[0]], eqn.invars[2].aval.shape[axes[1]]
            yield from sizes if max(sizes) <= MOST else ()
        for inner in inner_jaxprs(eqn):
            yield from sizes_of(inner)


def rows_picked(law: Law, eqn: Any, index: Index, images: Images, name: Hashable) -> Law:
    """`gather`, of rows of a signal some of which come again."""
    shape, offset = eqn.outvars[0].aval.shape, iter(eqn.params["dimension_numbers"].offset_dims)
    axis_map = [frozenset([index.along if i == index.rows else next(offset)]) for i in range(len(law.shape))]
    random = [law.roots[i] for i in places.others(law)]
    kernels = {r: _of_picked(r, index) for r in random if index.rows in r.axes}
    found = places.picked(law, {index.rows: index.of}).without_sums(frozenset([index.rows]))
    for i, root in enumerate(found.roots):
        if (kernel := kernels.get(root)) is not None:
            found = _with_correlations(found, i, index.rows, kernel)
    found = relabelled(found, axis_map, shape, lambda r: (r.name, name) if index.rows in r.axes else r.name)
    images.note(Image(found, law, index.matrix, index.rows, index.along))
    return found


def _of_picked(root: Root, index: Index) -> Kernel:
    """The correlations of the rows picked."""
    kernel = kernel_of(Reach(root.axes, root.runs).run(index.rows), index.count)
    matrix = kernel.between + np.diag(kernel.own)
    return Kernel.alike(len(index.of), matrix[np.ix_(index.of, index.of)])


def _with_correlations(law: Law, i: int, axis: int, kernel: Kernel) -> Law:
    """`law`, the copies of a root as alike along an axis, and of as large a variance on average by place."""
    k = next((k for k in places.positions(law) if axis in law.roots[k].axes), None)
    known = None if k is None else law.roots[k].places
    of = np.zeros(kernel.size, int) if known is None else np.asarray(known.of)
    size = np.sqrt(np.bincount(of, weights=kernel.variance) / np.bincount(of))
    along = [len(size) if j == k else 1 for j in range(len(law.roots))]
    mean = average(law, [i])
    nodes = mean + (law.nodes - mean) * size.reshape(along).astype(law.nodes.dtype)
    run = Run.of(kernel.scaled(1 / np.maximum(size, 1e-6)[of]))
    root = dataclasses.replace(law.roots[i], runs=runs_of({**dict(law.roots[i].runs), axis: run}))
    return dataclasses.replace(law, nodes=nodes, roots=(*law.roots[:i], root, *law.roots[i + 1 :]))


def rows_summed(start: Law, updates: Law, index: Index, images: Images, name: Hashable) -> Law | None:
    """`scatter-add` into zeros; nothing if it is into something else."""
    if start.roots or is_traced(start.nodes) or np.any(start.nodes) or is_traced(updates.nodes):
        return None
    updates = as_float(updates)
    known = images.of(updates)
    if known is None or known.along != index.along:
        return images.product(Image(updates, updates, index.matrix.T, index.along, index.rows), name)
    matrix = index.matrix.T @ known.matrix
    return images.product(Image(updates, known.source, matrix, known.rows, index.rows), name)
