"""How the axes of two operands meet in a contraction."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jinit.signals.laws.kernels import groups
from jinit.signals.laws.law import Axes
from jinit.signals.laws.mixing import Mixing
from jinit.signals.laws.runs import Run


@dataclasses.dataclass(frozen=True)
class Contraction:
    """How the axes of two operands meet.

    Indices of the result and of the sum are numbered together: first the axes of the result, then what is
    summed over.

    Attributes:
      axes: for either operand and each of its axes, the indices that it moves with.
      free: for either operand, its axes that the other lacks and the result keeps.
      shape: of the result.
      counts: number of terms of each summed index, a mean where padding makes it differ.
      squares: mean square of that number.
      shared: for the tap of a window, the place it moves with and how many taps meet entries at both of two
        places, on average.
      entries: for the tap of a window, which entry it meets, or -1 for padding or a hole: `[place, tap]`.
    """

    axes: tuple[Sequence[Axes], Sequence[Axes]]
    free: tuple[Axes, Axes]
    shape: tuple[int, ...]
    counts: Mapping[int, float]
    squares: Mapping[int, float]
    shared: Mapping[int, tuple[int, float]] = dataclasses.field(default_factory=dict)
    entries: Mapping[int, np.ndarray] = dataclasses.field(default_factory=dict)

    def left_out(self, along: Axes) -> float:
        """What of a fixed sum varies where padding leaves taps along these axes out, over that of free terms.

        Of `n` terms that sum to zero, `m` add up to `m (1 - m/n)` variances: on average over places.
        """
        met = (self.squares[k] / (self.counts[k] * m.shape[1]) for k, m in self.entries.items() if k in along)
        return 1 - math.prod(met)

    def along_longer(self, axes: Axes) -> Axes:
        """Of a place and a tap that one axis of the signal moves with, only that which is most of it."""
        for tap, (place, _) in self.shared.items():
            if {tap, place} <= axes:
                axes -= {tap if self.shape[place] > self.entries[tap].shape[1] else place}
        return axes

    def terms(self, index: int, run: float) -> float:
        """To how many variances a sum over an index adds up, of entries alike in runs of this length."""
        count = self.counts[index]
        if isinstance(run, Run):
            return self._known_terms(index, run)
        if run <= 1 or count <= 0:
            return count
        if index not in self.entries:
            return count * min(run, count)
        meets = self.entries[index] >= 0
        at = np.arange(meets.shape[1])
        apart = abs(at[:, None] - at)
        together = at[:, None] // run == at // run if float(run).is_integer() else 1 - apart / run
        return float(((meets @ np.maximum(together, 0)) * meets).sum(1).mean())

    def _known_terms(self, index: int, run: Run) -> float:
        """The same, of entries whose correlations are known."""
        if index not in self.entries:
            known = self.counts[index] == run.kernel.size
            return self.counts[index] * float(run) if known else self.terms(index, float(run))
        meets = (self.entries[index] >= 0).astype(float)
        if meets.shape[1] != run.kernel.size:
            return self.terms(index, float(run))
        mixing = Mixing.of((0, 1), meets, np.ones(len(meets)))
        return float(mixing.common(run.kernel) @ groups(len(meets))[1] / len(meets))


def of_dot(eqn: Any) -> Contraction:
    """The axes of a `dot_general`."""
    (summed, batch) = eqn.params["dimension_numbers"]
    shape = eqn.outvars[0].aval.shape
    after, counts, maps, frees = len(batch[0]), {}, [], []
    for side in (0, 1):
        operand = eqn.invars[side].aval.shape
        free = [i for i in range(len(operand)) if i not in summed[side] and i not in batch[side]]
        places = {axis: k for k, axis in enumerate(batch[side])}
        places |= {axis: after + k for k, axis in enumerate(free)}
        places |= {axis: len(shape) + k for k, axis in enumerate(summed[side])}
        counts |= {len(shape) + k: float(operand[axis]) for k, axis in enumerate(summed[side])}
        maps.append([frozenset([places[i]]) for i in range(len(operand))])
        frees.append(frozenset(free))
        after += len(free)
    squares = {k: n**2 for k, n in counts.items()}
    return Contraction((maps[0], maps[1]), (frees[0], frees[1]), tuple(shape), counts, squares)


def of_convolution(eqn: Any) -> Contraction:
    """The axes of a `conv_general_dilated`: each spatial axis of the signal moves with a place and a tap."""
    p = eqn.params
    lhs, rhs, out = p["dimension_numbers"]
    signal, kernel, shape = (v.aval.shape for v in (*eqn.invars[:2], eqn.outvars[0]))
    rank, channels = len(shape), len(shape)
    maps: tuple[list[Axes], list[Axes]] = ([frozenset()] * rank, [frozenset()] * rank)
    grouped, batched = p["feature_group_count"] > 1, p["batch_group_count"] > 1
    maps[0][lhs[0]] = frozenset([out[0]] + ([out[1]] if batched else []))
    maps[0][lhs[1]] = frozenset([channels] + ([out[1]] if grouped else []))
    maps[1][rhs[0]], maps[1][rhs[1]] = frozenset([out[1]]), frozenset([channels])
    counts = {channels: float(kernel[rhs[1]])}
    squares, shared, entries = {channels: counts[channels] ** 2}, {}, {}
    for k in range(rank - 2):
        tap = channels + 1 + k
        maps[0][lhs[2 + k]], maps[1][rhs[2 + k]] = frozenset([out[2 + k], tap]), frozenset([tap])
        entries[tap] = entries_of(
            signal[lhs[2 + k]], kernel[rhs[2 + k]], shape[out[2 + k]], p["window_strides"][k],
            p["padding"][k], p["lhs_dilation"][k], p["rhs_dilation"][k],
        )  # fmt: skip
        taps = (entries[tap] >= 0).astype(float)
        number = taps.sum(axis=1)
        counts[tap], squares[tap] = float(number.mean()), float((number**2).mean())
        shared[tap] = out[2 + k], float((taps.mean(axis=0) ** 2).sum())
    free = frozenset(i for i in range(rank) if i != lhs[1]), frozenset([rhs[0]])
    return Contraction((maps[0], maps[1]), free, tuple(shape), counts, squares, shared, entries)


def entries_of(
    size: int,
    window: int,
    places: int,
    stride: int,
    padding: tuple[int, int],
    dilation: int,
    window_dilation: int,
) -> np.ndarray:
    """Which entry a tap meets, -1 for padding or a hole: `[place, tap]`."""
    at = np.arange(places)[:, None] * stride + np.arange(window)[None] * window_dilation - padding[0]
    meets = (at >= 0) & (at <= (size - 1) * dilation) & (at % dilation == 0)
    return np.where(meets, at // dilation, -1)


def matrix_of(entries: np.ndarray, size: int) -> np.ndarray:
    """How often each place of `entries`, `[place, tap]`, has each of `size` entries."""
    rows, taps = np.nonzero(entries >= 0)
    matrix = np.zeros((len(entries), size))
    np.add.at(matrix, (rows, entries[rows, taps]), 1.0)
    return matrix
