"""The maximal C-map function of a model, derived from its trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jinit._errors import message
from jinit._typing import PyTree
from jinit.jaxprs.tracing import check_call, split, trace
from jinit.meanfield.layers import Broken, Known, Reader, Root, Signal, Tokens, Value, is_floating
from jinit.meanfield.subnetworks import MaximalCMap, maximal

CALLER = "jinit.meanfield.maximal_c_map(...)"


def maximal_c_map(apply: Callable[..., PyTree]) -> Callable[..., MaximalCMap]:
    r"""The maximal C-map function of a network, for `jinit.meanfield.dks` and the like, from its trace.

    What becomes of the correlation c of two inputs, if every nonlinear layer makes `layer(c)` of it, weights
    and biases keep it, and a sum of independent signals averages:

    $$c = \frac{\sum_i w_i^2 q_i c_i}{\sum_i w_i^2 q_i}.$$

    Of all subnetworks (the whole, a run of blocks, one branch of a block) the largest value counts. A
    nonlinear layer is any function of single entries that is more than a scaling and a shift, from one
    contraction or sum to the next, whatever activation stands there now, with all numbers that multiply what
    leaves it: the weights of a sum stand behind the last layer of each term. Pooling over positions counts as
    keeping correlations and second moments, as in the papers.

    Args:
      apply: any pure `(params, *inputs, **kwargs) -> outputs`, all nonlinear layers of which are to have the
        shaped activation. It should end with what leaves its last layer: a softmax has no correlation map.

    Returns:
      A function `(params, *inputs, **kwargs)`, to be called as `apply` is, to the maximal C-map function
      `(c, layer) -> c`. It has the field `depth`, the most nonlinear layers on one way through. Arrays may be
      `jax.ShapeDtypeStruct` objects. Of parameters that multiply a signal, such as the gain of a branch, the
      values are needed.

    Raises:
      TypeError: `apply` is no function.
      ValueError: a nonlinear layer gets a signal whose second moment is not one. The squared weights of every
        sum must add up to one, or the shaped activation is not what it is meant to be.
      NotImplementedError: an output depends on something that the theory of kernel shaping does not cover,
        such as attention, gates and normalisation (the equation and its line are named).

    Example:
      >>> import jax, jax.numpy as jnp, jinit
      >>> def apply(params, x):
      ...     for w in params:
      ...         x = 0.6 * x + 0.8 * (jnp.tanh(x) @ w)  # 0.36 + 0.64 = 1
      ...     return x
      >>> params = [jax.ShapeDtypeStruct((64, 64), "float32")] * 3
      >>> x = jax.ShapeDtypeStruct((8, 64), "float32")
      >>> network = jinit.meanfield.maximal_c_map(apply)(params, x)
      >>> network.depth, round(network(1.0, lambda slope: 1.1 * slope), 3)  # (0.36 + 0.64 · 1.1)³
      (3, 1.205)
      >>> shaped = jinit.meanfield.dks(jnp.tanh, maximal_c_map=network)

    References:
      Martens et al., *Deep Kernel Shaping*, 2021, for the maximal slope over subnetworks. Zhang, Botev,
      Martens, *Deep Learning without Shortcuts*, 2022, appendix B, for the maximal C-map function M, to be
      written by hand there.
    """
    check_call(apply, caller=CALLER)

    def derived(params: PyTree, *inputs: Any, **kwargs: Any) -> MaximalCMap:
        signature, arrays = split(params, inputs, kwargs)
        program = trace(apply, signature, arrays, caller=CALLER)
        count = len(program.paths)
        params_known = [None if isinstance(x, jax.ShapeDtypeStruct) else x for x in arrays[:count]]
        given: list[Value] = [Known(x) for x in params_known]
        given += [Signal(Root(0)) if is_floating(x) else Tokens() for x in arrays[count:]]
        reader = Reader()
        outs = reader.inner(program.jaxpr, given, [Known(c) for c in program.consts])
        ends = [reader.settled(x).node for x in outs if isinstance(x, Signal)]
        if broken := [x for x in outs if isinstance(x, Broken)]:
            must = "an output must be made by weights, sums and functions of single entries"
            advice = "Take what was there out of the network, or end `apply` before it."
            raise NotImplementedError(message(CALLER, must, broken[0].why, advice))
        if not ends:
            must = "an output must depend on an input"
            raise ValueError(message(CALLER, must, f"{len(outs)} outputs that do not"))
        if off := sorted(reader.network.before(ends) & reader.off_balance.keys()):
            must = "every nonlinear layer must get a signal of second moment one"
            advice = "Weigh what leaves the last layer of each term by numbers whose squares add up to one."
            raise ValueError(message(CALLER, must, reader.off_balance[off[0]], advice))
        return maximal(reader.network, ends)

    return derived
