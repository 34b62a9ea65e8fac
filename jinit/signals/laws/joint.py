"""Functions of entries that have more in common than their laws still tell, from what they were made of."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from jinit._compat import Literal
from jinit.signals.laws.elementwise import on_nodes
from jinit.signals.laws.law import Law
from jinit.signals.laws.pointwise import pointwise
from jinit.signals.laws.roots import MASK, PLACE
from jinit.signals.laws.values import Held, Value, as_law

# Equations done again at most, for one more.
LONGEST = 24


@dataclasses.dataclass
class Makers:
    """Of the variables of a jaxpr, those that are functions of entries, and how they were made.

    Attributes:
      eqns: the equation that made a variable, in order.
      parted: variables whose laws no longer tell what they have in common with what they were made of.
      behind: of a variable, all those that it was made of, and itself.
    """

    eqns: dict[Any, Any] = dataclasses.field(default_factory=dict)
    parted: set[Any] = dataclasses.field(default_factory=set)
    behind: dict[Any, frozenset[Any]] = dataclasses.field(default_factory=dict)

    def note(self, eqn: Any, ins: Sequence[Value], outs: Sequence[Value]) -> None:
        """Remember an equation that was run on laws, entry by entry."""
        known = {r for x in ins if isinstance(x, Law) for r in x.roots}
        behind = frozenset().union(*(self.all_behind(v) for v in eqn.invars))
        for v, out in zip(eqn.outvars, outs, strict=True):
            if isinstance(out, Law):
                self.eqns[v], self.behind[v] = eqn, behind | {v}
                if any(r not in known and r.kind != PLACE for r in out.roots):
                    self.parted.add(v)

    def all_behind(self, atom: Any) -> frozenset[Any]:
        """All variables that an atom was made of, and itself."""
        return frozenset() if isinstance(atom, Literal) else self.behind.get(atom, frozenset([atom]))

    def is_lost(self, v: Any, others: Iterable[Any]) -> bool:
        """Whether the law of `v` does not tell that it was made of some of these."""
        mine = self.all_behind(v)
        ways = [u for u in mine if not self.all_behind(u).isdisjoint(others)]
        return v not in others and any(u in self.parted for u in ways)

    def bases(self, atoms: Sequence[Any]) -> set[Any]:
        """What functions of these must be found from, so that nothing is lost that they have in common."""
        sets = [self.all_behind(v) for v in atoms]
        common = set().union(*(a & b for a, b in itertools.combinations(sets, 2)))
        bases = {v for v in atoms if not isinstance(v, Literal)}
        while True:
            lost = {v for v in bases if v in self.eqns and self.is_lost(v, (common | bases) - {v})}
            if not lost:
                return bases
            bases -= lost
            bases |= {u for v in lost for u in self.eqns[v].invars if not isinstance(u, Literal)}


def again(eqn: Any, makers: Makers, read: Callable[[Any], Value], at: Hashable) -> list[Law] | None:
    """The laws of the equation's results, from what its operands were made of; nothing if that is no better.

    Where grids grow too large, a law is put on new roots, and from then on independent of what it was made
    of: `(a - b) z` of `b`. So that of `(a - b) z + b` is found from `a`, `b` and `z`.
    """
    operands = {v for v in eqn.invars if not isinstance(v, Literal)}
    bases = makers.bases(eqn.invars)
    if bases <= operands:
        return None
    eqns = _between(makers, bases, operands)
    atoms = {_key(v): v for e in [*eqns, eqn] for v in e.invars}
    made = {v for e in eqns for v in e.outvars}
    laws = {
        key: _law(read(v), (at, "base", k)) for k, (key, v) in enumerate(atoms.items()) if key not in made
    }
    if len(eqns) >= LONGEST or not all(isinstance(x, Law) and not _is_masked(x) for x in laws.values()):
        return None

    def run(*nodes: Any) -> list[Any]:
        env = dict(zip(laws, nodes, strict=True))
        for e in [*eqns, eqn]:
            outs = on_nodes(e, [env[_key(v)] for v in e.invars])
            env |= dict(zip(e.outvars, outs, strict=True))
        return [env[v] for v in eqn.outvars]

    return pointwise(run, list(laws.values()), [v.aval for v in eqn.outvars], at)


def _between(makers: Makers, bases: set[Any], operands: set[Any]) -> list[Any]:
    """The equations from bases to operands, in order."""
    needed, left = set(), [v for v in operands if v not in bases]
    while left:
        v = left.pop()
        if v not in needed:
            needed.add(v)
            inner = makers.eqns[v].invars
            left += [u for u in inner if not isinstance(u, Literal) and u in makers.eqns and u not in bases]
    found = {id(e): e for v, e in makers.eqns.items() if v in needed}
    return list(found.values())


def _key(atom: Any) -> Any:
    return id(atom) if isinstance(atom, Literal) else atom


def _law(value: Value, name: Hashable) -> Any:
    return as_law(value, name) if isinstance(value, (Law, Held)) else value


def _is_masked(law: Law) -> bool:
    return any(r.kind == MASK for r in law.roots)
