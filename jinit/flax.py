"""From Flax modules to the pure functions that jinit works on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx

from jinit._errors import message
from jinit._typing import PyTree


def functional(model: nnx.Module) -> tuple[Callable[..., PyTree], nnx.State]:
    """Split an nnx module into a pure function and its parameters.

    `apply(params, *inputs)` gives what `model(*inputs)` gives. All state but the parameters (batch
    statistics, random-number streams) is held as it is now: every call starts from it, and what a call
    does to it is dropped. The model itself is never changed. A model of shapes, from `nnx.eval_shape`, can be
    audited and initialized. A linen module needs no such step: `model.apply` is pure already.

    Args:
      model: any `nnx.Module`, in the mode to be looked at (`model.train()`, `model.eval()`).

    Returns:
      `(apply, params)`: `params` is an `nnx.State` of the `nnx.Param` leaves, with paths such as
      `layers/0/kernel`; `nnx.update(model, params)` puts parameters back.

    Raises:
      TypeError: `model` is no nnx module.

    Example:
      >>> import jax.numpy as jnp, jinit
      >>> from flax import nnx
      >>> model = nnx.Linear(3, 4, kernel_init=jinit.he_normal(), rngs=nnx.Rngs(0))
      >>> apply, params = jinit.functional(model)
      >>> apply(params, jnp.ones((2, 3))).shape
      (2, 4)
    """
    if not isinstance(model, nnx.Module):
        advice = "A linen module is functional already: use `model.apply` and `model.init(key, x)`."
        advice = advice if isinstance(model, linen.Module) else "Pass an instance of `nnx.Module`."
        must = "`model` must be an nnx module"
        raise TypeError(message("jinit.functional(...)", must, f"model={type(model).__name__}", advice))
    graphdef, params, held = nnx.split(model, nnx.Param, ...)

    def apply(params: PyTree, *inputs: Any, **kwargs: Any) -> PyTree:
        state = jax.tree.map(_value_to_trace_with, held)
        return nnx.merge(graphdef, params, state, copy=True)(*inputs, **kwargs)

    return apply, params


def _value_to_trace_with(leaf: Any) -> Any:
    """State as it is; in place of a shape something to trace with, that raises if it is ever run."""
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.pure_callback(_refuse_to_run, leaf)
    words = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    data = jax.ShapeDtypeStruct((*leaf.shape, *words.shape), words.dtype)
    return jax.random.wrap_key_data(jax.pure_callback(_refuse_to_run, data))


def _refuse_to_run() -> Any:
    must = (
        "a model whose state is abstract, as from `nnx.eval_shape`, can be audited and initialized, not run"
    )
    advice = (
        "Put arrays in place of its batch statistics and random streams, or make it without `eval_shape`."
    )
    raise ValueError(
        message("jinit.functional(...)", must, "shapes for state that is no `nnx.Param`", advice)
    )
