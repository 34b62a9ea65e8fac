"""From `apply(params, *inputs)` to a jaxpr whose inputs are known by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np
from flax import linen, nnx

from jinit._compat import opened
from jinit._errors import message
from jinit._typing import Array, PyTree
from jinit.jaxprs.paths import leaf_paths


class _Same:
    """A leaf that cannot be hashed, equal to itself alone."""

    def __init__(self, value: Any):
        self.value = value


@dataclasses.dataclass(frozen=True)
class Signature:
    """How the arguments of a call fall into arrays, which are traced, and the rest, which is held.

    Strings, booleans, functions and other leaves that are no arrays stay as they are, so that
    `train=True`, `mutable=["batch_stats"]` and the activations inside an equinox module just work.
    So do Python numbers among the parameters; among the inputs they are traced, as under `jax.jit`.
    """

    tree: Any
    held: tuple[tuple[int, Hashable], ...]
    num_params: int

    def arguments(self, arrays: list[Array]) -> tuple[PyTree, tuple[Any, ...], dict[str, Any]]:
        """The `(params, inputs, kwargs)` that `split` took apart, holding `arrays`."""
        held = {i: x.value if isinstance(x, _Same) else x for i, x in self.held}
        rest = iter(arrays)
        leaves = [held[i] if i in held else next(rest) for i in range(self.tree.num_leaves)]
        return jax.tree.unflatten(self.tree, leaves)


def split(params: PyTree, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Signature, list[Array]]:
    """The signature of a call, and its arrays: those of `params` first."""
    leaves, tree = jax.tree.flatten((params, inputs, kwargs))
    num_leaves = len(jax.tree.leaves(params))
    traced = [_is_parameter(x) if i < num_leaves else _is_traced(x) for i, x in enumerate(leaves)]
    held = tuple((i, _hashable(x)) for i, x in enumerate(leaves) if not traced[i])
    num_params = sum(traced[:num_leaves])
    return Signature(tree, held, num_params), [_as_held(x) for x, t in zip(leaves, traced, strict=True) if t]


def _as_held(x: Any) -> Any:
    """NumPy's 64-bit arrays in the dtype that JAX will hold them in."""
    numbers = isinstance(x, (np.ndarray, np.generic)) and x.dtype.kind in "iufc"
    return x.astype(jax.typeof(x).dtype, copy=False) if numbers else x


def _is_traced(leaf: Any) -> bool:
    if isinstance(leaf, (bool, str)):
        return False
    return isinstance(leaf, (int, float, complex, np.ndarray, np.generic, jax.Array, jax.ShapeDtypeStruct))


def _is_parameter(leaf: Any) -> bool:
    """A Python number among the parameters is a setting, such as a number of heads or a dropout rate."""
    return _is_traced(leaf) and hasattr(leaf, "dtype")


def _hashable(leaf: Any) -> Hashable:
    try:
        hash(leaf)
    except TypeError:
        return _Same(leaf)
    return leaf


@dataclasses.dataclass(frozen=True)
class Program:
    """A traced `apply`.

    Attributes:
      jaxpr: its equations; the first `len(paths)` inputs are the arrays of `params`.
      consts: values of `jaxpr.constvars`.
      paths: path of each array of `params`.
      out_tree: structure of the outputs.
    """

    jaxpr: Any
    consts: list[Any]
    paths: tuple[str, ...]
    out_tree: Any


def trace(apply: Callable[..., PyTree], signature: Signature, arrays: list[Array], *, caller: str) -> Program:
    """Trace `apply` on the arguments that `split` took apart.

    Args:
      apply: any pure `(params, *inputs, **kwargs) -> outputs`.
      signature: from `split`.
      arrays: from `split`; only shapes and dtypes matter.
      caller: whom an error names.

    Raises:
      ValueError: `params` holds no array.
      TypeError: an output is no array.
      Whatever `apply` raises, with a note that says what it was called with.
    """
    check_params(signature, caller=caller)

    def flat(*arrays: Array) -> PyTree:
        params, inputs, kwargs = signature.arguments(list(arrays))
        return checked_outputs(apply(params, *inputs, **kwargs), caller=caller)

    try:
        closed, out_shapes = jax.make_jaxpr(flat, return_shape=True)(*arrays)
    except Exception as error:
        error.add_note(_explain(error, signature, arrays, caller))
        raise
    jaxpr, consts = opened(closed)
    return Program(jaxpr, consts, param_paths(signature, arrays), jax.tree.structure(out_shapes))


def param_paths(signature: Signature, arrays: list[Array]) -> tuple[str, ...]:
    """Path of each array of `params`."""
    params, _, _ = signature.arguments(list(arrays))
    pairs = zip(leaf_paths(params), jax.tree.leaves(params), strict=True)
    return tuple(path for path, leaf in pairs if _is_parameter(leaf))


def check_call(apply: Any, *, caller: str) -> None:
    """Raise if `apply` is no function of `(params, *inputs)`."""
    if isinstance(apply, linen.Module):
        advice = "Pass `model.apply`."
    elif isinstance(apply, nnx.Module):
        advice = "Use `apply, params = jinit.functional(model)`."
    elif not callable(apply):
        advice = "Pass `model.apply` of a linen module, or any pure function of its parameters."
    else:
        return
    must = "`apply` must be a function `(params, *inputs) -> outputs`"
    raise TypeError(message(caller, must, f"apply={type(apply).__name__}", advice))


def check_params(signature: Signature, *, caller: str) -> None:
    """Raise if there is no parameter."""
    if not signature.num_params:
        must = "`params` must hold at least one array"
        raise ValueError(message(caller, must, "none", "Call it as `f(params, *inputs)`, parameters first."))


def checked_outputs(outputs: PyTree, *, caller: str) -> PyTree:
    """The outputs of `apply` as they are.

    Raises:
      TypeError: one of them is no array and no number.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(outputs):
        try:
            jax.typeof(leaf)
        except TypeError:
            if hasattr(leaf, "__jax_array__"):
                continue
            where = f" at {jax.tree_util.keystr(path)}" if path else ""
            advice = "Leave out of its outputs what is no array."
            got = f"a {type(leaf).__name__}{where}"
            raise TypeError(message(caller, "`apply` must return arrays", got, advice)) from None
    return outputs


def _explain(error: Exception, signature: Signature, arrays: list[Array], caller: str) -> str:
    shapes = ", ".join(jax.typeof(x).str_short() for x in arrays[signature.num_params :])
    note = f"`{caller}`: tracing `apply(params, *inputs)` failed with {signature.num_params} parameter"
    note += f" arrays and inputs ({shapes})."
    if isinstance(error, jax.errors.JAXTypeError):
        note += (
            "\nEvery array argument is traced, as under `jax.jit`; booleans and strings are held as they are."
        )
    if "trace level" in str(error) or isinstance(error, jax.errors.UnexpectedTracerError):
        note += "\n`apply` must be pure: for an nnx module use `apply, params = jinit.functional(model)`."
    return note
