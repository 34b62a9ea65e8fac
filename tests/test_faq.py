"""What everyone is told about initialization, held against real training on scikit-learn's digits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from sklearn.datasets import load_digits

import jinit

CHANCE = float(np.log(10))


@pytest.fixture(scope="module")
def digits() -> tuple[jax.Array, jax.Array]:
    pixels, labels = load_digits(return_X_y=True)
    x = (pixels - pixels.mean()) / pixels.std()
    return jnp.asarray(x, jnp.float32), jnp.asarray(labels, jnp.int32)


class MLP(nn.Module):
    depth: int
    width: int
    activation: Callable[[jax.Array], jax.Array]
    kernel_init: Any

    @nn.compact
    def __call__(self, x):
        for _ in range(self.depth):
            x = self.activation(nn.Dense(self.width, kernel_init=self.kernel_init)(x))
        return nn.Dense(10, kernel_init=self.kernel_init)(x)


def train(model, digits, *, steps, learning_rate, batch=128):
    """Parameters before and after SGD with momentum, and the losses on the way: one jitted scan."""
    x, y = digits
    params = jax.jit(model.init)(jax.random.key(0), x[:1])
    optimizer = optax.sgd(learning_rate, momentum=0.9)

    def loss(params, x, y):
        return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, x), y).mean()

    def step(state, key):
        params, opt_state = state
        pick = jax.random.randint(key, (batch,), 0, x.shape[0])
        value, grads = jax.value_and_grad(loss)(params, x[pick], y[pick])
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), value

    keys = jax.random.split(jax.random.key(1), steps)
    (after, _), losses = jax.jit(lambda state: jax.lax.scan(step, state, keys))(
        (params, optimizer.init(params))
    )
    accuracy = float(jnp.mean(jnp.argmax(model.apply(after, x), axis=-1) == y))
    return params, after, np.asarray(losses), accuracy


def spread_of_units(params, layer):
    """Largest difference between the incoming weights of two units, in units of the weights' rms."""
    kernel = np.asarray(params["params"][layer]["kernel"])
    return float(np.ptp(kernel, axis=1).max() / (np.sqrt(np.mean(kernel**2)) + 1e-30))


@pytest.mark.parametrize("kernel_init", [jinit.zeros, jinit.ones, jinit.constant(0.1)], ids=repr)
def test_equal_weights_stay_equal_through_training(kernel_init, digits):
    model = MLP(2, 32, jnp.tanh, kernel_init)
    _, after, _, accuracy = train(model, digits, steps=200, learning_rate=0.05)
    # Units that start equal get equal gradients; only the rounding of the matrix products tells them apart.
    assert spread_of_units(after, "Dense_0") < 1e-3
    assert accuracy < 0.5


def test_random_weights_do_not(digits):
    _, after, _, accuracy = train(
        MLP(2, 32, jnp.tanh, jinit.glorot_normal()), digits, steps=200, learning_rate=0.05
    )
    assert spread_of_units(after, "Dense_0") > 1.0
    assert accuracy > 0.95


def gradient_ratio(model, digits):
    """Gradient energy at the first site over that at the last, for the true loss."""
    x, y = digits[0][:256], digits[1][:256]
    params = model.init(jax.random.key(0), x)

    def loss(logits):
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    _, records = jinit.measure(model.apply, loss=loss)(params, x)
    energies = [float(r.cotangent.total_square) for r in records.values()]
    return energies[0] / energies[-1]


@pytest.mark.slow
def test_too_small_vanishes_and_does_not_learn(digits):
    model = MLP(8, 64, jnp.tanh, jinit.normal(0.01))
    assert gradient_ratio(model, digits) < 1e-10
    _, _, losses, _ = train(model, digits, steps=200, learning_rate=0.05)
    assert losses[-20:].mean() > 0.98 * CHANCE


@pytest.mark.slow
def test_too_large_explodes(digits):
    model = MLP(8, 64, nn.relu, jinit.normal(1.0))
    assert gradient_ratio(model, digits) > 1e6
    _, _, losses, _ = train(model, digits, steps=50, learning_rate=0.05)
    assert not np.isfinite(losses[-1]) or losses[-1] > 10 * CHANCE


@pytest.mark.slow
def test_he_suits_relu_where_xavier_stalls(digits):
    """He et al. 2015, Figure 3: at 30 layers the factor 2 decides whether a ReLU network learns at all."""
    trained = {
        name: train(MLP(30, 128, nn.relu, init), digits, steps=700, learning_rate=0.002)
        for name, init in [("he", jinit.he_normal()), ("xavier", jinit.glorot_normal())]
    }
    assert trained["he"][2][-50:].mean() < 0.5 * CHANCE
    assert trained["xavier"][2][-50:].mean() > 0.9 * CHANCE
    assert trained["he"][3] > 0.75 > 0.4 > trained["xavier"][3]


@pytest.mark.slow
def test_xavier_suits_tanh(digits):
    """Glorot and Bengio 2010: gradients keep their scale, where the 1/sqrt(n) rule leaves 1/3 a layer."""
    ratios = {
        name: gradient_ratio(MLP(10, 128, jnp.tanh, init), digits)
        for name, init in [("xavier", jinit.glorot_uniform()), ("1/sqrt(n)", jinit.fan_in_uniform())]
    }
    assert 0.1 < ratios["xavier"] < 10
    assert ratios["1/sqrt(n)"] < 1e-3
    _, _, _, accuracy = train(
        MLP(10, 128, jnp.tanh, jinit.glorot_uniform()), digits, steps=300, learning_rate=0.02
    )
    assert accuracy > 0.95


@pytest.mark.slow
def test_every_layer_with_weights_is_covered_and_dropout_has_none(digits):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(4, (3, 3), kernel_init=jinit.he_normal())(x.reshape(-1, 8, 8, 1)))
            x = nn.Dropout(0.5, deterministic=False)(x.reshape(x.shape[0], -1))
            x = nn.LayerNorm()(nn.Dense(16, kernel_init=jinit.glorot_normal(), bias_init=jinit.zeros)(x))
            return nn.Dense(10, kernel_init=jinit.zeros, bias_init=jinit.normal(0.1))(x)

    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    x = digits[0][:32]
    params = Net().init(rngs, x)
    assert not any("Dropout" in name for name in params["params"])
    _, records = jinit.measure(Net().apply)(params, x, rngs={"dropout": jax.random.key(2)})
    kernels = [f"params/{layer}/kernel" for layer in ("Conv_0", "Dense_0", "Dense_1")]
    assert list(records) == kernels
    # Half of the units are dropped on the way into the first Dense layer, on top of ReLU's half.
    assert 0.65 < float(records["params/Dense_0/kernel"].input.zero_fraction) < 0.9
