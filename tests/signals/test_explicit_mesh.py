"""Meshes with explicit axes, where types say how arrays are sharded: the same numbers as on one device."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jinit
from tests.zoo import array

pytestmark = [pytest.mark.usefixtures("on_cpu"), pytest.mark.standard_promotion]


def mlp(params: Any, x: Any) -> Any:
    for i in range(2):
        x = jax.nn.relu(x @ params[f"kernel{i}"] + params[f"bias{i}"])
    return x @ params["out"]


def attention(params: Any, x: Any) -> Any:
    q, k, v = (jnp.einsum("btd,dhk->bthk", x, params[name]) for name in "qkv")
    weights = jax.nn.softmax(jnp.einsum("bthk,bshk->bhts", q, k) / 4)
    return jnp.einsum("bthk,hkd->btd", jnp.einsum("bhts,bshk->bthk", weights, v), params["o"])


def normalised(params: Any, x: Any) -> Any:
    x = x @ params["a"]
    x = (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-6)
    return jax.nn.relu(x * params["scale"]) @ params["b"]


def scanned(params: Any, x: Any) -> Any:
    step = jax.checkpoint(lambda h, kernel: (jax.nn.gelu(h @ kernel), None))
    return jax.lax.scan(step, x, params["kernel"])[0]


def weights(*shapes: tuple[int, ...]) -> list[jax.Array]:
    return [array(*shape, seed=i) / shape[-2] ** 0.5 for i, shape in enumerate(shapes)]


CASES = {
    "mlp": (
        mlp,
        dict(zip(("kernel0", "kernel1", "out"), weights((32, 64), (64, 64), (64, 16)), strict=True))
        | {"bias0": array(64, seed=8), "bias1": array(64, seed=9)},
        array(32, 32),
        {"kernel0": PartitionSpec(None, "y"), "bias0": PartitionSpec("y")},
    ),
    "attention": (
        attention,
        dict(zip("qkvo", [*weights(*[(16, 4, 16)] * 3), array(4, 16, 16, seed=4) / 8], strict=True)),
        array(16, 4, 16),
        {},
    ),
    "normalised": (
        normalised,
        dict(zip("ab", weights((16, 16), (16, 16)), strict=True)) | {"scale": jnp.ones(16)},
        array(32, 16),
        {},
    ),
    "scanned": (scanned, {"kernel": weights((3, 16, 16))[0]}, array(32, 16), {}),
}
VERBS = {
    "measure": jinit.measure,
    "measure with loss": lambda apply: jinit.measure(apply, loss=lambda y: jnp.mean(y**2)),
    "diagnose": lambda apply: lambda p, x: jinit.diagnose(apply)(p, x).to_dict(),
    "predict": jinit.predict,
    "lsuv": lambda apply: lambda p, x: jinit.lsuv(apply, inexact="skip")(p, x),
    "lsuv by unit": lambda apply: jinit.lsuv(apply, inexact="skip", per_unit=True, center=True),
}


def in_mesh(cpus: list[jax.Device], params: Any, x: jax.Array, specs: dict[str, PartitionSpec]) -> Any:
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2, devices=cpus)
    placed = {
        k: jax.device_put(v, NamedSharding(mesh, specs.get(k, PartitionSpec()))) for k, v in params.items()
    }
    return mesh, placed, jax.device_put(x, NamedSharding(mesh, PartitionSpec("x")))


def same(got: Any, wanted: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        if isinstance(a, str):
            assert a == b
        else:
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=2e-4, atol=2e-5)


QUICK = {("mlp", "measure"), ("mlp", "lsuv by unit")}


@pytest.mark.parametrize(
    ("name", "verb"),
    [
        pytest.param(name, verb, marks=() if (name, verb) in QUICK else pytest.mark.slow)
        for name in CASES
        for verb in VERBS
    ],
)
def test_same_as_on_one_device(name, verb, cpus):
    apply, params, x, specs = CASES[name]
    wanted = VERBS[verb](apply)(params, x)
    mesh, placed, batch = in_mesh(cpus, params, x, specs)
    with jax.set_mesh(mesh):
        got = VERBS[verb](apply)(placed, batch)
    same(got, wanted)


@pytest.mark.slow
def test_a_lookup_that_says_where_its_result_is(cpus):
    """It runs under a mesh with automatic axes, inside of the other."""
    params = {"table": array(24, 16), "kernel": array(16, 16, seed=1)}
    tokens, rows = jnp.arange(32).reshape(8, 4) % 24, PartitionSpec("x", None, None)
    plain = lambda p, t: jax.nn.relu(p["table"][t]) @ p["kernel"]  # noqa: E731
    told = lambda p, t: jax.nn.relu(p["table"].at[t].get(out_sharding=rows)) @ p["kernel"]  # noqa: E731
    mesh, placed, batch = in_mesh(cpus, params, tokens, {})
    wanted = [jinit.measure(plain)(params, tokens)[1], jinit.predict(plain)(params, tokens)]
    calibrated, _ = jinit.lsuv(plain)(params, tokens)
    with jax.set_mesh(mesh):
        got = [jinit.measure(told)(placed, batch)[1], jinit.predict(told)(placed, batch)]
        same(jinit.lsuv(told)(placed, batch)[0], calibrated)
    for records, expected in zip(got, wanted, strict=True):
        assert set(records) == {"table", "kernel"}
        for field in ("output", "cotangent"):
            same(*([getattr(r[k], field).second_moment for k in params] for r in (records, expected)))
