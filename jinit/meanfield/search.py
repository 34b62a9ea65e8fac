"""Every root along q: where it is looked for, and how many there are, so that none is lost."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jinit._errors import message
from jinit._typing import Array
from jinit.meanfield.entries import as_integer, over_entries
from jinit.meanfield.integrals import Integrand
from jinit.meanfield.roots import Scan, root, scan

GRID = np.geomspace(1e-16, 1e12, 225)  # where we look for roots
ROOM = 8  # roots for which we are ready at first
CHUNK = 45  # points at a time, where each takes many nodes
TRACED = 64  # … and where nobody can count them

Excess = Callable[..., Array]  # of an integrand, q, and scalars


def search(excess: Excess, integrand: Integrand, *scalars: Array) -> Scan:
    """The signs of a function of q along the grid."""
    dtype = scalars[0].dtype
    chunk = CHUNK if integrand.heavy else None
    return scan(lambda q: excess(integrand, q, *scalars), grid(dtype), blind(dtype), chunk=chunk)


def grid(dtype: np.dtype) -> Array:
    """The grid as a value that XLA does not try to fold into its program."""
    return jax.lax.optimization_barrier(jnp.asarray(GRID, dtype))


def blind(dtype: np.dtype) -> float:
    """What quadrature and rounding cannot tell from zero, relative to the terms that cancel."""
    return max(1e-11, 64 * float(jnp.finfo(dtype).eps))


def all_roots(function: Any, seen: Scan, room: int = ROOM) -> tuple[Array, Array]:
    """The lowest `room` roots between changes of sign, filled up with NaN; and how many there are."""
    known = jnp.flatnonzero(seen.signs != 0, size=seen.signs.size, fill_value=seen.signs.size - 1)
    points, values, signs = (x[known] for x in seen)
    changes = signs[1:] * signs[:-1] < 0
    (cells,) = jnp.nonzero(changes, size=room, fill_value=-1)
    low, high = ((points[i], values[i]) for i in (cells, cells + 1))
    found = jax.vmap(functools.partial(root, function))(low, high, cells >= 0)
    return jnp.where(cells >= 0, found, jnp.nan), jnp.sum(changes)


def every_root(
    roots: Callable[..., tuple[Array, Array]],
    integrand: Integrand,
    *arrays: Array,
    size: int | None,
    batch: int,
) -> Array:
    """`roots(integrand, room, *scalars)` for every entry, with as much room as the most of them need.

    Args:
      roots: gives ascending roots, filled up with NaN, and how many changes of sign there were, of which
        those beyond `room` were left out.
      integrand: its argument.
      *arrays: its scalars, of one shape.
      size: how many roots to return, the lowest; None for as many as there are.
      batch: as for `over_entries`.
    """
    traced = any(isinstance(x, Tracer) for x in arrays)
    room = max(TRACED, size or 0) if traced else ROOM
    found, changes = over_entries(roots, integrand, *arrays, batch=batch, static=(room,))
    most = 0 if traced else int(np.asarray(changes).max(initial=0))
    if most > room:
        room = -(-most // ROOM) * ROOM  # in steps, so that few programs are compiled
        found, _ = over_entries(roots, integrand, *arrays, batch=batch, static=(room,))
    slots = _most(found) if size is None else size
    missing = max(0, slots - found.shape[-1])
    filled = jnp.pad(found, [(0, 0)] * arrays[0].ndim + [(0, missing)], constant_values=jnp.nan)
    return filled[..., :slots]


def check_size(caller: str, size: int | None, arrays: list[Array]) -> None:
    """Refuses a size that is no number of slots, and none where nobody can know the number of roots."""
    if size is None and any(isinstance(x, Tracer) for x in arrays):
        advice = "Pass size=1, or more where there are more: missing ones are NaN."
        raise ValueError(message(caller, "`size` must be given under a transformation", "size=None", advice))
    slots = 0 if size is None else as_integer(size)
    if slots is None or slots < 0:
        raise ValueError(message(caller, "`size` must be an integer of at least 0", f"size={size!r}"))


def _most(roots: Array) -> int:
    """The largest number of roots of an entry; the last axis is filled up with NaN."""
    return int((~np.isnan(np.asarray(roots))).sum(axis=-1).max(initial=0))
