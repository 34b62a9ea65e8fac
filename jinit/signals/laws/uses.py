"""What weights met so far, and how."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from jinit.signals.laws.arrays import is_traced
from jinit.signals.laws.law import Law, mean_square
from jinit.signals.laws.values import Held, Value

# Of the largest singular value of what signals have in common: those that count.
RANK = 1e-3


@dataclasses.dataclass(frozen=True)
class How:
    """How a weight and a signal meet in a `dot_general`, whichever way the weight was transposed before.

    Attributes:
      weight: what tells the weight.
      at: which operand it is.
      pairs: the axes that are contracted, of the signal and of the weight.
      free: the other axes of the weight, in order.
      rest: what else tells the equation.
    """

    weight: Hashable
    at: int
    pairs: tuple[tuple[int, int], ...]
    free: tuple[int, ...]
    rest: Hashable

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the signal that are contracted."""
        return tuple(i for i, _ in self.pairs)

    def free_axes(self, rank: int) -> tuple[int, ...]:
        """Those of a result of this rank along which the other axes of the weight stand."""
        first = rank - len(self.free) if self.at else 0
        return tuple(range(first, first + len(self.free)))

    def is_transposed(self, other: Hashable) -> bool:
        """Whether one contracts what the other leaves."""
        if not isinstance(other, How):
            return False
        mine, theirs = (tuple(k for _, k in how.pairs) for how in (self, other))
        return self.weight == other.weight and mine == other.free and theirs == self.free


@dataclasses.dataclass(frozen=True)
class Use:
    """A signal that met a weight, and the law of what that gave, as of a signal that it had not made."""

    how: Hashable
    signal: Value
    out: Law


@dataclasses.dataclass
class Turned:
    """Weights that were transposed, by the result; kept, so that no other takes its place."""

    known: dict[int, tuple[Value, Value, tuple[int, ...]]] = dataclasses.field(default_factory=dict)

    def note(self, out: Value, weight: Value, axes: Sequence[int]) -> None:
        """Remember the axes of a weight that those of another are."""
        base, before = self.base_of(weight)
        self.known[id(out)] = (out, base, tuple(before[i] for i in axes))

    def base_of(self, weight: Any) -> tuple[Value, tuple[int, ...]]:
        """The weight that was transposed, and its axes in their order now."""
        _, base, axes = self.known.get(id(weight), (None, weight, tuple(range(len(weight.shape)))))
        return base, axes


def how_met(eqn: Any, weight: Value, at: int, turned: Turned) -> Hashable | None:
    """What tells a weight and how it is met; none if that is not known."""
    base, axes = turned.base_of(weight)
    known = _identity(base)
    settings = {k: str(v) for k, v in eqn.params.items() if "sharding" not in k}
    if known is None:
        return None
    if eqn.primitive.name != "dot_general" or any(eqn.params["dimension_numbers"][1]):
        rest = (eqn.primitive.name, tuple(sorted(settings.items())), at, axes)
        return (known, rest, eqn.outvars[0].aval.shape)
    del settings["dimension_numbers"]
    contracted = eqn.params["dimension_numbers"][0]
    pairs = sorted(zip(contracted[1 - at], (axes[k] for k in contracted[at]), strict=True))
    free = tuple(k for i, k in enumerate(axes) if i not in contracted[at])
    return How(known, at, tuple(pairs), free, tuple(sorted(settings.items())))


def square_of(x: Any) -> float:
    """The mean square of a law, or of an array that has entries."""
    return (
        mean_square(x) if isinstance(x, Law) else float(np.mean(np.square(np.asarray(x.whole(), np.float64))))
    )


def _identity(weight: Value) -> Hashable | None:
    """What tells a weight; nothing if its values are not known."""
    if isinstance(weight, Held):
        return None if is_traced(weight.array) else (id(weight.array), weight.shape)
    if isinstance(weight, Law) and not is_traced(weight.nodes):
        return weight.roots, weight.shape, np.asarray(weight.nodes).tobytes()
    return None
