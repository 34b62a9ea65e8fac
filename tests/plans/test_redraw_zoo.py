"""`redraw_units` on every kernel of the zoo: refused, or what the units do reaches no output any more."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit.jaxprs.paths import leaf_paths
from tests.zoo import ZOO

REFUSAL = "must be followed into the weights that read them"


def outputs(tree):
    leaves = [
        x for x in jax.tree.leaves(tree) if hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.inexact)
    ]
    return [np.asarray(x, np.complex128) for x in leaves]


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_units_are_refused_or_reach_no_output(name):
    member = ZOO[name]
    with member.promotion():
        apply, params, inputs, kwargs = member.make()
        for use in jinit.audit(apply)(params, *inputs, **kwargs):
            axes = {*use.out_axes, *use.batch_axes}
            if use.role != "kernel" or not axes:
                continue
            mask = np.random.default_rng(0).random([use.shape[axis] for axis in sorted(axes)]) < 0.5
            renew = jinit.redraw_units(apply, jinit.normal(0.5))
            try:
                new = renew(jax.random.key(0), params, {use.path: mask}, *inputs, **kwargs)
            except ValueError as error:
                if REFUSAL not in str(error):
                    raise
                continue
            leaves, tree = jax.tree.flatten(new)
            place = leaf_paths(params).index(use.path)
            chosen = mask.reshape([n if axis in axes else 1 for axis, n in enumerate(use.shape)])
            leaves[place] = jnp.where(chosen, jnp.full_like(leaves[place], 3.0), leaves[place])
            scrambled = apply(jax.tree.unflatten(tree, leaves), *inputs, **kwargs)
            for a, b in zip(outputs(apply(new, *inputs, **kwargs)), outputs(scrambled), strict=True):
                np.testing.assert_allclose(a, b, atol=1e-6 * (1 + np.abs(a).max(initial=0)))
