"""What a member of the zoo is, and how one is made cheaply."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Call = tuple[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Member:
    """A small model, and what is true of it.

    Attributes:
      make: gives `(apply, params, inputs, kwargs)`.
      sites: the names of its sites, in program order.
      not_followed: the parameters that look like weights and have no site.
      unused: the parameters that no output depends on.
      standard: whether it needs the usual dtype promotion, being other people's code.
      backward: whether it has a reverse-mode derivative.
    """

    make: Callable[[], Call]
    sites: tuple[str, ...]
    not_followed: frozenset[str]
    unused: frozenset[str]
    standard: bool
    backward: bool

    def promotion(self) -> Any:
        return jax.numpy_dtype_promotion("standard" if self.standard else "strict")


ZOO: dict[str, Member] = {}


def member(
    sites: str = "",
    *,
    not_followed: str = "",
    unused: str = "",
    standard: bool = False,
    backward: bool = True,
) -> Callable[[Callable[[], Call]], Callable[[], Call]]:
    """Enters a factory into the zoo; names are given as words of one string."""

    def enter(make: Callable[[], Call]) -> Callable[[], Call]:
        of_params, dead = frozenset(not_followed.split()), frozenset(unused.split())
        cached = functools.cache(make)
        ZOO[make.__name__] = Member(cached, tuple(sites.split()), of_params, dead, standard, backward)
        return cached

    return enter


def array(*shape: int, seed: int = 0, scale: float = 1.0, dtype: Any = np.float32) -> jax.Array:
    """Standard normal entries, without compiling a sampler."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape) * scale
    if np.issubdtype(dtype, np.complexfloating):
        x = x + 1j * rng.normal(size=shape) * scale
    return jnp.asarray(np.asarray(x, dtype))


def fill(shapes: Any) -> Any:
    """Leaves of these shapes: small normal ones, but scales and variances around one."""

    def leaf(path: Any, aval: Any) -> Any:
        name = jax.tree_util.keystr(path)
        if not hasattr(aval, "dtype"):
            return aval
        if jnp.issubdtype(aval.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        if not jnp.issubdtype(aval.dtype, jnp.inexact):
            return jnp.zeros(aval.shape, aval.dtype)
        entries = array(*aval.shape, seed=zlib.crc32(name.encode()), scale=0.4)
        if any(word in name for word in ("scale", "var", "sigma")):
            entries = 1 + abs(entries)
        return entries.astype(aval.dtype)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def linen(model: Any, *inputs: Any, init: dict[str, Any] | None = None, **kwargs: Any) -> Call:
    """`model.apply` with filled-in variables, initialized by shape alone."""
    fixed = {k: v for k, v in kwargs.items() if k not in ("rngs", "mutable")}
    rngs = {k: jax.random.key(i) for i, k in enumerate(("params", "dropout"))}
    shapes = jax.eval_shape(functools.partial(model.init, **{**fixed, **(init or {})}), rngs, *inputs)
    return model.apply, fill(shapes), inputs, kwargs
