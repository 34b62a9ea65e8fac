"""One weight that meets several signals, as in siamese networks: what the sums have in common.

Of `y₁ = x₁ W` and `y₂ = x₂ W` what differs alike, `l`, is correlated as the signals are: by the polarization
identity `4 Cov_l[y₁, y₂] = Var_l[(x₁ + x₂) W] - Var_l[(x₁ - x₂) W]`. The same holds of what comes back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jinit.signals.laws.arrays import is_traced
from jinit.signals.laws.as_laws import as_law
from jinit.signals.laws.coarse import coarser
from jinit.signals.laws.grids import grid_of
from jinit.signals.laws.law import Law, mean_square, normal_nodes, two_moments
from jinit.signals.laws.levels import Level
from jinit.signals.laws.pointwise import TIDY, pointwise
from jinit.signals.laws.roots import PLACE
from jinit.signals.laws.splitting import linear_in, split
from jinit.signals.laws.values import Held, Value

# Of a correlation: signals of less have next to nothing in common.
LEAST = 0.02
# Signals that meet one weight, of which any two are set side by side, at most.
MOST = 8

Contract = Callable[[Value, Hashable], Any]


@dataclasses.dataclass
class Twins:
    """By weight, and how it is met, the signals that met it and the laws of their sums."""

    known: dict[Hashable, list[tuple[Value, Law]]] = dataclasses.field(default_factory=dict)

    def contracted(self, eqn: Any, ins: list[Value], weight: int, name: Hashable, contract: Contract) -> Any:
        """The law of a contraction of a weight and a signal, by what that has in common with one before it.

        `contract` gives the law of any signal's, by a name.
        """
        signal, key = ins[1 - weight], _key(eqn, ins[weight], weight)
        before = self.known.setdefault(key, []) if key is not None else []
        if (same := next((y for x, y in before if _is_same(signal, x)), None)) is not None:
            return same
        out = contract(signal, name)
        if not isinstance(out, Law) or is_traced(out.nodes):
            return out
        found = [(_correlation(signal, x, name), k) for k, (x, _) in enumerate(before)]
        share, k = max(found, key=lambda pair: abs(pair[0]), default=(0.0, 0))
        if abs(share) > LEAST:
            other, sums = before[k]
            both = [contract(_plus(signal, other, sign, name), (name, "twin", sign)) for sign in (1, -1)]
            if all(isinstance(x, Law) for x in both):
                out = _beside(out, sums, both[0], both[1], name)
                if grid_of([out]) > TIDY:  # functions of so many nodes are put on roots of their own
                    (out,) = coarser([out])
        if len(before) < MOST:
            before.append((signal, out))
        return out


def _key(eqn: Any, weight: Value, at: int) -> Hashable | None:
    """What tells a weight and how it is met; none if that is not known."""
    if isinstance(weight, Held):
        known = None if is_traced(weight.array) else (id(weight.array), weight.shape)
    elif isinstance(weight, Law):
        known = (
            None
            if is_traced(weight.nodes)
            else (weight.roots, weight.shape, np.asarray(weight.nodes).tobytes())
        )
    else:
        known = None
    how = tuple(sorted((k, str(v)) for k, v in eqn.params.items() if "sharding" not in k))
    return None if known is None else (eqn.primitive.name, how, at, known, eqn.outvars[0].aval.shape)


def _is_same(a: Value, b: Value) -> bool:
    if isinstance(a, Held) and isinstance(b, Held):
        return a.array is b.array and a.shape == b.shape
    return isinstance(a, Law) and isinstance(b, Law) and a.identity == b.identity


def _correlation(a: Value, b: Value, name: Hashable) -> float:
    """Of two signals, of which no means are subtracted; nothing if that is not known."""
    a, b = _of_one_kind(a, b, name)
    if isinstance(a, Held) and isinstance(b, Held):
        if is_traced(a.array) or is_traced(b.array) or not jnp.issubdtype(a.dtype, jnp.floating):
            return 0.0
        if a.shape != b.shape or 0 in a.shape:
            return 0.0
        x, y = (np.asarray(v.whole(), np.float64) for v in (a, b))
        found, sizes = np.mean(x * y), np.mean(x * x) * np.mean(y * y)
    elif isinstance(a, Law) and isinstance(b, Law) and not (is_traced(a.nodes) or is_traced(b.nodes)):
        if np.iscomplexobj(a.nodes) or a.shape != b.shape:
            return 0.0
        out = jax.ShapeDtypeStruct(a.shape, a.dtype)
        (product,) = pointwise(lambda x, y: [x * y], [a, b], [out], (name, "met"), "mul")
        found, sizes = float(two_moments(product)[0]), mean_square(a) * mean_square(b)
    else:
        return 0.0
    return float(found / np.sqrt(sizes)) if 0 < sizes < np.inf else 0.0


def _of_one_kind(a: Any, b: Any, name: Hashable) -> tuple[Any, Any]:
    """Two signals, one of them of a law if the other is."""
    if isinstance(a, Law) == isinstance(b, Law):
        return a, b
    return as_law(a, name), as_law(b, name)


def _plus(a: Any, b: Any, sign: int, name: Hashable) -> Value:
    a, b = _of_one_kind(a, b, name)
    if isinstance(a, Held):
        return Held(a.whole() + sign * b.whole(), a.shape, a.source)
    out = jax.ShapeDtypeStruct(a.shape, a.dtype)
    kind = "add" if sign > 0 else "sub"
    return pointwise(lambda x, y: [x + sign * y], [a, b], [out], (name, "both", sign), kind)[0]


def _beside(law: Law, other: Law, plus: Law, minus: Law, name: Hashable) -> Law:
    """`law`, each of its normal roots as correlated with that of another law as the sums of both say."""
    more, less, theirs = (_variances(x) for x in (plus, minus, other))
    before = law.roots
    for level, (k, ours) in _variances(law).items():
        if level not in theirs or ours * theirs[level][1] <= 0:
            continue
        both = more.get(level, (0, 0.0))[1] - less.get(level, (0, 0.0))[1]
        correlation = float(np.clip(both / 4 / np.sqrt(ours * theirs[level][1]), -1, 1))
        if abs(correlation) > LEAST:
            i = law.roots.index(before[k])
            root, weights = other.roots[theirs[level][0]], other.weights[theirs[level][0]]
            sign = np.sign(correlation) * np.sign(linear_in(other, theirs[level][0])[1].sum())
            rest = dataclasses.replace(law.roots[i], name=(name, "rest", k))
            law = split(law, i, root, weights, rest, sign * np.abs(np.float32(correlation)))
    return law


def _variances(law: Law) -> dict[Level, tuple[int, float]]:
    """By level, where the one normal root of it stands, and the variance that it adds."""
    found: dict[Level, tuple[int, float]] = {}
    for i, root in enumerate(law.roots):
        if root.kind != PLACE and normal_nodes(law, i) is not None:
            slope = linear_in(law, i)[1]
            found.setdefault(Level.of(root), (i, mean_square(law, slope)))
    return found
