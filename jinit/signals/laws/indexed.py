"""Rows along one axis, picked and added up by indices that are known: who shares a row, who gets which sum.

As in message passing over the edges of a graph. Picking rows takes the correlations of those picked, and
adding up by index is a product with a matrix of zeros and ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Hashable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jinit._compat import Literal, inner_jaxprs, opened
from jinit.signals.laws import places
from jinit.signals.laws.arrays import is_traced
from jinit.signals.laws.images import Image, Images
from jinit.signals.laws.kernels import Kernel, is_told_apart
from jinit.signals.laws.law import Law, as_float
from jinit.signals.laws.moving import relabelled
from jinit.signals.laws.positions import with_covariances
from jinit.signals.laws.roots import Root
from jinit.signals.laws.runs import Reach, kernel_of
from jinit.signals.laws.values import Held, Value

# The index of no row, in whose place zero is picked.
NONE = -1
# Nodes and edges of a graph that are told from each other at most.
MOST = 2048

NOT_TOLD_APART = (
    "it adds up as many rows as an index picked, and which of these are the same is not known: give indices "
    f"and variances as arrays, and of a graph at most {MOST} nodes and edges, as shapes of parameters do not "
    "depend on it"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """Which row of an array stands where along an axis of another.

    Attributes:
      rows: the axis of rows, of the array that they are picked from or added to.
      along: the axis of those picked or added.
      count: the number of rows.
      of: the row of each that is picked or added, or `NONE`.
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
    modes = jax.lax.GatherScatterMode
    if eqn.params["mode"] in (modes.CLIP, modes.PROMISE_IN_BOUNDS):  # XLA clips what breaks its promise
        of = np.clip(of, 0, count - 1)
    of = np.where((of < 0) | (of >= count), NONE, of)  # dropped where rows are added, filled in where picked
    filled = eqn.params.get("fill_value", 0) != 0 and (of == NONE).any()
    return Index(*axes, count, of) if of.size and not filled else None


def num_lost(eqn: Any, ins: Sequence[Value]) -> int | None:
    """How many rows a `gather` picks, if some may come again, and what these have in common is not known."""
    index, axes = index_of(eqn, ins[1]), _axes_of(eqn)
    known = isinstance(ins[0], Law) and not is_traced(ins[0].nodes)
    known |= isinstance(ins[0], Held) and not is_traced(ins[0].array)
    if axes is None or (index is not None and (not index.repeats or (known and index.is_told_apart))):
        return None
    return eqn.outvars[0].aval.shape[axes[1]]


def num_added(eqn: Any) -> int | None:
    """How many rows a `scatter-add` adds up, of whole ones along one axis."""
    axes = _axes_of(eqn)
    return None if axes is None else eqn.invars[2].aval.shape[axes[1]]


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


def sizes_of(jaxpr: Any, returned: Collection[Any] | None = None) -> Iterator[int]:
    """Those of the axes of a program along which rows are added up by index, if they are few enough.

    But for sums that are `returned`, all of a program's results by default, such as the gradient of a table.
    """
    body, _ = opened(jaxpr)
    last = {v for v in (body.outvars if returned is None else returned) if not isinstance(v, Literal)}
    for eqn in body.eqns:
        adds = eqn.primitive.name in ("scatter-add", "scatter_add") and eqn.outvars[0] not in last
        if adds and (axes := _axes_of(eqn)) is not None:
            sizes = eqn.invars[0].aval.shape[axes[0]], eqn.invars[2].aval.shape[axes[1]]
            yield from sizes if max(sizes) <= MOST else ()
        for inner in inner_jaxprs(eqn):
            pairs = zip(eqn.outvars, opened(inner)[0].outvars, strict=False)
            yield from sizes_of(inner, [own for v, own in pairs if v in last])


def rows_picked(law: Law, eqn: Any, index: Index, images: Images, name: Hashable) -> Law:
    """`gather`, of rows of a signal some of which come again."""
    shape, offset = eqn.outvars[0].aval.shape, iter(eqn.params["dimension_numbers"].offset_dims)
    axis_map = [frozenset([index.along if i == index.rows else next(offset)]) for i in range(len(law.shape))]
    random = [law.roots[i] for i in places.others(law)]
    kernels = {r: _of_picked(r, index) for r in random if index.rows in r.axes}
    value = np.zeros((), law.nodes.dtype) if (index.of == NONE).any() else None
    found = places.picked(law, {index.rows: index.of}, value).without_sums(frozenset([index.rows]))
    for i, root in enumerate(found.roots):
        if (kernel := kernels.get(root)) is not None:
            found = with_covariances(found, i, index.rows, kernel)
    found = relabelled(found, axis_map, shape, lambda r: (r.name, name) if index.rows in r.axes else r.name)
    images.note(Image(found, law, index.matrix, index.rows, index.along))
    return found


def _of_picked(root: Root, index: Index) -> Kernel:
    """The correlations of the rows picked."""
    kernel = kernel_of(Reach(root.axes, root.runs).run(index.rows), index.count)
    matrix, known = kernel.between + np.diag(kernel.own), index.of != NONE
    return Kernel.alike(len(index.of), matrix[np.ix_(index.of, index.of)] * known * known[:, None])


def rows_summed(start: Law, updates: Law, index: Index | None, images: Images, name: Hashable) -> Law | None:
    """`scatter-add` into zeros; nothing if it is into something else, or rows are not told apart."""
    if index is None or not index.is_told_apart:
        return None
    if start.roots or is_traced(start.nodes) or np.any(start.nodes) or is_traced(updates.nodes):
        return None
    updates = as_float(updates)
    known = images.of(updates)
    if known is None or known.along != index.along:
        return images.product(Image(updates, updates, index.matrix.T, index.along, index.rows), name)
    matrix = index.matrix.T @ known.matrix
    return images.product(Image(updates, known.source, matrix, known.rows, index.rows), name)
