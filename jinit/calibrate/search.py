"""The search for factors that several outputs have in common, by passes over the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jinit._typing import Array

_CLOSE = 1e-5  # relative distance of a variance from its target at which the search ends
_NEAR = 0.05  # distance at which it ends if passes find nothing better: rounding is all that is left
_PATIENCE = 5  # such passes
_TELLING = 0.1  # the least change of a logarithm that tells, rounding apart, whether the output follows

Evaluate = Callable[[Array], tuple[Array, Any]]


class _Point(NamedTuple):
    """Logarithms of the factors, those of variance over target there, and what the pass found."""

    here: Array
    excess: Array
    found: Any


class _Search(NamedTuple):
    number: Array
    last: tuple[Array, Array]  # where a pass last gave a finite excess, and that
    following: Array
    deaf: Array  # the output does not follow the factor, which stays one
    best: _Point
    stale: Array  # passes since the best one
    done: Array


def common_factors(evaluate: Evaluate, size: int, max_passes: int) -> tuple[Array, Any, Array]:
    """The logarithms of `size` factors for which `evaluate` gives zeros, what else it gives, and its calls.

    By the secant rule for all of them together. The arithmetic of the network may be coarse (TF32, bfloat16),
    and then variances differ by chance from one pass to the next: a small step tells nothing about the
    slope. So the answer is the best point seen, not the last.

    Args:
      evaluate: logarithms of factors -> logarithms of variance over target, and anything. A factor for which
        it is not finite at the start stays one; where it is not later, the step was too long.
      size: the number of factors.
      max_passes: the most evaluations.
    """

    def step(state: _Search) -> _Search:
        here = state.following
        excess, found = evaluate(here)
        moved = here - state.last[0]
        slope = jnp.where(moved == 0, 2.0, (excess - state.last[1]) / jnp.where(moved == 0, 1.0, moved))
        deaf = state.deaf | ((jnp.abs(moved) > _TELLING) & (jnp.abs(slope) < 0.05))
        move = jnp.clip(-excess / jnp.clip(slope, 0.5, 1e3), -1.0, 1.0)
        following = jnp.where(jnp.abs(excess) < _CLOSE, here, here + move)
        known = jnp.isfinite(excess)
        following = jnp.where(known, following, (here + state.best.here) / 2)
        following = jnp.where(deaf, 0.0, following)
        last = jnp.where(known, here, state.last[0]), jnp.where(known, excess, state.last[1])
        point = _Point(here, excess, found)
        better = (state.number == 0) | (_miss(point, deaf) < _miss(state.best, deaf))
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), point, state.best)
        stale = jnp.where(better, 0, state.stale + 1)
        settled = (stale >= _PATIENCE) & (_miss(best, deaf) < _NEAR)
        done = jnp.all(following == here) | settled | (state.number + 1 >= max_passes)
        return _Search(state.number + 1, last, following, deaf, best, stale, done)

    zeros, zero = jnp.zeros(size, jnp.float32), jnp.zeros((), jnp.int32)
    empty = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(evaluate, zeros))
    start = _Search(zero, (zeros, zeros), zeros, zeros != 0, _Point(zeros, *empty), zero, jnp.zeros((), bool))
    end = lax.while_loop(lambda s: ~s.done, step, start)
    return end.best.here, end.best.found, end.number


def _miss(point: _Point, deaf: Array) -> Array:
    """The largest distance from a target; a factor that cannot bring its output there must be one."""
    of_none = jnp.where(point.here == 0, 0.0, jnp.inf)
    return jnp.max(jnp.where(deaf | ~jnp.isfinite(point.excess), of_none, jnp.abs(point.excess)))
