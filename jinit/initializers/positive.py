"""Positive weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from jinit._errors import message
from jinit.initializers import _arguments as arguments
from jinit.initializers._base import Initializer, is_low_precision, maker
from jinit.initializers._laws import Law
from jinit.initializers.constants import Constant


@dataclasses.dataclass(frozen=True, repr=False)
class Positive(Initializer):
    """The absolute values of what another initializer draws, never rounded to zero."""

    base: Initializer

    @property
    def reads(self):
        """What the base reads."""
        return self.base.reads

    def with_fans(self, fan_in, fan_out=None):
        """The initializer with these fans in place of those read from the shape."""
        base = self.base.with_fans(fan_in, fan_out)
        return dataclasses.replace(self, base=base, call=f"jinit.positive({base!r})")

    def in_default_axes(self):
        """The initializer as it is for a kernel (…receptive field, in, out)."""
        return dataclasses.replace(self, base=self.base.in_default_axes())

    def parted(self, shape):
        """The template and the numbers of the base."""
        base, numbers = self.base.parted(shape)
        return dataclasses.replace(self, base=base, dtype=None), numbers

    def joined(self, numbers):
        """The inverse of `parted`."""
        return dataclasses.replace(self, base=self.base.joined(numbers))

    def _check(self, shape):
        self.base._check(shape)

    def _sample(self, key, shape, dtype, out_sharding):
        self._refuse_complex(dtype)
        return jnp.abs(self.base._sample(key, shape, dtype, out_sharding))

    def _finish(self, sample, dtype):
        smallest = smallest_positive(dtype if is_low_precision(dtype) else sample.dtype)
        return jnp.maximum(sample, jnp.asarray(smallest, sample.dtype))

    def _law(self, shape) -> Law:
        return self.base.law(shape).folded()


def smallest_positive(dtype: Any) -> float:
    """The smallest number that arithmetic on `dtype` does not flush to zero."""
    info = jnp.finfo(dtype)
    widened = is_low_precision(dtype) and jnp.dtype(dtype).name != "bfloat16"
    return float(info.smallest_subnormal if widened else info.tiny)


@maker
def positive(base: Initializer, dtype: Any = None) -> Positive:
    """Positive weights: the absolute values of what another initializer draws.

    All weights are strictly greater than zero, also after rounding to bfloat16, float16 or float8. Since
    `|w|^2 = w^2`, the second moment is that of the base and the variance is smaller, by the square of the new
    mean: half-normal for a normal base (mean `stddev sqrt(2/pi)`), uniform in [0, a) for a base uniform in
    (-a, a). With positive weights the mean of the signal grows by fan_in E|w| per layer; scale down, or
    centre the inputs, if many are stacked.

    Args:
      base: the initializer to fold, such as `jinit.glorot_uniform()`; one made by jinit, and not a constant.
      dtype: the dtype where the call names none; by default that of `base`.

    Returns:
      An initializer.

    Raises:
      TypeError: if `base` is not a random initializer of jinit; at the call, for a complex dtype.

    Example:
      >>> import jax, jinit
      >>> init = jinit.positive(jinit.glorot_uniform())
      >>> bool((init(jax.random.key(0), (64, 64)) > 0).all())
      True
      >>> round(init.mean((64, 64)) ** 2 + init.variance((64, 64)), 12) == 2 / 128
      True

    References:
      Amos, Xu, Kolter, "Input Convex Neural Networks", 2017, which needs weights of this sign.
    """
    caller = "jinit.positive(...)"
    if not isinstance(base, Initializer) or isinstance(base, (Constant, Positive)):
        advice = "For example `jinit.positive(jinit.glorot_uniform())`."
        raise TypeError(
            message(caller, "`base` must be a random initializer of jinit", f"base={base!r}", advice)
        )
    return Positive(base, dtype=base.dtype if dtype is None else arguments.stored_dtype(caller, dtype))
