"""Signals that are computed again going backward, instead of being kept for the gradient of a weight.

A rectifier's derivative keeps its operand, and the contraction after it keeps its result. One of them is
enough: the result comes back from the operand in one cheap pass. So what is kept for the backward pass of a
rectifier network halves, and with it what a program that returns no gradients asks the system for.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jinit._compat import Literal, bind, opened
from jinit._sharding import is_sharded
from jinit._typing import Array
from jinit.jaxprs.elementwise import OneEquation
from jinit.jaxprs.graph import called

# Entry by entry, for less than it costs to read one more array.
_CHEAP = frozenset(
    {"max", "min", "clamp", "select_n", "mul", "neg", "abs", "sign", "square", "integer_pow", "gt", "ge",
     "lt", "le", "eq", "ne", "and", "or", "not", "convert_element_type", "broadcast_in_dim", "copy"}
)  # fmt: skip
_CALLS = frozenset({"jit", "pjit", "closed_call", "custom_jvp_call"})
_LAYOUT = frozenset({"reshape", "squeeze", "expand_dims"})
_LINEAR = _LAYOUT | {"convert_element_type", "copy", "neg"}
_MOST = 8  # steps to go back: of layers along one long row of steps, each would repeat all before it


@dataclasses.dataclass(frozen=True)
class Origin:
    """What an operand of a contraction is cheaply made of.

    Attributes:
      position: of the operand.
      value: what is kept in its place.
      steps: the equations that make it.
    """

    position: int
    value: Array
    steps: tuple[Any, ...]

    def again(self, value: Array) -> Array:
        """The operand, from `value` in place of what is kept."""
        for eqn in self.steps:
            (value,) = bind(eqn, [v.val if isinstance(v, Literal) else value for v in eqn.invars])
        return value


def origin_of(
    eqn: Any, position: int, makers: Mapping[Any, Any], read: Callable[[Any], Array]
) -> Origin | None:
    """The origin of an operand; None if it has none, or one that the derivative does not keep anyway.

    Args:
      eqn: the contraction.
      position: of the operand.
      makers: the equation that made each variable before it.
      read: value of a variable.
    """
    atom, steps = eqn.invars[position], []
    while len(steps) < _MOST and not isinstance(atom, Literal):
        operand = _one_operand(makers.get(atom))
        if operand is None:
            break
        steps.insert(0, makers[atom])
        atom = operand
    while steps and _is_linear(steps[0]):
        atom = steps.pop(0).outvars[0]
    return Origin(position, read(atom), tuple(steps)) if steps else None


def _one_operand(eqn: Any) -> Any:
    """The one array that a cheap equation reads; None if it is another equation."""
    if eqn is None or len(eqn.outvars) != 1 or not _is_cheap(eqn):
        return None
    operands = {v for v in eqn.invars if not isinstance(v, Literal)}
    if len(operands) != 1:
        return None
    operand: Any = operands.pop()
    whole = operand.aval.size == eqn.outvars[0].aval.size
    return operand if whole and jnp.issubdtype(operand.aval.dtype, jnp.floating) else None


def _is_cheap(eqn: Any) -> bool:
    if eqn.primitive.name in _CALLS:
        body, _ = opened(called(eqn))
        return all(_is_cheap(e) for e in body.eqns)
    return eqn.primitive.name in _CHEAP | _LAYOUT


def _is_linear(eqn: Any) -> bool:
    """Whether the derivative keeps nothing, so that the operand would be kept for nothing but this."""
    by_number = eqn.primitive.name == "mul" and any(isinstance(v, Literal) for v in eqn.invars)
    return by_number or eqn.primitive.name in _LINEAR


def contract(eqn: Any, operands: list[Array], origin: Origin) -> list[Array]:
    """Run a contraction one operand of which is not kept going forward, but made again from its origin."""

    def run(*operands: Array) -> list[Array]:
        return bind(eqn, list(operands))

    @jax.custom_vjp
    def contracted(kept: Array, *operands: Array) -> list[Array]:
        return run(*operands)

    def forward(kept: Array, *operands: Array) -> tuple[list[Array], Any]:
        others = [None if i == origin.position else x for i, x in enumerate(operands)]
        return run(*operands), (kept, others)

    def backward(residuals: Any, cotangents: list[Array]) -> tuple[Array | None, ...]:
        kept, others = residuals
        value = origin.again(_hidden(kept, cotangents[0]))
        return None, *_pulled_back(OneEquation(eqn), [value if x is None else x for x in others], cotangents)

    contracted.defvjp(forward, backward)
    return contracted(origin.value, *operands)  # no gradient of its own, but those of the gradients


@functools.partial(jax.jit, static_argnums=0, inline=True)
def _pulled_back(one: OneEquation, operands: list[Array], cotangents: list[Array]) -> tuple[Array, ...]:
    """The gradients of an equation's operands, traced once for all that are alike."""
    _, pull = jax.vjp(lambda *operands: bind(one.eqn, list(operands)), *operands)
    return pull(cotangents)


def _hidden(x: Array, cotangent: Array) -> Array:
    """`x`, by a choice that waits for the cotangent and that no compiler can decide.

    It would else see that the value was there before, and keep it; a barrier does not last long enough.
    No entry can be cut out of what is sharded by its type: there the compiler has its way.
    """
    if is_sharded(x) or is_sharded(cotangent):
        return x
    one = lax.abs(lax.slice(cotangent, (0,) * cotangent.ndim, (1,) * cotangent.ndim))
    always = lax.reshape(lax.ne(one, lax.full_like(one, -1)), ())  # also of NaN
    return lax.select(lax.broadcast(always, x.shape), x, lax.full_like(x, 0))
