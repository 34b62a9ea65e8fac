"""A weight that meets what it made the other way around, as in `relu(x W) Wᵀ` or behind a derivative.

Let `y = W s`, of `n` terms, where `s` is a function of `t = Wᵀ r` entry by entry. As for independent weights
`y` has a normal part of covariance `σ² Σ s sᵀ`; and beside it, since every `W_ai² r_a` is in `t_i` already,

    y_a = ŷ_a + σ² Σ_i E[∂s_i / ∂t_i] r_a,  where  E[∂s / ∂t] = E[s t] / E[t²],

and of several `r` and `t` that of each, `E[t tᵀ]⁻¹ E[s t]`, given what is the same for all `i` (Bayati and
Montanari, *The dynamics of message passing on dense graphs*, 2011; Yang, *Tensor programs III*, 2021).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jinit.signals.laws.arrays import is_traced
from jinit.signals.laws.law import Axes, Law, average, mean_square, without
from jinit.signals.laws.roots import COTANGENT, Root
from jinit.signals.laws.uses import RANK, How, Use, square_of
from jinit.signals.laws.values import Held, Value, held

# The value of a function of values, as if it stood in the program.
Run = Callable[[Callable[..., Any], list[Any], Hashable], Any]
# The sum of two, computed once.
Add = Callable[[Value, Value, Hashable], Any]


def beside_made(
    out: Law, signal: Any, how: How, weight: Value, uses: Sequence[Use], run: Run, add: Add, name: Hashable
) -> Law:
    """`out`, the normal part of a contraction, and what its signal owes to other uses of the weight.

    Args:
      out: law of the contraction, as of a new weight.
      signal: what is contracted.
      how: how the weight meets it.
      weight: an array, or its law.
      uses: what it met the other way around.
      run: from the interpreter.
      add: from what the weights met.
      name: of the place.
    """
    for linear in (False, True):
        same = [u for u in uses if u.out.is_linear == linear and _fits(out, signal, how, u)]
        if same:
            count = square_of(weight) * math.prod(signal.shape[i] for i in how.axes)
            out = _beside(out, signal, frozenset(how.axes), count, same, run, add, (name, linear))
    return out


def _beside(
    out: Law, signal: Law, axes: Axes, count: float, uses: Sequence[Use], run: Run, add: Add, name: Hashable
) -> Law:
    """The same of uses that all made gradients, or all none; `count` is `σ²` times the number of terms."""
    made = [use.out for use in uses]
    if made[0].is_linear:
        met: list[Value] = [_product_of_gradients(signal, t, add, (name, k)) for k, t in enumerate(made)]
    else:
        met = [_product(signal, t, axes, run, (name, k)) for k, t in enumerate(made)]
    among = [[_mean_product(u, v, add, (name, i, k)) for k, v in enumerate(made)] for i, u in enumerate(made)]
    shares = count * np.linalg.pinv(np.array(among), rcond=RANK)

    def together(y: Any, *others: Any) -> Any:
        signals, products = others[: len(uses)], others[len(uses) :]
        for row, r in zip(shares, signals, strict=True):
            y = y + r * sum(p * jnp.asarray(share, y.dtype) for share, p in zip(row, products, strict=True))
        return y

    found = run(together, [out, *(use.signal for use in uses), *met], (name, "sum"))
    return found if isinstance(found, Law) else out


def _fits(out: Law, signal: Any, how: How, use: Use) -> bool:
    """Whether the results of either use have the axes of the signals of the other."""
    theirs, t, r = use.how, use.out, use.signal
    assert isinstance(theirs, How)
    at = how.axes == theirs.axes == how.free_axes(len(out.shape)) == theirs.free_axes(len(t.shape))
    if not at or not isinstance(signal, Law) or not isinstance(r, (Law, Held)) or not mean_square(t) > 0:
        return False
    same = (
        t.shape == signal.shape and r.shape == out.shape and len({x.dtype for x in (signal, t, r, out)}) == 1
    )
    return same and _may_depend(signal, t, how.axes)


def _product(signal: Law, made: Law, axes: Axes, run: Run, name: Hashable) -> Law:
    """The mean of what is made times the signal, given what is the same along these axes."""
    product = run(jnp.multiply, [signal, made], (name, "product"))
    over = [i for i, r in enumerate(product.roots) if r.axes & axes]
    shape = tuple(1 if i in axes else n for i, n in enumerate(product.shape))
    mean = without(product, over, average(product, over))
    return dataclasses.replace(mean, shape=shape, origin=(name, "share"))


def _product_of_gradients(signal: Law, made: Law, add: Add, name: Hashable) -> Held:
    """The same of gradients, whatever they are given: their products are not known entry by entry."""
    return held(np.asarray(_mean_product(signal, made, add, name), made.dtype))


def _mean_product(a: Law, b: Law, add: Add, name: Hashable) -> float:
    """By polarization, as products of gradients are not known entry by entry."""
    if a is b:
        return mean_square(a)
    both = add(a, b, (name, "both"))
    return (mean_square(both) - mean_square(a) - mean_square(b)) / 2


def _may_depend(signal: Law, made: Law, axes: tuple[int, ...]) -> bool:
    """Whether a signal may be a function of what was made, on average along these axes."""
    if is_traced(signal.nodes):
        return False
    if made.is_linear or not signal.is_linear:
        return made.is_linear == signal.is_linear
    # A gradient is one only times what comes back to the model's outputs, where that is the same for all.
    return any(_is_of_output(r) and r.axes.isdisjoint(axes) for r in signal.roots)


def _is_of_output(root: Root) -> bool:
    return root.kind == COTANGENT and isinstance(root.name, tuple) and root.name[0] == COTANGENT
