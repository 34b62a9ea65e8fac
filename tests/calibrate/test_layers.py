"""Every layer class of flax, haiku and equinox, and odd ones: unit variance after one call, or named."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from tests.plans.members import MEMBERS

pytestmark = [pytest.mark.slow, pytest.mark.standard_promotion]


@pytest.mark.parametrize("name", [name for name, member in MEMBERS.items() if member.fans])
def test_unit_variance_or_named(name):
    apply, params, inputs, kwargs = MEMBERS[name].make()
    _, records = jinit.lsuv(apply, verify=True)(params, *inputs, **kwargs)
    dtypes = {x.dtype for x in jax.tree.leaves((params, inputs)) if hasattr(x, "dtype")}
    narrow = dtypes & {jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16)} or "bfloat16" in name
    for site, record in records.items():
        if record.note or record.output is None:
            assert record.problem or record.error.max() < 1e-3, site
        else:
            assert np.all(record.error < (2.0**-7 if narrow else 1e-3)), (site, record.error, record.problem)
