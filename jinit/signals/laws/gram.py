"""Arrays of inputs whose rows some index picked: which of them are alike is in the array."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from jinit._typing import Array
from jinit.signals.laws import places
from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.classes import by_paths
from jinit.signals.laws.kernels import Kernel, is_told_apart
from jinit.signals.laws.law import Axes, Law, all_axes, constant, node_dtype, plus_normal
from jinit.signals.laws.positions import with_covariances
from jinit.signals.laws.roots import PLACE, Places, Root
from jinit.signals.laws.values import PICKED, Held


def rows_of(value: Held, free: Axes, name: Hashable) -> Law | None:
    """Two moments of an array whose rows a contraction keeps, correlated as they are; none for another array.

    Rows are along the one axis that is free. What they differ by from the mean of all entries has, over the
    other axes, a variance by row and correlations between rows, as those of a sum of it with random weights.
    """
    kept = [i for i in free if value.array.shape[i] > 1]
    known = PICKED in value.source and len(kept) == 1 and value.array.shape == value.shape
    if not known or is_traced(value.array) or not is_told_apart(value.shape[kept[0]]):
        return None
    (axis,) = kept
    rows = np.moveaxis(np.asarray(value.array, np.float64), axis, 0).reshape(value.shape[axis], -1)
    products = (rows - rows.mean()) @ (rows - rows.mean()).T / rows.shape[1]
    law, variance = constant(xp.asarray(rows.mean()), value.shape, value.dtype), np.diag(products)
    found = by_paths(variance[:, None], places.MOST[1])
    law = _at(law, axis, found) if len(found.paths) > 1 else law
    law = plus_normal(law, variance.mean(), Root((name, "rows"), all_axes(value.shape)), 2)
    kernel = Kernel.alike(len(rows), products / max(variance.mean(), 1e-300))
    return with_covariances(law, len(law.roots) - 1, axis, kernel)


def _at(law: Law, axis: int, found: Places) -> Law:
    """`law`, a constant, as that of places of these classes."""
    root = Root(PLACE, frozenset([axis]), PLACE, places=found)
    nodes: Array = xp.broadcast_to(law.nodes, (len(found.paths),))
    return Law(nodes, (found.weights(),), (root,), law.shape, law.dtype)


def numbers_of(value: Held) -> Law | None:
    """Numbers along one axis that come again, by where they stand, as of nodes of a graph; or none."""
    if is_traced(value.array):
        return None
    kinds, of = np.unique(np.asarray(value.array, np.float64).reshape(-1), return_inverse=True)
    if 2 * kinds.size > of.size or kinds.size > places.MOST[1]:
        return None
    found = Places(tuple(of.reshape(-1).tolist()), tuple((float(k + 1),) for k in range(kinds.size)))
    root = Root(PLACE, all_axes(value.array.shape), PLACE, places=found)
    nodes = xp.asarray(kinds, node_dtype(value.dtype))
    return Law(nodes, (found.weights(),), (root,), value.shape, value.dtype)
