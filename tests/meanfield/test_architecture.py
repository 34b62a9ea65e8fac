"""The maximal C-map function of a traced model, beside what the papers' recipe gives by hand."""

from __future__ import annotations

import math

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jinit
import jinit.meanfield as mf

X = jax.ShapeDtypeStruct((8, 32), "float32")
LAYERS = [  # (start, what one nonlinear layer makes of a number); none makes it smaller
    (1.0, lambda y: 1.02 * y),
    (0.0, lambda y: y + 0.01),
    (0.0, lambda c: c + 0.05 * (1 - c) ** 2),
]


def derived(model, *inputs):
    params = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    return mf.maximal_c_map(model.apply)(params, *inputs)


def check(found, by_hand):
    for start, layer in LAYERS:
        np.testing.assert_allclose(found(start, layer), by_hand(start, layer), rtol=1e-6)


def times(count, layer, c):
    for _ in range(count):
        c = layer(c)
    return c


class Bottleneck(nn.Module):
    """A block of the modified residual network of google-deepmind/dks, V2."""

    channels: int
    stride: int
    project: bool

    @nn.compact
    def __call__(self, x):
        straight, x = x, jnp.tanh(x)
        if self.project:
            straight = nn.Conv(4 * self.channels, (1, 1), self.stride)(x)
        x = nn.gelu(nn.Conv(self.channels, (1, 1))(x))
        x = nn.relu(nn.Conv(self.channels, (3, 3), self.stride)(x))
        x = nn.Conv(4 * self.channels, (1, 1))(x)
        return math.sqrt(1 - 0.6**2) * x + 0.6 * straight


class Modified(nn.Module):
    blocks: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        x = nn.max_pool(nn.Conv(8, (7, 7), 2)(x), (3, 3), (2, 2), "SAME")
        for i, count in enumerate(self.blocks):
            for j in range(count):
                x = Bottleneck(4, 2 if i and not j else 1, not j)(x)
        return nn.Dense(10)(jnp.mean(nn.silu(x), (1, 2)))


def modified(blocks):
    """The authors' subnetwork-maximizing function of it."""

    def by_hand(c, layer):
        branch = times(3, layer, c)
        for count in blocks:
            for j in range(count):
                straight = c if j else layer(c)
                c = 0.6**2 * straight + (1 - 0.6**2) * times(3, layer, c)
        return max(layer(c), branch)

    return by_hand


@pytest.mark.parametrize("blocks", [(1, 2), (3, 4, 23, 3)])
def test_the_authors_residual_network(blocks):
    found = derived(Modified(blocks), jax.ShapeDtypeStruct((2, 64, 64, 3), "float32"))
    assert found.depth == 3 * sum(blocks) + 1
    check(found, modified(blocks))


@pytest.mark.slow
def test_the_authors_constants():
    found = derived(Modified((3, 4, 23, 3)), jax.ShapeDtypeStruct((2, 64, 64, 3), "float32"))
    shaped = mf.dks("tanh", maximal_c_map=found, zeta=1.2)  # as in tests/meanfield/test_shaping.py
    numbers = shaped.input_scale, shaped.input_shift, shaped.output_shift, shaped.output_scale
    np.testing.assert_allclose(numbers, (0.07461073, 0.55669152, -0.50343788, 18.00263596), rtol=1e-5)


class Plain(nn.Module):
    depth: int

    @nn.compact
    def __call__(self, x):
        for _ in range(self.depth):
            x = nn.silu(nn.Dense(32)(x))
        return nn.Dense(3)(x)


def test_a_plain_network_is_its_depth():
    found = derived(Plain(7), X)
    check(found, lambda c, layer: times(7, layer, c))
    assert mf.dks("tanh", maximal_c_map=found) == mf.dks("tanh", depth=7)


class Block(nn.Module):
    """Sums that are divided afterwards, in a `scan` step."""

    @nn.compact
    def __call__(self, x, _):
        return (x + nn.Dense(32)(jnp.tanh(x))) / jnp.sqrt(2), None


class Stack(nn.Module):
    length: int

    @nn.compact
    def __call__(self, x):
        block = nn.scan(nn.remat(Block), {"params": 0}, split_rngs={"params": True}, length=self.length)
        return nn.Dense(3)(nn.relu(block()(x, None)[0]))


def test_a_scan_stack_with_remat():
    def by_hand(c, layer):
        branch = layer(c)
        for _ in range(40):
            c = (c + layer(c)) / 2
        return max(layer(c), branch)

    check(derived(Stack(40), X), by_hand)


