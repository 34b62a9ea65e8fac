"""Errors with four parts: who complains, what must hold, what came, what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


def message(caller: str, must: str, got: str, advice: str = "") -> str:
    """The text of a jinit error.

    >>> print(message("jinit.normal(...)", "`stddev` must not be negative", "stddev=-1.0", "Drop the sign."))
    `jinit.normal(...)`: `stddev` must not be negative; got stddev=-1.0.
    Drop the sign.
    """
    first = f"`{caller}`: {must}; got {got}."
    return f"{first}\n{advice}" if advice else first


@contextlib.contextmanager
def speaking_as(caller: str, inner: str) -> Iterator[None]:
    """Complaints of the function `inner`, and its notes, in the name of `caller`, which the user called.

    >>> with speaking_as("jinit.recommend(...)", "jinit.compare(...)"):
    ...     raise ValueError(message("jinit.compare(...)", "`seeds` must be positive", "seeds=0"))
    Traceback (most recent call last):
    ValueError: `jinit.recommend(...)`: `seeds` must be positive; got seeds=0.
    """

    def renamed(text: Any) -> Any:
        theirs = isinstance(text, str) and text.startswith(f"`{inner}")
        return f"`{caller}{text[len(inner) + 1 :]}" if theirs else text

    try:
        yield
    except Exception as error:
        error.args = tuple(map(renamed, error.args))
        if hasattr(error, "__notes__"):
            error.__notes__[:] = [renamed(note) for note in error.__notes__]
        raise
