"""One weight that meets several signals, as in siamese networks: what the sums have in common.

Of `y₁ = x₁ W` and `y₂ = x₂ W` what differs alike, `l`, is correlated as the signals are: by polarization,
`2 Cov_l[y₁, y₂] = Var_l[(x₁ + x₂) W] - Var_l[x₁ W] - Var_l[x₂ W]`. The same holds of what comes back, and
where `x₂` was made of `y₁`, as in blocks that share their weights (Yang, *Tensor programs II*, 2020).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jinit._typing import Array
from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.coarse import as_coarse, coarser, name_of
from jinit.signals.laws.grids import grid_of
from jinit.signals.laws.law import Law, mean_square, normal_nodes
from jinit.signals.laws.levels import Level
from jinit.signals.laws.pointwise import LIMIT, TIDY
from jinit.signals.laws.roots import PLACE, Root
from jinit.signals.laws.splitting import linear_in, split
from jinit.signals.laws.transposes import Run, beside_made
from jinit.signals.laws.uses import RANK, How, Turned, Use, how_met, square_of
from jinit.signals.laws.values import Held, Value

# Of a correlation: signals of less have next to nothing in common.
LEAST = 0.02
# Signals that meet one weight, of which any two are set side by side, at most; roots that one has of others.
MOST, MOST_SHARED = 8, 2

Contract = Callable[[Value, Hashable], Any]
Slopes = dict[Level, dict[Root, float]]


@dataclasses.dataclass
class Twins:
    """What weights met.

    Attributes:
      known: by how a weight is met, the signals that it met so.
      shared: names of the roots that several sums have.
      turned: weights that were transposed.
    """

    known: dict[Hashable, list[Use]] = dataclasses.field(default_factory=dict)
    shared: set[Hashable] = dataclasses.field(default_factory=set)
    turned: Turned = dataclasses.field(default_factory=Turned)

    def contracted(
        self, eqn: Any, ins: list[Value], weight: int, name: Hashable, contract: Contract, run: Run
    ) -> Any:
        """The law of a contraction of a weight and a signal, by what that has in common with one before it.

        `contract` gives the law of any signal's, by a name, and `run` that of a function.
        """
        signal, how = ins[1 - weight], how_met(eqn, ins[weight], weight, self.turned)
        before = self.known.setdefault(how, []) if how is not None else []
        if (same := next((use.out for use in before if _is_same(signal, use.signal)), None)) is not None:
            return same
        out = contract(signal, name)
        if how is None or not isinstance(out, Law) or is_traced(out.nodes):
            return out
        out = dataclasses.replace(
            self._beside_others(out, signal, before, name, contract, run), origin=(name, "met")
        )
        if len(before) < MOST:
            before.append(Use(how, signal, out))
        if isinstance(how, How):
            uses = [u for other, uses in self.known.items() if how.is_transposed(other) for u in uses]
            out = beside_made(out, signal, how, ins[weight], uses, run, (name, "made"))
        return out

    def _beside_others(
        self, out: Law, signal: Value, before: Sequence[Use], name: Hashable, contract: Contract, run: Run
    ) -> Law:
        """What a contraction gives, by what it has in common with those of the same weight before it."""
        both = [_sum(signal, use.signal, (name, "both", k), run) for k, use in enumerate(before)]
        alike = [k for k, use in enumerate(before) if abs(_correlation(signal, use.signal, both[k])) > LEAST]
        sums = [contract(both[k], (name, "twin", k)) for k in alike]
        if not sums or not all(isinstance(x, Law) for x in sums):
            return out
        others = as_coarse([before[k].out for k in alike])
        beside = _beside(out, others, sums, name)
        if grid_of([beside]) > TIDY:  # functions of so many nodes are put on roots of their own
            (beside,) = coarser([beside], but=out.roots)
        if grid_of([beside]) > LIMIT:
            return out
        theirs = {name_of(r) for law in others for r in law.roots if r.kind != PLACE}
        self.shared |= set(map(name_of, beside.roots)) & theirs
        return beside


def _is_same(a: Value, b: Value) -> bool:
    if isinstance(a, Held) and isinstance(b, Held):
        return a.array is b.array and a.shape == b.shape
    return isinstance(a, Law) and isinstance(b, Law) and a.identity == b.identity


def _sum(a: Value, b: Value, name: Hashable, run: Run) -> Any:
    """Of two signals; nothing if that is not known."""
    if not _is_known(a) or not _is_known(b) or a.shape != b.shape or _is_gradient(a) != _is_gradient(b):  # type: ignore[union-attr]
        return None
    if isinstance(a, Held) and isinstance(b, Held):
        return Held(xp.asarray(a.whole() + b.whole()), a.shape, a.source)
    return run(jnp.add, [a, b], name)


def _correlation(a: Value, b: Value, both: Any) -> float:
    """Of two signals, of which no means are subtracted, by their sum."""
    if both is None or not _is_known(both):
        return 0.0
    whole, *sizes = map(square_of, (both, a, b))
    found = 0 < math.prod(sizes) < np.inf
    return (whole - sum(sizes)) / 2 / math.sqrt(math.prod(sizes)) if found else 0.0


def _is_known(x: Value) -> bool:
    """Whether it is a signal of real numbers whose values, or those of its law, are known."""
    if not isinstance(x, (Law, Held)) or 0 in x.shape or not jnp.issubdtype(x.dtype, jnp.floating):
        return False
    return not is_traced(x.nodes if isinstance(x, Law) else x.array)


def _is_gradient(x: Value) -> bool:
    return isinstance(x, Law) and x.is_linear


def _beside(law: Law, others: Sequence[Law], sums: Sequence[Law], name: Hashable) -> Law:
    """`law`, what it differs by on each level as alike to other laws as their sums with it say.

    Those are sums of normals, `y = L z`. With covariances `c` of them a part `a z` is shared, `L a = c`.
    """
    ours, theirs, both = _slopes(law), [_slopes(x) for x in others], [_slopes(x) for x in sums]
    weights = {r: w for x in others for r, w in zip(x.roots, x.weights, strict=True)}
    least = LEAST**2 * min(_left(ours, x, y) for x, y in zip(theirs, both, strict=True))
    for level, mine in ours.items():
        root, own = next(iter(mine.items()))
        known = list(dict.fromkeys(r for x in theirs for r in x.get(level, {})))
        if not known or not own or _square(mine) < least:
            continue
        pairs = [(x.get(level, {}), y.get(level, {})) for x, y in zip(theirs, both, strict=True)]
        covariances = [(_square(y) - _square(mine) - _square(x)) / 2 for x, y in pairs]
        rows = [[x.get(r, 0.0) for r in known] for x, _ in pairs]
        parts = np.linalg.lstsq(np.array(rows), np.array(covariances), rcond=RANK)[0] / own
        parts = parts / max(1.0, float(np.linalg.norm(parts)))
        shared = {r: (weights[r], float(part)) for r, part in zip(known, parts, strict=True)}
        law = _with_shared(law, root, shared, (name, "rest", level))
    return law


def _with_shared(law: Law, root: Root, shared: Mapping[Root, tuple[Array, float]], name: Hashable) -> Law:
    """`law`, a normal root of which is the sum of others, times numbers, and a rest."""
    left = 1.0
    largest = sorted(shared.items(), key=lambda item: -abs(item[1][1]))[:MOST_SHARED]
    for k, (other, (weights, part)) in enumerate(largest):
        if abs(part) < LEAST:
            break
        i = law.roots.index(root)
        root = dataclasses.replace(root, name=(name, k))
        correlation = np.clip(part / math.sqrt(left), -1, 1)
        law = split(law, i, other, weights, root, xp.asarray(correlation, np.float32))
        left = max(left - part**2, 1e-6)
    return law


def _square(slopes: dict[Root, float]) -> float:
    return sum(x * x for x in slopes.values())


def _left(a: Slopes, b: Slopes, both: Slopes) -> float:
    """Half the variance of the sum or the difference of two laws, whichever is less, by that of the sum."""
    ours, theirs, whole = (sum(map(_square, x.values())) for x in (a, b, both))
    return max(min(whole, 2 * (ours + theirs) - whole), 0.0) / 2


def _slopes(law: Law) -> Slopes:
    """By level, of each normal root what it is multiplied by, with its sign."""
    found: Slopes = {}
    for i, root in enumerate(law.roots):
        if root.kind != PLACE and normal_nodes(law, i) is not None:
            slope = linear_in(law, i)[1]
            size = math.copysign(math.sqrt(mean_square(law, slope)), float(slope.sum()))
            found.setdefault(Level.of(root), {})[root] = size
    return found
