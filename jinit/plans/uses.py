"""`WeightUse`: how one parameter is used by a traced program."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax

Role = Literal["kernel", "bias", "scale", "embedding", "other", "unused"]


@dataclasses.dataclass(frozen=True)
class WeightUse:
    """How one leaf of `params` is used.

    Fans are defined by what they are for: with independent entries of zero mean in the weight,

        Var[output entry] = fan_in · Var[w] · E[x²],
        Var[gradient of an input entry] = fan_out · Var[w] · E[δ²],

    averaged over the output entries (the input entries) that padding does not touch.

    Attributes:
      path: path of the leaf, as in the records of `measure`.
      shape: shape of the stored array.
      dtype: its dtype.
      role: `kernel` (meets a signal in a contraction), `embedding` (a table whose rows are looked up, also
        where it is an output matrix too), `bias` (added to a signal), `scale` (multiplies a signal entry by
        entry), `other`, or `unused` (no output depends on it).
      fan_in: how many products are summed in one output entry; a float, since a transposed convolution of
        stride s has k/s of its k taps in one output. 1 for a table that is only looked up. None for leaves
        that are no kernel and no embedding. The largest, where several uses differ.
      fan_out: how many output entries one input entry goes to; None where there is none.
      in_axes: axes of the stored array that are summed over.
      out_axes: axes that make different outputs of one input.
      batch_axes: axes along which kernels are independent: scanned layers, experts, groups of heads,
        positions of a locally connected layer. An axis in none of the three is the receptive field of a
        convolution; an axis that plays two roles (the grouped axis of a convolution) is in both.
      scan_axes: those of `batch_axes` along which layers are stacked, outermost loop first.
      uses: at how many sites it meets a signal.
      sites: names of these sites, keys of the records of `measure`.
      index: number of kernels that come before it in the program, steps of loops counted: for a kernel its
        place among `count`, for a bias or scale that of the kernel before it. Of a stack, its first layer's.
      count: number of kernels in the program, those in a stack counted one by one.
      steps: by how much `index` grows from one layer of a stack to the next, for each of `scan_axes`.
      gain: `std · √fan_in` of a concrete kernel, what He calls its gain: √2 for He's rule, 1 for LeCun's;
        None for abstract arrays and where there is no `fan_in`.
      note: what should be known: why it could not be followed, that it stands behind a normaliser.

    Example:
      >>> import jax.numpy as jnp, jinit
      >>> (use,) = jinit.audit(lambda w, x: x @ w.T)(jnp.ones((5, 6)), jnp.ones((2, 6)))
      >>> use.role, use.fan_in, use.in_axes, use.out_axes
      ('kernel', 6.0, (1,), (0,))
    """

    path: str
    shape: tuple[int, ...]
    dtype: Any
    role: Role
    fan_in: float | None = None
    fan_out: float | None = None
    in_axes: tuple[int, ...] = ()
    out_axes: tuple[int, ...] = ()
    batch_axes: tuple[int, ...] = ()
    scan_axes: tuple[int, ...] = ()
    uses: int = 0
    sites: tuple[str, ...] = ()
    index: int = 0
    count: int = 0
    steps: tuple[int, ...] = ()
    gain: float | None = None
    note: str = ""

    @property
    def size(self) -> int:
        """Number of entries."""
        return jax.ShapeDtypeStruct(self.shape, self.dtype).size
