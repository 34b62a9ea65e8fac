"""Checks on what the caller wrote, beyond those of the initializers."""

from __future__ import annotations

import inspect
import operator
from typing import Any

import jax
import numpy as np

from jinit._errors import message
from jinit.initializers._arguments import traced


def whole_numbers(caller: str, name: str, value: Any) -> tuple[int, ...]:
    """One whole number or several, NumPy's too, as a tuple of Python ints; booleans are none.

    Raises:
      TypeError: it is neither.
    """
    try:
        given = tuple(value)
    except TypeError:
        given = (value,)
    try:
        if any(isinstance(x, (bool, np.bool_)) for x in given):
            raise TypeError
        return tuple(operator.index(x) for x in given)
    except TypeError:
        must = f"`{name}` must be a whole number or a sequence of them"
        raise TypeError(message(caller, must, f"{name}={value!r}")) from None


def check_output(caller: str, output: Any) -> None:
    """Raise if `output` is no function of the outputs of a network.

    Raises:
      TypeError: it is none.
    """
    if output is None:
        return
    must = "`output` must be a function of the outputs that selects among them, or None"
    if not callable(output):
        index = f"out[{output!r}]" if isinstance(output, (int, str)) else "out[0]"
        raise TypeError(message(caller, must, f"{output=}", f"Such as `lambda out: {index}`."))
    try:
        signature = inspect.signature(output)
    except (TypeError, ValueError):  # of some built-in functions it is not known
        return
    try:
        signature.bind(None)
    except TypeError as error:
        advice = f"Called with the outputs it raises: {error}."
        raise TypeError(message(caller, must, f"a function of {signature}", advice)) from None


def refuse_traced_verdict(caller: str, spectrum: Any) -> None:
    """Raise under `jax.jit` and the like, where a spectrum has no values to tell a word from.

    Raises:
      TypeError: some field of it is traced.
    """
    for leaf in jax.tree.leaves(spectrum):
        if traced(leaf):
            must = "the spectrum must have concrete values, since a verdict is a word and no array"
            advice = (
                "Return the spectrum from `jax.jit` or `jax.vmap`, and ask for its verdict outside of it."
            )
            raise TypeError(message(caller, must, f"the tracer {leaf}", advice))
