"""Parts of entries, by how they differ: against the parts of every set of roots."""

from __future__ import annotations

import itertools

import numpy as np

from jinit.signals.laws.kernels import Kernel
from jinit.signals.laws.law import Law, average, squared
from jinit.signals.laws.levels import Level
from jinit.signals.laws.parts import reaches_of, spread_by_reach
from jinit.signals.laws.roots import PLACE, Places, Root
from jinit.signals.laws.runs import Reach, Run, together

SHAPE = (4, 5, 6)
KNOWN = Run.of(Kernel.of_run(3.0, 5))
ROOTS = (
    Root("a", frozenset([0])),
    Root("b", frozenset([1]), runs=((1, 2.0),)),
    Root("c", frozenset([0, 1]), runs=((1, 4.0),)),
    Root("d", frozenset([0, 1])),
    Root("e", frozenset([1, 2]), runs=((1, KNOWN),)),
)


def law(roots: tuple[Root, ...] = ROOTS) -> Law:
    """Any function of these."""
    rng = np.random.default_rng(0)
    nodes = rng.normal(size=(2, 3, 2, 3, 2)[: len(roots)]).astype(np.float32)
    weights = tuple(rng.dirichlet(np.ones(n)).astype(np.float32) for n in nodes.shape)
    return Law(nodes, weights, roots, SHAPE, np.dtype("float32"))


def test_those_that_differ_alike_are_left_in_one():
    x = law()
    every = range(len(ROOTS))
    expected: dict[Reach, float] = {}
    for own in itertools.chain.from_iterable(
        itertools.combinations(every, k) for k in range(1, len(ROOTS) + 1)
    ):
        part = sum(
            (-1) ** (len(own) - len(some)) * average(x, [i for i in every if i not in some])
            for k in range(len(own) + 1)
            for some in itertools.combinations(own, k)
        )
        reach = together(ROOTS[i] for i in own)
        expected[reach] = expected.get(reach, 0.0) + float(average(x, of=squared(part)).reshape(()))
    mean, found = spread_by_reach(x, every)
    np.testing.assert_allclose(mean.reshape(()), average(x).reshape(()), rtol=1e-5)
    assert found.keys() == expected.keys()
    for reach, variance in found.items():
        np.testing.assert_allclose(variance.reshape(()), expected[reach], rtol=1e-4)


def test_kernels_are_weighed_by_the_variance_at_each_place():
    """Of two classes of places one has no variance of what is alike, the other of nothing else."""
    at = Places((0, 0, 1, 1, 1), ((1.0,), (2.0,)))
    roots = (Root(PLACE, frozenset([1]), PLACE, places=at), ROOTS[4], Root("own", frozenset([1, 2])))
    sign = np.asarray([-1.0, 1.0], np.float32)
    which = np.asarray([1.0, 0.0], np.float32)[:, None, None]
    nodes = which * sign[:, None] + (1 - which) * sign
    half = np.full(2, 0.5, np.float32)
    x = Law(nodes, (at.weights(), half, half), roots, SHAPE, np.dtype("float32"))  # type: ignore[arg-type]
    (reach,) = reaches_of([x], (Level(frozenset([1, 2])),))
    run = reach.run(1)
    assert isinstance(run, Run)
    kernel = run.kernel.between + np.diag(run.kernel.own)
    np.testing.assert_allclose(
        kernel[:2, :2], KNOWN.kernel.between[:2, :2] + np.diag(KNOWN.kernel.own[:2]), atol=1e-6
    )
    np.testing.assert_allclose(kernel[2:, 2:], np.eye(3), atol=1e-6)
    np.testing.assert_allclose(kernel[:2, 2:], 0, atol=1e-6)


def test_what_does_not_depend_on_a_root_keeps_its_own_correlations():
    """It is not linear in that root, but no power of it either, and its axes are not those known of it."""
    _, weights = np.polynomial.hermite_e.hermegauss(4)
    scale = np.asarray([-1.0, 1.0], np.float32)
    other = Root("other", frozenset([0]), runs=((0, Run.of(Kernel.of_run(2.0, 4))),))
    both = Law(
        np.broadcast_to(scale[:, None], (2, 4)),
        (np.full(2, 0.5, np.float32), (weights / weights.sum()).astype(np.float32)),
        (Root("own", frozenset([0, 1]), runs=((1, KNOWN),)), other),
        SHAPE,
        np.dtype("float32"),
    )
    _, found = spread_by_reach(both, [0, 1])
    assert list(found) == [Reach(frozenset([0, 1]), both.roots[0].runs)]


def test_a_curve_of_a_root_is_as_alike_as_the_square_of_its_correlations():
    """Along those axes alone along which they are known."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    root = Root("x", frozenset([0, 1]), runs=((0, 2.0), (1, KNOWN)))
    law = Law(
        (nodes**2).astype(np.float32), ((weights / weights.sum()).astype(np.float32),), (root,), SHAPE,
        np.dtype("float32"),
    )  # fmt: skip
    (reach,) = (r for r, v in spread_by_reach(law, [0])[1].items() if float(v.reshape(())) > 1e-3)
    assert reach.run(0) == 2.0
    run = reach.run(1)
    assert isinstance(run, Run)
    np.testing.assert_allclose(run.kernel.between, KNOWN.kernel.between**2)
