"""What a value of a program is known as: an array, a law, laws by step of a loop, or not at all."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jinit._typing import Array
from jinit.signals.laws.arrays import xp
from jinit.signals.laws.law import Axes, Law, Root, all_axes, constant, node_dtype, rule, squared
from jinit.signals.laws.quadrature import gaussian

INPUTS, PARAMS = "inputs", "params"
STEPS = 32  # of a loop, when its steps come together in one law


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Held:
    """An array computed from inputs alone, or from parameters alone, or from both entry by entry.

    Attributes:
      array: its entries; one entry along axes where they repeat.
      shape: its shape.
      source: what it is computed from.
    """

    array: Array
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    source: frozenset[str] = dataclasses.field(default=frozenset(), metadata={"static": True})

    @property
    def dtype(self) -> Any:
        """Dtype of the entries."""
        return self.array.dtype

    def whole(self) -> Array:
        """The array in full."""
        return self.array if self.array.shape == self.shape else xp.broadcast_to(self.array, self.shape)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stacked:
    """Values of all steps of a loop: arrays in `step` have a leading axis of `length`."""

    step: Any
    length: int = dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Unknown:
    """A value that was not followed, why, and the primitive that stood in the way."""

    reason: str = dataclasses.field(metadata={"static": True})
    primitive: str = dataclasses.field(default="", metadata={"static": True})


Value = Held | Law | Stacked | Unknown


def held(x: Any, *, source: frozenset[str] = frozenset()) -> Held:
    """An array as a value."""
    return Held(x, tuple(np.shape(x)), source)


def as_law(value: Value, name: Hashable) -> Law | Unknown:
    """The law of any value; `name` tells the new roots."""
    if isinstance(value, Stacked):
        return _of_steps(value, name)
    if not isinstance(value, Held):
        return value
    x = value.array
    varying = tuple(i for i, n in enumerate(x.shape) if n > 1)
    dtype = value.dtype
    if jnp.issubdtype(dtype, jax.dtypes.extended):
        return Unknown("it is a random key")
    if not varying:
        one = x.reshape(-1)[0] if x.size else xp.zeros((), dtype)  # an array without entries has any law
        return constant(one, value.shape, dtype)
    if x.dtype == jnp.bool_:
        return _of_mask(value, varying, name)
    if not jnp.issubdtype(dtype, jnp.floating):
        size = min(x.size, 128)
        nodes = xp.sort(x.reshape(-1))[_middles(x.size, size)].astype(node_dtype(dtype))
        return _on_roots(
            value, nodes, (xp.full(size, 1 / size, jnp.float32),), (Root(name, frozenset(varying)),)
        )
    if 0 in varying and len(varying) > 1 and value.source != {PARAMS}:
        return _of_examples(value, varying, name)
    size = 8 if value.source == {PARAMS} else 64
    nodes, weights = _quantiles(x.reshape(-1).astype(node_dtype(dtype)), size)
    return _on_roots(value, nodes, (weights,), (Root(name, frozenset(varying)),))


def _on_roots(value: Held, nodes: Array, weights: tuple[Array, ...], roots: tuple[Root, ...]) -> Law:
    return Law(nodes, weights, roots, value.shape, jnp.dtype(value.dtype))


def _middles(count: int, size: int) -> np.ndarray:
    return ((np.arange(size) + 0.5) * count / size).astype(int)


def _quantiles(x: Array, size: int) -> tuple[Array, Array]:
    """Nodes with the mean and variance of `x`, at its quantiles; and their weights."""
    _, w = gaussian(size)
    share = xp.asarray(np.cumsum(w) - w / 2, x.dtype)
    weights = xp.asarray(w, x.dtype)
    nodes = xp.interp(share, xp.asarray((np.arange(x.size) + 0.5) / x.size, x.dtype), xp.sort(x))
    nodes = nodes - xp.sum(weights * nodes)
    has, wants = xp.sum(weights * nodes**2), xp.var(x)
    tiny = xp.asarray(jnp.finfo(x.dtype).tiny, x.dtype)
    return xp.mean(x) + nodes * xp.sqrt(wants / xp.maximum(has, tiny)), weights


def _of_examples(value: Held, varying: tuple[int, ...], name: Hashable) -> Law:
    """What the entries of all examples, along axis 0, have in common, and the rest."""
    x = value.array.astype(node_dtype(value.dtype))
    shared = xp.mean(x, axis=0)
    common, own = common_variance(x, (0,))
    first, first_weights = _quantiles(shared.reshape(-1), 24)
    rest, rest_weights = _quantiles((x - shared[None]).reshape(-1), 64)
    first, rest = _with_variance(first, first_weights, common), _with_variance(rest, rest_weights, own)
    roots = (Root((name, 0), frozenset(varying) - {0}), Root((name, 1), frozenset(varying)))
    return _on_roots(value, first[:, None] + rest[None], (first_weights, rest_weights), roots)


def _with_variance(nodes: Array, weights: Array, variance: Array) -> Array:
    mean = xp.sum(weights * nodes)
    has = xp.sum(weights * (nodes - mean) ** 2)
    tiny = xp.asarray(jnp.finfo(nodes.dtype).tiny, nodes.dtype)
    return mean + (nodes - mean) * xp.sqrt(variance / xp.maximum(has, tiny))


def common_variance(x: Array, examples: Sequence[int]) -> tuple[Array, Array]:
    """Variance of what the entries of all examples have in common, and of the rest, without bias."""
    n = math.prod(x.shape[i] for i in examples)
    mean = xp.mean(x)
    everything = xp.mean(squared(x - mean))
    if n == 1:
        return everything, xp.zeros_like(everything)
    between = xp.mean(squared(xp.mean(x, axis=tuple(examples)) - mean))
    own = xp.clip((everything - between) / (1 - 1 / n), 0, everything)
    return everything - own, own


def of_examples(value: Held, examples: Axes, name: Hashable) -> Law:
    """Two moments of a signal, by what all examples share: all that a contraction needs."""
    x = value.array.astype(node_dtype(value.dtype))
    there = [i for i in examples if x.shape[i] > 1]
    common, own = common_variance(x, there)
    sign, weights = rule(2, x.dtype)
    axes = frozenset(i for i, n in enumerate(x.shape) if n > 1)
    mean = xp.mean(x)
    if not there:
        nodes, roots = mean + xp.sqrt(common) * sign, (Root(name, axes),)
        return _on_roots(value, nodes, (weights,), roots)
    nodes = mean + xp.sqrt(common) * sign[:, None] + xp.sqrt(own) * sign[None]
    roots = (Root((name, 0), axes - examples), Root((name, 1), axes))
    return _on_roots(value, nodes, (weights, weights), roots)


def of_weight(value: Held, name: Hashable) -> Law:
    """Two moments of a weight: all that a contraction needs."""
    x = value.array.astype(node_dtype(value.dtype))
    sign, weights = rule(2, x.dtype)
    if x.size == 1:
        return constant(x.reshape(()), value.shape, value.dtype)
    nodes = xp.mean(x) + xp.std(x) * sign
    return _on_roots(
        value, nodes, (weights,), (Root(name, frozenset(i for i, n in enumerate(x.shape) if n > 1)),)
    )


def _of_mask(value: Held, varying: tuple[int, ...], name: Hashable) -> Law:
    """A mask: how much of each row along the last axis is true, and which entries of it are."""
    x = value.array.astype(jnp.float32)
    *outer, inner = varying
    share = xp.mean(x, axis=inner).reshape(-1)
    size = min(x.shape[inner], 64)
    middle = xp.asarray((np.arange(size) + 0.5) / size, jnp.float32)
    even = xp.full(size, 1 / size, jnp.float32)
    own = Root((name, 1), frozenset(varying))
    if not outer:
        return _on_roots(value, middle < share[0], (even,), (own,))
    rows = min(share.size, 16)
    shares = xp.sort(share)[_middles(share.size, rows)]
    roots = (Root((name, 0), frozenset(outer)), own)
    return _on_roots(
        value, middle[None] < shares[:, None], (xp.full(rows, 1 / rows, jnp.float32), even), roots
    )


def _of_steps(value: Stacked, name: Hashable) -> Law | Unknown:
    """All steps as one law: which step is a root too, and every step has entries of its own."""
    step = value.step
    if isinstance(step, Stacked):
        inner = jax.vmap(lambda s: as_law(s, (name, "inner")))(step)
        step = inner
    if not isinstance(step, Law):
        return step if isinstance(step, Unknown) else Unknown("it is an array made in a loop")
    picked = np.unique(np.linspace(0, value.length - 1, min(value.length, STEPS)).round().astype(int))
    roots = [
        dataclasses.replace(r, name=(r.name, name), axes=frozenset(a + 1 for a in r.axes) | {0})
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
