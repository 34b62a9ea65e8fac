"""What becomes of the axes of outputs in a kernel: a trace, a diagonal, or one axis for each side."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jinit._errors import message
from jinit._typing import Array


@dataclasses.dataclass(frozen=True)
class PairedAxes:
    """What becomes of each axis of the outputs of one example, the first axis (examples) left out.

    Attributes:
      roles: for every axis `trace`, `diagonal` or `both`.
      sizes: of these axes.
      diagonal_batch: whether only pairs of equal place are wanted.
    """

    roles: tuple[str, ...]
    sizes: tuple[int, ...]
    diagonal_batch: bool

    @staticmethod
    def of(
        shape: Sequence[int], trace: tuple[int, ...], diagonal: tuple[int, ...], caller: str
    ) -> PairedAxes:
        """From axes as the caller wrote them, for outputs `[n, ...]` of this shape."""
        rank = len(shape)
        if rank == 1 and trace == (-1,):
            trace = ()  # an output of one number has nothing to take the mean of
        for name, given in (("trace_axes", trace), ("diagonal_axes", diagonal)):
            if any(not -rank <= i < rank for i in given):
                must = f"`{name}` must be axes of the outputs"
                raise ValueError(message(caller, must, f"{name}={given} for shape {tuple(shape)}"))
        traced, kept = ({i % rank for i in given} for given in (trace, diagonal))
        if traced & kept or 0 in traced:
            must = "`trace_axes` and `diagonal_axes` must differ, and no trace is taken over examples, axis 0"
            raise ValueError(message(caller, must, f"trace_axes={trace}, diagonal_axes={diagonal}"))
        roles = ("trace" if i in traced else "diagonal" if i in kept else "both" for i in range(1, rank))
        return PairedAxes(tuple(roles), tuple(shape[1:]), 0 in kept)

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether outputs `[n, ...]` of this shape go with the others: axes that come once must agree."""
        sizes = tuple(shape[1:])
        if len(sizes) != len(self.sizes):
            return False
        return all(r == "both" or a == b for r, a, b in zip(self.roles, self.sizes, sizes, strict=True))

    @property
    def _labels(self) -> tuple[list[int], list[int], list[int]]:
        """Labels of the axes on the left, on the right and in the result."""
        rank = len(self.roles)
        left = list(range(rank))
        right = [i + rank if role == "both" else i for i, role in enumerate(self.roles)]
        kept = {"trace": lambda i: [], "diagonal": lambda i: [i], "both": lambda i: [i, i + rank]}
        return left, right, [label for i, role in enumerate(self.roles) for label in kept[role](i)]

    @property
    def _traced(self) -> int:
        return math.prod(n for n, role in zip(self.sizes, self.roles, strict=True) if role == "trace")

    def contract(self, left: list[Array], right: list[Array]) -> Array:
        """Sum over all parameters of the products of two Jacobians."""
        a, b, out = self._labels
        total: Any = None
        for x, y in zip(left, right, strict=True):
            rest = list(range(2 * len(a), 2 * len(a) + x.ndim - len(a)))
            part = jnp.einsum(x, [*a, *rest], y, [*b, *rest], out, precision="highest")
            total = part if total is None else total + part
        return total / self._traced

    def symmetric(self, kernel: Array) -> Array:
        """A kernel among the same examples, which is symmetric but for rounding, exactly so."""
        order = [1, 0]
        for role in self.roles:
            at = len(order)
            order += {"trace": [], "diagonal": [at], "both": [at + 1, at]}[role]
        return (kernel + kernel.transpose(order)) / 2

    def reduce(self, full: Array) -> Array:
        """Of a kernel of all outputs `[*left, *right]`, what is wanted."""
        a, b, out = self._labels
        return jnp.einsum(full, [*a, *b], out) / self._traced
