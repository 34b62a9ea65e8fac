"""Entries beside a sum of few that has them, as in `x / Σ x²` or the gradient of `log Σ exp(x)`.

There the sum `s` of `n` independent entries `f` is one of them and a rest, `s = f + r`, where `r` is what the
others add up to, independent of `f`. A function of `s`, known at its nodes, is one of `f` and `r` between
these. The sum of gradients `g` of the same entries has a variance given a positive `s`, taken to be a power,

    E[Σ g² | s] = c s^b,  where  Cov(g² / s^b, s) = 0,

exactly in the gradient of a normalization. Of that the others have `r / s`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Hashable, Sequence

import jax
import numpy as np

from jinit.signals.laws.arrays import is_traced, xp
from jinit.signals.laws.averages import FEW, is_felt, with_real
from jinit.signals.laws.coarse import as_coarse, name_of
from jinit.signals.laws.grids import on_grid, spread
from jinit.signals.laws.law import Axes, Law, average, first_along, mean_square, plus_normal, squared, without
from jinit.signals.laws.parts import parts_by_reach
from jinit.signals.laws.positions import refined
from jinit.signals.laws.remainders import plus_remainder
from jinit.signals.laws.roots import COTANGENT, PLACE, SIGNAL, Root
from jinit.signals.laws.runs import copies_in
from jinit.signals.laws.smoothing import beside_averages

Fits = Callable[[Sequence[Law]], bool]

# Nodes for what the others add up to.
REST = 16
# Powers of a sum that a variance is taken to be at most as, and values of its logarithm to find it from.
MOST_POWER, BINS = 6.0, 400


@dataclasses.dataclass(frozen=True, eq=False)
class Sum:
    """What a sum was taken over.

    Attributes:
      law: of the entries.
      axes: along which they were added up.
      sums: their law.
      few: whether there are as few independent ones by the variances.
    """

    law: Law
    axes: Axes
    sums: Law
    few: bool

    @property
    def root(self) -> Root:
        """What differs from sum to sum."""
        return self.sums.roots[-1]

    def is_at(self, root: Root, shape: Sequence[int]) -> bool:
        """Whether a root of these sums, or of the rest of each, stands so in an array of this shape."""
        return root.axes == self.root.axes and tuple(shape) == self.law.shape

    def is_beside(self, other: Sum) -> bool:
        """Whether both are taken over the same axes."""
        return self.axes == other.axes and self.law.shape == other.law.shape

    @property
    def rest_name(self) -> Hashable:
        """The name of what the others differ by."""
        return self.root.name, "rest"

    @functools.cached_property
    def own_and_rest(self) -> tuple[Law, Law]:
        """Of a sum, what an entry adds, and all that are alike to it, and the others."""
        law, root = self.law, self.root
        varying = [i for i, r in enumerate(law.roots) if r.axes & self.axes]
        counts = {i: float(law.shape[i]) for i in self.axes}
        parts = [(copies_in(r, counts, law.shape), x) for r, x in parts_by_reach(law, varying) if r]
        n = math.prod(counts.values())
        variances = [average(law, varying, squared(x)) for _, x in parts]
        alike = n / parts[int(np.argmax([np.mean(v) for v in variances]))][0]
        own = law.nodes * xp.asarray(alike, law.nodes.dtype)
        left = xp.zeros((), law.nodes.dtype)
        for (copies, x), v in zip(parts, variances, strict=True):
            own = own + x * xp.asarray(n / copies - alike, x.dtype)
            left = left + v * xp.asarray(n**2 / copies * (1 - 1 / copies), v.dtype)
        mean = average(law, varying) * xp.asarray(n - alike, law.nodes.dtype)
        rest = dataclasses.replace(without(law, varying, mean), shape=self.sums.shape)
        others = dataclasses.replace(root, name=self.rest_name, average=False, terms=(), summed=self)
        left = xp.squeeze(left, tuple(varying))
        return dataclasses.replace(law, nodes=own), plus_remainder(rest, law, left, others, REST)

    def parted(self, fits: Fits, beside: Sum | None = None) -> Law | None:
        """The sum as a function of an entry and of the rest; of a gradient, given that of this signal."""
        own, rest = self.own_and_rest
        if beside is not None:
            rest = _given(self, beside, fits) or rest
        elif own.is_linear and any(r.kind == SIGNAL and r.fixed for r in own.roots):
            rest = _of_the_others(self)
        own, rest = refined([own, rest])
        if not fits([own, rest]):
            return None
        out = jax.ShapeDtypeStruct(own.shape, own.dtype)
        (found,) = on_grid(lambda a, b: [a + b], [own, rest], [out])
        return found


def _given(gradient: Sum, signal: Sum, fits: Fits) -> Law | None:
    """The rest of a sum of gradients, of a variance that depends on the positive sum of a signal."""
    whole, given, law = signal.parted(fits), signal.own_and_rest[1], gradient.law
    back = [i for i, r in enumerate(law.roots) if r.kind == COTANGENT]
    square = without(law, back, average(law, back, squared(law.nodes)))
    laws = None if whole is None else as_coarse(refined([whole, given, square]))
    if laws is None or not fits(laws):
        return None
    found = on_grid(lambda *x: x, laws, [jax.ShapeDtypeStruct(law.shape, np.float32)] * 3)
    s, others, g = (np.asarray(x.nodes, np.float64) for x in found)
    if not (np.all(s > 0) and np.all(others > 0)):
        return None
    mass = functools.reduce(np.multiply.outer, [np.asarray(w, np.float64) for w in found[0].weights])
    power = s ** _power(np.log(s), g, mass)
    variance = _variance(gradient.sums) * power / np.sum(mass * power) * others / s
    still = dataclasses.replace(found[0], nodes=np.zeros_like(found[0].nodes))
    return plus_normal(still, variance, gradient.own_and_rest[1].roots[-1], 2)


def _of_the_others(gradient: Sum) -> Law:
    """The rest of a sum of gradients times what was normalised, whose squares always add up to the same."""
    own, rest = gradient.own_and_rest
    back = [i for i, r in enumerate(own.roots) if r.kind == COTANGENT]
    square = average(own, back, squared(own.nodes))
    variance = xp.maximum(_variance(gradient.sums) - square, xp.zeros((), square.dtype))
    still = without(own, back, xp.zeros_like(square))
    return plus_normal(still, xp.squeeze(variance, tuple(back)), rest.roots[-1], 2)


def _variance(sums: Law) -> float:
    """What sums differ by, on average over what they share."""
    return mean_square(sums, sums.nodes - average(sums, [len(sums.roots) - 1]))


def _power(log: np.ndarray, square: np.ndarray, mass: np.ndarray) -> float:
    """`b`, if `E[g² | s]` is as `s^b`: then `g² / s^b` is uncorrelated with `s`."""
    from scipy.optimize import brentq  # it takes long to import, and comes with JAX

    bins = np.linspace(log.min(), log.max(), BINS)
    at = np.searchsorted(bins, log.ravel()).clip(0, BINS - 1)
    has, of_square = (np.bincount(at, x.ravel(), BINS) for x in (mass, mass * square))
    size = np.exp(bins - bins[-1])
    mean = has @ size

    def excess(power: float) -> float:
        weights = of_square * np.exp(-power * (bins - bins @ has))
        return float(weights @ size / weights.sum() - mean)

    if not of_square.sum() > 0 or excess(-MOST_POWER) * excess(MOST_POWER) >= 0:
        return 0.0
    return brentq(excess, -MOST_POWER, MOST_POWER)  # type: ignore[return-value]


def with_entries(law: Law, axes: Axes, sums: Law) -> Law:
    """`sums` along these axes, known to be of its entries."""
    if is_traced(law.nodes) or np.iscomplexobj(law.nodes):
        return sums
    varying = [i for i, r in enumerate(law.roots) if r.axes & axes]
    entries = mean_square(law, law.nodes - average(law, varying))
    few = math.prod(law.shape[i] for i in axes) ** 2 * entries <= FEW * _variance(sums)
    root = dataclasses.replace(sums.roots[-1], summed=Sum(law, axes, sums, few))
    return dataclasses.replace(sums, roots=(*sums.roots[:-1], root))


def beside_sums(laws: Sequence[Law], shape: Sequence[int], fits: Fits) -> list[Law]:
    """The laws, sums of few as an entry and the rest, where they meet their entries.

    But for what takes grids that do not fit: there they count as independent, from then on.
    """
    for root, whole in _sums_of(laws, shape):
        ours = [with_real(law, root) for law in laws]
        felt = any(root in law.roots and is_felt(law, law.roots.index(root), shape) for law in ours)
        if not felt or not _meets(laws, whole) or (new := _parted_beside(whole, laws, shape, fits)) is None:
            continue
        if fits([new, *(_without(law, root) for law in ours)]):
            new, sums, *ours = as_coarse(refined([new, whole.sums, *ours]))
            parted = [_as_parted(law, root, sums, new, whole.axes) for law in ours]
            laws = [x for x in parted if x is not None] if None not in parted else laws
    return list(laws)


def _sums_of(laws: Sequence[Law], shape: Sequence[int]) -> list[tuple[Root, Sum]]:
    """The roots of known sums, as real ones, those of signals first."""
    roots = [r for law in laws for r in law.roots if r.summed is not None and r.summed.is_at(r, shape)]
    real = {dataclasses.replace(r, average=False): r.summed for r in roots if r.name == r.summed.root.name}
    return sorted(real.items(), key=lambda pair: pair[0].kind == COTANGENT)


def _meets(laws: Sequence[Law], whole: Sum) -> bool:
    """Whether some law is of what differs along the entries of a sum, or of the rest beside one."""
    moving = {(r.name, r.axes) for r in whole.law.roots if r.axes & whole.axes and r.kind != PLACE}
    moving.add((whole.rest_name, whole.root.axes))
    return not moving.isdisjoint((name_of(r), r.axes) for law in laws for r in law.roots)


def _parted_beside(whole: Sum, laws: Sequence[Law], shape: Sequence[int], fits: Fits) -> Law | None:
    """A sum as that of an entry and the rest, given what else is known beside it."""
    known = [(r, r.summed) for law in laws for r in law.roots if r.summed is not None]
    signals = [x for r, x in known if x.is_at(r, shape) and x.root.kind != COTANGENT and x.is_beside(whole)]
    beside = signals[0] if whole.root.kind == COTANGENT and signals else None
    new = whole.parted(fits, beside)
    return None if new is None else beside_averages([new, *laws], shape, fits)[0]


def _without(law: Law, root: Root) -> Law:
    gone = [i for i, r in enumerate(law.roots) if r == root]
    return without(law, gone, first_along(law, gone))


def _as_parted(law: Law, root: Root, sums: Law, new: Law, axes: Axes) -> Law | None:
    """A function of a sum in the roots of `new`, an entry and the rest; nothing where that is not known."""
    if root not in law.roots:
        return law
    shared = [*sums.roots[:-1], *(r for r in law.roots if r in new.roots and r not in sums.roots)]
    mine = {(name_of(r), r.axes) for r in law.roots if r not in shared}
    finite = not is_traced(law.nodes) and np.all(np.isfinite(law.nodes))
    if not finite or mine & {(name_of(r), r.axes) for r in new.roots}:
        return None
    weights = {r: w for x in (law, sums, new) for r, w in zip(x.roots, x.weights, strict=True)}
    free = [r for r in law.roots if r not in shared and r != root]
    own = [r for r in new.roots if r not in shared]

    def cells(x: Law, roots: Sequence[Root]) -> np.ndarray:
        nodes = np.asarray(spread(x, [*shared, *roots]), np.float64)
        count = [weights[r].size for r in shared]
        return np.broadcast_to(nodes, (*count, *nodes.shape[len(count) :])).reshape(math.prod(count), -1)

    num = weights[root].size
    known, at = cells(sums, [sums.roots[-1]]), cells(new, own)
    values = cells(law, [*free, root]).reshape(len(known), -1, num)
    between = _of_two if root.kind == COTANGENT else _between
    found = between(known, values, at)
    roots = (*shared, *free, *own)
    nodes = found.reshape([weights[r].size for r in roots])
    nodes = nodes if np.issubdtype(law.nodes.dtype, np.floating) else np.rint(nodes)
    nodes = xp.asarray(nodes, law.nodes.dtype)
    out = Law(nodes, tuple(weights[r] for r in roots), roots, new.shape, law.dtype)
    return dataclasses.replace(out, fixed_sums=law.fixed_sums, alike=law.alike | axes)


def _of_two(known: np.ndarray, values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """`values`, of each cell and function, on two nodes that are `known` by cell, at others: on a line."""
    apart = np.maximum(known[:, 1] - known[:, 0], np.finfo(np.float32).tiny)
    slope = (values[..., 1] - values[..., 0]) / apart[:, None]
    return values.mean(-1)[..., None] + slope[..., None] * (at - known.mean(-1)[:, None])[:, None]


def _between(known: np.ndarray, values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The same on more nodes: between them."""
    from scipy.interpolate import PchipInterpolator  # it takes long to import, and comes with JAX

    if np.all(known > 0) and np.all(at > 0):
        known, at = np.log(known), np.log(at)
    found = []
    for nodes, rows, others in zip(known, values, at, strict=True):
        nodes, first = np.unique(nodes, return_index=True)
        if nodes.size == 1:
            found.append(np.broadcast_to(rows[:, first], (len(rows), others.size)))
            continue
        curve = PchipInterpolator(nodes, rows[:, first], axis=1)
        found.append(curve(np.clip(others, nodes[0], nodes[-1])))
    return np.stack(found)
