"""Functions whose derivative is better known as a whole than equation by equation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jinit._compat import is_jaxpr, opened
from jinit.jaxprs.graph import called
from jinit.signals.laws import centring, largest, softmax, softmaxes
from jinit.signals.laws.law import Axes, Law, as_float
from jinit.signals.laws.making import BETWEEN, maker, number, uncast


def with_wholes(jaxpr: Any) -> Any:
    """The jaxpr, in which softmax, a maximum along axes, and a mean subtracted are one equation each."""
    inside, _ = opened(jaxpr)
    makers = {v: eqn for eqn in inside.eqns for v in eqn.outvars}
    less_mean = [
        (eqn.invars[0], _of_mean_subtracted(eqn, makers)) for eqn in inside.eqns if _is_difference(eqn)
    ]
    centred = {_as_made(x, axes, makers) for x, axes in less_mean if axes is not None}
    given = frozenset(inside.invars)
    eqns = [_replaced(_entered(eqn), makers, given, centred) for eqn in inside.eqns]
    if all(new is old for new, old in zip(eqns, inside.eqns, strict=True)):
        return jaxpr
    new = inside.replace(eqns=eqns)
    return new if inside is jaxpr else jaxpr.replace(jaxpr=new)


def _entered(eqn: Any) -> Any:
    changed = {}
    for name, param in eqn.params.items():
        many = isinstance(param, (tuple, list))
        inner = [with_wholes(p) if is_jaxpr(p) else p for p in (param if many else (param,))]
        if any(new is not old for new, old in zip(inner, param if many else (param,), strict=True)):
            changed[name] = type(param)(inner) if many else inner[0]  # type: ignore[call-arg]
    return eqn.replace(params={**eqn.params, **changed}) if changed else eqn


def _is_difference(eqn: Any) -> bool:
    return eqn.primitive.name == "sub" and not hasattr(eqn.invars[0], "val")


def _replaced(eqn: Any, makers: dict[Any, Any], given: frozenset[Any], centred: set[Any]) -> Any:
    if (found := softmaxes.ends_with(eqn, makers, given)) is not None:
        return _in_place_of(eqn, found.function, found.operands)
    if eqn.primitive.name == "reduce_max" and jnp.issubdtype(eqn.invars[0].aval.dtype, jnp.floating):
        return _in_place_of(eqn, largest.largest, eqn.invars, tuple(eqn.params["axes"]))
    if eqn.primitive.name == "reduce_min" and jnp.issubdtype(eqn.invars[0].aval.dtype, jnp.floating):
        return _in_place_of(eqn, largest.smallest, eqn.invars, tuple(eqn.params["axes"]))
    if eqn.primitive.name == "sub":
        if (axes := _of_mean_subtracted(eqn, makers)) is not None:
            return _in_place_of(eqn, centring.centre, eqn.invars[:1], axes)
        if (varied := _of_variance(eqn, makers)) is not None:
            (x, axes), known = varied, _as_made(*varied, makers) in centred
            return _in_place_of(eqn, centring.variance, [x], axes, eqn.outvars[0].aval.shape, known)
    return eqn


def _of_mean_subtracted(eqn: Any, makers: dict[Any, Any]) -> tuple[int, ...] | None:
    """The axes, of `x` less its mean along them."""
    x, mean = eqn.invars
    axes = _axes_averaged(mean, x, makers)
    if axes is None or eqn.outvars[0].aval.shape != x.aval.shape:
        return None
    return (
        axes if mean.aval.shape == tuple(1 if i in axes else n for i, n in enumerate(x.aval.shape)) else None
    )


def _of_variance(eqn: Any, makers: dict[Any, Any]) -> tuple[Any, tuple[int, ...]] | None:
    """`x` and the axes, of `E[x²] − E[x]²`."""
    if (mean := _of_square(eqn.invars[1], makers)) is None:
        return None
    for square, axes in _averaged(eqn.invars[0], makers):
        if (x := _of_square(square, makers)) is not None:
            return (x, axes) if axes == _axes_averaged(mean, x, makers) else None
    return None


def _axes_averaged(mean: Any, x: Any, makers: dict[Any, Any]) -> tuple[int, ...] | None:
    """The axes along which `mean` is the mean of `x`; at most axes of one entry came in since."""
    x = uncast(x, makers)
    return next((axes for atom, axes in _averaged(mean, makers) if atom is x), None)


def _averaged(atom: Any, makers: dict[Any, Any]) -> Iterator[tuple[Any, tuple[int, ...]]]:
    """All that `atom` is a mean of, each with the axes averaged over."""
    scale, axes = 1.0, frozenset[int]()
    while (made := maker(atom, makers)) is not None:
        kind, operand = made.primitive.name, made.invars[0]
        longer, after = _longer(operand.aval.shape), _longer(atom.aval.shape)
        if kind in ("reduce_sum", "psum"):
            if not all(isinstance(i, (int, np.integer)) for i in made.params["axes"]):
                return
            kept = [i for i in range(operand.aval.ndim) if i not in made.params["axes"]]
            axes = frozenset(range(operand.aval.ndim)) - {kept[i] for i in range(len(kept)) if i not in axes}
            scale *= math.prod(operand.aval.shape[i] for i in made.params["axes"])
        elif kind in ("div", "mul") and (by := number(made.invars[1])):
            scale = scale / by if kind == "div" else scale * by
        elif kind in BETWEEN and [operand.aval.shape[i] for i in longer] == [
            atom.aval.shape[i] for i in after
        ]:
            place = dict(zip(after, longer, strict=True))
            axes = frozenset(place[i] for i in axes if i in place)
        else:
            return
        atom = operand
        if axes and math.isclose(scale, 1, rel_tol=1e-3):
            yield atom, tuple(sorted(axes))


def _as_made(x: Any, axes: tuple[int, ...], makers: dict[Any, Any]) -> tuple[Any, tuple[int, ...]]:
    """What `x` was before casts and axes of one entry, and which of its longer axes these are."""
    longer = _longer(x.aval.shape)
    which = tuple(longer.index(i) for i in axes if i in longer)
    while (made := maker(x, makers)) is not None and made.primitive.name in BETWEEN:
        operand = made.invars[0]
        sizes = [[v.aval.shape[i] for i in _longer(v.aval.shape)] for v in (operand, x)]
        if sizes[0] != sizes[1]:
            break
        x = operand
    return x, which


def _longer(shape: Sequence[int]) -> list[int]:
    """The axes of more than one entry."""
    return [i for i, n in enumerate(shape) if n > 1]


def _of_square(atom: Any, makers: dict[Any, Any]) -> Any:
    """`x`, of its square."""
    made = maker(uncast(atom, makers), makers)
    if made is None:
        return None
    kind, x = made.primitive.name, made.invars[0]
    is_product = kind == "mul" and made.invars[1] is x
    return x if kind == "square" or is_product or made.params.get("y") == 2 else None


def _in_place_of(eqn: Any, function: Any, operands: Sequence[Any], *settings: Any) -> Any:
    shapes = [jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype) for x in operands]
    (whole,) = opened(jax.make_jaxpr(lambda *x: function(*x, *settings))(*shapes))[0].eqns
    return eqn.replace(
        primitive=whole.primitive, params=whole.params, invars=list(operands), effects=whole.effects
    )


def is_whole(eqn: Any) -> bool:
    """Whether an equation is one of the functions that are known as a whole."""
    return eqn.params.get("name") in _RULES


def whole_rule(eqn: Any, laws: Sequence[Law], name: Any) -> list[Law]:
    """The law of such an equation."""
    inner, _ = opened(called(eqn))
    axes = frozenset(next(e.params["axes"] for e in inner.eqns if e.primitive.name == "reduce_sum"))
    plus = next((number(e.invars[1]) or 0.0 for e in inner.eqns if e.primitive.name == "add"), 0.0)
    return [_RULES[eqn.params["name"]]([as_float(x) for x in laws], axes, name, plus)]


def _pullback_of_largest(laws: Sequence[Law], axes: Axes, name: Any, _: float) -> Law:
    return largest.pulled_back(laws[0], laws[2], axes, name)


_RULES = {
    softmax.FORWARD: lambda x, axes, name, plus: softmax.probabilities(x[0], axes, name, plus),
    softmax.BESIDE: lambda x, axes, name, _: softmax.beside(x[0], x[1], axes, name),
    softmax.BACKWARD: lambda x, axes, name, _: softmax.pulled_back(x[0], x[1], axes, name),
    largest.BACKWARD: _pullback_of_largest,
    centring.CENTRED: lambda x, axes, name, _: centring.minus_mean(x[0], axes),
}
