"""What the arrays look like: orthogonality, identities as maps, exact counts, fans."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit

KEY = jax.random.key(2)
ROUNDING = 64 * np.finfo(np.float32).eps


@pytest.mark.parametrize(
    ("shape", "column_axis", "batch_axis"),
    [
        ((3, 16, 8), -1, 0),
        ((3, 8, 16), -1, 0),
        ((16, 3, 8), 0, 1),
        ((2, 4, 3, 5, 6), -1, (0, 2)),
        ((2, 4, 3, 5, 6), 1, (2, 0)),
        ((4, 5, 9, 3), 2, -1),
    ],
)
def test_orthogonal_with_batch_axes(shape, column_axis, batch_axis):
    dtype = jnp.complex64 if column_axis == 0 else jnp.float32
    w = np.asarray(jinit.orthogonal(0.5, column_axis, batch_axis=batch_axis)(KEY, shape, dtype))
    batch = (batch_axis,) if isinstance(batch_axis, int) else batch_axis
    batch, column = [axis % len(shape) for axis in batch], column_axis % len(shape)
    rest = [axis for axis in range(len(shape)) if axis not in (*batch, column)]
    sizes = math.prod(shape[axis] for axis in batch), -1, shape[column]
    matrices = np.transpose(w, [*batch, *rest, column]).reshape(sizes)
    singular = np.linalg.svd(matrices, compute_uv=False)
    np.testing.assert_allclose(singular, 0.5, atol=ROUNDING)
    assert len({matrix.tobytes() for matrix in matrices}) == len(matrices)


def test_orthogonal_in_low_precision():
    w = jinit.orthogonal()(KEY, (64, 64), jnp.bfloat16).astype(jnp.float32)
    error = np.asarray(w.T @ w) - np.eye(64)
    # a diagonal entry is off by the sum of 2 w^2 e over 64 weights, e of deviation up to 2^-8 / sqrt(12)
    assert np.abs(error).max() < 5 * 2 * math.sqrt(3 / 64) * 2**-8 / math.sqrt(12)


@pytest.mark.parametrize("shape", [(32, 128), (128, 32), (64, 64)])
def test_orthogonal_keeps_the_second_moment(shape):
    """Exactly, when averaged over the inputs: the mean square of the outputs is |W|_F^2 / n_out."""
    w = np.asarray(jinit.orthogonal(preserve="second_moment")(KEY, shape))
    assert (w**2).sum() / shape[1] == pytest.approx(1.0, rel=1e-5)
    w = np.asarray(jinit.orthogonal()(KEY, shape))
    assert (w**2).sum() / shape[1] == pytest.approx(min(1.0, shape[0] / shape[1]), rel=1e-5)


@pytest.mark.parametrize(
    "shape", [(8, 12), (1, 8, 12), (5, 8, 8), (3, 3, 8, 12), (3, 1, 5, 8, 8), (3, 12, 8)]
)
def test_delta_orthogonal(shape):
    w = np.asarray(jinit.delta_orthogonal(2.0)(KEY, shape))
    centre = w[tuple(size // 2 for size in shape[:-2])]
    np.testing.assert_allclose(np.linalg.svd(centre, compute_uv=False), 2.0, atol=2 * ROUNDING)
    assert (w**2).sum() == pytest.approx((centre**2).sum())


def convolve(x, kernel, groups=1):
    spatial = "HWD"[: kernel.ndim - 2]
    numbers = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    return jax.lax.conv_general_dilated(
        x, kernel, (1,) * len(spatial), "SAME", dimension_numbers=numbers, feature_group_count=groups
    )


@pytest.mark.parametrize(
    ("shape", "groups"), [((3, 4, 4), 1), ((2, 3, 4, 4), 1), ((4, 1, 4), 4), ((3, 3, 2, 4), 2)]
)
@pytest.mark.slow
def test_dirac_passes_its_input_on(shape, groups):
    x = jax.random.normal(KEY, (2, *[7] * (len(shape) - 2), 4))
    kernel = jinit.dirac(3.0, groups=groups)(KEY, shape)
    np.testing.assert_array_equal(convolve(x, kernel, groups), 3 * x)


def test_identity():
    w = jinit.identity(2.0, batch_axis=(0, -1))(None, (2, 4, 5, 3), jnp.bfloat16)
    for layer, head in np.ndindex(2, 3):
        np.testing.assert_array_equal(w[layer, :, :, head].astype(jnp.float32), 2 * np.eye(4, 5))


@pytest.mark.parametrize(
    ("init", "shape", "incoming", "kept"),
    [
        (jinit.sparse(nonzeros=15), (100, 30), 0, 15),
        (jinit.sparse(0.75), (100, 30), 0, 25),
        (jinit.sparse(0.99), (7, 30), 0, 1),
        (jinit.sparse(nonzeros=5), (3, 3, 8, 30), (0, 1, 2), 5),
        (jinit.sparse(nonzeros=3, in_axis=1, out_axis=0, batch_axis=2), (6, 20, 4), 1, 3),
    ],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.slow
def test_sparse_counts(init, shape, incoming, kept, dtype):
    drawn = np.asarray(init(KEY, shape, dtype)) != 0
    assert set(drawn.sum(axis=incoming).ravel().tolist()) == {kept}
    assert (
        drawn.any(axis=tuple(set(range(len(shape))) - {incoming} if isinstance(incoming, int) else {3})).sum()
        > 1
    )


def test_sparse_places_are_uniform():
    drawn = np.asarray(jinit.sparse(nonzeros=5)(KEY, (20, 4000))) != 0
    counts = drawn.sum(axis=1)  # each of 20 places is taken by a quarter of 4000 units, binomial
    assert np.abs((counts - 1000) / math.sqrt(4000 * 0.25 * 0.75)).max() < 5


@pytest.mark.parametrize(
    ("shape", "axes", "fans"),
    [
        ((3, 4), (), (3, 4)),
        ((3, 3, 8, 16), (), (72, 144)),
        ((512, 8, 64), (0, (1, 2)), (512, 512)),
        ((8, 64, 512), ((0, 1), -1), (512, 512)),
        ((12, 256, 512), (-2, -1, 0), (256, 512)),
        ((5, 7), (1, 0), (7, 5)),
        ((5,), ((), 0), (1, 5)),
        ((0, 4), (), (0, 4)),
    ],
)
def test_fans(shape, axes, fans):
    assert jinit.compute_fans(shape, *axes) == fans
