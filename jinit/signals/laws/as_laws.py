"""The law of any value: of an array's entries, and of what the steps of a loop give."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jinit._typing import Array
from jinit.signals.laws import places
from jinit.signals.laws.align import canonical
from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.gram import numbers_of, rows_of
from jinit.signals.laws.law import (
    Axes,
    Law,
    all_axes,
    as_float,
    constant,
    node_dtype,
    plus_normal,
    ratio,
    rule,
    square_root,
    squared,
)
from jinit.signals.laws.levels import Level, limited
from jinit.signals.laws.masks import is_even, is_masked, middles, of_mask, of_masked
from jinit.signals.laws.quadrature import gaussian
from jinit.signals.laws.roots import Root
from jinit.signals.laws.values import PARAMS, Each, Held, Stacked, Unknown, Value, Variable

# Of fewer numbers it is not known whether they are normal; by how many standard errors moments may be off.
LEAST_NORMAL, BY_CHANCE = 64, 2.5
STEPS = 32  # of a loop, when its steps come together in one law


def as_law(value: Value, name: Hashable) -> Law | Unknown:
    """The law of any value; `name` tells the new roots, but those of an array, which are its own."""
    if isinstance(value, Each):
        value = of_one_form(value, name)
    if isinstance(value, Stacked):
        return _of_steps(value, name)
    if not isinstance(value, Held):
        return value
    x = value.array
    name = name if is_traced(x) else Variable(x)
    varying = tuple(i for i, n in enumerate(x.shape) if n > 1)
    dtype = value.dtype
    if jnp.issubdtype(dtype, jax.dtypes.extended):
        return Unknown("it is a random key")
    if not varying or is_even(x):
        one = x.reshape(-1)[0] if x.size else xp.zeros((), dtype)  # an array without entries has any law
        return constant(one, value.shape, dtype)
    if x.dtype == jnp.bool_:
        return of_mask(x, value.shape)
    if is_masked(x):
        return of_masked(x, value.shape)
    if not jnp.issubdtype(dtype, jnp.floating):
        size = min(x.size, 128)
        nodes = xp.sort(x.reshape(-1))[middles(x.size, size)].astype(node_dtype(dtype))
        return _on_roots(
            value, nodes, (xp.full(size, 1 / size, jnp.float32),), (Root(name, frozenset(varying)),)
        )
    if (law := numbers_of(value)) is not None:
        return law
    if len(varying) > 1:
        return _of_rows(value, varying, name)
    weight = value.source == {PARAMS}
    numbers = x.reshape(-1).astype(node_dtype(dtype))
    normal = _is_normal(numbers, weight)
    nodes, weights = _quantiles(numbers, 8 if weight else 64, normal)
    law = _on_roots(value, nodes, (weights,), (Root(name, frozenset(varying)),))
    return dataclasses.replace(law, is_normal=normal)


def _on_roots(value: Held, nodes: Array, weights: tuple[Array, ...], roots: tuple[Root, ...]) -> Law:
    return Law(nodes, weights, roots, value.shape, jnp.dtype(value.dtype))


def _quantiles(x: Array, size: int, normal: bool) -> tuple[Array, Array]:
    """Nodes with the mean and variance of `x`, at its quantiles or those of a normal; and their weights."""
    z, w = gaussian(size)
    share = xp.asarray(np.cumsum(w) - w / 2, x.dtype)
    weights = xp.asarray(w, x.dtype)
    if normal:
        return xp.mean(x) + square_root(xp.var(x)) * xp.asarray(z, x.dtype), weights
    nodes = xp.interp(share, xp.asarray((np.arange(x.size) + 0.5) / x.size, x.dtype), xp.sort(x))
    nodes = nodes - xp.sum(weights * nodes)
    has, wants = xp.sum(weights * nodes**2), xp.var(x)
    return xp.mean(x) + nodes * square_root(ratio(wants, has)), weights


def _is_normal(x: Array, weight: bool) -> bool:
    """Whether numbers cannot be told from so many normal ones by their absolute and higher moments.

    Sums of normals are known exactly, those of anything else in the shape of so many nodes. Weights that are
    traced are taken for normal.
    """
    if is_traced(x) or x.size < LEAST_NORMAL:
        return weight and is_traced(x)
    y = np.asarray(x, np.float64)
    deviation = y.std()
    if not (deviation > 0 and np.isfinite(deviation)):
        return False
    z = (y - y.mean()) / deviation
    moments = [(abs(z), math.sqrt(2 / math.pi), 1 - 2 / math.pi), (z**3, 0.0, 6.0), (z**4, 3.0, 24.0)]
    return all(abs(of.mean() - m) < BY_CHANCE * math.sqrt(v / y.size) for of, m, v in moments)


def _of_rows(value: Held, varying: tuple[int, ...], name: Hashable) -> Law:
    """What the rows along the first axis, be they examples, have in common along the last one, and the rest.

    Of an array of more than two axes also what the positions of one example share.
    """
    x = value.array.astype(node_dtype(value.dtype))
    first, places = varying[0], varying[1:-1]
    parts = components_of(x, varying[:-1])
    common = xp.mean(x, axis=(first, *places), keepdims=True)
    own_of_example = xp.mean(x, axis=places, keepdims=True) - common if places else None
    pieces = [(frozenset[int](), common, 4 if places else 24)]
    if places:
        pieces.append((frozenset([first]), own_of_example, 6))
        pieces.append((frozenset(places), xp.mean(x, axis=first, keepdims=True) - common, 8))
    left: Any = sum(parts.values())
    pieces = [
        (own, piece, size) for own, piece, size in pieces if not _is_chance(own, parts, varying, x.shape)
    ]
    left = left - sum(parts[own] for own, _, _ in pieces)
    rest = x - sum(piece for _, piece, _ in pieces)
    alone = 8 if value.source == {PARAMS} else 128
    pieces.append((frozenset(varying[:-1]), rest, 48 if pieces else alone))
    nodes, weights, roots, normal = xp.zeros((), x.dtype), [], [], True
    for k, (own, piece, size) in enumerate(pieces):
        numbers = piece.reshape(-1)
        known = _is_normal(numbers, value.source == {PARAMS})
        points, w = _quantiles(numbers, size, known)
        normal = normal and known
        scaled = _with_variance(points, w, left if piece is rest else parts[own])
        nodes = nodes[..., None] + scaled.reshape((1,) * k + (-1,))
        weights.append(w)
        roots.append(Root((name, k), own | {varying[-1]}))
    return dataclasses.replace(_on_roots(value, nodes, tuple(weights), tuple(roots)), is_normal=normal)


def _is_chance(own: Axes, parts: dict[Axes, Array], varying: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether what entries share, alone along `own` and the last axis, is what independent ones would.

    Of `n` entries each the means then have `1/n` of the variance, known to three times `√(2/d)` by `d` means.
    """
    total = sum(parts.values())
    if is_traced(total):
        return False
    n = math.prod(shape[i] for i in varying[:-1] if i not in own)
    d = math.prod(shape[i] for i in own) * shape[varying[-1]]
    return bool(parts[own] * n < 3 * math.sqrt(2 / d) * total)


