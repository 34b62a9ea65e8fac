"""All that depends on the version of JAX, in one place."""

from __future__ import annotations

from typing import Any

import jax
from jax.core import Tracer
from jax.extend import core, source_info_util

from jinit._typing import Array

Jaxpr = core.Jaxpr
Eqn = core.JaxprEqn
Literal = core.Literal
primitives = core.primitives


def opened(jaxpr: Any) -> tuple[Any, list[Any]]:
    """`(jaxpr, consts)` of a jaxpr, closed or open.

    From JAX 0.11 closed and open jaxprs are one class, which may or may not hold consts; before,
    only a ClosedJaxpr has `.jaxpr` and `.consts`.
    """
    return getattr(jaxpr, "jaxpr", jaxpr), list(getattr(jaxpr, "consts", ()))


def is_jaxpr(param: Any) -> bool:
    """Whether a parameter of an equation is a jaxpr, closed or open."""
    return hasattr(opened(param)[0], "eqns")


def inner_jaxprs(eqn: Any) -> list[Any]:
    """The jaxprs that an equation holds, closed or open."""
    return [p for p in jax.tree.leaves(list(eqn.params.values()), is_leaf=is_jaxpr) if is_jaxpr(p)]


def bind(eqn: Any, values: list[Any]) -> list[Any]:
    """Run one equation as it stands, whatever its primitive."""
    with eqn.ctx.manager:  # such as the mesh that it was traced under
        outs = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
    return list(outs) if eqn.primitive.multiple_results else [outs]


def source_of(eqn: Any) -> str:
    """`file.py:12 (function)` of the user's line that made the equation, or the empty string."""
    try:
        return source_info_util.summarize(eqn.source_info)
    except Exception:  # a label for people: never worth failing a measurement
        return ""


def varying_axes(x: Any) -> frozenset[str]:
    """Mesh axes along which a value differs between devices, inside `shard_map` with `check_vma=True`.

    Args:
      x: an array, or its shape and dtype.
    """
    aval = x if isinstance(x, jax.ShapeDtypeStruct) else jax.typeof(x)
    kind = getattr(aval, "manual_axis_type", None)
    return frozenset(getattr(kind, "varying", ()) or getattr(aval, "vma", None) or ())


def vary(x: Array, axes: frozenset[str]) -> Array:
    """`x`, typed as one that differs between devices along `axes` at least."""
    missing = axes - varying_axes(x)
    return jax.lax.pcast(x, tuple(missing), to="varying") if missing else x


def scan_arity(eqn: Any) -> tuple[int, int]:
    """`(number of constants, number of carries)` of a scan equation.

    Derived from ranks, since the parameters that tell it changed at JAX 0.11: an operand that is
    scanned over, and a result that is stacked, has one axis more than in the body.
    """
    body, _ = opened(eqn.params["jaxpr"])
    carries = sum(o.aval.ndim == b.aval.ndim for o, b in zip(eqn.outvars, body.outvars, strict=True))
    scanned = sum(v.aval.ndim == b.aval.ndim + 1 for v, b in zip(eqn.invars, body.invars, strict=True))
    return len(eqn.invars) - scanned - carries, carries


def not_tracing() -> bool:
    """Whether arrays made now are values, outside of `jax.jit` and the like."""
    return not isinstance(jax.numpy.zeros(()), Tracer)


def options_for_laws() -> dict[str, str] | None:
    """Compiler options for programs that run on laws.

    On CPU, XLA of JAX 0.10 crashes in its library for transposes on some of them, so it is left out there.
    """
    if jax.__version_info__ >= (0, 11) or jax.default_backend() != "cpu":
        return None
    return {"xla_cpu_experimental_ynn_fusion_type": ""}
