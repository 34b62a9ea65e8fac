"""Softmax, seen as a whole: its rows sum to one, and what comes back from it sums to zero."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jinit._compat import opened
from jinit._typing import Array
from jinit.jaxprs.graph import called
from jinit.signals.laws.arrays import xp
from jinit.signals.laws.contracting import normal_sum_of
from jinit.signals.laws.law import Axes, Law, as_float, average, constant, spread_by_axes, squared

_BETWEEN = ("broadcast_in_dim", "reshape", "convert_element_type")
FORWARD, BACKWARD = "softmax_of_rows", "pullback_of_softmax"


@functools.partial(jax.jit, static_argnums=1)
def softmax_of_rows(z: Array, axes: tuple[int, ...]) -> Array:
    """Softmax along `axes`."""
    exponentials = jnp.exp(z)
    return exponentials / jnp.sum(exponentials, axes, keepdims=True)


@functools.partial(jax.jit, static_argnums=2)
def pullback_of_softmax(p: Array, cotangent: Array, axes: tuple[int, ...]) -> Array:
    """`p (ct - Σ p ct)`."""
    return p * (cotangent - jnp.sum(p * cotangent, axes, keepdims=True))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _softmax(z: Array, axes: tuple[int, ...]) -> Array:
    return softmax_of_rows(z, axes)


def _forward(z: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    p = softmax_of_rows(z, axes)
    return p, p


def _backward(axes: tuple[int, ...], p: Array, cotangent: Array) -> tuple[Array]:
    return (pullback_of_softmax(p, cotangent, axes),)


_softmax.defvjp(_forward, _backward)


def with_softmax(jaxpr: Any) -> Any:
    """The jaxpr, in which every `exp(z) / Σ exp(z)` is one equation, in the place of the division."""
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
        inner = [with_softmax(p) if _is_jaxpr(p) else p for p in (param if many else (param,))]
        if any(new is not old for new, old in zip(inner, param if many else (param,), strict=True)):
            changed[name] = type(param)(inner) if many else inner[0]  # type: ignore[call-arg]
    return eqn.replace(params={**eqn.params, **changed}) if changed else eqn


def _is_jaxpr(param: Any) -> bool:
    return hasattr(opened(param)[0], "eqns")


def _replaced(eqn: Any, makers: dict[Any, Any]) -> Any:
    if eqn.primitive.name != "div":
        return eqn
    top, below = (_maker(v, makers) for v in eqn.invars)
    while below is not None and below.primitive.name in _BETWEEN:
        below = _maker(below.invars[0], makers)
    if top is None or below is None or (top.primitive.name, below.primitive.name) != ("exp", "reduce_sum"):
        return eqn
    summed = below.invars[0]
    if (cast := _maker(summed, makers)) is not None and cast.primitive.name == "convert_element_type":
        summed = cast.invars[0]
    (z,), axes = top.invars, tuple(below.params["axes"])
    if summed is not eqn.invars[0] or z.aval.shape != eqn.outvars[0].aval.shape:
        return eqn
    shape = jax.ShapeDtypeStruct(z.aval.shape, z.aval.dtype)
    (whole,) = opened(jax.make_jaxpr(lambda x: _softmax(x, axes))(shape))[0].eqns
    return eqn.replace(
        primitive=whole.primitive, params=whole.params, invars=list(top.invars), effects=whole.effects
    )


def _maker(atom: Any, makers: dict[Any, Any]) -> Any:
    return makers.get(atom) if not hasattr(atom, "val") else None


def is_softmax(eqn: Any) -> bool:
    """Whether an equation is one of the two functions here."""
    return eqn.params.get("name") in (FORWARD, BACKWARD)


def softmax_rule(eqn: Any, laws: Sequence[Law], name: Any) -> list[Law]:
    """The law of either function."""
    inner, _ = opened(called(eqn))
    axes = frozenset(next(e.params["axes"] for e in inner.eqns if e.primitive.name == "reduce_sum"))
    laws = [as_float(x) for x in laws]
    if eqn.params["name"] == FORWARD:
        return [probabilities(laws[0], axes)]
    return [pulled_back(laws[0], laws[1], axes, name)]


def probabilities(z: Law, axes: Axes) -> Law:
    """`exp(z)` over its sum, which is `n` times its mean, given the roots that all of a row share."""
    varying = [i for i, r in enumerate(z.roots) if r.axes & axes]
    count = xp.asarray(_count(z, axes), z.nodes.dtype)
    if not varying:
        return constant(1 / count, z.shape, z.dtype)
    highest = xp.max(z.nodes, axis=tuple(varying), keepdims=True)
    exponentials = xp.exp(z.nodes - highest)
    nodes = exponentials / (count * average(z, varying, exponentials))
    return Law(nodes, z.weights, z.roots, z.shape, z.dtype, fixed_sums=axes)


def pulled_back(p: Law, cotangent: Law, axes: Axes, name: Any) -> Law:
    """`p (ct - Σ p ct)`.

    What all entries of a row of `ct` share drops out. Of the rest, independent from entry to entry, the
    variance is multiplied by `p² (1 - 2 p + Σ p²)`.
    """
    varying = [i for i, r in enumerate(p.roots) if r.axes & axes]
    squares = xp.asarray(_count(p, axes), p.nodes.dtype) * average(p, varying, squared(p.nodes))
    left = xp.maximum(1 - 2 * p.nodes + squares, xp.zeros((), p.nodes.dtype))
    mean, spread = spread_by_axes(
        Law(p.nodes * xp.sqrt(left), p.weights, p.roots, p.shape, p.dtype), range(len(p.roots))
    )
    ours = {frozenset[int](): squared(mean).reshape(()), **{k: v.reshape(()) for k, v in spread.items()}}
    _, theirs = spread_by_axes(cotangent, range(len(cotangent.roots)))
    spreads: dict[Axes, Array] = {}
    for along, variance in theirs.items():
        for own, square in ours.items() if along & axes else ():
            value = square * variance.reshape(())
            spreads[along | own] = spreads[along | own] + value if along | own in spreads else value
    zero = constant(xp.zeros((), p.nodes.dtype), p.shape, cotangent.dtype)
    out = normal_sum_of(zero, spreads, name, linear=cotangent.is_linear)
    return dataclasses.replace(out, fixed_sums=axes)


def _count(law: Law, axes: Axes) -> float:
    count = 1.0
    for i in axes:
        count *= law.shape[i]
    return count
