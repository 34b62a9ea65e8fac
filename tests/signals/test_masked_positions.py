"""Positions that attention mixes: layers in a row, behind any mask, against sums over all positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from jinit.signals.laws.masks import of_mask
from jinit.signals.laws.roots import MASK
from jinit.signals.laws.steps import LAYERS
from tests.signals.agreement import disagreement

WIDTH = 128


FIELDS = ("input", "output", "cotangent", "weight_gradient")


def agree(predicted: Any, apply: Any, draw: Any, x: Any, *, draws: int, error: float) -> None:
    """Within three standard errors of the mean over draws, and this error."""
    # As one program, with what draws weights wherever they are used, they take 3 times as long to compile.
    drawn, measure = jax.jit(draw), jax.jit(lambda params: jinit.measure(apply)(params, x)[1])
    measured = [measure(drawn(jax.random.key(i))) for i in range(draws)]
    for name, record in predicted.items():
        for field in FIELDS:
            if (found := getattr(record, field)) is not None:
                seen = [getattr(records[name], field) for records in measured]
                assert disagreement(found, seen, narrow=error) <= 1, f"{name} {field}"


def masks(size: int) -> dict[str, np.ndarray | None]:
    """What queries see of keys."""
    i, j = np.arange(size)[:, None], np.arange(size)
    part = size // 4
    some = np.random.default_rng(0).random((size, size)) < 0.3
    return {
        "causal": i >= j,
        "what is to come": i <= j,
        "window": (i >= j) & (i - j < part),
        "blocks": i // part == j // part,
        "prefix": (i >= j) | (j < part),
        "packed": (i >= j) & (i // part == j // part),
        "any": some | (i == j),
        "nothing for some": (i >= j) & (i > 1),
        "all": np.ones((size, size), bool),
        "none": None,
    }


def attend(x: Any, query: Any, value: Any, mask: np.ndarray | None, *, added: bool) -> Any:
    """One head; scores are next to nothing, so that weights are even."""
    scores = x @ query @ x.transpose(0, 2, 1)
    if mask is not None and added:
        scores = scores + jnp.where(mask, 0.0, -1e9)[None]
    elif mask is not None:
        scores = jnp.where(mask[None], scores, -1e9)
    return jnp.einsum("bts,bsd->btd", jax.nn.softmax(scores), x @ value)


def check(size: int, mask: np.ndarray | None, residual: float, *, added: bool, error: float) -> None:
    """Three layers, forward and backward."""
    names, batch = "abc", 2

    def apply(params: Any, x: Any) -> Any:
        for name in names:
            x = residual * x + attend(x, params["q"], params[name], mask, added=added)
        return x @ params["o"]

    shapes = {k: jax.ShapeDtypeStruct((WIDTH, WIDTH), "float32") for k in (*names, "o", "q")}
    x = jax.ShapeDtypeStruct((batch, size, WIDTH), "float32")
    records = jinit.predict(apply, weights=lambda path: 1e-9 if path == "q" else 1 / WIDTH)(shapes, x)

    kept = np.ones((size, size)) if mask is None else np.where(mask.any(axis=1, keepdims=True), mask, 1)
    a = kept / kept.sum(axis=1, keepdims=True)
    forward, backward = [np.eye(size)], [np.eye(size)]
    for _ in names:
        forward.append(residual**2 * forward[-1] + a @ forward[-1] @ a.T)
        backward.append(residual**2 * backward[-1] + a.T @ backward[-1] @ a)
    for k, name in enumerate(names):
        back = a.T @ backward[-2 - k] @ a
        found = records[name]
        expected = np.diag(forward[k]).mean(), np.diag(back).mean(), batch * np.sum(forward[k] * back)
        got = found.input.second_moment, found.cotangent.second_moment, found.weight_gradient.second_moment
        np.testing.assert_allclose(got, expected, rtol=error)
    np.testing.assert_allclose(records["o"].input.second_moment, np.diag(forward[-1]).mean(), rtol=error)


@pytest.mark.parametrize("residual", [0.0, 1.0])
@pytest.mark.parametrize("kind", masks(8))
def test_three_layers_in_a_row(kind: str, residual: float):
    check(24, masks(24)[kind], residual, added=residual == 0, error=0.005)


@pytest.mark.parametrize("kind", ["causal", "what is to come", "window", "blocks", "prefix", "any"])
def test_positions_in_groups(kind: str):
    """More of them than are told apart, where blocks end within groups."""
    check(300, masks(300)[kind], 1.0, added=False, error=0.02)


def test_padding_is_not_of_rows():
    """A mask of examples is no matrix of positions: its rows are no places, and values stay finite."""
    kept = np.arange(12) < np.asarray([[12], [7]])
    law = of_mask(kept[:, None, None], (2, 1, 1, 12))
    assert [r.kind for r in law.roots] == [MASK, MASK]
    assert all(r.mixing is None for r in law.roots)


def test_masks_of_different_classes_of_rows():
    """A window behind a causal mask: classes of rows of a mask are never taken together."""
    size, heads, batch = 16, 4, 2
    depth = WIDTH // heads

    def apply(params: Any, x: Any) -> Any:
        for k, how in enumerate(({"is_causal": True}, {"local_window_size": (4, 0)})):
            q, key, v = (jnp.einsum("btd,dhc->bthc", x, params[f"{n}{k}"]) for n in "qkv")
            out = jnp.einsum("bthc,hcd->btd", jax.nn.dot_product_attention(q, key, v, **how), params[f"o{k}"])
            x = x + out if not k else out
        return x

    shapes = {
        f"{n}{k}": jax.ShapeDtypeStruct((WIDTH, heads, depth), "float32") for n in "qkv" for k in (0, 1)
    }
    shapes |= {f"o{k}": jax.ShapeDtypeStruct((heads, depth, WIDTH), "float32") for k in (0, 1)}
    x = jax.random.normal(jax.random.key(0), (batch, size, WIDTH))
    predicted = jinit.predict(apply, weights=lambda path: 1 / WIDTH)(shapes, x)

    def draw(key: Any) -> Any:
        keys = dict(zip(shapes, jax.random.split(key, len(shapes)), strict=True))
        return {k: jax.random.normal(keys[k], s.shape) / WIDTH**0.5 for k, s in shapes.items()}

    agree(predicted, apply, draw, x, draws=16, error=0.05)


class Block(nn.Module):
    """A block of a language model."""

    @nn.compact
    def __call__(self, x: Any, mask: Any) -> Any:
        x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x), mask=mask)
        return x + nn.Dense(x.shape[-1])(nn.gelu(nn.Dense(4 * x.shape[-1])(nn.LayerNorm()(x))))


class LanguageModel(nn.Module):
    """Two blocks."""

    width: int
    blocks: int = 2

    @nn.compact
    def __call__(self, tokens: Any) -> Any:
        x = nn.Embed(512, self.width)(tokens)
        x = x + self.param("position", nn.initializers.normal(0.02), (1, tokens.shape[1], self.width))
        for _ in range(self.blocks):
            x = Block()(x, nn.make_causal_mask(tokens))
        return nn.Dense(512)(nn.LayerNorm()(x))


def scheme(use: Any) -> Callable[..., Any]:
    """What GPTs are drawn from."""
    last = use.path.rsplit("/", 1)[-1]
    others = {"bias": jinit.zeros, "scale": jinit.ones, "position": jinit.normal(0.02)}
    return others.get(last, jinit.lecun_normal())


@pytest.mark.slow
def test_a_language_model():
    """Two causal attentions in a row. Gradients of the second one's queries are known to be too small."""
    model = LanguageModel(256)
    tokens = jax.random.randint(jax.random.key(7), (4, 32), 0, 512)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens)
    plan = jinit.plan([("*", scheme)])
    predicted = jinit.predict(model.apply, weights=plan)(shapes, tokens)
    draw = jinit.init(model.apply, plan)
    agree(predicted, model.apply, lambda key: draw(key, shapes, tokens), tokens, draws=16, error=0.1)


