"""The singular values of a linear map, exact or estimated."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jinit._errors import message
from jinit._typing import Array
from jinit.spectra.arguments import refuse_traced_verdict

ORDERS = 4  # moments E[s²], E[s⁴], E[s⁶], E[s⁸]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Spectrum:
    """The singular values `s` of a matrix with `k = min(rows, columns)` of them.

    Exact, where all singular values were computed: then every error is zero. Else estimated from products
    with random probes: then errors are standard errors over the probes, and `singular_values` is None.
    Leading axes `[...]` are examples, then steps of loops, where there are any.

    Attributes:
      singular_values: all of them, in descending order, shape `[..., k]`; None where estimated.
      largest: the largest, `[...]`. An estimate never exceeds the true value, but for rounding.
      largest_error: some singular value of the matrix lies within this distance of `largest`.
      moments: `m_j = (1/k) Σ s^{2j}` for j = 1 … 4, `[..., 4]`; infinite where float32 overflows.
      moments_error: their standard errors; infinite for a single probe.
      nodes: `[..., probes, steps]`, and
      weights: the same shape: each probe's quadrature rule `Σ weights · f(nodes) ≈ (1/k) Σ f(s)`.
      shape: `(rows, columns)` of the matrix.

    Example:
      >>> import jax.numpy as jnp, jinit
      >>> w = jnp.diag(jnp.array([3.0, 1.0]))
      >>> spectrum = jinit.jacobian_spectrum(lambda w, x: x @ w)(w, jnp.ones((1, 2)))
      >>> spectrum.singular_values.tolist(), spectrum.shape
      ([[3.0, 1.0]], (2, 2))
      >>> float(spectrum.mean_square[0]), round(float(spectrum.relative_variance[0]), 4), spectrum.verdict()
      (5.0, 0.64, 'exploding')
    """

    singular_values: Array | None
    largest: Array
    largest_error: Array
    moments: Array
    moments_error: Array
    nodes: Array
    weights: Array
    shape: tuple[int, int] = dataclasses.field(metadata={"static": True})

    @property
    def mean_square(self) -> Array:
        """`m_1`, the mean squared singular value: by how much the map scales a random vector's energy."""
        return self.moments[..., 0]

    @property
    def relative_variance(self) -> Array:
        """Variance of `s²` over the square of its mean, `m_2 / m_1² − 1`; 0 for a scaled isometry."""
        mean, square = self.moments[..., 0], self.moments[..., 1]
        return square / mean**2 - jnp.ones_like(mean)

    @property
    def condition_number(self) -> Array | None:
        """Largest over smallest singular value; None where only estimates are known."""
        return None if self.singular_values is None else self.largest / self.singular_values[..., -1]

    @property
    def isometry_gap(self) -> Array:
        """Root mean square of `s² − 1`: 0 for an isometry. With it goes `isometry_gap_error`."""
        return jnp.sqrt(jnp.maximum(self._gap_square, jnp.zeros_like(self.largest)))

    @property
    def isometry_gap_error(self) -> Array:
        """Standard error of `isometry_gap`, to first order, as if those of the moments added up."""
        error = self.moments_error[..., 1] + jnp.asarray(2, self.moments.dtype) * self.moments_error[..., 0]
        gap = self.isometry_gap
        half = jnp.asarray(0.5, gap.dtype)
        # Near zero the first order says nothing: there the root of the error is its scale.
        return jnp.where(gap * gap > error, half * error / jnp.where(gap > 0, gap, 1.0), jnp.sqrt(error))

    @property
    def _gap_square(self) -> Array:
        two, one = (jnp.asarray(x, self.moments.dtype) for x in (2.0, 1.0))
        if self.singular_values is not None:  # no difference of large numbers
            return jnp.mean((self.singular_values**2 - one) ** 2, axis=-1)
        return self.moments[..., 1] - two * self.moments[..., 0] + one

    def verdict(self, *, tolerance: float = 0.5) -> str:
        """Whether the map has dynamical isometry, on the host, in one word.

        `m_1` and the gap are those of all leading axes together.

        Args:
          tolerance: the isometry gap allowed. `m_1` may lie within a factor `(1 + tolerance)²`.

        Returns:
          `"isometric"`, `"vanishing"` (`m_1` too small), `"exploding"` (too large), `"spread"` (the mean is
          right, but some directions grow where others shrink), or `"nonfinite"`.

        Raises:
          ValueError: `tolerance` is not positive.
          TypeError: under `jax.jit` and the like, where there are no values.
        """
        refuse_traced_verdict("Spectrum.verdict(...)", self)
        if not tolerance > 0:
            caller = "Spectrum.verdict(...)"
            raise ValueError(message(caller, "`tolerance` must be positive", f"tolerance={tolerance!r}"))
        mean = float(np.mean(np.asarray(self.mean_square, np.float64)))
        gap = float(np.sqrt(np.mean(np.asarray(self.isometry_gap, np.float64) ** 2)))
        if np.isnan(mean):
            return "nonfinite"
        if mean < 1 / (1 + tolerance) ** 2:
            return "vanishing"
        if mean > (1 + tolerance) ** 2:
            return "exploding"
        return "isometric" if gap <= tolerance else "spread"

    def density(self, edges: ArrayLike) -> tuple[Array, Array]:
        """Histogram of the singular values as a density, and its standard error.

        All leading axes are pooled. The error is that over the probes, infinite for a single one, or zero
        where exact.

        Args:
          edges: ascending edges of the bins, in units of `s`, shape `[bins + 1]`.

        Returns:
          `(density, error)`, each `[bins]`: share of the singular values in each bin over its width.
        """
        edges = jnp.asarray(edges, self.nodes.dtype)
        nodes = self.nodes.reshape(-1, *self.nodes.shape[-2:])
        weights = self.weights.reshape(nodes.shape)

        def share(nodes: Array, weights: Array) -> Array:
            below = jnp.searchsorted(edges, nodes.ravel(), side="right")
            bins = jnp.zeros(edges.size + 1, edges.dtype).at[below].add(weights.ravel())
            last = jnp.sum(jnp.where(nodes == edges[-1], weights, jnp.zeros_like(weights)))
            return bins[1:-1].at[-1].add(last)

        by_probe = jnp.mean(jax.vmap(jax.vmap(share))(nodes, weights), axis=0) / jnp.diff(edges)[None]
        mean = jnp.mean(by_probe, axis=0)
        exact = self.singular_values is not None
        return mean, jnp.zeros_like(mean) if exact else standard_error(by_probe, axis=0)


