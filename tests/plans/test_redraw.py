"""Partial re-draws: what is chosen is what `init` draws, the rest is untouched."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jinit
from tests.zoo import array

X = array(2, 8)
HE, LECUN = jinit.he_normal(), jinit.lecun_normal()


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        kernel = nn.with_partitioning(nn.initializers.normal(), ("in", "out"))
        x = nn.relu(nn.Dense(6, kernel_init=kernel)(x))
        x = nn.Conv(4, (3,), param_dtype=jnp.bfloat16, dtype=jnp.float32)(x[..., None])
        return nn.DenseGeneral(3, axis=(-2, -1), name="head")(x)


PARAMS = Net().init(jax.random.key(0), X)
PLAN = jinit.plan([(jinit.role("kernel"), HE), ("*", jinit.zeros)])


@pytest.mark.standard_promotion
@pytest.mark.parametrize(
    "pattern", ["*/head/kernel", "*/kernel", lambda use: use.fan_in == 8, jinit.role("kernel")]
)
def test_chosen_leaves_are_those_of_init_and_the_rest_the_same_objects(pattern):
    key = jax.random.key(7)
    whole = jinit.init(Net().apply, PLAN)(key, PARAMS, X)
    new = jinit.redraw(Net().apply, [(pattern, HE)])(key, PARAMS, X)
    assert jax.tree.structure(new) == jax.tree.structure(PARAMS)
    changed = 0
    for old, drawn, all_drawn in zip(*map(jax.tree.leaves, (PARAMS, new, whole)), strict=True):
        assert drawn.dtype == old.dtype
        changed += drawn is not old
        np.testing.assert_array_equal(drawn, old if drawn is old else all_drawn)
    assert 0 < changed < len(jax.tree.leaves(PARAMS))
    assert new["params"]["Dense_0"]["kernel"].names == ("in", "out")


@pytest.mark.standard_promotion
def test_under_jit_and_with_a_plan():
    plan = jinit.plan([("*/head/*", jinit.normal(0.5))])
    run = jinit.redraw(Net().apply, plan)
    eager, jitted = run(jax.random.key(1), PARAMS, X), jax.jit(run)(jax.random.key(1), PARAMS, X)
    for a, b in zip(jax.tree.leaves(eager), jax.tree.leaves(jitted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_nnx_state_and_numpy_leaves():
    apply, params = jinit.functional(nnx.Linear(8, 3, rngs=nnx.Rngs(0)))
    new = jinit.redraw(apply, [("kernel", HE)])(jax.random.key(0), params, X)
    assert isinstance(new, nnx.State)
    assert new["kernel"].get_metadata() == params["kernel"].get_metadata()
    leaves = {"w": np.ones((8, 3), np.float32), "b": np.ones(3, np.float32)}
    new = jinit.redraw(lambda p, x: x @ p["w"] + p["b"][None], [("w", HE)])(jax.random.key(0), leaves, X)
    assert isinstance(new["w"], np.ndarray)
    assert new["b"] is leaves["b"]


@pytest.mark.usefixtures("on_cpu")
def test_shardings_are_kept(cpus):
    mesh = jax.sharding.Mesh(np.array(cpus), ("d",))
    sharding = jax.NamedSharding(mesh, jax.P("d"))
    params = {"w": jax.device_put(jnp.ones((8, 3)), sharding), "b": jnp.ones(3)}
    apply = lambda p, x: x @ p["w"] + p["b"][None]  # noqa: E731
    new = jinit.redraw(apply, [("w", HE)])(jax.random.key(0), params, X)
    assert new["w"].sharding == sharding
    plain = jinit.redraw(apply, [("w", HE)])(jax.random.key(0), {**params, "w": jnp.ones((8, 3))}, X)
    np.testing.assert_array_equal(new["w"], plain["w"])


def linear(params, x):
    return x @ params["w"]


BAD = {
    "idle rule": ([("*/kernl", HE)], jax.random.key(0), PARAMS, r"kernl"),
    "no rules": ("*/kernel", jax.random.key(0), PARAMS, "`plan` must be a plan or a list of rules"),
    "no initializer": ([("*", 3)], jax.random.key(0), PARAMS, "initializer"),
    "no fans": ([("*/bias", HE)], jax.random.key(0), PARAMS, "bias"),
    "number for a key": ([("*/kernel", HE)], 0, PARAMS, "key"),
    "keys": (
        [("*/kernel", HE)],
        jax.random.split(jax.random.key(0), 2),
        PARAMS,
        "must be one key; got 2 keys",
    ),
    "abstract": (
        [("*/kernel", HE)],
        jax.random.key(0),
        jax.eval_shape(lambda: PARAMS),
        "must be arrays; got a shape at 'params/Conv_0/bias'",
    ),
    "one path twice": ([("*", HE)], jax.random.key(0), {"a/b": X, "a": {"b": X}}, "must differ"),
}


@pytest.mark.standard_promotion
@pytest.mark.parametrize("case", BAD)
def test_bad_calls(case):
    rules, key, params, text = BAD[case]
    with pytest.raises((TypeError, ValueError), match=text) as caught:
        jinit.redraw(Net().apply, rules)(key, params, X)
    assert str(caught.value).startswith("`jinit.")


def test_integers_and_random_keys_among_the_parameters():
    def apply(params, x):
        return (
            x @ params["w"] + jax.random.normal(params["key"], (3,))[None] + params["n"].astype(x.dtype)[None]
        )

    params = {"w": jnp.ones((4, 3)), "key": jax.random.key(0), "n": jnp.arange(3)}
    roles = {use.path: use.role for use in jinit.audit(apply)(params, jnp.ones((2, 4)))}
    assert roles == {"key": "other", "n": "other", "w": "kernel"}
    again = jinit.redraw(apply, [("w", jinit.he_normal())])(jax.random.key(1), params, jnp.ones((2, 4)))
    assert again["key"] is params["key"]
