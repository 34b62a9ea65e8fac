"""Parts of entries, by how they differ: against the parts of every set of roots."""

from __future__ import annotations

import itertools

import numpy as np

from jinit.signals.laws.kernels import Kernel
from jinit.signals.laws.law import Law, average, squared
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
    (reach,) = reaches_of([x], [frozenset([1, 2])])
    run = reach.run(1)
    assert isinstance(run, Run)
    kernel = run.kernel.between + np.diag(run.kernel.own)
    np.testing.assert_allclose(
        kernel[:2, :2], KNOWN.kernel.between[:2, :2] + np.diag(KNOWN.kernel.own[:2]), atol=1e-6
    )
    np.testing.assert_allclose(kernel[2:, 2:], np.eye(3), atol=1e-6)
    np.testing.assert_allclose(kernel[:2, 2:], 0, atol=1e-6)
