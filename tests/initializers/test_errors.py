"""What is wrong is said in the words of the caller, when built if it can be known then."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit

KEY = jax.random.key(0)
NAN = float("nan")

BUILT = [
    (lambda: jinit.variance_scaling(1, "fan_inn", "normal"), "mode.*must be one of.*\nDid you mean 'fan_in'"),
    (lambda: jinit.variance_scaling(1, "fan_in", "gaussian"), r"variance_scaling\(...\)`: `distribution`"),
    (lambda: jinit.variance_scaling(-1, "fan_in", "normal"), r"`scale` must not be negative; got scale=-1"),
    (lambda: jinit.variance_scaling(NAN, "fan_in", "normal"), "`scale` must be finite; got scale=nan"),
    (lambda: jinit.variance_scaling(True, "fan_in", "normal"), "`scale` must be a real number; got scale=T"),
    (lambda: jinit.variance_scaling("2", "fan_in", "normal"), "`scale` must be a real number"),
    (lambda: jinit.variance_scaling(1j, "fan_in", "normal"), "`scale` must be a real number"),
    (lambda: jinit.variance_scaling(np.ones(2), "fan_in", "normal"), "`scale` must be a real number"),
    (lambda: jinit.variance_scaling(1, "fan_in", "normal", groups=0), "`groups` must be a whole number"),
    (lambda: jinit.he_normal(mode="fan_ot"), r"`jinit.he_normal\(...\)`: `mode`.*\n.*'fan_out'"),
    (lambda: jinit.he_normal(negative_slope=NAN), "he_normal.*`negative_slope` must be finite"),
    (lambda: jinit.he_normal(-1), r"`jinit.he_normal\(...\)`: `in_axis` and `out_axis` must be different"),
    (lambda: jinit.lecun_normal(batch_axis=(-1,)), "`out_axis` and `batch_axis` must be different"),
    (lambda: jinit.glorot_normal((0, 0)), "`in_axis` must not name an axis twice"),
    (lambda: jinit.glorot_normal("ab"), "`in_axis` must be an axis or a sequence of axes"),
    (lambda: jinit.glorot_normal(1.0), "`in_axis` must be an axis or a sequence of axes"),
    (lambda: jinit.glorot_normal(dtype="flaot32"), "`dtype` must be a dtype"),
    (lambda: jinit.fan_in_uniform(fan=0), "`fan` must be positive"),
    (lambda: jinit.normal(-1.0), "`stddev` must not be negative"),
    (lambda: jinit.normal(float("inf")), "`stddev` must be finite"),
    (lambda: jinit.normal(mean=NAN), "`mean` must be finite"),
    (lambda: jinit.uniform(-1.0), "`scale` must not be negative"),
    (lambda: jinit.uniform(minval=1.0, maxval=1.0), "`minval` must be less than `maxval`"),
    (lambda: jinit.uniform(minval=1.0), "`minval` must be less than `scale`"),
    (lambda: jinit.truncated_normal(lower=1.0, upper=-1.0), "`lower` must be less than `upper`"),
    (lambda: jinit.truncated_normal(lower=NAN), "`lower` must not be NaN"),
    (lambda: jinit.constant("a"), "`value` must be a number"),
    (lambda: jinit.constant(None), "`value` must be a number"),
    (lambda: jinit.orthogonal(-1.0), r"`jinit.orthogonal\(...\)`: `scale` must not be negative"),
    (lambda: jinit.orthogonal(preserve="variance"), "`preserve` must be one of"),
    (lambda: jinit.orthogonal(column_axis=(0, 1)), "`column_axis` must be one axis"),
    (lambda: jinit.orthogonal(batch_axis=-1), "`column_axis` and `batch_axis` must be different"),
    (lambda: jinit.delta_orthogonal(column_axis=0), "`column_axis` must be -1 or -2"),
    (lambda: jinit.identity("x"), "`scale` must be a real number"),
    (lambda: jinit.dirac(groups=1.5), "`groups` must be a whole number"),
    (lambda: jinit.sparse(), "exactly one of `sparsity` and `nonzeros`"),
    (lambda: jinit.sparse(0.5, nonzeros=3), "exactly one of `sparsity` and `nonzeros`"),
    (lambda: jinit.sparse(1.0), "`sparsity` must lie strictly between 0 and 1"),
    (lambda: jinit.sparse(15), "`sparsity` must lie strictly between 0 and 1"),
    (lambda: jinit.sparse(nonzeros=0), "`nonzeros` must be a whole number of at least 1"),
    (lambda: jinit.positive(jax.nn.initializers.normal()), "`base` must be a random initializer of jinit"),
    (lambda: jinit.positive(jinit.zeros), "`base` must be a random initializer of jinit"),
    (lambda: jinit.positive(jinit.glorot_uniform), "`base` must be a random initializer of jinit"),
    (lambda: jinit.for_activation("rellu"), r"for_activation.*: `activation`.*\nDid you mean 'relu'"),
    (lambda: jinit.for_activation("relu", "fan"), r"jinit.for_activation\(...\)`: `mode`"),
    (lambda: jinit.compute_fans((3, 4), 0, 0), "`in_axis` and `out_axis` must be different"),
]

CALLED = [
    (lambda: jinit.he_normal()(KEY, (64,)), r"he_normal.*at least two axes.*=\(64,\)\.\n.*jinit.zeros"),
    (lambda: jinit.he_normal().variance((64,)), "A bias has no fans"),
    (lambda: jinit.he_normal(in_axis=2)(KEY, (3, 4)), "`in_axis` must be an axis of `shape`"),
    (lambda: jinit.variance_scaling(1, "fan_in", "normal", out_axis=0)(KEY, (3, 4)), "in_axis=1, out_axis=0"),
    (lambda: jinit.orthogonal()(KEY, (64,)), r"rows and columns; got .*\nFor a bias use `jinit.zeros`"),
    (lambda: jinit.orthogonal(batch_axis=0)(KEY, (4, 4)), "beside batch_axis=0"),
    (lambda: jinit.delta_orthogonal()(KEY, (2, 4, 4)), "must be odd"),
    (lambda: jinit.delta_orthogonal()(KEY, (4,)), "at least two axes"),
    (lambda: jinit.identity()(KEY, (3, 4, 4)), "exactly two axes"),
    (lambda: jinit.dirac(groups=3)(KEY, (3, 4, 4)), "multiple of `groups`"),
    (lambda: jinit.sparse(nonzeros=15)(KEY, (10, 4)), "must not exceed the number of incoming weights"),
    (lambda: jinit.constant((1.0, 2.0))(KEY, (3,)), "must broadcast to `shape`"),
    (lambda: jinit.constant(1000.0)(KEY, (3,), jnp.float8_e4m3fn), "must fit into float8_e4m3fn"),
    (lambda: jinit.normal()(KEY, (-1,)), "must not have negative sizes"),
    (lambda: jinit.normal()(KEY, 5), "`shape` must be a sequence of whole numbers"),
    (lambda: jinit.normal()(KEY, (2.0,)), "`shape` must be a sequence of whole numbers"),
    (lambda: jax.jit(lambda n: jinit.normal()(KEY, (n,)))(3), "the shape must be a static argument"),
    (lambda: jinit.normal()(0, (3,)), r"`key` must be a JAX random key; got key=0\.\n.*jax.random.key\(0\)"),
    (lambda: jinit.normal()(None, (3,)), "`key` must be a JAX random key"),
    (lambda: jinit.normal()(jnp.zeros(2), (3,)), "`key` must be .*; got an array of dtype float32"),
    (lambda: jinit.normal()(jax.random.split(KEY, 3), (3,)), r"single key; .* \(3,\)\.\n.*jax.vmap"),
    (lambda: jinit.normal()(jax.random.split(jax.random.PRNGKey(0), 3), (3,)), "single key"),
    (lambda: jinit.normal()(KEY, (3,), jnp.int32), "must be a floating or complex dtype; got dtype=int32"),
    (lambda: jinit.normal()(KEY, (3,), jnp.float8_e8m0fnu), "must hold zero and negative numbers"),
    (lambda: jinit.uniform()(KEY, (3,), jnp.complex64), "must be a real floating dtype"),
    (lambda: jinit.positive(jinit.normal())(KEY, (3,), jnp.complex64), "must be a real floating dtype"),
    (lambda: jinit.check_initializer(3, (3,)), "`init` must be an initializer"),
    (lambda: jinit.check_initializer(jinit.zeros, (3,), law=3), "`law` must have a method `cdf`"),
]


@pytest.mark.parametrize(("build", "text"), BUILT)
def test_when_built(build, text):
    with pytest.raises((ValueError, TypeError), match=text) as caught:
        build()
    assert str(caught.value).startswith("`jinit.")


@pytest.mark.parametrize(("call", "text"), CALLED)
def test_when_called(call, text):
    with pytest.raises((ValueError, TypeError), match=text) as caught:
        call()
    assert str(caught.value).startswith("`jinit.")


def test_the_example_in_full():
    with pytest.raises(ValueError, match="rows") as caught:
        jinit.orthogonal()(KEY, (64,))
    assert str(caught.value) == (
        "`jinit.orthogonal(...)`: `shape` needs at least two axes, rows and columns; got shape=(64,).\n"
        "For a bias use `jinit.zeros`, for a vector `jinit.normal`."
    )


def test_a_missing_key_is_a_missing_argument():
    with pytest.raises(TypeError, match="missing"):
        jinit.normal()((3,))
