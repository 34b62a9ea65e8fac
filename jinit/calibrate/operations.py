"""Floating-point operations of a function, counted in its traced program."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from jinit._compat import Literal, inner_jaxprs, opened
from jinit.jaxprs.graph import COPIES, called, is_opaque
from jinit.signals.observe import inexact

_MOVES = frozenset(
    {*COPIES, "broadcast_in_dim", "concatenate", "dynamic_slice", "dynamic_update_slice", "expand_dims",
     "gather", "iota", "pad", "reshape", "rev", "slice", "split", "squeeze", "transpose"}
)  # fmt: skip


def operations(function: Callable[..., Any], *args: Any, iterations: float = 1) -> float:
    """Floating-point operations of `function(*args)`, a multiplication and an addition being two.

    A `scan` counts every step, a `cond` the most expensive branch, and a function of single entries one
    operation an entry. How often the body of a `while_loop` runs no program tells before it does.

    Args:
      function: what to count.
      args: arrays, of which shapes and dtypes matter.
      iterations: of each `while_loop`; of those inside of another the body counts once.

    Returns:
      The number; NaN if it holds what cannot be looked into, such as a callback or a kernel in Pallas.
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), args)
    jaxpr, _ = opened(jax.make_jaxpr(function)(*shapes))
    return float(_of_program(jaxpr, [True] * len(jaxpr.outvars), iterations))


def _of_program(jaxpr: Any, wanted: Sequence[bool], iterations: float) -> float:
    """Those that the outputs wanted need: the rest is left out when a program is compiled."""
    jaxpr, _ = opened(jaxpr)
    live = {v for v, is_wanted in zip(jaxpr.outvars, wanted, strict=True) if is_wanted and _is_variable(v)}
    total = 0.0
    for eqn in reversed(jaxpr.eqns):
        outs = [v in live for v in eqn.outvars]
        if any(outs) or eqn.effects:
            live.update(filter(_is_variable, eqn.invars))
            total += _of_equation(eqn, outs, iterations)
    return total


def _of_equation(eqn: Any, wanted: Sequence[bool], iterations: float) -> float:
    name, params = eqn.primitive.name, eqn.params
    if name == "scan":
        return params["length"] * _whole(params["jaxpr"], iterations)
    if name == "while":
        return iterations * (_whole(params["cond_jaxpr"], 1) + _whole(params["body_jaxpr"], 1))
    if name == "cond":
        return max(_whole(branch, iterations) for branch in params["branches"])
    if any(k in params for k in ("call_jaxpr", "fun_jaxpr")) or (name != "pallas_call" and "jaxpr" in params):
        inner = called(eqn)
        whole = len(wanted) != len(opened(inner)[0].outvars)
        return _whole(inner, iterations) if whole else _of_program(inner, wanted, iterations)
    if is_opaque(eqn):
        return sum((_whole(jaxpr, iterations) for jaxpr in _inner(eqn)), 0.0) or math.nan
    return _of_arrays(eqn)


def _of_arrays(eqn: Any) -> float:
    """Operations of an equation that holds no program."""
    name, operands = eqn.primitive.name, [v.aval for v in eqn.invars]
    arrays = [a for a in (*operands, *(v.aval for v in eqn.outvars)) if hasattr(a, "shape") and inexact(a)]
    if not arrays or name in _MOVES or name.startswith("random_"):
        return 0.0
    out = math.prod(eqn.outvars[0].aval.shape)
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return 2.0 * out * math.prod(operands[0].shape[i] for i in contracted)
    if name == "conv_general_dilated":
        kernel, features = operands[1].shape, eqn.params["dimension_numbers"].rhs_spec[0]
        zeros = math.prod(eqn.params["lhs_dilation"]) * max(kernel[features], 1)  # between the entries
        return 2.0 * out * math.prod(kernel) / zeros
    if name.startswith("ragged_dot"):
        return 2.0 * math.prod(operands[0].shape) * eqn.outvars[0].aval.shape[-1]
    if name.startswith("scatter"):
        return float(math.prod(operands[2].shape))
    return float(max(math.prod(a.shape) for a in arrays))


def _whole(jaxpr: Any, iterations: float) -> float:
    return _of_program(jaxpr, [True] * len(opened(jaxpr)[0].outvars), iterations)


def _inner(eqn: Any) -> Iterator[Any]:
    """The programs that an equation of another kind holds, as those of `custom_linear_solve`."""
    if eqn.primitive.name != "pallas_call":
        yield from inner_jaxprs(eqn)


def _is_variable(atom: Any) -> bool:
    return not isinstance(atom, Literal)
