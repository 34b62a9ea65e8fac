"""Gains of activations, by quadrature, and the initializers that use them."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jinit._errors import message
from jinit.initializers import _arguments as arguments
from jinit.initializers._base import maker
from jinit.initializers._quadrature import NoExpectationError, NotElementwiseError, gaussian_expectation
from jinit.initializers.variance_scaling import VarianceScaling, scaled, variance_scaling

_OWN: dict[str, Callable[..., Any]] = {
    "linear": lambda x: x,
    "identity": lambda x: x,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "erf": jax.scipy.special.erf,
    "softsign": jax.nn.soft_sign,
    "hardtanh": jax.nn.hard_tanh,
    "prelu": lambda x: jax.nn.leaky_relu(x, 0.25),
    "relu_squared": lambda x: jnp.square(jax.nn.relu(x)),
    "tanhshrink": lambda x: x - jnp.tanh(x),
    "logsigmoid": jax.nn.log_sigmoid,
    "heaviside": lambda x: jnp.heaviside(x, 0.5),
}


def activation_named(caller: str, name: str) -> Callable[..., Any]:
    """The function of this name: jinit's own names first, then `jax.nn`, then `jax.numpy`."""
    for found in (_OWN.get(name), getattr(jax.nn, name, None), getattr(jnp, name, None)):
        if callable(found) and not name.startswith("_"):
            return found
    near = difflib.get_close_matches(name, [*_OWN, *dir(jax.nn), *dir(jnp)], n=1)
    advice = f"Did you mean {near[0]!r}? " if near else ""
    must = "`activation` must be a function or the name of one in `jax.nn` or `jax.numpy`"
    raise ValueError(
        message(caller, must, f"activation={name!r}", f"{advice}Any function of your own will do too.")
    )


def refuse_untraceable(caller: str, activation: Callable[..., Any], got: str) -> None:
    """Raise for a function of NumPy's, which can be evaluated but neither traced nor differentiated.

    Raises:
      TypeError: it is one.
    """
    try:
        jax.eval_shape(lambda h: activation(h), jax.ShapeDtypeStruct((1,), jnp.float32))
    except jax.errors.JAXTypeError:
        must = "`activation` must be made of JAX's functions, through which it can be traced"
        advice = "Such as `jnp.tanh` in place of `np.tanh`."
        raise TypeError(message(caller, must, got, advice)) from None


def gain(activation: str | Callable[..., Any], *parameters: float) -> float:
    """What to multiply weights by so that an activation keeps the second moment of its signal.

    `gain = 1 / sqrt(E[f(z)^2])`, z standard normal. With weights of variance `gain^2 / fan_in` and zero mean,
    pre-activations of second moment one are followed by pre-activations of second moment one.

    The expectation is found by adaptive quadrature in float64, to a relative error below 1e-9, for any
    function: kinks, jumps and steep slopes are searched for, wherever they are. A function that computes in
    float32 inside gives about 1e-7.

    A gain is not stability: for gelu, silu and mish the map of second moments has slope 1.14, 1.17 and 1.08
    at its fixed point, so an error in the scale grows with depth. The tables of other libraries hold other
    numbers for some functions (PyTorch: 5/3 for tanh, where this gives 1.5925).

    Args:
      activation: an elementwise JAX function, or a name: `"relu"`, `"tanh"`, `"linear"`, … (`"gelu"` is the
        exact one, as `jax.nn.gelu(x, approximate=False)`; `"gelu_tanh"` its approximation; `"leaky_relu"` has
        slope 0.01).
      *parameters: further arguments of the activation, such as the slope of `"leaky_relu"`.

    Returns:
      The gain, a Python float, also under `jax.jit`.

    Raises:
      ValueError: if the name is unknown; if the function is not elementwise (softmax), is not finite, or is
        zero; if the expectation diverges.
      TypeError: if it is neither a function nor a name.

    Example:
      >>> import jinit
      >>> round(jinit.gain("relu"), 9) == round(2**0.5, 9)
      True
      >>> round(jinit.gain("tanh"), 6)
      1.592537
      >>> round(jinit.gain(lambda x: abs(x - 0.3)), 6)
      0.957826

    References:
      He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", 2015, for relu; Poole, Lahiri, Raghu,
      Sohl-Dickstein, Ganguli, "Exponential expressivity in deep neural networks through transient chaos",
      2016, for the map of second moments.
    """
    return gain_for("jinit.gain(...)", activation, parameters)


