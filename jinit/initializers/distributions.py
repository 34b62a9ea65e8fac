"""Initializers whose law does not look at the shape: uniform, normal, truncated normal."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from jinit.initializers import _arguments as arguments
from jinit.initializers._base import Initializer, maker
from jinit.initializers._laws import Law, Normal, Point, TruncatedNormal, Uniform


@dataclasses.dataclass(frozen=True, repr=False)
class RandomUniform(Initializer):
    """Uniform in [low, high)."""

    low: Any
    high: Any

    def _numbers(self):
        return ("high",) if _is_zero(self.low) else ("low", "high")

    def _sample(self, key, shape, dtype, out_sharding):
        self._refuse_complex(dtype)
        if _is_zero(self.low):
            return jax.nn.initializers.uniform(self.high)(key, shape, dtype, out_sharding)
        return jax.random.uniform(key, shape, dtype, self.low, self.high, out_sharding=out_sharding)

    def _law(self, shape) -> Law:
        return Uniform(float(self.low), float(self.high)) if self.low < self.high else Point(float(self.low))


@maker
def uniform(scale: Any = 1e-2, dtype: Any = None, *, minval: Any = None, maxval: Any = None) -> RandomUniform:
    """Uniform weights in a range, by default [0, scale).

    The variance is `(maxval - minval)^2 / 12`.

    Args:
      scale: the upper end where `maxval` is not given; not negative.
      dtype: the dtype where the call names none.
      minval: the lower end, by default 0.
      maxval: the upper end, by default `scale`.

    Returns:
      An initializer.

    Raises:
      ValueError: if `scale` is negative or the range is empty.
      TypeError: at the call, for a complex dtype.

    Example:
      >>> import jax, jinit
      >>> w = jinit.uniform(minval=-0.1, maxval=0.1)(jax.random.key(0), (1000,))
      >>> bool(abs(w).max() <= 0.1), bool(w.min() < 0)
      (True, True)
    """
    caller = "jinit.uniform(...)"
    low = arguments.number(caller, "minval", 0.0 if minval is None else minval)
    if maxval is None:
        minimum = 0.0 if minval is None else -math.inf
        high = arguments.number(caller, "scale", scale, minimum=minimum)
    else:
        high = arguments.number(caller, "maxval", maxval)
    if minval is not None or maxval is not None:
        arguments.ordered(caller, minval=low, **{"scale" if maxval is None else "maxval": high})
    return RandomUniform(low, high, dtype=arguments.stored_dtype(caller, dtype))


@dataclasses.dataclass(frozen=True, repr=False)
class RandomNormal(Initializer):
    """Normal with this mean and deviation."""

    stddev: Any
    centre: Any

    def _numbers(self):
        return ("stddev",) if _is_zero(self.centre) else ("stddev", "centre")

    def _sample(self, key, shape, dtype, out_sharding):
        return _shifted(jax.nn.initializers.normal(self.stddev)(key, shape, dtype, out_sharding), self.centre)

    def _law(self, shape) -> Law:
        stddev, centre = float(self.stddev), float(self.centre)
        return Normal(centre, stddev) if stddev > 0 else Point(centre)


@maker
def normal(stddev: Any = 1e-2, dtype: Any = None, *, mean: Any = 0.0) -> RandomNormal:
    """Normal weights.

    `w ~ N(mean, stddev^2)`; for a complex dtype `E|w - mean|^2 = stddev^2`.

    Args:
      stddev: the standard deviation; not negative.
      dtype: the dtype where the call names none.
      mean: the mean.

    Returns:
      An initializer.

    Raises:
      ValueError: if `stddev` is negative or NaN.

    Example:
      >>> import jinit
      >>> init = jinit.normal(0.02, mean=1.0)
      >>> init.mean((5,)), init.variance((5,)) == 0.02**2
      (1.0, True)
    """
    caller = "jinit.normal(...)"
    return RandomNormal(
        arguments.number(caller, "stddev", stddev, minimum=0.0),
        arguments.number(caller, "mean", mean),
        dtype=arguments.stored_dtype(caller, dtype),
    )


@dataclasses.dataclass(frozen=True, repr=False)
class RandomTruncatedNormal(Initializer):
    """centre + stddev z, z standard normal given lower < z < upper."""

    stddev: Any
    lower: Any
    upper: Any
    centre: Any

    def _numbers(self):
        return ("stddev",) if _is_zero(self.centre) else ("stddev", "centre")

    def _sample(self, key, shape, dtype, out_sharding):
        self._refuse_complex(dtype)
        init = jax.nn.initializers.truncated_normal(self.stddev, None, self.lower, self.upper)
        return _shifted(init(key, shape, dtype, out_sharding), self.centre)

    def _law(self, shape) -> Law:
        stddev, centre = float(self.stddev), float(self.centre)
        law = TruncatedNormal(centre, stddev, float(self.lower), float(self.upper))
        return law if stddev > 0 else Point(centre)


@maker
def truncated_normal(
    stddev: Any = 1e-2,
    dtype: Any = None,
    lower: Any = -2.0,
    upper: Any = 2.0,
    *,
    mean: Any = 0.0,
    after_truncation: bool = False,
) -> RandomTruncatedNormal:
    """Normal weights given that they lie in a range.

    `w = mean + stddev z`, where z is standard normal given `lower < z < upper`. As in JAX, `stddev` is the
    deviation of the normal before it is cut; at two deviations the cut leaves 0.8796 of it. With
    `after_truncation` it is the deviation of the weights themselves.

    Args:
      stddev: the standard deviation; not negative.
      dtype: the dtype where the call names none.
      lower: where z is cut below; may be -inf.
      upper: where z is cut above; may be inf.
      mean: what is added.
      after_truncation: whether `stddev` is the deviation after the cut.

    Returns:
      An initializer. Its `mean` and `variance` are those after the cut, exact for any bounds.

    Raises:
      ValueError: if `stddev` is negative or NaN, or `lower >= upper`.
      TypeError: at the call, for a complex dtype.

    Example:
      >>> import jinit
      >>> round(jinit.truncated_normal(1.0).variance((3,)), 6)
      0.773741
      >>> round(jinit.truncated_normal(1.0, after_truncation=True).variance((3,)), 12)
      1.0
    """
    caller = "jinit.truncated_normal(...)"
    stddev = arguments.number(caller, "stddev", stddev, minimum=0.0)
    lower = arguments.number(caller, "lower", lower, finite=False)
    upper = arguments.number(caller, "upper", upper, finite=False)
    arguments.ordered(caller, lower=lower, upper=upper)
    if after_truncation:
        stddev = stddev / math.sqrt(TruncatedNormal(0.0, 1.0, float(lower), float(upper)).variance)
    centre = arguments.number(caller, "mean", mean)
    return RandomTruncatedNormal(stddev, lower, upper, centre, dtype=arguments.stored_dtype(caller, dtype))


def _shifted(sample, centre):
    if _is_zero(centre):
        return sample
    return sample + jnp.asarray(centre, sample.dtype)


def _is_zero(value: Any) -> bool:
    """Whether a number is known to be zero."""
    return not arguments.traced(value) and value == 0
