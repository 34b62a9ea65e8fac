"""How the units and the examples at a site relate: dead, saturated, identical, collapsed."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jinit._sharding import whole_like
from jinit._typing import Array, at_least_float32
from jinit.jaxprs.axes import axes_of
from jinit.jaxprs.sites import Site
from jinit.signals.observe import Gauge


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class UnitStatistics:
    """How the units and the examples at one site relate, shape `[]` or `[length]`; None where not defined.

    A *unit* is one index of the free axes of the weight (an output feature); an *input feature* is one
    index of its contracted axes; an *example* is one row of the signal that meets it (batch entry, position).

    Attributes:
      dead: share of input features that are exactly zero for every example.
      saturated: share of input entries, exact zeros apart, that lie within 1 % of the range from either
        end of the range of values of this input.
      cosine: mean cosine similarity between the input rows of two different examples (None for one example).
      identical_forward: share of units whose weights and outputs equal those of some other unit.
      identical: share of units that equal some other unit in weights, outputs *and* cotangents: no
        gradient step can ever tell them apart.
    """

    dead: Array | None = None
    saturated: Array | None = None
    cosine: Array | None = None
    identical_forward: Array | None = None
    identical: Array | None = None


# Enclosures over whose steps or devices parts add up, which would make no sense of these statistics.
_SUMMED = frozenset({"while", "shard_map", "unchecked_shard_map"})


class UnitGauge(Gauge):
    """Moments, and beside them what `UnitStatistics` is made of."""

    def enter(self, site: Site, operands: list[Array]) -> dict[str, Any]:
        """Moments, and what tells dead, saturated and collapsed inputs."""
        found = super().enter(site, operands)
        axes = axes_of(site)
        if axes is None or site.regions & _SUMMED:
            return found
        x = _wide(operands[1 - site.weight])
        found["feature_size"] = feature_size(x, axes.features)
        found["saturated"] = saturated_share(x)
        found["directions"], found["num_directions"] = sum_of_directions(x, axes.examples)
        if len(axes.units) and not jnp.issubdtype(operands[site.weight].dtype, jnp.integer):
            found["weight_print"] = fingerprint(operands[site.weight], axes.units)
        return found

    def leave(self, site: Site, output: Array) -> dict[str, Any]:
        """Moments, and a fingerprint of every unit."""
        return {**super().leave(site, output), **self._print("output_print", site, output)}

    def back_to_output(self, site: Site, cotangent: Array) -> dict[str, Any]:
        """Moments, and a fingerprint of every unit's gradient."""
        return {**super().back_to_output(site, cotangent), **self._print("cotangent_print", site, cotangent)}

    def _print(self, name: str, site: Site, x: Array) -> dict[str, Any]:
        axes = axes_of(site)
        moved = x.shape != site.eqn.outvars[0].aval.shape
        if axes is None or moved or not axes.units or site.regions & _SUMMED:
            return {}
        return {name: fingerprint(x, axes.output_units)}


def _wide(x: Array) -> Array:
    return x if jnp.iscomplexobj(x) else x.astype(at_least_float32(x.dtype))


def feature_size(x: Array, features: tuple[int, ...]) -> Array:
    """The largest size of every feature over the examples: zero where the feature is dead."""
    return jnp.max(jnp.abs(x), axis=tuple(i for i in range(x.ndim) if i not in features), initial=0).reshape(
        -1
    )


def saturated_share(x: Array) -> Array:
    """Share of the entries, exact zeros apart, within 1 % of the range from one of its ends."""
    if not x.size:
        return jnp.zeros((), jnp.float32)
    x = jnp.abs(x) if jnp.iscomplexobj(x) else x
    low, high = jnp.min(x), jnp.max(x)
    margin = jnp.asarray(0.01, x.dtype) * (high - low)
    at_end = ((x <= low + margin) | (x >= high - margin)) & (x != 0)
    return jnp.mean(at_end.astype(jnp.float32))


