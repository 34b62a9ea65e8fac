"""Every model of the zoo: unit variance at every site after one call, or named with the reason."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from tests.zoo import ZOO

# One of each kind; the others take minutes to compile.
QUICK = (
    "conv_grouped", "einsum_layer", "float16_parameters", "scanned_on_another_axis", "switch", "custom_vjp",
    "while_loop", "loop_over_dynamic_slices", "tensor_parallel_unchecked", "scan_in_shard_map",
    "haiku_convnet", "equinox_attention", "weight_and_spectral_norm", "packed_flat_vector",
    "low_rank_adapter", "pallas_kernel",
)  # fmt: skip


def check(name):
    member = ZOO[name]
    with member.promotion():
        apply, params, inputs, kwargs = member.make()
        new, records = jinit.lsuv(apply, verify=True)(params, *inputs, **kwargs)
        assert jax.tree.structure(new) == jax.tree.structure(params)
        for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(params), strict=True):
            if hasattr(b, "dtype"):
                assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert set(member.sites) <= set(records)
        for site, record in records.items():
            if record.output is None:
                assert record.note.startswith("not followed"), site
                continue
            count = np.asarray(record.output.count)
            if record.note or not np.all(count > 0):
                assert record.problem or np.all(record.error < 1e-3), site
                continue
            if name == "bias_of_several_kinds" and site == "v":
                assert "the bias alone varies more" in record.problem
                continue
            narrow = {jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16)}
            dtypes = {x.dtype for x in jax.tree.leaves((params, inputs)) if hasattr(x, "dtype")}
            bound = 2.0**-7 if dtypes & narrow or "bfloat16" in name else 1e-3
            assert np.all(record.error < bound), (site, record.error)


@pytest.mark.parametrize("name", QUICK)
def test_unit_variance_or_named(name):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in ZOO if n not in QUICK])
def test_unit_variance_or_named_elsewhere(name):
    check(name)
