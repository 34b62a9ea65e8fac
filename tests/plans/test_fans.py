"""The fans that `audit` gives are those by which the variance grows, at the traced layer itself."""

from __future__ import annotations

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax import lax
from jax.scipy.linalg import block_diag
from jax.sharding import PartitionSpec as P

import jinit
from tests.plans.law import DRAWS, Z, energies, normal, refutes, z_score
from tests.plans.members import MEMBERS
from tests.zoos.devices import mesh


def tables(fans):
    return {path for path, (_, fan_out) in fans.items() if fan_out is None}


# The weight's entries have another variance than the parameter's: they are scaled by what is computed from
# themselves, or there are several parameters in an entry.
OF_OPERAND = (
    "linen_reparametrised", "nnx_spectral_norm", "nnx_weight_norm", "standardised", "weight_normalised",
    "positive", "summed_kernels", "complex_pair",
)  # fmt: skip
FACTORS = {"low_rank_product": "a", "low_rank_adapter": "w", "low_rank_convolution": "a"}
ELSEWHERE = (*FACTORS, "singular_values", "picked_by_the_data", "one_kernel_picked_by_the_data")


# Cells and stacks that differ from others only in whose they are.
SLOW = (
    "linen_scan_along_axis_1", "linen_bidirectional", "linen_mgu", "nnx_lstm", "nnx_optimized_lstm",
    "nnx_gru", "nnx_simple_cell", "nnx_weight_norm", "haiku_lstm", "haiku_gru", "haiku_attention",
    "equinox_gru", "equinox_lstm", "equinox_attention",
)  # fmt: skip


def slow_or_not(name):
    return pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name


@pytest.mark.parametrize("name", [slow_or_not(name) for name in MEMBERS if name not in ELSEWHERE])
def test_variance_grows_by_the_fans(name):
    """Some site has exactly the fans that `test_audit` holds `audit` to, and none has a larger fan-in."""
    fans, of_operand = MEMBERS[name].fans, name in OF_OPERAND
    measured = energies(MEMBERS[name].make(), fans, tables(fans)) if fans else {}
    for path, (fan_in, fan_out) in fans.items():
        sites = [site for site in measured[path] if fan_out is None or "backward" in site]
        fits = [not refutes(site, fan_in, fan_out, of_operand=of_operand) for site in sites]
        assert any(fits), (path, fan_in, fan_out, [site["forward"].mean() for site in sites])
        for site in sites:
            variance = site["weight"] if of_operand else 1.0
            assert z_score(site["forward"] - fan_in * variance) < Z


@pytest.mark.parametrize("name", FACTORS)
def test_fans_of_factors_multiply(name):
    """`x @ (a @ b)` is `(x @ a) @ b`: its variance grows by both fan-ins; of a sum by those of its terms."""
    fans, path = MEMBERS[name].fans, FACTORS[name]
    (site,) = energies(MEMBERS[name].make(), fans)[path]
    forward, backward = (x * y for x, y in zip(fans["a"], fans["b"], strict=True))
    if path == "w":
        forward, backward = forward + fans["w"][0], backward + fans["w"][1]
    assert not refutes(site, forward, backward)
    assert refutes(site, 0.5 * forward, backward)
    assert refutes(site, forward, 0.5 * backward)


# What reading the fans off the shape gives, as flax does by default.
MISREAD = {
    "linen_dense_general_batch": 3 * 10,
    "linen_conv_local": 9 * 8 * 36,
    "linen_conv_transposed_kernel": 9 * 6,
    "linen_conv_transposed_strided": 16 * 4,
    "linen_einsum_heads": 10 * 4,
    "linen_einsum_experts": 3 * 10,
    "linen_scan": 3 * 14,
}