def _with_variance(nodes: Array, weights: Array, variance: Array) -> Array:
    mean = xp.sum(weights * nodes)
    has = xp.sum(weights * (nodes - mean) ** 2)
    return mean + (nodes - mean) * square_root(ratio(variance, has))


def of_examples(value: Held, free: Axes, name: Hashable) -> Law:
    """Two moments of a signal, by what its entries share along the axes that a contraction keeps."""
    if (law := rows_of(value, free, name)) is not None:
        return law
    x = value.array.astype(node_dtype(value.dtype))
    parts = components_of(x, [i for i in sorted(free) if x.shape[i] > 1])
    axes = frozenset(i for i, n in enumerate(x.shape) if n > 1)
    law = _on_roots(value, xp.mean(x), (), ())
    for k, (own, variance) in enumerate(parts.items()):
        if not is_traced(variance) and not np.any(variance):
            continue
        law = plus_normal(law, variance, Root((name, k), (axes - free) | own), 2)
    return law


def components_of(x: Array, free: Sequence[int]) -> dict[Axes, Array]:
    """The variance of what entries share along some of the axes `free`, by the axes along which it differs.

    Means over a set `A` of axes have the variance `Σ_S v_S Π_{i in A and S} 1/n_i`; solved for `v_S`, the
    components are unbiased. Of more than two axes the last ones count as one.
    """
    groups = [(i,) for i in free] if len(free) <= 2 else [(free[0],), tuple(free[1:])]
    sets = [
        frozenset(c) for k in range(len(groups) + 1) for c in itertools.combinations(range(len(groups)), k)
    ]
    sizes = [math.prod(x.shape[i] for i in group) for group in groups]
    mean = xp.mean(x)
    seen = []
    for averaged in sets:
        over = tuple(i for k in averaged for i in groups[k])
        seen.append(xp.mean(squared((xp.mean(x, axis=over, keepdims=True) if over else x) - mean)))
    system = [[math.prod(1 / sizes[k] for k in a & s) for s in sets] for a in sets]
    solved = xp.matmul(xp.asarray(np.linalg.inv(system), x.dtype), xp.stack(seen))
    own = xp.clip(solved, 0, seen[0])
    own = own * ratio(seen[0], xp.sum(own))
    return {frozenset(i for k in s for i in groups[k]): own[n] for n, s in enumerate(sets)}


