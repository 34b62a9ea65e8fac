"""Zero padding, place by place: beside the sum over paths, which is exact for rectified layers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jinit
from jinit.signals.laws.steps import LAYERS

CHANNELS = 64
Network = Callable[[Any, Any, Any], Any]  # of a signal, a convolution and a rectifier


def convolution(x: Any, kernel: Any, strides: Any, padding: Any, dilation: int, holes: int) -> Any:
    n = kernel.ndim - 2
    spatial = "DHW"[-n:]
    dims = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    return lax.conv_general_dilated(x, kernel, (strides,) * n, padding, (holes,) * n, (dilation,) * n, dims)


def layers(depth: int, kernel: int = 3, stride: int = 1, padding: Any = "SAME", **more: int) -> Network:
    def network(x: Any, conv: Any, rectify: Any) -> Any:
        for i in range(depth):
            x = conv(rectify(x) if i else x, kernel, stride, padding, **more)
        return x

    return network


def then(first: Network, *others: Network | Callable[[Any], Any]) -> Network:
    def network(x: Any, conv: Any, rectify: Any) -> Any:
        x = first(x, conv, rectify)
        for other in others:
            x = other(rectify(x), conv, rectify) if other.__name__ == "network" else other(x)
        return x

    return network


def padded(x: Any) -> Any:
    return jnp.pad(x, ((0, 0), (1, 1), (0, 1), (0, 0)))


def circular(depth: int) -> Network:
    def network(x: Any, conv: Any, rectify: Any) -> Any:
        for i in range(depth):
            x = jnp.pad(x, [(0, 0), *[(1, 1)] * (x.ndim - 2), (0, 0)], mode="wrap")
            x = conv(rectify(x) if i else x, 3, 1, "VALID")
        return x

    return network


NETWORKS: dict[str, tuple[Sequence[int], Network]] = {
    "3x3 on 8x8": ((8, 8), layers(6)),
    "3x3 on 4x4": ((4, 4), layers(8)),
    "3x3 on 5x9": ((5, 9), layers(4)),
    "3x3 on 20x20": ((20, 20), layers(4)),
    "5 on 12": ((12,), layers(5, 5)),
    "volume": ((4, 4, 4), layers(3)),
    "strides": ((16, 16), then(layers(1, stride=2), layers(1), layers(1, stride=2))),
    "one side": ((10,), layers(4, padding=[(2, 0)])),
    "wide": ((6, 6), layers(3, padding=[(2, 2), (2, 2)])),
    "dilated": ((9, 9), layers(3, dilation=2)),
    "transposed": ((5, 5), layers(2, 4, padding=[(2, 2), (2, 2)], holes=2)),
    "none": ((9, 9), layers(3, padding="VALID")),
    "reversed": ((9,), then(layers(3, padding=[(2, 0)]), lambda x: x[:, ::-1], layers(2, padding=[(2, 0)]))),
    "cropped": ((9,), then(layers(3), lambda x: x[:, 1:7], layers(2))),
    "every other": ((9, 9), then(layers(2), lambda x: x[:, ::2, 1::3], layers(2))),
    "padded by itself": ((7, 7), then(layers(2), padded, layers(2))),
    "circular": ((6, 6), circular(3)),
    "turned": ((5, 8), then(layers(2), lambda x: jnp.swapaxes(x, 1, 2), layers(2))),
}  # fmt: skip


def expected(size: Sequence[int], network: Network) -> list[tuple[float, float, float]]:
    """Second moments of outputs, cotangents and weight gradients, weights having the variance 2 / fan-in.

    What comes to a place is the sum over all paths that lead there, and backward alike, since the derivative
    of a rectified layer is one or nothing, each with probability 1/2 and independent of the other weights.
    """
    signals: list[Any] = []

    def run(added: Sequence[Any], kernels: Sequence[Any], numbers: Any) -> Any:
        def conv(x: Any, k: int, stride: int, padding: Any, dilation: int = 1, holes: int = 1) -> Any:
            i = next(numbers)
            kernel = kernels[i] if kernels else jnp.ones((k,) * (x.ndim - 2) + (1, 1))
            y = convolution(x, kernel * 2 / k ** (x.ndim - 2), stride, padding, dilation, holes)
            signals.append((y, kernel))
            return y + (added[i] if added else 0)

        return network(jnp.ones((1, *size, 1)), conv, lambda x: x / 2)

    run((), (), itertools.count())
    seen = list(signals)
    nothing, kernels = [jnp.zeros_like(y) for y, _ in seen], [k for _, k in seen]
    out, pull = jax.vjp(lambda a, k: run(a, k, itertools.count()), nothing, kernels)
    back, gradients = pull(jnp.ones_like(out))
    scale = [k.size / 2 for k in kernels]
    return [
        (float(y.mean()), float(b.mean()), float(g.mean() * s))
        for (y, _), b, g, s in zip(seen, back, gradients, scale, strict=True)
    ]


def predicted(size: Sequence[int], network: Network) -> jinit.Records:
    """The same, of a network of many channels."""
    kernels: dict[str, Any] = {}

    def run(x: Any, params: Any) -> Any:
        numbers = itertools.count()

        def conv(x: Any, k: int, stride: int, padding: Any, dilation: int = 1, holes: int = 1) -> Any:
            name = f"{next(numbers):02}"
            shape = ((k,) * (x.ndim - 2)) + (CHANNELS, CHANNELS)
            kernels[name] = jax.ShapeDtypeStruct(shape, jnp.float32)
            kernel = params[name] if params else jnp.zeros(shape)
            return convolution(x, kernel, stride, padding, dilation, holes)

        return network(x, conv, jax.nn.relu)

    x = jax.ShapeDtypeStruct((1, *size, CHANNELS), jnp.float32)
    jax.eval_shape(lambda x: run(x, None), x)
    variances = lambda path: 2 / np.prod(kernels[path].shape[:-1])  # noqa: E731
    return jinit.predict(lambda p, x: run(x, p), weights=variances)(kernels, x)


@pytest.mark.parametrize("name", NETWORKS)
def test_places_are_counted_one_by_one(name):
    """To within what is let go where many classes of places are put together."""
    wanted = expected(*NETWORKS[name])
    for site, moments in zip(predicted(*NETWORKS[name]).values(), wanted, strict=True):
        for got, want in zip((site.output, site.cotangent, site.weight_gradient), moments, strict=True):
            np.testing.assert_allclose(got.second_moment, want, rtol=0.015)


def test_a_reversed_signal_is_another_variable():
    network = then(layers(1, padding="VALID"), lambda x: x + x[:, ::-1], layers(1, padding="VALID"))
    first = next(iter(predicted((8,), network).values()))
    np.testing.assert_allclose(first.cotangent.second_moment, 4 / 3, rtol=0.02)


def test_a_normalization_over_channels_makes_places_alike():
    def normalized(x: Any) -> Any:
        return x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True))

    network = then(layers(3), normalized, layers(1))
    last = list(predicted((4, 4), network).values())[-1]
    np.testing.assert_allclose(last.input.second_moment, 0.5, rtol=0.01)
    np.testing.assert_allclose(last.output.second_moment, (2.5 / 3) ** 2, rtol=0.01)


def test_a_mean_over_all_places_is_no_random_number():
    """Of entries that differ by place alone, it does not differ."""

    def apply(params: Any, x: Any) -> Any:
        y = jax.nn.relu(convolution(x, params["a"], 1, "SAME", 1, 1))
        return (y - y.mean((1, 2), keepdims=True)).mean((1, 2)) @ params["b"]

    shapes = {
        "a": jax.ShapeDtypeStruct((3, 3, 64, 64), "float32"),
        "b": jax.ShapeDtypeStruct((64, 8), "float32"),
    }
    x = jax.ShapeDtypeStruct((2, 4, 4, 64), jnp.float32)
    found = jinit.predict(apply, weights=lambda path: 0.01)(shapes, x)
    assert float(found["b"].input.second_moment) < 1e-6


@pytest.mark.parametrize("kind", ["max", "mean"])
def test_windows_of_a_pooling_lie_at_places_too(kind):
    """Measured beside predicted: a border of zeros before pooling, and a convolution behind."""

    def pooled(x: Any) -> Any:
        window = (1, 2, 2, 1)
        if kind == "max":
            return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")
        return lax.reduce_window(x, 0.0, lax.add, window, window, "VALID") / 4

    def apply(params: Any, x: Any) -> Any:
        y = convolution(x, params["a"], 1, "SAME", 1, 1)
        return convolution(pooled(jax.nn.relu(y)), params["b"], 1, "SAME", 1, 1)

    shapes = {k: jax.ShapeDtypeStruct((3, 3, 48, 48), jnp.float32) for k in "ab"}
    x = jax.random.normal(jax.random.key(1), (8, 8, 8, 48))
    found = jinit.predict(apply, weights=lambda path: 1 / 432)(shapes, jax.ShapeDtypeStruct(x.shape, x.dtype))

    @jax.jit
    def measured(key: Any) -> Any:
        keys = jax.random.split(key, 3)
        params = {
            k: jax.random.normal(r, (3, 3, 48, 48)) / 432**0.5 for k, r in zip("ab", keys, strict=False)
        }
        records = jinit.measure(apply, key=keys[2])(params, x)[1]
        return {
            k: (
                r.input.second_moment,
                r.output.second_moment,
                r.cotangent.second_moment,
                r.weight_gradient.second_moment,
            )
            for k, r in records.items()
        }

    seen = jax.tree.map(
        lambda *x: (np.mean(x), np.std(x) / len(x) ** 0.5), *(measured(jax.random.key(i)) for i in range(16))
    )
    for name, record in found.items():
        fields = (record.input, record.output, record.cotangent, record.weight_gradient)
        for got, (mean, error) in zip(fields, seen[name], strict=True):
            assert abs(float(got.second_moment) - mean) < 3 * error + 0.03 * mean


@pytest.mark.slow
def test_in_a_long_loop_places_count_on_average():
    def apply(params: Any, x: Any) -> Any:
        def step(x: Any, kernel: Any) -> Any:
            return convolution(jax.nn.relu(x), kernel, 1, "SAME", 1, 1), None

        return lax.scan(step, x, params)[0]

    count = LAYERS + 1
    shapes = jax.ShapeDtypeStruct((count, 3, 3, 64, 64), jnp.float32)
    x = jax.ShapeDtypeStruct((1, 8, 8, 64), jnp.float32)
    (found,) = jinit.predict(apply, weights=lambda path: 2 / 576, backward=False)(shapes, x).values()
    average = (22 / 24) ** (2 * np.arange(1, count + 1))
    np.testing.assert_allclose(found.output.second_moment, average, rtol=0.1)


def test_long_sequences_have_few_classes():
    """A stack of causal convolutions has as many kinds of places as its receptive field is long."""

    def apply(params: Any, x: Any) -> Any:
        for i in range(8):
            x = convolution(jax.nn.relu(x), params[f"{i}"], 1, [(2**i, 0)], 2**i, 1)
        return x

    shapes = {f"{i}": jax.ShapeDtypeStruct((2, 32, 32), jnp.float32) for i in range(8)}
    found = jinit.predict(apply, weights=lambda path: 2 / 64)(
        shapes, jax.ShapeDtypeStruct((1, 4096, 32), jnp.float32)
    )
    at = np.arange(4096)
    profile = np.full(4096, 0.5)
    for i in range(8):
        profile = (profile + np.where(at < 2**i, 0, np.roll(profile, 2**i))) * (0.5 if i < 7 else 1)
    np.testing.assert_allclose(found["7"].output.second_moment, profile.mean(), rtol=0.01)
