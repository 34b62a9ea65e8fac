"""Derivatives as linear maps of real vectors: as a matrix, or by products alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jinit._compat import inner_jaxprs, opened
from jinit._typing import Array, PyTree, at_least_float32

CHUNK = 128  # directions pushed through the network at once
Function = Callable[[PyTree], PyTree]


def real_dtype(leaves: Sequence[Any]) -> Any:
    """float64 if any of the leaves is double, else float32."""
    wide = [at_least_float32(x.dtype) for x in leaves if jnp.issubdtype(x.dtype, jnp.inexact)]
    double = any(jnp.finfo(dtype).dtype == jnp.float64 for dtype in wide)
    return jnp.dtype(jnp.float64 if double else jnp.float32)


def real_size(x: Any) -> int:
    """Number of real numbers in an array: two for each complex one."""
    return math.prod(x.shape) * (2 if jnp.issubdtype(x.dtype, jnp.complexfloating) else 1)


def to_real(x: Array, dtype: Any, keep: int = 0) -> Array:
    """An array as real numbers, its first `keep` axes kept, the others one; imaginary parts come last."""
    flat = x.reshape(*x.shape[:keep], math.prod(x.shape[keep:]))
    if jnp.iscomplexobj(flat):
        flat = jnp.concatenate([jnp.real(flat), jnp.imag(flat)], axis=-1)
    return lax.convert_element_type(flat, dtype)


def from_real(vector: Array, like: Any) -> Array:
    """The array of the shape and dtype of `like` whose real numbers are `vector`."""
    if jnp.issubdtype(like.dtype, jnp.complexfloating):
        real, imaginary = jnp.split(vector, 2)
        vector = lax.complex(real, imaginary)
    return lax.convert_element_type(vector.reshape(like.shape), like.dtype)


@dataclasses.dataclass(frozen=True)
class RealFunction:
    """A function of arrays, as one of a real vector to a real vector, at a point.

    Attributes:
      function: from a list of floating arrays to a list of floating arrays.
      point: where its derivative is taken.
    """

    function: Callable[[list[Array]], list[Array]]
    point: list[Array]

    @property
    def outputs(self) -> list[Any]:
        """Shapes and dtypes of the outputs."""
        return jax.eval_shape(self.function, self.point)

    @property
    def dtype(self) -> Any:
        """Of both vectors."""
        return real_dtype([*self.point, *self.outputs])

    @property
    def shape(self) -> tuple[int, int]:
        """`(rows, columns)` of the Jacobian."""
        return sum(map(real_size, self.outputs)), sum(map(real_size, self.point))

    def __call__(self, vector: Array) -> Array:
        """The outputs, as a vector."""
        cuts, at = [], 0
        for x in self.point[:-1]:
            at += real_size(x)
            cuts.append(at)
        parts = jnp.split(vector, cuts)
        outs = self.function([from_real(p, x) for p, x in zip(parts, self.point, strict=True)])
        return jnp.concatenate([to_real(y, self.dtype) for y in outs])

    @property
    def vector(self) -> Array:
        """The point."""
        return jnp.concatenate([to_real(x, self.dtype) for x in self.point])


def push_of(function: Function, point: PyTree) -> Function:
    """The derivative, forward: tangents to tangents.

    Raises:
      TypeError: there is a `custom_vjp` in it, which JAX itself notices only when the program is compiled.
    """
    push = jax.linearize(function, point)[1]
    if _holds(jax.make_jaxpr(push)(point), "custom_lin"):
        raise TypeError("can't apply forward-mode autodiff (jvp) to a custom_vjp function.")
    return push


def _holds(jaxpr: Any, name: str) -> bool:
    """Whether a primitive of this name is in a jaxpr, at any depth."""
    for eqn in opened(jaxpr)[0].eqns:
        if eqn.primitive.name == name or any(_holds(p, name) for p in inner_jaxprs(eqn)):
            return True
    return False


def pull_of(function: Function, point: PyTree) -> Function:
    """The derivative, backward: cotangents to cotangents."""
    pull = jax.vjp(function, point)[1]
    return lambda cotangent: pull(cotangent)[0]


def first_that_works(caller: str, *ways: Callable[[], Any]) -> Any:
    """The result of the first way that JAX can differentiate.

    Forward mode stops at a `custom_vjp`, reverse mode at a `while_loop`.
    """
    first: Exception | None = None
    for way in ways:
        try:
            return way()
        except (TypeError, ValueError) as error:
            if not _one_way_only(error):
                raise
            first = first or error
    assert first is not None
    first.add_note(f"`{caller}`: `apply` can't be differentiated in any of the ways that would do here.")
    raise first


def _one_way_only(error: Exception) -> bool:
    text = str(error)
    return "custom_vjp" in text or "while_loop" in text or "fori_loop" in text


def both_ways(function: Function, point: Array, outputs: Any, caller: str) -> tuple[Function, Function]:
    """`(push, pull)`: products with the Jacobian and with its transpose."""

    def forward_first() -> tuple[Function, Function]:
        push = push_of(function, point)
        transposed = jax.linear_transpose(push, point)
        jax.eval_shape(transposed, outputs)
        return push, lambda u: transposed(u)[0]

    def backward_first() -> tuple[Function, Function]:
        pull = pull_of(function, point)
        transposed = jax.linear_transpose(pull, outputs)
        jax.eval_shape(transposed, point)
        return lambda v: transposed(v)[0], pull

    return first_that_works(caller, forward_first, backward_first)


def on_basis(linear: Callable[[Array], PyTree], size: int, dtype: Any) -> PyTree:
    """`linear` of every unit vector of length `size`, stacked along a leading axis."""
    one_hot = lambda i: linear((jnp.arange(size) == i).astype(dtype))  # noqa: E731
    return lax.map(one_hot, jnp.arange(size), batch_size=min(size, CHUNK))


def jacobian_matrix(function: RealFunction, caller: str) -> Array:
    """The Jacobian `[rows, columns]`, from the side that has fewer vectors to send through."""
    rows, columns = function.shape
    point, dtype = function.vector, function.dtype

    def forward() -> Array:
        return on_basis(push_of(function, point), columns, dtype).T

    def backward() -> Array:
        return on_basis(pull_of(function, point), rows, dtype)

    ways = (forward, backward) if columns <= rows else (backward, forward)
    return first_that_works(caller, *ways)
