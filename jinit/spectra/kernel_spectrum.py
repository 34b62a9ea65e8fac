"""The eigenvalues of a kernel, and its conditioning."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jinit._errors import message
from jinit._typing import Array, at_least_float32
from jinit.initializers._arguments import traced


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KernelSpectrum:
    """The eigenvalues of a kernel, and what they mean for training.

    Attributes:
      eigenvalues: in descending order, `[n]`; those that rounding made negative as they came. All are NaN if
        some entry of the kernel is not finite.

    Example:
      >>> import jax.numpy as jnp, jinit
      >>> spectrum = jinit.kernel_spectrum(jnp.diag(jnp.array([4.0, 2.0, 1.0])))
      >>> float(spectrum.condition_number), round(float(spectrum.effective_rank), 3)
      (4.0, 2.6)
    """

    eigenvalues: Array

    @property
    def condition_number(self) -> Array:
        """`κ = λ_max / λ_min`, about the steps gradient descent needs.

        Infinite if the kernel is singular to rounding, NaN if there are eigenvalues that are not finite.
        """
        largest, smallest = self.eigenvalues[..., 0], self.eigenvalues[..., -1]
        floor = self.eigenvalues.shape[-1] * jnp.finfo(self.eigenvalues.dtype).eps * largest
        some = smallest > floor
        ratio = largest / jnp.where(some, smallest, jnp.ones_like(smallest))
        ratio = jnp.where(some, ratio, jnp.full_like(ratio, jnp.inf))
        finite = jnp.all(jnp.isfinite(self.eigenvalues), axis=-1)
        return jnp.where(finite, ratio, jnp.full_like(ratio, jnp.nan))

    @property
    def effective_rank(self) -> Array:
        """`exp(−Σ p ln p)` with `p = λ / Σ λ`: n for equal eigenvalues, 1 where all examples look alike."""
        values = jnp.maximum(self.eigenvalues, jnp.zeros_like(self.eigenvalues))
        p = values / jnp.sum(values, axis=-1, keepdims=True)
        return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(p, p), axis=-1))


def kernel_spectrum(kernel: Any) -> KernelSpectrum:
    """The eigenvalues of a kernel among the same examples.

    The largest learning rate of gradient descent on `½ Σ (f − y)²` is `2 / λ_max`, and the slowest mode
    decays by `1 − η λ_min` a step.

    Args:
      kernel: `[n, n]`, or with output axes in pairs, `[n, n, k, k]`, as `jinit.neural_tangent_kernel` gives.

    Returns:
      A `KernelSpectrum` of n eigenvalues (n k with output axes).

    Raises:
      ValueError: axes are not in pairs of equal length; the kernel is not Hermitian to half the digits of its
        dtype, which sums of rounded products are (under `jax.jit`, which allows no error, the eigenvalues are
        those of its Hermitian part).

    Example:
      >>> import jax, jax.numpy as jnp, jinit
      >>> x = jax.random.normal(jax.random.key(0), (6, 20))
      >>> kernel = jinit.neural_tangent_kernel(lambda w, x: x @ w)(jnp.ones((20, 1)), x)
      >>> jinit.kernel_spectrum(kernel).eigenvalues.shape
      (6,)

    References:
      Xiao, Pennington, Schoenholz, *Disentangling trainability and generalization in deep neural networks*,
      2020.
    """
    caller = "jinit.kernel_spectrum(...)"
    kernel = jnp.asarray(kernel)
    shape = kernel.shape
    if kernel.ndim < 2 or kernel.ndim % 2 or shape[::2] != shape[1::2]:
        must = "`kernel` must have its axes in pairs, as [n, n] or [n, n, k, k]"
        raise ValueError(message(caller, must, f"shape={shape}"))
    size = math.prod(shape[::2])
    order = [*range(0, kernel.ndim, 2), *range(1, kernel.ndim, 2)]
    matrix = kernel.transpose(order).reshape(size, size)
    matrix = lax.convert_element_type(matrix, at_least_float32(matrix.dtype))
    digits = kernel.dtype if jnp.issubdtype(kernel.dtype, jnp.inexact) else matrix.dtype
    _refuse_skew(matrix, math.sqrt(float(jnp.finfo(digits).eps)), caller)
    eigenvalues = jnp.linalg.eigvalsh(matrix)[::-1]
    # Of a matrix with one NaN a decomposition gives numbers too.
    finite = jnp.all(jnp.isfinite(matrix))
    return KernelSpectrum(jnp.where(finite, eigenvalues, jnp.full_like(eigenvalues, jnp.nan)))


def _refuse_skew(matrix: Array, tolerance: float, caller: str) -> None:
    """Raise for a matrix that is not Hermitian, unless it is traced or has entries that are not finite."""
    skew = jnp.max(jnp.abs(matrix - matrix.conj().T), initial=0.0)
    size = jnp.max(jnp.abs(matrix), initial=0.0)
    if not traced(skew) and skew > tolerance * size:
        must = "`kernel` must be Hermitian to rounding, as one among the same examples is"
        got = (
            f"entries that differ by {float(skew):.3g} from those across, the largest being {float(size):.3g}"
        )
        advice = (
            "A kernel of two sets of examples has no eigenvalues. If this is rounding, take `(k + k.T) / 2`."
        )
        raise ValueError(message(caller, must, got, advice))
