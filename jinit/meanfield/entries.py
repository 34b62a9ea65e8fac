"""What users pass: an activation, and numbers or arrays that broadcast."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jinit._errors import message
from jinit._typing import Activation, Array, at_least_float32
from jinit.initializers._quadrature import NoExpectationError, NotElementwiseError
from jinit.initializers.gains import activation_named, refuse_untraceable
from jinit.meanfield.integrals import Integrand
from jinit.meanfield.panels import find_panels


def integrand(caller: str, activation: str | Activation) -> Integrand:
    """The activation with its panels, for an activation or the name of one."""
    got = f"activation={activation!r}"
    function = activation_named(caller, activation) if isinstance(activation, str) else activation
    if not callable(function):
        must = "`activation` must be an elementwise JAX function or the name of one"
        raise TypeError(message(caller, must, got))
    try:
        panels = find_panels(function)
    except NotElementwiseError as reason:
        raise ValueError(message(caller, f"`activation` must be elementwise, but {reason}", got)) from None
    except NoExpectationError as reason:
        raise ValueError(message(caller, f"`activation` must be integrable, but {reason}", got)) from None
    refuse_untraceable(caller, function, got)
    try:
        hash(function)
    except TypeError:
        return Integrand(lambda h: function(h), panels)
    return Integrand(function, panels)


def numbers(caller: str, **values: Any) -> list[Array]:
    """The arguments as arrays of one shape and one dtype: the widest of the arrays given, else JAX's own.

    Variances and second moments must not be negative, correlations must lie in [-1, 1]; values that are
    traced are not checked.
    """
    arrays = [_array(caller, name, value) for name, value in values.items()]
    typed = [x.dtype for x, value in zip(arrays, values.values(), strict=True) if hasattr(value, "dtype")]
    dtype = np.result_type(*map(at_least_float32, typed)) if typed else jnp.zeros(()).dtype
    try:
        return list(jnp.broadcast_arrays(*(x.astype(dtype) for x in arrays)))
    except ValueError:
        got = ", ".join(f"{name} of shape {x.shape}" for name, x in zip(values, arrays, strict=True))
        raise ValueError(message(caller, "the arguments must broadcast", got)) from None


def _array(caller: str, name: str, value: Any) -> Array:
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError):
        array = None
    if array is None or not (
        jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)
    ):
        raise TypeError(
            message(caller, f"`{name}` must be a real number or an array of them", f"{name}={value!r}")
        )
    if not isinstance(array, Tracer):
        _check(caller, name, np.asarray(array, np.float64))
    return array


def _check(caller: str, name: str, values: np.ndarray) -> None:
    if name == "c":
        must, good = "`c` is a correlation, which lies in [-1, 1]", np.abs(values) <= 1
    else:
        must, good = f"`{name}` must be finite and not negative", (values >= 0) & (values < np.inf)
    if not good.all():
        advice = "Variances are squares: pass σ², not σ." if name.endswith("variance") else ""
        raise ValueError(message(caller, must, f"{name}={float(values[~good][0])!r}", advice))


def refuse_traced(caller: str, field: Any, advice: str) -> None:
    """Raise under a transformation, for what is made of words or pictures and not of arrays.

    Raises:
      TypeError: the field is traced.
    """
    if isinstance(field, Tracer):
        advice = f"Return the result from `jax.jit` or `jax.vmap` and ask for it outside. {advice}".strip()
        raise TypeError(message(caller, "values must be concrete, not traced", f"the tracer {field}", advice))


def as_integer(value: Any) -> int | None:
    """A number of layers or of roots, Python's or NumPy's; None if it is none, as True is none."""
    if isinstance(value, (bool, np.bool_, jax.Array, np.ndarray)) or not hasattr(value, "__index__"):
        return None
    return operator.index(value)


def over_entries(
    function: Callable[..., Any],
    integrand: Integrand,
    *arrays: Array,
    batch: int,
    static: tuple[Any, ...] = (),
) -> Any:
    """`function(integrand, *static, *scalars)` for every entry of arrays of one shape, `batch` at a time.

    Compiled once for single entries and once for every number of batches, whatever the shapes. `function` and
    `static` must be equal from call to call.
    """
    shape, size = arrays[0].shape, arrays[0].size
    width = 1 if size == 1 or integrand.heavy else batch
    padded = np.minimum(np.arange(-(-max(size, 1) // width) * width), size - 1)
    rows = [(x.ravel()[padded] if size else jnp.ones(width, x.dtype)).reshape(-1, width) for x in arrays]
    results = _over_rows(function, integrand, static, *rows)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:size].reshape(*shape, *x.shape[2:]), results)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _over_rows(
    function: Callable[..., Any], integrand: Integrand, static: tuple[Any, ...], *rows: Array
) -> Any:
    def row(entries: tuple[Array, ...]) -> Any:
        return jax.vmap(lambda *scalars: function(integrand, *static, *scalars))(*entries)

    if rows[0].shape[0] == 1:
        return jax.tree.map(lambda x: x[None], row(tuple(x[0] for x in rows)))
    return jax.lax.map(row, rows)
