"""Initializers whose variance is a constant over a fan."""

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
from jinit.initializers._laws import Law, Normal, Point, TruncatedNormal, Uniform
from jinit.initializers.distributions import RandomUniform
from jinit.initializers.fans import fans_of

MODES = ("fan_in", "fan_out", "fan_avg", "fan_geo_avg")
DISTRIBUTIONS = ("truncated_normal", "normal", "uniform")
_TRUNCATED_STDDEV = 0.87962566103423978  # of a standard normal truncated to (-2, 2)
# Variance of a standard complex normal of a modulus under 2, over that which JAX divides by: it forgets that
# what is left after the cut has a probability of less than one.
_COMPLEX_EXCESS = 1 / (1 - math.exp(-4))


@dataclasses.dataclass(frozen=True, repr=False)
class VarianceScaling(Initializer):
    """Zero mean and variance `scale / fan`."""

    scale: Any
    mode: str
    distribution: str
    in_axis: Axes
    out_axis: Axes
    batch_axis: Axes
    groups: int = 1
    fans: tuple[float, float | None] | None = None

    @property
    def reads(self):
        """The fans."""
        return "fans"

    def with_fans(self, fan_in, fan_out=None):
        """The initializer with these fans in place of those read from the shape."""
        given = (fan_in, *(() if fan_out is None else (fan_out,)))
        for name, fan in zip(("fan_in", "fan_out"), given, strict=False):
            arguments.positive_number(self.caller, name, fan)
        fans = (float(fan_in), None if fan_out is None else float(fan_out))
        written = ", ".join(repr(fan) for fan in fans if fan is not None)
        call = f"{self.call.partition('.with_fans(')[0]}.with_fans({written})"
        return dataclasses.replace(self, fans=fans, call=call)

    def parted(self, shape):
        """The distribution alone, and the variance."""
        plain = VarianceScaling(None, "fan_in", self.distribution, -2, -1, (), fans=(1.0, None))
        return plain, (0.0 if 0 in shape else self.scale / self._fan(shape),)

    def _numbers(self):
        return ("scale",)

    def _variance(self, shape):
        is_complex = self.dtype is not None and jnp.issubdtype(self.dtype, jnp.complexfloating)
        cut = is_complex and self.distribution == "truncated_normal"
        return self._nominal(shape) * (_COMPLEX_EXCESS if cut else 1.0)

    def _nominal(self, shape):
        return 0.0 if 0 in shape else float(self.scale / self._fan(shape))

    def _check(self, shape):
        if self.fans is None:
            fans_of(self.caller, shape, self.in_axis, self.out_axis, self.batch_axis)
        elif self.fans[1] is None and self.mode != "fan_in":
            must = f"`mode={self.mode!r}` needs a fan-out"
            advice = "Give it as `.with_fans(fan_in, fan_out)`, or use a mode of the fan-in alone."
            raise ValueError(message(self.caller, must, f"fan_in={self.fans[0]!r} alone", advice))

    def _fan(self, shape):
        if self.fans is None:
            fan_in, fan_out = fans_of(self.caller, shape, self.in_axis, self.out_axis, self.batch_axis)
            fan_out = fan_out / self.groups
        else:
            fan_in, fan_out = self.fans[0], self.fans[1] or math.nan
        average = {"fan_avg": (fan_in + fan_out) / 2, "fan_geo_avg": (fan_in * fan_out) ** 0.5}
        return {"fan_in": fan_in, "fan_out": fan_out, **average}[self.mode]

    def _sample(self, key, shape, dtype, out_sharding):
        axes = (self.in_axis, self.out_axis, self.batch_axis)
        scale, mode = self.scale, self.mode
        sizes = (1,) * (2 - len(shape)) + shape  # JAX refuses vectors, whatever the axes
        if self.fans is not None:  # every axis a batch axis: JAX then divides by a fan of 1
            axes, scale, mode = ((), (), tuple(range(len(sizes)))), scale / self._fan(shape), "fan_in"
        elif self.groups > 1:
            fan_in, _ = fans_of(self.caller, shape, *axes)
            scale, mode = scale * fan_in / self._fan(shape), "fan_in"
        build: Any = jax.nn.initializers.variance_scaling  # its types know no `str` for `mode`
        init = build(scale, mode, self.distribution, *axes)
        if self.fans is not None and len(shape) < 2:
            return in_explicit_mesh(lambda: init(key, sizes, dtype).reshape(shape), out_sharding)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            return in_explicit_mesh(lambda: init(key, shape, dtype), out_sharding)
        return init(key, shape, dtype, out_sharding)

    def _mean(self, shape):
        return 0.0

    def _law(self, shape) -> Law:
        sigma = math.sqrt(self._nominal(shape))
        if sigma == 0:
            return Point(0.0)
        if self.distribution == "uniform":
            return Uniform(-math.sqrt(3) * sigma, math.sqrt(3) * sigma)
        if self.distribution == "normal":
            return Normal(0.0, sigma)
        return TruncatedNormal(0.0, sigma / _TRUNCATED_STDDEV, -2.0, 2.0)