@pytest.mark.slow
def test_attention_in_a_long_scan():
    """Where laws are traced, masks are followed too, though not what positions have in common.

    With queries, heads and another layer behind it a block takes minutes to compile.
    """

    def block(x: Any, params: Any) -> tuple[Any, None]:
        normalised = nn.LayerNorm(use_bias=False, use_scale=False).apply({}, x)
        scores = (normalised @ params["key"]).transpose(0, 2, 1)
        mask = jnp.tril(jnp.ones((1, size, size), bool))
        weights = jax.nn.softmax(jnp.where(mask, scores, -1e9))
        return x + weights @ (normalised @ params["value"]), None

    size, width, steps = 8, 64, LAYERS + 1
    ends = {"key": 1, "value": width}
    params = {name: jax.ShapeDtypeStruct((steps, width, end), "float32") for name, end in ends.items()}
    x = jax.ShapeDtypeStruct((2, size, width), "float32")

    def apply(params: Any, x: Any) -> Any:
        return jax.lax.scan(block, x, params)[0]

    records = jinit.predict(apply, weights=lambda path: 1 / width)(params, x)
    assert records.keys() == params.keys()
    for record in records.values():
        for moments in (record.input, record.output, record.cotangent, record.weight_gradient):
            assert moments is None or np.isfinite(moments.second_moment).all()
    np.testing.assert_allclose(records["key"].input.second_moment, np.ones(steps), rtol=0.01)


def test_resizing_mixes_what_is_next_to_each_other():
    """Weights of a resizing stand in the program: variances are sums over all positions."""
    batch, size, larger = 2, 9, 14
    names = "ab"

    def resize(x: Any, to: int) -> Any:
        return jax.image.resize(x, (x.shape[0], to, WIDTH), "linear")

    def apply(params: Any, x: Any) -> Any:
        x = resize(x @ params["a"], larger)
        return resize(x @ params["b"], 5) @ params["o"]

    shapes = {k: jax.ShapeDtypeStruct((WIDTH, WIDTH), "float32") for k in (*names, "o")}
    x = jax.ShapeDtypeStruct((batch, size, WIDTH), "float32")
    records = jinit.predict(apply, weights=lambda path: 1 / WIDTH)(shapes, x)

    up, down = (
        np.asarray(jax.image.resize(np.eye(n), (to, n), "linear")) for n, to in ((size, larger), (larger, 5))
    )
    second, third = up @ up.T, down @ up @ up.T @ down.T
    back_third = np.eye(5)
    back_second = down.T @ back_third @ down
    back = up.T @ back_second @ up
    for name, forward, backward in (
        ("a", np.eye(size), back),
        ("b", second, back_second),
        ("o", third, back_third),
    ):
        found = records[name]
        got = found.input.second_moment, found.cotangent.second_moment, found.weight_gradient.second_moment
        expected = np.diag(forward).mean(), np.diag(backward).mean(), batch * np.sum(forward * backward)
        np.testing.assert_allclose(got, expected, rtol=0.005, err_msg=name)
