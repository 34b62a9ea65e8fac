"""Spectra from products alone: Golub-Kahan bidiagonalization from random probes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jinit._typing import Array, Key
from jinit.spectra.spectrum import Spectrum, moments_of, standard_error

Product = Callable[[Array], Array]


def estimated_spectrum(
    push: Product, pull: Product, shape: tuple[int, int], dtype: Any, *, key: Key, probes: int, steps: int
) -> Spectrum:
    """The spectrum of a matrix known by its products `push(v) = A v` and `pull(u) = Aᵀ u`.

    A probe is a random unit vector `v` on the smaller side, where `E[vᵀ f(AᵀA) v] = (1/k) Σ f(s²)`. From it
    `steps` steps give a bidiagonal matrix whose singular values and first components are the nodes and
    weights of a Gauss quadrature of the left side, exact for polynomials in `s²` up to degree 2·steps − 1.

    Args:
      push: product with the matrix.
      pull: product with its transpose.
      shape: `(rows, columns)`.
      dtype: of the vectors.
      key: consumed.
      probes: number of probes.
      steps: number of steps from each; each costs two products.
    """
    rows, columns = shape
    if rows < columns:  # the same singular values, without the zeros that fill up the larger side
        push, pull = pull, push
    small, large = min(shape), max(shape)
    steps = min(steps, small)
    starts = jax.random.normal(key, (probes, small), dtype)
    starts = starts / jnp.linalg.norm(starts, axis=-1, keepdims=True)
    found = lax.map(lambda v: _bidiagonalize(push, pull, v, large, steps), starts)
    nodes, weights, residuals = jax.vmap(_ritz)(*found)
    by_probe = moments_of(nodes, weights)
    best = jnp.argmax(nodes)
    return Spectrum(
        singular_values=None,
        largest=nodes.ravel()[best],
        largest_error=residuals.ravel()[best],
        moments=jnp.mean(by_probe, axis=0),
        moments_error=standard_error(by_probe, axis=0),
        nodes=nodes,
        weights=weights,
        shape=shape,
    )


def _bidiagonalize(push: Product, pull: Product, start: Array, large: int, steps: int) -> tuple[Array, Array]:
    """Diagonal `α` and superdiagonal `β`, `[steps]` each; the last `β` leads out of the matrix.

    Vectors are kept orthogonal to all before them: without that, rounding brings copies of what has
    converged. Where a new vector is nothing but rounding, the space is exhausted and zeros follow.
    """
    eps = jnp.finfo(start.dtype).eps
    product = functools.partial(jnp.matmul, precision="highest")

    def normed(x: Array, basis: Array, scale: Array) -> tuple[Array, Array]:
        for _ in range(2):
            x = x - product(basis.T, product(basis, x))
        norm = jnp.linalg.norm(x)
        some = norm > jnp.asarray(16 * eps, x.dtype) * scale
        unit = jnp.where(some, x / jnp.where(some, norm, jnp.ones_like(norm)), jnp.zeros_like(x))
        return unit, jnp.where(some, norm, jnp.zeros_like(norm))

    def step(state: Any, j: Array) -> Any:
        v, us, vs, scale = state
        vs = vs.at[j].set(v)
        u = push(v)
        scale = jnp.maximum(scale, jnp.linalg.norm(u))
        u, alpha = normed(u, us, scale)
        us = us.at[j].set(u)
        v, beta = normed(pull(u), vs, scale)
        return (v, us, vs, scale), (alpha, beta)

    bases = jnp.zeros((steps, large), start.dtype), jnp.zeros((steps, start.size), start.dtype)
    state = (start, *bases, jnp.zeros((), start.dtype))
    return lax.scan(step, state, jnp.arange(steps))[1]


def _ritz(alpha: Array, beta: Array) -> tuple[Array, Array, Array]:
    """Singular values of the bidiagonal matrix, their weights, and bounds on their distance to true ones."""
    left, values, right = jnp.linalg.svd(jnp.diag(alpha) + jnp.diag(beta[:-1], 1))
    return values, right[:, 0] ** 2, jnp.abs(beta[-1] * left[-1])
