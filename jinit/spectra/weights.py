"""The singular values of a weight, against those of independent entries."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jinit._errors import message
from jinit._typing import Array, at_least_float32
from jinit.initializers import _arguments as arguments
from jinit.initializers._arguments import Axes
from jinit.plans.laws import known
from jinit.spectra import marchenko_pastur
from jinit.spectra.arguments import refuse_traced_verdict, whole_numbers


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WeightSpectrum:
    """The singular values `s` of a weight as a matrix, inputs by outputs, and how they lie against the law.

    Leading axes `[...]` are those of `batch_axes`: one spectrum for each independent kernel.

    Attributes:
      singular_values: in descending order, `[..., k]`, k the smaller side.
      variance: mean square of the entries, `[...]`.
      kurtosis: mean fourth power of the entries over the square of that: 3 for normal ones.
      expected_variance: that of the law compared with: as declared, else `variance` again.
      distance: Kolmogorov-Smirnov distance of `s²` from Marchenko and Pastur's law of that variance.
      distance_bound: what `distance` stays below for independent entries; a bound far under that for
        independent samples, as singular values repel one another.
      lower_edge: where the bulk begins, `σ |√rows − √columns|`.
      upper_edge: where it ends, `σ (√rows + √columns)`.
      outliers: number of singular values above the upper edge by more than Tracy-Widom fluctuations.
      stragglers: number below the lower edge by more than that; none is told for square matrices.
      largest_p_value: probability that independent entries give so large a largest singular value.
      unevenness: largest of `|s / rms(s) − 1|`, near 0 for an orthogonal weight.
      tolerance: of `unevenness`, from the dtype of the weight and the size of the matrix.
      shape: `(rows, columns)` of the matrix.

    Example:
      >>> import jax, jinit
      >>> w = jinit.lecun_normal()(jax.random.key(0), (100, 300))
      >>> spectrum = jinit.weight_spectrum(w)
      >>> spectrum.verdict(), spectrum.singular_values.shape, int(spectrum.outliers)
      ('random', (100,), 0)
    """

    singular_values: Array
    variance: Array
    kurtosis: Array
    expected_variance: Array
    distance: Array
    distance_bound: float = dataclasses.field(metadata={"static": True})
    lower_edge: Array
    upper_edge: Array
    outliers: Array
    stragglers: Array
    largest_p_value: Array
    unevenness: Array
    tolerance: float = dataclasses.field(metadata={"static": True})
    shape: tuple[int, int] = dataclasses.field(metadata={"static": True})

    def verdict(self) -> Any:
        """What each kernel is, on the host, in one word; an array of words where there are batch axes.

        `"nonfinite"`; `"zero"`; `"vector"` (one singular value tells nothing); `"rescaled"` (the mean square
        is off the declared one by more than five standard errors, by the entries' own fourth moment);
        `"orthogonal"` (all singular values equal to rounding); `"outliers"` (some beyond the bulk's edges);
        `"random"` (the bulk is that of independent entries of the expected variance); `"other"`.

        Raises:
          TypeError: under `jax.jit` and the like, where there are no values.
        """
        refuse_traced_verdict("WeightSpectrum.verdict()", self)
        found = {f.name: np.asarray(getattr(self, f.name)) for f in dataclasses.fields(self)}
        beyond = found["outliers"] + found["stragglers"] > 0
        fits = found["distance"] <= self.distance_bound
        error = 5 * np.sqrt(np.maximum(found["kurtosis"] - 1, 2) / math.prod(self.shape)) + self.tolerance
        off = np.abs(found["variance"] - found["expected_variance"]) > error * found["expected_variance"]
        conditions = {
            "nonfinite": ~np.isfinite(found["variance"]),
            "zero": found["variance"] == 0,
            "vector": np.full(beyond.shape, min(self.shape) == 1),
            "rescaled": off,
            "orthogonal": found["unevenness"] <= self.tolerance,
            "outliers": beyond,
            "random": fits,
        }
        words = np.select(list(conditions.values()), list(conditions), "other")
        return str(words) if words.ndim == 0 else words


def weight_spectrum(
    weight: Any,
    *,
    in_axes: Axes = -2,
    out_axes: Axes = -1,
    batch_axes: Axes = (),
    expected: Any = None,
    significance: float = 1e-4,
) -> WeightSpectrum:
    """The singular values of a weight: the random or orthogonal matrix that its initializer promises?

    The array becomes a matrix, inputs by outputs. Axes in no role are the receptive field of a convolution
    and go with the inputs, as they do in the fan. For independent entries of variance σ², `s²` follows
    Marchenko and Pastur's law: none lies outside `σ (√rows ∓ √columns)` by more than Tracy-Widom
    fluctuations, of the order of `rows^{-2/3}` of it. What training adds stands out beyond the edge.

    Args:
      weight: an array with two axes or more.
      in_axes: the axis or axes of the inputs, as `in_axes` of `jinit.audit`'s `WeightUse`.
      out_axes: the axis or axes of the outputs.
      batch_axes: the axis or axes of independent kernels: scanned layers, experts.
      expected: the mean square of an entry, or an initializer, whose own is taken; those of JAX and Flax
        count as those of jinit of the same name. A mean that is not zero is one outlier, `√(rows columns)`
        times as large, and so are single entries far larger than all others. None compares with the
        weight's own mean square, so that only the form of the spectrum counts.
      significance: probability that a matrix of independent entries shows an outlier.

    Returns:
      A `WeightSpectrum`; under `jax.jit` too, but for its verdict.

    Raises:
      ValueError: an axis is not there or is in two roles; `weight` has less than two axes or is empty;
        `significance` is not between 0 and 1; `expected` is negative.
      TypeError: `expected` is neither a number nor an initializer whose variance is known; axes are no whole
        numbers.

    Example:
      >>> import jax, jinit
      >>> w = jinit.orthogonal(batch_axis=0)(jax.random.key(0), (3, 64, 64))
      >>> jinit.weight_spectrum(w, batch_axes=0).verdict().tolist()
      ['orthogonal', 'orthogonal', 'orthogonal']
      >>> k = jinit.he_normal()(jax.random.key(0), (3, 3, 32, 64))
      >>> jinit.weight_spectrum(k, expected=jinit.he_normal()).verdict()
      'random'
      >>> jinit.weight_spectrum(k, expected=jinit.lecun_normal()).verdict()
      'rescaled'

    References:
      Marchenko and Pastur, *Distribution of eigenvalues for some sets of random matrices*, 1967; Johnstone,
      *On the distribution of the largest eigenvalue in principal components analysis*, 2001; Martin and
      Mahoney, *Implicit self-regularization in deep neural networks*, 2021, for trained weights. The distance
      bound, `(1 + ln k)/k`, or `(3 + ln k)/k` with a declared variance, has the rate of Götze and Tikhomirov,
      *The rate of convergence of spectra of sample covariance matrices*, 2010; its constants are set by
      simulation.
    """
    caller = "jinit.weight_spectrum(...)"
    weight = jnp.asarray(weight)
    matrix = _as_matrix(caller, weight, in_axes, out_axes, batch_axes)
    if not 0 < significance < 1:
        must = "`significance` must lie between 0 and 1"
        raise ValueError(message(caller, must, f"{significance=}"))
    declared = _expected(caller, expected, weight.shape)
    beta = 2 if jnp.iscomplexobj(weight) else 1
    reach = marchenko_pastur.edge_quantile(significance, beta)
    tolerance = _tolerance(weight.dtype, min(matrix.shape[-2:]))
    return _compare(matrix, declared, beta, reach, tolerance)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _compare(
    matrix: Array, declared: float | None, beta: int, reach: float, tolerance: float
) -> WeightSpectrum:
    rows, columns = matrix.shape[-2:]
    k = min(rows, columns)
    values = jnp.linalg.svd(matrix, compute_uv=False)
    squares = values**2
    variance = jnp.sum(squares, axis=-1) / (rows * columns)
    law = variance if declared is None else jnp.full_like(variance, declared)
    unit = squares / jnp.where(law > 0, law, jnp.ones_like(law))[..., None]
    (centre, scale), (low, low_scale) = (
        of(rows, columns) for of in (marchenko_pastur.largest_square, marchenko_pastur.smallest_square)
    )
    lower, upper = marchenko_pastur.edges(rows, columns)
    deviation = jnp.sqrt(law)
    rms = jnp.sqrt(jnp.mean(squares, axis=-1, keepdims=True))
    return WeightSpectrum(
        singular_values=values,
        variance=variance,
        kurtosis=jnp.mean(jnp.abs(matrix) ** 4, axis=(-2, -1)) / jnp.where(variance > 0, variance, 1) ** 2,
        expected_variance=law,
        distance=_distance(unit, rows, columns),
        distance_bound=((1 if declared is None else 3) + math.log(k)) / k,
        lower_edge=deviation * lower,
        upper_edge=deviation * upper,
        outliers=jnp.sum(unit > centre + reach * scale, axis=-1),
        stragglers=jnp.sum(unit < low - reach * low_scale, axis=-1),
        largest_p_value=marchenko_pastur.beyond_edge((unit[..., 0] - centre) / scale, beta),
        unevenness=jnp.max(jnp.abs(values / jnp.where(rms > 0, rms, jnp.ones_like(rms)) - 1), axis=-1),
        tolerance=tolerance,
        shape=(rows, columns),
    )


def _as_matrix(caller: str, weight: Array, in_axes: Axes, out_axes: Axes, batch_axes: Axes) -> Array:
    """`[batch..., inputs, outputs]`, in at least single precision."""
    if weight.ndim < 2 or 0 in weight.shape:
        must = "`weight` needs at least two axes, none of them empty"
        raise ValueError(message(caller, must, f"shape={weight.shape}", "A vector has no spectrum."))
    roles = {"in_axes": in_axes, "out_axes": out_axes, "batch_axes": batch_axes}
    roles = {name: whole_numbers(caller, name, value) for name, value in roles.items()}
    roles = {name: arguments.axes(caller, name, value) for name, value in roles.items()}
    placed = arguments.positions(caller, weight.shape, **roles)
    ins, outs, batch = (placed[name] for name in ("in_axes", "out_axes", "batch_axes"))
    field = [i for i in range(weight.ndim) if i not in (*ins, *outs, *batch)]
    moved = weight.transpose([*batch, *field, *ins, *outs])
    columns = math.prod(weight.shape[i] for i in outs)
    shape = [*(weight.shape[i] for i in batch), -1, columns]
    return moved.reshape(shape).astype(at_least_float32(weight.dtype))


def _expected(caller: str, expected: Any, shape: tuple[int, ...]) -> float | None:
    """The mean square of an entry: as given, or that which an initializer gives an array of this shape."""
    if expected is None:
        return None
    init = known(expected) or expected
    if callable(getattr(init, "variance", None)):
        mean = init.mean(shape) if callable(getattr(init, "mean", None)) else 0.0
        expected = init.variance(shape) + abs(mean) ** 2
    elif callable(expected):
        must = "`expected` must be a variance, or an initializer whose variance is known"
        advice = (
            "Call the maker: `jinit.he_normal()`, not `jinit.he_normal`; or pass the variance as a number."
        )
        raise TypeError(message(caller, must, f"expected={expected!r}", advice))
    return arguments.number(caller, "expected", expected, minimum=0.0)


def _distance(unit: Array, rows: int, columns: int) -> Array:
    """Kolmogorov-Smirnov distance of squared singular values, descending, from the law of unit variance."""
    k = unit.shape[-1]
    below = marchenko_pastur.cdf(unit, rows, columns)
    steps = jnp.broadcast_to(jnp.arange(k, 0, -1, dtype=unit.dtype) / k, unit.shape)
    return jnp.max(jnp.maximum(jnp.abs(below - steps), jnp.abs(below - steps + 1 / k)), axis=-1)


def _tolerance(dtype: Any, size: int) -> float:
    """What rounding the entries of an orthogonal matrix does to its singular values, and a decomposition.

    A decomposition by Jacobi rotations, as on a GPU, errs by one to three roundings for each singular value.
    """
    if not jnp.issubdtype(dtype, jnp.inexact):
        return 0.0
    eps = float(jnp.finfo(dtype).eps)
    return max(64, 4 * size) * eps if jnp.finfo(dtype).bits >= 32 else 4 * eps
