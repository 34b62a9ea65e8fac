"""Functions of single entries, run on the nodes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jinit._compat import bind
from jinit.signals.laws import places
from jinit.signals.laws.arrays import is_traced, near, xp
from jinit.signals.laws.law import Axes, Law
from jinit.signals.laws.masks import marked
from jinit.signals.laws.pointwise import pointwise
from jinit.signals.laws.roots import MASK, PLACE

# Of numbers of at most so many values it is known how often two are equal.
FEW = 16
# Primitives that NumPy computes to the same bits (but for subnormal numbers), with nothing to compile.
SAME = {
    "abs": np.abs, "neg": np.negative, "square": np.square, "max": np.maximum, "min": np.minimum,
    "add": np.add, "add_any": np.add, "sub": np.subtract, "mul": np.multiply,
    "eq": np.equal, "ne": np.not_equal,
    "gt": np.greater, "ge": np.greater_equal, "lt": np.less, "le": np.less_equal,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.bitwise_not,
}  # fmt: skip


def elementwise(eqn: Any, laws: list[Law], name: Hashable) -> list[Law]:
    """A function of entries, run on the nodes as it stands."""
    outs = [v.aval for v in eqn.outvars]

    def run(*nodes: Any) -> list[Any]:
        return on_nodes(eqn, nodes)

    kind = eqn.primitive.name
    if kind == "select_n":
        if (kept := _unmasked(laws)) is not None:
            return [kept]
        laws = marked(laws)
    fixed, alike = _fixed_sums(kind, laws), _alike(laws)
    found = pointwise(run, laws, outs, name, kind)
    if _is_affine(kind, laws):
        found = [dataclasses.replace(x, is_normal=True) for x in found]
    return [dataclasses.replace(x, alike=alike).with_sums(fixed) for x in found]


def _is_affine(kind: str, laws: Sequence[Law]) -> bool:
    """Whether it is a sum of normals, or one times what is not random."""
    random = [i for i, x in enumerate(laws) if places.others(x)]
    alone = len(random) == 1 and (kind in ("mul", "neg") or (kind == "div" and random == [0]))
    return (alone or kind in ("add", "add_any", "sub")) and all(laws[i].is_normal for i in random)


def are_never_equal(laws: Sequence[Any]) -> bool:
    """Whether two floating laws have nothing in common, and next to no value."""
    floating = all(jnp.issubdtype(x.dtype, jnp.floating) and x.roots for x in laws)
    if not floating or any(is_traced(x.nodes) for x in laws) or {*laws[0].roots} & {*laws[1].roots}:
        return False
    values = [np.unique(np.asarray(x.nodes)) for x in laws]
    return min(map(len, values)) > FEW


def on_nodes(eqn: Any, nodes: Sequence[Any]) -> list[Any]:
    """The equation on arrays that broadcast, those of floating dtypes in the widest of them."""
    widest = max((x.dtype for x in nodes if jnp.issubdtype(x.dtype, jnp.inexact)),
                 key=lambda d: jnp.finfo(d).bits, default=None)  # fmt: skip
    same = [
        x.astype(widest) if widest is not None and x.dtype != widest and jnp.issubdtype(x.dtype, jnp.floating)
        and jnp.issubdtype(widest, jnp.floating) else x
        for x in nodes
    ]  # fmt: skip
    shape = jnp.broadcast_shapes(*(x.shape for x in same))
    return _run(eqn, [x if x.shape == shape else xp.broadcast_to(x, shape) for x in same])


def _run(eqn: Any, nodes: list[Any]) -> list[Any]:
    """The equation on arrays of one shape, laid out flat and filled up to a power of two: few to compile."""
    if any(map(is_traced, nodes)) or not nodes[0].size:
        return bind(eqn, nodes)
    if (same := _same(eqn.primitive.name, nodes)) is not None:
        with np.errstate(all="ignore"):
            return [np.asarray(same(*nodes))]
    shape, size = nodes[0].shape, nodes[0].size
    whole = max(128, 2 ** (size - 1).bit_length())
    outs = bind(eqn, [np.pad(np.ravel(x), (0, whole - size), "edge") for x in nodes])
    return [near(x)[:size].reshape(shape) for x in outs]


def _same(kind: str, nodes: Sequence[Any]) -> Callable[..., Any] | None:
    if any(jnp.issubdtype(x.dtype, jnp.complexfloating) for x in nodes):
        return None
    if kind == "select_n":
        return (lambda which, no, yes: np.where(which, yes, no)) if len(nodes) == 3 else None
    if kind == "div":  # NumPy divides integers to floating numbers
        return np.divide if jnp.issubdtype(nodes[0].dtype, jnp.inexact) else None
    return SAME.get(kind)


def _unmasked(laws: list[Law]) -> Law | None:
    """What comes back from a softmax, where a mask is put on it: what is masked is zero already."""
    cases = laws[1:]
    by_mask = all(r.kind in (MASK, PLACE) for r in laws[0].roots)
    back = [x for x in cases if by_mask and x.is_linear and x.fixed_sums]
    rest = [x for x in cases if x.roots]
    return back[0] if len(back) == 1 and len(rest) == 1 else None


def _alike(laws: Sequence[Law]) -> Axes:
    """Axes along which the results are the same, though not known as such."""
    known = frozenset[int]().union(*(x.alike for x in laws))
    return known - frozenset().union(*(_varying(x) for x in laws))


def _varying(law: Law) -> Axes:
    return law.axes_varying() - law.alike


def _is_fixed(law: Law, axes: Axes) -> bool:
    """Whether the sum along these axes is fixed, be it because entries are the same along them."""
    return any(f <= axes for f in law.fixed_sums) or not _varying(law) & axes


def _fixed_sums(kind: str, laws: list[Law]) -> frozenset[Axes]:
    """Along which axes the sum of the result is fixed as well."""
    if kind in ("add", "add_any", "sub", "neg"):
        # A maximum that is subtracted before the exponential gets back the sum of a row: nothing.
        random = [x for x in laws if x.roots and (is_traced(x.nodes) or x.nodes.any())]
        fixed = {f for x in random for f in x.fixed_sums}
        fixed |= {f | g for f, g in itertools.combinations(fixed, 2)}
        return frozenset(f for f in fixed if all(_is_fixed(x, f) for x in random))
    if kind in ("mul", "div"):
        first, other = (laws[0], laws[1]) if kind == "div" or laws[0].fixed_sums else (laws[1], laws[0])
        return first.sums_left(_varying(other))
    return frozenset()
