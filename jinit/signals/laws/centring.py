"""A mean subtracted, seen as a whole: what is left sums to zero, and so does what comes back from it."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jinit._typing import Array
from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.averages import FEW
from jinit.signals.laws.law import Axes, Law, all_axes, average, squared
from jinit.signals.laws.parts import parts_by_reach
from jinit.signals.laws.places import differing, others_along
from jinit.signals.laws.quadrature import deviations, of_few
from jinit.signals.laws.roots import COTANGENT, DEVIATION, SIGNAL, Root
from jinit.signals.laws.runs import copies_in

CENTRED = "minus_its_mean"
# Of fewer, the mean inverse square of a standard deviation is infinite.
LEAST_FREEDOM = 3.0
# By which moments, and how nearly, entries are known to be normal.
NORMAL_MOMENTS, NEAR = {3: 0.0, 4: 3.0}, 0.1


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def variance(x: Array, axes: tuple[int, ...], shape: tuple[int, ...], centred: bool) -> Array:
    """`E[x²] − E[x]²` along `axes`, of this shape; `centred`: whether `x` less its mean meets it."""
    count = math.prod(x.shape[i] for i in axes)
    if centred:
        return (jnp.sum(jax.lax.square(minus_its_mean(x, axes)), axes) / count).reshape(shape)
    square = jnp.sum(jax.lax.square(x), axes) / count
    return (square - jax.lax.square(jnp.sum(x, axes) / count)).reshape(shape)


def _pull_back(
    axes: tuple[int, ...], shape: tuple[int, ...], centred: bool, x: Array, cotangent: Array
) -> tuple[Array]:
    del shape, centred
    kept = [1 if i in axes else n for i, n in enumerate(x.shape)]
    count = math.prod(x.shape[i] for i in axes)
    return (minus_its_mean(x, axes) * (2 / count * cotangent.reshape(kept)),)


variance.defvjp(lambda x, *settings: (variance(x, *settings), x), _pull_back)


def minus_mean(law: Law, axes: Axes) -> Law:
    """The law of entries less their mean along `axes`: given the roots that stay the same along them.

    The mean over `n` independent copies takes `1/n` of their variance with it.
    """
    varying = [i for i, r in enumerate(law.roots) if r.axes & axes]
    fixed = frozenset([axes & all_axes(law.shape)]) - {frozenset()}
    nodes = _centred(law, varying, axes)
    centred = dataclasses.replace(law, nodes=nodes, origin=None)
    centred = centred.with_sums(law.fixed_sums | fixed, COTANGENT if law.is_linear else SIGNAL)
    return centred if law.is_linear or is_traced(law.nodes) else _of_few(centred, axes)


def _centred(law: Law, varying: Sequence[int], axes: Axes) -> Array:
    if is_traced(law.nodes):
        return law.nodes - average(law, varying)
    counts = {i: float(law.shape[i]) for i in axes}
    nodes: Any = np.zeros((), law.nodes.dtype)
    for reach, x in parts_by_reach(law, varying):
        if reach is not None:
            left = max(0.0, 1 - 1 / copies_in(reach, counts, law.shape))
            nodes = nodes + x * np.asarray(np.sqrt(left), x.dtype)
    return xp.broadcast_to(nodes, law.nodes.shape)


def _of_few(law: Law, axes: Axes) -> Law:
    """Centred entries, known to be of one standard deviation, itself random, where they are few.

    As for a normal sample, the entries over their deviation do not depend on it.
    """
    law = differing(law, {r.kind for r in law.roots})
    freedom = _freedom(law, axes)
    if not freedom <= FEW or np.iscomplexobj(law.nodes):
        return law
    freedom = max(freedom, LEAST_FREEDOM)
    law = _over_deviation(law, axes, freedom)
    sizes, weights = deviations(freedom)
    source = tuple((r.name, tuple(sorted(r.axes))) for r in law.roots)
    root = Root((DEVIATION, freedom, source), all_axes(law.shape) - axes, DEVIATION)
    return dataclasses.replace(
        law,
        nodes=law.nodes[..., None] * sizes.astype(law.nodes.dtype),
        weights=(*law.weights, weights.astype(law.nodes.real.dtype)),
        roots=(*law.roots, root),
        is_normal=False,
    )


def _over_deviation(law: Law, axes: Axes, freedom: float) -> Law:
    """Entries, if they are normal, as they are over their own deviation: at most `sqrt(freedom)` of these."""
    moving = others_along(law, axes)

    def size_of(x: Array) -> Any:
        return np.sqrt(np.maximum(average(law, moving, squared(x)), np.finfo(x.dtype).tiny))

    size = size_of(law.nodes)
    unit = law.nodes / size
    if not all(abs(np.mean(average(law, of=unit**k)) - m) < NEAR for k, m in NORMAL_MOMENTS.items()):
        return law
    nodes = np.interp(unit, *of_few(freedom)).astype(law.nodes.dtype)
    return dataclasses.replace(law, nodes=nodes * (size / size_of(nodes)))


def _freedom(law: Law, axes: Axes) -> float:
    """Degrees of freedom of the mean square along `axes`, by its variance (Satterthwaite, 1946)."""
    counts = {i: float(law.shape[i]) for i in axes}
    square = dataclasses.replace(law, nodes=squared(law.nodes))
    varying = [i for i, r in enumerate(law.roots) if r.axes & axes]
    whole, spread = 0.0, 0.0
    for reach, x in parts_by_reach(square, varying):
        if reach is None:
            whole = float(np.mean(average(square, of=x)) ** 2)
        elif (n := copies_in(reach, counts, law.shape)) > 1:
            spread += float(np.mean(average(square, of=squared(x)))) / (n - 1)
    return 2 * whole / spread if spread > 0 else math.inf
