"""The same small network, on one device and laid out over several."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.zoos.member import array, member

PARAMS = {"w": array(4, 8), "v": array(8, 2, seed=1)}
X = array(8, 4, seed=2)


def mesh():
    return Mesh(np.array(jax.devices("cpu")[:4]), ("d",))


def plain(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"]


def on_columns(params, x):
    return jax.lax.psum(plain(params, x), "d")


def sharded(function, check, params_specs, x_spec, out_spec):
    specs = ({k: P(*s) for k, s in params_specs.items()}, P(*x_spec))
    return jax.shard_map(function, mesh=mesh(), in_specs=specs, out_specs=P(*out_spec), check_vma=check)


BY_DATA = ({"w": (), "v": ()}, ("d",), ("d",))
BY_TENSOR = ({"w": (None, "d"), "v": ("d", None)}, (), ())


def _enter(name, function, check, specs):
    def make():
        return sharded(function, check, *specs), PARAMS, (X,), {}

    make.__name__ = name
    member("w v")(make)


_enter("data_parallel", plain, True, BY_DATA)
_enter("data_parallel_unchecked", plain, False, BY_DATA)
_enter("tensor_parallel", on_columns, True, BY_TENSOR)
_enter("tensor_parallel_unchecked", on_columns, False, BY_TENSOR)


@member("w v")
def jit_with_shardings():
    by_column, whole = NamedSharding(mesh(), P(None, "d")), NamedSharding(mesh(), P())
    rows = NamedSharding(mesh(), P("d"))
    params = jax.device_put(PARAMS, {"w": by_column, "v": whole})
    run = jax.jit(plain, in_shardings=({"w": by_column, "v": whole}, rows), out_shardings=rows)
    return run, params, (jax.device_put(X, rows),), {}


@member("w v")
def constrained():
    rows = NamedSharding(mesh(), P("d"))

    def apply(params, x):
        x = jax.lax.with_sharding_constraint(x @ params["w"], rows)
        return jnp.tanh(x) @ params["v"]

    return apply, PARAMS, (X,), {}
