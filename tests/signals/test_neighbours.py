"""What neighbouring places share: gradients of poolings, repeated and wrapped entries."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit.signals.laws.kernels import Kernel
from jinit.signals.laws.law import normal
from jinit.signals.laws.moving import broadcast, reshaped, tiled
from jinit.signals.laws.runs import Run, alike_in
from tests.signals.agreement import disagreement
from tests.signals.test_centring import agree
from tests.zoo import array

CHANNELS = 64
SHAPES = {"a": (3, 3, CHANNELS, CHANNELS), "b": (3, 3, CHANNELS, CHANNELS), "c": (CHANNELS, 10)}
FANS = {"a": 9 * CHANNELS, "b": 9 * CHANNELS, "c": CHANNELS}


def convolved(x: Any, w: Any, *, wrap: bool = False) -> Any:
    if wrap:
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap")
    return jax.lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def window(x: Any, kind: str, size: int, step: int) -> Any:
    shape, strides = (1, size, size, 1), (1, step, step, 1)
    if kind == "average":
        return jax.lax.reduce_window(x, 0.0, jax.lax.add, shape, strides, "VALID") / size**2
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, shape, strides, "VALID")


POOLINGS = {
    "average": lambda x: window(x, "average", 2, 2),
    "maximum": lambda x: window(x, "maximum", 2, 2),
    "overlapping maximum": lambda x: window(x, "maximum", 3, 2),
    "maximum, then mean": lambda x: window(x, "maximum", 2, 2).mean((1, 2), keepdims=True),
    "repeated": lambda x: jnp.repeat(x, 2, 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", POOLINGS)
def test_gradients_before_a_pooling(name):
    """Weight gradients 0.5 of those measured if neighbours are taken to share nothing, cotangents 0.6."""

    def apply(p: Any, x: Any) -> Any:
        x = jax.nn.relu(convolved(x, p["a"]))
        return POOLINGS[name](jax.nn.relu(convolved(x, p["b"]))) @ p["c"]

    agree(apply, SHAPES, array(8, 11, 11, CHANNELS), lambda path: 2 / FANS[path])


@pytest.mark.slow
def test_gradients_of_what_wraps_around():
    """One entry among zeros is no row of equal ones: weight gradients 1.5 times too large."""

    def apply(p: Any, x: Any) -> Any:
        x = jax.nn.relu(convolved(x, p["a"], wrap=True))
        return jax.nn.relu(convolved(x, p["b"], wrap=True)) @ p["c"]

    agree(apply, SHAPES, array(8, 6, 6, CHANNELS), lambda path: 2 / FANS[path])


def gradient_of_average(size: int, step: int) -> float:
    """Of the weights of a product per place before a pooling, over that of places that share nothing."""

    def apply(p: Any, x: Any) -> Any:
        return window(x @ p["w"], "average", size, step)

    shape = jax.ShapeDtypeStruct((2, 12, 12, 64), "float32")
    shapes = {"w": jax.ShapeDtypeStruct((64, 8), "float32")}
    plan = {"w": 1 / 64}
    x = 1 + 0 * array(*shape.shape)  # all entries alike: only gradients differ
    record = jinit.predict(apply, weights=plan)(shapes, x)["w"]
    alone = 2 * 12 * 12 * record.cotangent.second_moment  # type: ignore[union-attr]
    return float(record.weight_gradient.second_moment / alone)  # type: ignore[union-attr]


@pytest.mark.parametrize(("size", "step"), [(2, 2), (3, 3), (4, 4)])
def test_places_of_one_window_get_the_same(size, step):
    """`E[(Σ δ)²]` of `n` places that are alike in groups of `k` is `k n E[δ²]`."""
    np.testing.assert_allclose(gradient_of_average(size, step), size**2, rtol=1e-4)


def test_windows_that_slide_share_some_places():
    """Of 12 places and 10 windows of 3, in either axis: 30 pairs, and `Σ_p (windows at p)²` in all."""
    at = np.convolve(np.ones(10), np.ones(3))
    expected = (10 * 3**2 / np.sum(at)) ** 2
    np.testing.assert_allclose(gradient_of_average(3, 1), expected, rtol=1e-4)


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize(("size", "step"), [(2, 2), (4, 4), (3, 2), (3, 1), (12, 12)])
def test_one_entry_of_a_window_gets_what_comes_back(size, step, mean):
    """Over all places gradients of a maximum add up to those of its windows, whatever these share."""

    def apply(p: Any, x: Any) -> Any:
        out = window(x @ p["w"], "maximum", size, step)
        return out.mean((1, 2)) if mean else out

    shapes = {"w": jax.ShapeDtypeStruct((64, 8), "float32")}
    record = jinit.predict(apply, weights={"w": 1 / 64})(shapes, jnp.ones((2, 12, 12, 64)))["w"]
    windows = ((12 - size) // step + 1) ** 2
    expected = 2 * (1 if mean else windows)
    np.testing.assert_allclose(record.weight_gradient.second_moment, expected, rtol=1e-4)  # type: ignore[union-attr]


def test_what_repeats_is_known_to():
    law = normal(0.0, 1.0, "x", (4, 6), jnp.float32)
    repeated = reshaped(broadcast(law, (0, 1), (4, 6, 3)), (4, 18))
    assert dict(repeated.roots[0].runs) == {1: 3.0}
    assert dict(tiled(law, (2, 1), "n").roots[0].runs) == {0: 2.0}
    assert reshaped(repeated, (4, 6, 3)).roots == law.roots  # it does not differ along what is one run


def test_alike_in_a_row():
    """Whole runs, and of the correlation `1 - d / 3` the sum `Σ_ij ρ(i-j) / n`, by hand."""
    assert (alike_in(4, 3.0), alike_in(2, 3.0), alike_in(4, 1.0)) == (3, 2, 1)
    row = np.arange(4)
    rho = np.maximum(1 - abs(row[:, None] - row) / 3, 0)
    known = Run.of(Kernel.of_run(3.0, 4))
    np.testing.assert_allclose([float(known), alike_in(4, known)], rho.sum() / 4)


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
def test_windows_that_slide_twice(padding: str):
    """Against the sums of all positions."""
    batch, size, width = 2, 12, 64
    names, identity = "abc", np.eye(12)[None]

    def pool(x: Any) -> Any:
        for _ in range(2):
            x = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 3, 1), (1, 1, 1), padding) / 3.0
        return x

    def apply(params: Any, x: Any) -> Any:
        return pool(x @ params["a"]) @ params["b"] @ params["c"]

    shapes = {k: jax.ShapeDtypeStruct((width, width), "float32") for k in names}
    x = jax.ShapeDtypeStruct((batch, size, width), "float32")
    records = jinit.predict(apply, weights=lambda path: 1 / width)(shapes, x)
    matrix = np.asarray(pool(identity))[0]
    squares = np.sum(matrix**2)
    forward, backward = records["b"].input, records["a"].cotangent
    assert forward is not None
    assert backward is not None
    np.testing.assert_allclose(forward.second_moment, squares / len(matrix), rtol=1e-4)
    np.testing.assert_allclose(backward.second_moment, squares / size, rtol=1e-4)
    for name in "ab":
        gradient = records[name].weight_gradient
        assert gradient is not None
        np.testing.assert_allclose(gradient.second_moment, batch * squares, rtol=1e-4)


def test_padding_leaves_places_out_of_a_sum_that_is_zero():
    """Of 8 places the outer taps of 3 meet 7: `m (1 - m/n)` is 7/8 for two of three, and zero for one."""

    def apply(p: Any, x: Any) -> Any:
        x = jax.lax.conv_general_dilated(x, p["w"], (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC"))
        return x - x.mean((0, 1), keepdims=True)

    shapes = {"w": jax.ShapeDtypeStruct((3, 4, 16), "float32")}
    record = jinit.predict(apply, weights={"w": 1 / 12})(shapes, jnp.ones((32, 8, 4)))["w"]
    expected = 32 * 2 * (7 / 8) / 3 * record.cotangent.second_moment  # type: ignore[union-attr]
    np.testing.assert_allclose(record.weight_gradient.second_moment, expected, rtol=1e-4)  # type: ignore[union-attr]


def test_a_reshape_that_splits_and_merges():
    """What all places of an example share, four windows do, and what one window shares stays in it."""
    law = normal(0.0, 1.0, "x", (4, 1, 1, 2), "float32")
    law = broadcast(law, range(4), (4, 32, 1, 2))
    (root,) = reshaped(law, (16, 8, 2)).roots
    assert (root.axes, dict(root.runs)) == ({0, 2}, {0: 4.0})
    window = broadcast(normal(0.0, 1.0, "y", (16, 1, 2), "float32"), range(3), (16, 8, 2))
    (root,) = reshaped(window, (4, 32, 2)).roots
    assert (root.axes, dict(root.runs)) == ({0, 1, 2}, {1: 8.0})
    assert reshaped(reshaped(window, (4, 32, 2)), (16, 8, 2)).roots == window.roots


@pytest.mark.slow
@pytest.mark.parametrize("merged", [True, False])
def test_attention_in_windows(merged):
    """`(examples, places)` as `(examples windows, places of one)` and back: a window shares what it did."""
    examples, windows, size, width = 4, 4, 8, 64

    def attention(p, x):
        scores = (x @ p["q"]) @ jnp.swapaxes(x @ p["k"], -1, -2) / width**0.5
        return jax.nn.softmax(scores) @ (x @ p["v"]) @ p["o"]

    def apply(p, x):
        apart = (examples * windows, size, width) if merged else (examples, windows, size, width)
        y = x + attention(p, x.reshape(apart)).reshape(x.shape)
        return y.mean(1) @ p["head"]

    params = {name: jax.ShapeDtypeStruct((width, width), "float32") for name in ("q", "k", "v", "o", "head")}
    x = jax.random.normal(jax.random.key(0), (examples, windows * size, width))
    plan = jinit.plan([("*", jinit.lecun_normal())])
    found, draw = jinit.predict(apply, weights=plan)(params, x), jinit.init(apply, plan)
    measure = jax.jit(lambda p, key: jinit.measure(apply, key=key)(p, x)[1])
    seen = [measure(draw(key, params, x), key) for key in jax.random.split(jax.random.key(1), 16)]
    for site, field in (("v", "cotangent"), ("o", "weight_gradient"), ("head", "input")):
        assert disagreement(getattr(found[site], field), [getattr(r[site], field) for r in seen]) < 1, site
