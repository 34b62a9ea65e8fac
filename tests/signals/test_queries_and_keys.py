"""Gradients of queries and keys, where both keys and values have something in common, against exact sums.

Scores are next to nothing, so that weights are even: `p = a`, rows of a mask over their sums. With `R` the
covariances of positions, what comes back to the scores of row `i` has those of `p_j (v_j - Σ_m p_m v_m)`,

    D_i = p_j p_k (R_jk - (R p)_j - (R p)_k + pᵀ R p),

the gradient of its query a variance of `Σ_jk D_i R`, and that of key `j` of `Σ_i D_ijj R_ii`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from tests.signals.test_masked_positions import masks

WIDTH, SIZE, BATCH = 4096, 16, 2
SMALL = 1e-3


def picked(scores: Any, mask: np.ndarray) -> Any:
    return jax.nn.softmax(jnp.where(mask[None], scores, -1e9))


def apply(
    params: Any, x: Any, kind: str, shares: np.ndarray, softmax: Callable[..., Any] = picked, *, norm: bool
) -> Any:
    """Positions that are mixed first, then attention."""

    def attend(scores: Any, values: Any, mask: np.ndarray) -> Any:
        return softmax(scores, mask) @ values

    mask, x = shares > 0, x @ params["e"]
    if kind == "matrix":
        x = jnp.einsum("ts,bsd->btd", jnp.asarray(shares, x.dtype), x)
    if kind in ("attention", "residual"):
        mixed = attend(1e-6 * x @ params["s"] @ x.transpose(0, 2, 1), x @ params["m"], mask)
        x = mixed if kind == "attention" else x + mixed
    if norm:
        x = x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-12)
    q, k, v = (x @ params[n] for n in "qkv")
    return attend(SMALL * q @ k.transpose(0, 2, 1), v, mask) @ params["o"]


def expected(kind: str, a: np.ndarray, *, norm: bool) -> dict[str, tuple[float, float]]:
    """Second moments of cotangents and weight gradients of queries and keys."""
    r = {"none": np.eye(SIZE), "residual": np.eye(SIZE) + a @ a.T}.get(kind, a @ a.T)
    if norm:
        r = r / np.sqrt(np.outer(np.diag(r), np.diag(r)))
    back = []
    for p in a:
        common = r @ p
        back.append(np.outer(p, p) * (r - common[:, None] - common + p @ common))
    queries = np.array([np.sum(d * r) for d in back])
    keys = np.array(sum(np.diag(d) * r[i, i] for i, d in enumerate(back)))
    scale, own = SMALL**2 * WIDTH, BATCH * np.sum(queries * np.diag(r))
    return {"q": (scale * queries.mean(), scale * own), "k": (scale * keys.mean(), scale * own)}


def check(
    mask: str, kind: str, *, norm: bool, given: bool, error: float = 0.02, softmax: Any = picked
) -> None:
    kept = masks(SIZE)[mask]
    assert kept is not None
    shares = kept / kept.sum(axis=1, keepdims=True)
    names = "emsqkvo" if kind in ("attention", "residual") else "eqkvo"
    shapes = {n: jax.ShapeDtypeStruct((WIDTH, WIDTH), "float32") for n in names}
    x: Any = jax.ShapeDtypeStruct((BATCH, SIZE, WIDTH), "float32")
    if given:
        x = jax.random.normal(jax.random.key(0), x.shape)

    def model(params: Any, x: Any) -> Any:
        return apply(params, x, kind, shares, softmax, norm=norm)

    records: Any = jinit.predict(model, weights=lambda path: 1 / WIDTH)(shapes, x)
    for name, wanted in expected(kind, shares, norm=norm).items():
        found = records[name].cotangent, records[name].weight_gradient
        np.testing.assert_allclose([f.second_moment for f in found], wanted, error, 1e-6, err_msg=name)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("kind", ["none", "matrix", "attention", "residual"])
@pytest.mark.parametrize("given", [False, True])
def test_behind_a_causal_mask(kind: str, norm: bool, given: bool):
    """Of positions of any variance, and of inputs that are an array, whose few percent in common are felt."""
    check("causal", kind, norm=norm, given=given)


@pytest.mark.slow
@pytest.mark.parametrize("mask", ["what is to come", "window", "blocks", "prefix", "packed", "any"])
@pytest.mark.parametrize("kind", ["matrix", "attention", "residual"])
@pytest.mark.parametrize("norm", [False, True])
def test_behind_any_mask(mask: str, kind: str, norm: bool):
    check(mask, kind, norm=norm, given=False, error=0.05)


@pytest.mark.parametrize(
    "softmax",
    [
        lambda scores, mask: jax.nn.softmax(scores, where=mask[None]),
        lambda scores, mask: jax.nn.softmax(scores, where=jnp.broadcast_to(mask, scores.shape)),
        lambda scores, mask: jax.nn.softmax(scores + np.where(np.stack([mask] * BATCH), 0, -1e9)),
    ],
    ids=["where", "where, broadcast", "the same for each example"],
)
def test_masks_that_are_said_again(softmax: Any):
    """Behind the softmax as well, and for every example."""
    check("causal", "residual", norm=True, given=False, softmax=softmax)


def test_one_head_of_keys_for_all_queries():
    """What is the same for all heads behind a transpose of two axes comes to differ by position."""
    depth = 32

    def model(params: Any, x: Any) -> Any:
        for i in range(2):
            q, k, v = (
                (x @ params[f"{n}{i}"]).reshape(*x.shape[:2], -1, depth) for n in ("query", "key", "value")
            )
            out = jax.nn.dot_product_attention(q, k, v, is_causal=True)
            x = x + out.reshape(x.shape) @ params[f"out{i}"]
        return x

    width = 128
    shapes = {
        f"{n}{i}": jax.ShapeDtypeStruct((width, depth if n in ("key", "value") else width), "float32")
        for n in ("query", "key", "value", "out")
        for i in range(2)
    }
    x = jax.random.normal(jax.random.key(0), (BATCH, SIZE, width))
    records: Any = jinit.predict(model, weights=lambda path: 1 / width)(shapes, x)
    np.testing.assert_allclose(records["query0"].input.second_moment, np.mean(np.square(x)), rtol=1e-4)
    for record in records.values():
        assert np.isfinite(record.weight_gradient.second_moment)
