"""`wrong_fan`: kernels that a known rule drew from the fan-in of their shape."""

from __future__ import annotations

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit.plans.uses import WeightUse
from jinit.report.fans import misread

X = (32, 16, 64)
IMAGES = (8, 12, 12, 16)


class Experts(nn.Module):
    """A stack of experts whose axis takes no part in the sums."""

    count: int

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (self.count, x.shape[-1], 32))
        return jnp.einsum("btd,edf->btef", x, kernel)


class Stack(nn.Module):
    """Scanned layers whose stack was drawn in one go."""

    depth: int

    @nn.compact
    def __call__(self, x):
        kernels = self.param("kernel", nn.initializers.lecun_normal(), (self.depth, x.shape[-1], x.shape[-1]))
        return jax.lax.scan(lambda x, kernel: (jnp.tanh(x @ kernel), None), x, kernels)[0]


class Tables(nn.Module):
    """Lookup tables with Flax's default, whose variance is that of a kernel of their shape by chance."""

    @nn.compact
    def __call__(self, x):
        ids = (x > 0).astype(jnp.int32)
        return nn.Embed(64, 64)(ids), nn.Embed(128, 64)(ids), nn.Dense(8)(x)


# Model, input shape, and what the outputs' variance is multiplied by.
WRONG = {
    "batch dims of DenseGeneral": (nn.DenseGeneral(32, batch_dims=(0,)), (16, 8, 64), 1 / 16),
    "ConvLocal": (nn.ConvLocal(24, (3, 3), padding="SAME"), IMAGES, 1 / 144),
    "transposed kernel": (nn.ConvTranspose(4, (3, 3), transpose_kernel=True), IMAGES, 4.0),
    "strided transposed convolution": (nn.ConvTranspose(16, (4, 4), strides=(2, 2)), IMAGES, 1 / 4),
    "einsum to heads": (nn.Einsum((64, 8, 16), "btd,dhk->bthk"), X, 1 / 8),
    "experts": (Experts(8), X, 1 / 8),
    "scan": (Stack(5), X, 1 / 5),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_fan_of_the_shape_is_named_and_the_remedy_mends_it(name):
    model, shape, factor = WRONG[name]
    x = jax.random.normal(jax.random.key(0), shape)
    params = model.init(jax.random.key(1), x)
    (found,) = [
        f
        for f in jinit.diagnose(model.apply, backward=False, predict=False)(params, x).findings
        if f.kind == "wrong_fan"
    ]
    assert found.site == "params/kernel"
    assert found.severity == ("severe" if factor < 0.01 else "warning")
    assert f"multiply the present weights by {factor**-0.5:.3g}" in found.remedy
    before = kernel_use(model, params, x)
    wrong = misread(before, before.gain**2 / before.fan_in)
    assert wrong is not None
    assert math.isclose(wrong.factor, factor)

    scope = {"jinit": jinit, "apply": model.apply, "key": jax.random.key(2), "params": params, "inputs": (x,)}
    exec(found.remedy, scope)
    after = kernel_use(model, scope["params"], x)
    # The deviation of n normal draws has the relative standard error 1/√(2n).
    assert abs(after.gain - 1) < 5 / math.sqrt(2 * after.size)
    assert misread(after, after.gain**2 / after.fan_in) is None


def kernel_use(model, params, x):
    (use,) = [use for use in jinit.audit(model.apply)(params, x) if use.role == "kernel"]
    return use


RIGHT = {
    "dense": (nn.Dense(32), X),
    "attention": (nn.MultiHeadDotProductAttention(8), X),
    "strided convolution, Glorot": (
        nn.Conv(32, (3, 3), 2, kernel_init=nn.initializers.glorot_normal()),
        IMAGES,
    ),
    "grouped convolution": (nn.Conv(32, (3, 3), feature_group_count=4), IMAGES),
    "depthwise convolution, He": (
        nn.Conv(16, (5, 5), feature_group_count=16, kernel_init=nn.initializers.he_normal()),
        IMAGES,
    ),
    "tables whose rows are as many as their columns, or twice as many": (Tables(), (8, 128)),
    "recurrent": (nn.RNN(nn.OptimizedLSTMCell(48)), X),
    "a deviation of no rule": (
        nn.DenseGeneral(32, batch_dims=(0,), kernel_init=nn.initializers.normal(0.02)),
        (16, 8, 64),
    ),
    "behind a normaliser": (nn.WeightNorm(nn.ConvTranspose(16, (4, 4), strides=(2, 2))), IMAGES),
    "bfloat16": (nn.Dense(64, param_dtype=jnp.bfloat16, kernel_init=jinit.lecun_normal()), X),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_right_fans_give_no_finding(name):
    model, shape = RIGHT[name]
    x = jax.random.normal(jax.random.key(0), shape, getattr(model, "param_dtype", jnp.float32))
    report = jinit.diagnose(model.apply, backward=False, predict=False)(model.init(jax.random.key(1), x), x)
    assert "wrong_fan" not in {f.kind for f in report.findings}


def test_outputs_first():
    """PyTorch's and equinox's layout: the rule reads `in · window` off the shape (out, in, …).

    Glorot's rule, with the fans of the axes that Flax would read, 128 and 64, gives just the same variance.
    """
    use = WeightUse("w", (16, 8, 4), np.dtype(np.float32), "kernel", 16.0, 64.0, in_axes=(1,), out_axes=(0,))
    wrong = misread(use, 1 / (3 * 32))
    assert wrong is not None
    assert (wrong.rule, wrong.fan, wrong.factor) == ("the 1/√n rule", 32, 0.5)
    batched = dataclasses.replace(use, shape=(9, 16, 8, 4), in_axes=(2,), out_axes=(1,), batch_axes=(0,))
    wrong = misread(batched, 1.02 / (3 * 32))
    assert wrong is not None
    assert wrong.fan == 32


def test_severity_follows_the_thresholds():
    model, shape, _ = WRONG["strided transposed convolution"]
    x = jax.random.normal(jax.random.key(0), shape)
    params = model.init(jax.random.key(1), x)

    def severity(**limits):
        report = jinit.diagnose(
            model.apply, backward=False, predict=False, thresholds=jinit.Thresholds(**limits)
        )(params, x)
        return {f.kind: f.severity for f in report.findings}["wrong_fan"]

    assert severity() == "warning"
    assert severity(fan_severe=3.0) == "severe"
    assert severity(fan_warning=5.0) == "info"


def test_few_entries_and_near_fans_are_not_judged():
    use = WeightUse("w", (4, 16, 32), np.dtype(np.float32), "kernel", fan_in=16.0, fan_out=32.0)
    lecun_of_shape = 1 / 64
    assert misread(use, lecun_of_shape) is not None
    assert misread(use, 1.001 / 16) is None, "right by its use"
    assert misread(use, 3.3 * lecun_of_shape) is None, "no rule gives this"
    small = WeightUse("w", (2, 4, 8), np.dtype(np.float32), "kernel", fan_in=4.0, fan_out=8.0)
    assert misread(small, 1 / 8) is None
    near = WeightUse("w", (4, 16, 32), np.dtype(np.float32), "kernel", fan_in=60.0, fan_out=32.0)
    assert misread(near, lecun_of_shape) is None
    noted = WeightUse(
        "w", (4, 16, 32), np.dtype(np.float32), "kernel", 16.0, 32.0, note="behind a normaliser"
    )
    assert misread(noted, lecun_of_shape) is None


@pytest.mark.slow
def test_the_scale_that_a_plan_declares():
    model = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(64), nn.relu, nn.Dense(3)])
    x = jax.random.normal(jax.random.key(0), (64, 48))
    plan = jinit.plan([("*/kernel", jinit.he_normal()), ("*/bias", jinit.zeros)])
    params = jinit.init(model.apply, plan)(jax.random.key(1), model.init(jax.random.key(2), x), x)
    kinds = {
        f.kind
        for f in jinit.diagnose(model.apply, backward=False, predict=False, plan=plan)(params, x).findings
    }
    assert "wrong_fan" not in kinds

    off = jax.tree.map(lambda w: w, params)
    off["params"]["layers_2"]["kernel"] *= 0.2
    (found,) = [
        f
        for f in jinit.diagnose(model.apply, backward=False, predict=False, plan=plan)(off, x).findings
        if f.kind == "wrong_fan"
    ]
    assert (found.severity, found.site) == ("warning", "params/layers_2/kernel")
    assert "0.04 times" in found.evidence
    assert "rule 0 of the plan gives 1.41" in found.evidence
    scope = {"jinit": jinit, "apply": model.apply, "plan": plan, "key": jax.random.key(3), "params": off}
    exec(found.remedy, scope | {"inputs": (x,)}, scope)
    mended = jinit.diagnose(model.apply, backward=False, predict=False, plan=plan)(scope["params"], x)
    assert "wrong_fan" not in {f.kind for f in mended.findings}


def test_a_plan_for_another_model_is_refused():
    model = nn.Dense(8)
    x = jnp.ones((16, 4))
    plan = jinit.plan([("*/weight", jinit.he_normal())])
    with pytest.raises(ValueError, match=r"\*/weight"):
        jinit.diagnose(model.apply, backward=False, predict=False, plan=plan)(
            model.init(jax.random.key(0), x), x
        )
