"""Fans: how many inputs and outputs each unit of a kernel has, from shape and axes."""

from __future__ import annotations

import math

from jinit._errors import message
from jinit._typing import Shape
from jinit.initializers import _arguments as arguments
from jinit.initializers._arguments import Axes


def compute_fans(
    shape: Shape, in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = ()
) -> tuple[float, float]:
    """Fan-in and fan-out of a kernel of this shape.

    The axes in none of the three roles are the receptive field, of size r. With n_in and n_out the products
    of the sizes of the input and output axes, fan_in = n_in r and fan_out = n_out r. Batch axes hold
    independent kernels and count in neither.

    Args:
      shape: the shape of the kernel.
      in_axis: the axis or axes of the inputs.
      out_axis: the axis or axes of the outputs.
      batch_axis: the axis or axes of independent kernels: scanned layers, experts, heads of their own.

    Returns:
      `(fan_in, fan_out)`, floats.

    Raises:
      ValueError: if an axis is not in `shape`, is named twice or is in two roles; if `shape` has less than
        two axes.

    Example:
      >>> import jinit
      >>> jinit.compute_fans((3, 3, 64, 128))
      (576.0, 1152.0)
      >>> jinit.compute_fans((512, 8, 64), in_axis=0, out_axis=(1, 2))
      (512.0, 512.0)
      >>> jinit.compute_fans((12, 256, 512), batch_axis=0)
      (256.0, 512.0)
    """
    caller = "jinit.compute_fans(...)"
    roles = {"in_axis": in_axis, "out_axis": out_axis, "batch_axis": batch_axis}
    checked = {name: arguments.axes(caller, name, value) for name, value in roles.items()}
    return fans_of(caller, arguments.static_shape(caller, shape), **checked)


def fans_of(
    caller: str, shape: tuple[int, ...], in_axis: Axes, out_axis: Axes, batch_axis: Axes
) -> tuple[float, float]:
    """`compute_fans` on checked arguments, in the name of `caller`."""
    if len(shape) < 2 and (
        in_axis == -2 or len(arguments.as_tuple(in_axis) + arguments.as_tuple(out_axis)) > 1
    ):
        must = "`shape` needs at least two axes, inputs and outputs"
        advice = "A bias has no fans: for a bias use `jinit.zeros`, for a vector `jinit.normal`."
        raise ValueError(message(caller, must, f"{shape=}", advice))
    roles = arguments.positions(caller, shape, in_axis=in_axis, out_axis=out_axis, batch_axis=batch_axis)
    taken = {place for places in roles.values() for place in places}
    receptive = math.prod(size for place, size in enumerate(shape) if place not in taken)
    n_in = math.prod(shape[place] for place in roles["in_axis"])
    n_out = math.prod(shape[place] for place in roles["out_axis"])
    return float(n_in * receptive), float(n_out * receptive)
