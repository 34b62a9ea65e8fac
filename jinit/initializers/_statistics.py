"""The checks that `jinit.check_initializer` makes, one function for each."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jinit.initializers._base import Initializer, is_low_precision
from jinit.initializers._laws import Point, Rounded
from jinit.initializers.constants import Constant
from jinit.initializers.positive import Positive, smallest_positive
from jinit.initializers.structured import Pattern

Z_LIMIT = 5.0  # two-sided probability 6e-7
P_LIMIT = 1e-6
MOST_DRAWS = 64


@dataclasses.dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
      name: what was checked.
      passed: True, False, or None where it could not be done.
      detail: the numbers, or why it could not be done.
      statistic: a z-score, a p-value or a difference, as `detail` says; None where there is none.
      threshold: what the statistic is compared with.

    Example:
      >>> import jinit
      >>> jinit.check_initializer(jinit.he_normal(), (64, 32))["dtype"].passed
      True
    """

    name: str
    passed: bool | None
    detail: str
    statistic: float | None = None
    threshold: float | None = None


class Draws:
    """The samples, drawn once, as NumPy arrays."""

    def __init__(self, init, shape, dtype, key, samples):
        self.init, self.shape, self.dtype = init, shape, dtype
        size = max(1, math.prod(shape))
        self.keys = jax.random.split(key, min(MOST_DRAWS, max(2, -(-samples // size))))
        self.first = init(self.keys[0], shape, dtype)
        self.complex = bool(jnp.issubdtype(dtype, jnp.complexfloating))

    def one(self, key) -> Any:
        return self.init(key, self.shape, self.dtype)

    def all(self) -> np.ndarray:
        """All draws, in double precision, stacked."""
        if not hasattr(self, "_all"):
            drawn = [_double(self.first)] + [_double(self.one(key)) for key in self.keys[1:]]
            self._all = np.stack(drawn)
        return self._all

    @property
    def fixed(self) -> bool:
        """Whether the initializer is one that ignores its key on purpose."""
        return isinstance(self.init, (Constant, Pattern))


@dataclasses.dataclass(frozen=True)
class Declared:
    mean: complex | float | None
    variance: float | None
    fourth: float | None
    law: Any


def declared_law(draws: Draws, mean, variance, law) -> Declared:
    """What the caller says, else what the initializer says of itself."""
    own = law is None and mean is None and variance is None and isinstance(draws.init, Initializer)
    if not own:
        if law is not None and mean is None and variance is None and callable(getattr(law, "var", None)):
            return Declared(float(law.mean()), float(law.var()), None, law)
        if law is not None and hasattr(law, "moment") and hasattr(law, "variance"):
            return _of_law(law)
        return Declared(mean, variance, None, law)
    init = draws.init
    if draws.complex or not jnp.issubdtype(draws.dtype, jnp.floating):
        return Declared(init.mean(draws.shape), init.variance(draws.shape, draws.dtype), None, None)
    exact = init.law(draws.shape)
    if not is_low_precision(draws.dtype) or 0 in draws.shape:
        return _of_law(exact)
    smallest = smallest_positive(draws.dtype) if isinstance(init, Positive) else None
    return _of_law(Rounded(exact, draws.dtype, smallest))


def _of_law(law) -> Declared:
    mean = law.moment(1)
    return Declared(mean, law.moment(2, mean), law.moment(4, mean), law)


def form(draws: Draws) -> Iterator[Check]:
    shape, dtype = np.shape(draws.first), getattr(draws.first, "dtype", None)
    yield Check("shape", shape == draws.shape, f"{shape}, asked for {draws.shape}")
    asked = jax.eval_shape(lambda: jnp.zeros((), draws.dtype)).dtype
    yield Check("dtype", dtype == asked, f"{dtype}, asked for {asked}")
    finite = bool(np.isfinite(draws.all()).all())
    yield Check("finite", finite, "no NaN, no infinity" if finite else "NaN or infinity among the values")


def keys(draws: Draws, declared: Declared) -> Iterator[Check]:
    again = _double(draws.one(draws.keys[0]))
    same = bool(np.array_equal(again, draws.all()[0]))
    yield Check(
        "same key, same values", same, "equal bit for bit" if same else "a second call gave other values"
    )
    names = ("other keys, other values", "keys uncorrelated")
    if draws.fixed or declared.variance == 0 or 0 in draws.shape:
        why = (
            "empty"
            if 0 in draws.shape
            else "a constant"
            if declared.variance == 0
            else "ignores its key by design"
        )
        yield from (Check(name, None, why) for name in names)
        return
    flat = draws.all().reshape(len(draws.keys), -1)
    distinct = len({row.tobytes() for row in flat})
    continuous = not is_low_precision(draws.dtype) or flat.shape[1] > 16
    enough = distinct == len(flat) or (not continuous and distinct > 1)
    detail = f"{distinct} different arrays of {len(flat)} keys"
    if not enough and np.ptp(np.real(flat)) == 0:
        detail += "; if a constant is meant, state variance=0.0"
    yield Check(names[0], enough, detail)
    yield _correlation(names[1], flat)


def _correlation(name: str, flat: np.ndarray) -> Check:
    """Between each draw and the next, entry by entry."""
    centred = flat - flat.mean()
    products = np.real(centred[1:] * centred[:-1].conj()).ravel()
    scale = float(np.sqrt((products**2).sum()))
    if scale == 0 or products.size < 30:
        return Check(name, None, f"only {products.size} pairs")
    z = float(products.sum() / scale)
    return Check(name, abs(z) <= Z_LIMIT, f"z = {z:.2f} over {products.size} pairs", z, Z_LIMIT)


def transforms(draws: Draws) -> Iterator[Check]:
    eager = draws.all()[0]
    yield _agreement("jit = eager", draws, lambda: _double(jax.jit(draws.one)(draws.keys[0])), eager)
    yield _agreement(
        "vmap over keys = loop", draws, lambda: _double(jax.vmap(draws.one)(draws.keys[:2])), draws.all()[:2]
    )
    devices = jax.device_count()
    axis = next((axis for axis, size in enumerate(draws.shape) if size and size % devices == 0), None)
    if devices < 2 or axis is None or 0 in draws.shape:
        why = "one device only" if devices < 2 else f"no axis of {draws.shape} divides over {devices} devices"
        yield Check("sharded = whole", None, "empty" if 0 in draws.shape else why)
        return
    mesh = jax.make_mesh((devices,), ("shard",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * axis, "shard"))
    yield _agreement(
        "sharded = whole",
        draws,
        lambda: _double(jax.jit(draws.one, out_shardings=sharding)(draws.keys[0])),
        eager,
    )


def _agreement(name: str, draws: Draws, compute: Callable[[], np.ndarray], expected: np.ndarray) -> Check:
    """Equal up to rounding: compilers may join a multiplication and an addition."""
    try:
        found = compute()
    except Exception as error:  # whatever a stranger's function raises is its failure, and is shown
        return Check(name, False, f"{type(error).__name__}: {error}".splitlines()[0])
    limit = 64 * float(jnp.finfo(draws.dtype).eps) if jnp.issubdtype(draws.dtype, jnp.inexact) else 0.0
    size = float(np.abs(expected).max(initial=0.0)) or 1.0
    difference = float(np.abs(found - expected).max(initial=0.0)) / size
    if is_low_precision(draws.dtype):
        limit = float(jnp.finfo(draws.dtype).eps)
    detail = (
        "equal bit for bit"
        if difference == 0
        else f"largest difference {difference:.1e} of the largest value"
    )
    return Check(name, difference <= limit, detail, difference, limit)


def moments_and_law(draws: Draws, declared: Declared) -> Iterator[Check]:
    names = ("mean", "variance", "law")
    values = draws.all().ravel()
    if values.size == 0:
        yield from (Check(name, None, "empty") for name in names)
        return
    if draws.fixed or declared.variance == 0:
        values = draws.all()[0].ravel()
        yield from _exact(
            values, declared, float(jnp.finfo(draws.dtype).eps) if not _integral(draws) else 0.0
        )
        return
    yield _mean(values, declared)
    yield _variance(values, declared)
    yield _law(values, declared)


def _integral(draws: Draws) -> bool:
    return not jnp.issubdtype(draws.dtype, jnp.inexact)


def _exact(values: np.ndarray, declared: Declared, epsilon: float) -> Iterator[Check]:
    """Mean and variance of an array that is not random."""
    size = float(np.abs(values).max()) or 1.0
    for name, found, limit in (
        ("mean", values.mean(), 4 * epsilon * size),
        ("variance", values.var(), 8 * epsilon * size**2),
    ):
        expected = getattr(declared, name)
        if expected is None:
            yield Check(name, None, "not declared")
        else:
            off = float(abs(found - expected))
            yield Check(name, off <= limit, f"{found:.6g}, declared {expected:.6g}", off, limit)
    yield Check("law", None, "not random")


def _mean(values: np.ndarray, declared: Declared) -> Check:
    if declared.mean is None:
        return Check("mean", None, "not declared")
    spread = declared.variance if declared.variance is not None else float(values.var())
    off = values.mean() - declared.mean
    z = (
        float(abs(off) / math.sqrt(spread / values.size))
        if spread > 0
        else float("inf") * (abs(off) > 0 or 0)
    )
    z = math.copysign(z, float(np.real(off)))
    detail = f"{values.mean():.6g}, declared {declared.mean:.6g}, z = {z:.2f}"
    return Check("mean", abs(z) <= Z_LIMIT, detail, z, Z_LIMIT)


def _variance(values: np.ndarray, declared: Declared) -> Check:
    if declared.variance is None:
        return Check("variance", None, "not declared")
    known = declared.mean is not None
    squares = np.abs(values - (declared.mean if known else values.mean())) ** 2
    found = float(squares.mean()) if known or values.size == 1 else float(squares.sum() / (values.size - 1))
    fourth = declared.fourth if declared.fourth is not None else float((squares**2).mean())
    spread = math.sqrt(max(fourth - declared.variance**2, 0.0) / values.size)
    spread = max(spread, 1e-6 * declared.variance)
    z = (found - declared.variance) / spread
    detail = f"{found:.6g}, declared {declared.variance:.6g}, z = {z:.2f}"
    return Check("variance", abs(z) <= Z_LIMIT, detail, z, Z_LIMIT)


def _law(values: np.ndarray, declared: Declared) -> Check:
    law = declared.law
    if law is None or np.iscomplexobj(values) or isinstance(law, Point):
        return Check("law", None, "no law of complex numbers" if np.iscomplexobj(values) else "not declared")
    points, counts = np.unique(values, return_counts=True)
    up_to = np.cumsum(counts) / values.size
    before = np.append(0.0, up_to[:-1])
    below = law.below(points) if hasattr(law, "below") else law.cdf(np.nextafter(points, -np.inf))
    distance = float(max(np.abs(up_to - law.cdf(points)).max(), np.abs(before - below).max()))
    p = kolmogorov_p_value(distance, values.size)
    detail = f"Kolmogorov-Smirnov distance {distance:.2g} over {values.size} values, p = {p:.2g}"
    return Check("law", p >= P_LIMIT, detail, p, P_LIMIT)


def kolmogorov_p_value(distance: float, n: int) -> float:
    """P(D_n >= distance) of n samples from a continuous law; an upper bound if the law has atoms."""
    t = (math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n)) * distance
    if t < 0.2:
        return 1.0
    return min(
        1.0, max(0.0, 2 * math.fsum((-1) ** (k - 1) * math.exp(-2 * (k * t) ** 2) for k in range(1, 101)))
    )


def _double(array: Any) -> np.ndarray:
    values = np.asarray(array)
    return values.astype(np.complex128 if np.iscomplexobj(values) else np.float64)
