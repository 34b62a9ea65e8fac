"""Moments by level of sums and products of gradients: against the parts of what comes of their nodes."""

from __future__ import annotations

import operator

import jax
import numpy as np
import pytest

from jinit.signals.laws import moments, places
from jinit.signals.laws.grids import on_grid
from jinit.signals.laws.law import Law, average, squared
from jinit.signals.laws.levels import Level, levels_of
from jinit.signals.laws.roots import COTANGENT, PLACE, Places, Root

SHAPE = (4, 16, 32)
PLACED = Root(PLACE, frozenset([1]), PLACE, places=Places((0,) * 4 + (1,) * 12, ((1.0,), (2.0,))))
TOKEN = Root("of a token", frozenset([0, 1]))
ALIKE = Root("alike from token to token", frozenset([0, 1, 2]), runs=((0, 2.5), (1, 3.0)))
FEATURE = Root("of a feature", frozenset([2]))
BACK = Root("back", frozenset([0, 1, 2]), COTANGENT, runs=((0, 2.0), (1, 4.0)))
SUM = Root("sum back", frozenset([0, 1]), COTANGENT)


def law(roots: tuple[Root, ...], seed: int) -> Law:
    """Any function of these roots, linear in the first of those that are cotangents."""
    rng = np.random.default_rng(seed)
    sizes = [2 if r.kind in (COTANGENT, PLACE) else 3 for r in roots]
    nodes = rng.normal(size=sizes)
    back = [i for i, r in enumerate(roots) if r.kind == COTANGENT]
    if back:
        slope = nodes.take([0], axis=back[0])
        nodes = np.concatenate([-slope, slope], axis=back[0])
    weights = tuple(np.full(n, 1 / n) for n in sizes)
    weights = tuple(w if r.kind != PLACE else r.places.weights() for w, r in zip(weights, roots, strict=True))  # type: ignore[union-attr]
    return Law(nodes, weights, roots, SHAPE, np.dtype("float64"))


def test_what_is_alike_times_what_is_not_is_not_alike():
    """As in the gradient of a normalization, `x_j Σ_i x_i g_i / n`, of signals that are alike.

    It had their runs, and weight gradients of OPT were 1.33 times too large.
    """
    x = law((ALIKE, SUM), 0)
    x = Law(x.nodes - average(x, [0]), x.weights, x.roots, x.shape, x.dtype)
    levels = (Level(TOKEN.axes), Level(ALIKE.axes, frozenset([0, 1])), Level(ALIKE.axes))
    found = moments.by_parts(x, levels).variances
    np.testing.assert_allclose(found[:2], 0, atol=1e-12)
    np.testing.assert_allclose(found[2], average(x, of=squared(x.nodes)).reshape(()))


PAIRS = {
    "of other roots": ((BACK, TOKEN), (FEATURE, ALIKE)),
    "at places": ((PLACED, BACK, TOKEN), (ALIKE, FEATURE, PLACED)),
    "of one root": ((BACK, TOKEN, ALIKE), (SUM, ALIKE, FEATURE)),
    "of one root at places": ((BACK, TOKEN, PLACED, ALIKE), (PLACED, BACK, ALIKE)),
}


def expected(function, laws: list[Law], at: tuple[Root, ...], levels):
    (whole,) = on_grid(lambda *x: [function(*x)], laws, [jax.ShapeDtypeStruct(SHAPE, np.float32)])
    return moments.by_parts(whole, levels, at)


def assert_same(found: moments.LevelMoments, wanted: moments.LevelMoments) -> None:
    for a, b in zip((found.mean, *found.variances), (wanted.mean, *wanted.variances), strict=True):
        np.testing.assert_allclose(*np.broadcast_arrays(a, b), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("which", list(PAIRS)[:2])
def test_of_products(which):
    laws = [law(roots, k) for k, roots in enumerate(PAIRS[which])]
    levels, at = levels_of(*laws), places.union_of(laws)
    assert_same(moments.of_product(*laws, levels, at), expected(operator.mul, laws, at, levels))


@pytest.mark.parametrize("which", PAIRS)
@pytest.mark.parametrize("sign", [1, -1])
def test_of_sums(which, sign):
    """Also of the same with a mean of its own, which no gradient has."""
    laws = [law(roots, k) for k, roots in enumerate(PAIRS[which])]
    levels, at = levels_of(*laws), places.union_of(laws)
    wanted = expected(lambda a, b: a + sign * b, laws, at, levels)
    assert_same(moments.of_sum(*laws, sign, levels, at), wanted)
