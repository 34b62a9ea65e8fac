"""Structured initializers: identities, and weights that are mostly zero."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jinit._errors import message
from jinit.initializers import _arguments as arguments
from jinit.initializers._arguments import Axes
from jinit.initializers._base import Initializer, in_explicit_mesh, maker
from jinit.initializers._laws import Law, Mixture, Normal, Point
from jinit.initializers.fans import fans_of


@dataclasses.dataclass(frozen=True, repr=False)
class Pattern(Initializer):
    """`scale` at fixed places, zero elsewhere; the key is ignored and may be None."""

    scale: Any

    @property
    def reads(self):
        """The layout: which axes are inputs and outputs."""
        return "layout"

    def _numbers(self):
        return ("scale",)

    def _consumable(self, key):
        return key

    def _sample(self, key, shape, dtype, out_sharding):
        def draw():
            return jnp.asarray(self.scale, dtype) * self._places(shape, jnp).astype(dtype)

        return in_explicit_mesh(draw, out_sharding)

    def _law(self, shape) -> Law:
        places = self._places(shape, np)
        share = float(places.mean()) if places.size else 0.0
        return Mixture(((share, Point(float(self.scale))), (1 - share, Point(0.0))))

    def _places(self, shape, xp: Any) -> Any:
        """The places as a boolean array of `xp`, NumPy or jax.numpy."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, repr=False)
class Identity(Pattern):
    """The identity matrix, one for each index of the batch axes."""

    batch_axis: Axes

    def in_default_axes(self):
        """No stack."""
        return dataclasses.replace(self, batch_axis=())

    def _check(self, shape):
        batch = arguments.positions(self.caller, shape, batch_axis=self.batch_axis)["batch_axis"]
        if len(shape) - len(batch) != 2:
            must = "`shape` needs exactly two axes beside `batch_axis`, rows and columns"
            advice = "For a convolution kernel use `jinit.dirac`."
            raise ValueError(message(self.caller, must, f"{shape=}, batch_axis={self.batch_axis!r}", advice))

    def _places(self, shape, xp):
        batch = arguments.positions(self.caller, shape, batch_axis=self.batch_axis)["batch_axis"]
        rows, columns = (size for axis, size in enumerate(shape) if axis not in batch)
        return xp.broadcast_to(xp.expand_dims(xp.eye(rows, columns, dtype=bool), batch), shape)


@maker
def identity(scale: Any = 1.0, dtype: Any = None, *, batch_axis: Any = ()) -> Identity:
    """The identity matrix times a factor; ones on the main diagonal where it is not square.

    Args:
      scale: the factor; it may be a traced value.
      dtype: the dtype where the call names none.
      batch_axis: the axis or axes of the matrices of a stack.

    Returns:
      An initializer. Its `mean` and `variance` are those of an entry at a random place.

    Raises:
      ValueError: at the call, for a shape that has not exactly two axes beside the batch axes.

    Example:
      >>> import jax, jinit
      >>> jinit.identity(2.0)(jax.random.key(0), (2, 3))
      Array([[2., 0., 0.],
             [0., 2., 0.]], dtype=float32)

    References:
      Le, Jaitly, Hinton, "A Simple Way to Initialize Recurrent Networks of Rectified Linear Units", 2015.
    """
    caller = "jinit.identity(...)"
    return Identity(
        arguments.number(caller, "scale", scale),
        arguments.axes(caller, "batch_axis", batch_axis),
        dtype=arguments.stored_dtype(caller, dtype),
    )


