"""What is wrong with a plan for a model, and what to write instead."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from jinit._errors import message
from jinit.plans.patterns import ROLES, Rule, matches
from jinit.plans.uses import WeightUse

SHOWN = 6
Taken = Mapping[str, int | None]  # from path to the number of the rule that took the parameter


def idle_rules(rules: Sequence[Rule], uses: Sequence[WeightUse], taken: Taken, caller: str) -> None:
    """Raise ValueError if a rule takes no parameter."""
    busy = set(taken.values())
    for number, (pattern, _) in enumerate(rules):
        if number in busy:
            continue
        must = f"every rule must take a parameter, but rule {number} ({pattern!r}) takes none"
        lost = [use.path for use in uses if matches(pattern, use, caller=caller)]
        if lost:
            earlier = sorted({n for path in lost if (n := taken[path]) is not None})
            named = ", ".join(f"rule {n} ({rules[n][0]!r})" for n in earlier)
            got = f"{_some(lost)}, taken before by {named}"
            advice = f"The first match wins: move rule {number} up, or drop it."
        elif isinstance(pattern, str):
            got, advice = f"no path that matches {pattern!r}", _meant(pattern, [use.path for use in uses])
        else:
            counts = Counter(use.role for use in uses)
            got = "parameters of these roles: " + ", ".join(f"{n} {r}" for r, n in sorted(counts.items()))
            advice = "`jinit.audit(apply)(params, *inputs)` shows what a predicate sees. Or drop the rule."
        raise ValueError(message(caller, must, got, advice))


def _meant(pattern: str, paths: list[str]) -> str:
    """The paths that a glob may have been meant for."""
    last = pattern.rsplit("/", 1)[-1]
    ends = sorted({path.rsplit("/", 1)[-1] for path in paths})
    if near := difflib.get_close_matches(last, ends, n=1):
        if near[0] != last:
            return f"Did you mean {pattern[: len(pattern) - len(last)] + near[0]!r}?"
        paths = [path for path in paths if path.endswith(f"/{last}")]
    near = difflib.get_close_matches(pattern, paths[:500], n=3, cutoff=0.0)
    return f"It must match the whole path; `*` crosses slashes. Near it: {', '.join(map(repr, near))}."


def untaken(uses: Sequence[WeightUse], taken: Taken, caller: str) -> None:
    """Raise ValueError if a parameter is taken by no rule."""
    left = [use for use in uses if taken[use.path] is None]
    if not left:
        return
    must = "every parameter must be taken by a rule"
    got = f"{len(left)} of {len(uses)} that none takes: " + _some([f"{u.path} ({u.role})" for u in left])
    rules = list(dict.fromkeys(_rule_for(use) for use in left))
    raise ValueError(message(caller, must, got, f"Add for example {', '.join(rules[:SHOWN])}."))


def _rule_for(use: WeightUse) -> str:
    """A rule that would take a parameter, as one would write it."""
    folder, _, last = use.path.rpartition("/")
    collection = use.path.split("/", 1)[0]
    glob = f"{collection}/*/{last}" if folder.count("/") and collection != "params" else f"*/{last}"
    if not folder or folder == collection != "params":
        glob = use.path
    init = {"kernel": "jinit.lecun_normal()", "embedding": "jinit.normal(0.02)", "scale": "jinit.ones"}
    return f'("{glob}", {"jinit.ones" if last == "var" else init.get(use.role, "jinit.zeros")})'


def no_fans(init: Any, use: WeightUse, caller: str, where: str) -> NoReturn:
    """Raise ValueError for an initializer that needs the fans of a parameter that has none."""
    must = f"{where} needs a parameter with fans, as {init!r} divides by one"
    got = f"one of role {use.role!r} and shape {use.shape}" + (f" ({use.note})" if use.note else "")
    if use.role in ("bias", "scale"):
        advice = f"For a {use.role} use `jinit.{'zeros' if use.role == 'bias' else 'ones'}`."
    else:
        advice = "State its deviation, as in `jinit.normal(0.02)`"
        advice += " or `jinit.fan_in_uniform(fan=512)`." if use.role in ROLES else "."
    raise ValueError(message(caller, must, got, advice))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
