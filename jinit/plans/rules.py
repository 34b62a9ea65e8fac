"""Plans: ordered rules that give every parameter of a model its initializer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jinit._errors import message
from jinit._typing import PyTree
from jinit.initializers._base import Initializer
from jinit.plans.assignment import Assignments, assigned
from jinit.plans.audit import audit_for
from jinit.plans.laws import law_of
from jinit.plans.patterns import ByRole, Pattern, is_function_of_use
from jinit.plans.uses import WeightUse


@dataclasses.dataclass(frozen=True, repr=False)
class Plan:
    """What `jinit.plan` returns: rules in order, the first that matches a parameter takes it.

    Attributes:
      rules: pairs of a pattern and an initializer, or a function from `jinit.WeightUse` to one.

    Example:
      >>> import jinit
      >>> plan = jinit.plan([("*/kernel", jinit.he_normal()), ("*", jinit.zeros)])
      >>> len(plan.rules), plan == eval(repr(plan))
      (2, True)
    """

    rules: tuple[tuple[Pattern, Any], ...]

    def assign(self, uses: Iterable[WeightUse]) -> Assignments:
        """The dry run: which rule takes which parameter, and the law it gives. Nothing is drawn.

        Args:
          uses: from `jinit.audit(apply)(params, *inputs)`.

        Returns:
          A mapping from path to `jinit.Assignment`; `str()` of it is a table.

        Raises:
          ValueError: a rule takes no parameter, or no rule takes a parameter; an initializer does not fit.
          TypeError: a predicate returns no bool, or a function of `WeightUse` no initializer.
        """
        return assigned(self.rules, uses, caller="plan.assign(...)")

    def laws(self, apply: Callable[..., PyTree]) -> Callable[..., dict[str, tuple[Any, Any]]]:
        """The exact mean and variance of every parameter, as `jinit.init` would draw it; nothing is drawn.

        Args:
          apply: any pure `(params, *inputs, **kwargs) -> outputs`.

        Returns:
          A function of `(params, *inputs, **kwargs)`, arrays or shapes, to a dict from path to `(mean,
          variance)`: numbers, or arrays `[length]` where the layers of a stack have laws of their own.
          Initializers of JAX and Flax count as those of jinit of the same name.

        Raises:
          ValueError: as `assign`; and where the law of an initializer is not known.
          NotImplementedError: layers of different laws are stacked along another axis than the first.

        Example:
          >>> import jax, jinit
          >>> apply = lambda params, x: x @ params["w"]
          >>> params = {"w": jax.ShapeDtypeStruct((8, 4), "float32")}
          >>> x = jax.ShapeDtypeStruct((2, 8), "float32")
          >>> jinit.plan([("w", jinit.he_normal())]).laws(apply)(params, x)
          {'w': (0.0, 0.25)}
        """
        caller = "plan.laws(...)"

        def laws(params: PyTree, *inputs: Any, **kwargs: Any) -> dict[str, tuple[Any, Any]]:
            uses = audit_for(caller, apply)(params, *inputs, **kwargs)
            taken = assigned(self.rules, uses, caller=caller)
            return {path: law_of(assignment, caller=caller) for path, assignment in taken.items()}

        return laws

    def __repr__(self) -> str:
        return f"jinit.plan([{', '.join(f'({pattern!r}, {init!r})' for pattern, init in self.rules)}])"


def plan(rules: Iterable[tuple[Pattern, Any]]) -> Plan:
    """A plan for `jinit.init`: ordered rules that give a whole model its initializers.

    A rule is a pair of a pattern and an initializer. The pattern is a glob over the whole path of a
    parameter, in which `*` crosses slashes (`"*/kernel"`, `"params/head/*"`), or a predicate on
    `jinit.WeightUse`, such as `jinit.role("bias")`. The first rule that matches takes the parameter. A model
    is drawn only if every parameter is taken and every rule takes one.

    In place of the initializer may stand a function from `WeightUse` to one, so that a law can depend on
    depth: `use.index` of the `use.count` kernels in the program come before. For layers stacked by a scan it
    is called for each. A function with one required argument is taken for one of these; with two or more, for
    an initializer `(key, shape, dtype)`.

    Args:
      rules: pairs `(pattern, initializer)`.

    Returns:
      A plan; equal ones compare equal. `plan.assign(jinit.audit(apply)(params, *inputs))` is the dry run.

    Raises:
      TypeError: a rule is no pair, a pattern neither text nor function, an initializer no function.
      ValueError: a pattern stands twice; there is no rule.

    Example:
      >>> import flax.linen as nn, jax, jinit
      >>> model = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(10)])
      >>> x = jax.ShapeDtypeStruct((1, 32), "float32")
      >>> params = jax.eval_shape(model.init, jax.random.key(0), x)
      >>> plan = jinit.plan([("*/kernel", jinit.he_normal()), (jinit.role("bias"), jinit.zeros)])
      >>> assigned = plan.assign(jinit.audit(model.apply)(params, x))
      >>> assigned["params/layers_2/kernel"].initializer, assigned["params/layers_2/kernel"].variance
      (jinit.he_normal().with_fans(64.0, 10.0), 0.03125)

    References:
      Zhang, Dauphin, Ma, "Fixup Initialization: Residual Learning Without Normalization", 2019, for rules
      that depend on depth.
    """
    caller = "jinit.plan(...)"
    if isinstance(rules, (str, Mapping)) or not isinstance(rules, Iterable):
        advice = "Write `jinit.plan([(pattern, initializer), …])`"
        advice += ", or `jinit.plan(rules.items())`." if isinstance(rules, Mapping) else "."
        raise TypeError(message(caller, "`rules` must be a list of pairs", f"{type(rules).__name__}", advice))
    checked = tuple(_checked(number, rule, caller) for number, rule in enumerate(rules))
    if not checked:
        raise ValueError(message(caller, "`rules` must hold at least one rule", "none"))
    seen: list[Any] = []
    for number, (pattern, _) in enumerate(checked):
        if pattern in seen:
            got = f"{pattern!r} in rules {seen.index(pattern)} and {number}"
            advice = "The first match wins, so the second would never be used: drop one."
            raise ValueError(message(caller, "a pattern must stand in one rule only", got, advice))
        seen.append(pattern)
    return Plan(checked)


def _checked(number: int, rule: Any, caller: str) -> tuple[Any, Any]:
    if not isinstance(rule, (tuple, list)) or len(rule) != 2:
        must = f"rule {number} must be a pair `(pattern, initializer)`"
        raise TypeError(message(caller, must, repr(rule)))
    pattern, init = rule
    if not isinstance(pattern, str) and not callable(pattern):
        must = f"the pattern of rule {number} must be text or a predicate on `jinit.WeightUse`"
        raise TypeError(message(caller, must, repr(pattern), 'For example "*/kernel" or jinit.role("bias").'))
    if isinstance(pattern, Initializer) or isinstance(init, ByRole):
        must = f"rule {number} must name the pattern first, then the initializer"
        raise TypeError(message(caller, must, repr(rule)))
    is_function_of_use(init, caller=caller, where=f"rule {number} ({pattern!r})")
    return pattern, init
