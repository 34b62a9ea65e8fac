"""Averages over windows in linear networks, set beside sums over all places: exact."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit

WIDTH, OUT = 256, 10


def averaged(x: Any, window: int, step: int, padding: str, whole: bool) -> Any:
    with jax.numpy_dtype_promotion("standard"):  # flax divides by an integer
        return nn.avg_pool(x, (window, window), (step, step), padding, count_include_pad=whole)


def matrices(size: int, count: int, *pool: Any) -> list[np.ndarray]:
    """Those of so many poolings in a row."""
    found = []
    for _ in range(count):
        identity = np.eye(size**2, dtype=np.float32).reshape(-1, size, size, 1)
        pooled = np.asarray(averaged(jnp.asarray(identity), *pool))
        found.append(pooled.reshape(size**2, -1).T)
        size = pooled.shape[1]
    return found


def predicted(size: int, count: int, mean: bool, *pool: Any) -> Any:
    def apply(p: Any, x: Any) -> Any:
        h = x @ p["first"]
        for k in range(count):
            h = averaged(h, *pool) @ p[f"{k}"]
        return (h.mean((1, 2)) if mean else h) @ p["last"]

    names = ["first", *map(str, range(count))]
    shapes = {k: jax.ShapeDtypeStruct((WIDTH, WIDTH), "float32") for k in names}
    shapes["last"] = jax.ShapeDtypeStruct((WIDTH, OUT), "float32")
    x = jax.ShapeDtypeStruct((4, size, size, WIDTH), "float32")
    return jinit.predict(apply, weights=lambda path: 1 / WIDTH)(shapes, x)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("window", "step"), [(3, 1), (3, 2), (2, 2), (2, 3), (4, 2)])
def test_averages_over_windows(window, step, padding, whole, mean, count):
    """Borders, windows that share entries, and entries of no window: signals, cotangents, gradients."""
    size, pool = 16, (window, step, padding, whole)
    records, pools = predicted(size, count, mean, *pool), matrices(size, count, *pool)
    forward = [np.eye(size**2)]
    for m in pools:
        forward.append(m @ forward[-1] @ m.T)
    places = len(forward[-1])
    read = np.full((places, 1), 1 / places) if mean else np.eye(places)
    back = [read @ read.T * OUT / WIDTH]
    for m in pools[::-1]:
        back.append(m.T @ back[-1] @ m)
    back = back[::-1]
    for k, name in enumerate(["first", *map(str, range(count))]):
        record = records[name]
        if k:
            np.testing.assert_allclose(
                record.input.second_moment, np.trace(forward[k]) / len(forward[k]), 2e-3
            )
        coarse = mean and count == 2 and k == 0  # in four classes along each axis
        room = 0.12 if coarse else 2e-3
        np.testing.assert_allclose(record.cotangent.second_moment, np.trace(back[k]) / len(back[k]), room)
        expected = 4 * np.sum(forward[k] * back[k])
        np.testing.assert_allclose(record.weight_gradient.second_moment, expected, room)
    behind = np.trace(read.T @ forward[-1] @ read) / read.shape[1]
    np.testing.assert_allclose(records["last"].input.second_moment, behind, 2e-3)


@pytest.mark.parametrize("whole", [True, False])
def test_an_entry_beside_the_average_around_it(whole):
    """`x + k (pool(x) - x)`, of which the latter was 25 times off where averages leave padding out."""
    size, k = 8, 0.5
    (m,) = matrices(size, 1, 3, 1, "SAME", whole)
    mixed = (1 - k) * np.eye(size**2) + k * m

    def apply(p: Any, x: Any) -> Any:
        h = x @ p["first"]
        h = h + k * (averaged(h, 3, 1, "SAME", whole) - h)
        return (h @ p["second"]).mean((1, 2)) @ p["last"]

    shapes = {name: jax.ShapeDtypeStruct((WIDTH, WIDTH), "float32") for name in ("first", "second", "last")}
    x = jax.ShapeDtypeStruct((4, size, size, WIDTH), "float32")
    records = jinit.predict(apply, weights=lambda path: 1 / WIDTH)(shapes, x)
    np.testing.assert_allclose(records["second"].input.second_moment, np.mean(np.sum(mixed**2, 1)), 2e-3)
    read = mixed.sum(0) / size**2
    np.testing.assert_allclose(records["first"].cotangent.second_moment, np.mean(read**2), 2e-3)
    np.testing.assert_allclose(records["last"].input.second_moment, read @ read, 0.04)


def test_classes_of_places_keep_mean_squares():
    """Where classes of a signal and of what comes back are put together, it was an eighth too large."""

    def apply(p: Any, x: Any, act: Any) -> Any:
        h = jax.lax.conv_general_dilated(
            x, p["a"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return averaged(act(h), 3, 2, "SAME", True).reshape(h.shape[0], -1) @ p["b"]

    shapes = {
        "a": jax.ShapeDtypeStruct((3, 3, 64, 64), "float32"),
        "b": jax.ShapeDtypeStruct((64 * 25, 64), "float32"),
    }
    x = jax.ShapeDtypeStruct((4, 9, 9, 64), "float32")

    def cotangent(act: Any) -> Any:
        run = jinit.predict(lambda p, x: apply(p, x, act), weights=lambda path: 1 / 64)
        return run(shapes, x)["a"].cotangent.second_moment

    np.testing.assert_allclose(cotangent(jax.nn.relu), cotangent(lambda x: x) / 2, rtol=1e-4)
