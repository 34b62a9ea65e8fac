"""What the functions of spectra are given: whole numbers, pairs of inputs, initializers, and tracers."""

from __future__ import annotations

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit

KEY = jax.random.key(0)
W, X = jnp.ones((4, 2)), jnp.ones((3, 4))


def dense(w, x):
    return x @ w


def estimated(**options):
    return jinit.jacobian_spectrum(dense, method="estimate", **options)(W, X)


def kernel(**options):
    return jinit.neural_tangent_kernel(dense, **options)(W, X)


def outputs_kernel(**options):
    return jinit.nngp_kernel(dense, **options)(W, X)


def weight(**options):
    return jinit.weight_spectrum(W[None], **options)


LAW = jinit.jacobian_law("linear", depth=2)
COUNTS = {
    "probes": (estimated, "jinit.jacobian_spectrum"),
    "steps": (estimated, "jinit.jacobian_spectrum"),
    "batch_size": (kernel, "jinit.neural_tangent_kernel"),
    "batch_size ": (outputs_kernel, "jinit.nngp_kernel"),
    "depth": (lambda depth: jinit.jacobian_law("linear", depth=depth), "jinit.jacobian_law"),
    "order": (LAW.moment, "JacobianLaw.moment"),
}
AXES = {
    "argnums": (estimated, 1),
    "trace_axes": (kernel, -1),
    "diagonal_axes": (kernel, 0),
    "trace_axes ": (outputs_kernel, 1),
    "diagonal_axes ": (outputs_kernel, 0),
    "in_axes": (weight, 1),
    "out_axes": (weight, 2),
    "batch_axes": (weight, 0),
}


def same(a, b) -> bool:
    """Whether two results are equal, leaf by leaf."""
    return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y), a, b))


def test_same_can_fail():
    assert same([X, 1], [X, 1])
    assert not same([X, 1], [X, 2])


def test_counts_are_whole_numbers_from_one_up():
    for label, (function, caller) in COUNTS.items():
        name = label.strip()
        for bad in (2.5, 2.0, "2", np.float32(2), True, np.True_, 0, -1, np.int64(0), (2,)):
            text = rf"^`{re.escape(caller)}\(...\)`: `{name}` must be a whole number.*; got {name}="
            with pytest.raises((TypeError, ValueError), match=text + re.escape(repr(bad))):
                function(**{name: bad})


@pytest.mark.slow
def test_counts_of_numpy_are_whole_numbers():
    two = np.int64(2)
    assert estimated(probes=two, steps=np.int32(2)).nodes.shape == (3, 2, 2)
    assert same(kernel(batch_size=two), kernel())
    assert same(outputs_kernel(batch_size=two), outputs_kernel())
    assert jinit.jacobian_law("linear", depth=two).largest == LAW.largest
    assert LAW.moment(two) == LAW.moment(2)


@pytest.mark.slow
def test_axes_are_whole_numbers():
    for label, (function, good) in AXES.items():
        name = label.strip()
        for bad in (1.0, "1", True, np.True_, (True,), [1.0], np.array([1.0])):
            text = f"`{name}` must be a whole number or a sequence of them; got {name}={bad!r}"
            with pytest.raises(TypeError, match=re.escape(text)):
                function(**{name: bad})
        expected = function(**{name: good})
        as_good = (np.int64(good), [np.int32(good)], np.array([good]))[len(name) % 3]
        assert same(function(**{name: as_good}), expected)


