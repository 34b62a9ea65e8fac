"""LSUV against the sequential algorithm in NumPy, across the ways in which a weight reaches its site."""

from __future__ import annotations

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jinit
from tests.zoo import array

X = array(32, 8, seed=5)


def stack(depth=3, width=8):
    return {"w": array(depth, width, width, seed=1, scale=0.7), "b": array(depth, width, seed=2, scale=0.3)}


def layer(h, p):
    return jnp.tanh(h @ p["w"] + p["b"][None]), None


def scanned(params, x):
    return lax.scan(layer, x, params)[0]


def sliced(params, x):
    for i in range(len(params["w"])):
        x, _ = layer(x, jax.tree.map(lambda p, i=i: p[i], params))
    return x


def by_hand(params, x, target=1.0):
    """One layer after another in float64; each factor found by bisection, the bias being there."""
    h, factors = np.asarray(x, np.float64), []
    for w, b in zip(np.asarray(params["w"], np.float64), np.asarray(params["b"], np.float64), strict=True):
        low, high = 1e-6, 1e6
        for _ in range(200):
            middle = np.sqrt(low * high)
            low, high = (middle, high) if np.var(middle * h @ w + b) < target else (low, middle)
        factors.append(low)
        h = np.tanh(low * h @ w + b)
    return np.array(factors)


@pytest.mark.parametrize(
    ("apply", "names"),
    [(scanned, ["w"]), (sliced, ["w#0", "w#1", "w#2"]), (jax.checkpoint(scanned), ["w"])],
    ids=["scan", "slices", "remat"],
)
@pytest.mark.parametrize("target", [1.0, 0.25])
def test_factors_are_those_of_the_algorithm(apply, names, target):
    params = stack()
    new, records = jinit.lsuv(apply, target=target, verify=True)(params, X)
    expected = by_hand(params, X, target)
    assert list(records) == names
    np.testing.assert_allclose(np.hstack([records[n].factor for n in names]), expected, rtol=2e-5)
    np.testing.assert_allclose(new["w"], params["w"] * expected[:, None, None].astype(np.float32), rtol=1e-4)
    assert new["b"] is params["b"]
    for record in records.values():
        np.testing.assert_allclose(record.output.variance, target, rtol=1e-4)
        assert record.problem == ""
        assert record.changed == ("w",)


@pytest.mark.slow
def test_what_the_pass_saw_is_what_the_new_parameters_give():
    seen = jinit.lsuv(scanned)(stack(), X)[1]["w"]
    params, records = jinit.lsuv(scanned, verify=True)(stack(), X)
    measured = jinit.measure(scanned, backward=False)(params, X)[1]["w"].output
    for moments in (seen.output, records["w"].output):
        np.testing.assert_allclose(moments.mean, measured.mean, atol=1e-5)
        np.testing.assert_allclose(moments.variance, measured.variance, rtol=1e-5)
    before = jinit.measure(scanned, backward=False)(stack(), X)[1]["w"].output
    np.testing.assert_allclose(seen.before.variance[0], before.variance[0], rtol=1e-5)


def test_a_mean_far_from_zero_and_any_scale_cost_no_digits():
    for scale in (1e-25, 1e-3, 1.0, 1e15):
        w = (1.0 + 0.001 * array(8, 6, seed=3)) * scale
        x = 1.0 + 0.01 * array(512, 8, seed=4)
        new, records = jinit.lsuv(lambda w, x: x @ w)(w, x)
        y = np.asarray(x, np.float64) @ np.asarray(new, np.float64)
        np.testing.assert_allclose(y.std(), 1.0, atol=1e-3, err_msg=str(scale))
        assert records["params"].factor > 0


def two_layers(p, x):
    return jnp.maximum(x @ p["w"] + p["b"][None], 0) @ p["v"].T + p["c"][None]


TWO = {"w": array(8, 6, seed=1), "b": array(6, seed=2), "v": array(4, 6, seed=3), "c": array(4, seed=4)}


@pytest.mark.parametrize("center", [False, True])
def test_per_unit(center):
    zero = {**TWO, "b": jnp.zeros(6), "c": jnp.zeros(4)}
    new, records = jinit.lsuv(two_layers, per_unit=True, center=center, target=2.0)(zero, X)
    first = np.asarray(X @ new["w"] + new["b"][None], np.float64)
    second = np.asarray(two_layers(new, X), np.float64)
    for y, name in ((first, "w"), (second, "v")):
        np.testing.assert_allclose(y.var(0), 2.0, rtol=1e-4)
        assert records[name].factor.shape == y.shape[1:]
        if center:
            np.testing.assert_allclose(y.mean(0), 0.0, atol=1e-5)
    assert records["v"].changed == (("v", "c") if center else ("v",))
    assert records["v"].problem == records["v"].note == ""


