"""Read off a traced program where its nonlinear layers, its sums and its branches are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jinit._compat import Literal, bind, opened, scan_arity, source_of
from jinit.jaxprs.dataflow import CONTRACTIONS
from jinit.jaxprs.elementwise import is_elementwise
from jinit.jaxprs.graph import RULES as CONTROL
from jinit.jaxprs.graph import called
from jinit.meanfield.subnetworks import Architecture

MOST_ENTRIES = 65536  # of a constant that is computed
TOLERANCE = 0.02  # of a second moment: 0.6² + 0.8² is within 0.005 of 1 in bfloat16
SAME = ("convert_element_type", "copy", "copy_p", "reduce_precision")
MOVED = ("reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim")
PICKED = ("slice", "dynamic_slice", "gather", "rev", "split", "pad", "reduce_max", "reduce_window_max")
SUMMED = ("reduce_sum", "reduce_window_sum")
LINEAR = {"add": 1, "add_any": 1, "sub": -1}


@dataclasses.dataclass(frozen=True)
class Known:
    """What no input has a part in; its value, where that is at hand."""

    value: Any = None


@dataclasses.dataclass(frozen=True)
class Tokens:
    """A function of integers alone: indices, masks."""


@dataclasses.dataclass(frozen=True)
class Broken:
    """What has no correlation that the theory knows, and why."""

    why: str


@dataclasses.dataclass(frozen=True, eq=False)
class Root:
    """What leaves a contraction or a sum.

    Attributes:
      node: its correlation in the `Architecture`.
      power: its second moment, where that of the inputs is one.
    """

    node: int
    power: float = 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class Signal:
    """A function of the entries of one root.

    Attributes:
      root: the root.
      scale: by which number it is multiplied, if it is that alone (and shifted).
      bent: where it became more than that, or None.
    """

    root: Root
    scale: float = 1.0
    bent: str | None = None


Value = Known | Tokens | Broken | Signal


@dataclasses.dataclass
class Reader:
    """Runs equations on what is known of correlations.

    Attributes:
      network: grows while it runs.
      off_balance: what is wrong with the input of a nonlinear layer, by its number in the network.
    """

    network: Architecture = dataclasses.field(default_factory=Architecture)
    off_balance: dict[int, str] = dataclasses.field(default_factory=dict)
    _places: list[str] = dataclasses.field(default_factory=lambda: ["at an unknown place"])
    _layers: dict[Signal, int] = dataclasses.field(default_factory=dict)

    def settled(self, signal: Signal) -> Root:
        """The signal as it enters a contraction or a sum, a root of its own."""
        root = signal.root
        if signal.bent is None:
            return Root(root.node, root.power * signal.scale**2)
        if signal not in self._layers:  # else it is read elsewhere too
            layer = self._layers[signal] = self.network.layer(root.node)
            if abs(root.power - 1) > TOLERANCE:
                self.off_balance[layer] = f"{root.power:.4g} at {signal.bent}"
        return Root(self._layers[signal])

    def inner(self, jaxpr: Any, args: Sequence[Value], consts: Sequence[Value] = ()) -> list[Value]:
        """The results of a jaxpr."""
        jaxpr, held = opened(jaxpr)
        env: dict[Any, Value] = dict(zip(jaxpr.invars, args, strict=True))
        env.update(zip(jaxpr.constvars, [Known(c) for c in held] or consts, strict=True))
        fed = _fed(jaxpr)

        def read(atom: Any) -> Value:
            return Known(atom.val) if isinstance(atom, Literal) else env[atom]

        for eqn in jaxpr.eqns:
            self._places.append(source_of(eqn) or self._places[-1])
            outs = self.equation(eqn, [read(v) for v in eqn.invars])
            self._places.pop()
            for var, out in zip(eqn.outvars, outs, strict=True):
                # An activation's output that a layer reads is a signal, not a part of some longer activation.
                whole = isinstance(out, Signal) and out.bent is not None and var in fed
                env[var] = Signal(self.settled(out)) if whole else out  # type: ignore[arg-type]
        return [read(v) for v in jaxpr.outvars]

    def equation(self, eqn: Any, ins: list[Value]) -> Sequence[Value]:
        """The results of one equation."""
        kind, count = eqn.primitive.name, len(eqn.outvars)
        if kind == "scan":
            return self.scan(eqn, ins)
        if kind in CONTROL and kind not in ("while", "cond", "shard_map"):
            return self.inner(called(eqn), ins)
        if kind == "optimization_barrier":
            return ins
        if all(isinstance(x, Known) for x in ins):
            return _computed(eqn, ins)
        if broken := [x for x in ins if isinstance(x, Broken)]:
            return [broken[0]] * count
        signals = [x for x in ins if isinstance(x, Signal)]
        where = f"`{kind}` ({self._places[-1]})"
        if kind in CONTRACTIONS or (kind == "gather" and isinstance(ins[0], Known)):
            return [self.contraction(signals, where)] * count
        if not signals:
            return [Tokens()] * count
        return [self.first_order(eqn, ins, signals, where) for _ in range(count)]

    def contraction(self, signals: list[Signal], where: str) -> Value:
        """A layer with weights, or a lookup."""
        if len(signals) > 1:
            return Broken(f"{where} multiplies two signals")
        return Signal(self.settled(signals[0]) if signals else Root(0))

    def first_order(self, eqn: Any, ins: list[Value], signals: list[Signal], where: str) -> Value:
        """Any other function of signals."""
        kind = eqn.primitive.name
        if kind in SAME or kind in MOVED:
            return signals[0]
        if kind == "neg":
            return dataclasses.replace(signals[0], scale=-signals[0].scale)
        if kind in PICKED:
            return Signal(self.settled(signals[0]))
        if kind in SUMMED:
            root, aval = self.settled(signals[0]), eqn.invars[0].aval
            window = eqn.params.get("window_dimensions") or [aval.shape[a] for a in eqn.params["axes"]]
            return Signal(Root(root.node, root.power * math.prod(window) ** 2))
        if kind == "concatenate":
            return self.together(ins, [v.aval.size for v in eqn.invars], where)
        if kind == "select_n" and len(signals) == 1 and not isinstance(ins[0], Signal):
            return signals[0]
        if not is_elementwise(eqn):
            return Broken(f"{where} has no rule")
        if any(x.root is not signals[0].root for x in signals):
            if kind not in LINEAR:
                return Broken(f"{where} joins two signals otherwise than by a sum")
            return self.sum([self.settled(x) for x in signals])
        return _entrywise(kind, ins, signals, where)

    def sum(self, roots: Sequence[Root], sizes: Sequence[float] | None = None) -> Signal:
        """A sum of independent signals; with sizes, signals side by side."""
        powers = [r.power * size for r, size in zip(roots, sizes or [1.0] * len(roots), strict=True)]
        node = self.network.mean([r.node for r in roots], powers)
        return Signal(Root(node, sum(powers) / (sum(sizes) if sizes else 1)))

    def together(self, values: Sequence[Value], sizes: Sequence[float], where: str) -> Value:
        """Signals side by side."""
        if not all(isinstance(x, Signal) for x in values):
            return Broken(f"{where} puts a constant beside a signal")
        return self.sum([self.settled(x) for x in values if isinstance(x, Signal)], sizes)

    def scan(self, eqn: Any, ins: list[Value]) -> list[Value]:
        """A loop, step by step."""
        num_consts, num_carries = scan_arity(eqn)
        ins = [Signal(self.settled(x)) if isinstance(x, Signal) else x for x in ins]
        consts, xs = ins[:num_consts], ins[num_consts + num_carries :]
        carry, steps = ins[num_consts : num_consts + num_carries], []
        if not eqn.params["length"]:
            return [*carry, *[Known()] * (len(eqn.outvars) - num_carries)]
        for step in range(eqn.params["length"]):
            outs = self.inner(eqn.params["jaxpr"], [*consts, *carry, *(_unstacked(x, step) for x in xs)])
            carry = [Signal(self.settled(x)) if isinstance(x, Signal) else x for x in outs[:num_carries]]
            steps.append(outs[num_carries:])
        where = f"`scan` ({self._places[-1]})"
        return [*carry, *(self.stacked(each, where) for each in zip(*steps, strict=True))]

    def stacked(self, values: Sequence[Value], where: str) -> Value:
        """The results of all steps."""
        if any(isinstance(x, Signal) for x in values):
            broken = [x for x in values if isinstance(x, Broken)]
            return broken[0] if broken else self.together(values, [1.0] * len(values), where)
        return values[0] if isinstance(values[0], (Broken, Tokens)) else Known()


def _entrywise(kind: str, ins: list[Value], signals: list[Signal], where: str) -> Value:
    """A function of the entries of one root."""
    first = signals[0]
    bent = next((x.bent for x in signals if x.bent), None)
    others = [x for x in ins if not isinstance(x, Signal)]
    if kind in LINEAR:
        signs = [1.0, float(LINEAR[kind])]
        scale = sum(s * x.scale for s, x in zip(signs, ins, strict=True) if isinstance(x, Signal))
        return dataclasses.replace(first, scale=scale, bent=bent)
    if kind in ("mul", "div") and others and isinstance(ins[0] if kind == "div" else first, Signal):
        factor = others[0].value if isinstance(others[0], Known) else None
        if factor is None:
            return Broken(f"{where} multiplies by numbers that are not given")
        rms = float(np.sqrt(np.mean(np.square(np.abs(np.asarray(factor, np.float64))))))
        scale = first.scale * (rms if kind == "mul" else 1 / rms)
        if bent is None and abs(first.root.power - 1) > TOLERANCE:  # the weight of a sum, or of a mean
            return Signal(Root(first.root.node, first.root.power * scale**2))
        return dataclasses.replace(first, scale=scale)
    return dataclasses.replace(first, bent=bent or where)


def _computed(eqn: Any, ins: Sequence[Any]) -> list[Value]:
    """The results of an equation that no input has a part in."""
    given = all(x.value is not None for x in ins)
    small = all(v.aval.size <= MOST_ENTRIES for v in eqn.outvars)
    if not given or not small or eqn.primitive.name in CONTROL:
        return [Known()] * len(eqn.outvars)
    outs = bind(eqn, [x.value for x in ins])
    return [Known(x) for x in (outs if isinstance(outs, (list, tuple)) else [outs])]


def _unstacked(x: Value, step: int) -> Value:
    return Known(x.value[step]) if isinstance(x, Known) and x.value is not None else x


def _fed(jaxpr: Any) -> set[Any]:
    """The variables that a contraction reads, as they are or moved."""
    fed: set[Any] = set()
    for eqn in reversed(jaxpr.eqns):
        kind = eqn.primitive.name
        if kind in CONTRACTIONS:
            read = list(eqn.invars)
        elif kind in SAME or kind in MOVED or kind in PICKED or kind == "neg":
            read = eqn.invars[:1] if not fed.isdisjoint(eqn.outvars) else []
        elif kind == "scan":
            read = list(eqn.invars)
        elif kind in CONTROL and kind not in ("while", "cond", "shard_map"):
            inside, _ = opened(called(eqn))
            below = _fed(inside)
            read = [v for v, own in zip(eqn.invars, inside.invars, strict=True) if own in below]
        else:
            read = []
        fed.update(v for v in read if not isinstance(v, Literal))
    return fed


def is_floating(x: Any) -> bool:
    """Whether an input is a signal by itself."""
    return jnp.issubdtype(jax.typeof(x).dtype if not hasattr(x, "dtype") else x.dtype, jnp.inexact)
