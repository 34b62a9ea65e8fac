"""Classes of places: put together, told apart, picked, and along axes that become one."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from jinit.signals.laws import places
from jinit.signals.laws.classes import by_paths
from jinit.signals.laws.law import Law, average, squared
from jinit.signals.laws.moving import reshaped, transposed
from jinit.signals.laws.roots import PLACE, Places, Root


def numbers(values: Any) -> Any:
    """Nodes, as they are where nothing is traced."""
    return np.asarray(values, np.float32)


def test_classes_alike_are_put_together():
    apart = by_paths(np.asarray([[2.0], [3], [3], [3], [2]]), most=3)
    assert apart.of in ((0, 1, 1, 1, 0), (1, 0, 0, 0, 1))
    assert len(by_paths(np.ones((7, 2)), most=3).paths) == 1
    merged = by_paths(np.asarray([[1.0], [2], [8], [9]]), most=2)
    assert len({merged.of[:2], merged.of[2:]}) == 2
    assert merged.of[0] == merged.of[1]
    assert merged.of[2] == merged.of[3]


def test_classes_by_two_numbers_are_told_apart():
    """Forward the left border has few paths, backward the right one: their mean has no border at all."""
    found = by_paths(np.asarray([[0.5, 1.5], [1, 1], [1, 1], [1.5, 0.5]]), most=3)
    assert len(set(found.of)) == 3


def test_entries_picked_by_place():
    known = Places((0, 1, 1, 2), ((0.5,), (1.0,), (1.5,)))
    root = Root("place", frozenset([0]), PLACE, places=known)
    law = Law(numbers([1, 2, 3]), (known.weights(),), (root,), (4,), jnp.float32)
    assert float(average(law)[0]) == 2.0
    cut = places.picked(law, {0: np.asarray([3, 1, -1])}, value=jnp.asarray(10.0))
    np.testing.assert_allclose(average(cut).reshape(()), (3 + 2 + 10) / 3, rtol=1e-6)
    np.testing.assert_allclose(average(cut, of=squared(cut.nodes)).reshape(()), (9 + 4 + 100) / 3, rtol=1e-6)
    assert not places.picked(law, {0: np.asarray([1, 2])}).roots


def test_places_along_merged_axes_keep_their_order():
    shape, values = (2, 3), np.asarray([[1, 2, 3], [4, 5, 6]], np.float32)
    known = [Places(tuple(range(n)), tuple((n ** float(i),) for i in range(n))) for n in shape]
    roots = tuple(Root("place", frozenset([k]), PLACE, places=p) for k, p in enumerate(known))
    law = Law(numbers(values), tuple(p.weights() for p in known), roots, shape, jnp.float32)
    flat = reshaped(law, (6,))
    assert [r.kind for r in flat.roots] == [PLACE]
    picked = [places.picked(flat, {0: np.asarray([k])}).nodes for k in range(6)]
    np.testing.assert_array_equal(picked, values.ravel())
    turned = reshaped(transposed(law, (1, 0)), (6,))
    picked = [places.picked(turned, {0: np.asarray([k])}).nodes for k in range(6)]
    np.testing.assert_array_equal(picked, values.T.ravel())


def test_places_that_make_no_difference_are_left_out():
    known = Places((0, 1, 1, 0), ((0.5,), (1.0,)))
    root = Root("place", frozenset([0]), PLACE, places=known)
    law = Law(numbers([2, 2]), (known.weights(),), (root,), (4,), jnp.float32)
    assert not places.differing(law).roots
    assert places.differing(dataclasses.replace(law, nodes=numbers([2.0, 2.1]))).roots


def test_places_that_are_taken_as_alike_keep_the_mean_square():
    known = Places((0, 1, 1, 0, 1, 1), ((0.5,), (1.0,)))
    root = Root("place", frozenset([0]), PLACE, places=known)
    law = Law(numbers([1, -2]), (known.weights(),), (root,), (6,), jnp.float32)
    alike = places.alike(law, [0])
    assert not alike.roots
    np.testing.assert_allclose(alike.nodes**2, (2 * 1 + 4 * 4) / 6, rtol=1e-6)
    assert places.alike(law, [1]) == law
