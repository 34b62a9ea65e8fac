"""Which of the parameters a training changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax.core import FrozenDict

from jinit._typing import PyTree


def trained_part(params: PyTree) -> tuple[PyTree, Callable[[PyTree], PyTree]]:
    """What a gradient step may change, and a function that puts it back among the rest.

    Of the variables of a linen module that is the collection `params`; batch statistics and others are held.
    Anything else is trained whole. Paths of parameters stay what they are.

    >>> part, whole = trained_part({"params": {"w": 1.0}, "batch_stats": {"mean": 0.5}})
    >>> part, whole({"params": {"w": 2.0}})
    ({'params': {'w': 1.0}}, {'params': {'w': 2.0}, 'batch_stats': {'mean': 0.5}})
    """
    if not isinstance(params, (dict, FrozenDict)) or "params" not in params or len(params) == 1:
        return params, lambda part: part
    kind: Any = type(params)

    def whole(part: PyTree) -> PyTree:
        return kind({**params, **part})

    return kind({"params": params["params"]}), whole
