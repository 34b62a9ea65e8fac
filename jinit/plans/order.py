"""The place of every kernel in the depth of a network, steps of loops counted."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Sequence

from jinit.jaxprs.graph import Address


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel where it is first used.

    Attributes:
      leaf: index of the parameter.
      address: of its first site.
      loops: address and length of the scans that step through a stack of such kernels, outermost first.
    """

    leaf: int
    address: Address
    loops: tuple[tuple[Address, int], ...]


@dataclasses.dataclass(frozen=True)
class Place:
    """Index of a layer, and by how much it grows with each step of the loops around it."""

    index: int
    steps: tuple[int, ...] = ()


class Order:
    """Numbers the kernels of a program.

    Attributes:
      count: number of kernels, those of a stack counted one by one.
      places: leaf of a kernel -> its place.
    """

    def __init__(self, kernels: Sequence[Kernel]):
        self.places: dict[int, Place] = {}
        self._per_step: dict[Address, int] = {}
        self._kernels = sorted(kernels, key=lambda k: k.address)
        self._addresses = [k.address for k in self._kernels]
        self.count = self._number(self._kernels, 0, 0, ())

    def near(self, address: Address, loops: Sequence[Address]) -> Place:
        """The place of what is used at an address, in these loops: that of the kernel before it."""
        before = bisect.bisect_right(self._addresses, address) - 1
        index = self.places[self._kernels[before].leaf].index if before >= 0 else 0
        return Place(index, tuple(self._per_step.get(loop, 0) for loop in loops))

    def _number(self, kernels: Sequence[Kernel], depth: int, base: int, steps: tuple[int, ...]) -> int:
        """Number kernels that share their first loops; returns how many there are in one step of these."""
        done: set[Address] = set()
        number = 0
        for kernel in kernels:
            if len(kernel.loops) == depth:
                self.places[kernel.leaf] = Place(base + number)
                number += 1
                continue
            loop, length = kernel.loops[depth]
            if loop in done:
                continue
            done.add(loop)
            inside = [k for k in kernels if len(k.loops) > depth and k.loops[depth][0] == loop]
            each = self._number(inside, depth + 1, base + number, steps)
            self._per_step[loop] = each
            for k in inside:
                place = self.places[k.leaf]
                self.places[k.leaf] = dataclasses.replace(place, steps=(each, *place.steps))
            number += each * length
        return number
