"""The law of an array's entries: samples on a grid of independent roots."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jinit._typing import Array, at_least_float32
from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.quadrature import gaussian
from jinit.signals.laws.roots import COTANGENT, PLACE, SIGNAL, WEIGHT, Root
from jinit.signals.laws.runs import Axes, sums_of


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Law:
    """The law of the entries of an array.

    An entry is a function of its roots, held as its values at a grid of nodes. Two entries share those roots
    that do not vary along the axes in which their indices differ. So one grid holds the law of an entry, and
    the covariance of any two.

    Attributes:
      nodes: values of the function, one axis for each root.
      weights: probabilities of the nodes of each root.
      roots: the roots.
      shape: shape of the array that this is the law of.
      dtype: its dtype; nodes are held in at least float32.
      is_normal: whether an entry, given its place, is known to be a constant plus a normal for each root.
      origin: where in the program it was made, which tells equal laws from equal variables.
      fixed_sums: sets of axes, along all of which together entries add up to the sum of their means: to one
        in a softmax, to zero where a mean was subtracted, and in what comes back from either.
      alike: axes along which entries are in fact the same, though known by what they have in common with each
        entry (`sums.Sum`).
      parameters: those that it is made of, if of these alone and known by their laws.
    """

    nodes: Array
    weights: tuple[Array, ...]
    roots: tuple[Root, ...] = dataclasses.field(metadata={"static": True})
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    dtype: Any = dataclasses.field(metadata={"static": True})
    is_normal: bool = dataclasses.field(default=False, metadata={"static": True})
    origin: Hashable = dataclasses.field(default=None, metadata={"static": True})
    fixed_sums: frozenset[Axes] = dataclasses.field(default=frozenset(), metadata={"static": True})
    alike: Axes = dataclasses.field(default=frozenset(), metadata={"static": True})
    parameters: frozenset[Hashable] = dataclasses.field(default=frozenset(), metadata={"static": True})

    @property
    def is_linear(self) -> bool:
        """Whether it is a gradient, known by two moments."""
        return any(r.kind == COTANGENT for r in self.roots)

    @property
    def is_weight(self) -> bool:
        """Whether it is made of parameters alone."""
        kinds = {r.kind for r in self.roots}
        return WEIGHT in kinds and kinds <= {WEIGHT, PLACE}

    @property
    def size(self) -> int:
        """Number of entries of the array."""
        return math.prod(self.shape)

    @property
    def variable(self) -> Hashable:
        """What tells it from other variables, also of those that the program begins with."""
        return tuple(r.name for r in self.roots) if self.origin is None else self.origin

    @property
    def identity(self) -> Hashable:
        """What tells the very same nodes, while they are kept, from those of other laws."""
        return id(self.nodes), self.roots, self.shape

    def axes_varying(self) -> Axes:
        """Axes along which entries differ."""
        return frozenset().union(*(r.axes for r in self.roots))

    def adds_to_nothing(self, summed: Axes, own: Axes, other: Axes = frozenset()) -> bool:
        """Whether the sum of what differs along `own`, times what does along `other`, is a fixed one."""
        return any(f <= summed and f & own and not f & other for f in self.fixed_sums)

    def with_sums(self, fixed: frozenset[Axes], kind: str = COTANGENT) -> Law:
        """The law with these fixed sums, those of what is linear in each root of this kind as well."""
        roots = list(self.roots)
        for i, r in enumerate(roots):
            if r.kind == kind and (mine := [(f, 1.0) for f in fixed if f & r.axes]):
                roots[i] = dataclasses.replace(r, fixed=sums_of([*r.fixed, *mine]))
        return dataclasses.replace(self, roots=tuple(roots), fixed_sums=fixed)

    def without_sums(self, axes: Axes) -> Law:
        """The law without fixed sums along any of these axes."""
        left = [tuple((f, share) for f, share in r.fixed if not f & axes) for r in self.roots]
        roots = tuple(dataclasses.replace(r, fixed=f) for r, f in zip(self.roots, left, strict=True))
        return dataclasses.replace(self, roots=roots, fixed_sums=self.sums_left(axes))

    def sums_left(self, axes: Axes) -> frozenset[Axes]:
        """The fixed sums along none of these axes."""
        return frozenset(f for f in self.fixed_sums if not f & axes)


def all_axes(shape: Sequence[int]) -> Axes:
    """Axes of more than one entry."""
    return frozenset(i for i, n in enumerate(shape) if n > 1)


def node_dtype(dtype: Any) -> Any:
    """In what dtype nodes are held."""
    return at_least_float32(dtype) if jnp.issubdtype(dtype, jnp.inexact) else jnp.dtype(dtype)


def constant(value: Array, shape: Sequence[int], dtype: Any) -> Law:
    """The law of an array all entries of which are `value`."""
    return Law(xp.asarray(value, node_dtype(dtype)), (), (), tuple(shape), jnp.dtype(dtype))


def rule(size: int, dtype: Any) -> tuple[Array, Array]:
    """Nodes and weights for the standard normal, as arrays."""
    nodes, weights = gaussian(size)
    return xp.asarray(nodes, dtype), xp.asarray(weights, dtype)


def normal_nodes(law: Law, position: int) -> Array | None:
    """The nodes of the standard normal that a root is, along its axis; none if it is not known to be one."""
    weights = law.weights[position]
    if is_traced(weights):
        return None
    nodes, expected = gaussian(weights.size)
    if expected.size != weights.size or not np.allclose(weights, expected, atol=1e-7):
        return None
    shape = [-1 if i == position else 1 for i in range(law.nodes.ndim)]
    return xp.asarray(nodes, law.nodes.dtype).reshape(shape)


def normal(
    mean: Any, variance: Any, name: Hashable, shape: Sequence[int], dtype: Any, *,
    size: int = 128, kind: str = SIGNAL,
) -> Law:  # fmt: skip
    """Independent normal entries."""
    law = dataclasses.replace(constant(mean, shape, dtype), is_normal=True)
    return plus_normal(law, variance, Root(name, all_axes(shape), kind), size)


def pair(square: Any, similarity: Any, name: Hashable, shape: Sequence[int], dtype: Any) -> Law:
    """Normal entries of mean square `square`; any two along axis 0 are correlated by `similarity`."""
    law = dataclasses.replace(constant(jnp.zeros(()), shape, dtype), is_normal=True)
    every = all_axes(shape)
    law = plus_normal(law, square * similarity, Root((name, 0), every - {0}), 64)
    return plus_normal(law, square * (1 - similarity), Root((name, 1), every), 128)


def plus_normal(law: Law, variance: Any, root: Root, size: int) -> Law:
    """`law` and an independent normal of a variance that may depend on the roots it has."""
    nodes, weights = rule(2 if root.kind == COTANGENT else size, law.nodes.dtype)
    scale = square_root(xp.asarray(variance, law.nodes.dtype))
    scale = xp.broadcast_to(scale, law.nodes.shape)
    return dataclasses.replace(
        law,
        nodes=law.nodes[..., None] + scale[..., None] * nodes.reshape((1,) * law.nodes.ndim + (-1,)),
        weights=(*law.weights, weights),
        roots=(*law.roots, root),
    )


def square_root(x: Array) -> Array:
    """`√max(x, 0)`, of which the derivative at zero is zero, as for what stays there."""
    zero, one = xp.zeros((), x.dtype), xp.ones((), x.dtype)
    return xp.where(x > 0, xp.sqrt(xp.where(x > 0, x, one)), zero)


def ratio(x: Array, y: Array) -> Array:
    """`x / y` of what is not negative, and zero, with a derivative of zero, where `y` is zero.

    Not over `max(y, tiny)`, whose derivative has the square of that below: `0 / 0`.
    """
    some, zero, one = y > jnp.finfo(y.dtype).tiny, xp.zeros((), y.dtype), xp.ones((), y.dtype)
    return xp.where(some, x / xp.where(some, y, one), zero)


def average(law: Law, over: Iterable[int] | None = None, of: Array | None = None) -> Array:
    """Mean of the nodes over the roots at these positions, all by default, their axes kept with one entry."""
    x = law.nodes if of is None else of
    positions = [i for i in (range(len(law.roots)) if over is None else over) if x.shape[i] > 1]
    for i in sorted(positions, key=lambda i: -x.shape[i]):
        x = _averaged(x, law.weights[i].astype(x.dtype), i)
    return x


def _averaged(x: Array, weights: Array, axis: int) -> Array:
    """As a product with a vector, which takes no array of the size of `x`."""
    before, size, after = math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
    rows = x.reshape(before, size) if after == 1 else x.reshape(before, size, after)
    out = xp.matmul(rows, weights) if after == 1 else xp.matmul(weights, rows)
    return out.reshape(*x.shape[:axis], 1, *x.shape[axis + 1 :])


def without(law: Law, positions: Iterable[int], nodes: Array) -> Law:
    """`law` with `nodes` that have one entry along the roots at these positions, those roots left out."""
    gone = tuple(positions)
    if not gone:
        return dataclasses.replace(law, nodes=nodes)
    kept = [i for i in range(len(law.roots)) if i not in gone]
    return dataclasses.replace(
        law,
        nodes=xp.squeeze(nodes, gone),
        weights=tuple(law.weights[i] for i in kept),
        roots=tuple(law.roots[i] for i in kept),
        is_normal=False,
    )


def first_along(law: Law, positions: Iterable[int]) -> Array:
    """The nodes at the first node of the roots at these positions, their axes kept with one entry."""
    gone = set(positions)
    return law.nodes[tuple(slice(0, 1) if i in gone else slice(None) for i in range(len(law.roots)))]


def squared(x: Array) -> Array:
    """`|x|²`."""
    return xp.real(x) ** 2 + xp.imag(x) ** 2 if jnp.iscomplexobj(x) else x * x


def mean_square(law: Law, of: Array | None = None) -> float:
    """`E[x²]` of a known law, or of another function of its roots."""
    x = law.nodes if of is None else of
    return float(average(law, of=squared(x)).reshape(()))


def two_moments(law: Law) -> tuple[Array, Array]:
    """Mean and variance of an entry, scalars."""
    x = law.nodes if jnp.issubdtype(law.nodes.dtype, jnp.inexact) else law.nodes.astype(jnp.float32)
    mean = average(law, of=x)
    variance = average(law, of=squared(x - mean))
    return mean.reshape(()), variance.reshape(())


def as_float(law: Law) -> Law:
    """`law` with floating nodes."""
    if jnp.issubdtype(law.nodes.dtype, jnp.inexact):
        return law
    return dataclasses.replace(law, nodes=law.nodes.astype(np.float32))
