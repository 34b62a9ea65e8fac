"""What a layer with known fans is."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from tests.zoos.member import Call

Fans = dict[str, tuple[float, float | None]]


@dataclasses.dataclass(frozen=True)
class Member:
    """A model, and what a person says of its weights.

    Attributes:
      make: gives `(apply, params, inputs, kwargs)`.
      fans: path of every leaf that has fans -> (fan-in, fan-out).
      roles: path -> role, of those leaves whose name does not tell it.
    """

    make: Callable[[], Call]
    fans: Fans
    roles: dict[str, str]


MEMBERS: dict[str, Member] = {}


def enter(name: str, make: Callable[[], Call], fans: Fans, **roles: str) -> None:
    """Enters a model into the table; roles are given as `role="path path"`."""
    of_paths = {path: role for role, paths in roles.items() for path in paths.split()}
    assert name not in MEMBERS
    MEMBERS[name] = Member(functools.cache(make), fans, of_paths)


def entry(fans: Fans, **roles: str) -> Callable[[Callable[[], Call]], Callable[[], Call]]:
    """Enters a factory under its own name."""

    def decorate(make: Callable[[], Call]) -> Callable[[], Call]:
        enter(make.__name__, make, fans, **roles)
        return make

    return decorate


def one(fan_in: float, fan_out: float | None, path: str = "params/kernel") -> Fans:
    """The fans of a layer with one kernel."""
    return {path: (fan_in, fan_out)}


def under(prefix: str, fans: Fans) -> Fans:
    """The same leaves, under a longer path."""
    return {f"{prefix}{path}": pair for path, pair in fans.items()}


def plain(apply: Callable[..., Any], params: Any, *inputs: Any) -> Call:
    """A call without options."""
    return apply, params, inputs, {}
