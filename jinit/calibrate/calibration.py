"""What a calibration did at one site."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jinit._typing import Array
from jinit.calibrate.solve import CONSTANT, FREE, NO_GRADIENT, NONFINITE, OUT_OF_REACH
from jinit.signals.moments import Moments
from jinit.signals.records import Record

_OBSTACLES = {
    FREE: "",
    OUT_OF_REACH: "the target is out of reach: the bias alone varies more",
    CONSTANT: "zero variance: all entries of its output are the same",
    NONFINITE: "NaN or infinite values in its output",
    NO_GRADIENT: "zero, NaN or infinite gradient, which says nothing about the scale",
}
_OF_A_UNIT = ", or all of one unit"
_NEAR = 1e-3  # relative distance of a deviation from the one asked for that is no problem


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Calibration(Record):
    """What a calibration did at one site, and what it reached.

    A `Record` whose `output` is the site's output afterwards. Where `verified` it was measured by a further
    pass, on the parameters that are returned. Else it is what the pass that rescaled arrived at, which does
    not see how the parameters were rounded to their dtype; at a site that was rescaled, `zeros` and
    `nonfinite_count` in it are then NaN (not counted).

    Attributes:
      before: the site's output before it was rescaled, all sites before it having been; None where nothing
        was to be done.
      factor: what the weight operand was multiplied with: shape `[]`, or `[units]` where every unit has its
        own, after a leading `[length]` inside a `scan`. One where the target could not be reached; None where
        nothing was tried.
      target: the variance asked for; None where none is: at a site that was not chosen, and for methods that
        do not go by variances.
      scales: paths of the parameters that the factor multiplies.
      shifts: path of the bias that takes the mean away, if one does.
      shifted: whether it was changed.
      unit_error: with `per_unit`, the largest `error` of the units.
      verified: whether `output` was measured on the parameters that are returned.
      together: where the factor was found by repeated passes, variance over target of all outputs that it is
        for, at all steps: one where they have it on average. None for the others.
      passes: how many passes were made to find it.
      obstacle: why the factor, or that of a unit, stays one: 0 it does not, 1 the bias alone varies more than
        the target, 2 zero variance, 3 a NaN or an infinity; 4 a gradient that is needed is zero or no number.
      asked: whether it was to be set: the site was chosen.

    Example:
      >>> import jax, jax.numpy as jnp, jinit
      >>> x = jax.random.normal(jax.random.key(0), (64, 32))
      >>> params, records = jinit.lsuv(lambda w, x: x @ w)(jnp.eye(32) / 2, x)
      >>> record = records["params"]
      >>> 0.2 < float(record.before.variance) < 0.3, 1.9 < float(record.factor) < 2.1
      (True, True)
      >>> record.changed, record.problem
      (('params',), '')
    """

    before: Moments | None = None
    factor: Array | None = None
    target: float | None = dataclasses.field(default=None, metadata={"static": True})
    scales: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})
    shifts: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})
    shifted: Array | None = None
    unit_error: Array | None = None
    verified: bool = dataclasses.field(default=False, metadata={"static": True})
    together: Array | None = None
    passes: Array | None = None
    obstacle: Array | None = None
    asked: bool = dataclasses.field(default=True, metadata={"static": True})

    @property
    def changed(self) -> tuple[str, ...]:
        """Paths of the parameters changed for this site; while tracing, of those that may be."""
        scaled = self.factor is not None and _may_differ(self.factor, 1)
        shifted = self.shifted is not None and _may_differ(self.shifted, False)
        return (*(self.scales if scaled else ()), *(self.shifts if shifted else ()))

    @property
    def error(self) -> Array:
        """`|√(variance/target) − 1|`, the standard deviation's relative distance from what was asked for."""
        if self.unit_error is not None:
            return self.unit_error
        if self.output is None or self.target is None:
            return jnp.zeros(())
        variance = self.output.variance
        return jnp.abs(jnp.sqrt(variance / jnp.asarray(self.target, variance.dtype)) - 1)

    @property
    def problem(self) -> str:
        """Why it was not set as asked for, in words; empty if it was. Of concrete records, on the host."""
        if not self.asked:
            return ""
        if self.output is None or (self.target is None and self.factor is None):
            return self.note
        if self.target is None:
            return self._obstacle
        count, error = np.asarray(self.output.count), np.asarray(self.error)
        if np.all(error[count > 0] < _NEAR) and np.all(count > 0):
            return ""
        off = self.together is not None and not abs(np.sqrt(np.asarray(self.together)) - 1) < _NEAR
        if self.note and not off and self.obstacle is None:
            return self.note
        return "; ".join(words for words in (self.note, self._cause) if words)

    @property
    def _obstacle(self) -> str:
        """What stood in the way of a factor, in words; empty if nothing did."""
        assert self.output is not None
        if np.any(np.asarray(self.output.count) == 0):
            return "not reached by the program on these inputs"
        met = 0 if self.obstacle is None else int(np.max(np.round(np.asarray(self.obstacle))))
        return _OBSTACLES[met] + (_OF_A_UNIT if met == CONSTANT and self.unit_error is not None else "")

    @property
    def _cause(self) -> str:
        if self._obstacle:
            return self._obstacle
        assert self.output is not None
        variance = np.asarray(self.output.variance)
        if not np.all(np.isfinite(variance)):
            return _OBSTACLES[NONFINITE]
        if np.any(variance <= 1e-10 * np.asarray(self.output.second_moment)):
            return _OBSTACLES[CONSTANT]
        if self.together is not None:
            return f"together, its outputs have {float(self.together):.4g} times the variance asked for"
        worst = float(np.max(np.asarray(self.error)))
        return f"measured again, its deviation is off by {worst:.1%}: rounding, of weights or in the network"


def _may_differ(x: Any, value: Any) -> bool:
    return isinstance(x, (Tracer, jax.ShapeDtypeStruct)) or bool(np.any(np.asarray(x) != value))
