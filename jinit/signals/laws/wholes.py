"""Functions whose derivative is better known as a whole than equation by equation: softmax, the maximum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jinit._compat import opened
from jinit.jaxprs.graph import called
from jinit.signals.laws import largest, softmax
from jinit.signals.laws.law import Axes, Law, as_float

_BETWEEN = ("broadcast_in_dim", "reshape", "convert_element_type")


def with_wholes(jaxpr: Any) -> Any:
    """The jaxpr, in which every `exp(z) / Σ exp(z)` and every maximum along axes is one equation."""
    inside, _ = opened(jaxpr)
    makers = {v: eqn for eqn in inside.eqns for v in eqn.outvars}
    eqns = [_replaced(_entered(eqn), makers) for eqn in inside.eqns]
    if all(new is old for new, old in zip(eqns, inside.eqns, strict=True)):
        return jaxpr
    new = inside.replace(eqns=eqns)
    return new if inside is jaxpr else jaxpr.replace(jaxpr=new)


def _entered(eqn: Any) -> Any:
    changed = {}
    for name, param in eqn.params.items():
        many = isinstance(param, (tuple, list))
        inner = [with_wholes(p) if _is_jaxpr(p) else p for p in (param if many else (param,))]
        if any(new is not old for new, old in zip(inner, param if many else (param,), strict=True)):
            changed[name] = type(param)(inner) if many else inner[0]  # type: ignore[call-arg]
    return eqn.replace(params={**eqn.params, **changed}) if changed else eqn


def _is_jaxpr(param: Any) -> bool:
    return hasattr(opened(param)[0], "eqns")


def _replaced(eqn: Any, makers: dict[Any, Any]) -> Any:
    if eqn.primitive.name == "div" and (softened := _of_softmax(eqn, makers)) is not None:
        z, axes = softened
        return _in_place_of(eqn, softmax.softmax, z, axes)
    if eqn.primitive.name == "reduce_max" and jnp.issubdtype(eqn.invars[0].aval.dtype, jnp.floating):
        return _in_place_of(eqn, largest.largest, eqn.invars[0], tuple(eqn.params["axes"]))
    if eqn.primitive.name == "reduce_min" and jnp.issubdtype(eqn.invars[0].aval.dtype, jnp.floating):
        return _in_place_of(eqn, largest.smallest, eqn.invars[0], tuple(eqn.params["axes"]))
    return eqn


def _of_softmax(eqn: Any, makers: dict[Any, Any]) -> tuple[Any, tuple[int, ...]] | None:
    """`z` and the axes, of a division that is the end of `exp(z) / Σ exp(z)`."""
    top, below = (_maker(v, makers) for v in eqn.invars)
    while below is not None and below.primitive.name in _BETWEEN:
        below = _maker(below.invars[0], makers)
    if top is None or below is None or (top.primitive.name, below.primitive.name) != ("exp", "reduce_sum"):
        return None
    summed = below.invars[0]
    if (cast := _maker(summed, makers)) is not None and cast.primitive.name == "convert_element_type":
        summed = cast.invars[0]
    (z,), axes = top.invars, tuple(below.params["axes"])
    fits = summed is eqn.invars[0] and z.aval.shape == eqn.outvars[0].aval.shape
    return (z, axes) if fits else None


def _maker(atom: Any, makers: dict[Any, Any]) -> Any:
    return makers.get(atom) if not hasattr(atom, "val") else None


def _in_place_of(eqn: Any, function: Any, operand: Any, axes: tuple[int, ...]) -> Any:
    shape = jax.ShapeDtypeStruct(operand.aval.shape, operand.aval.dtype)
    (whole,) = opened(jax.make_jaxpr(lambda x: function(x, axes))(shape))[0].eqns
    return eqn.replace(
        primitive=whole.primitive, params=whole.params, invars=[operand], effects=whole.effects
    )


def is_whole(eqn: Any) -> bool:
    """Whether an equation is one of the functions that are known as a whole."""
    return eqn.params.get("name") in _RULES


def whole_rule(eqn: Any, laws: Sequence[Law], name: Any) -> list[Law]:
    """The law of such an equation."""
    inner, _ = opened(called(eqn))
    axes = frozenset(next(e.params["axes"] for e in inner.eqns if e.primitive.name == "reduce_sum"))
    return [_RULES[eqn.params["name"]]([as_float(x) for x in laws], axes, name)]


def _pullback_of_largest(laws: Sequence[Law], axes: Axes, name: Any) -> Law:
    return largest.pulled_back(laws[0], laws[2], axes, name)


_RULES = {
    softmax.FORWARD: lambda x, axes, name: softmax.probabilities(x[0], axes, name),
    softmax.BACKWARD: lambda x, axes, name: softmax.pulled_back(x[0], x[1], axes, name),
    largest.BACKWARD: _pullback_of_largest,
}
