"""A product of free matrices, `Π D_l W_l`: edge, moments and density of its squared singular values.

With `m(w) = Σ p d/(w − d)`, the moment transform of the law of `d = f'²`, everything is a function of `w`:

    z(w) = (1 + m)/m · [m w · (1 or 1 + m) / (1 + m)]^L,   m(z) the moment transform of the product,

since `S_{D²}(m) = (1 + m)/(m w)`. No inverse has to be found, except that of `z(w)` for the density.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from jinit.spectra.derivative_law import DerivativeLaw

NODES = 64  # of the law of f'² for densities, where `w` stays away from the real axis
DESCENT = (
    60  # steps of the imaginary part of z from far above the axis to its own size, and as many down to 0
)


@dataclasses.dataclass(frozen=True)
class FreeProduct:
    """`J Jᵀ` of `J = (W) D_L W_L … D_1 W_1`.

    Attributes:
      slopes: law of `d`, of mean one.
      depth: L.
      gaussian: whether weights are Gaussian rather than orthogonal, of variance one.
      readout: whether one more weight comes last.
      log_scale: logarithm of a number that multiplies `J Jᵀ`.
    """

    slopes: DerivativeLaw
    depth: int
    gaussian: bool
    readout: bool
    log_scale: float

    @property
    def zero_mass(self) -> float:
        """Share of zeros: the largest of the factors', for free matrices."""
        return float(self.slopes.weights[self.slopes.values == 0].sum())

    @property
    def atom(self) -> tuple[float, float]:
        """Place and mass of the one λ > 0 that has mass of its own, which mass is 0 where there is none.

        If `d = a` with probability p, λ = a^L has mass 1 − L (1 − p), for orthogonal weights.
        """
        positive = np.where(self.slopes.values > 0, self.slopes.weights, 0.0)
        best = int(np.argmax(positive))
        place = math.exp(self.depth * math.log(self.slopes.values[best]) + self.log_scale)
        mass = 1 - self.depth * (1 - positive[best])
        return place, 0.0 if self.gaussian else max(float(mass), 0.0)

    def cdf_of_one_layer(self, points: np.ndarray) -> np.ndarray:
        """P(λ ≤ points) where `λ = d^L`: one layer of orthogonal weights, or a linear network of them."""
        places = self.slopes.values**self.depth * math.exp(self.log_scale)
        mass = np.append(0.0, np.cumsum(self.slopes.weights))
        return mass[np.searchsorted(places, points * (1 + 1e-9), side="right")]

    @property
    def _wishart(self) -> int:
        """Number of Gaussian matrices."""
        return (self.depth + self.readout) if self.gaussian else 0

    def moments(self, order: int) -> list[float]:
        """`E[λ^j]` for j = 1 … order, by power series.

        With u = 1/w: m = Σ μ_k u^k, and `1/z = m/(1 + m) · [(1 + m)/(m w)]^L (1 + m)^{−n}`, n the number of
        Gaussian matrices; `m` as a series in 1/z is what is sought.
        """
        mu = [self.slopes.moment(k) for k in range(1, order + 1)]
        m = np.array([0.0, *mu])
        one = np.eye(1, order + 1)[0]
        per_u = _shift(m)  # m / u, whose constant term is 1
        inverse = _power(per_u, -self.depth)
        rest = _power(one + m, self.depth - 1 - self._wishart)
        t = _product(_product(m, inverse), rest)  # 1/z = u + …
        found = _compose_with_inverse(m, t)
        scale = math.exp(self.log_scale) if self.log_scale < 700 else math.inf
        return [float(c) * scale**j for j, c in enumerate(found[1:], 1)]

    def edge(self) -> float:
        """Upper end of the spectrum: the least `z(w)` beyond the largest `d`."""
        top = float(self.slopes.values[-1])
        t = np.linspace(-34.0, 12.0, 185)
        logs = np.full(1, np.inf)
        for _ in range(8):
            logs = self._log_z(top * (1 + np.exp(t)))
            best = int(np.argmin(logs))
            t = np.linspace(t[max(best - 1, 0)], t[min(best + 1, t.size - 1)], 17)
        return math.exp(float(logs.min()) + self.log_scale)

    def _log_z(self, w: np.ndarray) -> np.ndarray:
        """`log z` at real `w` beyond the largest `d`; blockwise, as there are many nodes."""
        blocks = np.array_split(w, max(1, w.size * self.slopes.values.size // 500_000))
        d, p = self.slopes
        m = np.concatenate([(d / (b[:, None] - d)) @ p for b in blocks])
        return self._log_product(w, m)

    @staticmethod
    def _transform(w: np.ndarray, law: DerivativeLaw) -> tuple[np.ndarray, np.ndarray]:
        """`m(w)` and its derivative."""
        inverse = 1 / (w[:, None] - law.values)
        weighted = law.weights * law.values
        return inverse @ weighted, -(inverse**2) @ weighted

    def _log_product(self, w: np.ndarray, m: np.ndarray) -> np.ndarray:
        powers = 1 - self.depth + self._wishart
        return powers * np.log(1 + m) + (self.depth - 1) * np.log(m) + self.depth * np.log(w)

    def density(self, points: np.ndarray) -> np.ndarray:
        """Density of λ at points inside the spectrum: `−Im (1 + m)/(π z)` just above the axis.

        `z(w) = λ + iη` is followed by Newton's method from η far above the spectrum, where `z = w = 1/m`,
        down.
        """
        scale = math.exp(self.log_scale)
        targets = np.asarray(points, float) / scale
        law = _gauss(self.slopes)
        top = self.edge() / scale
        heights = np.geomspace(1e3 * top, 1.0, DESCENT)[:, None] * np.ones_like(targets)
        below = np.geomspace(1.0, 1e-7, DESCENT)[:, None] * np.minimum(targets, 1.0)
        w = targets + 1j * heights[0]
        z = w
        for height in (*heights, *below):
            z = targets + 1j * height
            for _ in range(2):
                w = self._newton(w, z, law)
        m = self._transform(w, law)[0]
        return np.maximum(-((1 + m) / z).imag / math.pi, 0.0) / scale

    def _newton(self, w: np.ndarray, z: np.ndarray, law: DerivativeLaw) -> np.ndarray:
        """One step toward `log z(w) = log z`, in `log w`, no longer than 1/2."""
        m, slope = self._transform(w, law)
        powers = 1 - self.depth + self._wishart
        derivative = powers * slope / (1 + m) + (self.depth - 1) * slope / m + self.depth / w
        error = self._log_product(w, m) - np.log(z)
        error = np.real(error) + 1j * np.angle(np.exp(1j * np.imag(error)))
        step = error / (derivative * w)
        step *= np.minimum(1.0, 0.5 / np.maximum(np.abs(step), 1e-300))
        return w * np.exp(-step)


def _gauss(law: DerivativeLaw) -> DerivativeLaw:
    """The Gauss quadrature of a law: few nodes, the same low moments, by Lanczos from `√weights`."""
    if law.values.size <= NODES:
        return law
    basis = [np.sqrt(law.weights)]
    diagonal, beside = [], []
    for _ in range(NODES):
        v = law.values * basis[-1]
        diagonal.append(float(basis[-1] @ v))
        for _ in range(2):
            v = v - np.array(basis).T @ (np.array(basis) @ v)
        beside.append(float(np.linalg.norm(v)))
        if beside[-1] < 1e-13 * law.values[-1]:
            break
        basis.append(v / beside[-1])
    size = len(diagonal)
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside[: size - 1], -1), UPLO="L")
    return DerivativeLaw(np.maximum(values, 0.0), vectors[0] ** 2)


def _shift(series: np.ndarray) -> np.ndarray:
    """A series without constant term over its variable; the last coefficient is unknown, and zero."""
    return np.append(series[1:], 0.0)


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.convolve(a, b)[: a.size]


def _power(series: np.ndarray, exponent: int) -> np.ndarray:
    """A power of a series with constant term one, by `f g' = n f' g`."""
    result = np.eye(1, series.size)[0]
    for k in range(1, series.size):
        terms = [(exponent * j - (k - j)) * series[j] * result[k - j] for j in range(1, k + 1)]
        result[k] = math.fsum(terms) / k
    return result


def _compose_with_inverse(m: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Coefficients of m in powers of t, where both are series in u and t begins with u."""
    rest, power, found = m.copy(), t.copy(), np.zeros_like(m)
    for j in range(1, m.size):
        found[j] = rest[j] / power[j]
        rest = rest - found[j] * power
        power = _product(power, t)
    return found