def gain_for(caller: str, activation: Any, parameters: tuple[Any, ...] = ()) -> float:
    """`gain` in the name of `caller`."""
    parameters = tuple(arguments.number(caller, "parameters", parameter) for parameter in parameters)
    if isinstance(activation, str):
        function = activation_named(caller, activation)
        return _named_gain(caller, activation, function, parameters)
    if not callable(activation):
        must = "`activation` must be a function or the name of one"
        raise TypeError(message(caller, must, f"activation={activation!r}"))
    return _gain(caller, activation, activation, parameters)


@functools.lru_cache(maxsize=256)
def _named_gain(caller: str, name: str, function: Callable[..., Any], parameters: tuple[float, ...]) -> float:
    return _gain(caller, name, function, parameters)


def _gain(caller: str, shown: Any, function: Callable[..., Any], parameters: tuple[float, ...]) -> float:
    got = f"activation={shown!r}"
    applied = (lambda z: function(z, *parameters)) if parameters else function
    try:
        second_moment, error = gaussian_expectation(applied, power=2)
    except NotElementwiseError as reason:
        advice = "Normalisations and gates keep their own scale; use `jinit.lecun_normal` before them."
        raise ValueError(
            message(caller, f"`activation` must be elementwise, but {reason}", got, advice)
        ) from None
    except NoExpectationError as reason:
        raise ValueError(message(caller, f"E[activation(z)^2] must be finite, but {reason}", got)) from None
    if second_moment <= 1e-290:
        raise ValueError(message(caller, "`activation` must not be zero everywhere", got))
    if error > 1e-2 * second_moment:
        must = f"E[activation(z)^2] must be computable, but {second_moment:.6g} has an error of {error:.1g}"
        raise ValueError(message(caller, must, got))
    return 1.0 / math.sqrt(second_moment)


@maker
def for_activation(
    activation: str | Callable[..., Any],
    mode: str = "fan_in",
    distribution: str = "truncated_normal",
    in_axis: Any = -2,
    out_axis: Any = -1,
    batch_axis: Any = (),
    dtype: Any = None,
    *,
    groups: int = 1,
) -> VarianceScaling:
    """Weights that keep the second moment of the signal through any activation.

    Variance `gain(activation)^2 / fan`, so `jinit.for_activation("relu")` is `jinit.he_normal()` and
    `jinit.for_activation("linear")` is `jinit.lecun_normal()`, up to the last digits of the quadrature. These
    are the weights of the layer that follows the activation.

    Args:
      activation: an elementwise JAX function or the name of one, as in `jinit.gain`.
      mode: `"fan_in"`, `"fan_out"`, `"fan_avg"` or `"fan_geo_avg"`.
      distribution: `"truncated_normal"`, `"normal"` or `"uniform"`.
      in_axis: the axis or axes of the inputs.
      out_axis: the axis or axes of the outputs.
      batch_axis: the axis or axes of independent kernels.
      dtype: the dtype where the call names none.
      groups: the number of groups of a convolution kernel (…, in/groups, out).

    Returns:
      An initializer. For a function without a name its repr is the `jinit.variance_scaling` that it equals.

    Raises:
      ValueError: as `jinit.gain` and `jinit.variance_scaling` do.

    Example:
      >>> import jax, jinit
      >>> init = jinit.for_activation(jax.nn.silu)
      >>> round(init.variance((100, 100)), 6)
      0.028108
      >>> jinit.for_activation("tanh")
      jinit.for_activation('tanh')

    References:
      He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", 2015, section 2.2, generalised to any second
      moment.
    """
    scale = gain_for("jinit.for_activation(...)", activation) ** 2
    rest = (mode, distribution, in_axis, out_axis, batch_axis, dtype, groups)
    made = scaled("for_activation", scale, *rest)
    if isinstance(activation, str):
        return made
    written = variance_scaling(scale, *rest[:-1], groups=groups).call
    return dataclasses.replace(made, call=written)