@pytest.mark.parametrize("name", MISREAD)
def test_fans_of_the_shape_are_refused(name):
    """The check can fail, forward and backward."""
    member = MEMBERS[name]
    path = "params/layers/Dense_0/kernel" if name == "linen_scan" else "params/kernel"
    fan_in, fan_out = member.fans[path]
    (site,) = energies(member.make(), [path])[path]
    assert not refutes(site, fan_in, fan_out)
    assert refutes(site, MISREAD[name], fan_out)
    assert refutes(site, fan_in, 0.5 * fan_out)


def test_z_scores_are_those_of_a_student_t():
    scores = [z_score(np.random.default_rng(i).normal(size=DRAWS)) for i in range(500)]
    assert scipy.stats.kstest(scores, scipy.stats.t(DRAWS - 1).cdf).pvalue > 1e-4


def over_devices(f, w, x, out):
    return jax.shard_map(f, mesh=mesh(), in_specs=({"w": P(*w)}, P(*x)), out_specs=P(*out))


def by_heads(p, x):
    return lax.psum(jnp.einsum("thk,hkd->td", x, p["w"]), "d")


def expert_by_expert(p, x):
    return jnp.einsum("etd,edf->etf", x, p["w"])


# function, shape of the weight, shape of the input, fan-in, fan-out
WHOLE = {
    "sharded contraction": (
        over_devices(lambda p, x: lax.psum(x @ p["w"], "d"), ("d",), (None, "d"), ()), (12, 5), (6, 12), 12, 5
    ),
    "sharded outputs": (
        over_devices(lambda p, x: x @ p["w"], (None, "d"), (), (None, "d")), (5, 8), (6, 5), 5, 8
    ),
    "sharded experts": (over_devices(expert_by_expert, ("d",), ("d",), ("d",)), (8, 5, 3), (8, 2, 5), 5, 3),
    "sharded heads": (over_devices(by_heads, ("d",), (None, "d"), ()), (8, 2, 3), (6, 8, 2), 16, 3),
    "sharded examples": (over_devices(lambda p, x: x @ p["w"], (), ("d",), ("d",)), (6, 5), (8, 6), 6, 5),
    "picked by the data": (
        lambda p, x: jnp.einsum("bd,bdf->bf", x[:, 1:], p["w"][x[:, 0].astype(int) % 3]),
        (3, 6, 5), (8, 7), 6, 5,
    ),
    "one picked by the data": (
        lambda p, x: x[:, 1:] @ p["w"][x[0, 0].astype(int) % 3], (3, 6, 5), (8, 7), 6, 5
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_fans_of_the_whole_layer(name):
    """Where devices hold parts of the weight or the data pick it: by the layer's outputs and gradients."""
    apply, shape, inputs, fan_in, fan_out = WHOLE[name]
    w, x = jax.ShapeDtypeStruct(shape, "float32"), jax.ShapeDtypeStruct(inputs, "float32")
    (use,) = jinit.audit(apply)({"w": w}, x)
    assert (use.role, use.fan_in, use.fan_out) == ("kernel", fan_in, fan_out)
    y = jax.eval_shape(apply, {"w": w}, x)
    first = 1 if "picked" in name else 0  # this input says which kernel to pick

    @jax.jit
    def both(w, x, gradient):
        out, back = jax.vjp(lambda x: apply({"w": w}, x), x)
        return jnp.mean(out**2), jnp.mean(back(gradient)[0][:, first:] ** 2)

    rng = np.random.default_rng(0)
    pairs = [both(normal(rng, w), normal(rng, x), normal(rng, y)) for _ in range(DRAWS)]
    forward, backward = np.asarray(pairs).T
    assert abs(z_score(forward - fan_in)) < Z
    assert abs(z_score(backward - fan_out)) < Z
    assert abs(z_score(forward - 2 * fan_in)) > Z


# What the weight is made of: (fan-in, fan-out), and how. Outputs without a part of a parameter don't count.
AMONG_ZEROS = {
    "blocks of two sizes": ({"a": (8, 2), "b": (4, 3)}, lambda p: block_diag(p["a"], p["b"])),
    "outputs padded": ({"a": (8, 2)}, lambda p: jnp.pad(p["a"], ((0, 0), (1, 4)))),
    "inputs padded": ({"a": (8, 2)}, lambda p: jnp.pad(p["a"], ((3, 0), (0, 0)))),
    "some outputs share": (
        {"a": (12, 2), "b": (28 / 3, 3)},
        lambda p: jnp.concatenate([jnp.pad(p["a"], ((0, 0), (0, 1))), p["b"]]),
    ),
    "written as rows": ({"a": (8, 2)}, lambda p: jnp.zeros((16, 2)).at[np.arange(0, 16, 2)].set(p["a"])),
    "one matrix of several": ({"a": (8, 2)}, lambda p: jnp.zeros((3, 8, 2)).at[1].set(p["a"]).reshape(24, 2)),
    "rows put to zero": ({"a": (5, 2)}, lambda p: p["a"].at[:3].set(0.0)),
    "updated in place": (
        {"a": (8, 2)},
        lambda p: lax.dynamic_update_slice(jnp.zeros((10, 3)), p["a"], (1, 1)),
    ),
    "through a function": ({"a": (8, 2)}, lambda p: jnp.arcsinh(jnp.sinh(jnp.pad(p["a"], ((0, 2), (1, 1)))))),
    "under another mask": (
        {"a": (4, 1)},
        lambda p: jnp.pad(p["a"], ((0, 2), (0, 0))) * (np.indices((10, 2)).sum(0) % 2).astype(np.float32),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", AMONG_ZEROS)
def test_zeros_beside_the_entries_do_not_count(name):
    fans, make = AMONG_ZEROS[name]
    shapes = {"a": (8, 2), "b": (4, 3)}
    params = {path: jax.ShapeDtypeStruct(shapes[path], "float32") for path in fans}
    x = jax.ShapeDtypeStruct((64, jax.eval_shape(make, params).shape[0]), "float32")
    uses = jinit.audit(lambda p, x: x @ make(p))(params, x)
    assert {use.path: (pytest.approx(use.fan_in), pytest.approx(use.fan_out)) for use in uses} == fans
    y = jax.eval_shape(lambda p, x: x @ make(p), params, x)
    rng, energies = np.random.default_rng(0), {path: ([], []) for path in fans}
    alone = {
        path: make({k: jnp.full(v.shape, k == path, v.dtype) for k, v in params.items()}) for path in fans
    }
    for _ in range(DRAWS):
        w = np.asarray(make({k: jnp.asarray(normal(rng, v)) for k, v in params.items()}))
        forward, backward = normal(rng, x) @ w, normal(rng, y) @ w.T
        for path, its in alone.items():
            energies[path][0].append(np.mean(forward[:, (its != 0).any(0)] ** 2))
            energies[path][1].append(np.mean(backward[:, (its != 0).any(1)] ** 2))
    for path, pair in fans.items():
        for measured, fan in zip(energies[path], pair, strict=True):
            assert abs(z_score(np.array(measured) - fan)) < Z
            assert abs(z_score(np.array(measured) - 2 * fan)) > Z


def test_complex_constants_beside_the_entries_of_a_weight():
    params = {"a": jax.ShapeDtypeStruct((4, 6), "complex64"), "b": jax.ShapeDtypeStruct((4, 6), "complex64")}
    apply = lambda p, x: x @ jnp.concatenate([1j * p["a"], p["b"], jnp.zeros((3, 6), "complex64")])  # noqa: E731
    uses = jinit.audit(apply)(params, jax.ShapeDtypeStruct((2, 11), "complex64"))
    assert [(use.fan_in, use.fan_out) for use in uses] == [pytest.approx((8, 6))] * 2


def test_memory_grows_with_the_weight_and_not_with_its_blocks_too():
    def peak(blocks):
        params = [jax.ShapeDtypeStruct((512 // blocks, 512 // blocks), "float32")] * blocks
        tracemalloc.start()
        jinit.audit(lambda p, x: x @ block_diag(*p))(params, jax.ShapeDtypeStruct((2, 512), "float32"))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(16) < 2 * peak(4)
