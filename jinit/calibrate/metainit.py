"""MetaInit: scales for which a gradient step changes the gradient little."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jinit._typing import Array, PyTree, at_least_float32
from jinit.calibrate.arguments import check_arrays, check_loss_of_params, check_positive, check_search
from jinit.calibrate.learn import LearnedScales, Scales, check_loss, chosen_paths, learn, scaled
from jinit.calibrate.lsuv import replaced
from jinit.calibrate.operations import operations
from jinit.initializers._arguments import number
from jinit.jaxprs.tracing import Signature, check_params, split
from jinit.signals.observe import inexact


def gradient_quotient(loss: Callable[..., Array], *, epsilon: float = 1e-5) -> Callable[..., Array]:
    """How much one gradient step changes the gradient, relative to it.

    With the gradient `g` and the Hessian `H` of the loss, over all `N` floating parameters,

        GQ = 1/N Σ_i abs((g_i − (Hg)_i) / (g_i ± ε) − 1),    ± being the sign of g_i,

    which is 0 where the gradient is constant along itself, about 1 where it would vanish.

    Args:
      loss: `(params, *inputs, **kwargs)` -> one floating number.
      epsilon: `ε`, which keeps the quotient finite.

    Returns:
      A function of the same arguments that gives the quotient, shape `[]`; it can be jitted and
      differentiated.

    Raises:
      TypeError: `loss` is no function.
      ValueError: `epsilon` is not positive; `params` is empty; the loss is no single number.

    Example:
      >>> import jax.numpy as jnp, jinit
      >>> quotient = jinit.gradient_quotient(lambda w, x: jnp.sum(w * x))  # linear: no curvature
      >>> float(quotient(jnp.ones(3), jnp.array([1.0, 2.0, 3.0]))) < 1e-4
      True

    References:
      Dauphin and Schoenholz, *MetaInit: Initializing learning by learning to initialize*, 2019, §3.
    """
    caller = "jinit.gradient_quotient(...)"
    check_loss_of_params(caller, loss)
    check_positive(caller, epsilon=epsilon)

    def quotient(params: PyTree, *inputs: Any, **kwargs: Any) -> Array:
        signature, arrays = split(params, inputs, kwargs)
        check_params(signature, caller=caller)
        return _quotient(loss, signature, arrays, epsilon, caller)

    return quotient


def _quotient(
    loss: Callable[..., Array], signature: Signature, arrays: list[Array], epsilon: float, caller: str
) -> Array:
    floating = [i for i in range(signature.num_params) if inexact(arrays[i])]

    def value(leaves: list[Array]) -> Array:
        return check_loss(_call(loss, signature, arrays, dict(zip(floating, leaves, strict=True))), caller)

    leaves = [jnp.asarray(arrays[i]) for i in floating]
    gradients, products = jax.jvp(jax.grad(value), (leaves,), (jax.grad(value)(leaves),))
    total = jnp.zeros(())
    for g, p in zip(gradients, products, strict=True):
        shift = jnp.where(g >= 0, jnp.asarray(epsilon, g.dtype), jnp.asarray(-epsilon, g.dtype))
        total += jnp.sum(jnp.abs((g - p) / (g + shift) - 1)).astype(total.dtype)
    return total / sum(x.size for x in leaves)


def _call(
    loss: Callable[..., Array], signature: Signature, arrays: list[Array], changed: dict[int, Array]
) -> Array:
    params, inputs, kwargs = signature.arguments([changed.get(i, x) for i, x in enumerate(arrays)])
    return jnp.asarray(loss(params, *inputs, **kwargs))


def metainit(
    loss: Callable[..., Array],
    *,
    steps: int = 500,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    optimizer: optax.GradientTransformation | None = None,
    parameters: str | Sequence[str] = "*",
    epsilon: float = 1e-5,
    patience: int = 100,
) -> Callable[..., tuple[PyTree, LearnedScales]]:
    """Learn the norms of the weights by lowering the gradient quotient.

    One number a parameter, its Euclidean norm `n`, is learned by signed gradient descent with momentum on
    `jinit.gradient_quotient`; directions stay as they are. All of it is one jitted loop.

    Args:
      loss: `(params, *inputs, **kwargs)` -> one floating number.
      steps: how many steps at most.
      learning_rate: by how much a norm changes in a step.
      momentum: of the steps.
      optimizer: an optax optimizer of the norms instead of the three above together.
      parameters: globs over the paths of the parameters; of those they fit, the ones with at least two axes
        are scaled. A parameter that is stacked for a `scan` has one scale.
      epsilon: of the gradient quotient.
      patience: steps without an improvement of a thousandth after which it stops.

    Returns:
      A function `(params, *inputs, **kwargs) -> (params, LearnedScales)`, under `jax.jit` or not: the
      parameters with the lowest quotient met. The inputs may be noise: the method needs no data.

    Raises:
      TypeError: `loss` is no function, `optimizer` none of optax, a number of the wrong kind.
      ValueError: `steps` or `patience` is less than one; `learning_rate` or `epsilon` is not positive; a
      pattern fits nothing; the loss is no single number.

    Example:
      >>> import jax, jax.numpy as jnp, jinit
      >>> x = jax.random.normal(jax.random.key(0), (64, 16))
      >>> keys = jax.random.split(jax.random.key(1), 4)
      >>> params = [2 * jax.random.normal(k, (16, 16)) for k in keys]
      >>> def loss(params, x):
      ...     for w in params:
      ...         x = jnp.tanh(x @ w)
      ...     return jnp.mean((x - 1) ** 2)
      >>> calibrated, learned = jinit.metainit(loss, steps=60)(params, x)
      >>> quotient = jinit.gradient_quotient(loss)
      >>> bool(quotient(calibrated, x) < 0.9 * quotient(params, x))
      True

    References:
      Dauphin and Schoenholz, *MetaInit: Initializing learning by learning to initialize*, 2019, algorithm 1.
      There a fresh random batch is drawn each step and the last parameters are kept; here the batch is
      given, the best are kept, and a norm never falls under a thousandth of where it began.
    """
    caller = "jinit.metainit(...)"
    check_search(caller, loss, steps, patience, optimizer, parameters)
    check_positive(caller, learning_rate=learning_rate, epsilon=epsilon)
    rule = _signed(learning_rate, number(caller, "momentum", momentum, minimum=0), optimizer)

    @functools.partial(jax.jit, static_argnums=0)
    def run(signature: Signature, arrays: list[Array]) -> tuple[dict[int, Array], LearnedScales]:
        arrays = [jnp.asarray(x) for x in arrays]
        chosen = chosen_paths(parameters, signature, arrays, 2, caller)
        sizes = {path: _norm(arrays[i]) for path, i in chosen.items()}

        def objective(norms: Scales, _: Any) -> tuple[Array, Scales]:
            def quotient(norms: Scales) -> Array:
                scales = {path: n / sizes[path] for path, n in norms.items()}
                return _quotient(loss, signature, scaled(arrays, chosen, scales), epsilon, caller)

            return jax.value_and_grad(quotient)(norms)

        floor = jax.tree.map(lambda n: 1e-3 * n, sizes)
        norms, values, taken = learn(
            objective, sizes, rule, steps=steps, patience=patience, floor=floor, keep_best=True
        )
        scales = {path: n / sizes[path] for path, n in norms.items()}
        once = operations(lambda a: _call(loss, signature, a, {}), arrays) or jnp.nan
        each = operations(lambda n, a: objective(n, 0), sizes, arrays)
        learned = LearnedScales(scales, values, taken, taken.astype(jnp.float32) * (each / once))
        new = scaled(arrays, chosen, scales)
        return {i: new[i] for i in chosen.values()}, learned

    def calibrated(params: PyTree, *inputs: Any, **kwargs: Any) -> tuple[PyTree, LearnedScales]:
        signature, arrays = split(params, inputs, kwargs)
        check_arrays(signature, arrays, caller)
        changed, learned = run(signature, arrays)
        return replaced(signature, arrays, changed), learned

    return calibrated


def _signed(
    learning_rate: float, momentum: float, optimizer: optax.GradientTransformation | None
) -> optax.GradientTransformation:
    if optimizer is not None:
        return optimizer
    rate = optax.scale_by_learning_rate(learning_rate)
    return optax.chain(optax.scale_by_sign(), optax.trace(momentum), rate)


def _norm(x: Array) -> Array:
    """Euclidean norm; one for zeros, which stay zero at every scale."""
    norm = jnp.sqrt(jnp.sum(jnp.square(jnp.abs(x.astype(at_least_float32(x.dtype)))))).astype(jnp.float32)
    return jnp.where(norm > 0, norm, jnp.ones_like(norm))
