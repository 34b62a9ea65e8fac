"""A mean subtracted: what is left sums to zero, and so does what comes back from it."""

from __future__ import annotations

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jinit
from tests.signals.agreement import DRAWS, disagreement
from tests.zoos.member import array

pytestmark = pytest.mark.standard_promotion  # haiku's need it

WIDTH, CHANNELS = 128, 48
FIELDS = ("input", "output", "cotangent", "weight_gradient")


def linen_batch_norm(x):
    return nn.BatchNorm(use_running_average=False, use_bias=False, use_scale=False).apply(
        {"batch_stats": {"mean": jnp.zeros(x.shape[-1]), "var": jnp.ones(x.shape[-1])}},
        x,
        mutable=["batch_stats"],
    )[0]


def haiku_batch_norm(x):
    net = hk.without_apply_rng(hk.transform_with_state(lambda x: hk.BatchNorm(False, False, 0.9)(x, True)))
    return net.apply(*net.init(None, x), x)[0]


def equinox_batch_norm(x):
    """Its means are taken over places first, then over a named axis."""
    norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(
        x.shape[-1], "batch", channelwise_affine=False, mode="batch"
    )
    mapped = jax.vmap(norm, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    return jnp.moveaxis(mapped(jnp.moveaxis(x, -1, 1), state)[0], 1, -1)


def nnx_layer_norm_over_places(x):
    norm = nnx.LayerNorm(
        x.shape[-1],
        reduction_axes=(0, *range(1, x.ndim - 1)),
        use_scale=False,
        use_bias=False,
        rngs=nnx.Rngs(0),
    )
    return norm(x)


def two_passes(x):
    axes = tuple(range(x.ndim - 1))
    return (x - x.mean(axes, keepdims=True)) / jnp.sqrt(x.var(axes, keepdims=True) + 1e-5)


def by_product(x):
    axes = tuple(range(x.ndim - 1))
    mean = jnp.sum(x, axes, keepdims=True) * (1 / np.prod([x.shape[i] for i in axes]))
    return (x - mean) * jax.lax.rsqrt(jnp.mean(x * x, axes, keepdims=True) - mean**2 + 1e-5)


NORMS = [
    linen_batch_norm,
    haiku_batch_norm,
    equinox_batch_norm,
    nnx_layer_norm_over_places,
    two_passes,
    by_product,
]


def measured(apply, shapes, x, variance, draws=DRAWS):
    measure = jax.jit(lambda p, x, key: jinit.measure(apply, key=key)(p, x)[1])
    found = []
    for i in range(draws):
        keys = jax.random.split(jax.random.key(i), len(shapes) + 1)
        p = {
            k: jax.random.normal(key, s.shape) * variance(k) ** 0.5
            for key, (k, s) in zip(keys, shapes.items(), strict=False)
        }
        found.append(measure(p, jax.random.normal(keys[-1], x.shape), jax.random.key(100 + i)))
    return found


def agree(apply, shapes, x, variance, fields=FIELDS):
    shapes = {k: jax.ShapeDtypeStruct(s, "float32") for k, s in shapes.items()}
    predicted = jinit.predict(apply, weights=variance)(shapes, jax.ShapeDtypeStruct(x.shape, x.dtype))
    draws = measured(apply, shapes, x, variance)
    for site in shapes:
        for field in fields:
            of_draws = [getattr(d[site], field) for d in draws]
            assert disagreement(getattr(predicted[site], field), of_draws) < 1, (site, field)


@pytest.mark.parametrize("norm", [*(pytest.param(n, marks=pytest.mark.slow) for n in NORMS[:4]), *NORMS[4:]])
@pytest.mark.slow
def test_gradients_before_a_batch_norm(norm):
    """The mean of ReLU's output meets a gradient that sums to zero: else 1.47 times too much."""

    def apply(p, x):
        for k in "ab":
            x = jax.nn.relu(norm(x @ p[k]))
        return x @ p["c"]

    shapes = {"a": (WIDTH, WIDTH), "b": (WIDTH, WIDTH), "c": (WIDTH, 10)}
    agree(apply, shapes, array(64, WIDTH), lambda path: 1 / WIDTH)


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
def test_gradients_of_convolutions_before_a_batch_norm(norm):
    """What pooling shares among all places: 10 times too much."""

    def apply(p, x):
        for k in "ab":
            x = jax.lax.conv_general_dilated(
                x, p[k], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(norm(x))
        return x.mean((1, 2)) @ p["c"]

    shapes = {"a": (3, 3, CHANNELS, CHANNELS), "b": (3, 3, CHANNELS, CHANNELS), "c": (CHANNELS, 10)}
    fans = {"a": 9 * CHANNELS, "b": 9 * CHANNELS, "c": CHANNELS}
    x = array(64, 6, 6, CHANNELS)
    agree(apply, shapes, x, lambda path: 1 / fans[path], fields=("output", "weight_gradient"))


@pytest.mark.slow
def test_token_mixing():
    """The gradient of a weight that is summed over the axis of a LayerNorm."""

    def apply(p, x):
        mixed = jax.nn.standardize(x.reshape(8, 64, WIDTH)).swapaxes(1, 2)
        return jnp.tanh(jax.nn.relu(mixed @ p["a"]) @ p["b"]).swapaxes(1, 2).mean(1) @ p["c"]

    shapes = {"a": (64, 64), "b": (64, 64), "c": (WIDTH, 10)}
    fans = {"a": 64, "b": 64, "c": WIDTH}
    agree(apply, shapes, array(8 * 64, WIDTH), lambda path: 1 / fans[path])


@pytest.mark.parametrize("standardized", [False, True])
@pytest.mark.parametrize("drawn", [False, True])
def test_weights_that_sum_to_zero_do_not_see_a_mean(standardized, drawn):
    """`E[z²] = n Var[x] Var[w]` instead of `n E[x²] Var[w]`: for ReLU's output `1 - 1/π` of it."""

    def apply(p, x):
        weight = p["a"] - p["a"].mean(0, keepdims=True) if standardized else p["a"]
        return jax.nn.relu(x) @ weight

    params = {"a": jax.random.normal(jax.random.key(0), (512, 64)) / 16}
    params = params if drawn else jax.eval_shape(lambda: params)
    weights = None if drawn else lambda path: 2 / 512
    x = jax.ShapeDtypeStruct((32, 512), "float32")
    record = jinit.predict(apply, weights=weights, backward=False)(params, x)["a"]
    assert record.output is not None
    expected = 1 - 1 / np.pi if standardized else 1
    np.testing.assert_allclose(record.output.second_moment, expected, rtol=0.02 if drawn else 2e-3)


@pytest.mark.parametrize(("standardized", "drawn"), [(True, False), (True, True), (False, True)])
def test_what_sums_to_zero_does_not_see_the_mean_of_a_weight(standardized, drawn):
    """`E[z²] = n E[x²] Var[w]`, and else `(n E[x] E[w])²` more."""

    def apply(p, x):
        return (jax.nn.standardize(x) if standardized else x) @ p["a"]

    plan = jinit.plan([("*", jinit.positive(jinit.lecun_normal()))])
    shapes = {"a": jax.ShapeDtypeStruct((256, 64), "float32")}
    x = jax.nn.standardize(jax.random.normal(jax.random.key(0), (32, 256))) + 1
    record = jinit.predict(apply, weights=plan, backward=False)(
        shapes, x if drawn else jax.eval_shape(lambda: x)
    )["a"]
    assert record.output is not None
    mean, variance = plan.laws(apply)(shapes, x)["a"]
    expected = 256 * variance if standardized else 256 * 2 * variance + (256 * mean) ** 2
    np.testing.assert_allclose(record.output.second_moment, expected, rtol=1e-3)


@pytest.mark.parametrize(
    "apply",
    [
        lambda x, y: x - y.mean(1, keepdims=True),
        lambda x, y: x - x.mean(0)[:, None],  # as long, but the other axis
        lambda x, y: x - x.sum(1, keepdims=True) / 7,
        lambda x, y: x - jax.lax.square(x).mean(1, keepdims=True),
    ],
)
def test_no_mean_subtracted(apply):
    """Nothing is taken for what it is not: a mean comes through to the product with a positive weight."""
    x = jax.random.normal(jax.random.key(0), (64, 64)) + 3
    y = jax.random.normal(jax.random.key(1), (64, 64))
    weight = jax.random.uniform(jax.random.key(2), (64, 64))
    signal = lambda p, x, y: apply(jnp.tanh(x @ p["a"]) + 2, jnp.sin(y)) @ p["b"]  # noqa: E731
    params = {"a": jax.random.normal(jax.random.key(3), (64, 64)) / 24, "b": weight}
    predicted = jinit.predict(signal, backward=False)(params, x, y)["b"].output
    found = jinit.measure(signal, backward=False)(params, x, y)[1]["b"].output
    assert predicted is not None
    assert found is not None
    assert 0.7 < predicted.second_moment / found.second_moment < 1.4


def test_inputs_that_share_nothing_keep_their_mean():
    """`E[1/x²]` of inputs far from zero, of which no axis shares more than chance would have it."""
    x = 5 + jax.random.normal(jax.random.key(0), (16, 24, 32))
    shapes = {"a": jax.ShapeDtypeStruct((32, 8), "float32")}
    record = jinit.predict(lambda p, x: (1 / x) @ p["a"], weights=lambda path: 1 / 32)(shapes, x)["a"]
    assert record.output is not None
    np.testing.assert_allclose(record.output.second_moment, jnp.mean(1 / x**2), rtol=0.01)
