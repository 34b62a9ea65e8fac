"""What a calibration did at one site."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jinit._typing import Array
from jinit.signals.moments import Moments
from jinit.signals.records import Record


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
      changed: paths of the parameters that were changed for this site.
      unit_error: with `per_unit`, the largest `error` of the units.
      verified: whether `output` was measured on the parameters that are returned.

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
    changed: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})
    unit_error: Array | None = None
    verified: bool = dataclasses.field(default=False, metadata={"static": True})

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
        """Why the target was not reached, in words; empty if it was. Of concrete records, on the host."""
        if self.target is None:
            return self.note if self.factor is None else ""
        if self.output is None:
            return self.note
        count, error = np.asarray(self.output.count), np.asarray(self.error)
        if np.all(error[count > 0] < 1e-3) and np.all(count > 0):
            return ""
        return self.note or self._cause(count)

    def _cause(self, count: np.ndarray) -> str:
        if np.any(count == 0):
            return "not reached by the program on these inputs"
        seen = self.output if self.before is None else self.before
        assert seen is not None
        variance = np.asarray(seen.variance)
        if not np.all(np.isfinite(variance)):
            return "NaN or infinite values in its output"
        if np.any(variance <= 1e-10 * np.asarray(seen.second_moment)):
            return "zero variance: all entries of its output are the same"
        if self.verified and self.factor is not None and np.all(np.asarray(self.factor) != 1):
            return "missed when verified: the new parameters, or what enters them, were rounded to few digits"
        return "the target is out of reach: the bias alone varies more"