def with_fixed_sums(law: Law, value: Held, axes: Axes) -> Law:
    """`law`, of an array whose entries may add up to the same along `axes`, as where a mean was subtracted.

    Sums of independent entries differ by `√n`; what is left of their rounding errors is far smaller.
    """
    n = math.prod(value.array.shape[i] for i in axes)
    if is_traced(value.array) or value.array.shape != value.shape or n < 2 or not value.array.size:
        return law
    x = value.array - np.mean(value.array, dtype=np.float32)
    sums = np.abs(np.sum(x, axis=tuple(axes), dtype=np.float32))
    size = np.sqrt(n * np.mean(np.square(x, dtype=np.float32)))
    return dataclasses.replace(law, fixed_sums=frozenset([axes])) if sums.max() < 0.02 * size else law


def of_weight(value: Held, name: Hashable) -> Law:
    """Two moments of a weight: all that a contraction needs."""
    x = value.array.astype(node_dtype(value.dtype))
    sign, weights = rule(2, x.dtype)
    if x.size == 1:
        return constant(x.reshape(()), value.shape, value.dtype)
    mean = xp.mean(x)
    nodes = mean + square_root(xp.mean(squared(x - mean))) * sign
    return _on_roots(
        value, nodes, (weights,), (Root(name, frozenset(i for i, n in enumerate(x.shape) if n > 1)),)
    )


def all_steps(value: Value) -> Value:
    """What is known step by step, as one law of all steps: as it is seen from outside of the loop."""
    return as_law(value, "steps") if isinstance(value, (Each, Stacked)) else value


def of_one_form(value: Each, name: Hashable) -> Stacked | Unknown:
    """The laws of all steps on roots of the same axes, with a leading axis for the steps."""
    found = [as_law(x, (name, "step", i)) for i, x in enumerate(value.steps)]
    if unknown := [x for x in found if isinstance(x, Unknown)]:
        return unknown[0]
    laws = [places.as_signals(as_float(x)) for x in found if isinstance(x, Law)]
    levels, linear = limited({Level(r.axes) for x in laws for r in x.roots}), any(x.is_linear for x in laws)
    forms = [canonical(x, levels, name, linear=linear) for x in laws]
    plain = [
        dataclasses.replace(x, origin=None, is_normal=False, fixed_sums=frozenset(), parameters=frozenset())
        for x in forms
    ]
    return Stacked(jax.tree.map(lambda *xs: xp.stack(xs), *plain), len(laws))


def _of_steps(value: Stacked, name: Hashable) -> Law | Unknown:
    """All steps as one law: which step is a root too, and every step has entries of its own."""
    step = value.step
    if isinstance(step, Stacked):
        inner = jax.vmap(lambda s: as_law(s, (name, "inner")))(step)
        step = inner
    if not isinstance(step, Law):
        return step if isinstance(step, Unknown) else Unknown("it is an array made in a loop")
    step = places.as_signals(step)
    picked = np.unique(np.linspace(0, value.length - 1, min(value.length, STEPS)).round().astype(int))
    roots = [
        dataclasses.replace(
            r,
            name=(r.name, name),
            axes=frozenset(a + 1 for a in r.axes) | {0},
            runs=tuple((a + 1, b) for a, b in r.runs),
        )
        for r in step.roots
    ]
    even = xp.full(picked.size, 1 / picked.size, jnp.float32)
    return Law(
        step.nodes[picked],
        (even, *(w[0] for w in step.weights)),
        (Root((name, "step"), all_axes((value.length,))), *roots),
        (value.length, *step.shape),
        step.dtype,
    )
