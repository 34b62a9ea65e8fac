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
from jinit.signals.laws.values import INPUTS, PICKED, Held


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
    """Numbers that come again along their axes, by where they stand, as of nodes of a graph; or none.

    Of more than one axis those that stand in the program, such as how many entries the windows of a pooling
    have, and are the same in all but a few rows.
    """
    varying = [i for i, n in enumerate(value.array.shape) if n > 1]
    fixed = value.source <= {INPUTS, PICKED} if len(varying) == 1 else not value.source
    if is_traced(value.array) or not fixed:
        return None
    x, found = np.asarray(value.array, np.float64), {}
    for i in varying:
        _, first, of = np.unique(x, axis=i, return_index=True, return_inverse=True)
        if 2 * first.size > of.size or first.size > places.MOST.get(len(varying), 2):
            return None
        found[i] = Places(tuple(of.reshape(-1).tolist()), tuple((float(k + 1),) for k in range(first.size)))
        x = np.take(x, first, axis=i)
    roots = tuple(Root(PLACE, frozenset([i]), PLACE, places=of) for i, of in found.items())
    nodes = xp.asarray(x.reshape([len(of.paths) for of in found.values()]), node_dtype(value.dtype))
    weights = tuple(of.weights() for of in found.values())
    return Law(nodes, weights, roots, value.shape, value.dtype)
