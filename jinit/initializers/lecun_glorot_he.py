"""The members of the variance scaling family that have a name: LeCun, Glorot (Xavier) and He (Kaiming)."""

from __future__ import annotations

from typing import Any

from jinit.initializers import _arguments as arguments
from jinit.initializers._base import maker
from jinit.initializers.variance_scaling import VarianceScaling, scaled


@maker
def glorot_uniform(
    in_axis: Any = -2, out_axis: Any = -1, batch_axis: Any = (), dtype: Any = None, *, groups: int = 1
) -> VarianceScaling:
    """Glorot (Xavier) weights, uniform.

    U(-a, a) with `a = sqrt(6 / (fan_in + fan_out))`: the "normalized initialization", variance
    `2 / (fan_in + fan_out)`, a compromise between keeping the forward and the backward signal. The paper's
    other rule, the "standard" heuristic U(±1/sqrt(fan_in)), is `jinit.fan_in_uniform`.

    Args:
      in_axis: the axis or axes of the inputs.
      out_axis: the axis or axes of the outputs.
      batch_axis: the axis or axes of independent kernels.
      dtype: the dtype where the call names none.
      groups: the number of groups of a convolution kernel (…, in/groups, out).

    Returns:
      An initializer.

    Raises:
      ValueError: if an axis is in two roles.

    Example:
      >>> import jinit
      >>> jinit.glorot_uniform().variance((100, 300))
      0.005

    References:
      Glorot, Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010,
      equation 16.
    """
    return scaled("glorot_uniform", 1.0, "fan_avg", "uniform", in_axis, out_axis, batch_axis, dtype, groups)


@maker
def glorot_normal(
    in_axis: Any = -2, out_axis: Any = -1, batch_axis: Any = (), dtype: Any = None, *, groups: int = 1
) -> VarianceScaling:
    """Glorot (Xavier) weights, truncated normal.

    Deviation `sqrt(2 / (fan_in + fan_out))`, which many texts call "the Xavier heuristic".

    Args:
      in_axis: the axis or axes of the inputs.
      out_axis: the axis or axes of the outputs.
      batch_axis: the axis or axes of independent kernels.
      dtype: the dtype where the call names none.
      groups: the number of groups of a convolution kernel (…, in/groups, out).

    Returns:
      An initializer.

    Raises:
      ValueError: if an axis is in two roles.

    Example:
      >>> import jinit
      >>> jinit.glorot_normal() == jinit.xavier_normal()
      True

    References:
      Glorot, Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010,
      equation 12.
    """
    return scaled(
        "glorot_normal", 1.0, "fan_avg", "truncated_normal", in_axis, out_axis, batch_axis, dtype, groups
    )


@maker
def lecun_uniform(
    in_axis: Any = -2, out_axis: Any = -1, batch_axis: Any = (), dtype: Any = None
) -> VarianceScaling:
    """LeCun weights, uniform.

    U(-a, a) with `a = sqrt(3 / fan_in)`, so variance `1 / fan_in`: keeps the variance of a linear layer's
    signal.

    Args:
      in_axis: the axis or axes of the inputs.
      out_axis: the axis or axes of the outputs.
      batch_axis: the axis or axes of independent kernels.
      dtype: the dtype where the call names none.

    Returns:
      An initializer.

    Raises:
      ValueError: if an axis is in two roles.

    Example:
      >>> import jinit
      >>> jinit.lecun_uniform().variance((100, 300))
      0.01

    References:
      LeCun, Bottou, Orr, Müller, "Efficient BackProp", 1998, section 4.6.
    """
    return scaled("lecun_uniform", 1.0, "fan_in", "uniform", in_axis, out_axis, batch_axis, dtype)


