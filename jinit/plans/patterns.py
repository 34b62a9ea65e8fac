"""The two halves of a rule: patterns that take parameters, and what may stand for an initializer."""

from __future__ import annotations

import dataclasses
import fnmatch
import inspect
from collections.abc import Callable
from typing import Any, get_args

import numpy as np

from jinit._errors import message
from jinit.initializers import _arguments as arguments
from jinit.initializers._base import Initializer
from jinit.plans.uses import Role, WeightUse

Pattern = str | Callable[[WeightUse], bool]
Rule = tuple[Pattern, Any]
ROLES = get_args(Role)


@dataclasses.dataclass(frozen=True, repr=False)
class ByRole:
    """A predicate: whether the role of a parameter is one of these."""

    roles: tuple[str, ...]

    def __call__(self, use: WeightUse) -> bool:
        """Whether the role of this parameter is one of `roles`."""
        return use.role in self.roles

    def __repr__(self) -> str:
        return f"jinit.role({', '.join(map(repr, self.roles))})"


def role(*roles: str) -> ByRole:
    """The pattern of a rule that takes parameters by what they do in the program.

    Args:
      *roles: at least one of `"kernel"`, `"embedding"`, `"bias"`, `"scale"`, `"other"` and `"unused"`, as
        `jinit.WeightUse` defines them.

    Returns:
      A predicate on `jinit.WeightUse`, for `jinit.plan`.

    Raises:
      ValueError: for an unknown role, or none.

    Example:
      >>> import jinit
      >>> jinit.plan([(jinit.role("kernel"), jinit.he_normal()), (jinit.role("bias", "other"), jinit.zeros)])
      jinit.plan([(jinit.role('kernel'), jinit.he_normal()), (jinit.role('bias', 'other'), jinit.zeros)])
    """
    caller = "jinit.role(...)"
    if not roles:
        raise ValueError(message(caller, "at least one role must be named", "none", f"One of {ROLES}."))
    return ByRole(tuple(arguments.choice(caller, "roles", name, ROLES) for name in roles))


def is_function_of_use(init: Any, *, caller: str, where: str) -> bool:
    """Whether this is a function `WeightUse -> initializer`, rather than an initializer.

    Raises:
      TypeError: if it can be neither.
    """
    if isinstance(init, Initializer):
        return False
    required = _required(init) if callable(init) else 0
    if required:
        return required == 1
    must = f"{where} must give an initializer, or a function from `jinit.WeightUse` to one"
    advice = "Did you forget the ()?" if inspect.isfunction(init) else "For example `jinit.he_normal()`."
    raise TypeError(message(caller, must, repr(init), advice))


def _required(function: Callable[..., Any]) -> int:
    """The number of positional arguments that a call must give; 0 where this can't be told."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 0
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is p.empty for p in parameters)


def matches(pattern: Pattern, use: WeightUse, *, caller: str) -> bool:
    """Whether a pattern takes a parameter.

    Raises:
      TypeError: a predicate returns no bool. Whatever else it raises comes through, with a note.
    """
    if isinstance(pattern, str):
        return fnmatch.fnmatchcase(use.path, pattern)
    try:
        answer = pattern(use)
    except Exception as error:
        error.add_note(f"`{caller}`: raised by the pattern {pattern!r} for {use.path!r}.")
        raise
    if not isinstance(answer, (bool, np.bool_)):
        must = f"the predicate {pattern!r} must return True or False"
        raise TypeError(message(caller, must, f"{answer!r} for {use.path!r}"))
    return bool(answer)
