"""Whole networks: healthy ones give no finding at all, ill ones the right ones."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax import lax

import jinit
from jinit.report.report import diagnose as diagnose_with_theory

diagnose = functools.partial(diagnose_with_theory, predict=False)
DEPTH, WIDTH, BATCH = 30, 64, 32
init = jax.nn.initializers


def mlp(activation):
    def apply(params, x):
        for layer in params[:-1]:
            x = activation(jnp.dot(x, layer["w"]) + layer["b"][None])
        return jnp.dot(x, params[-1]["w"]) + params[-1]["b"][None]

    return apply


def drawn(kernel, bias=0.0, depth=DEPTH, head=None):
    keys = jax.random.split(jax.random.key(0), depth)
    sizes = [WIDTH] * depth + [10]
    laws = [kernel] * (depth - 1) + [head or init.lecun_normal()]
    shapes = zip(laws, keys, sizes, sizes[1:], strict=False)
    return [{"w": law(key, (n, m)), "b": jnp.full((m,), bias)} for law, key, n, m in shapes]


X = jax.random.normal(jax.random.key(9), (BATCH, WIDTH))


@functools.cache
def diagnosed(activation):
    return diagnose(mlp(activation))  # compiles once for all initializers


def kinds(activation, *args, **kwargs):
    return {f.kind: f.severity for f in diagnosed(activation)(drawn(*args, **kwargs), X).findings}


@pytest.mark.slow
@pytest.mark.parametrize("activation", [jax.nn.relu, jnp.tanh])
def test_deep_networks(activation):
    good = init.he_normal() if activation is jax.nn.relu else init.lecun_normal()
    assert kinds(activation, good) == {}
    assert kinds(activation, good, head=init.zeros) == {}
    small = kinds(activation, init.normal(0.01))
    assert small == {"vanishing_signal": "severe", "vanishing_gradient": "severe"}
    assert kinds(activation, init.normal(1.0))["exploding_gradient"] == "severe"
    assert kinds(activation, init.zeros) == {"symmetric_units": "severe"}
    assert kinds(activation, init.constant(0.1)) == {"symmetric_units": "severe"}


def test_relu_alone():
    assert kinds(jax.nn.relu, init.xavier_normal())["vanishing_signal"] == "severe"
    assert kinds(jax.nn.relu, init.normal(1.0))["exploding_signal"] == "severe"
    assert kinds(jax.nn.relu, init.he_normal(), bias=-10.0) == {"dead_units": "severe"}
    params = drawn(init.he_normal())
    params[4]["w"] = params[4]["w"].at[0, 0].set(jnp.nan)
    (finding,) = diagnosed(jax.nn.relu)(params, X).findings
    assert (finding.kind, finding.severity, finding.site) == ("nonfinite", "severe", "4/w")


@pytest.mark.parametrize("scale", [0.01, 1.0])
@pytest.mark.slow
def test_the_remedy_for_a_signal_mends_the_weights(scale):
    params = drawn(init.normal(scale))
    ill = diagnosed(jax.nn.relu)(params, X).findings
    (remedy,) = [f.remedy for f in ill if f.kind.endswith("ing_signal")]
    scope = {"jinit": jinit, "apply": mlp(jax.nn.relu), "params": params, "inputs": (X,)}
    exec(remedy.splitlines()[-1], scope)
    assert diagnosed(jax.nn.relu)(scope["params"], X).findings == ()


@pytest.mark.slow
def test_sigmoid_saturates():
    assert kinds(jax.nn.sigmoid, init.normal(3.0))["saturated_units"] in ("warning", "severe")
    assert kinds(jax.nn.sigmoid, init.lecun_normal())["collapsed_inputs"] == "severe"


@pytest.mark.slow
def test_gradient_cut_by_stop_gradient():
    def apply(params, x):
        frozen = lax.stop_gradient(mlp(jnp.tanh)(params[:8], x))
        return mlp(jnp.tanh)(params[8:], frozen)

    params = drawn(init.lecun_normal(), depth=12)
    params[7]["w"], params[7]["b"] = params[6]["w"], params[6]["b"]
    params[8]["w"] = jax.random.normal(jax.random.key(3), (WIDTH, WIDTH)) / 8
    findings = diagnose(apply)(params, X).findings
    assert [(f.severity, f.kind) for f in findings] == [("warning", "vanishing_gradient")]


@pytest.mark.slow
def test_scan_over_stacked_weights():
    def apply(params, x):
        return lax.scan(lambda h, w: (jnp.tanh(jnp.dot(h, w)), None), x, params["w"])[0]

    w = jax.random.normal(jax.random.key(0), (40, WIDTH, WIDTH)) / 8
    assert diagnose(apply)({"w": w}, X).findings == ()
    found = {f.kind: f for f in diagnose(apply)({"w": 0.1 * w}, X).findings}
    assert found["vanishing_signal"].severity == "severe"
    assert (found["vanishing_signal"].site, found["vanishing_signal"].step) == ("w", (2,))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        law = init.normal(0.02)
        h = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(4, kernel_init=law)(h, h)
        h = nn.gelu(nn.Dense(4 * x.shape[-1], kernel_init=law)(nn.LayerNorm()(x)))
        return x + nn.Dense(x.shape[-1], kernel_init=law)(h)


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(300, 64, embedding_init=init.normal(0.02))
        x = embed(tokens)
        for _ in range(2):
            x = Block()(x)
        return embed.attend(nn.LayerNorm()(x))


class ResNet(nn.Module):
    zero: bool

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(16, (3, 3))(x)
        for _ in range(2):
            norm = functools.partial(nn.BatchNorm, use_running_average=False)
            h = nn.Conv(16, (3, 3), use_bias=False)(nn.relu(norm()(x)))
            h = nn.Conv(16, (3, 3), use_bias=False)(nn.relu(norm()(h)))
            x = x + norm(scale_init=init.zeros if self.zero else init.ones)(h)
        return nn.Dense(10, kernel_init=init.zeros if self.zero else init.lecun_normal())(
            nn.relu(x).mean((1, 2))
        )


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(nn.RNN(nn.OptimizedLSTMCell(32))(x)[:, -1])


def _findings(model, x, **kwargs):
    variables = jax.jit(model.init)(jax.random.key(1), x)
    apply = functools.partial(model.apply, **kwargs)
    only = (lambda v, x: apply(v, x)[0]) if kwargs else apply
    return [(f.severity, f.kind) for f in diagnose(only)(variables, x).findings]


@pytest.mark.slow
@pytest.mark.standard_promotion
def test_healthy_flax_models():
    tokens = jax.random.randint(jax.random.key(0), (4, 24), 0, 300)
    assert _findings(Transformer(), tokens) == []
    assert _findings(Recurrent(), jax.random.normal(jax.random.key(0), (16, 28, 8))) == []
    images = jax.random.normal(jax.random.key(0), (8, 12, 12, 3))
    for zero in (False, True):
        assert _findings(ResNet(zero), images, mutable=["batch_stats"]) == []


def test_no_report_while_tracing():
    with pytest.raises(TypeError, match=r"must be concrete arrays.*\n.*jinit.measure"):
        jax.jit(diagnose(mlp(jnp.tanh)))(drawn(init.lecun_normal(), depth=2), X)
