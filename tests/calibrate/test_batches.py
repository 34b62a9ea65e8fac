"""Several batches, whose statistics are taken together, where control flow sends them different ways."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jinit
from tests.zoo import array

# Means of either sign: the first and the last go one way, the second the other.
X = jnp.stack([array(64, 8, seed=i) + jnp.float32(m) for i, m in enumerate((1.0, -1.0, 2.0))])
PARAMS = {
    "a": array(8, 6, seed=3), "b": array(8, 6, seed=4, scale=3), "c": array(6, 4, seed=5),
    "d": array(6, seed=6, scale=0.2),
}  # fmt: skip


def apply(p, x):
    h = lax.cond(
        jnp.mean(x) > 0,
        lambda x: jnp.tanh(x @ p["a"] + p["d"][None]),
        lambda x: lax.cond(
            jnp.sum(x) < 1e9, lambda x: jnp.tanh(jnp.log(-9 + x + 20) @ p["b"]), lambda x: x[:, :6], x
        ),
        x,
    )
    return h @ p["c"]


def variances(p):
    """Of each site's output, over the batches that come by."""
    first = [np.asarray(x @ p["a"] + p["d"][None], np.float64) for x in (X[0], X[2])]
    second = np.asarray(jnp.log(X[1] + 11) @ p["b"], np.float64)
    third = np.tanh(np.concatenate([*first, second])) @ np.asarray(p["c"], np.float64)
    return {"a": np.concatenate(first), "b": second, "c": third}


OPTIONS = {
    "plain": {}, "verify": {"verify": True}, "unit": {"per_unit": True},
    "center": {"per_unit": True, "center": True},
}  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.slow
def test_cond_counts_the_batches_that_come_by(options):
    new, records = jinit.lsuv(apply, batches=True, **options)(PARAMS, X)
    for name, outputs in variances(new).items():
        axis = 0 if "per_unit" in options else None
        np.testing.assert_allclose(outputs.var(axis), 1.0, rtol=1e-4, err_msg=name)
        assert records[name].error < 1e-4
        assert records[name].output.count == outputs.size
        assert records[name].problem == ""
        assert records[name].verified == ("verify" in options)


@pytest.mark.slow
def test_batches_that_none_takes_leave_a_weight():
    new, records = jinit.lsuv(apply, batches=True)(PARAMS, X[::2])
    assert (records["b"].factor, records["b"].problem) == (1, "not reached by the program on these inputs")
    np.testing.assert_array_equal(new["b"], PARAMS["b"])
    alone, _ = jinit.lsuv(apply)(PARAMS, X[::2].reshape(-1, 8))
    np.testing.assert_allclose(new["a"], alone["a"], rtol=1e-5)


def test_loops_that_end_at_different_times():
    def looped(p, x):
        steps = jnp.where(jnp.mean(x) > 0, 2, 4)
        _, h = lax.while_loop(lambda s: s[0] < steps, lambda s: (s[0] + 1, jnp.tanh(s[1] @ p["a"])), (0, x))
        return h

    params = {"a": array(8, 8, seed=7)}
    new, records = jinit.lsuv(looped, batches=True)(params, X)
    outputs = []
    for x, steps in zip(X, (2, 4, 2), strict=True):
        for _ in range(steps):
            outputs.append(np.asarray(x @ new["a"], np.float64))
            x = jnp.tanh(x @ new["a"])
    assert records["a"].output.count == sum(y.size for y in outputs)
    np.testing.assert_allclose(np.var(outputs), 1.0, rtol=1e-3)


def test_verification_sees_what_the_pass_cannot():
    params = {"w": array(64, 64, seed=8).astype(jnp.bfloat16)}
    arrived, verified = (
        jinit.lsuv(lambda p, x: x @ p["w"].astype(jnp.float32), verify=v)(params, array(512, 64, seed=9))[1][
            "w"
        ]
        for v in (False, True)
    )
    assert (arrived.verified, verified.verified) == (False, True)
    assert arrived.error < 1e-5 < verified.error < 2.0**-8
    assert jnp.isnan(arrived.output.zero_fraction)
    assert verified.output.zero_fraction == 0


def test_orthogonal_before_by_a_plan():
    apply = lambda p, x: jnp.tanh(x @ p["v"]) @ p["w"]  # noqa: E731
    shapes = {n: jax.ShapeDtypeStruct((8, 8), jnp.float32) for n in "vw"}
    drawn = jinit.init(apply, jinit.plan([("*", jinit.orthogonal())]))(jax.random.key(0), shapes, X[0])
    new, records = jinit.lsuv(apply)(drawn, X[0])
    for name in "vw":
        gram = np.asarray(new[name].T @ new[name], np.float64)
        np.testing.assert_allclose(gram / gram[0, 0], np.eye(8), atol=1e-5)
        np.testing.assert_allclose(gram[0, 0], records[name].factor ** 2, rtol=1e-5)
