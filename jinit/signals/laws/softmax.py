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
from jinit.signals.laws.quadrature import gaussian

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
    """`exp(z)` over its sum along `axes`, given the roots that all of a row share.

    The sum is an entry itself and all others, of independent entries and taken as lognormal. An entry is held
    as its share where the others are as on average, brought to mean `1 / n` and the right second moment.
    """
    varying = [i for i, r in enumerate(z.roots) if r.axes & axes]
    count = xp.asarray(_count(z, axes), z.nodes.dtype)
    if not varying:
        return constant(1 / count, z.shape, z.dtype)
    e = xp.exp(z.nodes - xp.max(z.nodes, axis=tuple(varying), keepdims=True))
    seen = average(z, varying, (e > 0).astype(e.dtype))  # the rest is masked
    mean = average(z, varying, e) / seen
    spread = xp.maximum(average(z, varying, squared(e)) / seen - squared(mean), xp.zeros((), e.dtype))
    others = xp.maximum(count * seen - 1, xp.zeros((), e.dtype))
    tiny = xp.asarray(jnp.finfo(e.dtype).tiny, e.dtype)
    width = xp.sqrt(xp.log1p(spread / xp.maximum(others * squared(mean), tiny)))

    def share(step: float) -> Any:
        return e / xp.maximum(e + others * mean * xp.exp(width * step - width * width / 2), tiny)

    steps, weights = gaussian(9)
    shares = [share(step) for step in steps.tolist()]
    total = count * sum(w * average(z, varying, p) for w, p in zip(weights.tolist(), shares, strict=True))
    square = sum(w * average(z, varying, squared(p)) for w, p in zip(weights.tolist(), shares, strict=True))
    square = square / xp.maximum(squared(total), tiny)
    p = e / xp.maximum(e + others * mean, tiny)
    p = p / xp.maximum(count * average(z, varying, p), tiny)
    has = average(z, varying, squared(p - 1 / count))
    wanted = xp.maximum(square - 1 / squared(count), xp.zeros((), e.dtype))
    nodes = xp.where(e > 0, 1 / count + (p - 1 / count) * xp.sqrt(wanted / xp.maximum(has, tiny)), 0 * e)
    return Law(nodes, z.weights, z.roots, z.shape, z.dtype, fixed_sums=axes)


def pulled_back(p: Law, cotangent: Law, axes: Axes, name: Any) -> Law:
    """`p (ct - Σ p ct)`.

    What all entries of a row of `ct` share drops out. Of the rest, independent from entry to entry, the
    variance is multiplied by `p² ((1 - p)² + Σ p²)`, where the sum is over the others.
    """
    varying = [i for i, r in enumerate(p.roots) if r.axes & axes]
    count = xp.asarray(_count(p, axes), p.nodes.dtype)
    seen = average(p, varying, (p.nodes > 1e-6 / count).astype(p.nodes.dtype))  # the rest is masked
    others = (count - 1 / xp.maximum(seen, 1 / count)) * average(p, varying, squared(p.nodes))
    mean, spread = spread_by_axes(
        Law(p.nodes * xp.sqrt(squared(1 - p.nodes) + others), p.weights, p.roots, p.shape, p.dtype),
        range(len(p.roots)),
    )
    ours: dict[Axes, Any] = {axes: variance.reshape(()) for axes, variance in spread.items()}
    nowhere: Axes = frozenset()
    ours[nowhere] = ours.get(nowhere, xp.zeros((), mean.dtype)) + squared(mean).reshape(())
    _, theirs = spread_by_axes(cotangent, range(len(cotangent.roots)))
    spreads: dict[Axes, Any] = {}
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
