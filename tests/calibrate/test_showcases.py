"""LSUV on networks as people build them: a ResNet in training mode, a ViT in a scan, a stacked LSTM."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from tests.zoo import array

pytestmark = [pytest.mark.slow, pytest.mark.standard_promotion]


class Block(nn.Module):
    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x, train):
        norm = functools.partial(nn.BatchNorm, use_running_average=not train)
        strides = (self.stride, self.stride)
        y = nn.relu(norm()(nn.Conv(self.features, (3, 3), strides, use_bias=False)(x)))
        y = norm(scale_init=nn.initializers.zeros)(nn.Conv(self.features, (3, 3), use_bias=False)(y))
        if x.shape != y.shape:
            x = norm()(nn.Conv(self.features, (1, 1), strides, use_bias=False)(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        norm = nn.BatchNorm(use_running_average=not train)
        x = nn.relu(norm(nn.Conv(16, (3, 3), use_bias=False)(x)))
        for features, stride in ((16, 1), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1)):
            x = Block(features, stride)(x, train)
        return nn.Dense(10)(x.mean((1, 2)))


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(4)(y, y)
        y = nn.gelu(nn.Dense(256)(nn.LayerNorm()(x)))
        return x + nn.Dense(64)(y), None


class ViT(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(64, (4, 4), (4, 4))(x).reshape(len(x), -1, 64)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        layers = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=6)
        x, _ = layers()(x, None)
        return nn.Dense(10)(nn.LayerNorm()(x)[:, 0])


class LSTM(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(50, 64)(tokens)
        for _ in range(2):
            x = nn.RNN(nn.LSTMCell(64))(x)
        return nn.Dense(50)(x)


IMAGES = array(16, 16, 16, 3, seed=1)


def test_resnet():
    model = ResNet()
    params = model.init(jax.random.key(0), IMAGES, True)
    calibrate = jinit.lsuv(model.apply, verify=True, inexact="error")
    new, records = calibrate(params, IMAGES, train=True, mutable=["batch_stats"])
    assert len(records) == 1 + 12 + 2 + 1
    assert max(float(r.error) for r in records.values()) < 1e-5
    assert new["batch_stats"] is not None
    for a, b in zip(jax.tree.leaves(new["batch_stats"]), jax.tree.leaves(params["batch_stats"]), strict=True):
        assert a is b


def test_vit():
    params = ViT().init(jax.random.key(0), IMAGES)
    _, records = jinit.lsuv(ViT().apply, verify=True, inexact="error")(params, IMAGES)
    assert len(records) == 1 + 6 + 1
    stacked = [r for r in records.values() if np.shape(r.factor)]
    assert [r.factor.shape for r in stacked] == [(6,)] * 6
    assert max(float(jnp.max(r.error)) for r in records.values()) < 1e-5


def test_lstm():
    """What is used at every step has its target over all steps together, and is named."""
    tokens = jax.random.randint(jax.random.key(1), (16, 20), 0, 50)
    params = LSTM().init(jax.random.key(0), tokens)
    _, records = jinit.lsuv(LSTM().apply, verify=True)(params, tokens)
    recurrent = {name: r for name, r in records.items() if "LSTMCell" in name}
    assert (len(records), len(recurrent)) == (18, 16)
    for name, record in records.items():
        output = record.output
        count = float(jnp.sum(output.count))
        mean = float(jnp.sum(output.total)) / count
        variance = float(jnp.sum(output.total_square)) / count - mean**2
        assert abs(np.sqrt(variance) - 1) < 1e-3, name
        assert ("used at every step" in record.note) == (name in recurrent)
