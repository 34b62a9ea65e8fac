"""Which bias can take away the mean of a site's output."""

from __future__ import annotations

import dataclasses

import numpy as np

from jinit._sharding import sharded_like, whole
from jinit._typing import Array
from jinit.calibrate.labels import compressed
from jinit.calibrate.rescaler import Station
from jinit.calibrate.uses import Use
from jinit.jaxprs.entries import Entries
from jinit.jaxprs.sites import Analysis


@dataclasses.dataclass(frozen=True)
class Bias:
    """The entries of a parameter that are added to the output of one site alone.

    Attributes:
      leaf: index of the parameter.
      indices: flat index of each, one for every step of the scans around the site.
      over: axes of the output along which an entry is repeated.
    """

    leaf: int
    indices: np.ndarray
    over: tuple[int, ...]

    def shifted(self, bias: Array, shift: Array) -> Array:
        """The parameter with `shift` added to these entries."""
        wide = whole(bias).reshape(-1).astype(shift.dtype)
        moved = wide.at[self.indices.reshape(-1)].add(whole(shift).reshape(-1))
        return sharded_like(moved.reshape(bias.shape).astype(bias.dtype), bias)


def find_bias(
    analysis: Analysis,
    entries: Entries,
    station: Station,
    uses: dict[int, list[Use]],
) -> Bias | None:
    """The bias of a site, if it is a parameter as it stands and nothing else uses these entries of it."""
    if station.operand is None or station.site.regions & {"while", "shard_map", "unchecked_shard_map"}:
        return None
    node = next(n for n in analysis.graph.nodes if n.address == station.site.address and n.eqn is not None)
    value, lengths = node.ins[1 - station.operand], station.site.lengths
    owners = analysis.flow.leaves[value]
    if len(owners) != 1:
        return None
    (leaf,) = owners
    indices, placed = entries.of(value, leaf, lengths)
    shape = node.eqn.outvars[0].aval.shape
    if not placed or np.any(indices < 0):
        return None
    full = np.broadcast_to(indices, (*lengths, *shape))
    few = compressed(full, range(len(lengths), full.ndim))
    if np.unique(few).size != few.size or _used_elsewhere(entries, uses[leaf], node, leaf, few):
        return None
    over = tuple(i for i, size in enumerate(few.shape[len(lengths) :]) if size == 1)
    return Bias(leaf, few, over)


def _used_elsewhere(entries: Entries, uses: list[Use], node: object, leaf: int, own: np.ndarray) -> bool:
    others = [(n, value) for n, _, value in uses if n is not node]
    return any(np.isin(entries.of(value, leaf, n.lengths)[0], own).any() for n, value in others)
