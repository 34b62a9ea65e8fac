"""Statistics across control flow and devices: those of the program written out."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jinit
from tests.signals.compare import FIELDS, assert_equal_records, assert_moments, loss
from tests.zoo import array, devices
from tests.zoos.loops import STACKED

X = array(3, 4, seed=5)


def step(h: Any, wb: Any) -> Any:
    return jax.nn.relu(h @ wb["w"] + wb["b"][None]), None


def unrolled(params: Any, x: Any) -> Any:
    for i in range(3):
        x, _ = step(x, jax.tree.map(lambda p, i=i: p[i], params))
    return x


def scanned(params: Any, x: Any) -> Any:
    return lax.scan(step, x, params)[0]


@functools.cache
def unrolled_records() -> Any:
    return jinit.measure(unrolled, loss=loss)(STACKED, X)[1]


STACKS = {
    "scan": scanned,
    "scan unrolled": lambda p, x: lax.scan(step, x, p, unroll=3)[0],
    "scan of remat": lambda p, x: lax.scan(jax.checkpoint(step), x, p)[0],
    "remat of scan": jax.checkpoint(scanned),
    "scan backwards": lambda p, x: lax.scan(step, x, jax.tree.map(lambda w: w[::-1], p), reverse=True)[0],
}


@pytest.mark.parametrize("name", STACKS)
def test_a_scan_is_its_unrolled_self(name):
    _, records = jinit.measure(STACKS[name], loss=loss)(STACKED, X)
    assert list(records) == ["w"]
    for i in range(3):
        at = 2 - i if name == "scan backwards" else i
        here = jax.tree.map(lambda x, at=at: x[at], records["w"])
        one = unrolled_records()[f"w#{i}"]
        # The unrolled network slices a stack, so each of its sites holds one slice.
        assert_equal_records(here, one, f"step {i}")


def test_remat_is_its_plain_self():
    again = jax.checkpoint(unrolled)
    _, records = jinit.measure(again, loss=loss)(STACKED, X)
    for name, record in records.items():
        assert_equal_records(record, unrolled_records()[name], name)


def test_nested_scan():
    params = {"outer": array(2, 4, 4, scale=0.5), "inner": array(2, 3, 4, 4, seed=1, scale=0.5)}

    def outer(h: Any, w: Any) -> Any:
        h = jnp.tanh(h @ w["outer"])
        return lax.scan(lambda h, v: (jnp.tanh(h @ v), None), h, w["inner"])[0], None

    def by_hand(params: Any, x: Any) -> Any:
        for i in range(2):
            x = jnp.tanh(x @ params["outer"][i])
            for j in range(3):
                x = jnp.tanh(x @ params["inner"][i, j])
        return x

    _, records = jinit.measure(lambda p, x: lax.scan(outer, x, p)[0], loss=loss)(params, X)
    _, expected = jinit.measure(by_hand, loss=loss)(params, X)
    assert records["inner"].output.mean.shape == (2, 3)
    for i in range(2):
        assert_equal_records(
            jax.tree.map(lambda x, i=i: x[i], records["outer"]), expected[f"outer#{i}"], "outer"
        )
        for j in range(3):
            here = jax.tree.map(lambda x, i=i, j=j: x[i, j], records["inner"])
            assert_equal_records(here, expected[f"inner#{3 * i + j}"], "inner")


def test_while_loop_adds_its_steps():
    w = array(4, 4, scale=0.5)

    def apply(params: Any, x: Any) -> Any:
        return lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.tanh(s[1] @ params["w"])), (0, x))[
            1
        ]

    _, records = jinit.measure(apply, backward=False)({"w": w}, X)
    seen, h = [], X
    for _ in range(3):
        seen.append(h @ w)
        h = jnp.tanh(seen[-1])
    assert_moments(records["w"].output, jnp.stack(seen))
    assert "while_loop" in records["w"].note


@pytest.mark.parametrize("taken", [0, 1])
def test_cond_counts_what_was_taken(taken):
    params = {"v": array(4, 2), "w": array(4, 2, seed=1)}

    def apply(params: Any, x: Any, which: Any) -> Any:
        return lax.switch(which, [lambda x: x @ params["v"], lambda x: jnp.sin(x @ params["w"])], x)

    _, records = jinit.measure(apply, loss=loss)(params, X, jnp.int32(taken))
    names = ["v", "w"]
    here, other = names[taken], names[1 - taken]
    assert_moments(records[here].output, X @ params[here])
    assert_moments(records[here].input, X)
    for field in FIELDS[:2]:
        assert float(getattr(records[other], field).count) == 0
    assert float(records[other].cotangent.total_square) == 0
    # JAX may compute a gradient of zero for it, but never one that counts for more than the output did.
    assert float(records[other].cotangent.count) <= float(records[other].output.count)


SHARDINGS = {
    f"{kind} {check}": (function, check, specs)
    for check in (True, False)
    for kind, function, specs in (
        ("data", devices.plain, devices.BY_DATA),
        ("tensor", devices.on_columns, devices.BY_TENSOR),
    )
}


@pytest.mark.parametrize("name", SHARDINGS)
def test_shard_map_counts_what_one_device_would(name):
    function, check, specs = SHARDINGS[name]
    given = devices.PARAMS, devices.X
    sharded = devices.sharded(function, check, *specs)
    outputs, records = jinit.measure(sharded, loss=loss)(*given)
    plain_outputs, expected = jinit.measure(devices.plain, loss=loss)(*given)
    np.testing.assert_allclose(outputs, plain_outputs, rtol=1e-4, atol=1e-5)
    for site, record in records.items():
        for field in ("input", "output", "weight", "cotangent"):
            if name == "tensor False" and site == "v" and field == "cotangent":
                continue  # the transpose of an unchecked psum gives each device a share of it
            ours, theirs = getattr(record, field), getattr(expected[site], field)
            # What all devices hold alike is counted on each of them.
            assert float(ours.count) in (float(theirs.count), 4 * float(theirs.count))
            here = f"{site} {field}"
            np.testing.assert_allclose(ours.second_moment, theirs.second_moment, rtol=1e-4, err_msg=here)
            np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-3, atol=1e-6, err_msg=here)
