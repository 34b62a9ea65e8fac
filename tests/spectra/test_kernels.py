"""Tangent kernels against whole Jacobians contracted in NumPy; their spectra against closed forms."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jinit

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)
METHODS = [
    ("jacobian", None),
    pytest.param("implicit", 3, marks=pytest.mark.slow),
    pytest.param("jacobian", 2, marks=pytest.mark.slow),
    pytest.param("implicit", None, marks=pytest.mark.slow),
]


def setting():
    model = nn.Sequential([nn.Dense(9), nn.tanh, nn.Dense(3)])
    x = jax.random.normal(KEY, (5, 4))
    return model, model.init(jax.random.key(1), x), x


def full(apply, params, x) -> np.ndarray:
    """Θ of all outputs, `[n, k, n, k]`, in double precision."""
    jacobian = jax.tree.leaves(jax.jacobian(apply)(params, x))
    size = jacobian[0].shape[:2]
    flat = np.concatenate([np.asarray(j, np.float64).reshape(*size, -1) for j in jacobian], -1)
    return np.einsum("acp,bdp->acbd", flat, flat)


def close(found, expected) -> bool:
    return np.shape(found) == expected.shape and bool(
        np.allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    )


def test_close_can_fail():
    assert not close(np.eye(2) * 1.001, np.eye(2))


@pytest.mark.parametrize(("method", "batch_size"), METHODS)
def test_axes(method, batch_size):
    model, params, x = setting()
    theta = full(model.apply, params, x)

    def of(*x, **axes):
        kernel = jinit.neural_tangent_kernel(model.apply, method=method, batch_size=batch_size, **axes)
        return kernel(params, *x)

    assert close(of(x), np.einsum("acbc->ab", theta) / 3)
    assert close(of(x, x[:2]), np.einsum("acbc->ab", theta)[:, :2] / 3)
    assert close(of(x, trace_axes=()), np.einsum("acbd->abcd", theta))
    assert close(of(x, trace_axes=(), diagonal_axes=-1), np.einsum("acbc->abc", theta))
    assert close(of(x, diagonal_axes=0), np.einsum("acac->a", theta) / 3)
    assert close(of(x, trace_axes=(), diagonal_axes=(0, 1)), np.einsum("acac->ac", theta))


def test_positions():
    model = nn.Dense(2)
    x = jax.random.normal(KEY, (3, 4, 5))
    params = model.init(KEY, x)
    gram = np.einsum("aip,bjp->abij", x, x) + 1  # kernel and bias
    assert close(jinit.neural_tangent_kernel(model.apply)(params, x), gram)
    assert close(jinit.neural_tangent_kernel(model.apply, method="implicit")(params, x), gram)
    both = jinit.neural_tangent_kernel(model.apply, trace_axes=(1, 2))(params, x)
    assert close(both, np.einsum("abii->ab", gram) / 4)


def test_nnx_jit_scalars_several_inputs_and_choice_of_parameters():
    apply, state = jinit.functional(nnx.Linear(4, 2, rngs=nnx.Rngs(0)))
    x = jax.random.normal(KEY, (3, 4))
    gram = np.asarray(x @ x.T)
    assert close(jax.jit(jinit.neural_tangent_kernel(apply))(state, x), gram + 1)
    only = jinit.neural_tangent_kernel(apply, where=lambda path: path.endswith("kernel"))
    assert close(only(state, x), gram)
    scalar = jinit.neural_tangent_kernel(lambda w, x: (x @ w)[:, 0])(jnp.ones((4, 1)), x)
    assert close(scalar, gram)
    two = jinit.neural_tangent_kernel(lambda w, x, y: w[None] * x * y)(jnp.ones(4), (x, 2 * x))
    assert close(two, np.einsum("ac,bc->ab", 2 * x**2, 2 * x**2) / 4)
    picked = jinit.neural_tangent_kernel(lambda w, x: {"y": x @ w, "x": x}, output=lambda o: o["y"])
    assert close(picked(jnp.ones((4, 2)), x), gram)


def test_statistics_are_no_parameters():
    model = nn.BatchNorm(use_running_average=True)
    x = jax.random.normal(KEY, (3, 4))
    variables = model.init(KEY, x)
    scale = np.asarray(x) / (1 + 1e-5) ** 0.5
    expected = np.einsum("ac,bc->ab", scale, scale) / 4 + 1
    assert close(jinit.neural_tangent_kernel(model.apply)(variables, x), expected)


def test_wide_network_agrees_with_theory():
    """One ReLU layer, unit-variance weights, outputs over √width, two inputs at a right angle, |x|² = n.

    Jacot et al. 2018: `Θ(x, x')/n → E[σ(u) σ(u')] + (x·x'/n) E[σ'(u) σ'(u')]`, `u, u'` standard normal.
    """
    width, n = 512, 8
    keys = jax.random.split(KEY, 3)
    x = jnp.eye(n)[:2] * n**0.5

    def one(key):
        k = jax.random.split(key, 2)
        p = {"a": jax.random.normal(k[0], (n, width)), "b": jax.random.normal(k[1], (width, 1))}
        return jinit.neural_tangent_kernel(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"] / width**0.5)(p, x)

    found = np.mean([one(k) for k in keys], 0) / n
    # Equal inputs: 1/2 + 1/2. At a right angle: E[σ(u)]² = 1/(2π), and nothing.
    expected = np.array([[1.0, 1 / (2 * np.pi)], [1 / (2 * np.pi), 1.0]])
    # Each entry is a mean over 3·512 units, of standard deviation √3 and less.
    assert (np.abs(found - expected) < 5 * 2 / np.sqrt(3 * width)).all()


def test_nngp_kernel():
    model, params, x = setting()
    y = np.asarray(model.apply(params, x), np.float64)
    assert close(jinit.nngp_kernel(model.apply)(params, x), y @ y.T / 3)
    assert close(jinit.nngp_kernel(model.apply, batch_size=2)(params, x, x[1:]), y @ y[1:].T / 3)
    assert close(jinit.nngp_kernel(model.apply, trace_axes=())(params, x), np.einsum("ac,bd->abcd", y, y))
    assert close(jinit.nngp_kernel(model.apply, diagonal_axes=0)(params, x), (y * y).sum(1) / 3)


def test_kernel_spectrum():
    model, params, x = setting()
    theta = full(model.apply, params, x)
    kernel = jinit.neural_tangent_kernel(model.apply, trace_axes=())(params, x)
    expected = np.linalg.eigvalsh(theta.reshape(15, 15))[::-1]
    assert close(jinit.kernel_spectrum(kernel).eigenvalues, expected)
    assert np.isclose(jinit.kernel_spectrum(jnp.eye(7)).effective_rank, 7, rtol=1e-5)
    assert np.isinf(jinit.kernel_spectrum(jnp.ones((3, 3))).condition_number)
    assert np.isclose(jinit.kernel_spectrum(jnp.ones((3, 3))).effective_rank, 1, rtol=1e-4)
    with pytest.raises(ValueError, match="axes in pairs"):
        jinit.kernel_spectrum(jnp.ones((3, 2)))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"trace_axes": 2}, "`trace_axes` must be axes of the outputs"),
        ({"diagonal_axes": -1}, "must differ"),
        ({"trace_axes": 0}, "no trace is taken over examples"),
        ({"method": "ntvp"}, "`method` must be one of 'jacobian', 'implicit'"),
        ({"batch_size": 0}, "`batch_size` must be a whole number of at least 1"),
        ({"where": lambda path: False}, "0 of 1 parameters"),
        ({"output": lambda y: [y, y]}, "one real output"),
    ],
)
def test_errors(options, text):
    with pytest.raises(ValueError, match=text):
        jinit.neural_tangent_kernel(lambda w, x: x @ w, **options)(jnp.ones((4, 2)), jnp.ones((3, 4)))


def test_complex_is_refused():
    w = jnp.ones((2, 2), jnp.complex64)
    with pytest.raises(ValueError, match="some complex"):
        jinit.neural_tangent_kernel(lambda w, x: jnp.abs(x @ w))(w, jnp.ones((1, 2), jnp.complex64))


@pytest.mark.parametrize("kernel", [jinit.neural_tangent_kernel, jinit.nngp_kernel])
def test_examples_must_be_there(kernel):
    of = kernel(lambda params, x: x @ params["w"])
    params = {"w": jnp.ones((4, 2)), "kind": "linear"}  # what is no array is held
    assert of(params, jnp.ones((3, 4))).shape == (3, 3)
    for x1, x2, text in [
        (jnp.ones((0, 4)), None, r"`x1` must hold examples, at least one.*\(0, 4\)"),
        (jnp.ones(()), None, r"`x1` must hold examples"),
        (jnp.ones((3, 4)), (jnp.ones((2, 4)), jnp.ones((3, 4))), r"`x2` must hold examples.*first axis"),
    ]:
        with pytest.raises(ValueError, match=text):
            of(params, x1, x2)
