"""Errors with four parts: who complains, what must hold, what came, what to do."""

from __future__ import annotations


def message(caller: str, must: str, got: str, advice: str = "") -> str:
    """The text of a jinit error.

    >>> print(message("jinit.normal(...)", "`stddev` must not be negative", "stddev=-1.0", "Drop the sign."))
    `jinit.normal(...)`: `stddev` must not be negative; got stddev=-1.0.
    Drop the sign.
    """
    first = f"`{caller}`: {must}; got {got}."
    return f"{first}\n{advice}" if advice else first
