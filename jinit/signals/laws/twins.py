"""One weight that meets several signals, as in siamese networks: what the sums have in common.

Of `y₁ = x₁ W` and `y₂ = x₂ W` what differs alike, `l`, is correlated as the signals are: by polarization,
`2 Cov_l[y₁, y₂] = Var_l[(x₁ + x₂) W] - Var_l[x₁ W] - Var_l[x₂ W]`. The same holds of what comes back, and
where `x₂` was made of `y₁`, as in blocks that share their weights (Yang, *Tensor programs II*, 2020).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jinit._compat import bind
from jinit._typing import Array
from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.coarse import FEWER, as_coarse, coarser, name_of
from jinit.signals.laws.law import Law, mean_square, normal_nodes
from jinit.signals.laws.levels import Level
from jinit.signals.laws.pointwise import LIMIT, TIDY
from jinit.signals.laws.roots import PLACE, Root
from jinit.signals.laws.splitting import REST, linear_in, split
from jinit.signals.laws.transposes import Run, beside_made
from jinit.signals.laws.uses import RANK, How, Turned, Use, how_met, square_of
from jinit.signals.laws.values import Held, Value, is_weight

# Of a correlation: signals of less have next to nothing in common.
LEAST = 0.02
# Of the variance of what signals differ by: less is let go where grids are full.
SMALL = 0.02
# Signals that met a weight last that one is set beside, at most; roots that it has of others.
MOST, MOST_SHARED = 4, 2

# Equations whose results have the entries of their operands, in other places.
REARRANGED = ("concatenate", "transpose", "reshape", "squeeze", "expand_dims", "rev")

Contract = Callable[[Value, Hashable], Any]
Slopes = dict[Level, dict[Root, float]]


@dataclasses.dataclass
class Twins:
    """What weights met.

    Attributes:
      known: by how a weight is met, the signals that it met so.
      shared: names of the roots that several sums have.
      turned: weights that were transposed.
      sums: of signals, by which they are; kept with those, so that no others take their places.
      rearranged: signals whose entries are those of others, and by which equation of which; kept likewise.
    """

    known: dict[Hashable, list[Use]] = dataclasses.field(default_factory=dict)
    shared: set[Hashable] = dataclasses.field(default_factory=set)
    turned: Turned = dataclasses.field(default_factory=Turned)
    sums: dict[Hashable, tuple[Value, Value, Any]] = dataclasses.field(default_factory=dict)
    rearranged: dict[Hashable, tuple[Value, Any, list[Value]]] = dataclasses.field(default_factory=dict)

    def note(self, eqn: Any, ins: Sequence[Value], out: Value) -> None:
        """Remember of what arrays the entries of another are."""
        if eqn.primitive.name == "transpose" and is_weight(ins[0]):
            self.turned.note(out, ins[0], eqn.params["permutation"])
        elif any(isinstance(x, Law) for x in ins) and all(isinstance(x, (Law, Held)) for x in ins):
            self.rearranged[_identity(out)] = out, eqn, list(ins)

    def contracted(
        self, eqn: Any, ins: list[Value], weight: int, name: Hashable, contract: Contract, run: Run
    ) -> Any:
        """The law of a contraction of a weight and a signal, by what that has in common with one before it.

        `contract` gives the law of any signal's, by a name, and `run` that of a function.
        """
        signal, how = ins[1 - weight], how_met(eqn, ins[weight], weight, self.turned)
        before = self.known.setdefault(how, []) if how is not None else []
        same = [use.out for use in before if _identity(use.signal) == _identity(signal)]
        if same:
            return same[0]
        out = contract(signal, name)
        if how is None or not isinstance(out, Law) or is_traced(out.nodes):
            return out
        last = [use for use in before if _are_alike(use.signal, signal)][-MOST:]
        out = self._beside_others(out, signal, last, name, contract, run)
        out = dataclasses.replace(out, origin=(name, "met"))
        before.append(Use(how, signal, out))
        if isinstance(how, How):
            uses = [u for other, uses in self.known.items() if how.is_transposed(other) for u in uses]
            add = functools.partial(self._sum, run=run)
            out = beside_made(out, signal, how, ins[weight], uses, run, add, (name, "made"))
        return out

    def _beside_others(
        self, out: Law, signal: Value, before: Sequence[Use], name: Hashable, contract: Contract, run: Run
    ) -> Law:
        """What a contraction gives, by what it has in common with those of the same weight before it."""
        both = [self._sum(signal, use.signal, (name, "both", k), run) for k, use in enumerate(before)]
        alike = [k for k, use in enumerate(before) if abs(_correlation(signal, use.signal, both[k])) > LEAST]
        sums = [contract(both[k], (name, "twin", k)) for k in alike]
        if not sums or not all(isinstance(x, Law) for x in sums):
            return out
        others = as_coarse([before[k].out for k in alike])
        beside = _beside(out, others, sums, name)
        theirs = {name_of(r) for law in others for r in law.roots if r.kind != PLACE}
        self.shared |= set(map(name_of, beside.roots)) & theirs
        return beside

    def _sum(self, a: Value, b: Value, name: Hashable, run: Run) -> Any:
        """Of two signals, once whatever weights they meet; nothing if that is not known."""
        if not _are_alike(a, b):
            return None
        if isinstance(a, Held) and isinstance(b, Held):
            return Held(xp.asarray(a.whole() + b.whole()), a.shape, a.source)
        key = frozenset([_identity(a), _identity(b)])
        if key not in self.sums:
            self.sums[key] = a, b, self._sum_of_parts(a, b, name, run) or run(jnp.add, [a, b], name)
        return self.sums[key][-1]

    def _sum_of_parts(self, a: Value, b: Value, name: Hashable, run: Run) -> Any:
        """That of signals whose entries are those of others, rearranged alike, of which more is known."""
        ours, theirs = (self.rearranged.get(_identity(x)) for x in (a, b))
        if ours is None or theirs is None or _rearranging(*ours[1:]) != _rearranging(*theirs[1:]):
            return None
        pairs = zip(ours[-1], theirs[-1], strict=True)
        sums = [self._sum(x, y, (name, k), run) for k, (x, y) in enumerate(pairs)]
        eqn = ours[1]
        known = all(x is not None for x in sums)
        return run(lambda *parts: bind(eqn, list(parts))[0], sums, (name, "of")) if known else None


def _rearranging(eqn: Any, ins: Sequence[Value]) -> Hashable:
    """What tells how an equation puts entries in other places."""
    return eqn.primitive.name, str(eqn.params), tuple(x.shape for x in ins)  # type: ignore[union-attr]


def _identity(x: Value) -> Hashable:
    """What tells a signal from others, while it is kept."""
    return x.identity if isinstance(x, Law) else (id(x.array), x.shape) if isinstance(x, Held) else id(x)


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


def _are_alike(a: Value, b: Value) -> bool:
    """Whether the sum of two values is one of signals, or of gradients, that are known."""
    if not _is_known(a) or not _is_known(b):
        return False
    return a.shape == b.shape and _is_gradient(a) == _is_gradient(b)  # type: ignore[union-attr]


def _is_gradient(x: Value) -> bool:
    return isinstance(x, Law) and x.is_linear


class Share(NamedTuple):
    """What a normal root has of another one, times a number.

    `variance` is that of the law that comes of it.
    """

    level: Level
    root: Root
    other: Root
    weights: Array
    part: float
    variance: float


def _beside(law: Law, others: Sequence[Law], sums: Sequence[Law], name: Hashable) -> Law:
    """`law`, what it differs by on each level as alike to other laws as their sums with it say.

    On fewer nodes where those of others are too many, and but for the least of it where those are.
    """
    shares, left = _shares(law, others, sums)
    while shares and _grid_with(law, shares, REST) > TIDY and shares[-1].variance < SMALL * left:
        shares.pop()
    many = _grid_with(law, shares, REST) > TIDY
    if many:  # functions of so many nodes are put on roots of their own
        shares, _ = _shares(law, coarser(others), sums)
    while shares and _grid_with(law, shares, FEWER[REST]) > LIMIT:
        shares.pop()
    by_root: dict[Root, list[Share]] = {}
    before = law.roots
    for share in shares:
        by_root.setdefault(share.root, []).append(share)
    for found in by_root.values():
        law = _with_shared(law, found, (name, "rest", found[0].level))
    return coarser([law], but=before)[0] if many else law


def _shares(law: Law, others: Sequence[Law], sums: Sequence[Law]) -> tuple[list[Share], float]:
    """What a law has of the roots of others, that of most variance first; and by how little it differs.

    Those are sums of normals, `y = L z`. With covariances `c` of them a part `a z` is shared, `L a = c`.
    """
    ours, theirs, both = _slopes(law), [_slopes(x) for x in others], [_slopes(x) for x in sums]
    weights = {r: w for x in others for r, w in zip(x.roots, x.weights, strict=True)}
    left = min(_left(ours, x, y) for x, y in zip(theirs, both, strict=True))
    shares: list[Share] = []
    for level, mine in ours.items():
        root, own = next(iter(mine.items()))
        known = list(dict.fromkeys(r for x in theirs for r in x.get(level, {})))
        if not known or not own or _square(mine) < LEAST**2 * left:
            continue
        pairs = [(x.get(level, {}), y.get(level, {})) for x, y in zip(theirs, both, strict=True)]
        covariances = [(_square(y) - _square(mine) - _square(x)) / 2 for x, y in pairs]
        rows = [[x.get(r, 0.0) for r in known] for x, _ in pairs]
        parts = np.linalg.lstsq(np.array(rows), np.array(covariances), rcond=RANK)[0] / own
        parts = parts / max(1.0, float(np.linalg.norm(parts)))
        found = sorted(zip(known, parts.tolist(), strict=True), key=lambda pair: -abs(pair[1]))[:MOST_SHARED]
        shares += [Share(level, root, r, weights[r], a, (a * own) ** 2) for r, a in found if abs(a) >= LEAST]
    return sorted(shares, key=lambda share: -share.variance), left


def _grid_with(law: Law, shares: Sequence[Share], rest: int) -> int:
    """The number of nodes that a law has with these, and with so many at most for what is left of a root."""
    sizes = {r: w.size for r, w in zip(law.roots, law.weights, strict=True) if r.kind != PLACE}
    sizes |= {share.root: min(sizes[share.root], rest) for share in shares}
    return math.prod(sizes.values()) * math.prod(share.weights.size for share in shares)


def _with_shared(law: Law, shares: Sequence[Share], name: Hashable) -> Law:
    """`law`, a normal root of which is the sum of others, times numbers, and a rest."""
    left, root = 1.0, shares[0].root
    for k, share in enumerate(shares):
        i = law.roots.index(root)
        root = dataclasses.replace(root, name=(name, k))
        correlation = np.clip(share.part / math.sqrt(left), -1, 1)
        law = split(law, i, share.other, share.weights, root, xp.asarray(correlation, np.float32))
        left = max(left - share.part**2, 1e-6)
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
