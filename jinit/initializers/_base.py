"""What all initializers share: the call, rounding to the target dtype, the repr."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, Literal, ParamSpec, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from jinit._errors import message
from jinit._typing import Array, Key, Shape
from jinit.initializers import _arguments as arguments
from jinit.initializers._laws import Law

Reads = Literal["nothing", "fans", "layout"]


@dataclasses.dataclass(frozen=True, repr=False)
class Initializer:
    """An initializer of jinit: `init(key, shape, dtype=None, out_sharding=None) -> Array`.

    It goes wherever `jax.nn.initializers.Initializer` does, and knows its law. Made by functions such as
    `jinit.he_normal`, not by hand. Two are equal when they draw from the same law in the same way, whoever
    made them.

    Args:
      maker: the public function that made it; errors are spoken in its name.
      call: the expression that makes it again, which is also its `repr`.
      dtype: the dtype where a call names none.

    Example:
      >>> import jinit
      >>> init = jinit.he_normal()
      >>> isinstance(init, jinit.Initializer), init
      (True, jinit.he_normal())
      >>> init.variance((50, 10)), init.with_fans(25.0).variance((50, 10))
      (0.04, 0.08)
    """

    maker: str = dataclasses.field(default="", compare=False, kw_only=True)
    call: str = dataclasses.field(default="", compare=False, kw_only=True)
    dtype: Any = dataclasses.field(default=None, kw_only=True)

    @property
    def caller(self) -> str:
        """How errors call what made it."""
        return f"jinit.{self.maker}(...)"

    def __call__(self, key: Key, shape: Shape, dtype: Any = None, out_sharding: Any = None) -> Array:
        """Draws one array.

        Args:
          key: a key, typed or raw; it is consumed.
          shape: the shape of the result.
          dtype: its dtype; by default the maker's `dtype`, else JAX's default floating dtype.
          out_sharding: a `NamedSharding`, or a `PartitionSpec` of the mesh in `jax.set_mesh`.
        """
        sizes = self._checked(shape)
        dtype = self._result_dtype(self.dtype if dtype is None else dtype)
        key = self._consumable(key)
        return _constrained(lambda inside: self._rounded(key, sizes, dtype, inside), out_sharding)

    def law(self, shape: Shape) -> Law:
        """The exact law of one entry of a real array, at a place drawn uniformly, before any rounding."""
        return self._law(self._checked(shape))

    def mean(self, shape: Shape) -> Any:
        """The exact mean of one entry, at a place drawn uniformly."""
        return self._mean(self._checked(shape))

    def variance(self, shape: Shape, dtype: Any = None) -> float:
        """The exact variance of one entry, at a place drawn uniformly; for complex dtypes E|x - E x|^2.

        Args:
          shape: shape of the array.
          dtype: its dtype, as in a call; it matters only if complex, where JAX cuts normals differently.
        """
        init = self if dtype is None else dataclasses.replace(self, dtype=dtype)
        return init._variance(self._checked(shape))

    @property
    def reads(self) -> Reads:
        """What the law takes from the shape; `layout` is that of a kernel (…receptive field, in, out)."""
        return "nothing"

    def with_fans(self, fan_in: float, fan_out: float | None = None) -> Self:
        """The initializer with these fans in place of those read from the shape; itself, if it reads none.

        Args:
          fan_in: the fan-in; a float, since that of a strided transposed convolution need not be whole.
          fan_out: the fan-out; not needed where the variance does not depend on it.
        """
        del fan_in, fan_out
        return self

    def in_default_axes(self) -> Self:
        """The initializer for a kernel (…receptive field, in, out), whatever axes it was made for."""
        return self

    def parted(self, shape: tuple[int, ...]) -> tuple[Self, tuple[Any, ...]]:
        """What stays the same when only the scale changes, and the numbers that set the scale.

        `template.joined(numbers)` draws what the initializer itself draws for this shape. The template is
        hashable; the numbers may be traced.
        """
        del shape
        names = self._numbers()
        template = dataclasses.replace(self, dtype=None, **dict.fromkeys(names))
        return template, tuple(getattr(self, name) for name in names)

    def joined(self, numbers: tuple[Any, ...]) -> Self:
        """The inverse of `parted`."""
        return dataclasses.replace(self, **dict(zip(self._numbers(), numbers, strict=True)))

    def _numbers(self) -> tuple[str, ...]:
        """Names of the fields that set the scale."""
        return ()

    def check(self, shape: Shape, dtype: Any = None) -> None:
        """Raises what a call with this shape and dtype would raise, without drawing anything."""
        self._checked(shape)
        self._result_dtype(self.dtype if dtype is None else dtype)

    def __repr__(self) -> str:
        return self.call or object.__repr__(self)

    def _checked(self, shape: Shape) -> tuple[int, ...]:
        """The shape, checked."""
        checked = arguments.static_shape(self.caller, shape)
        self._check(checked)
        return checked

    def _result_dtype(self, dtype: Any) -> Any:
        return arguments.sampled_dtype(self.caller, dtype)

    def _consumable(self, key: Any) -> Any:
        return arguments.single_key(self.caller, key)

    def _rounded(self, key: Key, shape: tuple[int, ...], dtype: Any, out_sharding: Any) -> Array:
        if 0 in shape:
            return jnp.zeros(shape, dtype, out_sharding=out_sharding)
        if not is_low_precision(dtype):
            return self._finish(self._sample(key, shape, dtype, out_sharding), dtype)
        sample = self._sample(key, shape, jnp.dtype(jnp.float32), out_sharding)
        largest = float(jnp.finfo(dtype).max)
        return jnp.clip(self._finish(sample, dtype), -largest, largest).astype(dtype)

    def _finish(self, sample: Array, dtype: Any) -> Array:
        """A last touch on the sample, before it is rounded to `dtype`."""
        del dtype
        return sample

    def _check(self, shape: tuple[int, ...]) -> None:
        """Raises where the initializer can't fill this shape."""

    def _sample(self, key: Key, shape: tuple[int, ...], dtype: Any, out_sharding: Any) -> Array:
        """A sample in a dtype of at least 32 bits a component."""
        raise NotImplementedError

    def _law(self, shape: tuple[int, ...]) -> Law:
        raise NotImplementedError

    def _mean(self, shape: tuple[int, ...]) -> Any:
        return self._law(shape).mean

    def _variance(self, shape: tuple[int, ...]) -> float:
        return self._law(shape).variance

    def _refuse_complex(self, dtype: Any) -> None:
        if jnp.issubdtype(dtype, jnp.complexfloating):
            advice = "`jinit.normal` and `jinit.variance_scaling` draw complex numbers."
            raise TypeError(
                message(self.caller, "`dtype` must be a real floating dtype", f"dtype={dtype}", advice)
            )


