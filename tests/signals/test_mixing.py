"""Positions that are mixed: covariances of sums behind masks, in groups of positions or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jinit.signals.laws.kernels import Kernel, grouped, groups
from jinit.signals.laws.mixing import Mixing
from jinit.signals.laws.roots import Root
from jinit.signals.laws.runs import Reach, Run, copies_in, summed, together

SIZE = 7


def shares(rows: int, columns: int, seed: int) -> np.ndarray:
    """Rows that sum to one."""
    found = np.random.default_rng(seed).exponential(size=(rows, columns))
    return found / found.sum(axis=1, keepdims=True)


def covariance(size: int, seed: int) -> np.ndarray:
    """Of variables that depend on each other."""
    x = np.random.default_rng(seed).normal(size=(size, 3))
    return x @ x.T + np.diag(np.arange(1.0, size + 1))


def kernel(of: np.ndarray) -> Kernel:
    """Of positions that are told apart."""
    return Kernel(len(of), of, np.zeros(len(of)))


def dense(of: Kernel) -> np.ndarray:
    """Covariances of any two positions."""
    at, _ = groups(of.size)
    return of.between[at][:, at] + np.diag(of.own[at])


def test_sums_of_centred_terms_are_as_by_definition():
    a, r, u = shares(5, SIZE, 0), covariance(SIZE, 1), covariance(SIZE, 2)
    less = np.eye(SIZE)[None] - a[:, None, :]  # [i, j, m]: v_j less its mean in row i
    centred = np.einsum("ijm,mn,kln->ijkl", less, r, less)
    rows = np.einsum("ij,kl,jl,ijkl->ik", a, a, u, centred)
    mixing = Mixing.of((0, 1), a, np.ones(5))
    np.testing.assert_allclose(dense(mixing.rows_centred(kernel(r), kernel(u))), rows, rtol=1e-10, atol=1e-10)
    b = covariance(5, 3)
    columns = np.einsum("ij,kl,ik,ijkl->jl", a, a, b, centred)
    found = dense(mixing.columns_centred(kernel(r), kernel(b)))
    np.testing.assert_allclose(found, columns, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(mixing.common(kernel(r)), np.diag(a @ r @ a.T), rtol=1e-10)


def test_what_is_left_of_correlations_less_a_mean():
    a, r = shares(5, SIZE, 4), covariance(SIZE, 5)
    r = r / np.sqrt(np.outer(np.diag(r), np.diag(r)))
    expected = [1 - row @ r @ row for row in a]
    np.testing.assert_allclose(Mixing.of((0, 1), a, np.ones(5)).left(kernel(r)), expected, rtol=1e-10)
    even = Mixing.even(SIZE, 1)
    np.testing.assert_allclose(even.common(kernel(r)), [r.mean()], rtol=1e-10)
    np.testing.assert_allclose(even.squares(), [1 / SIZE], rtol=1e-10)


@pytest.mark.parametrize("size", [1, 200, 256, 257, 1000, 5000])
def test_groups_follow_each_other_and_are_small_at_the_ends(size: int):
    of, counts = groups(size)
    assert len(of) == size == counts.sum()
    assert of[0] == 0
    assert set(np.diff(of)) <= {0, 1}
    assert len(counts) <= 257
    assert counts[0] == counts[-1] == 1


def test_groups_of_kernels_are_as_all_of_their_positions():
    size = 600
    at, counts = groups(size)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(len(counts), 4))
    a = Kernel(size, x @ x.T, rng.exponential(size=len(counts)))
    b = Kernel.of_run(40.0, size)
    np.testing.assert_allclose(dense(a * b), dense(a) * dense(b), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(dense(a + b), dense(a) + dense(b), rtol=1e-10, atol=1e-10)
    factor = rng.normal(size=len(counts))
    scaled = dense(a) * factor[at] * factor[at][:, None]
    np.testing.assert_allclose(dense(a.scaled(factor)), scaled, rtol=1e-10, atol=1e-10)
    assert a.run == pytest.approx(dense(a).sum() / size)
    vector = rng.normal(size=len(counts))
    np.testing.assert_allclose(vector @ a.form @ vector, vector[at] @ dense(a) @ vector[at], rtol=1e-9)
    np.testing.assert_allclose((a.matrix @ vector)[at], dense(a) @ vector[at], rtol=1e-9)
    np.testing.assert_allclose(a.variance[at], np.diag(dense(a)))


def test_no_correlation_and_all_alike():
    np.testing.assert_array_equal(dense(Kernel.of_run(1.0, 5)), np.eye(5))
    np.testing.assert_array_equal(dense(Kernel.of_run(5.0, 5)), np.ones((5, 5)))
    np.testing.assert_allclose(dense(Kernel.of_run(2.0, 4))[0], [1, 0.5, 0, 0])
    np.testing.assert_allclose(grouped(np.arange(3.0)), [0, 1, 2])


def test_squares_of_shares_in_groups_are_those_of_single_positions():
    size = 700
    at = np.arange(size)
    window = (at[:, None] >= at) & (at[:, None] - at < 4)
    a = window / window.sum(axis=1, keepdims=True)
    mixing = Mixing.of((0, 1), a, window.sum(axis=1))
    np.testing.assert_allclose(mixing.squares() @ groups(size)[1], (a**2).sum(), rtol=1e-10)


def run_of(matrix: Any) -> Run:
    """The run of correlations."""
    return Run.of(kernel(np.asarray(matrix)))


def test_runs_of_products_and_sums():
    a, b = run_of([[1, 0.5], [0.5, 1]]), run_of([[1, 0.2], [0.2, 1]])
    assert float(a) == 1.5
    assert a * 1 == 1.5  # a plain number again
    assert a != run_of(a.kernel.between)  # of other entries
    both = [Reach(frozenset([0]), ((0, a),)), Reach(frozenset([0]), ((0, b),))]
    product = together(both).run(0)
    assert isinstance(product, Run)
    np.testing.assert_allclose(product.kernel.between, [[1, 0.1], [0.1, 1]])
    assert together(both).run(0) is product  # the same again, so that it is one key
    assert together([both[0], Reach(frozenset([0]))]).run(0) == 1  # what differs at each entry
    assert together([both[0], Reach(frozenset([1]))]).run(0) is a
    mixed = summed(
        [(both[0], np.asarray(3.0)), (Reach(frozenset([0])), np.asarray(1.0))], frozenset([0]), [2]
    )
    np.testing.assert_allclose(dense(mixed.run(0).kernel), [[1, 0.375], [0.375, 1]])  # type: ignore[attr-defined]


def test_a_sum_over_all_entries_has_as_many_copies_as_correlations_say():
    alike = Reach(frozenset([0]), ((0, run_of([[1, -0.5], [-0.5, 1]])),))
    assert copies_in(alike, {0: 2.0}, [2]) == pytest.approx(4)  # 4 times less than two of one
    assert copies_in(alike, {0: 3.0}, [3]) == pytest.approx(3)  # the kernel is of other entries


def test_a_root_along_an_axis_of_a_mask_keeps_no_mask():
    mixing = Mixing.of((0, 1), np.eye(3), np.ones(3))
    root = Root("mask", frozenset([0, 1]), mixing=mixing)
    assert root.along(frozenset([0, 1])).mixing is mixing
    assert root.along(frozenset([0])).mixing is None
