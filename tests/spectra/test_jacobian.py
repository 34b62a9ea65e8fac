"""`jacobian_spectrum`: against Jacobians and decompositions by other means, and where there is none."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import jinit

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)
EPS = float(jnp.finfo(jnp.float32).eps)


def oracle(apply, params, x, index=None) -> np.ndarray:
    """Singular values by `jax.jacobian` and NumPy in double precision; of one example, or of the whole."""
    x = x if index is None else x[index : index + 1]
    jacobian = np.asarray(jax.jacobian(apply, 1)(params, x), np.float64)
    return np.linalg.svd(jacobian.reshape(-1, x.size), compute_uv=False)


def close(found, expected, eps=EPS) -> bool:
    """Equal up to rounding, of which the largest singular value sets the scale."""
    expected = np.asarray(expected)
    room = 64 * eps * expected.shape[-1] ** 0.5 * expected.max()
    return bool(np.abs(np.asarray(found, np.float64) - expected).max() <= room)


def test_close_can_fail():
    assert not close([1.0, 0.501], [1.0, 0.5])


def dense(widths, f=nn.relu):
    kernel_init = jinit.he_normal()
    layers = [layer for n in widths for layer in (nn.Dense(n, kernel_init=kernel_init), f)]
    return nn.Sequential(layers[:-1])


def looped(params, x):
    return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params)[0]


def conv():
    return nn.Sequential(
        [nn.Conv(4, (3, 3), strides=2), nn.gelu, lambda x: x.reshape(len(x), -1), nn.Dense(5)]
    )


CASES = {
    "convolution": (conv(), (2, 6, 6, 2)),
}


@pytest.mark.parametrize("name", CASES)
def test_linen(name):
    model, shape = CASES[name]
    x = jax.random.normal(KEY, shape)
    params = model.init(KEY, x)
    spectrum = jinit.jacobian_spectrum(model.apply)(params, x)
    assert spectrum.singular_values is not None
    for i in range(shape[0]):
        assert close(spectrum.singular_values[i], oracle(model.apply, params, x, i))
    whole = jinit.jacobian_spectrum(model.apply, per_example=False)(params, x)
    assert close(whole.singular_values, oracle(model.apply, params, x))
    assert close(np.sort(np.ravel(spectrum.singular_values))[::-1], whole.singular_values)


def test_nnx_scan_and_single_vectors():
    x = jax.random.normal(KEY, (2, 5))
    apply, state = jinit.functional(nnx.Linear(5, 4, rngs=nnx.Rngs(0)))
    kernel = np.asarray(jax.tree.leaves(state)[-1])
    kernel = kernel if kernel.ndim == 2 else np.asarray(jax.tree.leaves(state)[0])
    found = jinit.jacobian_spectrum(apply)(state, x).singular_values
    assert close(found, np.broadcast_to(np.linalg.svd(kernel, compute_uv=False), (2, 4)))
    params = jax.random.normal(KEY, (6, 5, 5))
    assert close(jinit.jacobian_spectrum(looped)(params, x).singular_values[1], oracle(looped, params, x, 1))
    assert close(jinit.jacobian_spectrum(looped)(params, x[0]).singular_values, oracle(looped, params, x[0]))


def test_transformations():
    params, x = jax.random.normal(KEY, (3, 5, 5)), jax.random.normal(KEY, (4, 5))
    spectrum = jinit.jacobian_spectrum(looped)
    plain = spectrum(params, x)
    assert close(jax.jit(spectrum)(params, x).singular_values, plain.singular_values)
    mapped = jax.vmap(lambda one: spectrum(params, one))(x)
    assert mapped.shape == (5, 5)
    assert close(mapped.singular_values, plain.singular_values)
    gradient = jax.grad(lambda p: spectrum(p, x).mean_square.sum())(params)
    assert np.isfinite(gradient).all()


def test_several_inputs_and_outputs():
    def apply(params, a, b):
        return {"y": a["v"] @ params + 2 * b, "n": jnp.arange(3), "z": 3 * a["v"]}

    a, b = {"v": jnp.ones((2, 4)), "ids": jnp.arange(2)}, jnp.ones((2, 4))
    params = jnp.eye(4)

    def of(**options):
        return np.asarray(jinit.jacobian_spectrum(apply, **options)(params, a, b).singular_values)

    assert np.allclose(of(output=lambda o: o["y"]), 1.0)
    assert np.allclose(of(output=lambda o: o["y"], argnums=2), 2.0)
    assert np.allclose(of(output=lambda o: o["y"], argnums=(1, 2)), 5**0.5)
    assert np.allclose(of(output=lambda o: [o["y"], o["z"]]), 10**0.5)
    # An output without examples: one Jacobian of all.
    assert of(output=lambda o: o["y"].sum()).shape == (1,)


def test_masks_go_with_their_examples():
    mask = jnp.array([[1.0, 0.0], [2.0, 3.0]])
    found = jinit.jacobian_spectrum(lambda p, x, m: p * x * m)(jnp.ones(()), jnp.ones((2, 2)), mask)
    assert np.allclose(found.singular_values, [[1, 0], [3, 2]])


def test_complex_and_low_precision():
    w = jax.random.normal(KEY, (3, 3), jnp.complex64)
    found = jinit.jacobian_spectrum(lambda w, x: x @ w)(w, jnp.ones((1, 3), jnp.complex64))
    twice = np.repeat(np.linalg.svd(np.asarray(w), compute_uv=False), 2)
    assert close(found.singular_values[0], twice)
    assert np.allclose(jinit.jacobian_spectrum(lambda w, x: jnp.conj(x) * w)(w[:1], w[1:2]).shape, (6, 6))
    half = jax.random.normal(KEY, (8, 8), jnp.bfloat16)
    found = jinit.jacobian_spectrum(lambda w, x: x @ w)(half, jnp.ones((1, 8), jnp.bfloat16))
    assert found.singular_values.dtype == jnp.float32
    assert close(found.singular_values[0], np.linalg.svd(np.asarray(half, np.float64), compute_uv=False))
    with jax.enable_x64(True):
        double = jinit.jacobian_spectrum(lambda w, x: x @ w)(jnp.eye(3) * 1.1, jnp.ones((1, 3)))
        assert double.singular_values.dtype == jnp.float64


@jax.custom_vjp
def halved(x):
    return x


halved.defvjp(lambda x: (x, None), lambda _, g: (g / 2,))


def repeated(w, x):
    return lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] @ w), (0, x))[1]


@pytest.mark.parametrize(("apply", "power"), [(lambda w, x: halved(x @ w)[..., :3], None), (repeated, 3)])
def test_where_one_direction_is_closed(apply, power):
    w, x = jax.random.normal(KEY, (4, 4)), jax.random.normal(KEY, (1, 4))
    matrix = np.asarray(w[:, :3] / 2 if power is None else np.linalg.matrix_power(np.asarray(w), power))
    found = jinit.jacobian_spectrum(apply, per_example=False)(w, x)
    assert close(found.singular_values, np.linalg.svd(matrix, compute_uv=False))
    if power is None:
        estimate = jinit.jacobian_spectrum(apply, method="estimate", steps=3, per_example=False)(w, x)
        assert close(estimate.nodes[0], np.linalg.svd(matrix, compute_uv=False))


WIDTH = 48


def heavy():
    model = dense([WIDTH] * 8)
    x = jax.random.normal(KEY, (2, WIDTH))
    return model.apply, model.init(jax.random.key(1), x), x


def test_estimates_lie_within_their_errors():
    apply, params, x = heavy()
    exact = jinit.jacobian_spectrum(apply)(params, x)
    estimate = jinit.jacobian_spectrum(apply, method="estimate", probes=24, steps=24)(params, x)
    assert estimate.singular_values is None
    assert estimate.condition_number is None
    off = np.abs(np.asarray(estimate.moments - exact.moments))
    assert (off <= 5 * np.asarray(estimate.moments_error)).all()
    assert (np.asarray(estimate.moments_error) < 0.5 * np.asarray(exact.moments)).all()
    room = 64 * EPS * np.asarray(exact.largest)
    assert (np.asarray(estimate.largest) <= np.asarray(exact.largest) + room).all()
    nearest = np.abs(np.asarray(exact.singular_values) - np.asarray(estimate.largest)[:, None]).min(1)
    assert (nearest <= np.asarray(estimate.largest_error) + room).all()
    gap = np.abs(np.asarray(estimate.isometry_gap - exact.isometry_gap))
    assert (gap <= 5 * np.asarray(estimate.isometry_gap_error)).all()
    edges = jnp.linspace(0.0, float(exact.largest.max()), 6)
    (density, error), (truth, none) = estimate.density(edges), exact.density(edges)
    assert np.isclose(float(jnp.sum(truth * jnp.diff(edges))), 1.0, atol=1e-5)
    # A node stands for several singular values: beside its error, mass may lie one bin off.
    below = np.abs(np.cumsum(density - truth) * float(edges[1]))
    assert (below <= 5 * np.sqrt(np.sum(np.square(error * edges[1]))) + 1 / 24).all()
    assert not none.any()


def test_all_steps_give_all_singular_values():
    w = jax.random.normal(KEY, (6, 4))
    found = jinit.jacobian_spectrum(lambda w, x: x @ w, method="estimate", steps=99)(w, jnp.ones((1, 6)))
    assert found.nodes.shape == (1, 8, 4)
    expected = np.linalg.svd(np.asarray(w, np.float64), compute_uv=False)
    assert close(found.nodes[0], np.broadcast_to(expected, (8, 4)), 16 * EPS)
    assert np.allclose(np.sum(found.weights, -1), 1.0, atol=1e-5)
    low_rank = w.at[:, 2:].set(0)
    found = jinit.jacobian_spectrum(lambda w, x: x @ w, method="estimate")(low_rank, jnp.ones((1, 6)))
    assert close(found.largest, np.linalg.svd(np.asarray(low_rank), compute_uv=False)[:1], 16 * EPS)


@pytest.mark.parametrize(
    ("factor", "spread", "word"),
    [(1.0, 0.01, "isometric"), (0.5, 0.0, "vanishing"), (3.0, 0.0, "exploding"), (0.9, 1.5, "spread")],
)
def test_verdict(factor, spread, word):
    s = factor * jnp.exp(spread * jnp.linspace(-1.0, 0.6, 20))
    found = jinit.jacobian_spectrum(lambda w, x: x * w[None])(s, jnp.ones((2, 20)))
    assert found.verdict() == word
    assert np.allclose(found.isometry_gap, np.sqrt(np.mean((np.asarray(s) ** 2 - 1) ** 2)), rtol=1e-4)


def test_nonfinite_is_told():
    found = jinit.jacobian_spectrum(lambda w, x: x * w[None])(jnp.array([jnp.nan, 1.0]), jnp.ones((1, 2)))
    assert found.verdict() == "nonfinite"
    with pytest.raises(ValueError, match="`tolerance` must be positive; got tolerance=0"):
        found.verdict(tolerance=0)


def test_mixed_examples_are_refused():
    def apply(p, x):
        return (x - jnp.mean(x, axis=0, keepdims=True)) * p

    p, x = jnp.ones(()), jax.random.normal(KEY, (3, 4))
    with pytest.raises(
        ValueError, match=r"own inputs alone; got an `apply` that mixes(.|\n)*per_example=False"
    ):
        jinit.jacobian_spectrum(apply)(p, x)
    assert np.isnan(jax.jit(jinit.jacobian_spectrum(apply))(p, x).singular_values).all()
    whole = jinit.jacobian_spectrum(apply, per_example=False)(p, x)
    assert close(whole.singular_values, oracle(apply, p, x))
    model = nn.BatchNorm(use_running_average=False)
    variables = model.init(KEY, x)
    with pytest.raises(ValueError, match="mixes examples"):
        jinit.jacobian_spectrum(lambda v, x: model.apply(v, x, mutable=["batch_stats"])[0])(variables, x)


def test_dropout_does_not_count_as_mixing():
    model = nn.Dropout(0.5, deterministic=False)
    x = jnp.ones((3, 20))
    found = jinit.jacobian_spectrum(model.apply)(
        {"params": {"unused": jnp.ones(1)}}, x, rngs={"dropout": KEY}
    )
    assert set(np.unique(found.singular_values)) == {0.0, 2.0}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"argnums": 0}, "must name inputs"),
        ({"argnums": (1, 1)}, "each once"),
        ({"argnums": 3}, "must be arguments of the call"),
        ({"method": "svd"}, "`method` must be one of 'auto', 'exact', 'estimate'"),
        ({"probes": 0}, "`probes` must be a whole number of at least 1"),
        ({"output": lambda y: ()}, "must have a floating output"),
        ({"output": lambda y: y.sum(), "per_example": True}, "first axes hold as many examples"),
    ],
)
def test_errors(options, text):
    with pytest.raises(ValueError, match=text):
        jinit.jacobian_spectrum(lambda w, x: x @ w, **options)(jnp.eye(3), jnp.ones((2, 3)))


def test_tokens_and_modules_are_refused_with_advice():
    with pytest.raises(ValueError, match=r"must be floating; got dtypes \['int32'\](.|\n)*layer_spectra"):
        jinit.jacobian_spectrum(lambda w, x: w[x])(jnp.eye(3), jnp.array([[0, 1]]))
    with pytest.raises(TypeError, match=r"Pass `model.apply`"):
        jinit.jacobian_spectrum(nn.Dense(3))
