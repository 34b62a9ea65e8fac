"""Which sites are to be calibrated, and to what variance."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

from jinit._errors import message
from jinit.jaxprs.sites import Site

Target = float | Sequence[tuple[str, float]] | Callable[[str], float | None]
Choice = str | Sequence[str] | Callable[[str], bool]


def check_target(target: Any, sites: Any, caller: str) -> None:
    """Raise unless `target` and `sites` are what `targets_of` takes."""
    if isinstance(target, Real) and not isinstance(target, bool):
        _variance(target, f"target={target!r}", caller)
    elif not callable(target):
        pairs = list(target) if isinstance(target, Sequence) and not isinstance(target, str) else None
        if not pairs or not all(_is_pair(p) for p in pairs):
            must = "`target` must be a variance, pairs `(pattern, variance)`, or a function of a site's name"
            raise TypeError(
                message(caller, must, f"target={target!r}", 'Such as [("*/head/*", 0.1), ("*", 1.0)].')
            )
        for pattern, variance in pairs:
            _variance(variance, f"{variance!r} for {pattern!r}", caller)
    patterns = [sites] if isinstance(sites, str) else sites
    if not callable(sites) and not (
        isinstance(patterns, Sequence) and patterns and all(isinstance(p, str) for p in patterns)
    ):
        must = "`sites` must be a pattern, several of them, or a predicate on a site's name"
        raise TypeError(message(caller, must, f"sites={sites!r}", 'Such as "*/kernel".'))


def targets_of(target: Target, chosen: Choice, sites: Sequence[Site], caller: str) -> list[float | None]:
    """The variance asked for at every site; None where nothing is."""
    names = [name for site in sites for name in site.names]
    _check_patterns(target, chosen, names, caller)
    return [_one(target, chosen, site.names, caller) for site in sites]


def _one(target: Target, chosen: Choice, names: tuple[str, ...], caller: str) -> float | None:
    found = {_wanted(target, name, caller) for name in names if _is_chosen(chosen, name)}
    if len(found) > 1:
        must = f"the parameters {', '.join(names)} make one weight and must have one target"
        raise ValueError(
            message(caller, must, ", ".join(map(str, sorted(map(str, found)))), "Name them together.")
        )
    return found.pop() if found else None


def _wanted(target: Target, name: str, caller: str) -> float | None:
    if not isinstance(target, Sequence) and not callable(target):
        return float(target)
    if callable(target):
        wanted = target(name)
        return None if wanted is None else _variance(wanted, f"{wanted!r} for {name!r}", caller)
    for pattern, variance in target:
        if _matches(pattern, name):
            return float(variance)
    must = "`target` must say what is wanted at every chosen site"
    raise ValueError(
        message(caller, must, f"nothing for {name!r}", 'End with ("*", 1.0), or choose fewer `sites`.')
    )


def is_chosen(target: Target, chosen: Choice, name: str) -> bool:
    """Whether something is wanted of the parameter at a path, be it a site or not."""
    return _is_chosen(chosen, name) and not (callable(target) and target(name) is None)


def _is_chosen(chosen: Choice, name: str) -> bool:
    if callable(chosen):
        return bool(chosen(name))
    return any(_matches(p, name) for p in ([chosen] if isinstance(chosen, str) else chosen))


def _matches(pattern: str, name: str) -> bool:
    """Whether a glob fits the whole name, or the path without the `#0` of one of several uses."""
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name.rsplit("#", 1)[0], pattern)


def _check_patterns(target: Target, chosen: Choice, names: list[str], caller: str) -> None:
    rules = [("target", p) for p, _ in target] if isinstance(target, Sequence) else []
    if not callable(chosen):
        rules += [("sites", p) for p in ([chosen] if isinstance(chosen, str) else chosen)]
    if rules and not names:
        must = "`apply` must use a parameter in a contraction or a lookup"
        advice = "`jinit.audit(apply)(params, *inputs)` shows how each parameter is used."
        raise ValueError(message(caller, must, "none that it does", advice))
    for argument, pattern in rules:
        if not any(_matches(pattern, name) for name in names):
            must = f"every pattern of `{argument}` must fit a site"
            shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
            raise ValueError(message(caller, must, repr(pattern), f"The sites are {shown}."))


def _is_pair(pair: Any) -> bool:
    is_pair = isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) == 2
    return is_pair and isinstance(pair[0], str) and isinstance(pair[1], Real)


def _variance(value: Any, got: str, caller: str) -> float:
    if not isinstance(value, Real) or not 0 < float(value) < math.inf:
        must = "a target variance must be a positive number"
        raise ValueError(
            message(caller, must, got, "The variance of the site's output, 1.0 for most networks.")
        )
    return float(value)
