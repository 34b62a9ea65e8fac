"""The arguments of one call: which are differentiated, which hold examples along their first axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from jinit._errors import message
from jinit._typing import Array, PyTree
from jinit.jaxprs.tracing import Signature, checked_outputs
from jinit.spectra.linear_maps import first_that_works, pull_of, push_of

Output = Callable[[PyTree], PyTree] | None


@dataclasses.dataclass(frozen=True)
class _Slot:
    """Stands for the array number `index` of a call."""

    index: int


def slots_of(signature: Signature, count: int) -> list[list[int]]:
    """Indices of the arrays in `params`, then in each of the inputs."""
    slots: list[Any] = [_Slot(i) for i in range(count)]
    params, inputs, _ = signature.arguments(slots)
    trees = (params, *inputs)
    return [[x.index for x in jax.tree.leaves(tree) if isinstance(x, _Slot)] for tree in trees]


def is_floating(x: Any) -> bool:
    """Whether an array, or its shape and dtype, can be differentiated."""
    return jnp.issubdtype(x.dtype, jnp.inexact)


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of `apply`, as a function of some of its arrays.

    Attributes:
      flat: `(arrays) -> outputs`, the floating ones of those selected.
      arrays: of `params` first.
      wanted: indices of the arrays to differentiate with respect to.
      mapped: indices of the arrays that hold one entry for each example; none where all is one.
    """

    flat: Callable[[list[Array]], list[Array]]
    arrays: list[Array]
    wanted: tuple[int, ...]
    mapped: tuple[int, ...] = ()

    def at(self, arrays: Sequence[Array]) -> list[Array]:
        """The wanted ones of these arrays."""
        return [arrays[i] for i in self.wanted]

    def of_wanted(self, arrays: Sequence[Array]) -> Callable[[list[Array]], list[Array]]:
        """The outputs as a function of the wanted arrays, the others held."""

        def function(wanted: list[Array]) -> list[Array]:
            new = list(arrays)
            for i, x in zip(self.wanted, wanted, strict=True):
                new[i] = x
            return self.flat(new)

        return function

    def each(self, run: Callable[[list[Array]], PyTree]) -> PyTree:
        """`run` of the arrays of each example, as a batch of one, stacked; else of all arrays."""
        if not self.mapped:
            return run(self.arrays)

        def one(entries: list[Array]) -> PyTree:
            arrays = list(self.arrays)
            for i, x in zip(self.mapped, entries, strict=True):
                arrays[i] = x[None]
            return run(arrays)

        return lax.map(one, [self.arrays[i] for i in self.mapped])

    def mixes(self, caller: str) -> Array:
        """Whether an example's outputs depend on another example's inputs, tried on the first two."""
        if not self.mapped or not self.wanted or self.arrays[self.mapped[0]].shape[0] < 2:
            return jnp.zeros((), bool)
        arrays = [x[:2] if i in self.mapped else x for i, x in enumerate(self.arrays)]
        function, point = self.of_wanted(arrays), self.at(arrays)
        outputs = jax.eval_shape(function, point)

        def forward() -> list[Array]:
            return push_of(function, point)(_first_alone(point))

        def backward() -> list[Array]:
            return pull_of(function, point)(_first_alone(outputs))

        derivative = first_that_works(caller, forward, backward)
        # Zeros stay zeros, exactly, on any path that does not mix.
        return jnp.any(jnp.stack([jnp.any((x[1:] != 0) & jnp.isfinite(x[1:])) for x in derivative]))


def _first_alone(like: Sequence[Any]) -> list[Array]:
    """Random directions for the first of two examples, zeros for the second."""
    keys = jax.random.split(jax.random.key(0), len(like))
    drawn = [jax.random.normal(k, x.shape, jnp.float32) for k, x in zip(keys, like, strict=True)]
    return [lax.convert_element_type(d, x.dtype).at[1:].set(0) for d, x in zip(drawn, like, strict=True)]


def flat_apply(
    apply: Callable[..., PyTree], signature: Signature, output: Output, caller: str
) -> Callable[[list[Array]], list[Array]]:
    """`apply` from arrays to the floating leaves of its outputs, or of what `output` selects."""

    def flat(arrays: list[Array]) -> list[Array]:
        params, inputs, kwargs = signature.arguments(arrays)
        outputs = apply(params, *inputs, **kwargs)
        selected = checked_outputs(outputs if output is None else output(outputs), caller=caller)
        leaves = jax.tree.leaves(selected)
        return [jnp.asarray(x) for x in leaves if is_floating(jnp.asarray(x))]

    return flat


def mapped_inputs(
    per_example: bool | None, call: Call, inputs: list[int], outputs: Sequence[Any], caller: str
) -> tuple[int, ...]:
    """Indices of the arrays that hold one entry for each example.

    With `per_example=None` they are taken to do so if every differentiated array has two axes or more and a
    first axis as long as that of every output.

    Args:
      per_example: as the caller wrote it.
      call: its wanted arrays decide; where there are none, all inputs.
      inputs: indices of the arrays among the inputs.
      outputs: shapes of the outputs for the whole batch.
      caller: whom an error names.

    Raises:
      ValueError: `per_example` is True but there is no such axis.
    """
    if per_example is False:
        return ()
    deciding = [call.arrays[i] for i in call.wanted or inputs]
    lowest = 1 if per_example else 2
    leading = {x.shape[0] if x.ndim >= lowest else None for x in deciding}
    leading |= {y.shape[0] if len(y.shape) else None for y in outputs}
    if len(leading) != 1 or None in leading or 0 in leading:
        if per_example:
            must = "`per_example=True` needs inputs and outputs whose first axes hold as many examples"
            shapes = [tuple(x.shape) for x in [*deciding, *outputs]]
            advice = "Select outputs with `output=`, or take one Jacobian of all with `per_example=False`."
            raise ValueError(message(caller, must, f"shapes {shapes}", advice))
        return ()
    (size,) = leading
    return tuple(i for i in inputs if call.arrays[i].ndim and call.arrays[i].shape[0] == size)


def refuse_mixing(mixes: Array, result: PyTree, caller: str) -> PyTree:
    """`result`, unless examples mix: then an error, or under `jit`, where there can be none, NaNs."""
    if isinstance(mixes, Tracer):
        nan = lambda x: jnp.where(mixes, jnp.asarray(jnp.nan, x.dtype), x)  # noqa: E731
        return jax.tree.map(nan, result)
    if mixes:
        must = "each example's outputs must depend on its own inputs alone"
        got = "an `apply` that mixes examples, as BatchNorm in training does"
        raise ValueError(message(caller, must, got, "Put it in inference mode, or use `per_example=False`."))
    return result
