"""From the entries of a weight as it enters a site back to the entries of the parameters it is made of."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from jinit.jaxprs.consumers import Arrival, Tagged, Walk
from jinit.jaxprs.dataflow import CONST, PARAMS
from jinit.jaxprs.graph import COPIES, Node
from jinit.jaxprs.sites import Analysis
from jinit.jaxprs.tags import MOVES, NONE, NotFollowedError, Tags, compressed, varies

_UNSEEN = -2
_JOINS = ("join", "steps of", "all steps", "split", "concatenate", "optimization_barrier")
# What leaves zeros at zero.
_KEEPS_ZERO = (*COPIES, "neg", "real", "conj", "mul")


class Stored:
    """Where the entries of the parameters of a program stand.

    Args:
      analysis: from `analyse_sites`.
      shapes: shape of every parameter.
    """

    def __init__(self, analysis: Analysis, shapes: Sequence[tuple[int, ...]]):
        self.analysis = analysis
        self.shapes = shapes
        self._known: dict[int, list[dict[int, Tagged]]] = {}

    def rows(self, arrivals: Sequence[Arrival]) -> dict[int, Tags]:
        """Index of a parameter -> tags of its entries, for those that units arrive at.

        Raises:
          NotFollowedError: a weight is computed, or is used elsewhere on something else.
        """
        arrived = {arrival.site: arrival for arrival in arrivals}
        leaves = {leaf for index in arrived for leaf in self.analysis.sites.sites[index].leaves}
        return {leaf: self._everywhere(leaf, arrived) for leaf in sorted(leaves)}

    def _everywhere(self, leaf: int, arrived: dict[int, Arrival]) -> Tags:
        """Tags of the entries of a parameter, which must be the same at all sites that show them."""
        merged = np.full([1] * len(self.shapes[leaf]), _UNSEEN)
        for index, site in enumerate(self.analysis.sites.sites):
            if leaf not in site.leaves:
                continue
            node = self.analysis.layers[index]
            loops, rank = len(node.lengths), len(site.operands[site.weight].shape)
            none = Tagged(np.full([1] * (loops + rank), NONE), loops)
            rows = arrived[index].tags if index in arrived else none
            self._covered(site.leaves, node.ins[site.weight], rows, site.names[0])
            here = self.at_leaf(leaf, node.ins[site.weight], rows)
            if here is None:
                raise NotFollowedError(f"the weight at {site.names[0]} is computed from what is stored")
            if ((merged != _UNSEEN) & (here != _UNSEEN) & (merged != here)).any():
                raise NotFollowedError(f"the weight that reads it at {site.names[0]} is used elsewhere too")
            merged = np.where(merged == _UNSEEN, here, merged)
        return compressed(np.where(merged == _UNSEEN, NONE, merged))

    def _covered(self, leaves: Sequence[int], value: int, rows: Tagged, name: str) -> None:
        """Refuse tagged rows that are no stored entries."""
        covered = np.zeros([1] * rows.tags.ndim, bool)
        for leaf in leaves:
            places = self._places(leaf, value, rows.loops)
            covered = covered | (False if places is None else _here(places))
        if ((rows.tags != NONE) & ~covered).any():
            raise NotFollowedError(f"the weight at {name} is computed from what is stored")

    def at_leaf(self, leaf: int, value: int, rows: Tagged) -> Tags | None:
        """Tags of a parameter's entries from those of a value made of it; None where it does not show them.

        Raises:
          NotFollowedError: one entry stands in several places with different tags.
        """
        places = self._places(leaf, value, rows.loops)
        if places is None:
            return None
        shape = self.shapes[leaf]
        whole = [_is_whole(axis, size, places, rows.tags) for axis, size in enumerate(shape)]
        kept = [c for c, free in zip(places, whole, strict=True) if not free]
        *kept, tags = np.broadcast_arrays(*kept, rows.tags)
        valid = np.broadcast_to(_here(kept), tags.shape)
        result = np.full([1 if free else size for size, free in zip(shape, whole, strict=True)], _UNSEEN)
        indices = iter([c[valid] for c in kept])
        origin = np.zeros(int(valid.sum()), int)
        where = tuple(origin if free else next(indices) for free in whole)
        result[where] = tags[valid]
        if (result[where] != tags[valid]).any():
            raise NotFollowedError("a weight that reads it is used again for something else")
        return result

    def _places(self, leaf: int, value: int, loops: int) -> list[Tags] | None:
        """For each axis of a parameter the index at every entry of a value; NONE for other entries."""
        if leaf not in self._known:
            self._known[leaf] = [self._one_axis(leaf, axis) for axis in range(len(self.shapes[leaf]))]
        found = [known[value].inside(loops) for known in self._known[leaf] if value in known]
        return found if found and len(found) == len(self.shapes[leaf]) else None

    def _one_axis(self, leaf: int, axis: int) -> dict[int, Tagged]:
        """Index along one axis of a parameter, for all values that are zero where its entries are."""
        analysis, shape = self.analysis, self.shapes[leaf]
        walk = Walk(analysis)
        size = [n if i == axis else 1 for i, n in enumerate(shape)]
        walk.tagged[analysis.graph.inputs[leaf]] = Tagged(np.arange(int(np.prod(size))).reshape(size), 0)
        for node in analysis.graph.nodes:
            if node.outs and analysis.flow.status[node.outs[0]] == PARAMS and self._keeps_zero(node, walk):
                try:
                    walk.visit(node)
                except NotFollowedError:
                    continue  # no index, which is what callers look for
        return walk.tagged

    def _keeps_zero(self, node: Node, walk: Walk) -> bool:
        if node.kind in (*MOVES, *_JOINS, *_KEEPS_ZERO):
            return True
        if node.kind == "div":
            return node.ins[1] not in walk.tagged
        constant = all(i in walk.tagged or self.analysis.flow.status[i] == CONST for i in node.ins)
        return node.kind == "select_n" and constant


def _here(places: Sequence[Tags]) -> np.ndarray:
    """Where entries of the parameter stand."""
    return functools.reduce(np.logical_and, [c != NONE for c in places], np.array(True))


def _is_whole(axis: int, size: int, places: Sequence[Tags], tags: Tags) -> bool:
    """Whether a value runs over a stored axis from end to end, apart from all else that varies in it."""
    others = _varying(tags).union(*(_varying(c) for i, c in enumerate(places) if i != axis))
    return not _varying(places[axis]) & others and np.array_equal(np.unique(places[axis]), np.arange(size))


def _varying(tags: Tags) -> set[int]:
    return {axis for axis in range(tags.ndim) if varies(tags, axis)}
