"""`jinit.init`: all parameters of a network by a plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jinit._errors import message
from jinit._typing import Key, PyTree
from jinit.initializers import _arguments as arguments
from jinit.jaxprs.paths import leaf_paths
from jinit.jaxprs.tracing import check_call
from jinit.plans.assignment import assigned, likely
from jinit.plans.audit import audit_for
from jinit.plans.draw import Artist, Keys, keys_of
from jinit.plans.rules import Plan

CALLER = "jinit.init(...)"


def init(apply: Callable[..., PyTree], plan: Plan, *, out_shardings: PyTree = None) -> Callable[..., PyTree]:
    """All parameters of a network, drawn by a plan with the true fans of each.

    The key of a parameter is `key` folded with a hash of its path. So its values depend on its own name,
    shape and rule, and adding, removing or renaming a layer changes no other; layer i of a scan stack has
    the same values however long the stack is. They do not depend on how they are sharded either.

    Initializers of jinit that read fans get those of the use, in place of those read from the shape and of
    the axes they were made with. Initializers that read the layout (`jinit.orthogonal`, `jinit.dirac`, …) and
    those of JAX, Flax or your own are called, for a kernel, on the shape (…receptive field, in, out), with
    all its inputs in one axis and all its outputs, once for each layer, expert or head; the axes are moved
    back afterwards. All else is drawn on the shape of a layer as it is stored.

    Called eagerly, every law and shape is compiled once, whatever the number of layers. Inside `jax.jit` and
    `jax.vmap` it works too.

    Args:
      apply: any pure `(params, *inputs, **kwargs) -> outputs`. It is traced once, never run.
      plan: from `jinit.plan`.
      out_shardings: where to put the parameters: a pytree of shardings like that of the result, or one that
        begins it, as `jax.jit` takes it. By default that of each `jax.ShapeDtypeStruct` or sharded array.
        Parameters are computed where they are to be.

    Returns:
      A function of `(key, params, *inputs, **kwargs)` that returns a new tree like `params`: the same
      structure, boxes, dtypes and metadata. Of `params`, arrays or `jax.ShapeDtypeStruct`, only shapes and
      dtypes are used; leaves that are no arrays, and random keys, stay as they are. With a vector of n keys,
      every parameter has a leading axis of size n, and member i is what the i-th key alone gives.

    Raises:
      TypeError: `apply` is no function, `plan` no plan, `key` no random key.
      ValueError: a rule takes no parameter or no rule takes one; an initializer does not fit; two parameters
        have one path; a random key among the parameters is abstract; `out_shardings` is not like the result.

    Example:
      >>> import flax.linen as nn, jax, jinit
      >>> model = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(10)])
      >>> x = jax.ShapeDtypeStruct((1, 32), "float32")
      >>> params = jax.eval_shape(model.init, jax.random.key(0), x)
      >>> plan = jinit.plan([("*/kernel", jinit.he_normal()), ("*/bias", jinit.zeros)])
      >>> params = jinit.init(model.apply, plan)(jax.random.key(0), params, x)
      >>> params["params"]["layers_2"]["kernel"].shape
      (64, 10)
      >>> members = jinit.init(model.apply, plan)(jax.random.split(jax.random.key(0), 5), params, x)
      >>> members["params"]["layers_2"]["kernel"].shape
      (5, 64, 10)

    References:
      Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", 2011, for generators that
      draw the same numbers in any order and on any number of devices.
    """
    check_call(apply, caller=CALLER)
    if not isinstance(plan, Plan):
        advice = "Write `jinit.init(apply, jinit.plan([(pattern, initializer), …]))`."
        raise TypeError(message(CALLER, "`plan` must be a plan", f"plan={type(plan).__name__}", advice))

    def initialized(key: Key, params: PyTree, *inputs: Any, **kwargs: Any) -> PyTree:
        keys = keys_of(key, caller=CALLER)
        leaves, tree = jax.tree.flatten(params)
        paths = distinct_paths(params, caller=CALLER)
        places = shardings_of(params, leaves, paths, keys, out_shardings, caller=CALLER)
        kept = [_kept(path, leaf, keys) for path, leaf in zip(paths, leaves, strict=True)]
        artist = Artist(keys, places, caller=CALLER)
        shapes = abstract(params)
        for guess in likely(plan.rules, zip(paths, jax.tree.leaves(shapes), strict=True)):
            artist.prepare(guess)  # compiles while `apply` is traced
        uses = audit_for(CALLER, apply)(shapes, *inputs, **kwargs)
        drawn = artist.draw(assigned(plan.rules, uses, caller=CALLER).values())
        return jax.tree.unflatten(
            tree, [drawn.get(path, leaf) for path, leaf in zip(paths, kept, strict=True)]
        )

    return initialized


def distinct_paths(params: PyTree, *, caller: str) -> list[str]:
    """The path of every leaf.

    Raises:
      ValueError: two leaves have one path.
    """
    paths = leaf_paths(params)
    twice = [path for path, n in Counter(paths).items() if n > 1]
    if twice:
        must = "the paths of all leaves of `params` must differ"
        advice = 'A key such as "a/b" in a dict reads like a dict in a dict: give one of them another name.'
        raise ValueError(message(caller, must, f"more than one leaf at {twice[0]!r}", advice))
    return paths


def abstract(params: PyTree) -> PyTree:
    """Shapes and dtypes of the arrays; random keys, and leaves that are no arrays, as they are."""

    def shape_of(leaf: Any) -> Any:
        if _is_key(leaf) or not _is_array(leaf):
            return leaf
        aval = jax.typeof(leaf)  # dtypes as JAX will hold them
        return jax.ShapeDtypeStruct(aval.shape, aval.dtype)

    return jax.tree.map(shape_of, params)


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _is_key(leaf: Any) -> bool:
    return _is_array(leaf) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _kept(path: str, leaf: Any, keys: Keys) -> Any:
    """A leaf that no rule draws: no array, or a random key."""
    if not _is_key(leaf):
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        must = "a random key among `params` must be concrete, since it is kept as it is"
        advice = "Put a key in its place, such as `jax.random.key(0)`."
        raise ValueError(message(CALLER, must, f"an abstract one at {path!r}", advice))
    return leaf if keys.population is None else jnp.broadcast_to(leaf, (keys.population, *leaf.shape))


def shardings_of(
    params: PyTree, leaves: list[Any], paths: list[str], keys: Keys, out_shardings: PyTree, *, caller: str
) -> dict[str, Any]:
    """Where to put each parameter, by path: as told, or as `params` is placed.

    Raises:
      ValueError: `out_shardings` is no tree that begins `params`.
    """
    if out_shardings is None:
        places = [_placed(leaf, keys.population is not None) for leaf in leaves]
        return dict(zip(paths, places, strict=True))
    try:
        whole = jax.tree.broadcast(out_shardings, params, is_leaf=lambda x: x is None)
    except ValueError as error:
        must = "`out_shardings` must be a sharding, or a tree of them that begins the tree of `params`"
        raise ValueError(message(caller, must, f"{jax.tree.structure(out_shardings)}", str(error))) from error
    return dict(zip(paths, jax.tree.leaves(whole, is_leaf=lambda x: x is None), strict=True))


def _placed(leaf: Any, population: bool) -> Any:
    """The sharding of an abstract or sharded leaf, with a leading axis for the members of a population."""
    concrete = isinstance(leaf, jax.Array) and not arguments.traced(leaf)
    sharding = leaf.sharding if concrete or isinstance(leaf, jax.ShapeDtypeStruct) else None
    if not isinstance(sharding, NamedSharding):
        return None if concrete or population else sharding
    spec = PartitionSpec(None, *sharding.spec) if population else sharding.spec
    if isinstance(sharding.mesh, jax.sharding.AbstractMesh):
        return spec  # of the mesh in use
    return NamedSharding(sharding.mesh, spec, memory_kind=sharding.memory_kind)
