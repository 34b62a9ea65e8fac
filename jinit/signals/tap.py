"""A tap: the identity, whose derivative with respect to a probe is a statistic of the cotangent."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jinit._compat import vary, varying_axes
from jinit._sharding import on_this_mesh
from jinit._typing import Array, PyTree

Statistic = Callable[[Array], PyTree]


def tap(statistic: Statistic, x: Array, probe: PyTree) -> Array:
    """`x`, such that the gradient with respect to `probe` is `statistic(cotangent of x)`.

    No activation and no gradient is kept for it, and it works inside `scan`, `remat` and `shard_map`.

    Args:
      statistic: a function of an array like `x` that gives a pytree like `probe`.
      x: any floating or complex array.
      probe: zeros, from `probe_of`.
    """
    axes = varying_axes(x).union(*map(varying_axes, jax.tree.leaves(probe)))
    return _tap(statistic, axes, x, jax.tree.map(lambda p: vary(on_this_mesh(p), axes), probe))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _tap(statistic: Statistic, axes: frozenset[str], x: Array, probe: PyTree) -> Array:
    return x


def _forward(statistic: Statistic, axes: frozenset[str], x: Array, probe: PyTree) -> tuple[Array, None]:
    return x, None


def _backward(statistic: Statistic, axes: frozenset[str], _: None, cotangent: Array) -> tuple[Array, PyTree]:
    return cotangent, jax.tree.map(lambda s: vary(_floating(s), axes), statistic(cotangent))


_tap.defvjp(_forward, _backward)


def _floating(x: Array) -> Array:
    """A gradient must be floating: so are the counts in it."""
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(jnp.float32)


def probe_shape(statistic: Statistic, aval: Any) -> PyTree:
    """Shapes and dtypes of the probe of a tap on a value like `aval`."""
    x = jax.ShapeDtypeStruct(aval.shape, aval.dtype)
    return jax.eval_shape(lambda x: jax.tree.map(_floating, statistic(x)), x)


def probe_of(shape: PyTree, lengths: Sequence[int]) -> PyTree:
    """Zeros to be the probe of a tap inside scans of these lengths."""
    return jax.tree.map(lambda s: jnp.zeros((*lengths, *s.shape), s.dtype), shape)
