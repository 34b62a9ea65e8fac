"""A mean subtracted, seen as a whole: what is left sums to zero, and so does what comes back from it."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from jinit._typing import Array
from jinit.signals.laws.law import Axes, Law, all_axes, average

CENTRED = "minus_its_mean"


@functools.partial(jax.jit, static_argnums=1)
def minus_its_mean(x: Array, axes: tuple[int, ...]) -> Array:
    """`x` less its mean along `axes`; its own derivative and, as a projection, its own transpose."""
    return x - jnp.sum(x, axes, keepdims=True) / math.prod(x.shape[i] for i in axes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def centre(x: Array, axes: tuple[int, ...]) -> Array:
    """`x` less its mean along `axes`."""
    return minus_its_mean(x, axes)


centre.defvjp(
    lambda x, axes: (minus_its_mean(x, axes), None),
    lambda axes, _, cotangent: (minus_its_mean(cotangent, axes),),
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def variance(x: Array, axes: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """`E[x²] − E[x]²` along `axes`, of this shape."""
    count = math.prod(x.shape[i] for i in axes)
    square = jnp.sum(jax.lax.square(x), axes) / count
    return (square - jax.lax.square(jnp.sum(x, axes) / count)).reshape(shape)


def _pull_back(axes: tuple[int, ...], shape: tuple[int, ...], x: Array, cotangent: Array) -> tuple[Array]:
    del shape
    kept = [1 if i in axes else n for i, n in enumerate(x.shape)]
    count = math.prod(x.shape[i] for i in axes)
    return (minus_its_mean(x, axes) * (2 / count * cotangent.reshape(kept)),)


variance.defvjp(lambda x, axes, shape: (variance(x, axes, shape), x), _pull_back)


def minus_mean(law: Law, axes: Axes) -> Law:
    """The law of entries less their mean along `axes`: given the roots that stay the same along them."""
    varying = [i for i, r in enumerate(law.roots) if r.axes & axes]
    nodes = law.nodes - average(law, varying)
    fixed = frozenset([axes & all_axes(law.shape)]) - {frozenset()}
    return dataclasses.replace(law, nodes=nodes, fixed_sums=law.fixed_sums | fixed, origin=None)
