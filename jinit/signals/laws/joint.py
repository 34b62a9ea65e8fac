"""Functions of entries that have more in common than their laws still tell, from what they were made of."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jinit.jaxprs.elementwise import is_elementwise
from jinit.signals.laws import places
from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.as_laws import as_law
from jinit.signals.laws.averages import FEW
from jinit.signals.laws.coarse import name_of
from jinit.signals.laws.elementwise import on_nodes
from jinit.signals.laws.images import Images
from jinit.signals.laws.joining import Pieces
from jinit.signals.laws.law import Law, average, normal_nodes
from jinit.signals.laws.pointwise import pointwise
from jinit.signals.laws.roots import COTANGENT, MASK, PLACE, SIGNAL
from jinit.signals.laws.stacks import Stacks
from jinit.signals.laws.values import INPUTS, Held, Value
from jinit.signals.laws.wholes import is_whole

# Equations done again at most, for one more.
LONGEST = 64
# The largest grid of averages, which stay roots of their own where all others are paired.
MOST_AVERAGES = 64

Key = int


def _identity(value: Value) -> Hashable:
    """What tells a variable from others, wherever in a program it is handed to."""
    if isinstance(value, Law):
        return (id(value.nodes), value.origin, value.shape, value.roots)
    return (id(value.array), value.shape) if isinstance(value, Held) else id(value)


@dataclasses.dataclass(frozen=True, eq=False)
class Making:
    """An equation that was run, with its operands and results."""

    eqn: Any
    ins: tuple[Key, ...]
    outs: tuple[Key, ...]
    order: int


@dataclasses.dataclass
class Makers:
    """Of the variables of a program, those that are functions of entries, and how they were made.

    Attributes:
      keys: numbers of the variables.
      values: of every variable.
      made: the equation that made a variable, in order.
      parted: variables whose laws no longer tell what they have in common with what they were made of.
      behind: of a variable, all those that it was made of, and itself.
      nearer: the same two but for means that were subtracted.
      shared: names of roots that several have, though none was made of another (`twins.Twins`).
      images: laws of rows that are sums of those of others.
      pieces: slices of arrays, among zeros.
      stacks: a few arrays side by side.
    """

    keys: dict[Hashable, Key] = dataclasses.field(default_factory=dict)
    values: dict[Key, Value] = dataclasses.field(default_factory=dict)
    made: dict[Key, Making] = dataclasses.field(default_factory=dict)
    parted: set[Key] = dataclasses.field(default_factory=set)
    behind: dict[Key, frozenset[Key]] = dataclasses.field(default_factory=dict)
    nearer: tuple[dict[Key, Making], dict[Key, frozenset[Key]]] = dataclasses.field(
        default_factory=lambda: ({}, {})
    )
    shared: set[Hashable] = dataclasses.field(default_factory=set)
    images: Images = dataclasses.field(default_factory=Images)
    pieces: Pieces = dataclasses.field(default_factory=Pieces)
    stacks: Stacks = dataclasses.field(default_factory=Stacks)

    def keys_of(self, values: Iterable[Value]) -> tuple[Key, ...]:
        """The keys of values, which are kept, so that no other takes one over."""
        found = [(self.keys.setdefault(_identity(x), len(self.keys)), x) for x in values]
        self.values |= found
        return tuple(key for key, _ in found)

    def by_parts(self, eqn: Any, ins: Sequence[Value], name: Hashable) -> list[Law] | None:
        """The laws of results, by what the operands are known to be parts, sums or stacks of; or nothing."""
        ways = (self.images.added, self.pieces.added, self.stacks.along)
        return next((found for way in ways if (found := way(eqn, ins, name)) is not None), None)

    def remember(self, eqn: Any, ins: Sequence[Value], outs: Sequence[Value], of_entries: bool) -> None:
        """Remember an equation, if it is a function of entries, or cuts an array or subtracts its mean."""
        if of_entries or _is_of_inputs(eqn, ins):
            self.note(eqn, ins, outs)
        elif eqn.primitive.name in ("slice", "split", "pad") and isinstance(ins[0], Law):
            self.pieces.note(eqn, ins, [x for x in outs if isinstance(x, Law)])
        elif is_whole(eqn) and (mean := _mean_subtracted(ins[0], outs)) is not None:
            aval = eqn.outvars[0].aval
            self.note(jax.make_jaxpr(jax.lax.sub)(aval, aval).eqns[0], [ins[0], mean], outs, centres=True)

    def note(self, eqn: Any, ins: Sequence[Value], outs: Sequence[Value], *, centres: bool = False) -> None:
        """Remember an equation that was run on laws or inputs, entry by entry, or subtracts a mean."""
        making = Making(eqn, self.keys_of(ins), self.keys_of(outs), len(self.made))
        known = {r for x in ins if isinstance(x, Law) for r in x.roots}
        for made, behind in ((self.made, self.behind), self.nearer)[: 1 if centres else 2]:
            before = frozenset[Key]().union(*(behind.get(key, {key}) for key in making.ins))
            for key, out in zip(making.outs, outs, strict=True):
                if isinstance(out, (Law, Held)) and key not in before:
                    made[key], behind[key] = making, before | {key}
        for key, out in zip(making.outs, outs, strict=True):
            new = isinstance(out, Law) and any(r not in known and r.kind != PLACE for r in out.roots)
            if key in self.made and (new or isinstance(out, Held)):
                self.parted.add(key)

    def of_gradients(self) -> Makers:
        """The same but for means that were subtracted: behind these gradients take long, and gain little."""
        made, behind = self.nearer
        return dataclasses.replace(self, made=made, behind=behind)

    def all_behind(self, key: Key) -> frozenset[Key]:
        """All variables that one was made of, and itself."""
        return self.behind.get(key, frozenset([key]))

    def is_lost(self, key: Key, others: Collection[Key], *, shared: bool) -> bool:
        """Whether the law of a variable does not tell what it has in common with some of these.

        Be it by what they were made of, or by roots that are `shared` too.
        """
        for u in self.all_behind(key) & self.parted:
            hidden = self.all_behind(u) - {u}
            if any(self._meets(other, hidden, u) for other in others):
                return True
            if shared and not self._shared_by(hidden).isdisjoint(self._shared_behind(others)):
                return True
        return False

    def _shared_behind(self, keys: Iterable[Key]) -> set[Hashable]:
        return self._shared_by(frozenset().union(*map(self.all_behind, keys)))

    def _shared_by(self, keys: Iterable[Key]) -> set[Hashable]:
        laws = (self.values[key] for key in keys)
        return {name_of(r) for x in laws if isinstance(x, Law) for r in x.roots} & self.shared

    def _meets(self, key: Key, hidden: frozenset[Key], beside: Key) -> bool:
        """Whether a variable was made of one of `hidden`, and not by way of `beside` alone."""
        left, seen = [key], {beside}
        while left:
            key = left.pop()
            if key in hidden:
                return True
            if key not in seen and not hidden.isdisjoint(self.all_behind(key)):
                left += self.made[key].ins
            seen.add(key)
        return False

    def bases(self, keys: Sequence[Key]) -> Iterator[set[Key]]:
        """What functions of these may be found from instead, so that less is lost that they have in common.

        Further and further back, what was made last first, until nothing is lost. Gradients that meet what
        has roots in common alone stay as they are: further back they would lose what they share themselves.
        """
        shared = bool(self.shared) and not any(_is_linear(self.values[key]) for key in keys)
        bases = set(keys)
        while True:
            lost = [
                key for key in bases if key in self.made and self.is_lost(key, bases - {key}, shared=shared)
            ]
            if not lost:
                return
            last = max(lost, key=lambda key: self.made[key].order)
            bases = (bases - {last}) | set(self.made[last].ins)
            yield bases

    def between(self, bases: set[Key], operands: set[Key]) -> list[Making]:
        """The equations from bases to operands, in order."""
        needed, left = set[Key](), [key for key in operands if key not in bases]
        while left:
            key = left.pop()
            if key not in needed:
                needed.add(key)
                left += [u for u in self.made[key].ins if u in self.made and u not in bases]
        found = {id(making): making for key, making in self.made.items() if key in needed}
        return list(found.values())


def again(eqn: Any, makers: Makers, ins: Sequence[Value], at: Hashable) -> list[Law] | None:
    """The laws of the equation's results, from what its operands were made of; nothing if that is no better.

    Where grids grow too large, a law is put on new roots, and from then on independent of what it was made
    of: `(a - b) z` of `b`. So that of `(a - b) z + b` is found from `a`, `b` and `z`.
    """
    operands = makers.keys_of(ins)
    makers = makers.of_gradients() if any(map(_is_linear, ins)) else makers
    for bases in reversed(list(itertools.islice(makers.bases(operands), LONGEST))):
        makings = [*makers.between(bases, set(operands)), Making(eqn, operands, (), 0)]
        made = {key for making in makings for key in making.outs}
        taken = dict.fromkeys(key for making in makings for key in making.ins if key not in made)
        laws = {key: _law(makers.values[key], (at, "base", k)) for k, key in enumerate(taken)}
        if not all(isinstance(x, Law) and not _is_masked(x) for x in laws.values()):
            continue
        if _is_small(x for x in laws.values() if x.size == eqn.outvars[0].aval.size):
            break
    else:
        return None

    def run(*nodes: Any) -> list[Any]:
        env, outs = dict(zip(laws, nodes, strict=True)), []
        for making in makings:
            outs = on_nodes(making.eqn, [env[key] for key in making.ins])
            env |= dict(zip(making.outs, outs, strict=False))
        return outs

    found = pointwise(run, list(laws.values()), [v.aval for v in eqn.outvars], at)
    return [_known_as_normal(x) for x in found]


def _mean_subtracted(value: Value, outs: Sequence[Value]) -> Held | None:
    """The mean over many entries, next to a constant, that is subtracted from a signal; or none."""
    law, out = value, outs[0]
    if not isinstance(law, Law) or not isinstance(out, Law) or law.is_linear or is_traced(law.nodes):
        return None
    if out.roots != law.roots or out.nodes.shape != law.nodes.shape or out.dtype != law.dtype:
        return None
    mean = average(law)
    left = np.abs(law.nodes - mean - out.nodes)
    if not np.max(left) <= np.max(np.abs(out.nodes)) / FEW:
        return None
    return Held(xp.asarray(mean).reshape((1,) * len(law.shape)), law.shape)


def _is_of_inputs(eqn: Any, ins: Sequence[Value]) -> bool:
    """Whether the equation is a function of single entries of arrays that inputs give."""
    whole = (x for x in ins if isinstance(x, Held) and x.array.size > 1 and not is_traced(x.array))
    given = any(INPUTS in x.source and jnp.issubdtype(x.dtype, jnp.floating) for x in whole)
    return given and all(isinstance(x, Held) for x in ins) and is_elementwise(eqn)


def _law(value: Value, name: Hashable) -> Any:
    return as_law(value, name) if isinstance(value, (Law, Held)) else value


def _is_small(laws: Iterable[Law]) -> bool:
    """Whether averages of signals take a small grid."""
    sizes = {r: w.size for x in laws for r, w in zip(x.roots, x.weights, strict=True)}
    return math.prod(n for r, n in sizes.items() if r.average and r.kind != COTANGENT) <= MOST_AVERAGES


def _is_linear(value: Value) -> bool:
    return isinstance(value, Law) and value.is_linear


def _is_masked(law: Law) -> bool:
    return any(r.kind == MASK for r in law.roots)


def _known_as_normal(law: Law) -> Law:
    """`law`, known to be a constant plus a normal for each root, at each place, if its nodes are that."""
    random, known = places.others(law), np.issubdtype(law.dtype, np.floating) and not is_traced(law.nodes)
    signals = all(law.roots[i].kind == SIGNAL and not law.roots[i].average for i in random)
    if law.is_normal or not random or not known or not signals:
        return law
    left = law.nodes - average(law, random)
    for z in (normal_nodes(law, i) for i in random):
        left = left if z is None else left - average(law, random, left * z) * z
    affine = np.max(np.abs(left)) <= places.NOTHING * np.max(np.abs(law.nodes))
    return dataclasses.replace(law, is_normal=True) if affine else law
