"""What `audit` says of every parameter, beside what a person says."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import jinit
from tests.plans.members import MEMBERS
from tests.zoo import ZOO, array, linen

BY_NAME = {"bias": "bias", "b": "bias", "scale": "scale", "('kernel',)": "scale"}  # nnx.WeightNorm's scales


def audit(call):
    apply, params, inputs, kwargs = call
    return jinit.audit(apply)(params, *inputs, **kwargs)


def role_of(path, member):
    """From the table, else from its fans, else from its name."""
    if path in member.roles:
        return member.roles[path]
    if path in member.fans:
        table = member.fans[path][1] is None or path.endswith("embedding")
        return "embedding" if table else "kernel"
    return BY_NAME[path.split("/")[-1]]


def known(fans):
    return tuple(math.nan if fan is None else fan for fan in fans)


@pytest.mark.parametrize("name", MEMBERS)
def test_fans_and_roles(name):
    member = MEMBERS[name]
    uses = audit(member.make())
    for use in uses:
        assert use.role == role_of(use.path, member), use
        expected = member.fans.get(use.path, (None, None))
        assert known((use.fan_in, use.fan_out)) == pytest.approx(known(expected), rel=1e-6, nan_ok=True), use
    assert set(member.fans) <= {use.path for use in uses}


@pytest.mark.parametrize("name", ZOO)
def test_every_leaf_has_one_use(name):
    given = ZOO[name]
    apply, params, inputs, kwargs = given.make()
    with given.promotion():
        uses = jinit.audit(apply)(params, *inputs, **kwargs)
    leaves = [x for x in jax.tree.leaves(params) if hasattr(x, "dtype")]
    assert [(u.shape, u.dtype) for u in uses] == [(x.shape, x.dtype) for x in leaves]
    assert len({u.path for u in uses}) == len(uses)
    sites = {name.split("#")[0] for name in given.sites}
    assert sites <= {u.path for u in uses if u.role in ("kernel", "embedding")}
    assert {u.path for u in uses if u.role == "unused"} == given.unused


def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype) if hasattr(x, "dtype") else x, tree)


def without_gain(use):
    return {**vars(use), "gain": None}


@pytest.mark.parametrize("name", ["scanned_remat_stack", "nnx_cnn_eval", "haiku_lstm", "masks"])
def test_shapes_say_what_arrays_say(name):
    members = {**ZOO, "masks": MEMBERS["masked_triangle"]}
    apply, params, inputs, kwargs = members[name].make()
    on_arrays = jinit.audit(apply)(params, *inputs, **kwargs)
    on_shapes = jinit.audit(apply)(abstract(params), *abstract(inputs), **kwargs)
    assert all(use.gain is None for use in on_shapes)
    assert any(use.gain is not None for use in on_arrays)
    assert [without_gain(use) for use in on_shapes] == [without_gain(use) for use in on_arrays]


# member, parameter -> in, out and batch axes of the stored array
AXES = {
    ("linen_dense", "params/kernel"): ((0,), (1,), ()),
    ("linen_dense_general", "params/kernel"): ((0, 1), (2, 3), ()),
    ("linen_dense_general_batches", "params/kernel"): ((2,), (3, 4), (0, 1)),
    ("linen_einsum_experts", "params/kernel"): ((1,), (2,), (0,)),
    ("linen_conv", "params/kernel"): ((2,), (3,), ()),
    ("linen_conv_grouped", "params/kernel"): ((2,), (3,), (3,)),
    ("linen_conv_transposed_kernel", "params/kernel"): ((3,), (2,), ()),
    ("linen_conv_local", "params/kernel"): ((2,), (3,), (0, 1)),
    ("linen_embed", "params/embedding"): ((0,), (1,), ()),
    ("linen_tied", "params/Embed_0/embedding"): ((1,), (0,), ()),
    ("linen_attention", "params/query/kernel"): ((0,), (1, 2), ()),
    ("linen_attention", "params/out/kernel"): ((0, 1), (2,), ()),
    ("linen_scan", "params/layers/Dense_0/kernel"): ((1,), (2,), (0,)),
    ("linen_scan_along_axis_1", "params/layers/Dense_0/kernel"): ((0,), (2,), (1,)),
    ("linen_vmap", "params/members/kernel"): ((1,), (2,), (0,)),
    ("equinox_linear", "weight"): ((1,), (0,), ()),
    ("equinox_conv_transposed", "weight"): ((1,), (0,), ()),
    ("transposed", "w"): ((1,), (0,), ()),
    ("fused_qkv_axes", "qkv"): ((0,), (1, 2, 3), ()),
    ("fused_qkv_sliced", "qkv"): ((1,), (2,), (0,)),
    ("gated_axis", "up"): ((0,), (1, 2), ()),
    ("python_loop_over_a_stack", "w"): ((1,), (2,), (0,)),
    ("low_rank_adapter", "a"): ((0,), (1,), ()),
    ("low_rank_adapter", "b"): ((0,), (1,), ()),
    ("nested_scans", "inner"): ((2,), (3,), (0, 1)),
    ("scanned_along_axis_1", "w"): ((0,), (2,), (1,)),
    ("ragged_experts", "w"): ((1,), (2,), (0,)),
    ("picked_by_the_data", "w"): ((1,), (2,), (0,)),
    ("one_kernel_picked_by_the_data", "w"): ((1,), (2,), (0,)),
    ("convolution_by_patches", "w"): ((0, 1, 2), (3,), ()),
    ("linen_norms", "params/LayerNorm_0/scale"): ((), (), ()),
}


@pytest.mark.parametrize(("name", "path"), AXES)
def test_axes(name, path):
    (use,) = (use for use in audit(MEMBERS[name].make()) if use.path == path)
    assert (use.in_axes, use.out_axes, use.batch_axes) == AXES[name, path]


NOTES = {
    "standardised": "behind a normaliser",
    "weight_normalised": "behind a normaliser",
    "positive": "nonlinear function",
    "low_rank_adapter": "a factor of a weight",
    "masked": "",
    "scaled": "",
    "linen_reparametrised": "behind a normaliser",
}


@pytest.mark.parametrize("name", NOTES)
def test_notes(name):
    member = MEMBERS[name]
    notes = [use.note for use in audit(member.make()) if use.path in member.fans]
    assert NOTES[name] in notes[0]
    assert bool(notes[0]) == bool(NOTES[name])


def test_a_mask_drawn_from_a_key_is_said():
    def apply(params, x, key):
        return x @ jnp.where(jax.random.bernoulli(key, 0.5, (4, 5)), params, 0.0)

    (use,) = jinit.audit(apply)(array(4, 5), array(3, 4), jax.random.key(0))
    assert (use.fan_in, use.fan_out) == (4, 5)
    assert "a mask" in use.note


def test_a_mask_given_as_an_input_is_a_signal():
    """Then nothing derives from the parameters alone, and no site is invented."""
    (use,) = jinit.audit(lambda p, x, mask: x @ (p * mask))(array(4, 5), array(3, 4), array(4, 5))
    assert use.role != "bias"
    assert use.fan_in is None
    assert use.note


def test_what_cannot_be_followed_is_said():
    def apply(params, x):
        return jnp.linalg.solve(params["a"], x.T).T @ params["w"]

    a, w = jinit.audit(apply)({"a": array(4, 4), "w": array(4, 2)}, array(3, 4))
    assert (a.role, w.role) == ("other", "kernel")
    assert "whose inside was not seen" in a.note


class Pair(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        x = nn.Dense(6, name="up")(x) * self.param("scale", nn.initializers.ones, (6,))[None]
        return nn.Dense(6, name="down")(x), None


class Layers(nn.Module):
    """Two layers before a stack of three blocks of two, and one after it."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(6, name="second")(nn.Dense(6, name="first")(x))
        stack = nn.scan(Pair, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = stack(name="layers")(x, None)
        return nn.Dense(6, name="head")(x)


def test_places_count_the_steps_of_loops():
    uses = {u.path.removeprefix("params/"): u for u in audit(linen(Layers(), array(2, 6)))}
    assert {u.count for u in uses.values()} == {2 + 3 * 2 + 1}
    places = {k: u.index for k, u in uses.items() if u.role == "kernel"}
    assert places == {
        "first/kernel": 0,
        "second/kernel": 1,
        "layers/up/kernel": 2,
        "layers/down/kernel": 3,
        "head/kernel": 8,
    }
    assert uses["layers/up/kernel"].steps == uses["layers/scale"].steps == (2,)
    assert uses["layers/up/kernel"].scan_axes == uses["layers/scale"].scan_axes == (0,)
    assert uses["head/kernel"].steps == ()
    for path, use in uses.items():
        if use.role == "bias":  # it has the place of the kernel before it
            assert use.index == places[path.replace("bias", "kernel")]
    assert uses["layers/scale"].index == 2


def test_places_in_nested_loops():
    inner, outer = (u for u in audit(MEMBERS["nested_scans"].make()))
    assert (inner.path, outer.path, inner.count) == ("inner", "outer", 2 + 2 * 3)
    assert (outer.index, outer.steps) == (0, (4,))
    assert (inner.index, inner.steps, inner.scan_axes) == (1, (4, 1), (0, 1))


def test_uses_and_the_names_of_their_sites():
    call = MEMBERS["linen_tied"].make()
    apply, params, inputs, _ = call
    _, records = jinit.measure(apply)(params, *inputs)
    named = [site for use in audit(call) for site in use.sites]
    assert sorted(named) == sorted(records)
    (table,) = (use for use in audit(call) if use.role == "embedding")
    assert table.uses == len(table.sites) == 2
    (shared,) = (use for use in audit(MEMBERS["linen_shared"].make()) if use.role == "kernel")
    assert shared.uses == 2


def test_the_largest_use_decides():
    (use,) = jinit.audit(lambda p, x: x @ p + x[:, :2] @ p[:2])(array(6, 5), array(3, 6))
    assert (use.fan_in, use.uses) == (6, 2)


def test_gain_is_that_of_the_entries():
    w = np.asarray(array(64, 32))
    (use,) = jinit.audit(lambda p, x: x @ p)(w, jax.ShapeDtypeStruct((2, 64), "float32"))
    assert use.gain == pytest.approx(w.std() * 8, rel=1e-5)
    (half,) = jinit.audit(lambda p, x: x @ p)(w.astype(jnp.bfloat16), jnp.zeros((2, 64), jnp.bfloat16))
    assert half.gain == pytest.approx(w.std() * 8, rel=2**-8)


def test_under_jit_and_on_shapes_nothing_is_computed():
    apply, params, inputs, _ = MEMBERS["linen_conv"].make()
    outside = audit((apply, params, inputs, {}))

    @jax.jit
    def scaled(params, x):
        uses = jinit.audit(apply)(params, x)
        assert [without_gain(u) for u in uses] == [without_gain(u) for u in outside]
        assert all(u.gain is None for u in uses)
        fan_in = next(u.fan_in for u in uses if u.role == "kernel")
        return jax.tree.map(lambda p: p / math.sqrt(fan_in), params)

    jax.tree.map(np.testing.assert_allclose, scaled(params, *inputs),
                 jax.tree.map(lambda p: p / math.sqrt(24), params))  # fmt: skip


def test_size():
    (use,) = jinit.audit(lambda p, x: x @ p)(array(6, 5), array(3, 6))
    assert use.size == 30


def test_other_inputs_than_floating_ones():
    """Whole numbers, booleans and settings among the parameters have a role too."""
    params = {"w": array(4, 2), "steps": jnp.int32(3), "rate": 0.5}
    uses = jinit.audit(lambda p, x: x @ p["w"] * p["rate"] + p["steps"].astype(float))(params, array(3, 4))
    assert {u.path: u.role for u in uses} == {"w": "kernel", "steps": "other"}


def test_equations_without_results_do_not_matter():
    def apply(params, x):
        jax.debug.print("{}", x.sum())
        return lax.scan(lambda h, w: (h @ w, jax.debug.callback(lambda h: None, h)), x, params)[0]

    (use,) = jinit.audit(apply)(array(3, 4, 4), array(2, 4))
    assert (use.fan_in, use.scan_axes) == (4, (0,))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: jinit.audit(nn.Dense(3)), TypeError, r"(?s)`jinit.audit\(...\)`.*`model.apply`"),
        (lambda: jinit.audit(nnx.Dropout(0.5)), TypeError, "jinit.functional"),
        (lambda: jinit.audit(3), TypeError, "must be a function"),
        (lambda: jinit.audit(lambda p, x: x)({}, array(3)), ValueError, "must hold at least one array"),
        (lambda: jinit.audit(lambda p, x: x @ p)(array(3, 2), array(2, 2)), TypeError, "dot_general"),
    ],
)
def test_errors(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_an_error_of_apply_says_what_it_was_called_with():
    with pytest.raises(TypeError) as caught:
        jinit.audit(lambda p, x: x @ p)(array(3, 2), array(2, 2))
    assert any("`jinit.audit(...)`" in note and "float32[2,2]" in note for note in caught.value.__notes__)
