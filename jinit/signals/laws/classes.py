"""Classes of places along an axis: indices of entries of about the same law."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from jinit.signals.laws.roots import Places

# Variance of the numbers of paths, of mean one, that is let go by taking two classes as one.
ALIKE = 2e-4
# Numbers by which classes are told apart at most, and how many classes there may be before they are rounded.
NUMBERS, MANY = 4, 64


def by_paths(paths: np.ndarray, most: int) -> Places:
    """Places in `most` classes at most, alike in the numbers of paths: `[place, number]`.

    Those are put together that let least variance go (Ward, *Hierarchical grouping to optimize an objective
    function*, 1963).
    """
    relative = _distinct(paths)
    for digits in (5, 3, 2, 1, 0):
        rounded = relative.round(digits)
        values, of, sizes = np.unique(rounded, axis=0, return_inverse=True, return_counts=True)
        if len(values) <= MANY:
            break
    group = np.arange(len(values))
    while len(values) > 1:
        costs = ((values[:, None] - values) ** 2).sum(-1) / (1 / sizes[:, None] + 1 / sizes)
        np.fill_diagonal(costs, np.inf)
        i, k = sorted(np.unravel_index(np.argmin(costs), costs.shape))
        if len(values) <= most and costs[i, k] > ALIKE * len(paths):
            break
        values[i] = np.average(values[[i, k]], axis=0, weights=sizes[[i, k]])
        sizes[i] += sizes[k]
        group = np.where(group == k, i, group - (group > k))
        values, sizes = np.delete(values, k, 0), np.delete(sizes, k)
    return Places(tuple(group[of.reshape(-1)].tolist()), tuple(map(tuple, values.tolist())))


def _distinct(paths: np.ndarray) -> np.ndarray:
    """The numbers over their means, each but once."""
    mean = paths.mean(axis=0)
    return np.unique((paths / np.where(mean > 0, mean, 1)).round(5), axis=1)[:, :NUMBERS]


def means_of(of: Sequence[int] | np.ndarray, x: np.ndarray, counts: np.ndarray | float = 1.0) -> np.ndarray:
    """The mean of each class, of what is known at each index, which may stand for several."""
    times = np.broadcast_to(counts, np.shape(x))
    return np.bincount(of, weights=x * times) / np.bincount(of, weights=times)


def is_finer(a: Places, b: Places) -> bool:
    """Whether no class of one has indices of several of the other."""
    return len(set(zip(a.of, b.of, strict=True))) == len(set(a.of))


@functools.lru_cache(maxsize=1024)
def joint_of(found: tuple[Places, ...], most: int) -> Places:
    """Classes of indices that are in the same class of each, unless those are too many."""
    paths = _distinct(np.concatenate([np.asarray(p.paths)[list(p.of)] for p in found], axis=1))
    of = np.stack([p.of for p in found])
    _, first, index = np.unique(of, axis=1, return_index=True, return_inverse=True)
    if len(first) > most:
        return by_paths(paths, most)
    return Places(tuple(index.reshape(-1).tolist()), tuple(map(tuple, paths[first].tolist())))
