"""Orthogonal matrices, and convolution kernels that are orthogonal maps."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from jinit._errors import message
from jinit.initializers import _arguments as arguments
from jinit.initializers._arguments import Axes
from jinit.initializers._base import Initializer, in_explicit_mesh, maker
from jinit.initializers._laws import Law, Mixture, Point, Sphere

PRESERVED = ("singular_values", "second_moment")


@dataclasses.dataclass(frozen=True, repr=False)
class Orthogonal(Initializer):
    """Uniform (semi-)orthogonal matrices, one for each index of the batch axes."""

    scale: Any
    column_axis: int
    batch_axis: Axes
    preserve: str

    @property
    def reads(self):
        """The layout: which axes are rows and columns."""
        return "layout"

    def in_default_axes(self):
        """The columns last, and no stack."""
        return dataclasses.replace(self, column_axis=-1, batch_axis=())

    def parted(self, shape):
        """The template, and the singular value."""
        rows, columns, _ = self._matrix(shape)
        value = self.scale * _growth(self.preserve, rows, columns) ** 0.5
        return dataclasses.replace(self, scale=None, preserve="singular_values", dtype=None), (value,)

    def _numbers(self):
        return ("scale",)

    def _variance(self, shape):
        rows, columns, _ = self._matrix(shape)
        if 0 in shape:
            return 0.0
        return float(self.scale**2 * _growth(self.preserve, rows, columns) / max(rows, columns))

    def _check(self, shape):
        self._matrix(shape)

    def _matrix(self, shape):
        """Rows, columns and the places of the batch axes."""
        if len(shape) - len(arguments.as_tuple(self.batch_axis)) < 2:
            apart = "" if self.batch_axis == () else f" beside batch_axis={self.batch_axis!r}"
            must = f"`shape` needs at least two axes, rows and columns{apart}"
            advice = "For a bias use `jinit.zeros`, for a vector `jinit.normal`."
            raise ValueError(message(self.caller, must, f"{shape=}", advice))
        roles = {"column_axis": self.column_axis, "batch_axis": self.batch_axis}
        places = arguments.positions(self.caller, shape, **roles)["batch_axis"]
        columns = shape[self.column_axis]
        rest = (
            size for axis, size in enumerate(shape) if axis not in (*places, self.column_axis % len(shape))
        )
        return math.prod(rest), columns, places

    def _sample(self, key, shape, dtype, out_sharding):
        rows, columns, batch = self._matrix(shape)
        scale = self.scale * _growth(self.preserve, rows, columns) ** 0.5
        if not batch:
            init = jax.nn.initializers.orthogonal(scale, self.column_axis)
            return in_explicit_mesh(lambda: init(key, shape, dtype), out_sharding)
        return in_explicit_mesh(lambda: self._stack(key, shape, dtype, scale), out_sharding)

    def _stack(self, key, shape, dtype, scale):
        rows, columns, batch = self._matrix(shape)
        sizes = tuple(shape[axis] for axis in batch)
        last = self.column_axis % len(shape)
        middle = tuple(axis for axis in range(len(shape)) if axis not in (*batch, last))
        matrices = jax.random.orthogonal(key, rows, sizes, dtype, columns)
        unfolded = matrices.reshape(sizes + tuple(shape[axis] for axis in middle) + (columns,))
        back = sorted(range(len(shape)), key=(batch + middle + (last,)).__getitem__)
        return jnp.asarray(scale, matrices.dtype) * jnp.transpose(unfolded, back)

    def _law(self, shape) -> Law:
        rows, columns, _ = self._matrix(shape)
        if 0 in shape or self.scale == 0:
            return Point(0.0)
        return Sphere(max(rows, columns), float(self.scale) * _growth(self.preserve, rows, columns) ** 0.5)


def _growth(preserve: str, rows: int, columns: int) -> float:
    """What the square of the scale is multiplied by."""
    return max(columns / rows, 1.0) if preserve == "second_moment" and rows > 0 else 1.0


def _orthogonal(name, scale, column_axis, dtype, batch_axis, preserve) -> Orthogonal:
    caller = f"jinit.{name}(...)"
    column = arguments.axes(caller, "column_axis", column_axis)
    if not isinstance(column, int):
        must = "`column_axis` must be one axis"
        raise TypeError(message(caller, must, f"column_axis={column_axis!r}"))
    batch = arguments.axes(caller, "batch_axis", batch_axis)
    arguments.disjoint(caller, column_axis=column, batch_axis=batch)
    return Orthogonal(
        arguments.number(caller, "scale", scale, minimum=0.0),
        column,
        batch,
        arguments.choice(caller, "preserve", preserve, PRESERVED),
        dtype=arguments.stored_dtype(caller, dtype),
        maker=name,
    )


@maker
def orthogonal(
    scale: Any = 1.0,
    column_axis: int = -1,
    dtype: Any = None,
    *,
    batch_axis: Any = (),
    preserve: str = "singular_values",
) -> Orthogonal:
    """Uniformly distributed orthogonal matrices; unitary ones for complex dtypes.

    The array is read as a matrix of `rows x columns`: `column_axis` holds the columns (the outputs), all
    other axes together the rows (the inputs). It is the Q of the QR decomposition of a Gaussian matrix, with
    the signs fixed so that it is uniform (Haar). With fewer rows than columns the rows are orthonormal, else
    the columns. An entry has variance `scale^2 / max(rows, columns)`.

    With `preserve="singular_values"` all singular values are `scale`. Then, if there are more outputs than
    inputs, the norm of the signal is kept, but its second moment per unit falls by inputs/outputs. With
    `preserve="second_moment"` the matrix is multiplied by `max(sqrt(columns / rows), 1)`, so that the second
    moment per unit is kept.

    Args:
      scale: the factor; not negative. It may be a traced value.
      column_axis: the axis of the columns.
      dtype: the dtype where the call names none. Low precisions are sampled in float32 and rounded once.
      batch_axis: the axis or axes of independent matrices: scanned layers, experts, heads.
      preserve: `"singular_values"` or `"second_moment"`.

    Returns:
      An initializer.

    Raises:
      ValueError: for a negative scale, an unknown `preserve`, an axis in two roles; at the call, for a shape
        with less than two axes beside the batch axes.

    Example:
      >>> import jax, jax.numpy as jnp, jinit
      >>> w = jinit.orthogonal(batch_axis=0)(jax.random.key(0), (12, 64, 64))
      >>> gram = jnp.matmul(w[3].T, w[3], precision="highest")  # a GPU would round to 10 bits
      >>> bool(jnp.allclose(gram, jnp.eye(64), atol=1e-5))
      True
      >>> jinit.orthogonal(preserve="second_moment").variance((64, 256))
      0.015625

    References:
      Saxe, McClelland, Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep linear neural
      networks", 2013; Mezzadri, "How to generate random matrices from the classical compact groups", 2007;
      Martens et al., "Rapid training of deep neural networks without skip connections or normalization layers
      using Deep Kernel Shaping", 2021, for the factor that keeps the second moment.
    """
    return _orthogonal("orthogonal", scale, column_axis, dtype, batch_axis, preserve)


@dataclasses.dataclass(frozen=True, repr=False)
class DeltaOrthogonal(Initializer):
    """An orthogonal matrix at the centre of a kernel (…spatial, in, out), zeros around it."""

    matrix: Orthogonal

    @property
    def reads(self):
        """The layout: which axes are rows and columns."""
        return "layout"

    def in_default_axes(self):
        """The columns last."""
        return dataclasses.replace(self, matrix=self.matrix.in_default_axes())

    def parted(self, shape):
        """The template and the number of the matrix."""
        matrix, numbers = self.matrix.parted(shape[-2:])
        return dataclasses.replace(self, matrix=matrix, dtype=None), numbers

    def joined(self, numbers):
        """The inverse of `parted`."""
        return dataclasses.replace(self, matrix=self.matrix.joined(numbers))

    def _variance(self, shape):
        return 0.0 if 0 in shape else self.matrix.variance(shape[-2:]) / math.prod(shape[:-2])

    def _check(self, shape):
        if len(shape) < 2:
            must = "`shape` needs at least two axes, inputs and outputs, after the spatial ones"
            raise ValueError(message(self.caller, must, f"{shape=}"))
        if any(size % 2 == 0 and size > 0 for size in shape[:-2]):
            must = "the spatial sizes must be odd, since an even kernel has no centre"
            advice = "Use an odd kernel, or `jinit.orthogonal` for non-overlapping patches."
            raise ValueError(message(self.caller, must, f"{shape=}", advice))
        self.matrix._check(shape[-2:])

    def _sample(self, key, shape, dtype, out_sharding):
        centre = tuple((size - 1) // 2 for size in shape[:-2])

        def draw():
            return jnp.zeros(shape, dtype).at[centre].set(self.matrix._sample(key, shape[-2:], dtype, None))

        return in_explicit_mesh(draw, out_sharding)

    def _law(self, shape) -> Law:
        law = self.matrix._law(shape[-2:])
        share = 0.0 if 0 in shape else 1 / math.prod(shape[:-2])
        return law if share == 1 else Mixture(((share, law), (1 - share, Point(0.0))))


@maker
def delta_orthogonal(
    scale: Any = 1.0, column_axis: int = -1, dtype: Any = None, *, preserve: str = "singular_values"
) -> DeltaOrthogonal:
    """Convolution kernels that act as an orthogonal matrix on every pixel.

    The kernel (…spatial, in, out) is zero but at its centre, where it is an orthogonal matrix. With stride 1,
    as many outputs as inputs and circular or "SAME" padding, the convolution keeps every norm. With more
    outputs than inputs it still does, as in JAX. With fewer outputs, which JAX refuses, the columns are
    orthonormal: a projection, which keeps the second moment per unit of an isotropic signal.
    `variance(shape)` is that over all entries of the kernel, zeros included, so `fan_in * variance` is what a
    layer multiplies the second moment by.

    Args:
      scale: the factor; not negative. It may be a traced value.
      column_axis: the axis of the columns, -1 or -2.
      dtype: the dtype where the call names none.
      preserve: as in `jinit.orthogonal`.

    Returns:
      An initializer for kernels with any number of spatial axes, also none.

    Raises:
      ValueError: for a negative scale, an unknown `preserve`, another `column_axis`; at the call, for an even
        kernel.

    Example:
      >>> import jax, jinit
      >>> w = jinit.delta_orthogonal()(jax.random.key(0), (3, 3, 16, 32))
      >>> float(abs(w[0]).max()), round(float((w**2).sum()), 4)
      (0.0, 16.0)

    References:
      Xiao, Bahri, Sohl-Dickstein, Schoenholz, Pennington, "Dynamical Isometry and a Mean Field Theory of
      CNNs: How to Train 10,000-Layer Vanilla Convolutional Neural Networks", 2018, section 3 and algorithm 1.
    """
    matrix = _orthogonal("delta_orthogonal", scale, column_axis, dtype, (), preserve)
    if matrix.column_axis not in (-1, -2):
        must = "`column_axis` must be -1 or -2"
        raise ValueError(message("jinit.delta_orthogonal(...)", must, f"column_axis={column_axis!r}"))
    return DeltaOrthogonal(matrix, dtype=matrix.dtype)
