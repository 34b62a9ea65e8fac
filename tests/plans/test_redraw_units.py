"""Single units anew: the network computes what it would if they had always been 0, and they can learn."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit.jaxprs.paths import leaf_paths
from tests.plans.followed import CASES, X
from tests.zoo import array
from tests.zoos.member import fill

pytestmark = pytest.mark.slow

ANEW = jinit.normal(0.5)


def swap(params, changes):
    """`params` with other leaves at some paths."""
    leaves, tree = jax.tree.flatten(params)
    return jax.tree.unflatten(
        tree, [changes.get(p, x) for p, x in zip(leaf_paths(params), leaves, strict=True)]
    )


def by_path(params):
    return dict(zip(leaf_paths(params), jax.tree.leaves(params), strict=True))


@pytest.mark.standard_promotion
@pytest.mark.parametrize("name", CASES)
def test_the_network_computes_what_it_would_if_the_units_were_zero(name):
    apply, params, inputs, path, shape, bias = CASES[name]()
    mask = np.random.default_rng(0).random(shape) < 0.5
    mask.reshape(-1)[0] = True
    renew = jinit.redraw_units(apply, ANEW)
    new = by_path(renew(jax.random.key(1), params, {path: mask}, *inputs))
    old = {p: np.asarray(x) for p, x in by_path(params).items() if hasattr(x, "dtype")}
    use = next(use for use in jinit.audit(apply)(params, *inputs) if use.path == path)
    axes = {*use.out_axes, *use.batch_axes}
    chosen = np.broadcast_to(
        mask.reshape([n if axis in axes else 1 for axis, n in enumerate(use.shape)]), use.shape
    )
    np.testing.assert_array_equal(np.asarray(new[path]) == old[path], ~chosen)
    # All activations here are 0 at 0: without incoming weights and bias the units are dead.
    dead = {path: np.where(chosen, 0, old[path]).astype(np.float32)}
    if bias:
        dead[bias] = np.where(mask.reshape(old[bias].shape), 0, old[bias])
        np.testing.assert_array_equal(new[bias], dead[bias])
    # No other leaf but outgoing weights is touched, and these become zero where they change.
    for p in old.keys() - dead.keys():
        assert ((np.asarray(new[p]) == old[p]) | (np.asarray(new[p]) == 0)).all()
    run = jax.jit(lambda leaves: apply(swap(params, leaves), *inputs))
    want, got = run({**old, **dead}), run({p: new[p] for p in old})
    # The same sums, with zeros in other places: rounding of at most 100 products of order one.
    np.testing.assert_allclose(got, want, atol=100 * 2**-24 * (1 + float(jnp.abs(want).max())))
    assert float(jnp.abs(run(old) - want).max()) > 1e-3  # else the above would say nothing


def perceptron(params, x):
    h = jax.nn.relu(x @ params["a"]["kernel"] + params["a"]["bias"][None])
    return h @ params["b"]["kernel"] + params["b"]["bias"][None]


PERCEPTRON = {"a": {"kernel": array(6, 7), "bias": array(7)}, "b": {"kernel": array(7, 2), "bias": array(2)}}
MASK = np.arange(7) % 3 == 1


def test_dead_units_are_replaced_without_a_trace_and_learn_again():
    dead = {**PERCEPTRON, "a": {**PERCEPTRON["a"], "bias": jnp.where(MASK, -100.0, PERCEPTRON["a"]["bias"])}}
    new = jinit.redraw_units(perceptron, jinit.he_normal())(jax.random.key(0), dead, {"a/kernel": MASK}, X)
    np.testing.assert_array_equal(perceptron(new, X), perceptron(dead, X))  # bit for bit: the sums gain zeros

    def gradient(params):
        return jax.grad(lambda p: jnp.mean((perceptron(p, X) - 1.0) ** 2))(params)

    assert not np.any(gradient(dead)["a"]["kernel"][:, MASK])
    assert not np.any(gradient(dead)["b"]["kernel"][MASK])
    assert np.all(np.any(gradient(new)["b"]["kernel"][MASK], axis=1))
    stepped = jax.tree.map(lambda p, g: p - 0.1 * g, new, gradient(new))
    assert np.all(np.any(gradient(stepped)["a"]["kernel"][:, MASK], axis=0))


def test_incoming_weights_are_those_of_init():
    plan = jinit.plan([("*/kernel", jinit.he_normal()), ("*", jinit.zeros)])
    whole = jinit.init(perceptron, plan)(jax.random.key(3), PERCEPTRON, X)
    for choice in (jinit.he_normal(), plan, list(plan.rules), lambda use: jinit.he_normal()):
        new = jinit.redraw_units(perceptron, choice)(jax.random.key(3), PERCEPTRON, {"a/kernel": MASK}, X)
        np.testing.assert_array_equal(new["a"]["kernel"][:, MASK], whole["a"]["kernel"][:, MASK])
        assert new["b"]["bias"] is PERCEPTRON["b"]["bias"]


def test_outgoing_weights_may_stay():
    renew = jinit.redraw_units(perceptron, ANEW, outgoing="keep")
    new = renew(jax.random.key(0), PERCEPTRON, {"a/kernel": MASK, "b/kernel": np.array([True, False])}, X)
    assert not np.any(new["a"]["bias"][MASK])
    assert (new["b"]["bias"][0], new["b"]["bias"][1]) == (0, PERCEPTRON["b"]["bias"][1])
    np.testing.assert_array_equal(new["b"]["kernel"][:, 1], PERCEPTRON["b"]["kernel"][:, 1])


def test_zeros_win_where_one_units_reader_is_anothers_incoming_weight():
    def deep(params, x):
        return jax.nn.relu(jax.nn.relu(x @ params["a"]) @ params["b"]) @ params["c"]

    params = {"a": array(6, 7), "b": array(7, 5), "c": array(5, 2)}
    other = np.arange(5) < 2
    units = {"a": MASK, "b": other}
    new = jinit.redraw_units(deep, ANEW)(jax.random.key(0), params, units, X)
    assert not np.any(new["b"][MASK])
    assert np.all(new["b"][~MASK][:, other] != params["b"][~MASK][:, other])


def test_under_jit_with_traced_masks_and_nothing_to_do():
    renew = jinit.redraw_units(perceptron, ANEW)
    run = jax.jit(lambda mask: renew(jax.random.key(0), PERCEPTRON, {"a/kernel": mask}, X))
    for mask in (MASK, np.zeros(7, bool)):
        want = renew(jax.random.key(0), PERCEPTRON, {"a/kernel": mask}, X)
        for a, b in zip(jax.tree.leaves(run(mask)), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(PERCEPTRON), strict=True):
        np.testing.assert_array_equal(a, b)


def test_batch_normalisation_is_passed_and_its_bias_set_to_zero():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = nn.Dense(7, use_bias=False)(x)
            h = nn.relu(nn.BatchNorm(use_running_average=True)(h))
            return nn.Dense(2)(h)

    variables = fill(jax.eval_shape(Model().init, jax.random.key(0), X))
    path = "params/Dense_0/kernel"
    new = by_path(jinit.redraw_units(Model().apply, ANEW)(jax.random.key(0), variables, {path: MASK}, X))
    old = by_path(variables)
    changed = {p for p in old if old[p] is not new[p]}
    assert changed == {path, "params/BatchNorm_0/bias", "params/Dense_1/kernel"}
    np.testing.assert_array_equal(new["params/BatchNorm_0/bias"] == 0, MASK)


W, V = array(6, 6), array(6, 6, seed=1)


def layer_norm(h):
    return (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-5)


def weights_standardised(p, x):
    return jax.nn.relu(x @ p["w"]) @ (p["v"] - p["v"].mean(0, keepdims=True))


def recurrent(p, x):
    return jax.lax.scan(lambda h, _: (jnp.tanh(x @ p["w"] + h @ p["v"]), None), x, None, length=3)[0] @ p["v"]


REFUSED = {
    "output": (lambda p, x: (x @ p["w"] @ p["v"], jnp.tanh(x @ p["w"])), "is an output of the network"),
    "residual": (
        lambda p, x: (x + jax.nn.relu(x @ p["w"])) @ p["v"],
        r"is added to another signal \(.*test_redraw",
    ),
    "layer normalisation": (lambda p, x: layer_norm(x @ p["w"]) @ p["v"], "combined with other units"),
    "softmax": (lambda p, x: jax.nn.softmax(x @ p["w"]) @ p["v"], "combined with other units"),
    "scores": (lambda p, x: jnp.tanh((x @ p["w"]) @ (x @ p["v"]).T), "has no weight"),
    "shared over depth": (
        lambda p, x: x @ p["v"] + jax.nn.relu(x @ p["w"]) @ p["v"],
        "is used elsewhere too",
    ),
    "maximum": (lambda p, x: jnp.maximum(x, x @ p["w"]) @ p["v"], "combined in `max` with another signal"),
    "computed reader": (weights_standardised, "the weight at v is computed"),
    "recurrent": (recurrent, "added to another signal"),
    "sorted": (lambda p, x: jnp.sort(x @ p["w"]) @ p["v"], "`sort`"),
    "permuted": (
        lambda p, x: jnp.take(x @ p["w"], jnp.array([1, 0]), axis=1) @ p["v"][:2],
        "combined with other units",
    ),
    "decides": (
        lambda p, x: x[jnp.argmax((x @ p["w"]) @ p["v"][:, 0]), None] @ p["v"] * (x @ p["w"])[0, 0],
        "unit",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_units_that_cannot_be_followed_are_refused_with_the_reason(name):
    apply, text = REFUSED[name]
    params, mask = {"w": W, "v": V}, {"w": np.eye(6, dtype=bool)[2]}
    with pytest.raises(ValueError, match=text) as caught:
        jinit.redraw_units(apply, ANEW)(jax.random.key(0), params, mask, X)
    assert "the units of 'w' must be followed" in str(caught.value)
    new = jinit.redraw_units(apply, ANEW, outgoing="keep")(jax.random.key(0), params, mask, X)
    assert new["v"] is V
    assert np.all((new["w"] == W).all(0) == ~mask["w"])


BAD = {
    "list of units": ([MASK], "`units` must be a dict"),
    "no such path": ({"a/kernl": MASK}, "got 'a/kernl'.\nDid you mean 'a/kernel'"),
    "bias": ({"a/bias": MASK}, "whose role is 'bias'"),
    "shape": (
        {"a/kernel": MASK[:3]},
        r"must have the shape \(7,\), that of axes 1 of the kernel; got shape=\(3,\)",
    ),
    "indices": ({"a/kernel": np.arange(7)}, "must be boolean arrays; got int64 at 'a/kernel'"),
    "list": ({"a/kernel": [True] * 7}, "must be boolean arrays; got list"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_units(name):
    units, text = BAD[name]
    with pytest.raises((TypeError, ValueError), match=text):
        jinit.redraw_units(perceptron, ANEW)(jax.random.key(0), PERCEPTRON, units, X)


def test_bad_options():
    with pytest.raises(ValueError, match='`outgoing` must be "zero" or "keep"; got outgoing=None'):
        jinit.redraw_units(perceptron, ANEW, outgoing=None)  # type: ignore[arg-type]
    renew = jinit.redraw_units(perceptron, [("b/*", ANEW)])
    with pytest.raises(ValueError, match="must take every kernel in `units`; got 'a/kernel'"):
        renew(jax.random.key(0), PERCEPTRON, {"a/kernel": MASK}, X)
    with pytest.raises(TypeError, match="initializer"):
        jinit.redraw_units(perceptron, 3)(jax.random.key(0), PERCEPTRON, {"a/kernel": MASK}, X)
