"""How alike two examples are at every site, before any data: the correlation map of any network."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jinit._errors import message
from jinit._typing import Array, PyTree
from jinit.jaxprs.sites import Site
from jinit.signals.given import Plan, Variances
from jinit.signals.laws.arrays import xp
from jinit.signals.laws.by_moments import MomentRule
from jinit.signals.laws.law import Law, average, squared
from jinit.signals.laws.values import Each, Stacked, Value, by_step
from jinit.signals.run_laws import run_on_laws

CALLER = "jinit.predict_similarity(...)"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Similarity:
    """The predicted cosine similarity of two examples at one site, `E[x x'] / E[x²]`.

    Attributes:
      input: of what enters the contraction; shape `[]`, or `[length]` inside a `scan`. None in a lookup, and
        where no axis holds the examples.
      output: of what leaves it, after the bias.

    Example:
      >>> import jinit
      >>> jinit.Similarity(input=0.5, output=0.5).input
      0.5
    """

    input: Array | None = None
    output: Array | None = None


def predict_similarity(
    apply: Callable[..., PyTree],
    *,
    similarity: float,
    weights: Variances | Plan | None = None,
    rules: Mapping[Any, MomentRule] | None = None,
) -> Callable[..., dict[str, Similarity]]:
    r"""Predict how alike two examples are at every use of a weight, from how alike they are at the input.

    The cosine similarity of two examples `x` and `x'` at a site is `c = E[x x'] / E[x²]`, over draws of the
    weights. For a plain network it follows the correlation map

    $$c^{l+1} q^{l+1} = σ_w^2\, \mathbb E[φ(u) φ(v)] + σ_b^2,$$

    with `u` and `v` normal of variance `q^l` and correlation `c^l`. It tends to one where all inputs collapse
    onto one, and away from one where neighbours are torn apart. Here it is read off any model that
    `jinit.predict` can follow: its values know what all examples share.

    Args:
      apply: any pure `(params, *inputs, **kwargs) -> outputs`.
      similarity: that of any two examples, along axis 0 of every floating input, from 0 to 1.
      weights: as for `jinit.predict`.
      rules: as for `jinit.predict`.

    Returns:
      A function `(params, *inputs, **kwargs)` to a dict from the site names of `jinit.predict`, in program
      order, to `jinit.Similarity`. Floating inputs are taken as normal, of the mean square of the array, or
      one if there is only a shape.

    Raises:
      TypeError: `apply` is no function.
      ValueError: `similarity` is not from 0 to 1, no input is floating, or one has fewer than two examples;
        and as `jinit.predict`.
      NotImplementedError: as `jinit.predict`.

    Example:
      >>> import jax, jax.numpy as jnp, jinit
      >>> apply = lambda params, x: jax.nn.relu(x @ params["a"]) @ params["b"]
      >>> params = {k: jax.ShapeDtypeStruct((512, 512), "float32") for k in "ab"}
      >>> x = jax.ShapeDtypeStruct((64, 512), "float32")
      >>> alike = jinit.predict_similarity(apply, similarity=0.0, weights=lambda path: 2 / 512)(params, x)
      >>> round(float(alike["b"].input), 3)  # 1/π: no longer orthogonal
      0.318

    References:
      Poole, Lahiri, Raghu, Sohl-Dickstein, Ganguli, *Exponential expressivity in deep neural networks through
      transient chaos*, 2016, eq. 5 for the map. Cho and Saul, *Kernel methods for deep learning*, 2009, for
      that of ReLU.
    """
    if not 0 <= similarity <= 1:
        raise ValueError(message(CALLER, "`similarity` must be from 0 to 1", f"similarity={similarity}"))

    def similar(params: PyTree, *inputs: Any, **kwargs: Any) -> dict[str, Similarity]:
        read = functools.partial(_read, _examples(inputs, kwargs))
        run = run_on_laws(
            apply, weights=weights, rules=rules, backward=False, caller=CALLER, read=read,
            similarity=similarity,
        )  # fmt: skip
        return dict(run(params, *inputs, **kwargs))

    return similar


def _examples(inputs: Any, kwargs: Any) -> int:
    """How many examples the floating inputs hold."""
    leaves = [x for x in jax.tree.leaves((inputs, kwargs)) if hasattr(x, "dtype")]
    sizes = {np.shape(x)[:1] for x in leaves if jax.numpy.issubdtype(x.dtype, jax.numpy.floating)}
    if len(sizes) != 1 or not all(size and size[0] > 1 for size in sizes):
        must = "every floating input must have the examples, two or more, along axis 0, and there must be one"
        advice = "Of a model of tokens, start with what they are embedded to."
        raise ValueError(message(CALLER, must, f"sizes {sorted(sizes)}", advice))
    return sizes.pop()[0]


def _read(examples: int, site: Site, found: dict[str, Value]) -> Similarity:
    """Only signals have examples."""
    return Similarity(**{k: _of(v, examples) for k, v in found.items() if k in ("input", "output")})


def _of(value: Value, examples: int) -> Array | None:
    if isinstance(value, (Stacked, Each)):
        return by_step(value, lambda step: _of(step, examples))
    if not isinstance(value, Law) or examples not in value.shape:
        return None
    axis = value.shape.index(examples)
    own = [i for i, root in enumerate(value.roots) if axis in root.axes]
    common = average(value, of=squared(average(value, own)))
    return xp.squeeze(common / average(value, of=squared(value.nodes)))