class PostActivation(nn.Module):
    """The shortcut starts behind an activation: its weight is that of a sum, no part of the activation."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(32)(x))
        for _ in range(3):
            straight = 0.6 * x
            x = nn.relu(straight + 0.8 * nn.Dense(32)(nn.relu(nn.Dense(32)(x))))
        return nn.Dense(3)(x)


def test_shortcuts_that_start_behind_an_activation():
    def by_hand(c, layer):
        c = layer(c)
        for _ in range(3):
            c = layer(0.36 * c + 0.64 * layer(c))
        return c

    check(derived(PostActivation(), X), by_hand)


class Nested(nn.Module):
    """A branch that forks itself, and features side by side."""

    @nn.compact
    def __call__(self, x):
        inner = nn.Dense(32)(nn.relu(x))
        inner = 0.8 * inner + 0.6 * nn.Dense(32)(nn.relu(nn.Dense(32)(nn.relu(inner))))
        x = 0.1 * x + math.sqrt(0.99) * inner
        x = jnp.concatenate([x, nn.Dense(16)(nn.relu(x))], -1)
        return nn.Dense(3)(x)


def test_branches_inside_branches_and_concatenation():
    def by_hand(c, layer):
        inner = layer(c)
        branch = inner = 0.64 * inner + 0.36 * times(2, layer, inner)
        whole = 0.01 * c + 0.99 * inner
        whole = (32 * whole + 16 * layer(whole)) / 48
        return max(whole, branch, times(2, layer, c), layer(c))

    check(derived(Nested(), X), by_hand)


class Heads(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(32)(x))
        return nn.Dense(3)(x), nn.Dense(1)(nn.relu(nn.Dense(8)(x)))


def test_the_deepest_of_several_outputs_counts():
    check(derived(Heads(), X), lambda c, layer: times(2, layer, c))


class Tokens(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(10, 32)(tokens)
        mask = (tokens > 0)[..., None]
        x = jnp.where(mask, nn.relu(nn.Dense(32)(x)), 0)
        return nn.Dense(3)(nn.tanh(nn.Dense(8)(x).mean(1)))


def test_tokens():
    check(derived(Tokens(), jax.ShapeDtypeStruct((4, 7), "int32")), lambda c, layer: times(2, layer, c))


def test_haiku_equinox_nnx_and_bfloat16():
    by_hand = lambda c, layer: times(2, layer, c)  # noqa: E731
    h = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([32, 32, 3], activation=jnp.sin)(x)))
    check(mf.maximal_c_map(h.apply)(jax.eval_shape(h.init, jax.random.key(0), X), X), by_hand)
    params, rest = eqx.partition(eqx.nn.MLP(32, 3, 16, 2, key=jax.random.key(0)), eqx.is_array)
    check(mf.maximal_c_map(lambda p, x: jax.vmap(eqx.combine(p, rest))(x))(params, X), by_hand)
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(*[f for _ in range(2) for f in (nnx.Linear(32, 32, rngs=rngs), nnx.gelu)])
    apply, params = jinit.functional(model)
    check(mf.maximal_c_map(apply)(params, X), by_hand)
    low = lambda w, x: 0.6 * x + 0.8 * (jnp.tanh(x) @ w)  # noqa: E731
    arrays = [jax.ShapeDtypeStruct(shape, "bfloat16") for shape in ((32, 32), (8, 32))]
    found = mf.maximal_c_map(low)(*arrays)
    assert found(1.0, lambda y: 2 * y) == 2.0  # the branch
    assert found.depth == 1


def test_the_value_of_a_gain_is_read():
    def apply(params, x):
        return jnp.tanh(0.6 * x + params["gain"] * (jnp.sin(x) @ params["w"]))

    params = {"gain": np.float32(0.8), "w": jax.ShapeDtypeStruct((32, 32), "float32")}
    found = mf.maximal_c_map(apply)(params, X)
    check(found, lambda c, layer: layer(0.36 * c + 0.64 * layer(c)))
    with pytest.raises(ValueError, match=r"second moment one; got 0\.37 at `tanh` \(.*test_architecture\.py"):
        mf.maximal_c_map(apply)({**params, "gain": np.float32(0.1)}, X)
    params["gain"] = jax.ShapeDtypeStruct((), "float32")
    with pytest.raises(NotImplementedError, match=r"`mul` \(.*test_architecture\.py.*not given"):
        mf.maximal_c_map(apply)(params, X)


def gated(w, x):
    a, b = jnp.split(x @ w, 2, axis=-1)
    return a * jax.nn.sigmoid(b)


def swiglu(w, x):
    x = jnp.tanh(x)
    return jax.nn.silu(x @ w) * (x @ w)


def attention(w, x):
    return jax.nn.softmax(x @ w @ x.T) @ x


def normalized(w, x):
    y = x @ w
    return y / jnp.sqrt(jnp.mean(y**2, -1, keepdims=True))


@pytest.mark.parametrize(
    ("apply", "text"),
    [
        (gated, "`mul` .*joins two signals"),
        (swiglu, "`mul` .*joins two signals"),
        (attention, "`dot_general` .*multiplies two signals"),
        (normalized, "`div` .*joins two signals"),
        (lambda w, x: jnp.sort(x @ w), "`sort` .*has no rule"),
        (lambda w, x: jax.nn.softmax(x @ w), "`div` .*joins two signals"),
        (lambda w, x: jax.lax.while_loop(lambda c: c.sum() < 1, lambda c: 2 * c, x @ w), "`while` .*no rule"),
        (lambda w, x: jnp.concatenate([x @ w, w[:8]]), "`concatenate` .*a constant beside"),
    ],
    ids=["gated", "swiglu", "attention", "normalized", "sort", "softmax", "while", "constant"],
)
def test_what_has_no_correlation_map_is_named(apply, text):
    with pytest.raises(NotImplementedError, match=text + r"[\s\S]*end `apply` before it"):
        mf.maximal_c_map(apply)(jax.ShapeDtypeStruct((32, 32), "float32"), X)


def test_bad_input():
    with pytest.raises(TypeError, match=r"`apply` must be a function[\s\S]*Pass `model.apply`"):
        mf.maximal_c_map(Plain(2))
    with pytest.raises(ValueError, match="an output must depend on an input; got 1 outputs that do not"):
        mf.maximal_c_map(lambda w, x: w)(jnp.ones(3), X)
    with pytest.raises(ValueError, match="second moment one; got 2 at `tanh`"):
        mf.maximal_c_map(lambda w, x: jnp.tanh(x + x @ w))(jnp.ones((32, 32)), X)


def test_what_reaches_no_output_does_no_harm():
    def apply(w, x):
        jnp.tanh(3 * (x + x @ w))
        return jnp.tanh(x @ w)

    check(mf.maximal_c_map(apply)(jnp.ones((32, 32)), X), lambda c, layer: layer(c))
