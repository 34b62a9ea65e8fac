"""Drawing: true fans, layouts, keys by path, stacks, dtypes, initializers of others."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit.plans.draw import draw, keys_of

from .drawing import KEY, close, drawn, leaf_key, name, same, user_init
from .uses import kernel, other

PLAIN = [
    jinit.he_normal(),
    jinit.uniform(minval=-1.0),
    jinit.orthogonal(0.5),
    jinit.sparse(nonzeros=3),
    jinit.positive(jinit.lecun_uniform()),
    jinit.constant(0.5),
    jax.nn.initializers.glorot_uniform(),
    user_init,
]


@pytest.mark.parametrize("init", PLAIN, ids=name)
def test_where_the_stored_layout_is_plain_it_is_the_initializer_itself(init):
    for shape in ((8, 4), (3, 3, 8, 4))[: 1 + (init is PLAIN[0])]:
        use = kernel(
            "params/a/kernel", shape, fan_in=math.prod(shape[:-1]), fan_out=math.prod(shape) / shape[-2]
        )
        close(drawn(init, use), init(leaf_key("params/a/kernel"), shape, jnp.float32))


def test_true_fans_are_used_and_not_those_of_the_shape():
    use = kernel("w", (4, 4, 64, 64), fan_in=256.5, fan_out=64.0)
    weights = np.asarray(drawn(jinit.variance_scaling(1.0, "fan_in", "normal"), use), np.float64)
    assert abs(weights.var() * 256.5 - 1) < 5 * math.sqrt(2 / weights.size)
    bad = jinit.variance_scaling(1.0, "fan_in", "normal")(KEY, use.shape)
    assert abs(np.asarray(bad).var() * 256.5 - 1) > 0.5


def test_axes_of_the_maker_give_way_to_those_of_the_use():
    use = kernel("w", (4, 8, 16), in_axes=(2,), out_axes=(0, 1))
    for axes in ((), (0, 1), (2, (0, 1))):
        same(drawn(jinit.he_normal(*axes), use), drawn(jinit.he_normal(), use))
    same(drawn(jinit.orthogonal(column_axis=1, batch_axis=0), use), drawn(jinit.orthogonal(), use))


# name, shape, in_axes, out_axes, batch_axes; then an einsum from w to matrices [batch, in, out]
LAYOUTS = [
    ("dense", (8, 6), (0,), (1,), ()),
    ("transposed", (6, 8), (1,), (0,), ()),
    ("heads out", (8, 3, 4), (0,), (1, 2), ()),
    ("heads in", (3, 4, 8), (0, 1), (2,), ()),
    ("experts", (5, 8, 6), (1,), (2,), (0,)),
    ("experts last", (8, 6, 5), (0,), (1,), (2,)),
    ("mixed", (2, 6, 3, 8), (3, 0), (1,), (2,)),
    ("no outputs", (8,), (0,), (), ()),
]


def matrices(weights, in_axes, out_axes, batch_axes):
    w = np.transpose(np.asarray(weights, np.float64), (*batch_axes, *in_axes, *out_axes))
    sizes = [math.prod(weights.shape[axis] for axis in axes) for axes in (batch_axes, in_axes, out_axes)]
    return w.reshape(sizes)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout[0])
@pytest.mark.parametrize(
    "init",
    [
        pytest.param(jinit.orthogonal(), id="jinit"),
        pytest.param(jax.nn.initializers.orthogonal(), id="jax", marks=pytest.mark.slow),
    ],
)
def test_orthogonal_in_any_layout(init, layout):
    _, shape, *axes = layout
    use = kernel("w", shape, in_axes=axes[0], out_axes=axes[1], batch_axes=axes[2])
    found = matrices(drawn(init, use), *axes)
    for matrix in found:
        small = matrix if matrix.shape[0] < matrix.shape[1] else matrix.T
        np.testing.assert_allclose(small @ small.T, np.eye(len(small)), atol=1e-5)
    assert len(found) == len({matrix.tobytes() for matrix in found})


@pytest.mark.parametrize("layout", LAYOUTS[1:], ids=lambda layout: layout[0])
def test_foreign_initializers_see_a_plain_kernel(layout):
    _, shape, *axes = layout
    seen = []

    def init(key, shape, dtype):
        seen.append(shape)
        return jnp.zeros(shape, dtype)

    use = kernel("w", shape, in_axes=axes[0], out_axes=axes[1], batch_axes=axes[2])
    assert drawn(init, use).shape == shape
    assert set(seen) == {tuple(math.prod(shape[axis] for axis in group) for group in axes[:2])}


def test_a_grouped_convolution_stays_as_it_is_stored():
    use = kernel("w", (3, 3, 2, 8), batch_axes=(3,), fan_in=18.0, fan_out=18.0)
    close(drawn(jinit.dirac(groups=4), use), jinit.dirac(groups=4)(KEY, (3, 3, 2, 8)))
    init = jax.nn.initializers.he_normal()
    close(drawn(init, use), init(leaf_key("w"), (3, 3, 2, 8)))


def test_what_is_no_kernel_is_drawn_as_it_is_stored():
    for role, init in (("embedding", jinit.orthogonal()), ("other", user_init)):
        use = other("table", (50, 3, 4), role)
        close(drawn(init, use), init(leaf_key("table"), (50, 3, 4), jnp.float32))


@pytest.mark.parametrize("init", [jinit.orthogonal(), jinit.zeros, user_init], ids=name)
@pytest.mark.parametrize("axis", [0, 2])
def test_layers_of_a_stack_do_not_depend_on_its_height(init, axis):
    def stack(height):
        shape = [8, 6]
        shape.insert(axis, height)
        ins, outs = [place for place in range(3) if place != axis]
        facts = {
            "in_axes": (ins,),
            "out_axes": (outs,),
            "batch_axes": (axis,),
            "scan_axes": (axis,),
            "steps": (1,),
        }
        return np.moveaxis(np.asarray(drawn(init, kernel("w", tuple(shape), **facts))), axis, 0)

    low, high = stack(2), stack(5)
    np.testing.assert_array_equal(low, high[:2])
    if init is not jinit.zeros:
        assert len({layer.tobytes() for layer in high}) == 5
        one = init(jax.random.fold_in(leaf_key("w"), 3), (8, 6), jnp.float32)
        close(jnp.asarray(high[3]), one)


def test_nested_stacks_and_laws_by_depth():
    use = kernel(
        "w", (3, 8, 2, 6), in_axes=(1,), out_axes=(3,), batch_axes=(0, 2), scan_axes=(2, 0), steps=(3, 1)
    )
    weights = drawn(lambda use: jinit.variance_scaling(1.0 + use.index, "fan_in", "normal"), use)
    plain = drawn(jinit.variance_scaling(1.0, "fan_in", "normal"), use)
    ratio = np.asarray(weights / plain)
    expected = np.sqrt([[[[1 + 3 * j + i]] for j in range(2)] for i in range(3)])  # [3, 2, 1, 1]
    np.testing.assert_allclose(ratio, np.moveaxis(expected, 2, 1) * np.ones(ratio.shape), rtol=1e-6)
    layer = jax.random.fold_in(jax.random.fold_in(leaf_key("w"), 1), 2)
    close(plain[2, :, 1], jinit.variance_scaling(1.0, "fan_in", "normal")(layer, (8, 6)))


def test_layers_of_different_families():
    facts = {"in_axes": (1,), "out_axes": (2,), "batch_axes": (0,), "scan_axes": (0,), "steps": (1,)}
    laws = [jinit.orthogonal(), jinit.zeros, jinit.normal(2.0), user_init, jinit.normal(1.0)]
    weights = drawn(lambda use: laws[use.index], kernel("w", (5, 4, 4), **facts))
    for i, init in enumerate(laws):
        close(weights[i], init(jax.random.fold_in(leaf_key("w"), i), (4, 4), jnp.float32))


def test_one_program_for_all_scales():
    from jinit.plans.draw import _cached_program

    _cached_program.cache_clear()
    uses = [kernel(f"layer_{i}/kernel", (32, 32), index=i, count=40) for i in range(40)]
    rules = [("*", lambda use: jinit.variance_scaling(1 / (1 + use.index), "fan_in", "normal"))]
    assigned = jinit.plan(rules).assign(uses)
    weights = draw(assigned.values(), keys_of(KEY, caller=""), {}, caller="")
    assert _cached_program.cache_info().currsize == 1
    for i, use in enumerate(uses):
        assert abs(float(weights[use.path].var()) * 32 * (1 + i) - 1) < 5 * math.sqrt(2 / 1024)


def test_equal_closures_share_a_program():
    from jinit.plans.foreign import Foreign

    make = jax.nn.initializers.normal
    assert Foreign.of(make(0.02)) == Foreign.of(make(0.02)) != Foreign.of(make(0.03))
    assert Foreign.of(make(0.02)).lasting
    assert not Foreign.of(user_init).lasting


def test_a_function_that_changes_is_not_remembered():
    scale = [1.0]

    def init(key, shape, dtype):
        return jnp.full(shape, scale[0], dtype)

    assert drawn(init, kernel()).max() == 1
    scale[0] = 2.0
    assert drawn(init, kernel()).max() == 2


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.complex64])
@pytest.mark.parametrize(
    "init", [jinit.he_normal(), jinit.orthogonal(), jinit.normal(0.5), jinit.zeros], ids=str
)
def test_dtypes(init, dtype):
    close_to = init(leaf_key("w"), (8, 4), dtype)
    found = drawn(init, kernel(dtype=np.dtype(dtype)))
    assert found.dtype == dtype
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.asarray(found, complex), np.asarray(close_to, complex), atol=4 * eps)


def test_double_precision():
    with jax.enable_x64(True):
        key = jax.random.key(11)
        use = kernel(dtype=np.dtype("float64"))
        found = drawn(jinit.he_normal(), use, key)
        assert found.dtype == np.float64
        expected = jinit.he_normal()(leaf_key("w", key), (8, 4), jnp.float64)
        np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_integers():
    same(drawn(jinit.zeros, other("steps", (), "other", jnp.int32)), jnp.zeros((), jnp.int32))
    same(drawn(jinit.constant(7), other("steps", (2,), "other", jnp.int32)), jnp.full(2, 7, jnp.int32))


@pytest.mark.parametrize(
    ("init", "error", "text"),
    [
        (
            lambda key, shape, dtype: jnp.zeros(3),
            ValueError,
            r"of the shape asked for, \(8, 4\); got one of .*\(3,\)",
        ),
        (lambda key, shape, dtype: 0.0, TypeError, "must return an array; got 0.0"),
        (
            lambda key, shape, dtype: jnp.zeros(shape, complex),
            TypeError,
            "dtype asked for, float32; got one of complex",
        ),
        (lambda key, shape, dtype: 1 / 0, ZeroDivisionError, "division by zero"),
        (jax.nn.initializers.he_normal(in_axis=3), IndexError, "index"),
    ],
)
def test_initializers_that_fail_are_named(init, error, text):
    with pytest.raises(error, match=text) as caught:
        drawn(init, kernel("params/a/kernel"))
    assert "rule 0 ('*') for 'params/a/kernel', called on shape (8, 4)" in caught.value.__notes__[-1]


def test_functions_without_dtype_and_boxed_results():
    from flax import linen

    assert (
        drawn(lambda key, shape: jnp.ones(shape), kernel(dtype=np.dtype(jnp.bfloat16))).dtype == jnp.bfloat16
    )
    boxed = linen.with_partitioning(jax.nn.initializers.normal(), (None, "model"))
    close(drawn(boxed, kernel()), jax.nn.initializers.normal()(leaf_key("w"), (8, 4)))