def standard_error(samples: Array, axis: int) -> Array:
    """Standard error of the mean of independent samples along an axis; infinite for a single one."""
    count = samples.shape[axis]
    if count < 2:
        return jnp.full_like(jnp.mean(samples, axis=axis), jnp.inf)
    return jnp.std(samples, axis=axis, ddof=1) / jnp.sqrt(jnp.asarray(count, samples.dtype))


def moments_of(nodes: Array, weights: Array) -> Array:
    """`Σ weights · nodes^{2j}` for j = 1 … `ORDERS`, over the last axis; `[..., ORDERS]`."""
    squares = nodes**2
    powers = [squares]
    while len(powers) < ORDERS:
        powers.append(powers[-1] * squares)
    return jnp.stack([jnp.sum(weights * p, axis=-1) for p in powers], axis=-1)


def exact_spectrum(matrix: Array) -> Spectrum:
    """The spectrum of matrices `[..., rows, columns]`, by singular value decomposition."""
    values = jnp.linalg.svd(matrix, compute_uv=False)
    weights = jnp.full_like(values, 1 / max(values.shape[-1], 1))
    moments = moments_of(values, weights)
    nodes, weights = (jnp.expand_dims(x, -2) for x in (values, weights))
    largest = values[..., 0]
    shape = (matrix.shape[-2], matrix.shape[-1])
    zeros = jnp.zeros_like(moments)
    return Spectrum(values, largest, jnp.zeros_like(largest), moments, zeros, nodes, weights, shape)
