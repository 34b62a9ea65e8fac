"""`jinit.redraw`: some parameters of a network anew, the rest as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax

from jinit._errors import message
from jinit._typing import Key, PyTree
from jinit.jaxprs.tracing import check_call
from jinit.plans import fitting
from jinit.plans.assignment import Assignment, assigned
from jinit.plans.audit import audit_for
from jinit.plans.draw import Keys, draw, keys_of
from jinit.plans.init import abstract, distinct_paths, shardings_of
from jinit.plans.patterns import Pattern
from jinit.plans.rules import Plan
from jinit.plans.rules import plan as plan_of

_CALLER = "jinit.redraw(...)"


def redraw(apply: Callable[..., PyTree], plan: Plan | Iterable[tuple[Pattern, Any]]) -> Callable[..., PyTree]:
    """Draw anew those parameters that a plan takes, and leave the rest bit for bit as they are.

    The values are those that `jinit.init` gives for the same key and rule: drawn with the true fans of each
    parameter, by a key that depends on its path alone.

    Args:
      apply: any pure `(params, *inputs, **kwargs) -> outputs`. It is traced once, never run.
      plan: from `jinit.plan`, or its rules `[(pattern, initializer), …]`. Parameters that no rule takes stay.

    Returns:
      A function of `(key, params, *inputs, **kwargs)` that returns a tree like `params`, with the same
      structure, boxes, dtypes, metadata and shardings. Leaves that no rule takes are the same objects.

    Raises:
      TypeError: `apply` is no function, the rules are no rules, `key` is no random key.
      ValueError: a rule takes no parameter; an initializer does not fit; two parameters have one path; a
        parameter that stays is abstract; `key` is an array of keys.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp, jinit
      >>> model, x = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(3)]), jnp.ones((1, 4))
      >>> params = model.init(jax.random.key(0), x)
      >>> new_head = jinit.redraw(model.apply, [("*/layers_2/kernel", jinit.lecun_normal())])
      >>> tuned = new_head(jax.random.key(1), params, x)
      >>> tuned["params"]["layers_0"]["kernel"] is params["params"]["layers_0"]["kernel"]
      True
      >>> bool((tuned["params"]["layers_2"]["kernel"] == params["params"]["layers_2"]["kernel"]).any())
      False

    References:
      Zhang, Wu, Katiyar, Weinberger, Artzi, "Revisiting Few-sample BERT Fine-tuning", 2021, for drawing the
      top layers anew.
    """
    check_call(apply, caller=_CALLER)
    rules = as_plan(plan, caller=_CALLER).rules

    def redrawn(key: Key, params: PyTree, *inputs: Any, **kwargs: Any) -> PyTree:
        keys = single_key(key, caller=_CALLER)
        paths = distinct_paths(params, caller=_CALLER)
        uses = audit_for(_CALLER, apply)(abstract(params), *inputs, **kwargs)
        chosen = assigned(rules, uses, caller=_CALLER, every_leaf=False).values()
        refuse_abstract(params, paths, {one.path for one in chosen}, caller=_CALLER)
        fresh = draw_in_place(chosen, keys, params, paths, caller=_CALLER)
        return replaced(params, paths, fresh)

    return redrawn


def as_plan(plan: Any, *, caller: str) -> Plan:
    """A plan as it is, or one made of rules.

    Raises:
      TypeError: it is neither.
    """
    if isinstance(plan, Plan):
        return plan
    if not isinstance(plan, (list, tuple)):
        advice = "Write `[(pattern, initializer), …]`."
        raise TypeError(message(caller, "`plan` must be a plan or a list of rules", f"plan={plan!r}", advice))
    return plan_of(plan)


def single_key(key: Any, *, caller: str) -> Keys:
    """The key, which must be one.

    Raises:
      TypeError: `key` is no key.
      ValueError: it is an array of keys.
    """
    keys = keys_of(key, caller=caller)
    if keys.population is not None:
        advice = "For a population map it: `jax.vmap(f, in_axes=(0, None, None))(keys, params, x)`."
        raise ValueError(message(caller, "`key` must be one key", f"{keys.population} keys", advice))
    return keys


def refuse_abstract(params: PyTree, paths: list[str], chosen: set[str], *, caller: str) -> None:
    """Raise if a parameter that stays has no values."""
    for path, leaf in zip(paths, jax.tree.leaves(params), strict=True):
        if path not in chosen and isinstance(leaf, jax.ShapeDtypeStruct):
            advice = "To draw all parameters from shapes use `jinit.init`."
            raise ValueError(
                message(caller, "parameters that stay must be arrays", f"a shape at {path!r}", advice)
            )


def draw_in_place(
    chosen: Iterable[Assignment], keys: Keys, params: PyTree, paths: list[str], *, caller: str
) -> dict[str, Any]:
    """Path -> new values of the chosen parameters, placed as the old ones are."""
    leaves = dict(zip(paths, jax.tree.leaves(params), strict=True))
    places = shardings_of(params, list(leaves.values()), paths, keys, None, caller=caller)
    drawn = draw(chosen, keys, places, caller=caller)
    return {path: fitting.place(value, leaves[path]) for path, value in drawn.items()}


def replaced(params: PyTree, paths: list[str], fresh: dict[str, Any]) -> PyTree:
    """`params` with some leaves replaced."""
    leaves, tree = jax.tree.flatten(params)
    return jax.tree.unflatten(tree, [fresh.get(path, leaf) for path, leaf in zip(paths, leaves, strict=True)])