@dataclasses.dataclass(frozen=True, repr=False)
class Dirac(Pattern):
    """The kernel (…spatial, in/groups, out) that passes its input on."""

    groups: int

    def _check(self, shape):
        if len(shape) < 2:
            must = "`shape` needs at least two axes, inputs and outputs, after the spatial ones"
            raise ValueError(message(self.caller, must, f"{shape=}"))
        if shape[-1] % self.groups:
            must = "the number of outputs must be a multiple of `groups`"
            raise ValueError(message(self.caller, must, f"{shape=}, groups={self.groups}"))

    def _places(self, shape, xp):
        if 0 in shape:
            return xp.zeros(shape, bool)
        spatial = shape[:-2]
        taps = xp.tile(xp.eye(shape[-2], shape[-1] // self.groups, dtype=bool), (1, self.groups))
        around = [((size - 1) // 2, size // 2) for size in spatial]
        return xp.pad(xp.expand_dims(taps, tuple(range(len(spatial)))), [*around, (0, 0), (0, 0)])


@maker
def dirac(scale: Any = 1.0, dtype: Any = None, *, groups: int = 1) -> Dirac:
    """Convolution kernels that pass their input on: channel i of a group to output i of the group.

    The tap sits at index (k - 1) // 2 of each spatial axis, the centre of an odd kernel; with "SAME" padding
    and stride 1 the convolution is the identity, for even kernels too. Outputs beyond the number of inputs
    are zero.

    Args:
      scale: the factor; it may be a traced value.
      dtype: the dtype where the call names none.
      groups: the number of groups of the convolution.

    Returns:
      An initializer for kernels (…spatial, in/groups, out). Its `mean` and `variance` are those of an entry
      at a random place.

    Raises:
      ValueError: if `groups` is less than 1; at the call, if it does not divide the number of outputs.

    Example:
      >>> import jax, jinit
      >>> jinit.dirac()(jax.random.key(0), (3, 2, 2))[1]
      Array([[1., 0.],
             [0., 1.]], dtype=float32)

    References:
      Zagoruyko, Komodakis, "DiracNets: Training Very Deep Neural Networks Without Skip-Connections", 2017.
    """
    caller = "jinit.dirac(...)"
    return Dirac(
        arguments.number(caller, "scale", scale),
        arguments.count(caller, "groups", groups),
        dtype=arguments.stored_dtype(caller, dtype),
    )


@dataclasses.dataclass(frozen=True, repr=False)
class Sparse(Initializer):
    """For each output, exactly so many nonzero incoming weights, normal."""

    sparsity: float | None
    nonzeros: int | None
    stddev: Any
    in_axis: Axes
    out_axis: Axes
    batch_axis: Axes

    @property
    def reads(self):
        """The layout: which axes are inputs and outputs."""
        return "layout"

    def in_default_axes(self):
        """Inputs and outputs last, and no stack."""
        return dataclasses.replace(self, in_axis=-2, out_axis=-1, batch_axis=())

    def parted(self, shape):
        """The places, and the deviation."""
        return dataclasses.replace(self, stddev=None, dtype=None), (self._deviation(shape),)

    def _numbers(self):
        return ("stddev",)

    def _check(self, shape):
        fan_in = self._fan_in(shape)
        if self.nonzeros is not None and self.nonzeros > fan_in > 0:
            must = "`nonzeros` must not exceed the number of incoming weights of a unit"
            raise ValueError(
                message(self.caller, must, f"nonzeros={self.nonzeros}, fan-in {fan_in} of {shape=}")
            )

    def _fan_in(self, shape) -> int:
        return int(fans_of(self.caller, shape, self.in_axis, self.out_axis, self.batch_axis)[0])

    def _kept(self, shape) -> int:
        """The number of nonzero incoming weights of each unit."""
        fan_in = self._fan_in(shape)
        if self.nonzeros is not None:
            return self.nonzeros
        assert self.sparsity is not None
        return max(1, fan_in - math.ceil(self.sparsity * fan_in))

    def _deviation(self, shape):
        return self._kept(shape) ** -0.5 if self.stddev is None else self.stddev

    def _sample(self, key, shape, dtype, out_sharding):
        self._refuse_complex(dtype)
        return in_explicit_mesh(lambda: self._draw(key, shape, dtype), out_sharding)

    def _draw(self, key, shape, dtype):
        places_key, values_key = jax.random.split(key)
        roles = {"out_axis": self.out_axis, "batch_axis": self.batch_axis}
        roles = arguments.positions(self.caller, shape, **roles)
        units = roles["batch_axis"] + roles["out_axis"]
        incoming = tuple(axis for axis in range(len(shape)) if axis not in units)
        order = incoming + units
        sizes = tuple(shape[axis] for axis in order)
        fan_in, kept = math.prod(shape[axis] for axis in incoming), self._kept(shape)
        mask = jnp.broadcast_to((jnp.arange(fan_in) < kept)[:, None], (fan_in, math.prod(shape) // fan_in))
        mask = jax.random.permutation(places_key, mask, axis=0, independent=True)
        mask = jnp.transpose(mask.reshape(sizes), sorted(range(len(shape)), key=order.__getitem__))
        values = jax.random.normal(values_key, shape, dtype)
        return jnp.where(mask, jnp.asarray(self._deviation(shape), values.dtype) * values, 0)

    def _law(self, shape) -> Law:
        if 0 in shape:
            return Point(0.0)
        deviation = float(self._deviation(shape))
        share = self._kept(shape) / self._fan_in(shape) if deviation > 0 else 0.0
        return Mixture(((share, Normal(0.0, deviation or 1.0)), (1 - share, Point(0.0))))


@maker
def sparse(
    sparsity: Any = None,
    stddev: Any = None,
    dtype: Any = None,
    *,
    nonzeros: Any = None,
    in_axis: Any = -2,
    out_axis: Any = -1,
    batch_axis: Any = (),
) -> Sparse:
    """Sparse weights: each unit has an exact number k of nonzero incoming weights, at random places.

    The nonzero weights are `N(0, stddev^2)`. With the default `stddev = 1/sqrt(k)` a linear layer keeps the
    second moment of its input. Martens takes k = 15 and `stddev=1`, whatever the width:
    `jinit.sparse(nonzeros=15, stddev=1.0)`. An entry has variance `stddev^2 k / fan_in`.

    Args:
      sparsity: the share of zeros among the incoming weights of each unit, between 0 and 1; of n weights
        `ceil(sparsity n)` are zero, and at least one is not.
      stddev: the deviation of the nonzero weights; by default `1/sqrt(k)`.
      dtype: the dtype where the call names none.
      nonzeros: k itself, instead of `sparsity`.
      in_axis: the axis or axes of the inputs.
      out_axis: the axis or axes of the outputs; each index of theirs is a unit.
      batch_axis: the axis or axes of independent kernels.

    Returns:
      An initializer.

    Raises:
      ValueError: unless exactly one of `sparsity` and `nonzeros` is given; if `sparsity` is not between 0 and
        1; at the call, if a unit has less than `nonzeros` incoming weights.

    Example:
      >>> import jax, jinit
      >>> w = jinit.sparse(nonzeros=15)(jax.random.key(0), (100, 20))
      >>> set((w != 0).sum(axis=0).tolist())
      {15}

    References:
      Martens, "Deep learning via Hessian-free optimization", 2010, section 5.
    """
    caller = "jinit.sparse(...)"
    if (sparsity is None) == (nonzeros is None):
        must = "exactly one of `sparsity` and `nonzeros` must be given"
        raise ValueError(message(caller, must, f"sparsity={sparsity!r}, nonzeros={nonzeros!r}"))
    roles = arguments.roles(caller, in_axis=in_axis, out_axis=out_axis, batch_axis=batch_axis)
    return Sparse(
        None if sparsity is None else arguments.fraction(caller, "sparsity", sparsity),
        None if nonzeros is None else arguments.count(caller, "nonzeros", nonzeros),
        None if stddev is None else arguments.number(caller, "stddev", stddev, minimum=0.0),
        *roles,
        dtype=arguments.stored_dtype(caller, dtype),
    )
