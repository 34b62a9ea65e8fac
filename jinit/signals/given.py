"""What a prediction is given: arrays, shapes alone, and the laws of weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import Primitive

from jinit._errors import message
from jinit._typing import PyTree
from jinit.jaxprs.tracing import param_paths
from jinit.signals.laws.arrays import at_hand


class Plan(Protocol):
    """What knows the laws of a model's parameters: a `jinit.plan`."""

    def laws(self, apply: Callable[..., PyTree], /) -> Callable[..., Mapping[str, Any]]:
        """From the arguments of `apply` to the laws, by path."""
        ...


Variances = Mapping[str, Any] | Callable[[str], Any]


@dataclasses.dataclass(frozen=True)
class Call:
    """What of a call is fixed when it is compiled.

    Attributes:
      signature: from `split`.
      shapes: shape and dtype of each array.
      given: for each array, whether its values are.
      laws: for each array, the number of leading axes along which its named law varies; -1 for a named
        constant, None where no law is named.
    """

    signature: Any
    shapes: tuple[tuple[tuple[int, ...], Any], ...]
    given: tuple[bool, ...]
    laws: tuple[int | None, ...]


def call_of(
    signature: Any, arrays: list[Any], weights: Variances | None, caller: str
) -> tuple[Call, list[Any], list[Any]]:
    """What is fixed, the arrays whose values matter, and `(mean, variance)` of those whose law is named.

    Raises:
      ValueError: a variance is missing, negative, or named for no parameter.
    """
    paths = param_paths(signature, arrays)
    if isinstance(weights, Mapping) and (extra := set(weights) - set(paths)):
        must = "`weights` must name parameters by their paths"
        raise ValueError(message(caller, must, f"{min(extra)!r}", f"The paths are {', '.join(paths[:5])}, …"))
    moments: list[Any] = [
        _moments_for(path, weights, np.shape(x), caller) for path, x in zip(paths, arrays, strict=False)
    ]
    moments += [None] * (len(arrays) - len(paths))
    given = tuple(not isinstance(x, jax.ShapeDtypeStruct) for x in arrays)
    for path, array, known, law in zip(paths, arrays, given, moments, strict=False):
        if not known and law is None and jnp.issubdtype(array.dtype, jnp.floating):
            must = "a parameter without values needs a variance in `weights`"
            raise ValueError(
                message(caller, must, f"{path!r}", "Give it, or call with initialized parameters.")
            )
    shapes = tuple(
        (tuple(np.shape(x)), x.dtype if hasattr(x, "dtype") else jnp.result_type(x)) for x in arrays
    )
    laws = tuple(_kind(m) for m in moments)
    use = [known and law is None for known, law in zip(given, laws, strict=True)]
    compact = [_compact(x) if u else None for x, u in zip(arrays, use, strict=True)]
    return Call(signature, shapes, given, laws), compact, moments


def check_laws(weights: Any, rules: Any, caller: str) -> None:
    """Raises where the laws of weights, or those of primitives, are no such thing."""
    if hasattr(weights, "variance") or not (
        weights is None or isinstance(weights, Mapping) or hasattr(weights, "laws") or callable(weights)
    ):
        must = "`weights` must be a plan, or a mapping or a function from path to variance"
        hint = 'One initializer for all kernels is `jinit.plan([("*/kernel", initializer), …])`.'
        raise TypeError(message(caller, must, repr(weights), hint))
    for primitive in rules or {}:
        if not isinstance(primitive, Primitive):
            must = "`rules` must map primitives to their rules"
            hint = "A primitive is an object such as `jax.lax.cumsum_p`."
            raise TypeError(message(caller, must, repr(primitive), hint))


def _kind(moments: tuple[Any, Any] | None) -> int | None:
    if moments is None:
        return None
    axes = np.ndim(moments[1])
    constant = axes == 0 and not isinstance(moments[1], (Tracer, jax.Array)) and moments[1] == 0
    return -1 if constant else axes


def _moments_for(
    path: str, weights: Variances | None, shape: tuple[int, ...], caller: str
) -> tuple[Any, Any] | None:
    if weights is None:
        return None
    found = weights.get(path) if isinstance(weights, Mapping) else weights(path)
    if found is None:
        return None
    mean, variance = found if isinstance(found, tuple) and len(found) == 2 else (0.0, found)
    if not all(_is_real(x) for x in (mean, variance)):
        must = "`weights` must give a variance, or a mean and a variance"
        raise TypeError(message(caller, must, f"{found!r} for {path!r}"))
    if not isinstance(variance, Tracer) and not np.all(np.asarray(variance) >= 0):
        must = "`weights` must give variances that are not negative"
        raise ValueError(message(caller, must, f"{variance} for {path!r}"))
    along = np.shape(variance)
    if along != shape[: len(along)] or np.shape(mean) not in ((), along):
        must = f"`weights` must give {path!r} numbers, or arrays like its first axes {shape}"
        raise ValueError(message(caller, must, f"shapes {np.shape(mean)} and {along}"))
    return (np.broadcast_to(mean, along), variance) if along else (mean, variance)


def _is_real(x: Any) -> bool:
    return isinstance(x, Tracer) or (not isinstance(x, tuple) and np.asarray(x).dtype.kind in "fiubV")


def _compact(x: Any) -> Any:
    """The array, with one entry along axes where its entries repeat: zero biases are one number."""
    if isinstance(x, Tracer) or jnp.issubdtype(getattr(x, "dtype", float), jax.dtypes.extended):
        return x
    x = at_hand(x)
    if np.ndim(x) == 0 or not np.size(x):
        return x
    for axis in range(np.ndim(x)):
        if np.shape(x)[axis] > 1 and _repeats(x, axis):
            x = x[tuple(slice(0, 1) if i == axis else slice(None) for i in range(np.ndim(x)))]
    return x


def _repeats(x: Any, axis: int) -> bool:
    corner = np.asarray(x[tuple(slice(0, 2) for _ in range(np.ndim(x)))])  # most arrays differ here already
    if not np.array_equal(np.take(corner, 0, axis), np.take(corner, 1, axis)):
        return False
    return bool(np.all(np.asarray(x) == np.take(np.asarray(x), [0], axis)))
