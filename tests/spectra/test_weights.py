"""`weight_spectrum`: laws of random matrices, what stands out of them, and the verdict."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

import jinit
from jinit.plans.audit import audit
from jinit.spectra import marchenko_pastur

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)


@pytest.mark.parametrize(("rows", "columns"), [(50, 50), (30, 120), (120, 30), (2, 500)])
def test_cdf_integrates_the_density(rows, columns):
    c = min(rows, columns) / max(rows, columns)
    a, b = (1 - c**0.5) ** 2, (1 + c**0.5) ** 2

    def density(x):
        return math.sqrt(max((b - x) * (x - a), 0)) / (2 * math.pi * c * x)

    for t in (0.1, 0.5, 0.9):
        x = a + t * (b - a)
        expected = integrate.quad(density, a, x, limit=200)[0]
        found = marchenko_pastur.cdf(jnp.array([x * max(rows, columns)]), rows, columns)
        assert np.isclose(found[0], expected, atol=2e-4)
    ends = marchenko_pastur.cdf(jnp.array([0.0, 10.0 * max(rows, columns)]), rows, columns)
    assert np.allclose(ends, [0, 1], atol=1e-3)


def test_tracy_widom_quantiles():
    """Tables of Tracy and Widom's law (Bejan 2005; Chiani 2014): upper 5 % and 1 %."""
    expected = {1: {0.05: 0.9793, 0.01: 2.0234}, 2: {0.05: -0.2325, 0.01: 0.4776}}
    for beta, table in expected.items():
        for probability, quantile in table.items():
            assert abs(marchenko_pastur.edge_quantile(probability, beta) - quantile) < 0.02
            found = marchenko_pastur.beyond_edge(jnp.array(quantile), beta)
            assert abs(float(found) / probability - 1) < 0.02


SLOWER = [pytest.param(shape, marks=pytest.mark.slow) for shape in ((3, 60), (60, 60))]
SHAPES = [(4, 4), (48, 16), *SLOWER]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("init", [jinit.normal(0.3), jinit.glorot_uniform()], ids=["normal", "uniform"])
def test_independent_entries_are_random(shape, init):
    """Of 100 kernels none is off in form; the bound is a bound, yet not empty."""
    w = jax.vmap(lambda k: init(k, shape))(jax.random.split(KEY, 100))
    for expected in (None, init.variance(shape)):
        found = jinit.weight_spectrum(w, batch_axes=0, expected=expected)
        assert (found.distance <= found.distance_bound).all()
        assert set(found.verdict()) == {"random"}
    found = jinit.weight_spectrum(w, batch_axes=0)
    assert float(found.distance.max()) > found.distance_bound / 6
    # P-values of Tracy and Widom lean to the safe side for matrices this small; under 1 % in 100 are a few.
    assert int((found.largest_p_value < 0.01).sum()) <= stats.binom.isf(1e-6, 100, 0.01)


@pytest.mark.parametrize("shape", [(60, 60), (30, 120), (120, 30)])
def test_a_spike_is_an_outlier(shape):
    w = jax.random.normal(KEY, shape)
    u, v = jnp.ones((shape[0], 1)), jnp.ones((1, shape[1]))
    spike = w + 3.0 / min(shape) ** 0.5 * u @ v
    found = jinit.weight_spectrum(spike, expected=1.0)
    assert int(found.outliers) == 1
    assert float(found.largest_p_value) < 1e-4
    assert float(found.singular_values[1]) < 1.05 * float(found.upper_edge)
    assert jinit.weight_spectrum(spike).verdict() == "outliers"


def test_forms():
    def verdict(w, **options):
        return jinit.weight_spectrum(w, **options).verdict()

    w = jax.random.normal(KEY, (64, 32))
    assert verdict(jnp.zeros((4, 4))) == "zero"
    assert verdict(w.at[0, 0].set(jnp.nan)) == "nonfinite"
    assert verdict(w[:, :1]) == "vector"
    assert verdict(w * jnp.where(jnp.arange(64) < 6, 1.0, 0.0)[:, None]) in ("other", "outliers")
    assert verdict(w, expected=1.5) == "rescaled"
    assert verdict(jinit.orthogonal()(KEY, (64, 32)), expected=1.0) == "rescaled"
    assert verdict(jnp.tile(jnp.eye(4), (4, 4))) in ("other", "outliers")
    assert verdict(jnp.diag(jnp.linspace(0.9, 1.1, 40))) == "other"
    assert int(jinit.weight_spectrum(w.at[:, 1].set(w[:, 0])).stragglers) == 1


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_orthogonal_kernels_are_recognised(dtype):
    for shape in ((3, 3, 8, 24), (40, 40)):
        w = jinit.orthogonal(2.0)(KEY, shape, dtype)
        found = jinit.weight_spectrum(w, expected=jinit.orthogonal(2.0))
        assert found.verdict() == "orthogonal"
        assert np.allclose(found.singular_values, 2.0, rtol=4 * float(jnp.finfo(dtype).eps) + 1e-4)
        assert jinit.weight_spectrum(w + 0.2 * jax.random.normal(KEY, shape, dtype)).verdict() != "orthogonal"


