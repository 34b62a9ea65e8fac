"""Tags go where JAX itself takes the entries: the same equation, run on the tags as an array."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jinit.jaxprs.tags import MIXES, MOVES, NONE, NotFollowedError, compressed, concatenated, split

SHAPE = (2, 3, 4, 6)
MOVED = {
    "transpose": lambda x: x.transpose(2, 0, 3, 1),
    "merge": lambda x: x.reshape(2, 12, 6),
    "flatten": lambda x: x.reshape(-1),
    "cut": lambda x: x.reshape(2, 3, 2, 2, 1, 3, 2),
    "across": lambda x: x.reshape(6, 24),
    "misaligned": lambda x: x.reshape(2, 3, 3, 8),
    "broadcast": lambda x: lax.broadcast_in_dim(x, (5, 2, 3, 4, 1, 6), (1, 2, 3, 5)),
    "slice": lambda x: x[:, 1:3, ::2, 1:],
    "rev": lambda x: lax.rev(x, (1, 3)),
    "pad": lambda x: lax.pad(x, jnp.int32(NONE), [(0, 0, 0), (1, 2, 1), (0, 0, 0), (0, 3, 0)]),
    "squeeze": lambda x: lax.squeeze(x[:, :1], (1,)),
    "concatenate": lambda x: jnp.concatenate([x, x[:, :, :, :2]], 3),
    "gather": lambda x: x[jnp.array([1, 0, 1])],
    "dynamic_slice": lambda x: lax.dynamic_slice(x, (jnp.int32(1), 0, 0, 0), (1, 3, 4, 6)),
}


def run(f, tags, loops=0):
    """Tags after every equation of `f`, by the rules; the shape of a value is that of `SHAPE`."""
    jaxpr = jax.make_jaxpr(f)(jax.ShapeDtypeStruct(SHAPE, np.int32)).jaxpr
    known = {jaxpr.invars[0]: tags}
    for eqn in jaxpr.eqns:
        ins = [None if hasattr(v, "val") else known.get(v) for v in eqn.invars]
        if all(t is None for t in ins):
            continue
        kind = eqn.primitive.name
        if kind == "concatenate":
            outs = [concatenated(eqn, ins, loops)]
        elif kind == "split":
            outs = split(eqn, ins[0], loops)
        else:
            outs = [{**MOVES, **MIXES}[kind](eqn, ins[0], loops)]
        known.update(zip(eqn.outvars, outs, strict=True))
    return known[jaxpr.outvars[0]], jaxpr.outvars[0].aval.shape


@pytest.mark.parametrize("loops", [0, 1])
@pytest.mark.parametrize("axes", [(3,), (2,), (1, 3)])
@pytest.mark.parametrize("name", MOVED)
def test_moves(name, axes, loops):
    sizes = [n if i in axes else 1 for i, n in enumerate(SHAPE)]
    tags = np.arange(np.prod(sizes)).reshape(sizes)
    steps = np.stack([tags, tags[..., ::-1]]) if loops else tags[None]
    got, shape = run(MOVED[name], steps if loops else tags, loops)
    got = np.broadcast_to(got, (2, *got.shape[1:])) if loops else got[None]
    for step, of_step in zip(got, steps, strict=True):
        want = MOVED[name](jnp.asarray(np.broadcast_to(of_step, SHAPE), jnp.int32))
        # What padding adds between equal tags has them too, which is safe: it holds a constant.
        np.testing.assert_array_equal(np.broadcast_to(step, shape), np.where(want == NONE, step, want))


MIXED = {
    "sum": (lambda x: x.sum((0, 2)), (0, 2)),
    "argmax": (lambda x: jnp.argmax(x, 1), (1,)),
    "cumsum": (lambda x: lax.cumsum(x, 2), (2,)),
    "pool": (lambda x: lax.reduce_window(x, 0, lax.add, (1, 1, 2, 2), (1, 1, 2, 2), "VALID"), (2, 3)),
}


@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("axis", range(4))
def test_what_mixes_entries_is_passed_only_along_other_axes(name, axis):
    f, axes = MIXED[name]
    sizes = [n if i == axis else 1 for i, n in enumerate(SHAPE)]
    tags = np.arange(SHAPE[axis]).reshape(sizes)
    if axis in axes:
        with pytest.raises(NotFollowedError, match="combined with"):
            run(f, tags)
    else:
        np.testing.assert_array_equal(run(f, tags)[0].reshape(-1), np.arange(SHAPE[axis]))


def test_compressed():
    tags = np.broadcast_to(np.arange(3)[:, None], (3, 4))
    assert compressed(tags).shape == (3, 1)
    assert compressed(np.arange(4)).shape == (4,)
