"""What equations of a program make its values of."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

Makers = dict[Any, Any]

# Equations after which entries are what they were.
BETWEEN = ("broadcast_in_dim", "reshape", "convert_element_type")


def maker(atom: Any, makers: Makers) -> Any:
    """The equation that makes a value of others, if one does."""
    found = makers.get(atom) if not hasattr(atom, "val") else None
    return found if found is not None and found.invars else None


def before(atom: Any, makers: Makers, kinds: Collection[str] = BETWEEN) -> Any:
    """What an atom was before equations of these kinds."""
    while (made := maker(atom, makers)) is not None and made.primitive.name in kinds:
        atom = made.invars[0]
    return atom


def uncast(atom: Any, makers: Makers) -> Any:
    """What an atom was before casts."""
    return before(atom, makers, ("convert_element_type",))


def number(atom: Any) -> float | None:
    """The number that an atom is, if it is one."""
    value = getattr(atom, "val", None)
    return float(value) if value is not None and not atom.aval.shape else None


def depends_on(atom: Any, makers: Makers, given: frozenset[Any]) -> bool:
    """Whether a value is made of some of these, too."""
    left, seen = [atom], set[Any]()
    while left:
        v = left.pop()
        if hasattr(v, "val") or v in seen:
            continue
        if v in given:
            return True
        seen.add(v)
        left += makers[v].invars if v in makers else []
    return False