def test_center_by_layer():
    new, records = jinit.lsuv(two_layers, center=True)(TWO, X)
    y = np.asarray(two_layers(new, X), np.float64)
    np.testing.assert_allclose(y.mean(0), 0.0, atol=1e-5)
    np.testing.assert_allclose(y.var(), 1.0, rtol=1e-4)
    assert records["v"].factor.shape == ()
    apply = jax.jit(lambda p, x: two_layers({**p, "c": 0 * p["c"]}, x))
    assert "not centered" in jinit.lsuv(apply, center=True)(TWO, X)[1]["v"].note


def test_center_in_a_scan():
    new, _ = jinit.lsuv(scanned, center=True, per_unit=True)(stack(), X)
    h = np.asarray(X)
    for w, b in zip(np.asarray(new["w"]), np.asarray(new["b"]), strict=True):
        y = h @ w + b
        np.testing.assert_allclose(y.mean(0), 0.0, atol=1e-5)
        np.testing.assert_allclose(y.var(0), 1.0, rtol=1e-4)
        h = np.tanh(y)


@pytest.mark.parametrize(
    "target", [[("v", 0.1), ("*", 4.0)], {"w": 4.0, "v": 0.1}.get], ids=["pairs", "function"]
)
def test_targets_by_rule(target):
    _, records = jinit.lsuv(two_layers, target=target, verify=True)(TWO, X)
    assert [records[n].target for n in "wv"] == [4.0, 0.1]


@pytest.mark.parametrize("sites", ["v", ["v"], lambda name: name == "v"])
def test_sites_that_are_not_chosen_stay(sites):
    new, records = jinit.lsuv(two_layers, sites=sites, target=3.0)(TWO, X)
    assert all(new[k] is TWO[k] for k in "wbc")
    np.testing.assert_allclose(np.var(np.asarray(two_layers(new, X), np.float64)), 3.0, rtol=1e-4)
    assert (records["w"].changed, records["w"].target, records["w"].problem) == ((), None, "")


@pytest.mark.slow
def test_several_batches_are_one():
    both = jnp.stack([X, 3 * X[::-1] + 1])
    one, _ = jinit.lsuv(scanned)(stack(), both.reshape(-1, 8))
    two, records = jinit.lsuv(scanned, batches=True, verify=True)(stack(), both)
    np.testing.assert_allclose(one["w"], two["w"], rtol=1e-5)
    np.testing.assert_allclose(records["w"].output.variance, 1.0, rtol=1e-4)
    assert records["w"].output.count.tolist() == [2 * 32 * 8] * 3


def test_under_jit():
    params, records = jax.jit(jinit.lsuv(scanned))(stack(), X)
    eager, _ = jinit.lsuv(scanned)(stack(), X)
    np.testing.assert_allclose(params["w"], eager["w"], rtol=1e-6)
    assert records["w"].problem == ""


def test_tree_dtypes_boxes_and_numpy_are_kept():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            boxed = nn.with_partitioning(nn.initializers.normal(0.3), (None, "m"))
            x = nn.relu(nn.Dense(64, kernel_init=boxed, param_dtype=jnp.bfloat16, dtype=jnp.float32)(x))
            return nn.Dense(16)(x)

    params = Net().init(jax.random.key(0), X)
    params["params"]["Dense_1"]["kernel"] = np.asarray(params["params"]["Dense_1"]["kernel"])
    new, _ = jinit.lsuv(Net().apply)(params, X)
    assert jax.tree.structure(new) == jax.tree.structure(params)
    for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(params), strict=True):
        assert (type(a), a.dtype, a.shape) == (type(b), b.dtype, b.shape)
    assert new["params"]["Dense_0"]["bias"] is params["params"]["Dense_0"]["bias"]
    for record in jinit.measure(Net().apply, backward=False)(new, X)[1].values():
        # A weight rounded to bfloat16 is off by 2⁻⁹ of itself at most.
        np.testing.assert_allclose(record.output.variance, 1.0, atol=2.0**-8)


def test_shardings_are_kept(cpus):
    mesh = jax.sharding.Mesh(np.array(cpus[:4]), ("d",))
    P, S = jax.sharding.PartitionSpec, jax.sharding.NamedSharding
    params = {
        "w": jax.device_put(TWO["w"][:, :4], S(mesh, P("d"))),
        "v": jax.device_put(TWO["w"][:4], S(mesh, P())),
    }

    def apply(p, x):
        return jax.nn.relu(x @ p["w"]) @ p["v"][:, :4]

    x = jax.device_put(X, S(mesh, P("d")))
    new, _ = jinit.lsuv(apply)(params, x)
    single, _ = jinit.lsuv(apply)(jax.device_get(params), X)
    for k in params:
        assert new[k].sharding == params[k].sharding
        np.testing.assert_allclose(new[k], single[k], rtol=1e-5)


