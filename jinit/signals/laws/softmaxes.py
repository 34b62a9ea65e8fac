"""The ways in which programs write softmax: behind masks of their own, and with a sink beside the sum."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jinit._compat import opened
from jinit._typing import Array
from jinit.jaxprs.graph import called
from jinit.signals.laws import softmax
from jinit.signals.laws.making import BETWEEN, Makers, before, depends_on, maker, number, uncast
from jinit.signals.laws.masks import LOW

# What is between a maximum that is subtracted and the same one added again, besides.
SAME = (*BETWEEN, "stop_gradient")
CALLS = ("jit", "pjit")


@dataclasses.dataclass(frozen=True)
class Mask:
    """What entries are multiplied by, an atom, and along which axes it stands: zero keeps nothing."""

    atom: Any
    axes: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Softmax:
    """`m exp(z) / (plus + exp(sink) + Σ m exp(z))`, where a mask `m` may be in `z` already."""

    z: Any
    axes: tuple[int, ...]
    plus: float
    mask: Mask | None = None
    sink: Any = None

    @property
    def operands(self) -> tuple[Any, ...]:
        """The atoms that it is a function of."""
        if self.sink is not None:
            return self.z, self.sink
        return (self.z,) if self.mask is None else (self.z, self.mask.atom)

    @property
    def function(self) -> Callable[..., Array]:
        """It, of its operands."""
        if self.sink is not None:
            return lambda z, sink: softmax.beside_sink(z, sink, self.axes)
        if self.mask is None:
            return lambda z: softmax.softmax(z, self.axes, self.plus)
        along = self.mask.axes

        def of_kept(z: Array, mask: Array) -> Array:
            kept = mask = jax.lax.broadcast_in_dim(mask, z.shape, along)
            if mask.dtype != bool:
                kept = mask > 0
                z = z + jnp.log(jnp.where(kept, mask, 1)).astype(z.dtype)
            return softmax.softmax(jnp.where(kept, z, -jnp.inf), self.axes, self.plus)

        return jax.jit(of_kept)


def ends_with(eqn: Any, makers: Makers, given: frozenset[Any]) -> Softmax | None:
    """The softmax that an equation is the end of, in a program that these variables are given to."""
    if eqn.primitive.name == "div":
        return _of_division(eqn, makers, given)
    if eqn.primitive.name in ("select_n", *CALLS):
        return _masked_again(eqn, makers, given)
    if eqn.primitive.name == "slice":
        return _of_the_first(eqn, makers, given)
    return _of_logarithm(eqn, makers) if eqn.primitive.name == "exp" else None


def _masked_again(eqn: Any, makers: Makers, given: frozenset[Any]) -> Softmax | None:
    """Of a softmax behind a mask that leaves it as it is, as the last step of `jax.nn.softmax(where=)`."""
    if len(eqn.outvars) != 1 or (kept := _kept(eqn.outvars[0], makers, given)) is None or kept[2] != 0:
        return None
    whole = _made_by_division(uncast(kept[1], makers), makers, given)
    if whole is None or (whole.mask != kept[0] and not _keeps(whole.z, kept[0], whole.axes, makers)):
        return None
    return whole


def _made_by_division(atom: Any, makers: Makers, given: frozenset[Any]) -> Softmax | None:
    """The softmax that a value is, if a division makes it one."""
    made = maker(atom, makers)
    return _of_division(made, makers, given) if made is not None and made.primitive.name == "div" else None


def _of_division(eqn: Any, makers: Makers, given: frozenset[Any]) -> Softmax | None:
    top, (below, beside) = _exponential(eqn.invars[0], makers, given), _sum(eqn.invars[1], makers)
    if top is None or below is None:
        return None
    summed, axes = _exponential(below.invars[0], makers, given), tuple(below.params["axes"])
    if summed is None or top[0] is not summed[0]:
        return None
    z, mask = summed
    known = mask is not None and _keeps(z, mask, axes, makers)
    if not _is_one_in_rows(eqn.invars[1], z, axes, makers) or (mask != top[1] and not known):
        return None
    found = _with_sink(z, beside, axes, makers)
    if found is None or known or mask is None:
        return found
    return dataclasses.replace(found, mask=mask) if found.sink is None else None


def _of_the_first(eqn: Any, makers: Makers, given: frozenset[Any]) -> Softmax | None:
    """Of `softmax(concatenate([z, sink]))[:-1]`: all shares but that of the last entry, the sink."""
    whole = _made_by_division(eqn.invars[0], makers, given)
    if whole is None or whole.mask is not None or whole.plus or whole.sink is not None:
        return None
    joined = maker(_without_maximum(whole.z, whole.axes, makers), makers)
    if joined is None or joined.primitive.name != "concatenate" or len(joined.invars) != 2:
        return None
    z, sink = joined.invars
    first = not any(eqn.params["start_indices"]) and eqn.params["strides"] in (None, (1,) * z.aval.ndim)
    alone = whole.axes == (joined.params["dimension"],) and sink.aval.shape[whole.axes[0]] == 1
    if not (first and alone and eqn.outvars[0].aval.shape == z.aval.shape):
        return None
    return Softmax(z, whole.axes, 0.0, sink=sink)


def _sum(atom: Any, makers: Makers) -> tuple[Any, Any]:
    """The equation of the sum that one divides by, if it is one, and what is added to it."""
    made = maker(before(atom, makers), makers)
    for x, rest in _either(made, ("add", "max")):
        if _is_sum(inner := maker(before(rest, makers), makers)):
            return inner, x if made.primitive.name == "add" else None
    return (made if _is_sum(made) else None), None


def _is_sum(made: Any) -> bool:
    return made is not None and made.primitive.name == "reduce_sum"


def _is_one_in_rows(atom: Any, z: Any, axes: tuple[int, ...], makers: Makers) -> bool:
    """Whether a value is one number for each row of `z` along these axes, and stands beside that row."""
    wanted = tuple(1 if i in axes else n for i, n in enumerate(z.aval.shape))
    made = maker(atom, makers)
    if made is not None and made.primitive.name == "broadcast_in_dim" and atom.aval.shape == z.aval.shape:
        same = tuple(made.params["broadcast_dimensions"]) == tuple(range(len(wanted)))
        return same and made.invars[0].aval.shape == wanted
    return atom.aval.shape == wanted


def _with_sink(z: Any, beside: Any, axes: tuple[int, ...], makers: Makers) -> Softmax | None:
    """With what is added to a sum of exponentials of `z`; of `exp(z - m)` and `exp(s - m)` too."""
    if beside is None:
        return Softmax(z, axes, 0.0)
    if (value := number(before(beside, makers))) is not None:
        return Softmax(z, axes, value)
    sink, less = maker(before(beside, makers), makers), maker(z, makers)
    if sink is None or less is None or (sink.primitive.name, less.primitive.name) != ("exp", "sub"):
        return None
    of = maker(before(sink.invars[0], makers), makers)
    if of is None or of.primitive.name not in ("neg", "sub"):
        return None
    same = before(of.invars[-1], makers, SAME) is before(less.invars[1], makers, SAME)
    if not same or not _is_one_in_rows(less.invars[1], z, axes, makers):
        return None
    value = 0.0 if of.primitive.name == "neg" else number(of.invars[0])
    if value is not None:
        return Softmax(less.invars[0], axes, math.exp(value))
    of_rows = _is_one_in_rows(of.invars[0], z, axes, makers)
    return Softmax(less.invars[0], axes, 0.0, sink=of.invars[0]) if of_rows else None


def _of_logarithm(eqn: Any, makers: Makers) -> Softmax | None:
    """Of the exponential of `log_softmax`, be that a function that is called or written out."""
    made = maker(uncast(eqn.invars[0], makers), makers)
    if made is None or made.primitive.name not in CALLS:
        return _of_difference(made, makers)
    inner, makers, outside = _inside(made)
    found = _of_difference(maker(inner.outvars[0], makers), makers) if len(inner.outvars) == 1 else None
    if found is None:
        return None
    z = found.z if found.z in outside else _without_maximum(found.z, found.axes, makers)
    return dataclasses.replace(found, z=outside[z]) if z in outside else None


def _of_difference(less: Any, makers: Makers) -> Softmax | None:
    """Of `z - log Σ exp(z)`, where the sum may have been of `exp(z - m)`, and `m` added again."""
    if less is None or less.primitive.name != "sub" or hasattr(less.invars[0], "val"):
        return None
    z, taken = less.invars
    log, shift = maker(before(taken, makers), makers), None
    for x, rest in _either(log, ("add",)):
        if (inner := maker(before(x, makers), makers)) is not None and inner.primitive.name == "log":
            log, shift = inner, before(rest, makers, SAME)
            break
    if log is None or log.primitive.name != "log":
        return None
    below, beside = _sum(before(log.invars[0], makers, (*BETWEEN, "abs")), makers)
    summed = maker(uncast(below.invars[0], makers), makers) if below is not None else None
    if below is None or beside is not None or summed is None or summed.primitive.name != "exp":
        return None
    of, axes = summed.invars[0], tuple(below.params["axes"])
    if shift is not None:
        moved = maker(of, makers)
        if moved is None or moved.primitive.name != "sub":
            return None
        if before(moved.invars[1], makers, SAME) is not shift:
            return None
        of = _without_maximum(of, axes, makers)
    return Softmax(z, axes, 0.0) if of is z and _is_one_in_rows(taken, z, axes, makers) else None


def _either(made: Any, kinds: tuple[str, ...]) -> list[tuple[Any, Any]]:
    """Both operands of an equation of these kinds, each beside the other."""
    if made is None or made.primitive.name not in kinds:
        return []
    return list(zip(made.invars, made.invars[::-1], strict=True))


def _without_maximum(z: Any, axes: tuple[int, ...], makers: Makers) -> Any:
    """`z` before something was subtracted that is the same in a row, which is nothing to a softmax."""
    made = maker(z, makers)
    if made is None or made.primitive.name != "sub" or not _is_one_in_rows(made.invars[1], z, axes, makers):
        return z
    return made.invars[0]


def _inside(eqn: Any) -> tuple[Any, Makers, dict[Any, Any]]:
    """The function that is called: its equations, by what they make, and what is outside handed to it."""
    inner, _ = opened(called(eqn))
    makers = {v: e for e in inner.eqns for v in e.outvars}
    return inner, makers, dict(zip(inner.invars, eqn.invars, strict=True))


def _exponential(atom: Any, makers: Makers, given: frozenset[Any]) -> tuple[Any, Mask | None] | None:
    """`z` and the mask, of `m exp(z)`, or of a softmax of it, which is as good but for its sum."""
    atom, mask = uncast(atom, makers), None
    if (kept := _kept(atom, makers, given)) is not None and kept[2] == 0:
        mask, atom = kept[0], uncast(kept[1], makers)
    if (whole := _made_by_division(atom, makers, given)) is not None:
        return (whole.z, mask) if whole.mask is None and not whole.plus else None
    made = maker(atom, makers)
    return (made.invars[0], mask) if made is not None and made.primitive.name == "exp" else None


def _keeps(z: Any, mask: Mask, axes: tuple[int, ...], makers: Makers) -> bool:
    """Whether `z` stands for minus infinity already where a mask keeps nothing; its maximum may be gone."""
    kept = _kept(_without_maximum(z, axes, makers), makers, frozenset())
    return kept is not None and kept[0] == mask and kept[2] <= LOW


def _kept(atom: Any, makers: Makers, given: frozenset[Any]) -> tuple[Mask, Any, float] | None:
    """The mask, `x` and the number, of `where(mask, x, number)`, or of `x` times what depends on nothing."""
    made = maker(atom, makers)
    if made is None:
        return None
    if made.primitive.name == "select_n" and len(made.invars) == 3:
        mask, other, x = made.invars
        return _masked(mask, x, number(before(other, makers)))
    for x, mask in _either(made, ("mul",)):
        truth = before(mask, makers).aval.dtype == bool
        if truth or not (hasattr(mask, "val") or depends_on(mask, makers, given)):
            return _masked(mask, x, 0.0)
    return _kept_inside(made) if made.primitive.name in CALLS else None


def _masked(mask: Any, x: Any, other: float | None) -> tuple[Mask, Any, float] | None:
    if other is None or mask.aval.ndim != x.aval.ndim:
        return None
    return Mask(mask, tuple(range(mask.aval.ndim))), x, other


def _kept_inside(eqn: Any) -> tuple[Mask, Any, float] | None:
    """The same of a function that is called, as `jnp.where` is."""
    inner, makers, outside = _inside(eqn)
    made = maker(inner.outvars[0], makers) if len(inner.outvars) == 1 else None
    if made is None or made.primitive.name != "select_n" or len(made.invars) != 3:
        return None
    mask, other, x = made.invars
    axes = tuple(range(mask.aval.ndim))
    if (spread := maker(mask, makers)) is not None and spread.primitive.name == "broadcast_in_dim":
        mask, axes = spread.invars[0], tuple(spread.params["broadcast_dimensions"])
    other, x = before(other, makers), uncast(x, makers)
    value = number(other if hasattr(other, "val") else outside.get(other, other))
    if value is None or not {mask, x} <= outside.keys() or x.aval.shape != eqn.outvars[0].aval.shape:
        return None
    return Mask(outside[mask], axes), outside[x], value
