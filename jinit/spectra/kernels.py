"""Kernels of a finite network: the empirical tangent kernel, that of its outputs, and their conditioning."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax

from jinit._errors import message
from jinit._typing import Array, PyTree, at_least_float32
from jinit.initializers._arguments import count
from jinit.jaxprs.paths import leaf_paths
from jinit.jaxprs.tracing import Signature, check_call, split
from jinit.spectra.arguments import check_output, whole_numbers
from jinit.spectra.calls import Output, is_floating
from jinit.spectra.examples import of_one, one_output, paired_examples, paired_outputs
from jinit.spectra.kernel_axes import PairedAxes
from jinit.spectra.linear_maps import pull_of, push_of

KernelMethod = Literal["jacobian", "implicit"]
Where = Callable[[str], bool] | None


def neural_tangent_kernel(
    apply: Callable[..., PyTree],
    *,
    trace_axes: int | Sequence[int] = -1,
    diagonal_axes: int | Sequence[int] = (),
    output: Output = None,
    where: Where = None,
    method: KernelMethod = "jacobian",
    batch_size: int | None = None,
) -> Callable[..., Array]:
    """The empirical neural tangent kernel `Θ(x, x') = ∂f(x)/∂θ · ∂f(x')/∂θᵀ`.

    Gradient flow on any loss moves the outputs by `df(x)/dt = −Σ_{x'} Θ(x, x') ∂loss/∂f(x')`. By default the
    kernel is the mean over the last axis of the outputs, `(1/k) Σ_c Θ_cc(x, x')`, of shape `[n1, n2]`, since
    in wide networks `Θ_{cc'}` tends to `δ_{cc'}` of it; `trace_axes=()` gives all, `[n1, n2, k, k]`.

    The parametrization is that of the model as it is, and every parameter counts alike; in a linen variables
    dict only the collection `params` does.

    Args:
      apply: any pure `(params, *inputs, **kwargs) -> outputs`. Each example is run by itself, as a batch of
        one: BatchNorm and dropout belong in inference mode.
      trace_axes: axes of the outputs, as for the batch `[n, ...]`, to take the mean of the diagonal over.
      diagonal_axes: axes to keep the diagonal of only: they come once in the result. With axis 0 among them
        only `Θ(x_i, x'_i)`.
      output: selects one array among the outputs.
      where: keeps the parameters on whose path, such as `params/Dense_0/kernel`, it is true.
      method: `"jacobian"` contracts whole Jacobians, of `n k P` numbers, P that of parameters;
        `"implicit"` takes a product `J (Jᵀ e)` for each pair and output, and holds few arrays of size P.
      batch_size: examples in one block on each side, to bound memory; all if None, one at a time if
        `"implicit"`.

    Returns:
      A function `(params, x1, x2=None, **kwargs) -> kernel`: `x1` an array, or a tuple of the inputs of
      `apply`, with `n1` examples along the first axis of each; `x2` likewise, of the same shapes but for that
      axis, or None for `x1`, which gives a kernel that is exactly symmetric. The result
      has axes `[n1, n2]` and, for each remaining axis of the outputs, two; float32 (float64 for 64-bit
      models).

    Raises:
      TypeError: `apply` or `output` is no function; an axis or `batch_size` is no whole number.
      ValueError: an axis is not there or has two roles; `x2` does not go with `x1`; there is no single
        floating output with an axis of examples; no parameter is left; something is complex; options are out
        of range.

    Example:
      >>> import flax.linen as nn, jax, jinit
      >>> model = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(3)])
      >>> x = jax.random.normal(jax.random.key(0), (5, 8))
      >>> params = model.init(jax.random.key(1), x)
      >>> kernel = jinit.neural_tangent_kernel(model.apply)(params, x)
      >>> kernel.shape, jinit.neural_tangent_kernel(model.apply, trace_axes=())(params, x, x[:2]).shape
      ((5, 5), (5, 2, 3, 3))

    References:
      Jacot, Gabriel, Hongler, *Neural tangent kernel: convergence and generalization in neural networks*,
      2018; Novak, Sohl-Dickstein, Schoenholz, *Fast finite width neural tangent kernel*, 2022, for the two
      methods and the meaning of `trace_axes` and `diagonal_axes`.
    """
    caller = "jinit.neural_tangent_kernel(...)"
    check_call(apply, caller=caller)
    check_output(caller, output)
    axes, batch_size = _checked_options(trace_axes, diagonal_axes, method, batch_size, caller)

    @functools.partial(jax.jit, static_argnums=0)
    def run(signature: Signature, arrays: list[Array]) -> Array:
        params, (x1, x2), kwargs = paired_examples(signature, arrays, caller)
        wanted, rebuild = _wanted(params, where, caller)
        shape_of = lambda x: one_output(apply, params, x, output, kwargs, caller)  # noqa: E731
        pair = paired_outputs(shape_of, x1, x2, axes, caller)

        def function(wanted: list[Array], x: PyTree) -> Array:
            return of_one(apply, rebuild(wanted), x, output, kwargs)

        make = _implicit if method == "implicit" else _by_jacobians
        left, right = make(function, wanted, pair)
        size = 1 if method == "implicit" and batch_size is None else batch_size
        return pairwise(left, right, pair, x1, x2, size)

    return lambda params, x1, x2=None, **kwargs: run(*split(params, (x1, x2), kwargs))


def nngp_kernel(
    apply: Callable[..., PyTree],
    *,
    trace_axes: int | Sequence[int] = -1,
    diagonal_axes: int | Sequence[int] = (),
    output: Output = None,
    batch_size: int | None = None,
) -> Callable[..., Array]:
    """The empirical kernel of the outputs, `K(x, x') = f(x) f(x')ᵀ`.

    By default the mean over the last axis, `(1/k) Σ_c f_c(x) f_c(x')`. Of wide networks at initialization, it
    estimates the covariance of the Gaussian process that they tend to (the NNGP), the better the more outputs
    and the more keys it is averaged over.

    Args:
      apply: any pure `(params, *inputs, **kwargs) -> outputs`; each example is run as a batch of one.
      trace_axes: axes of the outputs to take the mean of the diagonal over.
      diagonal_axes: axes to keep the diagonal of only.
      output: selects one array among the outputs.
      batch_size: examples in one block on each side; all if None.

    Returns:
      A function `(params, x1, x2=None, **kwargs) -> kernel`, as of `jinit.neural_tangent_kernel`.

    Raises:
      TypeError: `apply` or `output` is no function; an axis or `batch_size` is no whole number.
      ValueError: as for `jinit.neural_tangent_kernel`.

    Example:
      >>> import jax, jax.numpy as jnp, jinit
      >>> x = jnp.eye(3)
      >>> jinit.nngp_kernel(lambda w, x: x @ w)(jnp.ones((3, 5)), x).tolist()
      [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]

    References:
      Lee et al., *Deep neural networks as Gaussian processes*, 2018; Novak et al., *Neural Tangents: fast and
      easy infinite neural networks in Python*, 2020.
    """
    caller = "jinit.nngp_kernel(...)"
    check_call(apply, caller=caller)
    check_output(caller, output)
    axes, batch_size = _checked_options(trace_axes, diagonal_axes, "jacobian", batch_size, caller)

    @functools.partial(jax.jit, static_argnums=0)
    def run(signature: Signature, arrays: list[Array]) -> Array:
        params, (x1, x2), kwargs = paired_examples(signature, arrays, caller)
        shape_of = lambda x: one_output(apply, params, x, output, kwargs, caller)  # noqa: E731
        pair = paired_outputs(shape_of, x1, x2, axes, caller)

        def value(x: PyTree) -> list[Array]:
            found = of_one(apply, params, x, output, kwargs)
            return [lax.convert_element_type(found, at_least_float32(found.dtype))]

        return pairwise(value, lambda left, x: pair.contract(left, value(x)), pair, x1, x2, batch_size)

    return lambda params, x1, x2=None, **kwargs: run(*split(params, (x1, x2), kwargs))


def pairwise(
    left: Callable[[PyTree], Any],
    right: Callable[[Any, PyTree], Array],
    pair: PairedAxes,
    x1: PyTree,
    x2: PyTree,
    batch_size: int | None,
) -> Array:
    """`right(left(x1_i), x2_j)` for all i and j, or for i = j, in blocks of examples."""
    if x2 is None:
        kernel = pairwise(left, right, pair, x1, x1, batch_size)
        return kernel if pair.diagonal_batch else pair.symmetric(kernel)
    if pair.diagonal_batch:
        return _map(lambda x: right(left(x[0]), x[1]), (x1, x2), batch_size)

    def row(x: PyTree) -> Array:
        at = left(x)
        return _map(lambda y: right(at, y), x2, batch_size)

    return _map(row, x1, batch_size)


def _map(function: Callable[[Any], Any], xs: PyTree, batch_size: int | None) -> Any:
    return jax.vmap(function)(xs) if batch_size is None else lax.map(function, xs, batch_size=batch_size)


Maker = tuple[Callable[[PyTree], Any], Callable[[Any, PyTree], Array]]


def _by_jacobians(function: Callable[..., Array], wanted: list[Array], pair: PairedAxes) -> Maker:
    """Jacobians `[*outputs, *parameter]` of one example, and their contraction."""

    def jacobian(x: PyTree) -> list[Array]:
        leaves = jax.jacrev(lambda p: function(p, x))(wanted)
        return [lax.convert_element_type(j, at_least_float32(j.dtype)) for j in leaves]

    return jacobian, lambda left, x: pair.contract(left, jacobian(x))


def _implicit(function: Callable[..., Array], wanted: list[Array], pair: PairedAxes) -> Maker:
    """`Θ e = J(x) (J(x')ᵀ e)` for every output e of the second example, one after the other."""

    def right(left: PyTree, x: PyTree) -> Array:
        push = push_of(lambda p: function(p, left), wanted)
        pull = pull_of(lambda p: function(p, x), wanted)
        like = jax.eval_shape(lambda p: function(p, x), wanted)
        size = math.prod(like.shape)

        def column(c: Array) -> Array:
            return push(pull((jnp.arange(size) == c).astype(like.dtype).reshape(like.shape)))

        columns = lax.map(column, jnp.arange(size))
        columns = columns.reshape(*like.shape, *columns.shape[1:])
        order = [*range(len(like.shape), columns.ndim), *range(len(like.shape))]
        wide = lax.convert_element_type(columns, at_least_float32(columns.dtype))
        return pair.reduce(wide.transpose(order))

    return lambda x: x, right


def _checked_options(
    trace_axes: int | Sequence[int],
    diagonal_axes: int | Sequence[int],
    method: str,
    batch_size: int | None,
    caller: str,
) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], int | None]:
    """`((trace_axes, diagonal_axes), batch_size)`, as Python ints."""
    if method not in get_args(KernelMethod):
        must = f"`method` must be one of {', '.join(map(repr, get_args(KernelMethod)))}"
        raise ValueError(message(caller, must, f"{method=}"))
    axes = (
        whole_numbers(caller, "trace_axes", trace_axes),
        whole_numbers(caller, "diagonal_axes", diagonal_axes),
    )
    return axes, None if batch_size is None else count(caller, "batch_size", batch_size)


def _wanted(params: PyTree, where: Where, caller: str) -> tuple[list[Array], Callable[[list[Array]], PyTree]]:
    """The parameters that count, and the way back to all of them."""
    leaves, tree = jax.tree.flatten(params)
    paths = leaf_paths(params)
    in_collections = any(path.startswith("params/") for path in paths)

    def counts(path: str, leaf: Any) -> bool:
        trainable = not in_collections or path.startswith("params/")
        return hasattr(leaf, "dtype") and is_floating(leaf) and trainable and (where is None or where(path))

    chosen = [i for i, (path, leaf) in enumerate(zip(paths, leaves, strict=True)) if counts(path, leaf)]
    if not chosen or any(jnp.iscomplexobj(leaves[i]) for i in chosen):
        must = "some parameters must be left to differentiate with respect to, all of them real"
        got = f"{len(chosen)} of {len(leaves)} parameters" + (", some complex" if chosen else "")
        raise ValueError(message(caller, must, got, "`where` is asked for each path."))

    def rebuild(new: list[Array]) -> PyTree:
        for_index = dict(zip(chosen, new, strict=True))
        return jax.tree.unflatten(tree, [for_index.get(i, leaf) for i, leaf in enumerate(leaves)])

    return [jnp.asarray(leaves[i]) for i in chosen], rebuild