@pytest.mark.parametrize(
    "make",
    [
        jinit.neural_tangent_kernel,
        lambda f, **options: jinit.neural_tangent_kernel(f, method="implicit", **options),
        jinit.nngp_kernel,
    ],
    ids=["jacobian", "implicit", "nngp"],
)
def test_second_inputs_go_with_the_first(make):
    text = r"`x2` must have the shapes of `x1`, but for the axis of the examples; got shapes \[\(3, 3\)\] of "
    with pytest.raises(ValueError, match=text + r"`x2` for \[\(3, 4\)\] of `x1`"):
        make(dense)(W, X, X[:, :3])
    with pytest.raises(ValueError, match=r"`x2` must have the shapes of `x1`"):
        make(dense)(W, X, (X, X))
    with pytest.raises(ValueError, match=r"`x2` must hold as many examples as `x1`.*; got 2 for 3\."):
        make(dense, diagonal_axes=0)(W, X, X[:2])
    # Other shapes that the network takes do go: here means over sequences of any length, then every position.
    long, short = jax.random.normal(KEY, (2, 5, 4)), jax.random.normal(KEY, (3, 2, 4))
    pooled = make(lambda w, x: dense(w, x).mean(1))(W, long, short)
    assert np.allclose(pooled, make(dense)(W, long.mean(1), short.mean(1)), rtol=1e-4)
    each = make(dense)(W, long, short)
    assert each.shape == (2, 3, 5, 2)
    assert np.allclose(each[:, :, 4, 1], make(dense)(W, long[:, 4], short[:, 1]), rtol=1e-4)
    with pytest.raises(ValueError, match="`x2` must have the shapes of `x1`"):
        make(dense, diagonal_axes=1)(W, long, short)


def test_initializers_of_jax_and_flax_are_expected():
    key, shape = jax.random.split(KEY)[0], (48, 32)
    w = jinit.he_normal()(key, shape)
    pairs = [
        (jax.nn.initializers.he_normal(), jinit.he_normal()),
        (nn.initializers.xavier_uniform(), jinit.xavier_uniform()),
        (jax.nn.initializers.normal(0.3), jinit.normal(0.3)),
        (jax.nn.initializers.orthogonal(), jinit.orthogonal()),
        (jax.nn.initializers.zeros, jinit.zeros),
    ]
    for theirs, ours in pairs:
        found = jinit.weight_spectrum(w, expected=theirs)
        assert float(found.expected_variance) == pytest.approx(ours.variance(shape), rel=1e-6)
    assert jinit.weight_spectrum(w, expected=jax.nn.initializers.he_normal()).verdict() == "random"
    assert jinit.weight_spectrum(w, expected=jax.nn.initializers.lecun_normal()).verdict() == "rescaled"


def test_initializers_without_a_law_are_refused():
    for made in (jinit.he_normal, jax.nn.initializers.he_normal, lambda key, shape, dtype: jnp.ones(shape)):
        text = r"`expected` must be a variance, or an initializer whose variance is known; got expected=<func"
        with pytest.raises(TypeError, match=text + r"(.|\n)*Call the maker: `jinit.he_normal\(\)`"):
            jinit.weight_spectrum(W, expected=made)
    with pytest.raises(TypeError, match="`expected` must be a real number; got expected='he'"):
        jinit.weight_spectrum(W, expected="he")


@pytest.mark.slow
def test_verdicts_are_for_concrete_values():
    def weights(w):
        return jinit.weight_spectrum(w)

    def jacobian(w):
        return jinit.jacobian_spectrum(dense)(w, X)

    for spectrum, caller in ((weights, "WeightSpectrum"), (jacobian, "Spectrum")):
        text = rf"^`{caller}.verdict\(.*\)`: the spectrum must have concrete values(.|\n)*outside of it"
        for transformed, w in ((jax.jit, W), (jax.vmap, W[None])):
            with pytest.raises(TypeError, match=text):
                transformed(lambda w, spectrum=spectrum: spectrum(w).verdict() and w)(w)
        assert jax.jit(spectrum)(W).verdict() == spectrum(W).verdict()