def shared(p, x):
    for _ in range(3):
        x = x @ p["w"]
    return x


@pytest.mark.parametrize(
    ("apply", "name"),
    [(shared, "w#0"), (lambda p, x: lax.fori_loop(0, 3, lambda _, h: jnp.tanh(h @ p["w"]), x), "w")],
)
def test_a_shared_weight_is_iterated(apply, name):
    params = {"w": stack()["w"][0] * 0.02}
    _, records = jinit.lsuv(apply)(params, X)
    outputs = [r.output for r in records.values()]
    if len(outputs) == 3:
        variance = np.mean([o.variance for o in outputs])
    else:
        squares, totals, counts = (
            np.sum(a) for a in (outputs[0].total_square, outputs[0].total, outputs[0].count)
        )
        variance = squares / counts - (totals / counts) ** 2
    np.testing.assert_allclose(variance, 1.0, rtol=1e-4)
    assert "used at" in records[name].note
    left, skipped = jinit.lsuv(apply, inexact="skip")(params, X)
    assert left["w"] is params["w"]
    assert ("used at" in skipped[name].note, skipped[name].changed) == (True, ())
    with pytest.raises(ValueError, match=r"set exactly.*used at"):
        jinit.lsuv(apply, inexact="error")(params, X)


PROBLEMS = {
    "zero variance": (lambda p, x: x @ p["w"] * 0 @ p["v"], "v", "zero variance"),
    "constant": (lambda p, x: jnp.ones_like(x) @ p["w"][:, :1], "w", "zero variance"),
    "nan": (lambda p, x: jnp.log(x) @ p["w"], "w", "NaN"),
    "bias": (lambda p, x: x @ p["w"] + 5 * p["b"][None], "w", "bias"),
    "normalised": (lambda p, x: x @ (p["w"] / jnp.linalg.norm(p["w"])), "w", "normalised"),
    "softplus": (lambda p, x: x @ (1 + jnp.sin(p["w"])), "w", "not proportional to w.*sin"),
}  # fmt: skip


@pytest.mark.parametrize("name", PROBLEMS)
def test_problems_are_named(name):
    apply, site, reason = PROBLEMS[name]
    params = {"w": TWO["w"], "v": TWO["v"].T, "b": TWO["b"]}
    with pytest.raises(ValueError, match=f"(?s)`jinit.lsuv.*{site}: .*{reason}"):
        jinit.lsuv(apply, inexact="error")(params, X)
    new, records = jinit.lsuv(apply, inexact="iterate" if name in ("nan", "softplus") else "skip")(params, X)
    assert re.search(reason, records[site].note or records[site].problem)
    if name != "softplus":
        assert records[site].problem
        np.testing.assert_array_equal(new[site], params[site])


def test_bad_arguments():
    with pytest.raises(TypeError, match=r"`apply` must be a function"):
        jinit.lsuv(nn.Dense(3))
    for bad in (0.0, -1.0, float("nan"), float("inf"), [("w", -2.0)]):
        with pytest.raises(ValueError, match=r"positive number"):
            jinit.lsuv(two_layers, target=bad)
    for bad in ("big", [1.0], None, True):
        with pytest.raises(TypeError, match=r"`target` must be"):
            jinit.lsuv(two_layers, target=bad)
    with pytest.raises(TypeError, match=r"`sites` must be"):
        jinit.lsuv(two_layers, sites=3)
    with pytest.raises(ValueError, match=r"`inexact` must be"):
        jinit.lsuv(two_layers, inexact="maybe")
    with pytest.raises(ValueError, match=r"every pattern of `sites` must fit a site; got 'q'"):
        jinit.lsuv(two_layers, sites="q")(TWO, X)
    with pytest.raises(ValueError, match=r"nothing for 'v'"):
        jinit.lsuv(two_layers, target=[("w", 1.0)])(TWO, X)
    with pytest.raises(ValueError, match=r"leading axis, one entry a batch"):
        jinit.lsuv(lambda p, x, y: x @ p, batches=True)(TWO["w"], X, X[0, 0])


def test_rounding_is_not_blamed_on_a_bias():
    def rounded(w, x):
        return jnp.dot(x, lax.reduce_precision(w, 5, 2))

    _, records = jinit.lsuv(rounded, verify=True)(array(8, 32, seed=2, scale=0.3), X)
    assert "rounding" in records["params"].problem
    assert "bias" not in records["params"].problem
