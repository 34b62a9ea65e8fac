"""Pieces put side by side keep their laws, and the same rows picked again are the same."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit.signals.laws.lookups import pairs_of
from tests.signals.agreement import DRAWS, disagreement
from tests.zoos.member import array

WIDTH = 128


def dense(name):
    return nn.Dense(WIDTH, name=name)


class Net(nn.Module):
    """`body` of a constructor of layers and the input."""

    body: object

    @nn.compact
    def __call__(self, x):
        return nn.Dense(64, name="head")(self.body(self, x))


def stacked(self, x):
    return jnp.tanh(jnp.stack([dense("a")(x), dense("b")(x)], axis=1).sum(1))


def stacked_and_rectified(self, x):
    return nn.relu(jnp.stack([dense("a")(x), dense("b")(x), dense("c")(x)], axis=1).mean(1))


def pooled_and_concatenated(self, x):
    return jnp.concatenate([dense("a")(x).mean(1), nn.relu(dense("b")(x)).mean(1)], axis=-1)


def first_of_tokens(self, x):
    token = self.param("token", nn.initializers.normal(0.3), (WIDTH,))
    tokens = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, WIDTH)), dense("a")(x)], axis=1)
    h = nn.relu(dense("b")(tokens))
    return h[:, 0] + 0.3 * h[:, 1]


def split_where_it_was_joined(self, x):
    x = dense("a")(x)
    joined = jnp.concatenate([3 * jnp.tanh(x), x], axis=-1)
    left, right = jnp.split(joined, 2, axis=-1)
    return jnp.tanh(dense("b")(left)) + dense("c")(right)


def scales_then_batch_norm(self, x):
    joined = jnp.concatenate([dense("a")(x), dense("b")(x)], axis=-1)
    return nn.relu(
        nn.BatchNorm(use_running_average=False, use_bias=False, use_scale=False, name="bn")(joined)
    )


CASES = {
    stacked: (32, 64),
    stacked_and_rectified: (32, 64),
    pooled_and_concatenated: (8, 12, 64),
    first_of_tokens: (8, 12, 64),
    split_where_it_was_joined: (32, 64),
    scales_then_batch_norm: (64, 64),
}


@pytest.mark.parametrize("body", CASES)
def test_pieces_keep_their_laws(body):
    """One law for all pieces would be off twofold and more; those that add up had no gradient at all."""
    assert_agrees(Net(body), array(*CASES[body]))


ROWS = {
    "segments": np.tile([0] * 5 + [1] * 7, (8, 1)),
    "periodic": np.tile(np.arange(12) % 4, (8, 1)),
    "few kinds": np.random.default_rng(0).integers(0, 30, (8, 12)),
    "one axis": np.random.default_rng(1).integers(0, 4, 96),
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.slow
def test_rows_that_come_again_are_the_same(name):
    """Of 12 positions of two kinds the mean has a variance of 1/2, not of 1/12, and so have gradients."""
    x, kinds = ROWS[name], int(ROWS[name].max()) + 1
    pool = (lambda h: h.mean(1)) if x.ndim > 1 else jnp.tanh
    assert_agrees(nn.Sequential([nn.Embed(kinds, 256), pool, nn.Dense(64)]), jnp.asarray(x))


def test_pairs_are_counted():
    """Against all pairs, one by one."""
    rows = np.random.default_rng(2).integers(0, 5, (4, 6))
    same = {frozenset(own): 0.0 for own in ((), (0,), (1,), (0, 1))}
    whole = dict.fromkeys(same, 0.0)
    for i, k in np.ndindex(rows.size, rows.size):
        one, other = (np.unravel_index(n, rows.shape) for n in (i, k))
        own = frozenset(axis for axis in (0, 1) if one[axis] == other[axis])
        whole[own] += 1
        same[own] += rows[one] == rows[other]
    assert pairs_of(rows) == {own: (same[own], whole[own]) for own in same}


def assert_agrees(model, x):
    """Every field of every site, with what a width of 128 allows."""
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    state = jax.tree.map(lambda s: jnp.zeros(s.shape), {k: v for k, v in variables.items() if k != "params"})

    def apply(params, x):
        return model.apply({"params": params, **state}, x, mutable=list(state))[0]

    plan = jinit.plan([("*", lambda use: law_of(use))])
    predicted = jinit.predict(apply, weights=plan)(variables["params"], x)
    draw = jinit.init(apply, plan)
    measure = jax.jit(lambda p, key: jinit.measure(apply, key=key)(p, x)[1])
    keys = [jax.random.key(i) for i in range(2 * DRAWS)]
    seen = [measure(draw(key, variables["params"], x), key) for key in keys]
    for site, record in predicted.items():
        for field in ("input", "output", "cotangent", "weight_gradient"):
            if (moments := getattr(record, field)) is not None:
                of_draws = [getattr(records[site], field) for records in seen]
                assert disagreement(moments, of_draws) < 1, (site, field)


def law_of(use):
    if use.path.endswith("bias"):
        return jinit.zeros
    if use.role == "kernel":
        scale = {"b": 9.0, "c": 0.1}.get(use.path.split("/")[-2], 1.0)
        return jinit.variance_scaling(scale, "fan_in", "normal")
    return jinit.normal(0.3 if "token" in use.path else 1.0)


@pytest.mark.parametrize("first", [0, 1, 2])
def test_one_weight_for_queries_keys_and_values_is_three(first):
    """What entries of a piece of a gradient share stays with it; of places along two axes there are fewer."""
    tokens, width = 12, 64
    mask = np.tril(np.ones((1, tokens, tokens), bool))

    def attend(three):
        q, k, v = (*three, *three)[first : first + 3]
        return jax.nn.softmax(jnp.where(mask, q @ jnp.swapaxes(k, -1, -2) / width**0.5, -jnp.inf)) @ v

    def joined(p, x):
        for name in ("first", "second"):
            parts = jnp.split(x @ p[name], 3, axis=-1)
            x = x + attend(parts) @ p["out"]
        return x

    def apart(p, x):
        for name in ("first", "second"):
            x = x + attend([x @ p[f"{name}{i}"] for i in range(3)]) @ p["out"]
        return x

    def shapes(**widths):
        return {name: jax.ShapeDtypeStruct((width, n), "float32") for name, n in widths.items()}

    x = jax.ShapeDtypeStruct((4, tokens, width), "float32")
    three = {f"{name}{i}": width for name in ("first", "second") for i in range(3)}
    variance = lambda path: 1 / width  # noqa: E731
    found = jinit.predict(joined, weights=variance)(shapes(first=3 * width, second=3 * width, out=width), x)
    expected = jinit.predict(apart, weights=variance)(shapes(**three, out=width), x)
    for name in ("first", "second"):
        for field in ("cotangent", "weight_gradient"):
            each = [float(getattr(expected[f"{name}{i}"], field).second_moment) for i in range(3)]
            one = float(getattr(found[name], field).second_moment)
            np.testing.assert_allclose(one, np.mean(each), rtol=0.05, err_msg=f"{name} {field}")
