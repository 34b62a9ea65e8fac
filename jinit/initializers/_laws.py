"""Laws of one entry: distribution function and moments, exact, on the host in float64."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np


class Law:
    """A distribution on the real line.

    `cdf(x)` is P(X <= x), `below(x)` is P(X < x), `moment(k, about)` is E[(X - about)^k] for k = 1 to 4.
    """

    def cdf(self, x: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def below(self, x: np.ndarray) -> np.ndarray:
        return self.cdf(x)

    def moment(self, k: int, about: float = 0.0) -> float:
        raise NotImplementedError

    def folded(self) -> Law:
        """The law of |X|."""
        raise NotImplementedError

    @property
    def mean(self) -> float:
        return self.moment(1)

    @property
    def variance(self) -> float:
        return self.moment(2, self.mean)


@dataclasses.dataclass(frozen=True)
class Point(Law):
    """X = value."""

    value: float

    def cdf(self, x):
        return (np.asarray(x) >= self.value) * 1.0

    def below(self, x):
        return (np.asarray(x) > self.value) * 1.0

    def moment(self, k, about=0.0):
        return (self.value - about) ** k

    def folded(self):
        return Point(abs(self.value))


@dataclasses.dataclass(frozen=True)
class Uniform(Law):
    """Uniform between `low` and `high`."""

    low: float
    high: float

    def cdf(self, x):
        return np.clip((np.asarray(x, np.float64) - self.low) / (self.high - self.low), 0.0, 1.0)

    def moment(self, k, about=0.0):
        centre, half = (self.low + self.high) / 2 - about, (self.high - self.low) / 2
        even = (math.comb(k, j) * centre ** (k - j) * half**j / (j + 1) for j in range(0, k + 1, 2))
        return math.fsum(even)

    def folded(self):
        if self.low >= 0 or self.high <= 0:
            return Uniform(*sorted((abs(self.low), abs(self.high))))
        share = self.high / (self.high - self.low)
        return Mixture(((share, Uniform(0.0, self.high)), (1 - share, Uniform(0.0, -self.low))))


@dataclasses.dataclass(frozen=True)
class Normal(Law):
    """N(mu, sigma^2)."""

    mu: float
    sigma: float

    def cdf(self, x):
        return normal_cdf((np.asarray(x, np.float64) - self.mu) / self.sigma)

    def moment(self, k, about=0.0):
        shift, s2 = self.mu - about, self.sigma**2
        return (shift, shift**2 + s2, shift**3 + 3 * shift * s2, shift**4 + 6 * shift**2 * s2 + 3 * s2**2)[
            k - 1
        ]

    def folded(self):
        return TruncatedNormal(self.mu, self.sigma, -math.inf, math.inf).folded()


@dataclasses.dataclass(frozen=True)
class TruncatedNormal(Law):
    """mu + sigma z, z standard normal given lower < z < upper."""

    mu: float
    sigma: float
    lower: float
    upper: float

    @property
    def mass(self) -> float:
        """P(lower < z < upper)."""
        return float(_normal_mass(self.lower, np.asarray(self.upper)))

    def cdf(self, x):
        z = np.clip((np.asarray(x, np.float64) - self.mu) / self.sigma, self.lower, self.upper)
        return np.clip(_normal_mass(self.lower, z) / self.mass, 0.0, 1.0)

    def moment(self, k, about=0.0):
        nodes, weights = _truncated_nodes(self.lower, self.upper)
        return float(weights @ (self.mu - about + self.sigma * nodes) ** k)

    def folded(self):
        zero = -self.mu / self.sigma
        positive = TruncatedNormal(self.mu, self.sigma, max(self.lower, zero), self.upper)
        negative = TruncatedNormal(-self.mu, self.sigma, max(-self.upper, -zero), -self.lower)
        parts = [part for part in (positive, negative) if part.lower < part.upper and part.mass > 0]
        total = sum(part.mass for part in parts)
        return parts[0] if len(parts) == 1 else Mixture(tuple((part.mass / total, part) for part in parts))


@dataclasses.dataclass(frozen=True)
class Mixture(Law):
    """Law i with probability p_i."""

    parts: tuple[tuple[float, Law], ...]

    def cdf(self, x):
        return sum((p * law.cdf(x) for p, law in self.parts), np.zeros(np.shape(x)))

    def below(self, x):
        return sum((p * law.below(x) for p, law in self.parts), np.zeros(np.shape(x)))

    def moment(self, k, about=0.0):
        return math.fsum(p * law.moment(k, about) for p, law in self.parts)

    def folded(self):
        return Mixture(tuple((p, law.folded()) for p, law in self.parts))


@dataclasses.dataclass(frozen=True)
class Sphere(Law):
    """A coordinate of a uniform point of the sphere of this radius in R^dimension, or its absolute value."""

    dimension: int
    radius: float
    absolute: bool = False

    def cdf(self, x):
        angle = np.arcsin(np.clip(np.asarray(x, np.float64) / self.radius, -1.0, 1.0))
        if self.dimension == 1:
            half = np.sign(angle) * (np.abs(angle) >= np.pi / 2)
        else:
            half = np.sign(angle) * _cap(self.dimension, np.abs(angle))
        return np.maximum(half, 0.0) * (angle >= 0) if self.absolute else 0.5 * (1 + half)

    def below(self, x):
        before = np.nextafter(np.asarray(x, np.float64), -np.inf)
        return self.cdf(before if self.dimension == 1 else x)

    def moment(self, k, about=0.0):
        return math.fsum(math.comb(k, j) * self._raw(j) * (-about) ** (k - j) for j in range(k + 1))

    def folded(self):
        return dataclasses.replace(self, absolute=True)

    def _raw(self, k):
        if k % 2 and not self.absolute:
            return 0.0
        d, log = self.dimension, math.lgamma
        if k in (0, 2):
            return 1.0 if k == 0 else self.radius**2 / d
        size = log(d / 2) + log((k + 1) / 2) - log(0.5) - log((d + k) / 2)
        return self.radius**k * math.exp(size)


def _cap(dimension: int, angle: np.ndarray) -> np.ndarray:
    """P(|X| <= sin(angle)) on the unit sphere: the integral of cos^(dimension - 2), panel by panel."""
    power = dimension - 2
    reach = min(np.pi / 2, 40 / math.sqrt(power + 1))  # beyond, the cosine to this power is nothing
    points, sizes = np.polynomial.legendre.leggauss(12)
    edges = np.linspace(0.0, reach, 129)

    def integral(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        half = (high - low)[..., None] / 2
        return (half * sizes * np.cos(low[..., None] + half * (1 + points)) ** power).sum(axis=-1)

    whole = np.append(0.0, np.cumsum(integral(edges[:-1], edges[1:])))
    angle = np.minimum(angle, reach)
    panel = np.minimum((angle / reach * 128).astype(int), 127)
    return np.minimum((whole[panel] + integral(edges[panel], angle)) / whole[-1], 1.0)


class Rounded(Law):
    """The law of X rounded to the nearest number of a small dtype, saturating at its largest.

    Args:
      law: the law of X.
      dtype: a floating dtype of at most 16 bits; all its numbers are listed.
      positive: round what would become zero up to the smallest number kept, as `jinit.positive` does.
    """

    def __init__(self, law: Law, dtype: Any, positive: float | None = None):
        values = all_values(dtype)
        if positive is not None:
            values = values[values >= positive]
        edges = law.cdf((values[1:] + values[:-1]) / 2)
        self.values, self.table = values, np.append(edges, 1.0)
        self.probabilities = np.diff(self.table, prepend=0.0)

    def cdf(self, x):
        return self._at(np.searchsorted(self.values, np.asarray(x, np.float64), side="right"))

    def below(self, x):
        return self._at(np.searchsorted(self.values, np.asarray(x, np.float64), side="left"))

    def moment(self, k, about=0.0):
        return float(self.probabilities @ (self.values - about) ** k)

    def _at(self, place):
        return np.append(0.0, self.table)[place]


@functools.lru_cache(maxsize=16)
def all_values(dtype: Any) -> np.ndarray:
    """Every finite number of a dtype of at most 16 bits, in order."""
    size = jnp.dtype(dtype).itemsize
    patterns = np.arange(2 ** (8 * size)).astype(np.uint8 if size == 1 else np.uint16)
    if jnp.finfo(dtype).bits < 8:
        patterns = patterns[: 2 ** int(jnp.finfo(dtype).bits)]
    with np.errstate(invalid="ignore"):  # among the patterns are signalling NaNs
        values = patterns.view(dtype).astype(np.float64)
    return np.unique(values[np.isfinite(values)])


def normal_cdf(z: np.ndarray) -> np.ndarray:
    """P(N(0, 1) <= z)."""
    return 0.5 * _erfc(-np.asarray(z, np.float64) / math.sqrt(2))


_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _normal_mass(lower: float, z: np.ndarray) -> np.ndarray:
    """P(lower < N(0, 1) < z), taken from the tail that keeps the digits."""
    if lower > 0:
        return normal_cdf(np.asarray(-lower)) - normal_cdf(-z)
    return normal_cdf(z) - normal_cdf(np.asarray(lower))


@functools.lru_cache(maxsize=64)
def _truncated_nodes(lower: float, upper: float) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre panels over the part of (lower, upper) that carries weight, weights summing to one.

    Weights are relative to the largest density in the interval, so far tails lose no digits.
    """
    peak = min(max(0.0, lower), upper)
    reach = math.sqrt(peak**2 + 1490.0) - abs(peak)
    low, high = max(lower, peak - reach), min(upper, peak + reach)
    edges = np.linspace(low, high, 129)
    points, sizes = np.polynomial.legendre.leggauss(20)
    half = np.diff(edges)[:, None] / 2
    nodes = (edges[:-1, None] + half * (1 + points)).ravel()
    weights = (half * sizes).ravel() * np.exp(-(nodes - peak) * (nodes + peak) / 2)
    return nodes, weights / weights.sum()
