"""Numbers for the entries of an array: which unit, which step."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np


def unit_numbers(shape: tuple[int, ...], axes: tuple[int, ...]) -> np.ndarray:
    """Number of the unit that every entry of an operand belongs to."""
    sizes = [shape[i] for i in axes]
    at = [1] * len(shape)
    numbers = np.zeros(at, np.int64)
    for place, axis in enumerate(axes):
        along = np.arange(shape[axis]).reshape([shape[axis] if i == axis else 1 for i in range(len(shape))])
        numbers = numbers + along * math.prod(sizes[place + 1 :])
    return numbers


def compressed(labels: np.ndarray, axes: Iterable[int]) -> np.ndarray:
    """Labels with those of the axes cut to size one along which they do not change."""
    for axis in axes:
        first = labels.take([0], axis=axis) if labels.shape[axis] else labels
        if np.all(labels == first):
            labels = first
    return labels
