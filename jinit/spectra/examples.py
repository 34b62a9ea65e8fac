"""The examples of a kernel: two sets of them, each example run by itself, with one output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jinit._errors import message
from jinit._typing import Array, PyTree
from jinit.jaxprs.tracing import Signature
from jinit.spectra.calls import Output
from jinit.spectra.kernel_axes import PairedAxes


def paired_examples(
    signature: Signature, arrays: list[Array], caller: str
) -> tuple[PyTree, tuple[PyTree, PyTree], dict[str, Any]]:
    """`params, (x1, x2), kwargs`, where `x2` may be None.

    Raises:
      ValueError: there is no first axis of examples, or not the same in every array of an input.
    """
    params, (x1, x2), kwargs = signature.arguments(arrays)
    for name, x in (("x1", x1), ("x2", x2)):
        shapes = set(_shapes(x))
        sizes = {shape[0] if shape else 0 for shape in shapes}
        if x is not None and (len(sizes) != 1 or 0 in sizes):
            must = f"`{name}` must hold examples, at least one, along the first axis of every array"
            advice = "Several inputs are a tuple of arrays."
            raise ValueError(message(caller, must, f"shapes {sorted(shapes)}", advice))
    return params, (x1, x2), kwargs


def paired_outputs(
    shape_of: Callable[[PyTree], tuple[int, ...]],
    x1: PyTree,
    x2: PyTree,
    axes: tuple[tuple[int, ...], tuple[int, ...]],
    caller: str,
) -> PairedAxes:
    """What becomes of the axes of the outputs, the same for both sets of examples.

    Args:
      shape_of: shape of the output for one of a set of examples.
      x1: the first set.
      x2: the second, or None.
      axes: `trace_axes` and `diagonal_axes`.
      caller: whom an error names.

    Raises:
      ValueError: as `PairedAxes.of`; or the second set can't be paired with the first.
    """
    pair = PairedAxes.of(shape_of(x1), *axes, caller)
    if x2 is None:
        return pair
    shapes, others = _shapes(x1), _shapes(x2)
    if pair.diagonal_batch and shapes[0][0] != others[0][0]:
        must = "`x2` must hold as many examples as `x1` where axis 0 is among `diagonal_axes`"
        raise ValueError(message(caller, must, f"{others[0][0]} for {shapes[0][0]}"))
    if [s[1:] for s in shapes] == [s[1:] for s in others] and _same_structure(x1, x2):
        return pair
    reason = None
    try:
        fits = pair.fits(shape_of(x2))
    except Exception as error:  # whatever `apply` raises at shapes that it does not take
        fits, reason = False, error
    if not fits:
        must = "`x2` must have the shapes of `x1`, but for the axis of the examples"
        got = f"shapes {others} of `x2` for {shapes} of `x1`"
        advice = (
            "Others need an `apply` that takes both, with outputs alike on the axes of trace and diagonal."
        )
        raise ValueError(message(caller, must, got, advice)) from reason
    return pair


def of_one(apply: Callable[..., PyTree], params: PyTree, x: PyTree, output: Output, kwargs: Any) -> Array:
    """The one output selected, of one example."""
    outputs = _apply_one(apply, params, x, kwargs)
    return jax.tree.leaves(outputs if output is None else output(outputs))[0][0]


def one_output(
    apply: Callable[..., PyTree],
    params: PyTree,
    x: PyTree,
    output: Output,
    kwargs: dict[str, Any],
    caller: str,
) -> tuple[int, ...]:
    """Shape of the output of a batch of one."""

    def first(x: PyTree) -> PyTree:
        return _apply_one(apply, params, jax.tree.map(lambda a: a[0], x), kwargs)

    outputs = jax.eval_shape(first, x)
    leaves = jax.tree.leaves(outputs if output is None else output(outputs))
    real = len(leaves) == 1 and jnp.issubdtype(leaves[0].dtype, jnp.floating)
    if not real or not leaves[0].shape or leaves[0].shape[0] != 1:
        must = "`apply` must have one real output, whose first axis is that of the examples"
        got = f"{[f'{x.dtype}{list(x.shape)}' for x in leaves]} for one example"
        raise ValueError(message(caller, must, got, "Select one with `output=`."))
    return tuple(leaves[0].shape)


def _apply_one(apply: Callable[..., PyTree], params: PyTree, x: PyTree, kwargs: dict[str, Any]) -> PyTree:
    """The outputs for one example, as a batch of one."""
    batch = jax.tree.map(lambda a: jnp.asarray(a)[None], x)
    return apply(params, *(batch if isinstance(batch, tuple) else (batch,)), **kwargs)


def _shapes(x: PyTree) -> list[tuple[int, ...]]:
    return [tuple(jnp.shape(a)) for a in jax.tree.leaves(x)]


def _same_structure(x1: PyTree, x2: PyTree) -> bool:
    return jax.tree.structure(x1) == jax.tree.structure(x2)
