"""Rows that are sums of the rows of another array, and what such sums have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import numpy as np

from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.contracting import contract
from jinit.signals.laws.kernels import Kernel
from jinit.signals.laws.law import Law, as_float
from jinit.signals.laws.masked import of_matrix
from jinit.signals.laws.meeting import of_dot
from jinit.signals.laws.moving import transposed
from jinit.signals.laws.roots import COTANGENT
from jinit.signals.laws.runs import Run, runs_of
from jinit.signals.laws.values import Value

# Of the largest node: by no more does a multiple of a law differ from it.
NEAR = 1e-5


@dataclasses.dataclass(frozen=True, eq=False)
class Image:
    """Rows that are sums of those of another array: `M x`.

    Attributes:
      law: of the sums.
      source: the law of `x`.
      matrix: `M`.
      rows: the axis of rows of `x`.
      along: that of the sums.
    """

    law: Law
    source: Law
    matrix: np.ndarray
    rows: int
    along: int


@dataclasses.dataclass
class Images:
    """Laws of rows that are known as sums of those of others.

    Attributes:
      known: those, by their roots and shape.
      lost: numbers of rows picked of which some come again, if it is not known which.
    """

    known: dict[Hashable, list[Image]] = dataclasses.field(default_factory=dict)
    lost: set[int] = dataclasses.field(default_factory=set)

    def note(self, image: Image) -> None:
        """Remember one."""
        self.known.setdefault((image.law.roots, image.law.shape), []).append(image)

    def of(self, law: Law) -> Image | None:
        """What a law is known to be an image of, or a multiple of one."""
        for image in reversed(self.known.get((law.roots, law.shape), ())):
            if (factor := _factor(law, image.law)) is not None:
                return dataclasses.replace(image, law=law, matrix=image.matrix * np.float32(factor))
        return None

    def product(self, image: Image, name: Hashable) -> Law:
        """The law of `M x`, which is remembered."""
        law = _product(image, name)
        self.note(dataclasses.replace(image, law=law))
        return law

    def added(self, eqn: Any, ins: Sequence[Value], name: Hashable) -> list[Law] | None:
        """The sum of two images of one law, or of one and that law; nothing if they are not known as that."""
        if not self.known or eqn.primitive.name not in ("add", "add_any"):
            return None
        a, b = ins
        if not isinstance(a, Law) or not isinstance(b, Law):
            return None
        one, other = self.of(a), self.of(b)
        image = other if one is None else one
        if image is None or image.law.shape != image.source.shape or image.rows != image.along:
            return None
        first, second = _matrix(a, one, image), _matrix(b, other, image)
        if first is None or second is None:
            return None
        return [self.product(dataclasses.replace(image, matrix=first + second), name)]


def _matrix(law: Law, own: Image | None, image: Image) -> np.ndarray | None:
    """That by which a law is an image of the same as another."""
    if own is not None and own.source is image.source and (own.rows, own.along) == (image.rows, image.along):
        return own.matrix
    same = law.shape == image.source.shape and law.roots == image.source.roots
    factor = _factor(law, image.source) if same else None
    return None if factor is None else np.eye(len(image.matrix), dtype=np.float32) * np.float32(factor)


def _factor(law: Law, other: Law) -> float | None:
    """By what number one law is another, of the same roots."""
    x, y = law.nodes, other.nodes
    if is_traced(x) or is_traced(y) or x.shape != y.shape or not np.issubdtype(x.dtype, np.floating):
        return None
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    size = float(np.vdot(y, y))
    factor = float(np.vdot(x, y)) / size if size > 0 else 0.0
    return factor if factor and np.max(np.abs(x - factor * y)) <= NEAR * np.max(np.abs(x)) else None


def _as_alike(law: Law, axis: int) -> Law:
    """`law`, a gradient, what is the same for all rows as rows that are all alike: their sums differ."""
    roots = list(law.roots)
    for i, r in enumerate(roots):
        if r.kind == COTANGENT and axis not in r.axes:
            run = Run.of(Kernel.of_run(law.shape[axis], law.shape[axis]))
            runs = runs_of({**dict(r.runs), axis: run})
            roots[i] = dataclasses.replace(r, name=(r.name, "rows"), axes=r.axes | {axis}, runs=runs)
    return dataclasses.replace(law, roots=tuple(roots))


def _product(image: Image, name: Hashable) -> Law:
    source = _as_alike(as_float(image.source), image.rows)

    def product(a: Any, b: Any) -> Any:
        return jax.lax.dot_general(a, b, (((1,), (image.rows,)), ((), ())))

    shapes = [jax.ShapeDtypeStruct(x.shape, np.float32) for x in (image.matrix, source)]
    how = of_dot(jax.make_jaxpr(product)(*shapes).eqns[0])
    picks = of_matrix(xp.asarray(image.matrix), how, 0, (name, "index"))
    if picks is None:
        raise AssertionError("a matrix of numbers has a law")
    law = contract(picks, source, how, source.dtype, name)
    order = [*range(1, len(law.shape))]
    order.insert(image.along, 0)
    return transposed(law, order)
