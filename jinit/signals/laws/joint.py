"""Functions of entries that have more in common than their laws still tell, from what they were made of."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from jinit._compat import Literal
from jinit.signals.laws.elementwise import on_nodes
from jinit.signals.laws.law import Law
from jinit.signals.laws.pointwise import pointwise
from jinit.signals.laws.roots import MASK, PLACE, Root
from jinit.signals.laws.values import Held, Value, as_law

# Equations done again at most, for one more.
LONGEST = 24


@dataclasses.dataclass
class Makers:
    """Of the variables of a jaxpr, those that are functions of entries, and how they were made.

    Attributes:
      eqns: the equation that made a variable, in order.
      parted: variables whose laws no longer tell what they have in common with what they were made of.
    """

    eqns: dict[Any, Any] = dataclasses.field(default_factory=dict)
    parted: set[Any] = dataclasses.field(default_factory=set)

    def note(self, eqn: Any, ins: Sequence[Value], outs: Sequence[Value]) -> None:
        """Remember an equation that was run on laws, entry by entry."""
        known = {r for x in ins if isinstance(x, Law) for r in x.roots}
        for v, out in zip(eqn.outvars, outs, strict=True):
            if isinstance(out, Law) and out.shape == v.aval.shape:
                self.eqns[v] = eqn
                if any(r not in known and r.kind != PLACE for r in out.roots):
                    self.parted.add(v)

    def behind(self, atom: Any) -> tuple[set[Any], dict[Any, Any]]:
        """The variables made on the way to one, and the atoms that they were made of, by key."""
        made: set[Any] = set()
        bases: dict[Any, Any] = {}
        left = [atom]
        while left:
            v = left.pop()
            if isinstance(v, Literal) or v not in self.eqns:
                bases[_key(v)] = v
            elif v not in made:
                made.add(v)
                left += self.eqns[v].invars
        return made, bases


def _key(atom: Any) -> Any:
    return id(atom) if isinstance(atom, Literal) else atom


def again(eqn: Any, makers: Makers, read: Callable[[Any], Value], at: Hashable) -> list[Law] | None:
    """The laws of the equation's results, from what its operands were made of; nothing if that is no better.

    Where grids grow too large, a law is put on new roots, and from then on independent of what it was made
    of: `(a - b) z` of `b`. So that of `(a - b) z + b` is found from `a`, `b` and `z`.
    """
    ways = [makers.behind(v) for v in eqn.invars]
    made = set().union(*(m for m, _ in ways))
    if len(ways) < 2 or made.isdisjoint(makers.parted):
        return None
    bases = {key: atom for _, found in ways for key, atom in found.items()}
    laws = {key: _law(read(atom), (at, "base", k)) for k, (key, atom) in enumerate(bases.items())}
    if not all(isinstance(x, Law) for x in laws.values()) or _is_masked(laws.values()):
        return None
    below = [{r for key in found for r in _random(laws[key])} for _, found in ways]
    above = [set(_random(read(v))) for v in eqn.invars]
    pairs = itertools.combinations(range(len(ways)), 2)
    lost = any((below[i] & below[k]) - (above[i] & above[k]) for i, k in pairs)
    eqns = [e for e in _each_once(makers.eqns.values()) if not made.isdisjoint(e.outvars)]
    if not lost or len(eqns) >= LONGEST:
        return None

    def run(*nodes: Any) -> list[Any]:
        env = dict(zip(laws, nodes, strict=True))
        for e in [*eqns, eqn]:
            outs = on_nodes(e, [env[_key(v)] for v in e.invars])
            env |= dict(zip(e.outvars, outs, strict=True))
        return [env[v] for v in eqn.outvars]

    return pointwise(run, list(laws.values()), [v.aval for v in eqn.outvars], at)


def _each_once(eqns: Iterable[Any]) -> list[Any]:
    return list({id(eqn): eqn for eqn in eqns}.values())


def _is_masked(laws: Iterable[Law]) -> bool:
    return any(r.kind == MASK for law in laws for r in law.roots)


def _law(value: Value, name: Hashable) -> Any:
    return as_law(value, name) if isinstance(value, (Law, Held)) else value


def _random(value: Any) -> list[Root]:
    return [r for r in value.roots if r.kind != PLACE] if isinstance(value, Law) else []