def scaled(
    name: str,
    scale: Any,
    mode: Any,
    distribution: Any,
    in_axis: Any,
    out_axis: Any,
    batch_axis: Any,
    dtype: Any,
    groups: Any = 1,
    call: str = "",
) -> VarianceScaling:
    """A checked `VarianceScaling`, errors spoken in the name of the maker `name`."""
    caller = f"jinit.{name}(...)"
    roles = arguments.roles(caller, in_axis=in_axis, out_axis=out_axis, batch_axis=batch_axis)
    return VarianceScaling(
        arguments.number(caller, "scale", scale, minimum=0.0),
        arguments.choice(caller, "mode", mode, MODES),
        arguments.choice(caller, "distribution", distribution, DISTRIBUTIONS),
        *roles,
        groups=arguments.count(caller, "groups", groups),
        dtype=arguments.stored_dtype(caller, dtype),
        maker=name,
        call=call,
    )


@maker
def variance_scaling(
    scale: Any,
    mode: str,
    distribution: str,
    in_axis: Any = -2,
    out_axis: Any = -1,
    batch_axis: Any = (),
    dtype: Any = None,
    *,
    groups: int = 1,
) -> VarianceScaling:
    """Weights of zero mean whose variance is a constant over a fan.

    `Var[w] = scale / n`, where n is `fan_in`, `fan_out`, their arithmetic mean (`fan_avg`) or their geometric
    mean (`fan_geo_avg`). Axes in none of the three roles are the receptive field and count in both fans.
    `"truncated_normal"` cuts at two deviations of the untruncated normal, and the variance is that after the
    cut.

    Args:
      scale: what the variance is multiplied by; not negative. It may be a traced value.
      mode: `"fan_in"`, `"fan_out"`, `"fan_avg"` or `"fan_geo_avg"`.
      distribution: `"truncated_normal"`, `"normal"` or `"uniform"`; for complex dtypes a disk or a complex
        normal.
      in_axis: the axis or axes of the inputs.
      out_axis: the axis or axes of the outputs.
      batch_axis: the axis or axes of independent kernels.
      dtype: the dtype where the call names none.
      groups: the number of groups of a convolution kernel (…, in/groups, out); its true fan-out is the one
        read from the shape, divided by `groups`.

    Returns:
      An initializer.

    Raises:
      ValueError: for an unknown mode or distribution, a negative or NaN scale, an axis in two roles.

    Example:
      >>> import jax, jinit
      >>> init = jinit.variance_scaling(2.0, "fan_out", "normal")
      >>> init.variance((256, 512)) == 2 / 512
      True
      >>> init(jax.random.key(0), (256, 512)).shape
      (256, 512)

    References:
      He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", 2015, section 2.2.
    """
    return scaled("variance_scaling", scale, mode, distribution, in_axis, out_axis, batch_axis, dtype, groups)


@maker
def fan_in_uniform(
    in_axis: Any = -2, out_axis: Any = -1, batch_axis: Any = (), dtype: Any = None, *, fan: Any = None
) -> VarianceScaling | RandomUniform:
    """The 1/sqrt(n) rule: uniform between ±1/sqrt(fan_in).

    Variance `1 / (3 fan_in)`; with n = 10 inputs the bound is 0.316 and the deviation 0.18. This is the rule
    that Glorot and Bengio call "standard", and PyTorch's default for linear and convolution layers, weights
    and biases alike. It shrinks the signal of a linear layer by sqrt(3).

    Args:
      in_axis: the axis or axes of the inputs.
      out_axis: the axis or axes of the outputs.
      batch_axis: the axis or axes of independent kernels.
      dtype: the dtype where the call names none.
      fan: the fan itself instead of one read from the shape; a bias, which has no fans, needs it.

    Returns:
      An initializer.

    Raises:
      ValueError: if an axis is in two roles, or `fan` is not positive.

    Example:
      >>> import jinit
      >>> round(jinit.fan_in_uniform().variance((10, 5)) ** 0.5, 3)
      0.183
      >>> bias_init = jinit.fan_in_uniform(fan=512)
      >>> round(bias_init.variance((64,)) * 512, 12)
      0.333333333333

    References:
      LeCun, Bottou, Orr, Müller, "Efficient BackProp", 1998; Glorot, Bengio, "Understanding the difficulty of
      training deep feedforward neural networks", 2010, equation 1.
    """
    roles = scaled("fan_in_uniform", 1 / 3, "fan_in", "uniform", in_axis, out_axis, batch_axis, dtype)
    if fan is None:
        return roles
    bound = 1 / math.sqrt(arguments.positive_number("jinit.fan_in_uniform(...)", "fan", fan))
    return RandomUniform(-bound, bound, dtype=roles.dtype, maker="fan_in_uniform")