def is_low_precision(dtype: Any) -> bool:
    """True for bfloat16, float16, float8 and below, where samples are drawn in float32 and rounded once."""
    return bool(jnp.issubdtype(dtype, jnp.floating)) and jnp.dtype(dtype).itemsize < 4


def in_explicit_mesh(draw: Callable[[], Array], out_sharding: Any) -> Array:
    """`draw()` placed as asked, for draws of several steps none of which takes an `out_sharding`."""
    auto_axes: Any = jax.sharding.auto_axes  # usable as a decorator too, which confuses type checkers
    return draw() if out_sharding is None else auto_axes(draw, out_sharding=out_sharding)()


def _constrained(draw: Callable[[Any], Array], out_sharding: Any) -> Array:
    """Hands `out_sharding` to the sampler in an explicit mesh, and else places the finished sample."""
    if out_sharding is None or jax.sharding.get_abstract_mesh().explicit_axes:
        return draw(out_sharding)
    if isinstance(out_sharding, NamedSharding) and out_sharding.mesh.explicit_axes:
        return jax.device_put(draw(None), out_sharding)
    return jax.lax.with_sharding_constraint(draw(None), out_sharding)


P = ParamSpec("P")
T = TypeVar("T", bound=Initializer)


def maker(function: Callable[P, T]) -> Callable[P, T]:
    """Gives what `function` makes the name of `function` and a repr that evaluates back."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def make(*args: P.args, **kwargs: P.kwargs) -> T:
        made = function(*args, **kwargs)
        if made.call:
            return made
        given = signature.bind(*args, **kwargs).arguments
        written = _written(signature, given)
        return dataclasses.replace(
            made, maker=function.__name__, call=f"jinit.{function.__name__}({written})"
        )

    setattr(make, _MAKES, True)
    return make


_MAKES = "makes_initializers"


def is_maker(function: Any) -> bool:
    """Whether it makes initializers, and is none."""
    return getattr(function, _MAKES, False) is True


def _written(signature: inspect.Signature, given: dict[str, Any]) -> str:
    """The arguments as a person would write them: only those off their default, by position if in line."""
    words, in_line = [], True
    for name, parameter in signature.parameters.items():
        default = parameter.default
        if name not in given or (default is not parameter.empty and _same(given[name], default)):
            in_line = False
            continue
        in_line = in_line and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        words.append(literal(given[name]) if in_line else f"{name}={literal(given[name])}")
    return ", ".join(words)


def _same(value: Any, default: Any) -> bool:
    return value is default or (
        type(value) is type(default) and not hasattr(value, "shape") and value == default
    )


def literal(value: Any) -> str:
    """Text that evaluates back with nothing but `jinit` in scope."""
    if isinstance(value, (str, bool, int, float, complex, Initializer)) or value is None:
        return _scalar(value)
    if value is float or value is complex:
        return value.__name__
    if arguments.traced(value):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return (
            "("
            + "".join(f"{literal(item)}, " for item in value).removesuffix(" " if len(value) == 1 else ", ")
            + ")"
        )
    if isinstance(value, (jax.Array, np.ndarray, np.generic)):
        return literal(plain(value))
    return repr(jnp.dtype(value).name)


def plain(value: Any) -> Any:
    """Arrays as nested tuples of Python numbers, which hash and compare by value."""
    array = np.asarray(value)
    if jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(np.float64)
    return _tuples(array.tolist())


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _scalar(value: Any) -> str:
    """`repr`, save that numbers with no literal of their own are written so that they evaluate back."""
    if isinstance(value, float):
        return repr(float(value)) if math.isfinite(value) else f"float('{float(value)}')"
    return repr(complex(value)) if isinstance(value, complex) else repr(value)