def sum_of_directions(x: Array, examples: tuple[int, ...]) -> tuple[Array, Array]:
    """`Σ u_i` over the unit vectors of the examples, and their number, those too small to square left out."""
    squares = jnp.sum(jnp.abs(x) ** 2, axis=tuple(i for i in range(x.ndim) if i not in examples))
    some = squares > 0
    inverse = jnp.where(
        some, lax.rsqrt(jnp.where(some, squares, jnp.ones_like(squares))), jnp.zeros_like(squares)
    ).astype(x.dtype)
    axes = tuple(range(inverse.ndim)), tuple(sorted(examples))
    total = jnp.tensordot(inverse, x, axes, precision="highest", out_sharding=whole_like(x))
    directions = total.reshape(-1)
    return directions, jnp.sum(some.astype(squares.dtype))


def fingerprint(x: Array, units: tuple[int, ...]) -> Array:
    """One number for each unit, a random projection of all that belongs to it: equal for equal units."""
    x = jnp.abs(x) if jnp.iscomplexobj(x) else x.astype(at_least_float32(x.dtype))
    others = tuple(i for i in range(x.ndim) if i not in units)
    shape = tuple(x.shape[i] for i in others)
    noise = _noise(math.prod(shape), x.dtype).reshape(shape)
    axes = tuple(range(len(others))), others
    return jnp.tensordot(noise, x, axes, precision="highest", out_sharding=whole_like(x)).reshape(-1)


def _noise(n: int, dtype: Any) -> Array:
    """Fixed pseudo-random numbers in ±1/2: a multiplicative hash of the index, cheaper than a generator."""
    bits = jnp.arange(n, dtype=jnp.uint32) * jnp.uint32(0x9E3779B1)
    bits = (bits ^ (bits >> jnp.uint32(15))) * jnp.uint32(0x85EBCA6B)
    bits = bits ^ (bits >> jnp.uint32(13))
    return (bits >> jnp.uint32(8)).astype(dtype) * jnp.asarray(2.0**-24, dtype) - jnp.asarray(0.5, dtype)


def units_of(found: dict[str, Any]) -> UnitStatistics:
    """The statistics of a site, on the host, from what `UnitGauge` found there.

    Fingerprints are compared here rather than in the program: a sort costs little to run and much to compile.
    """
    prints = [np.asarray(found[k]) for k in ("weight_print", "output_print", "cotangent_print") if k in found]
    stats = {}
    if "feature_size" in found:
        stats["dead"] = _share(np.asarray(found["feature_size"]) == 0)
        stats["saturated"] = found["saturated"]
        stats["cosine"] = _mean_cosine(np.asarray(found["directions"]), np.asarray(found["num_directions"]))
    if "weight_print" in found and "output_print" in found:
        stats["identical_forward"] = _share_with_twin(prints[:2])
        stats["identical"] = _share_with_twin(prints) if len(prints) == 3 else None
    return UnitStatistics(**stats)


def _mean_cosine(directions: np.ndarray, count: np.ndarray) -> np.ndarray | None:
    """Mean cosine over all pairs of different examples.

    With unit vectors `u_i`, `Σ_{i≠j} u_i·u_j = |Σ u_i|² − n`: no pair is ever formed.
    """
    if np.all(count < 2):
        return None
    pairs = np.maximum(count * (count - 1), 1)
    return np.where(count > 1, (np.sum(np.abs(directions) ** 2, axis=-1) - count) / pairs, 0.0)


def _share_with_twin(prints: list[np.ndarray]) -> np.ndarray:
    """Share of the units that agree with some other unit in every fingerprint, over the last axis.

    A matrix product may round its columns differently, hence the room, more for what comes out of another
    product. That three unequal numbers agree is a chance of 1e-10.
    """
    order = np.argsort(prints[0], axis=-1, kind="stable")
    same = np.ones((*order.shape[:-1], max(order.shape[-1] - 1, 0)), bool)
    for values, room in zip(prints, (1e-5, 1e-4, 1e-4), strict=False):
        values = np.take_along_axis(values, order, axis=-1)
        scale = np.max(np.abs(values), axis=-1, keepdims=True, initial=0)
        same &= np.abs(values[..., 1:] - values[..., :-1]) <= room * scale
    none = np.zeros((*order.shape[:-1], 1), bool)
    twin = np.concatenate([same, none], -1) | np.concatenate([none, same], -1)
    return _share(twin)


def _share(true: np.ndarray) -> np.ndarray:
    """The share of the last axis that is true; none of nothing."""
    return np.sum(true, axis=-1) / max(true.shape[-1], 1)