def test_room_for_a_decomposition_that_rounds_more():
    """Jacobi's, as on a GPU, is off by some roundings for each singular value."""
    for errors, told in ((3, True), (20, False)):
        off = errors * 64 * float(jnp.finfo(jnp.float32).eps) * jnp.linspace(-1, 1, 64)
        assert (jinit.weight_spectrum(jnp.diag(1 + off)).verdict() == "orthogonal") == told


def test_axes():
    q = jax.random.normal(KEY, (12, 4, 5))  # inputs, heads, head dimension
    expected = np.linalg.svd(np.asarray(q).reshape(12, 20), compute_uv=False)
    found = jinit.weight_spectrum(q, in_axes=0, out_axes=(1, 2))
    assert found.shape == (12, 20)
    assert np.allclose(found.singular_values, expected, rtol=1e-4)
    out = jinit.weight_spectrum(q.transpose(1, 2, 0), in_axes=(0, 1), out_axes=2)
    assert out.shape == (20, 12)
    assert np.allclose(out.singular_values, expected, rtol=1e-4)
    conv = jax.random.normal(KEY, (3, 3, 4, 6))
    assert jinit.weight_spectrum(conv).shape == (36, 6)
    stacked = jinit.weight_spectrum(jax.random.normal(KEY, (2, 7, 3, 5)), batch_axes=(0, 2), in_axes=1)
    assert stacked.singular_values.shape == (2, 3, 5)
    assert np.shape(stacked.verdict()) == (2, 3)


def test_axes_from_an_audit():
    def apply(params, x):
        return jnp.einsum("bd,hdk->bhk", x, params["w"])

    params = {"w": jax.random.normal(KEY, (3, 10, 4))}
    (use,) = audit(apply)(params, jnp.ones((2, 10)))
    found = jinit.weight_spectrum(
        params["w"], in_axes=use.in_axes, out_axes=use.out_axes, batch_axes=use.batch_axes
    )
    assert found.shape == (10, 12)


def test_complex_jit_and_nothing_random():
    w = jax.random.normal(KEY, (40, 40), jnp.complex64)
    found = jax.jit(jinit.weight_spectrum)(w)
    assert found.verdict() == "random"
    assert np.isclose(found.variance, np.mean(np.abs(np.asarray(w)) ** 2), rtol=1e-5)


@pytest.mark.parametrize(
    ("weight", "options", "text"),
    [
        (jnp.ones(3), {}, "at least two axes"),
        (jnp.ones((0, 3)), {}, "none of them empty"),
        (jnp.ones((2, 3)), {"in_axes": 5}, "in_axes"),
        (jnp.ones((2, 3)), {"in_axes": 1}, "must be different axes"),
        (jnp.ones((2, 3)), {"significance": 1.0}, "`significance` must lie between 0 and 1"),
        (jnp.ones((2, 3)), {"expected": -1.0}, "`expected` must not be negative"),
    ],
)
def test_errors(weight, options, text):
    with pytest.raises(ValueError, match=text):
        jinit.weight_spectrum(weight, **options)


@pytest.mark.parametrize("init", [jinit.uniform(0.1), jinit.constant(0.1), jinit.sparse(0.9)])
def test_draws_of_an_initializer_are_not_rescaled(init):
    """A mean counts in the mean square, and heavy tails in its standard error."""
    kernels = [init(jax.random.key(k), (40, 300)) for k in range(10)]
    words = {jinit.weight_spectrum(kernel, expected=init).verdict() for kernel in kernels}
    assert "rescaled" not in words
    assert jinit.weight_spectrum(2 * kernels[0], expected=init).verdict() == "rescaled"
