"""Unit variance by theory: the variances that follow are those of data, and no data is read."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jinit

WIDTH, BATCH = 256, 64
SHAPE = jax.ShapeDtypeStruct((BATCH, WIDTH), "float32")
X = jax.random.normal(jax.random.key(7), SHAPE.shape)


def stack(activation, depth, kernel_init=nn.linear.default_kernel_init, bias_init=nn.initializers.zeros):
    def layer():
        return nn.Dense(WIDTH, kernel_init=kernel_init, bias_init=bias_init)

    model = nn.Sequential([f for _ in range(depth) for f in (layer(), activation)])
    return model.apply, model.init(jax.random.key(1), X)


def variances(apply, params, *inputs):
    _, records = jinit.measure(apply, backward=False)(params, *inputs)
    return np.array([float(jnp.mean(r.output.variance)) for r in records.values()])


def softened(x):
    """An activation that nobody has a table for."""
    return jnp.where(x > 0.3, jnp.log1p(jnp.abs(x)), 0.2 * jnp.sin(x))


@pytest.mark.parametrize("activation", [jnp.tanh, nn.relu, softened])
@pytest.mark.parametrize("std", [0.001, 1.0])
def test_unit_variance_without_data(activation, std):
    depth = 8
    apply, params = stack(activation, depth, jinit.normal(std))
    params, records = jinit.autoinit(apply)(params, SHAPE)
    # A variance over WIDTH units strays by √(5/WIDTH) a layer, and that adds up (Hanin and Nica, 2020).
    assert np.max(np.abs(np.log(variances(apply, params, X)))) < 4 * np.sqrt(5 * depth / WIDTH)
    for record in records.values():
        assert float(record.output.variance) == pytest.approx(1.0, rel=1e-5)
        assert record.problem == ""


def rectified(mean, variance):
    """Mean and second moment of ReLU of a normal."""
    std = np.sqrt(variance)
    density, share = stats.norm.pdf(mean / std), stats.norm.cdf(mean / std)
    return mean * share + std * density, (mean**2 + variance) * share + mean * std * density


def test_the_factors_are_those_of_the_closed_form():
    apply, params = stack(nn.relu, 4)
    new, records = jinit.autoinit(apply, target=2.0)(params, SHAPE)
    mean, square = 0.0, 1.0
    for name, record in records.items():
        layer = name.split("/")[1]
        w = np.asarray(params["params"][layer]["kernel"], np.float64)
        expected = np.sqrt(2.0 / (WIDTH * (np.mean(w**2) * square - (np.mean(w) * mean) ** 2)))
        assert float(record.factor) == pytest.approx(expected, rel=1e-3)  # of the nodes, for a kink
        np.testing.assert_allclose(new["params"][layer]["kernel"] / w, float(record.factor), rtol=1e-5)
        mean, square = rectified(expected * WIDTH * np.mean(w) * mean, 2.0)


def test_biases_count():
    apply, params = stack(jnp.tanh, 2, bias_init=nn.initializers.normal(0.5))
    params, _ = jinit.autoinit(apply)(params, SHAPE)
    assert np.all(np.abs(np.log(variances(apply, params, X))) < 4 * np.sqrt(10 / WIDTH))


def test_layers_of_a_scan_have_a_factor_each():
    def apply(params, x):
        return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params["w"])[0]

    scale = jnp.geomspace(0.1, 10, 6)[:, None, None]
    params = {"w": scale * jax.random.normal(jax.random.key(2), (6, WIDTH, WIDTH)) / 16}
    new, records = jinit.autoinit(apply)(params, SHAPE)
    assert records["w"].factor.shape == (6,)
    _, measured = jinit.measure(apply, backward=False)(new, X)
    assert np.max(np.abs(np.log(measured["w"].output.variance))) < 4 * np.sqrt(5 * 6 / WIDTH)


def test_what_was_not_asked_for_stays():
    apply, params = stack(nn.relu, 3)
    new, records = jinit.autoinit(apply, sites="*layers_2*")(params, SHAPE)
    same = jax.tree.map(lambda a, b: a is b, params, new)["params"]
    assert not same["layers_2"]["kernel"]
    assert all(same[layer]["kernel"] and same[layer]["bias"] for layer in ("layers_0", "layers_4"))
    assert records["params/layers_0/kernel"].target is None


def test_what_cannot_be_followed_or_set_is_said():
    def sorted_out(w, x):
        return jax.lax.top_k(x @ w["a"], 16)[0] @ w["b"]

    params = {"a": X[:, :32].T @ X / 64, "b": X[:16, :8]}
    with pytest.raises(NotImplementedError, match="top_k"):
        jinit.autoinit(sorted_out)(params, jax.ShapeDtypeStruct((8, 32), "float32"))
    with pytest.raises(ValueError, match="must hold arrays"):
        jinit.autoinit(lambda w, x: x @ w)(jax.ShapeDtypeStruct((WIDTH, 4), "float32"), SHAPE)
    twice = lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"]  # noqa: E731
    same, records = jinit.autoinit(twice)({"w": X.T @ X / 64}, SHAPE)
    assert all("2 places" in record.problem for record in records.values())
    np.testing.assert_array_equal(same["w"], X.T @ X / 64)


@pytest.mark.slow
@pytest.mark.parametrize("activation", [jnp.tanh, nn.relu])
def test_depth_200(activation):
    apply, params = stack(activation, 200)
    assert variances(apply, params, X)[-1] < 0.01
    params, _ = jinit.autoinit(apply)(params, SHAPE)
    found = variances(apply, params, X)
    assert np.max(np.abs(np.log(found))) < 4 * np.sqrt(5 * 200 / WIDTH)
