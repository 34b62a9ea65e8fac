"""Rules of the user's own: from the means and variances of operands to those of results."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from jinit._compat import source_of
from jinit._errors import message
from jinit.signals.laws.as_laws import as_law
from jinit.signals.laws.law import Law, constant, normal, two_moments
from jinit.signals.laws.roots import COTANGENT, SIGNAL
from jinit.signals.laws.values import Unknown, Value

# `rule([(mean, variance) of each operand], eqn) -> [(mean, variance) of each result]`.
MomentRule = Callable[[list[tuple[Any, Any]], Any], Sequence[tuple[Any, Any]]]


def by_moments(rule: MomentRule, eqn: Any, ins: list[Value], at: Hashable) -> list[Any]:
    """The user's rule: normal entries of the moments it gives."""
    laws = [as_law(x, (at, i)) for i, x in enumerate(ins)]
    if broken := [x for x in laws if isinstance(x, Unknown)]:
        return broken[:1] * len(eqn.outvars)
    try:
        moments = rule([two_moments(x) for x in laws], eqn)  # type: ignore[arg-type]
    except Exception as error:
        error.add_note(f"in the rule of `{eqn.primitive.name}` ({source_of(eqn)})")
        raise
    pairs = isinstance(moments, (list, tuple)) and len(moments) == len(eqn.outvars)
    if not pairs or not all(isinstance(m, (list, tuple)) and len(m) == 2 for m in moments):
        must = f"the rule of `{eqn.primitive.name}` must give (mean, variance) of each result"
        got = f"{moments!r} for {len(eqn.outvars)} ({source_of(eqn)})"
        raise ValueError(message("jinit.predict(...)", must, got))
    linear = any(x.is_linear for x in laws if isinstance(x, Law))
    kind = COTANGENT if linear else SIGNAL
    return [
        _normal(m, v, (at, i), out.aval, kind)
        for i, ((m, v), out) in enumerate(zip(moments, eqn.outvars, strict=True))
    ]


def _normal(mean: Any, variance: Any, name: Hashable, aval: Any, kind: str) -> Law:
    """Independent normal entries; a constant where the variance is the number zero."""
    if isinstance(variance, (int, float)) and variance == 0:
        return constant(mean, aval.shape, aval.dtype)
    return normal(mean, variance, name, aval.shape, aval.dtype, kind=kind)