@maker
def lecun_normal(
    in_axis: Any = -2, out_axis: Any = -1, batch_axis: Any = (), dtype: Any = None
) -> VarianceScaling:
    """LeCun weights, truncated normal; the default kernel of Flax.

    Variance `1 / fan_in`, cut at two deviations of the untruncated normal.

    Args:
      in_axis: the axis or axes of the inputs.
      out_axis: the axis or axes of the outputs.
      batch_axis: the axis or axes of independent kernels.
      dtype: the dtype where the call names none.

    Returns:
      An initializer.

    Raises:
      ValueError: if an axis is in two roles.

    Example:
      >>> import jax, jax.numpy as jnp, jinit
      >>> w = jinit.lecun_normal()(jax.random.key(0), (4096, 512), jnp.bfloat16)
      >>> w.dtype.name
      'bfloat16'

    References:
      LeCun, Bottou, Orr, Müller, "Efficient BackProp", 1998, section 4.6; Klambauer, Unterthiner, Mayr,
      Hochreiter, "Self-Normalizing Neural Networks", 2017.
    """
    return scaled("lecun_normal", 1.0, "fan_in", "truncated_normal", in_axis, out_axis, batch_axis, dtype)


def _he_scale(name: str, negative_slope: Any) -> Any:
    slope = arguments.number(f"jinit.{name}(...)", "negative_slope", negative_slope)
    return 2.0 / (1.0 + slope**2)


@maker
def he_uniform(
    in_axis: Any = -2,
    out_axis: Any = -1,
    batch_axis: Any = (),
    dtype: Any = None,
    *,
    negative_slope: Any = 0.0,
    mode: str = "fan_in",
    groups: int = 1,
) -> VarianceScaling:
    """He (Kaiming) weights, uniform.

    U(-a, a) with `a = sqrt(6 / ((1 + negative_slope^2) fan))`. See `jinit.he_normal`.

    Args:
      in_axis: the axis or axes of the inputs.
      out_axis: the axis or axes of the outputs.
      batch_axis: the axis or axes of independent kernels.
      dtype: the dtype where the call names none.
      negative_slope: the slope of a leaky ReLU below zero; 0 for ReLU, 1 for no activation.
      mode: `"fan_in"` keeps the forward signal, `"fan_out"` the backward one.
      groups: the number of groups of a convolution kernel (…, in/groups, out).

    Returns:
      An initializer.

    Raises:
      ValueError: for an unknown mode, a NaN slope, an axis in two roles.

    Example:
      >>> import jinit
      >>> jinit.he_uniform().variance((100, 300))
      0.02

    References:
      He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", 2015, section 2.2. The paper draws from normals.
    """
    scale = _he_scale("he_uniform", negative_slope)
    return scaled("he_uniform", scale, mode, "uniform", in_axis, out_axis, batch_axis, dtype, groups)


@maker
def he_normal(
    in_axis: Any = -2,
    out_axis: Any = -1,
    batch_axis: Any = (),
    dtype: Any = None,
    *,
    negative_slope: Any = 0.0,
    mode: str = "fan_in",
    groups: int = 1,
) -> VarianceScaling:
    """He (Kaiming) weights, truncated normal.

    Variance `2 / ((1 + negative_slope^2) fan)`: what keeps the second moment of the signal through a (leaky)
    ReLU, since `E[f(z)^2] = (1 + negative_slope^2) / 2` for standard normal z. For other activations see
    `jinit.for_activation`.

    Args:
      in_axis: the axis or axes of the inputs.
      out_axis: the axis or axes of the outputs.
      batch_axis: the axis or axes of independent kernels.
      dtype: the dtype where the call names none.
      negative_slope: the slope of a leaky ReLU below zero; 0 for ReLU, 1 for no activation.
      mode: `"fan_in"` keeps the forward signal, `"fan_out"` the backward one.
      groups: the number of groups of a convolution kernel (…, in/groups, out).

    Returns:
      An initializer.

    Raises:
      ValueError: for an unknown mode, a NaN slope, an axis in two roles.

    Example:
      >>> import jax, jinit
      >>> init = jinit.he_normal()
      >>> init.variance((3, 3, 64, 128)) == 2 / (3 * 3 * 64)
      True
      >>> init
      jinit.he_normal()
      >>> init == jinit.variance_scaling(2.0, "fan_in", "truncated_normal")
      True

    References:
      He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", 2015, equations 10, 14 and 15. The paper draws from
      normals that are not truncated: `jinit.variance_scaling(2.0, "fan_in", "normal")`.
    """
    scale = _he_scale("he_normal", negative_slope)
    return scaled("he_normal", scale, mode, "truncated_normal", in_axis, out_axis, batch_axis, dtype, groups)


xavier_uniform = glorot_uniform
xavier_normal = glorot_normal
kaiming_uniform = he_uniform
kaiming_normal = he_normal
