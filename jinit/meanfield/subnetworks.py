"""What becomes of the correlation of two inputs in a network, and in all of its subnetworks."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable, Iterable, Sequence

Layer = Callable[[float], float]
Weights = tuple[float, ...] | None  # of a sum, adding up to one; None of a nonlinear layer


@dataclasses.dataclass
class Architecture:
    """The correlations in a network, each from those before it. Number 0 is that of the inputs.

    Attributes:
      parents: those that each is made of.
      weights: how: a nonlinear layer of its one parent, or a weighted mean.
    """

    parents: list[tuple[int, ...]] = dataclasses.field(default_factory=lambda: [()])
    weights: list[Weights] = dataclasses.field(default_factory=lambda: [None])

    def layer(self, of: int) -> int:
        """What a nonlinear layer makes of a correlation."""
        return self.add((of,), None)

    def mean(self, parents: Sequence[int], powers: Sequence[float]) -> int:
        """The correlation of a sum of independent signals with these second moments."""
        total = sum(powers)
        return self.add(tuple(parents), tuple(p / total if total else 1 / len(powers) for p in powers))

    def before(self, ends: Iterable[int], start: int = 0) -> set[int]:
        """All that these are made of, themselves included, as far back as `start`."""
        found = set(ends)
        pending = list(found)
        while pending:
            node = pending.pop()
            new = set(self.parents[node]) - found if node != start else set()
            found |= new
            pending += new
        return found

    def add(self, parents: tuple[int, ...], weights: Weights) -> int:
        """The number of a new correlation."""
        self.parents.append(parents)
        self.weights.append(weights)
        return len(self.parents) - 1


@dataclasses.dataclass(frozen=True)
class MaximalCMap:
    """The largest value, over all subnetworks, of what becomes of a correlation: `(c, layer) -> c`.

    A subnetwork is a part with one way in and one way out: the whole network, a run of blocks, one branch of
    a block. Since no layer makes a correlation smaller, only the longest from each place count.

    Attributes:
      parents: those that each correlation is made of; number 0 is given.
      weights: how: a nonlinear layer of its one parent, or a mean with these weights.
      ends: the correlations at the ends of the subnetworks.

    Example:
      >>> import jax, jax.numpy as jnp, jinit
      >>> arrays = [jax.ShapeDtypeStruct((8, 8), "float32")] * 2
      >>> network = jinit.meanfield.maximal_c_map(lambda w, x: jnp.sin(jnp.tanh(x) @ w))(*arrays)
      >>> network(0.0, lambda c: (1 + c) / 2), network.depth
      (0.75, 2)
    """

    parents: tuple[tuple[int, ...], ...]
    weights: tuple[Weights, ...]
    ends: tuple[int, ...]

    def __call__(self, c: float, layer: Layer) -> float:
        """The largest value, where `layer` is what one nonlinear layer makes of a number."""
        values = [c]
        for parents, weights in zip(self.parents[1:], self.weights[1:], strict=True):
            if weights is None:
                values.append(layer(values[parents[0]]))
            else:
                values.append(sum(w * values[p] for w, p in zip(weights, parents, strict=True)))
        return max(values[end] for end in self.ends)

    @property
    def depth(self) -> int:
        """The most nonlinear layers on one way through the network."""
        depths = [0]
        for parents, weights in zip(self.parents[1:], self.weights[1:], strict=True):
            depths.append(max(depths[p] for p in parents) + (weights is None))
        return max(depths[end] for end in self.ends)

    def __repr__(self) -> str:
        return f"<maximal C-map of {self.depth} nonlinear layers, {len(self.ends)} longest subnetworks>"


def maximal(network: Architecture, outputs: Sequence[int]) -> MaximalCMap:
    """The maximal C-map function of a network with these outputs."""
    consumers: list[set[int]] = [set() for _ in network.parents]
    for node in network.before(outputs):
        for parent in network.parents[node]:
            consumers[parent].add(node)
    merged = _Merged(network)
    ends = {merged.copy(output, start=0) for output in outputs}
    for start, users in enumerate(consumers):
        for first in users if len(users) > 1 else ():
            end = _way_out(network, consumers, frozenset(outputs), start, first)
            if end is not None:
                ends.add(merged.copy(end, start))
    return MaximalCMap(tuple(merged.of.parents), tuple(merged.of.weights), tuple(sorted(ends)))


def _way_out(
    network: Architecture, consumers: list[set[int]], outputs: frozenset[int], start: int, first: int
) -> int | None:
    """The last node that every way from `start` by `first` passes, and that nothing else leads to."""
    inside: set[int] = set()
    pending, unused, end = [first], 0, None
    while pending:
        node = heapq.heappop(pending)
        if node in inside:
            continue
        allowed = inside | {start} if node == first else inside
        if not allowed.issuperset(network.parents[node]):
            continue  # something else comes in here
        inside.add(node)
        if node != first:
            unused -= len(set(network.parents[node]))
        if unused == 0:
            end = node
        unused += len(consumers[node]) + (node in outputs)
        for user in consumers[node]:
            heapq.heappush(pending, user)
    return end


class _Merged:
    """Networks laid into one, in which what is computed alike is one node."""

    def __init__(self, network: Architecture):
        self.network, self.of = network, Architecture()
        self._known: dict[tuple[tuple[int, ...], Weights], int] = {}

    def copy(self, end: int, start: int) -> int:
        """The node that is what `end` is when `start` is the input."""
        place = {start: 0}
        for node in sorted(self.network.before([end], start) - {start}):
            parents = tuple(place[p] for p in self.network.parents[node])
            key = parents, self.network.weights[node]
            if key not in self._known:
                self._known[key] = self.of.add(*key)
            place[node] = self._known[key]
        return place[end]
