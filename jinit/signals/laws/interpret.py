"""Run a jaxpr on laws."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jinit._compat import Literal, opened
from jinit.jaxprs.dataflow import CONTRACTIONS
from jinit.jaxprs.elementwise import is_elementwise
from jinit.jaxprs.graph import COPIES
from jinit.signals.laws import indexed, joint, lookups
from jinit.signals.laws.arrays import is_traced, near
from jinit.signals.laws.as_laws import as_law, of_examples, of_weight, with_fixed_sums
from jinit.signals.laws.by_moments import MomentRule, by_moments
from jinit.signals.laws.elementwise import are_never_equal, elementwise
from jinit.signals.laws.holding import run_held, unknown
from jinit.signals.laws.law import Law
from jinit.signals.laws.loops import CONTROL
from jinit.signals.laws.masked import of_matrix
from jinit.signals.laws.meeting import Contraction
from jinit.signals.laws.noise import drawn, noise
from jinit.signals.laws.roots import SIGNAL, WEIGHT
from jinit.signals.laws.row_sizes import with_sizes
from jinit.signals.laws.rules import RULES, contracted, contraction_of, rows_added
from jinit.signals.laws.steps import picked
from jinit.signals.laws.twins import REARRANGED, Twins
from jinit.signals.laws.values import (
    INPUTS,
    PARAMS,
    Each,
    Held,
    Stacked,
    Unknown,
    Value,
    Variable,
    held,
    is_weight,
)
from jinit.signals.laws.wholes import is_whole, whole_rule

Name = Hashable


@dataclasses.dataclass(frozen=True)
class Interpreter:
    """Runs equations on laws.

    Attributes:
      rules: the user's own, by primitive.
      makers: of what was run so far.
      twins: the signals that a weight met so far; none inside of long loops.
    """

    rules: Mapping[Any, MomentRule]
    makers: joint.Makers = dataclasses.field(default_factory=joint.Makers)
    twins: Twins | None = dataclasses.field(default_factory=Twins)

    def apart(self) -> Interpreter:
        """The same, which knows of nothing that was run so far."""
        return Interpreter(self.rules)

    def in_loop(self) -> Interpreter:
        """The same, at one step of a loop, whose weights count as its own."""
        return dataclasses.replace(self, twins=None)

    def body(
        self, jaxpr: Any, consts: Sequence[Value], args: Sequence[Value], at: tuple[int, ...]
    ) -> list[Any]:
        """The laws of a jaxpr's results."""
        env: dict[Any, Value] = dict(zip(jaxpr.constvars, consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> Value:
            if not isinstance(atom, Literal):
                return env[atom]
            aval: Any = atom.aval
            return held(np.asarray(atom.val, aval.dtype))

        for i, eqn in _alive(jaxpr):
            ins, kind = [read(v) for v in eqn.invars], eqn.primitive.name
            of_entries = eqn.primitive not in self.rules and _is_of_entries(eqn, ins)
            outs: Any = self.makers.by_parts(eqn, ins, (*at, i))
            if outs is None and of_entries:
                outs = joint.again(eqn, self.makers, ins, (*at, i))
            if outs is None:
                outs = self.equation(eqn, ins, (*at, i))
            outs = [_made(x, (*at, i, k), _parameters_of(ins)) for k, x in enumerate(outs)]
            env.update(zip(eqn.outvars, outs, strict=True))
            if self.twins is not None and kind in REARRANGED:
                self.twins.note(eqn, ins, outs[0])
            self.makers.remember(eqn, ins, outs, of_entries)
            if kind == "concatenate" or (of_entries and self.makers.stacks.known):
                self.makers.stacks.note(eqn, ins, outs, (*at, i))
        return [read(v) for v in jaxpr.outvars]

    def inner(self, jaxpr: Any, args: Sequence[Value], at: tuple[int, ...]) -> list[Any]:
        """The laws of an inner jaxpr's results."""
        opened_jaxpr, consts = opened(jaxpr)
        return self.body(opened_jaxpr, [held(c) for c in consts], args, at)

    def equation(self, eqn: Any, ins: list[Value], at: tuple[int, ...]) -> list[Any]:
        """The laws of one equation's results."""
        kind = eqn.primitive.name
        if eqn.primitive in self.rules:
            return by_moments(self.rules[eqn.primitive], eqn, ins, at)
        if is_whole(eqn) and isinstance(ins[0], Law):
            laws = [as_law(x, (at, i)) for i, x in enumerate(ins)]
            if all(isinstance(x, Law) for x in laws):
                return whole_rule(eqn, laws, at)  # type: ignore[arg-type]
        if kind in CONTROL:
            return CONTROL[kind](self, eqn, ins, at)
        if (found := picked(eqn, ins)) is not None:
            return [found]
        if kind == "random_bits" and eqn.outvars[0].aval.shape != ():
            return [noise(eqn, at)]
        if any(isinstance(x, Unknown) for x in ins) and not _picks_rows(kind, ins):
            return [next(x for x in ins if isinstance(x, Unknown))] * len(eqn.outvars)
        if kind == "gather" and not is_weight(ins[0]) and (lost := indexed.num_lost(eqn, ins)):
            self.makers.images.lost.add(lost)
        if all(isinstance(x, Held) for x in ins):
            sources = [x.source for x in ins if isinstance(x, Held)]
            if kind == "shard_map" and {PARAMS, INPUTS} <= frozenset().union(*sources):
                return unknown(eqn, "`shard_map` has no rule")
            if not (kind in CONTRACTIONS and _is_layer(*sources[:2])):
                return run_held(eqn, ins)  # type: ignore[arg-type]
        return self.on_laws(eqn, ins, at)

    def on_laws(self, eqn: Any, ins: list[Value], at: tuple[int, ...]) -> list[Any]:
        """The laws of a first-order equation's results, some operand being a law."""
        kind = eqn.primitive.name
        if kind in ("dot_general", "conv_general_dilated"):
            return self.contraction(eqn, ins, at)
        if kind == "gather" and (found := lookups.looked_up(eqn, ins[0], ins[1], at)) is not None:
            return [found]
        if _picks_rows(kind, ins):
            index = indexed.index_of(eqn, ins[1]) if kind == "gather" and not is_weight(ins[0]) else None
            fixed = isinstance(ins[1], Held) and INPUTS not in ins[1].source
            indices, ins = ins[1], [ins[0] if fixed else _as_signal(ins[0])]
            if index is not None and index.repeats and index.is_told_apart:
                return [indexed.rows_picked(ins[0], eqn, index, self.makers.images, at)]  # type: ignore[arg-type]
            found = RULES[kind](eqn, ins, at)  # type: ignore[arg-type]
            return [lookups.of_rows(x, eqn, indices, at) for x in found]
        laws = [as_law(x, (at, i)) for i, x in enumerate(ins)]
        if broken := [x for x in laws if isinstance(x, Unknown)]:
            return broken[:1] * len(eqn.outvars)
        if kind in ("scatter-add", "scatter_add"):
            return [self.rows_added(eqn, ins[1], laws, at)]
        if kind in RULES:
            return list(RULES[kind](eqn, laws, at))  # type: ignore[arg-type]
        if is_elementwise(eqn):
            if kind in ("eq", "ne") and are_never_equal(laws):
                return unknown(
                    eqn, "when two random numbers are equal, as an entry and the largest, is not known"
                )
            return [drawn(x) for x in elementwise(eqn, laws, at)]  # type: ignore[arg-type]
        return unknown(eqn, f"`{kind}` has no rule")

    def contraction(self, eqn: Any, ins: list[Value], at: tuple[int, ...]) -> list[Any]:
        """The law of a contraction, by what it has in common with others of the same weight."""
        weights = [i for i, x in enumerate(ins) if is_weight(x)]
        if self.twins is None or len(weights) != 1 or self.makers.images.known:
            return contraction(eqn, ins, at)

        def of(signal: Value, name: Any) -> Any:
            both = [x if k in weights else signal for k, x in enumerate(ins)]
            return contraction(eqn, both, name)[0]

        out = self.twins.contracted(eqn, ins, weights[0], at, of, self.run)
        self.makers.shared |= self.twins.shared
        return [out]

    def run(self, function: Callable[..., Any], values: list[Any], at: Name) -> Any:
        """The value of a function of values, as if it stood in the program."""
        shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in values]
        return self.inner(jax.make_jaxpr(function)(*shapes), values, (at,))[0]  # type: ignore[arg-type]

    def rows_added(self, eqn: Any, indices: Value, laws: list[Any], at: tuple[int, ...]) -> Any:
        """The laws of sums by index."""
        index, images = indexed.index_of(eqn, indices), self.makers.images
        if indexed.num_added(eqn) in images.lost and not laws[2].is_linear:
            return Unknown(indexed.NOT_TOLD_APART, eqn.primitive.name)
        found = indexed.rows_summed(laws[0], laws[2], index, images, at)
        return found or rows_added(eqn, laws, at, lookups.added(eqn, laws[2], indices))[0]


def _is_of_entries(eqn: Any, ins: Sequence[Value]) -> bool:
    """Whether the equation is a function of single entries of laws."""
    if not any(isinstance(x, Law) for x in ins) or not all(isinstance(x, (Law, Held)) for x in ins):
        return False
    kind = eqn.primitive.name
    return (kind not in RULES or kind in COPIES) and is_elementwise(eqn)


def _alive(jaxpr: Any) -> list[tuple[int, Any]]:
    """The equations that a result depends on, with their places."""
    needed = {v for v in jaxpr.outvars if not isinstance(v, Literal)}
    pads = {eqn.outvars[0]: eqn for eqn in jaxpr.eqns if eqn.primitive.name == "pad"}
    alive = []
    for i, eqn in reversed(list(enumerate(jaxpr.eqns))):
        eqn = _with_padding(eqn, pads)
        if not needed.isdisjoint(eqn.outvars):
            needed.update(v for v in eqn.invars if not isinstance(v, Literal))
            alive.append((i, eqn))
    return alive[::-1]


def _with_padding(eqn: Any, makers: Mapping[Any, Any]) -> Any:
    """A sum over windows of what was padded with zeros, as one over windows that reach into the padding.

    As it stands in the gradient of an average pooling. Padded entries would count as on average.
    """
    if eqn.primitive.name != "reduce_window_sum" or (pad := makers.get(eqn.invars[0])) is None:
        return eqn
    value, config, p = pad.invars[1], pad.params["padding_config"], eqn.params
    plain = all(d == 1 for d in p["base_dilation"]) and isinstance(value, Literal) and value.val == 0
    if not plain:
        return eqn
    padding = [(lo + a, hi + b) for (lo, hi, _), (a, b) in zip(config, p["padding"], strict=True)]
    dilation = tuple(inner + 1 for _, _, inner in config)
    return eqn.replace(
        invars=[pad.invars[0]], params={**p, "padding": tuple(padding), "base_dilation": dilation}
    )


def _made(x: Value, at: Name, parameters: frozenset[Name]) -> Value:
    if not isinstance(x, (Law, Stacked, Each)):
        return x
    x = jax.tree.map(near, x)
    if not isinstance(x, Law):
        return x
    return dataclasses.replace(x, origin=at if x.origin is None else x.origin, parameters=parameters)


def _parameters_of(ins: Sequence[Value]) -> frozenset[Name]:
    """The parameters that operands are made of, if of these alone."""
    laws = [x for x in ins if not isinstance(x, Held)]
    known = all(isinstance(x, Law) and x.parameters for x in laws)
    inputs = any(INPUTS in x.source for x in ins if isinstance(x, Held))
    return frozenset().union(*(x.parameters for x in laws)) if known and not inputs else frozenset()  # type: ignore[union-attr]


def _picks_rows(kind: str, ins: Sequence[Value]) -> bool:
    """Whether the equation picks or places entries by indices, whatever those are."""
    return kind in ("gather", "dynamic_slice") and isinstance(ins[0], Law)


def _as_signal(x: Any) -> Any:
    """Rows of a weight that inputs pick are a signal."""
    roots = tuple(dataclasses.replace(r, kind=SIGNAL) if r.kind == WEIGHT else r for r in x.roots)
    return dataclasses.replace(x, roots=roots)


def _is_layer(a: frozenset[str], b: frozenset[str]) -> bool:
    """Whether parameters alone meet what depends on inputs."""
    return (a == {PARAMS} and INPUTS in b) or (b == {PARAMS} and INPUTS in a)


def contraction(eqn: Any, ins: list[Value], at: tuple[int, ...]) -> list[Any]:
    """A contraction, of which arrays need no more than two moments."""
    if any(jnp.issubdtype(v.aval.dtype, jnp.complexfloating) for v in eqn.invars):
        return unknown(eqn, f"`{eqn.primitive.name}` of complex numbers has no rule")
    how = contraction_of(eqn)
    weights = [i for i, x in enumerate(ins) if is_weight(x)]
    laws: list[Any] = []
    # In the gradient of a weight the examples are summed over, and features stay.
    gradient = eqn.primitive.name == "dot_general" and any(isinstance(x, Law) and x.is_linear for x in ins)
    for i, x in enumerate(ins):
        if (law := _of_matrix(x, ins[1 - i], how, i, (at, i))) is not None:
            laws.append(law)
        elif isinstance(x, Held) and jnp.issubdtype(x.dtype, jnp.floating):
            examples = frozenset(range(len(x.shape))) - how.free[i] if gradient else how.free[i]
            law = of_weight(x, (at, i)) if x.source == {PARAMS} else of_examples(x, examples, (at, i))
            if INPUTS in x.source and eqn.primitive.name == "dot_general":
                law = with_sizes(law, x, examples)
            summed = frozenset(k for k, to in enumerate(how.axes[i]) if to and to <= how.counts.keys())
            law = with_fixed_sums(law, x, summed)
            laws.append(dataclasses.replace(law, origin=Variable(x.array)))
        else:
            laws.append(as_law(x, (at, i)))
    if broken := [x for x in laws if isinstance(x, Unknown)]:
        return broken[:1] * len(eqn.outvars)
    if laws[0].parameters & laws[1].parameters and laws[0].origin != laws[1].origin:
        return unknown(
            eqn, "a weight meets what is made of itself, as in a power iteration: give `params` as arrays"
        )
    return list(contracted(eqn, laws, at, weight=weights[0] if len(weights) == 1 else None))


def _of_matrix(x: Value, other: Value, how: Contraction, side: int, name: Any) -> Law | None:
    """The law of a matrix of numbers that stand in the program, where a signal meets it."""
    if not isinstance(x, Held) or x.source or x.array.shape != x.shape or not isinstance(other, Law):
        return None
    floating = jnp.issubdtype(x.dtype, jnp.floating) and not is_traced(other.nodes)
    return of_matrix(x.array, how, side, name) if floating else None