@pytest.mark.slow
def test_kernels_that_are_not_finite_have_no_condition():
    for bad in (
        jnp.full((3, 3), jnp.nan),
        jnp.eye(3).at[1, 1].set(jnp.nan),
        jnp.eye(3).at[0, 0].set(jnp.inf),
    ):
        found = jinit.kernel_spectrum(bad)
        assert np.isnan(found.eigenvalues).all()
        assert np.isnan(found.condition_number)
        assert np.isnan(found.effective_rank)
    assert np.isnan(jinit.KernelSpectrum(jnp.array([1.0, jnp.nan, 1.0])).condition_number)
    assert np.isinf(jinit.kernel_spectrum(jnp.ones((3, 3))).condition_number)
    assert np.isinf(jinit.kernel_spectrum(jnp.zeros((3, 3))).condition_number)
    assert jinit.kernel_spectrum(jnp.diag(jnp.array([4.0, 2.0]))).condition_number == 2


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.complex64])
def test_kernels_are_hermitian(dtype):
    a = jax.random.normal(KEY, (6, 9), dtype)
    gram = a @ a.conj().T
    noise = gram * (1 + 4 * float(jnp.finfo(dtype).eps) * jax.random.uniform(KEY, (6, 6)).astype(dtype))
    assert (noise != noise.conj().T).any()
    assert jinit.kernel_spectrum(noise).eigenvalues.shape == (6,)
    skewed = gram.at[0, 1].add(0.3 * gram[0, 0])
    text = r"^`jinit.kernel_spectrum\(...\)`: `kernel` must be Hermitian(.|\n)*entries that differ by"
    with pytest.raises(ValueError, match=text):
        jinit.kernel_spectrum(skewed)
    assert jax.jit(jinit.kernel_spectrum)(skewed).eigenvalues.shape == (6,)
    if dtype == jnp.complex64:  # symmetric, not Hermitian
        with pytest.raises(ValueError, match=text):
            jinit.kernel_spectrum(a @ a.T)


def test_kernels_with_output_axes_are_hermitian():
    x = jax.random.normal(KEY, (4, 3))
    both = jinit.nngp_kernel(lambda w, x: x, trace_axes=())
    assert jinit.kernel_spectrum(both(W, x)).eigenvalues.shape == (12,)
    with pytest.raises(ValueError, match="must be Hermitian"):
        jinit.kernel_spectrum(both(W, x, x[::-1]))


@pytest.mark.slow
def test_kernels_of_rounded_networks_are_symmetric():
    """Sides that are computed otherwise round otherwise: one that is pulled back, one that is pushed."""
    model = nn.Sequential(
        [nn.Dense(32, param_dtype=jnp.bfloat16), nn.tanh, nn.Dense(2, param_dtype=jnp.bfloat16)]
    )
    x = jax.random.normal(KEY, (5, 8), jnp.bfloat16)
    params = model.init(KEY, x)
    of = jinit.neural_tangent_kernel(model.apply, method="implicit", trace_axes=())
    found, sides = of(params, x), of(params, x, x)
    assert (sides != sides.transpose(1, 0, 3, 2)).any()
    assert (found == found.transpose(1, 0, 3, 2)).all()
    assert np.allclose(found, sides, atol=2**-6 * float(sides.max()))
    assert jinit.kernel_spectrum(found).eigenvalues.shape == (10,)


def layers(**options):
    return jinit.layer_spectra(dense, **options)(W, X)


@pytest.mark.parametrize("call", [estimated, layers, kernel, outputs_kernel])
@pytest.mark.parametrize(
    ("output", "text"),
    [
        (3, "got output=3.\nSuch as `lambda out: out[3]`."),
        ("logits", "got output='logits'.\nSuch as `lambda out: out['logits']`."),
        (
            lambda a, b: a,
            "got a function of (a, b).\nCalled with the outputs it raises: missing a required argument",
        ),
    ],
)
def test_output_is_a_function_of_the_outputs(call, output, text):
    with pytest.raises(TypeError, match=re.escape(text)) as raised:
        call(output=output)
    assert "`output` must be a function of the outputs" in str(raised.value)


def test_numpy_has_no_derivative():
    with pytest.raises(TypeError, match="`activation` must be made of JAX's functions"):
        jinit.jacobian_law(np.tanh, depth=2)


def test_one_probe_tells_no_error():
    """Which was NaN, and of a density zero."""
    one = estimated(probes=1)
    assert np.isinf(one.moments_error).all()
    assert np.isinf(one.isometry_gap_error).all()
    assert np.isinf(one.density([0.0, 10.0])[1]).all()
    assert np.isfinite(estimated(probes=2).moments_error).all()
