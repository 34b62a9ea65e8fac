"""What is alike along two axes of an image together, and entries beside an average around them.

Against the covariances of all places: of linear layers they are products of matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit.signals.laws.levels import Level, level_of, limited
from jinit.signals.laws.runs import Reach, Run, moved, picked, split

SIZE, WIDTH = 8, 32
PLACES = SIZE**2


def predicted(apply: Any, *names: str) -> Any:
    shapes = {k: jax.ShapeDtypeStruct((WIDTH, WIDTH), "float32") for k in names}
    x = jax.ShapeDtypeStruct((2, SIZE, SIZE, WIDTH), "float32")
    return jinit.predict(apply, weights=lambda path: 1 / WIDTH)(shapes, x)


def matrix(linear: Callable[[Any], Any]) -> np.ndarray:
    """Of a linear function of an image of one channel: `[places out, places in]`."""
    units = np.eye(PLACES, dtype=np.float32).reshape(PLACES, SIZE, SIZE, 1)
    return np.asarray(linear(units)).reshape(PLACES, -1).T


def over_windows(x: Any, rows: int, columns: int, layer: Any = lambda x: x) -> Any:
    """Of means over windows side by side, back at all their places."""
    b, h, w, c = x.shape
    windows = x.reshape(b, h // rows, rows, w // columns, columns, c)
    mean = layer(windows.mean((2, 4), keepdims=True))
    return jnp.broadcast_to(mean, windows.shape).reshape(x.shape)


def over_shifted(x: Any, layer: Any = lambda x: x) -> Any:
    """The same of windows that are shifted, as in a Swin Transformer."""
    return jnp.roll(over_windows(jnp.roll(x, (-2, -2), (1, 2)), 4, 4, layer), (2, 2), (1, 2))


MIXED: dict[str, Callable[..., Any]] = {
    "windows": lambda x, *layer: over_windows(x, 4, 4, *layer),
    "oblong windows": lambda x, *layer: over_windows(x, 2, 4, *layer),
    "strips": lambda x, *layer: over_windows(x, SIZE, 2, *layer),
    "shifted windows": over_shifted,
}
READ: dict[str, Callable[..., Any]] = {
    "all": lambda x, *layer: over_windows(x, SIZE, SIZE, *layer),
    "rows": lambda x, *layer: over_windows(x, 1, SIZE, *layer),
    "windows": lambda x, *layer: over_windows(x, 4, 4, *layer),
    "small windows": lambda x, *layer: over_windows(x, 2, 2, *layer),
    "shifted windows": over_shifted,
}


@pytest.mark.parametrize("read", READ)
@pytest.mark.parametrize("mixed", MIXED)
def test_what_windows_share_behind_a_residual_sum(mixed: str, read: str):
    """Of `x` and of means over windows of it: told along each axis by itself it was down to 0.68."""

    def apply(p: Any, x: Any) -> Any:
        x = x @ p["a"]
        x = x + 2 * MIXED[mixed](x, lambda mean: mean @ p["b"])
        return READ[read](x @ p["c"], lambda mean: mean @ p["d"])

    mean, last = matrix(MIXED[mixed]), matrix(READ[read])
    between = last @ (np.eye(PLACES) + 4 * mean @ mean.T) @ last.T
    found = predicted(apply, *"abcd")
    np.testing.assert_allclose(found["d"].input.second_moment, np.trace(between) / PLACES, rtol=0.02)
    back = last.T @ last  # of unit cotangents at the outputs
    both = back + 4 * mean.T @ back @ mean
    np.testing.assert_allclose(found["a"].cotangent.second_moment, np.trace(both) / PLACES, rtol=0.02)


def pool(x: Any, size: int = 3) -> Any:
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, size, size, 1), (1, 1, 1, 1), "SAME") / size**2


AROUND: dict[str, Callable[[Any], Any]] = {
    "plus": lambda x: x + pool(x),
    "less": lambda x: 2 * x - pool(x),
    "detail": lambda x: x - pool(x),
    "smooth": lambda x: pool(-x) * 3 - x,
    "wide": lambda x: x + 2 * pool(x, 5),
    "rows": lambda x: x + jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 3, 1, 1), (1, 1, 1, 1), "SAME") / 3,
}


@pytest.mark.parametrize("read", ["all", "rows", "each"])
@pytest.mark.parametrize("around", AROUND)
def test_an_entry_beside_an_average_around_it(around: str, read: str):
    """As in a PoolFormer: of `x + pool(x)` the mean over places had half of its second moment."""
    reading = READ.get(read, lambda x, layer=lambda x: x: layer(x))

    def apply(p: Any, x: Any) -> Any:
        return reading(AROUND[around](x @ p["a"]), lambda mean: mean @ p["b"])

    both, last = matrix(AROUND[around]), matrix(reading)
    found = predicted(apply, "a", "b")
    expected = np.trace(last @ both @ both.T @ last.T) / PLACES
    back = np.trace(both.T @ last.T @ last @ both) / PLACES
    # Along one axis alone, and at the border, what is left of an entry does not quite add up to nothing.
    least = np.trace(both @ both.T) * {"all": 0.05, "rows": 0.2, "each": 0}[read] / PLACES**2
    np.testing.assert_allclose(found["b"].input.second_moment, expected, rtol=0.1, atol=least * SIZE)
    np.testing.assert_allclose(found["a"].cotangent.second_moment, back, rtol=0.1, atol=least)


def test_levels_of_the_same_axes():
    """What is alike along two axes is one by itself; what is along one, or hardly, is not."""
    axes = frozenset([0, 1, 2])
    own, windows = Reach(axes), Reach(axes, ((1, 4.0), (2, 4.0)))
    levels = limited({Level.of(own), Level.of(windows), Level(frozenset([2]))})
    assert levels == (Level(frozenset([2])), Level(axes, frozenset([1, 2])), Level(axes))
    assert [level_of(x, levels) for x in (own, windows, Reach(frozenset([2])))] == [2, 1, 0]
    assert level_of(Reach(axes, ((0, 3.0), (2, 3.0))), levels) == 2  # as one that is not known
    assert level_of(Reach(frozenset([0, 1])), levels) == 2
    for alone in (Reach(axes, ((1, 4.0),)), Reach(axes, ((1, 1.1), (2, 1.1)))):
        assert Level.of(alone) == Level(axes)


def test_runs_that_begin_elsewhere():
    """After a roll windows hold parts of two runs, and after another one whole ones again."""
    order = (*range(1, 8), 0)
    run = picked(4.0, order)
    assert isinstance(run, Run)
    assert (float(run), picked(4.0, (*range(4, 8), *range(4)))) == (4.0, 4.0)
    assert picked(run, tuple(np.argsort(order))) == 4.0
    runs = dict(split(((0, run), (1, run)), [([0], [0, 1])], (2, 4)))
    within = runs[1]
    assert isinstance(within, Run)
    np.testing.assert_array_equal(within.kernel.between[[0, 3]], [[1, 1, 1, 0], [0, 0, 0, 1]])
    assert (float(within), float(runs[0])) == ((9 + 1) / 4, 4 / 2.5)
    of_window = Reach(frozenset([0, 1]), ((0, within), (1, within)))
    ((_, window),) = moved(of_window, [frozenset([0])] * 2, (4, 4))
    assert isinstance(window, Run)
    np.testing.assert_array_equal(window.kernel.between, np.kron(*[within.kernel.between] * 2))


def test_a_mean_that_is_broadcast_before_a_layer():
    """As a global feature beside those of points: it was taken to be zero where it was broadcast."""
    count = 16

    def apply(p: Any, x: Any) -> Any:
        x = (x @ p["a"]).reshape(2, -1, WIDTH)[:, :count]
        mean = jnp.broadcast_to(x.mean(1, keepdims=True), x.shape)
        return mean @ p["b"], jnp.concatenate([x, mean], -1) @ jnp.concatenate([p["c"], p["d"]])

    found = predicted(apply, *"abcd")
    np.testing.assert_allclose(found["b"].input.second_moment, 1 / count, rtol=1e-4)
    both = [r for k, r in found.items() if k not in "ab"]
    np.testing.assert_allclose(both[0].input.second_moment, (1 + 1 / count) / 2, rtol=1e-4)


def test_an_average_of_what_differs_along_rows_and_of_what_does_along_columns():
    """Neither differs along all axes of an image."""

    def apply(p: Any, x: Any) -> Any:
        rows, columns = (x.mean(k, keepdims=True) @ p[name] for k, name in ((2, "a"), (1, "b")))
        return pool(jnp.broadcast_to(rows, x.shape) + columns) @ p["c"]

    found = predicted(apply, *"abc")
    band = (abs(np.subtract.outer(np.arange(SIZE), np.arange(SIZE))) < 2) / 3
    counts = band.sum(1) ** 2  # windows of zeros beyond a border
    expected = 2 / SIZE * np.mean(counts) * np.trace(band @ band.T) / SIZE
    # Windows of a pooling count as those in the middle of their class.
    np.testing.assert_allclose(found["c"].input.second_moment, expected, rtol=0.05)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_pieces_among_zeros_and_among_others(value: float):
    """Two pieces among zeros, side by side, are an array; among other numbers something is added."""

    def apply(p: Any, x: Any) -> Any:
        x = x @ p["a"]
        one, other = jax.lax.slice_in_dim(x, 0, 6, axis=1), jax.lax.slice_in_dim(x, 6, 8, axis=1)
        zero, none = jnp.asarray(value, x.dtype), (0, 0, 0)
        one = jax.lax.pad(one, zero, [none, (2, 0, 0), none, none])
        return (one + jax.lax.pad(other, zero, [none, (0, 6, 0), none, none])) @ p["b"]

    found = predicted(apply, "a", "b")
    np.testing.assert_allclose(found["b"].input.second_moment, 1 + value**2, rtol=1e-3)
