"""Entries beside sums that have them, against exact values and sums over all entries of a sample."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit

ROWS, GROUPS, WIDTH = 64, 16, 256


def predicted(function, size):
    """Second moments of a function of groups of independent standard normals, and of what comes back."""

    def of_rows(h):
        return function(h.reshape(ROWS, GROUPS, size)).reshape(ROWS, -1)

    wide = jax.eval_shape(of_rows, jnp.zeros((ROWS, GROUPS * size))).shape[1]
    shapes = {"a": (WIDTH, GROUPS * size), "o": (wide, WIDTH)}
    params = {k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in shapes.items()}
    x = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32)
    records = jinit.predict(lambda p, x: of_rows(x @ p["a"]) @ p["o"], weights=lambda path: 1 / WIDTH)(
        params, x
    )
    return float(records["o"].input.second_moment), float(records["a"].cotangent.second_moment)


def sampled(function, size, draws=200_000):
    """The same of a sample, in float64."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(size)
        h = jnp.asarray(rng.standard_normal((draws, 1, size)))
        y, pull = jax.vjp(function, h)
        (back,) = pull(jnp.asarray(rng.standard_normal(y.shape)))
        return float(jnp.mean(y**2)), float(jnp.mean(back**2))


def rms_normalised(h):
    return h * jax.lax.rsqrt(jnp.mean(h**2, -1, keepdims=True))


@pytest.mark.parametrize("n", [4, 6, 16, 64])
def test_normalized_entries_are_exact(n):
    """`x / s`: a derivative `(I - x xᵀ / n s²) / s`, where `E[1 / s²] = n / (n - 2)`."""
    assert predicted(rms_normalised, n) == pytest.approx((1, n / (n - 2) * (1 - 1 / n)), rel=5e-3)


@pytest.mark.parametrize("n", [3, 4, 8, 64])
def test_the_norm_of_a_few_is_exact(n):
    """The norm: its derivative `x / |x|` has a mean square of `1 / n`."""
    signal, back = predicted(lambda h: jnp.sqrt(jnp.sum(h**2, -1)), n)
    assert (signal, back) == pytest.approx((n, 1 / n), rel=5e-3)


@pytest.mark.parametrize("n", [2, 3, 16, 128])
@pytest.mark.parametrize("scale", [1.0, -0.5, 3.0])
def test_entries_beside_their_mean_are_exact(n, scale):
    square = 1 + (2 * scale + scale**2) / n
    assert predicted(lambda h: h + scale * h.mean(-1, keepdims=True), n) == pytest.approx((square, square))


@pytest.mark.parametrize("n", [2, 4, 16, 128])
def test_the_mean_of_entries_beside_their_mean_is_exact(n):
    def twice(h):
        return (h + h.mean(-1, keepdims=True)).mean(-1)

    assert predicted(twice, n) == pytest.approx((4 / n, 4 / n**2), rel=1e-4)


GATES = {
    "logistic": lambda h: jax.nn.relu(h) * jax.nn.sigmoid(h.shape[-1] ** 0.5 * h.mean(-1, keepdims=True)),
    "tanh": lambda h: jax.nn.relu(h) * jnp.tanh(h.shape[-1] ** 0.5 * h.mean(-1, keepdims=True)),
    "of a mean of squares": lambda h: h * jnp.tanh(h.shape[-1] ** 0.5 * (h**2 - 1).mean(-1, keepdims=True)),
    "only forward": lambda h: h * jax.lax.stop_gradient(jax.nn.sigmoid(3 * h.mean(-1, keepdims=True))),
    "only backward": lambda h: jax.lax.stop_gradient(h) * jax.nn.sigmoid(3 * h.mean(-1, keepdims=True)),
}
POOLED = {
    "logarithm of a sum of exponentials": lambda h: jnp.log(jnp.exp(h).sum(-1)),
    "generalized mean": lambda h: jnp.mean(jax.nn.relu(h) ** 3, -1) ** (1 / 3),
    "deviation": lambda h: jnp.std(h, -1),
    "norm of exponentials": lambda h: jnp.sqrt(jnp.sum(jnp.exp(h), -1)),
}


def test_deviations_of_small_groups_of_channels():
    """Repeated by channel they are no longer known to be of it, and count as of many: else 6 % too large."""
    norm = nn.GroupNorm(num_groups=None, group_size=4)

    def apply(params, x):
        for name in "ab":
            x = x + norm.apply({"params": {"scale": jnp.ones(64), "bias": jnp.zeros(64)}}, x @ params[name])
        return x @ params["o"]

    params = {k: jax.ShapeDtypeStruct((64, 64), jnp.float32) for k in "abo"}
    x = jax.ShapeDtypeStruct((2, 4, 4, 64), jnp.float32)
    records = jinit.predict(apply, weights=lambda path: 1 / 64)(params, x)
    assert float(records["b"].input.second_moment) == pytest.approx(2, rel=0.01)
    assert float(records["o"].input.second_moment) == pytest.approx(3, rel=0.01)


DIVIDED = {
    "by the norm": lambda h: h / jnp.linalg.norm(h, axis=-1, keepdims=True),
    "by a mean": lambda h: jax.nn.relu(h) / (jax.nn.relu(h).mean(-1, keepdims=True) + 0.5),
    "beside the entry": lambda h: h + h * jax.lax.rsqrt((h**2).mean(-1, keepdims=True)),
    "by the mean of sizes": lambda h: h / jnp.abs(h).mean(-1, keepdims=True),
}


@pytest.mark.parametrize("n", [16, 32, 128])
@pytest.mark.parametrize("name", GATES)
def test_gates_of_a_mean_are_as_sampled(name, n):
    assert predicted(GATES[name], n) == pytest.approx(sampled(GATES[name], n), rel=0.06)


@pytest.mark.parametrize("n", [16, 40, 64])
@pytest.mark.parametrize("name", POOLED)
def test_functions_of_sums_are_as_sampled(name, n):
    assert predicted(POOLED[name], n) == pytest.approx(sampled(POOLED[name], n), rel=0.06)


@pytest.mark.parametrize("n", [12, 16, 64])
@pytest.mark.parametrize("name", DIVIDED)
def test_divided_entries_are_as_sampled(name, n):
    assert predicted(DIVIDED[name], n) == pytest.approx(sampled(DIVIDED[name], n), rel=0.06)
