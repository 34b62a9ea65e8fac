"""Functions of single entries, known by trying: any primitive that runs on numbers."""

from __future__ import annotations

import functools
from typing import Any

import jax

from jinit._compat import bind


def is_elementwise(eqn: Any) -> bool:
    """Whether the equation runs on single numbers: what cannot is no function of entries."""
    if eqn.primitive is jax.lax.sort_p:  # does not mind a number, though it has nothing to sort there
        return False
    whole = {v.aval.shape for v in eqn.outvars}
    same = len(whole) == 1 and all(_repeats(v.aval.shape, next(iter(whole))) for v in eqn.invars)
    return same and _runs_on_numbers(OneEquation(eqn))


class OneEquation:
    """An equation, equal to those of the same primitive, parameters and dtypes."""

    def __init__(self, eqn: Any):
        self.eqn = eqn
        self.dtypes = tuple(v.aval.dtype for v in eqn.invars)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, OneEquation) or self.eqn.primitive is not other.eqn.primitive:
            return False
        return self.dtypes == other.dtypes and self.eqn.params == other.eqn.params

    def __hash__(self) -> int:
        return hash((self.eqn.primitive.name, self.dtypes))


@functools.lru_cache(maxsize=1024)
def _runs_on_numbers(one: OneEquation) -> bool:
    numbers = [jax.ShapeDtypeStruct((), dtype) for dtype in one.dtypes]
    try:
        outs = jax.eval_shape(lambda *xs: bind(one.eqn, list(xs)), *numbers)
    except Exception:  # whatever a primitive raises on operands that it is not made for
        return False
    return bool(outs) and all(o.shape == () for o in outs)


def _repeats(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    return shape == () or (
        len(shape) == len(whole) and all(m in (1, n) for m, n in zip(shape, whole, strict=True))
    )
