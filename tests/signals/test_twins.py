"""One weight that meets several signals, and one array in several places."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from tests.signals.shared_weights import Normal, Times, of_shared_weights

WIDTH = 256


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def predicted(apply: Any, *inputs: Any, **shapes: tuple[int, ...]) -> Any:
    params = {k: jax.ShapeDtypeStruct(s, "float32") for k, s in shapes.items()}
    return jinit.predict(apply, weights=lambda path: 1 / WIDTH)(params, *inputs)


def mean_of(function: Any, correlation: float) -> float:
    """`E[f(u, v)]` of standard normals of this correlation, by Gauss-Hermite."""
    z, w = np.polynomial.hermite_e.hermegauss(80)
    w = w / w.sum()
    u, v = z[:, None], correlation * z[:, None] + np.sqrt(1 - correlation**2) * z
    return float(w @ function(u, v) @ w)


@pytest.mark.parametrize("noise", [0.1, 0.5, 2.0])
def test_both_branches_of_a_siamese_network(noise):
    """`f(x) - f(x')`, whose branches counted as independent: 170 times too large for noise of a tenth."""
    x = normal(0, 64, WIDTH)
    x = x / jnp.sqrt(jnp.mean(x**2))
    y = (x + noise * normal(1, 64, WIDTH)) / np.sqrt(1 + noise**2)
    y = y / jnp.sqrt(jnp.mean(y**2))

    def apply(p: Any, x: Any, y: Any) -> Any:
        return (jnp.tanh(x @ p["a"]) - jnp.tanh(y @ p["a"])) @ p["b"]

    found = predicted(apply, x, y, a=(WIDTH, WIDTH), b=(WIDTH, 8))
    expected = mean_of(lambda u, v: (np.tanh(u) - np.tanh(v)) ** 2, float(jnp.mean(x * y)))
    np.testing.assert_allclose(found["b"].input.second_moment, expected, rtol=0.03)


@pytest.mark.parametrize("noise", [0.03, 0.1, 0.5])
@pytest.mark.parametrize("depth", [1, 3])
def test_noise_drawn_inside_of_a_model(noise, depth):
    """As of a denoiser; noise stood on thousands of nodes, and with it signals on nodes of their own.

    `E[(f(x) - f(x + e))²]` is 1.4 times as much for noise of a tenth if what examples share by the mean of
    their inputs is not known of both.
    """
    x = normal(0, 64, WIDTH)
    x = x / jnp.sqrt(jnp.mean(x**2))
    kept = np.sqrt(1 - noise**2)

    def encoded(p: Any, x: Any) -> Any:
        for k in range(depth):
            x = jnp.tanh(x @ p[f"a{k}"])
        return x

    def apply(p: Any, x: Any) -> Any:
        y = kept * x + noise * jax.random.normal(jax.random.key(2), x.shape)
        return (encoded(p, x) - encoded(p, y)) @ p["b"]

    shapes = {f"a{k}": (WIDTH, WIDTH) for k in range(depth)}
    found = predicted(apply, x, b=(WIDTH, 8), **shapes)
    theory = {"weight_variance": 1.0, "bias_variance": 0.0}
    q, c = 1.0, kept
    for _ in range(depth):
        c = jinit.meanfield.correlation_map(jnp.tanh, q, c, **theory)
        q = jinit.meanfield.variance_map(jnp.tanh, q, **theory)
    np.testing.assert_allclose(found["b"].input.second_moment, 2 * q * (1 - c), rtol=0.03)


def test_what_all_examples_share_by_one_weight():
    """Encoders of one weight, of independent inputs: the mean of `relu` meets the same weights in both."""
    x, y = normal(0, 32, WIDTH), normal(1, 32, WIDTH)

    def encoded(p: Any, x: Any) -> Any:
        return jax.nn.relu(x @ p["a"]) @ p["b"]

    def apply(p: Any, x: Any, y: Any) -> Any:
        return (encoded(p, x) @ encoded(p, y).T) @ p["c"]

    found = predicted(apply, x, y, a=(WIDTH, WIDTH), b=(WIDTH, WIDTH), c=(32, 8))
    # E[(Σ_j u_j v_j)²] of n features of variance 1/2, which share 1/(2π) of two rectified normals.
    expected = WIDTH * 0.25 + WIDTH**2 / (4 * np.pi**2)
    np.testing.assert_allclose(found["c"].input.second_moment, expected, rtol=0.05)


@pytest.mark.parametrize("joined", [lambda u, v: jnp.abs(u - v), lambda u, v: u * v])
def test_encoders_of_two_layers(joined):
    """Of independent inputs, by a NumPy integral: `relu` twice, then what both are compared by."""
    x, y = normal(0, 32, WIDTH), normal(1, 32, WIDTH)

    def apply(p: Any, x: Any, y: Any) -> Any:
        u, v = (jax.nn.relu(jax.nn.relu(z @ p["a"]) @ p["b"]) for z in (x, y))
        return joined(u, v) @ p["c"]

    found = predicted(apply, x, y, a=(WIDTH, WIDTH), b=(WIDTH, WIDTH), c=(WIDTH, 8))
    z, w = np.polynomial.hermite_e.hermegauss(200)
    w, own = w / w.sum(), np.sqrt(1 - 1 / np.pi)  # of two rectified normals the mean product is 1 / (2π)
    scale = np.sqrt(0.5)
    u = np.maximum(z[:, None, None] / np.sqrt(np.pi) + own * z[:, None], 0) * scale
    v = np.maximum(z[:, None, None] / np.sqrt(np.pi) + own * z, 0) * scale
    squares = np.asarray(joined(jnp.asarray(u, jnp.float32), jnp.asarray(v, jnp.float32))) ** 2
    np.testing.assert_allclose(
        found["c"].input.second_moment, np.einsum("ijk,i,j,k", squares, w, w, w), rtol=0.03
    )


def test_the_same_signal_and_weight_are_the_same():
    x = normal(0, 64, WIDTH)

    def apply(p: Any, x: Any) -> Any:
        return (jnp.tanh(x @ p["a"]) + jnp.tanh(x @ p["a"])) @ p["b"]

    found = predicted(apply, x, a=(WIDTH, WIDTH), b=(WIDTH, 8))
    square = mean_of(lambda u, v: np.tanh(u) ** 2 + 0 * v, 0.0)
    np.testing.assert_allclose(found["b"].input.second_moment, 4 * square, rtol=0.01)


@pytest.mark.parametrize("count", [2, 8])
def test_given_biases_keep_examples_as_large_as_one(count):
    """Of normal biases the law is known: moments were 0.7 % too small with two examples, at any width."""
    depth = 60
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "w": jax.random.normal(keys[0], (depth, WIDTH, WIDTH)) * np.sqrt(1.76 / WIDTH),
        "b": jax.random.normal(keys[1], (depth, WIDTH)) * np.sqrt(0.05),
    }

    def apply(p: Any, x: Any) -> Any:
        return jax.lax.scan(lambda h, q: (jnp.tanh(h @ q["w"] + q["b"][None]), None), x, p)[0]

    x = normal(3, count, WIDTH)
    several = jinit.predict(apply)(params, x)["w"].output.second_moment
    alone = jinit.predict(apply)(params, x[:1])["w"].output.second_moment
    np.testing.assert_allclose(several[20:], alone[20:], rtol=2e-3)


BLOCKS = {
    "linear": lambda x, times: x + times(x, "a"),
    "one layer": lambda x, times: jnp.tanh(times(x, "a")),
    "steps of a flow": lambda x, times: x + 0.3 * jnp.tanh(times(x, "a")),
    "rectified": lambda x, times: x + times(jnp.maximum(times(x, "a"), 0), "b"),
    "two layers": lambda x, times: x + times(jnp.tanh(times(x, "a")), "b"),
}


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_of_the_same_weights(name: str, count: int, given: bool):
    """Before they were known to have something in common, two linear blocks came out as 4 instead of 6."""

    def apply(p: Any, x: Any) -> Any:
        for _ in range(count):
            x = BLOCKS[name](x, lambda y, weight: y @ p[weight])
        return x @ p["c"]

    x = normal(0, 64, WIDTH)
    square = float(jnp.mean(x * x)) if given else 1.0
    shapes = {"a": (WIDTH, WIDTH), "b": (WIDTH, WIDTH), "c": (WIDTH, 8)}
    used = {k: v for k, v in shapes.items() if k != "b" or name in ("rectified", "two layers")}
    found = predicted(apply, x if given else jax.ShapeDtypeStruct(x.shape, x.dtype), **used)

    def blocks(times: Times, normal: Normal) -> Any:
        x = normal()
        for _ in range(count):
            x = BLOCKS[name](x, times)
        return x

    expected = of_shared_weights(blocks)
    np.testing.assert_allclose(found["c"].input.second_moment, expected * square, rtol=0.035)


@pytest.mark.parametrize("name", ["linear", "rectified", "two layers"])
def test_blocks_of_the_same_weights_that_are_normalised(name: str):
    """What comes back to the last block is over the deviation of `x + f(x)`, as in the layers of ALBERT.

    Behind a mean that was subtracted it was no longer known what a signal was made of: 1.4 to 1.5 times that.
    """

    def normalized(x: Any) -> Any:
        x = x - x.mean(-1, keepdims=True)
        return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)

    def apply(p: Any, x: Any) -> Any:
        for _ in range(2):
            x = normalized(BLOCKS[name](x, lambda y, weight: y @ p[weight]))
        return x

    def network(times: Times, normal: Normal) -> Any:
        x = BLOCKS[name](normal(), times)
        return BLOCKS[name](x / np.std(x), times)

    used = ("a",) if name == "linear" else ("a", "b")
    x = jax.ShapeDtypeStruct((4, 16, WIDTH), "float32")
    found = predicted(apply, x, **dict.fromkeys(used, (WIDTH, WIDTH)))
    back = found[f"{used[-1]}#1"].cotangent.second_moment
    np.testing.assert_allclose(back, 1 / of_shared_weights(network), rtol=0.03)


def test_uses_of_a_weight_that_meet_what_it_made_are_told():
    def notes(apply: Any) -> dict[str, bool]:
        shapes = {"a": (WIDTH, WIDTH), "o": (WIDTH, 8)}
        found = predicted(apply, normal(0, 4, WIDTH), **shapes)
        return {name: bool(record.note) for name, record in found.items()}

    assert notes(lambda p, x: jnp.tanh(x @ p["a"]) @ p["a"] @ p["o"]) == {
        "a#0": False,
        "a#1": True,
        "o": False,
    }
    assert notes(lambda p, x: (jnp.tanh(x @ p["a"]) - (x * x) @ p["a"]) @ p["o"]) == {
        "a#0": False,
        "a#1": False,
        "o": False,
    }

    def looped(p: Any, x: Any) -> Any:
        return jax.lax.scan(lambda h, _: (jnp.tanh(h @ p["a"]), None), x, None, length=3)[0] @ p["o"]

    assert notes(looped) == {"a": True, "o": False}


def test_slices_of_one_array_are_weights_of_their_own():
    params = {"a": jax.ShapeDtypeStruct((3, WIDTH, WIDTH), "float32")}
    x = normal(0, 4, WIDTH)

    def looped(p: Any, x: Any) -> Any:
        return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["a"])[0]

    for apply in (looped, lambda p, x: jnp.tanh(x @ p["a"][0]) @ p["a"][1]):
        found = jinit.predict(apply, weights=lambda path: 1 / WIDTH)(params, x)
        assert not any(record.note for record in found.values())
