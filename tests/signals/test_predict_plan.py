"""Weights by a plan: each with the law that `jinit.init` would draw it from."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from tests.signals.agreement import DRAWS, disagreement
from tests.zoo import array

WIDTH = 128


class Block(nn.Module):
    @nn.compact
    def __call__(self, x: Any, _: Any) -> Any:
        return x + nn.Dense(WIDTH, name="down")(nn.relu(nn.Dense(WIDTH, name="up")(x))), None


class Stack(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        scanned = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = scanned(name="blocks")(x, None)
        return nn.DenseGeneral((4, 16), name="heads")(x)


def scaled_by_depth(use: jinit.WeightUse) -> Any:
    return jinit.variance_scaling(0.5 / (use.index + 1), "fan_in", "normal")


PLAN = jinit.plan(
    [
        ("*/up/kernel", scaled_by_depth),
        ("*/down/kernel", jax.nn.initializers.normal(WIDTH**-0.5)),
        ("*/heads/kernel", jax.nn.initializers.he_normal()),
        ("*/bias", jinit.constant(0.25)),
    ]
)
X = array(16, WIDTH, seed=5)
SHAPES = jax.eval_shape(Stack().init, jax.random.key(0), X)


def test_laws_are_those_that_are_drawn():
    laws = PLAN.laws(Stack().apply)(SHAPES, X)
    drawn = jinit.init(Stack().apply, PLAN)(jax.random.key(1), SHAPES, X)["params"]
    up = laws["params/blocks/up/kernel"][1]
    assert up.shape == (3,)
    for law, values in [(up[i], drawn["blocks"]["up"]["kernel"][i]) for i in range(3)] + [
        (laws["params/blocks/down/kernel"][1], drawn["blocks"]["down"]["kernel"]),
        (laws["params/heads/kernel"][1], drawn["heads"]["kernel"]),
    ]:
        # The variance of n normal entries has the standard error sqrt(2 / n); truncated ones have less.
        assert abs(np.var(values) / law - 1) < 4 * (2 / values.size) ** 0.5
    assert laws["params/heads/bias"] == (0.25, 0.0)


@pytest.mark.slow
def test_agrees_with_measure():
    apply = Stack().apply
    records = jinit.predict(apply, weights=PLAN)(SHAPES, X)
    init = jinit.init(apply, PLAN)
    measure = jax.jit(lambda p, key: jinit.measure(apply, key=key)(p, X)[1])
    draws = [measure(init(jax.random.key(i), SHAPES, X), jax.random.key(50 + i)) for i in range(DRAWS)]
    for site, record in records.items():
        for field in ("input", "output", "weight", "cotangent", "weight_gradient"):
            for step in range(np.size(getattr(record, field).total)):
                one = lambda m, step=step: jax.tree.map(lambda a: np.ravel(a)[step], m)  # noqa: E731
                of_draws = [one(getattr(d[site], field)) for d in draws]
                assert disagreement(one(getattr(record, field)), of_draws) < 1, (site, field, step)


def test_arrays_of_variances():
    def apply(p: Any, x: Any) -> Any:
        return jax.lax.scan(lambda h, w: (h @ w, None), x, p["w"])[0]

    shapes = {"w": jax.ShapeDtypeStruct((3, 64, 64), "float32")}
    x = jax.ShapeDtypeStruct((8, 64), "float32")
    records = jinit.predict(apply, weights={"w": np.array([1.0, 2.0, 0.5]) / 64}, backward=False)(shapes, x)
    np.testing.assert_allclose(records["w"].output.second_moment, [1, 2, 1], rtol=1e-5)
    with pytest.raises(ValueError, match=r"numbers, or arrays like its first axes \(3, 64, 64\); got shapes"):
        jinit.predict(apply, weights={"w": np.ones(2)})(shapes, x)


def test_unknown_laws_are_refused_by_name():
    plan = jinit.plan([("*", lambda key, shape, dtype: jnp.ones(shape, dtype))])
    with pytest.raises(
        ValueError, match=r"the law of 'params/blocks/down/bias' must be known; got <function"
    ):
        jinit.predict(Stack().apply, weights=plan)(SHAPES, X)
