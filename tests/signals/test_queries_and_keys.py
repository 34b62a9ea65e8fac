"""Gradients of queries and keys, where both keys and values have something in common, against exact sums.

Scores are next to nothing, so that weights are even: `p = a`, rows of a mask over their sums. With `R` the
covariances of positions, what comes back to the scores of row `i` has those of `p_j (v_j - Σ_m p_m v_m)`,

    D_i = p_j p_k (R_jk - (R p)_j - (R p)_k + pᵀ R p),

the gradient of its query a variance of `Σ_jk D_i R`, and that of key `j` of `Σ_i D_ijj R_ii`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jinit
from tests.signals.test_masked_positions import masks

WIDTH, SIZE, BATCH = 4096, 16, 2
SMALL = 1e-3


def attend(scores: Any, values: Any, mask: np.ndarray) -> Any:
    return jax.nn.softmax(jnp.where(mask[None], scores, -1e9)) @ values


def apply(params: Any, x: Any, kind: str, shares: np.ndarray, *, norm: bool) -> Any:
    """Positions that are mixed first, then attention."""
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


def check(mask: str, kind: str, *, norm: bool, given: bool, error: float = 0.02) -> None:
    kept = masks(SIZE)[mask]
    assert kept is not None
    shares = kept / kept.sum(axis=1, keepdims=True)
    names = "emsqkvo" if kind in ("attention", "residual") else "eqkvo"
    shapes = {n: jax.ShapeDtypeStruct((WIDTH, WIDTH), "float32") for n in names}
    x: Any = jax.ShapeDtypeStruct((BATCH, SIZE, WIDTH), "float32")
    if given:
        x = jax.random.normal(jax.random.key(0), x.shape)

    def model(params: Any, x: Any) -> Any:
        return apply(params, x, kind, shares, norm=norm)

    records = jinit.predict(model, weights=lambda path: 1 / WIDTH)(shapes, x)
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
