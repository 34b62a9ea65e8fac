"""What each axis of a weight operand does at a site, and the fans that follow from it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

AxisRole = Literal["in", "out", "batch", "field", "grouped"]


@dataclasses.dataclass(frozen=True)
class Contraction:
    """The axes of a weight operand, and its fans.

    Attributes:
      roles: for every axis: `in` (summed over), `out`, `batch` (shared with the signal: kernels apart),
        `field` (the window of a convolution), or `grouped` (groups times outputs of a group).
      groups: how many groups a `grouped` axis holds, the slow part of it.
      fan_in: products summed in one output entry, on average over the output.
      fan_out: output entries that one input entry goes to, on average over the input; None for a lookup.
    """

    roles: tuple[AxisRole, ...]
    fan_in: float
    fan_out: float | None
    groups: int = 1


def contraction_of(eqn: Any, weight: int, sizes: Sequence[int]) -> Contraction | None:
    """Axes and fans of the weight in a contraction or a lookup; None for a primitive that is not known.

    Args:
      eqn: the equation.
      weight: position of the weight operand.
      sizes: lengths of the axes of the weight operand, of the whole array where devices hold parts.
    """
    roles = _roles(eqn, weight)
    if roles is None:
        return None
    if eqn.primitive.name in ("gather", "dynamic_slice"):
        return Contraction(roles, 1.0, None)
    if eqn.primitive.name == "conv_general_dilated":
        return _convolution(eqn.params, roles, sizes)
    return Contraction(roles, float(_product(roles, sizes, "in")), float(_product(roles, sizes, "out")))


def without_zeros(found: Contraction, present: np.ndarray, own: np.ndarray) -> Contraction:
    """The fans of a parameter in a weight operand that holds zeros beside entries of parameters.

    Outputs that none of its entries go to do not count, nor inputs that meet none of them.

    Args:
      found: the contraction, with the fans that the operand would have if it held no zeros.
      present: whether an entry of any parameter stands there; of the shape of the operand.
      own: whether one of this parameter does.
    """
    shape, roles = list(present.shape), list(found.roles)
    if "grouped" in roles:
        axis = roles.index("grouped")
        shape[axis : axis + 1] = found.groups, shape[axis] // found.groups
        roles[axis : axis + 1] = "batch", "out"

    def share(summed: AxisRole) -> float:
        axes = tuple(i for i, role in enumerate(roles) if role in (summed, "field"))
        filled = present.reshape(shape).mean(axis=axes)
        return float(filled[own.reshape(shape).any(axis=axes)].mean()) if own.any() else 1.0

    fan_out = None if found.fan_out is None else found.fan_out * share("out")
    return dataclasses.replace(found, fan_in=found.fan_in * share("in"), fan_out=fan_out)


def _product(roles: Sequence[AxisRole], sizes: Sequence[int], role: AxisRole) -> int:
    return math.prod(size for size, of_axis in zip(sizes, roles, strict=True) if of_axis == role)


def _convolution(params: dict, roles: tuple[AxisRole, ...], sizes: Sequence[int]) -> Contraction:
    """A stride of s sends an input to 1 of s windows; s - 1 zeros between inputs leave 1 of s products."""
    groups = max(params["feature_group_count"], params["batch_group_count"])
    field = _product(roles, sizes, "field")
    fan_in = field * _product(roles, sizes, "in") / math.prod(params["lhs_dilation"])
    out = (_product(roles, sizes, "out") * _product(roles, sizes, "grouped")) / groups
    return Contraction(roles, fan_in, field * out / math.prod(params["window_strides"]), groups)


def _roles(eqn: Any, weight: int) -> tuple[AxisRole, ...] | None:
    shape, params = eqn.invars[weight].aval.shape, eqn.params
    rank = len(shape)
    match eqn.primitive.name:
        case "dot_general":
            contracted, batch = params["dimension_numbers"]
            return _named(rank, {"in": contracted[weight], "batch": batch[weight]})
        case "ragged_dot" | "ragged_dot_general" if weight == 1:
            return _ragged(rank, params)
        case "conv_general_dilated" if weight == 1:
            return _of_convolution(rank, params)
        case "gather":
            numbers = params["dimension_numbers"]
            return _named(rank, {"in": numbers.collapsed_slice_dims, "batch": numbers.operand_batching_dims})
        case "dynamic_slice":
            picked = [i for i, size in enumerate(params["slice_sizes"]) if size < shape[i]]
            return _named(rank, {"in": picked})
    return None


def _named(rank: int, named: dict[AxisRole, Sequence[int]], rest: AxisRole = "out") -> tuple[AxisRole, ...]:
    roles: list[AxisRole] = [rest] * rank
    for role, axes in named.items():
        for axis in axes:
            roles[axis] = role
    return tuple(roles)


def _ragged(rank: int, params: dict) -> tuple[AxisRole, ...]:
    numbers = params.get("ragged_dot_dimension_numbers")
    if numbers is None:
        return _named(rank, {"batch": (0,), "in": (1,)})
    contracted, batch = numbers.dot_dimension_numbers
    return _named(rank, {"in": contracted[1], "batch": (*batch[1], *numbers.rhs_group_dimensions)})


def _of_convolution(rank: int, params: dict) -> tuple[AxisRole, ...]:
    out, into, *_ = params["dimension_numbers"].rhs_spec
    grouped = max(params["feature_group_count"], params["batch_group_count"]) > 1
    return _named(rank, {"grouped" if grouped else "out": (out,), "in": (into,)}, rest="field")
