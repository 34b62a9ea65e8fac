"""`from_pretrained`: casts, and leaves of another shape."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jinit
from tests.zoo import array

X = array(2, 8)


class Net(nn.Module):
    width: int = 8

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(self.width)(x))
        return nn.Dense(3)(x)


@pytest.mark.parametrize(
    ("here", "there"),
    [
        (jnp.bfloat16, np.float32),
        (jnp.float32, ml_dtypes.bfloat16),
        (jnp.float32, np.float64),
        (jnp.int8, np.int64),
        (jnp.complex64, np.complex128),
    ],
)
def test_casts_keep_the_models_dtype_and_are_told(here, there):
    value = np.asarray([1.001, -2, 3], there)
    new, transfer = jinit.from_pretrained({"w": jnp.zeros(3, here)}, {"w": value})
    assert new["w"].dtype == here
    np.testing.assert_array_equal(np.asarray(new["w"]), value.astype(np.dtype(here)))
    assert transfer.leaves[0].cast
    assert f"{np.dtype(there).name} → {np.dtype(here).name}" in str(transfer)


@pytest.mark.parametrize(
    ("here", "value", "reason"),
    [
        (jnp.int8, np.array([1, 300]), "do not fit into int8"),
        (jnp.uint32, np.array([-1]), "do not fit into uint32"),
        (jnp.float16, np.array([1e6]), "do not fit into float16"),
        (jnp.float8_e4m3fn, jnp.array([1e6]), "do not fit into float8_e4m3fn"),
        (jnp.float32, np.array([1]), "another kind of number"),
        (jnp.float32, np.array([1j]), "another kind of number"),
        (jnp.int32, np.array([True]), "another kind of number"),
    ],
)
def test_casts_that_lose_are_refused(here, value, reason):
    params = {"w": jnp.zeros(value.shape, here)}
    with pytest.raises(ValueError, match=rf"unlike w: .*{reason}"):
        jinit.from_pretrained(params, {"w": value}, mismatch="slice")
    assert jinit.from_pretrained(params, {"w": value}, mismatch="keep")[0] == params


def test_infinite_values_stay():
    new, _ = jinit.from_pretrained({"w": jnp.zeros(2, jnp.float16)}, {"w": np.array([np.inf, 1.0])})
    assert new["w"][0] == jnp.inf


def test_slice_takes_the_leading_corner():
    old = np.arange(24.0, dtype=np.float32).reshape(4, 6)
    new, transfer = jinit.from_pretrained({"w": jnp.zeros((3, 2))}, {"w": old}, mismatch="slice")
    np.testing.assert_array_equal(new["w"], old[:3, :2])
    assert transfer.counts == {"sliced": 1}
    assert "(4, 6) → (3, 2)" in str(transfer)


def test_tile_repeats():
    old = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    new, _ = jinit.from_pretrained({"w": jnp.zeros((5, 4))}, {"w": old}, mismatch="tile")
    np.testing.assert_array_equal(new["w"], np.tile(old, (3, 2))[:5, :4])


@pytest.mark.parametrize("width", [11, 16, 20])
def test_tiling_a_whole_network_keeps_its_function(width):
    small, large = Net(8), Net(width)
    old = small.init(jax.random.key(0), X)
    shapes = jax.eval_shape(large.init, jax.random.key(0), X)
    uses = jinit.audit(large.apply)(shapes, X)
    new, transfer = jinit.from_pretrained(shapes, old, mismatch="tile", uses=uses)
    # Rounding: sums of at most 20 products, in another order.
    np.testing.assert_allclose(large.apply(new, X), small.apply(old, X), atol=20 * 2**-24 * 20)
    plain, _ = jinit.from_pretrained(shapes, old, mismatch="tile")
    assert np.abs(large.apply(plain, X) - small.apply(old, X)).max() > 0.1
    assert transfer.counts == {"tiled": 3, "taken": 1}
    assert "divided by the number of copies on axis 0" in " ".join(str(transfer).split())


@pytest.mark.parametrize("channels", [1, 3, 4, 7])
def test_a_stem_for_more_channels_answers_grey_images_as_before(channels):
    model = nn.Conv(5, (3, 3))
    grey = array(1, 6, 6, 1)
    old = {"params": {"kernel": array(3, 3, 1, 5), "bias": array(5)}}
    rgb = jax.ShapeDtypeStruct((1, 6, 6, channels), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), rgb)
    uses = jinit.audit(model.apply)(shapes, rgb)
    new, _ = jinit.from_pretrained(shapes, old, mismatch="tile", uses=uses)
    many = jnp.tile(grey, channels)
    np.testing.assert_allclose(model.apply(new, many), model.apply(old, grey), atol=63 * 2**-24 * 20)


@pytest.mark.parametrize("length", [3, 7, 12])
def test_resize_interpolates_the_axes_that_differ(length):
    line = np.linspace(0, 1, 7, dtype=np.float32)[:, None] * np.array([1.0, -2.0], np.float32)
    new, transfer = jinit.from_pretrained({"p": jnp.zeros((length, 2))}, {"p": line}, mismatch="resize")
    # Centres of equal cells: a straight line stays one, away from the two ends.
    centres = ((np.arange(length) + 0.5) * 7 / length - 0.5) / 6
    inside = slice(1, -1)
    np.testing.assert_allclose(new["p"][inside, 0], centres[inside], atol=1e-6)
    np.testing.assert_allclose(new["p"][:, 1], -2 * new["p"][:, 0], atol=1e-6)
    assert transfer.counts == ({"taken": 1} if length == 7 else {"resized": 1})


def test_resizing_taps_keeps_their_sum():
    model, x = nn.Conv(4, (5, 5)), jax.ShapeDtypeStruct((1, 9, 9, 2), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    old = {"params": {"kernel": np.ones((3, 3, 2, 4), np.float32), "bias": np.zeros(4, np.float32)}}
    uses = jinit.audit(model.apply)(shapes, x)
    new, _ = jinit.from_pretrained(shapes, old, mismatch="resize", uses=uses)
    np.testing.assert_allclose(new["params"]["kernel"], np.full((5, 5, 2, 4), 9 / 25), rtol=1e-6)
    wide = {"params": {"kernel": np.ones((5, 5, 1, 4), np.float32), "bias": np.zeros(4, np.float32)}}
    with pytest.raises(ValueError, match=r'"resize" is for ordered axes: axis 2 counts units'):
        jinit.from_pretrained(shapes, wide, mismatch="resize", uses=uses)


def test_resize_in_low_precision_rounds_once():
    old = jnp.asarray([0.0, 1.0, 2.0], jnp.bfloat16)
    new, _ = jinit.from_pretrained({"p": jnp.zeros(6, jnp.bfloat16)}, {"p": old}, mismatch="resize")
    wide = jax.image.resize(jnp.asarray([0.0, 1.0, 2.0]), (6,), "linear")
    np.testing.assert_array_equal(new["p"], wide.astype(jnp.bfloat16))


def test_a_function_may_use_the_drawn_leaf():
    drawn = {"table": array(6, 2), "head": array(2, 2)}
    old = {"table": np.ones((4, 2), np.float32), "head": np.ones((4,), np.float32)}
    rules = [
        ("table", lambda value, leaf: leaf.at[: len(value)].set(value)),
        ("head", lambda value, leaf: value.reshape(leaf.shape)),
    ]
    new, transfer = jinit.from_pretrained(drawn, old, mismatch=rules)
    np.testing.assert_array_equal(new["table"], np.concatenate([old["table"], drawn["table"][4:]]))
    assert transfer.counts == {"converted": 2}


@pytest.mark.parametrize(
    ("policy", "there", "here", "text"),
    [
        ("slice", (2, 3), (3, 3), '"slice" needs at least as many entries'),
        ("tile", (4, 3), (3, 3), '"tile" needs at most as many'),
        ("slice", (9,), (3, 3), '"slice" needs as many axes; .*reshape'),
        ("resize", (2, 2, 2), (3, 3), '"resize" needs as many axes'),
        (lambda v, leaf: v, (2,), (3,), r"the function returned float32 \(2,\), not float32 \(3,\)"),
    ],
)
def test_what_a_policy_cannot_do_is_an_error(policy, there, here, text):
    with pytest.raises(ValueError, match=text):
        jinit.from_pretrained({"w": jnp.zeros(here)}, {"w": jnp.zeros(there)}, mismatch=policy)
