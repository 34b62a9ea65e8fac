"""Measuring changes nothing: outputs and gradients are those of `apply`, in every setting."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit._typing import at_least_float32
from jinit.signals.records import Record
from tests.zoo import ZOO, Member

# Compiles three times as fast; what it computes is the same.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
TOLERANCE = {"float32": 2e-5, "complex64": 2e-5, "bfloat16": 2e-2, "float16": 4e-3}
ROUNDING = 2.0**-20  # of sums in float32


def assert_same(a: Any, b: Any) -> None:
    """Same tree, same dtypes, values that agree as far as the dtype holds.

    Some gradients are zero but for rounding, as that of the bias of attention's keys. On a CPU both programs
    round alike; those of an accelerator leave numbers that are small beside the others and agree in nothing.
    """
    assert jax.tree.structure(a) == jax.tree.structure(b)
    zero = 0.0 if jax.default_backend() == "cpu" else ROUNDING * largest(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.dtype, x.shape, jax.typeof(x).weak_type) == (y.dtype, y.shape, jax.typeof(y).weak_type)
        if x.dtype == jax.dtypes.float0:
            continue
        wide = [np.asarray(v.astype(at_least_float32(v.dtype))) for v in (x, y)]
        room = TOLERANCE.get(str(x.dtype), 0.0)
        np.testing.assert_allclose(*wide, rtol=room, atol=max(room * largest(wide[1]), zero))


def largest(tree: Any) -> float:
    """The largest size of a floating entry."""
    leaves = (np.asarray(jnp.abs(x).astype(jnp.float32)) for x in jax.tree.leaves(tree) if is_floating(x))
    return max((float(np.max(x, initial=0)) for x in leaves), default=0.0)


def floating(tree: Any) -> Any:
    """The leaves of a tree that have a gradient; the others are None."""
    return jax.tree.map(lambda x: x if is_floating(x) else None, tree)


def is_floating(x: Any) -> bool:
    return not isinstance(x, bool | str) and hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.inexact)


def scalar(outputs: Any) -> jax.Array:
    """One number that every floating entry of the outputs has a say in."""
    total = jnp.float32(0)
    for x in jax.tree.leaves(outputs):
        if is_floating(x):
            x = jnp.abs(x) ** 2 if jnp.iscomplexobj(x) else x
            total += jnp.sum(jnp.sin(x.astype(jnp.float32) + 0.5))
    return total


@functools.cache
def results(name: str) -> Any:
    """Of `apply` and of its measurement, in one compiled program: outputs, gradients, and the records."""
    given = ZOO[name]
    with given.promotion():
        apply, params, inputs, kwargs = given.make()
        measured = jinit.measure(apply, backward=given.backward)

        def of(function: Any, params: Any, inputs: Any) -> Any:
            def loss(some: Any) -> Any:
                whole = jax.tree.map(
                    lambda s, p: p if s is None else s, some, params, is_leaf=lambda x: x is None
                )
                outputs, records = function(whole, *inputs, **kwargs)
                return scalar(outputs), (outputs, records)

            if not given.backward:
                return None, *loss(floating(params))[1]
            grads, (outputs, records) = jax.grad(loss, has_aux=True)(floating(params))
            return grads, outputs, records

        # Arrays go in as arguments, the rest of the tree (functions in an equinox module) stays outside.
        leaves, tree = jax.tree.flatten((params, inputs))
        arrays = [x for x in leaves if hasattr(x, "dtype")]

        @functools.partial(jax.jit, compiler_options=QUICK)
        def both(arrays: Any) -> Any:
            rest = iter(arrays)
            params, inputs = jax.tree.unflatten(
                tree, [next(rest) if hasattr(x, "dtype") else x for x in leaves]
            )
            plain = of(lambda *a, **k: (apply(*a, **k), None), params, inputs)
            return plain, of(measured, params, inputs)

        return both(arrays)


# Those that take longest, where quicker members of the zoo are of a like kind.
SLOW = (
    "scanned_remat_stack", "scanned_on_another_axis", "rnn_lstm", "rnn_optimized_lstm", "rnn_conv_lstm",
    "rnn_bidirectional", "nnx_lstm", "haiku_lstm", "equinox_gru", "float16_parameters", "learned_queries",
    "learned_positions", "cross_attention", "shard_map_over_one_of_two_axes", "shard_map_in_scan",
    "scan_in_cond_in_scan", "weight_standardised", "nnx_attention", "haiku_attention", "equinox_attention",
    "hessian_inside", "diagonal_state_space", "nnx_cnn_train", "dropout_closed_over", "associative_scan",
    "map_in_batches", "latents", "spectral_norm_without_update", "scan_with_outputs", "conv_local",
    "conv_dilated", "haiku_convnet",
)  # fmt: skip
assert set(SLOW) <= set(ZOO)
everyone = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in ZOO]
)


@everyone
def test_zoo(name):
    """Outputs, gradients; and records in program order, through an outer jit."""
    (gradients, outputs, _), (measured_gradients, measured_outputs, records) = results(name)
    assert_same(measured_outputs, outputs)
    assert_same(measured_gradients, gradients)
    assert_plausible(name, records)


def assert_plausible(name: str, records: Any) -> None:
    """The names expected, and in every field a plausible number of finite entries."""
    assert tuple(k for k, r in records.items() if not r.note.startswith("not followed")) == ZOO[name].sites
    for record in records.values():
        assert isinstance(record, Record)
        for moments in (record.output, record.weight, record.cotangent, record.weight_gradient):
            if moments is not None:
                assert np.all(np.isfinite(moments.total))
                assert np.all(moments.nonfinite_count == 0)
                assert np.all((moments.variance >= 0) | (moments.count == 0))
        if record.cotangent is not None:
            np.testing.assert_array_equal(record.cotangent.count, record.output.count)
            np.testing.assert_array_equal(record.weight_gradient.count, record.weight.count)


def traced(given: Member, *, backward: bool) -> Any:
    apply, params, inputs, kwargs = given.make()
    with given.promotion():
        return jax.eval_shape(lambda: jinit.measure(apply, backward=backward)(params, *inputs, **kwargs))


# One of each kind of control flow, and of each framework.
SOME = [
    "tied_embedding",
    "attention",
    "cnn_train",
    "dropout",
    "complex_parameters",
    "scanned_remat_stack",
    "nested_scan",
    "while_loop",
    "switch",
    "custom_vjp",
    "data_parallel",
    "nnx_list",
    "haiku_lstm",
    "equinox_mlp",
    "low_rank_adapter",
]
some = pytest.mark.parametrize("name", SOME)


@some
def test_forward_alone(name):
    """`backward=False` gives the same names and no backward fields."""
    _, records = traced(ZOO[name], backward=False)
    assert tuple(records) == tuple(traced(ZOO[name], backward=ZOO[name].backward)[1])
    assert all(r.cotangent is None and r.weight_gradient is None for r in records.values())


def batched(x: Any) -> Any:
    return jnp.stack([x, x])


@some
def test_vmap(name):
    """Two copies side by side: every field gains one leading axis."""
    given = ZOO[name]
    apply, params, inputs, kwargs = given.make()
    measured = jinit.measure(apply, backward=given.backward)

    def run() -> Any:
        many = jax.tree.map(lambda x: batched(x) if hasattr(x, "dtype") else x, inputs)
        axes = jax.tree.map(lambda x: 0 if hasattr(x, "dtype") else None, inputs)
        return jax.vmap(lambda *inputs: measured(params, *inputs, **kwargs), in_axes=axes)(*many)

    with given.promotion():
        outputs, records = jax.eval_shape(run)
    one_outputs, one_records = traced(given, backward=given.backward)
    assert tuple(records) == tuple(one_records)
    for many, one in ((outputs, one_outputs), (records, one_records)):
        assert [x.shape for x in jax.tree.leaves(many)] == [(2, *x.shape) for x in jax.tree.leaves(one)]


@pytest.mark.parametrize(
    "name",
    ["mlp", "cond", *(pytest.param(n, marks=pytest.mark.slow) for n in ("tied_embedding", "nested_scan"))],
)
def test_vmap_values(name):
    apply, params, inputs, kwargs = ZOO[name].make()
    measured = jinit.measure(apply)
    many = jax.tree.map(batched, inputs)
    quick = functools.partial(jax.jit, compiler_options=QUICK)
    outputs, records = quick(jax.vmap(lambda *x: measured(params, *x, **kwargs)))(*many)
    alone = results(name)[1][1:]
    assert_same(jax.tree.map(lambda x: x[1], outputs), alone[0])
    for site, record in alone[1].items():
        for field in ("input", "output", "cotangent", "weight", "weight_gradient"):
            one, two = getattr(record, field), getattr(records[site], field)
            if one is not None:
                np.testing.assert_allclose(two.second_moment[1], one.second_moment, rtol=1e-4, err_msg=field)


def test_a_wrong_derivative_stays_wrong():
    """The one of `straight_through` is 7 times and −2 times what it should be: so it is measured."""
    apply, params, inputs, _ = ZOO["custom_vjp"].make()

    def right(params, x):
        return (x @ params["a"]) @ params["w"] @ params["b"]

    (ours, *_), (theirs, *_) = results("custom_vjp")[1], results("custom_vjp")[0]
    assert_same(ours, theirs)
    true = jax.grad(lambda p: scalar(right(p, *inputs)))(params)
    assert not np.allclose(ours["w"], true["w"], rtol=0.5)
    _, records = jinit.measure(apply, loss=jnp.sum)(params, *inputs)
    flowing = -2.0 * (jnp.ones((3, 4)) @ params["b"].T) @ params["w"].T
    np.testing.assert_allclose(records["a"].cotangent.second_moment, jnp.mean(flowing**2), rtol=1e-5)
    assert records["w"].cotangent is None
    assert "own derivative rule" in records["w"].note


def test_the_check_can_fail():
    with pytest.raises(AssertionError):
        assert_same(jnp.ones(3), jnp.ones(3) * 1.001)
    with pytest.raises(AssertionError):
        assert_same(jnp.ones(3), jnp.ones(3, jnp.bfloat16))
    with pytest.raises(AssertionError):
        assert_same({"a": jnp.ones(3)}, {"b": jnp.ones(3)})
