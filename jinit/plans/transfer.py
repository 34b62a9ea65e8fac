"""`from_pretrained`: start from the parameters of another training."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

import jax

from jinit._errors import message
from jinit._typing import PyTree
from jinit.plans import fitting
from jinit.plans.fitting import UnfitError, describe
from jinit.plans.matching import Rename, as_array, closest, is_array, named_leaves, prefix_hint, renamed
from jinit.plans.transferred import Transfer, TransferredLeaf
from jinit.plans.uses import WeightUse

Mismatch = Literal["error", "keep", "slice", "tile", "resize"] | Callable[[Any, Any], Any]
Rules = Sequence[tuple[str, Any]]
_CALLER = "jinit.from_pretrained(...)"
_CHOICES = {
    "missing": ("error", "keep"),
    "extra": ("error", "drop"),
    "mismatch": ("error", "keep", "slice", "tile", "resize"),
}


def from_pretrained(
    params: PyTree,
    pretrained: PyTree,
    *,
    missing: Literal["error", "keep"] | Rules = "error",
    extra: Literal["error", "drop"] | Rules = "error",
    mismatch: Mismatch | Rules = "error",
    rename: Rename | None = None,
    uses: Sequence[WeightUse] | None = None,
) -> tuple[PyTree, Transfer]:
    """Pre-trained values for the leaves of `params`, each matched by its path, and a report on every leaf.

    The result has the structure of `params`, with its boxes and variable metadata, dtypes and shardings; only
    values come from `pretrained`. Nothing is skipped in silence: what does not fit is an error that lists
    it, unless a policy says what to do. A policy is one word for all leaves, or a list of rules
    `(pattern, word)`: the first whose glob matches the whole path decides (`*` crosses slashes), and where
    none does it is an error.

    If the shapes differ but not the number of axes, `mismatch` may be one of these, n being the size of an
    axis in `pretrained` and m in `params`:

    - `"slice"`: the leading m of n ≥ m entries on every axis, values as they are. A sliced kernel sums fewer
      products, so that its outputs have about m/n of the second moment; `measure` tells, `lsuv` mends it.
    - `"tile"`: entry i is entry i mod n, n ≤ m. With `uses`, entries along a summed axis (inputs, receptive
      field) are divided by the number of their copies. Then dense and convolution layers with entrywise
      activations that are all widened compute the same function as before, every unit in copies, and a stem
      for 3 channels keeps its response to grey images. Copies get equal gradients until dropout or noise
      tells them apart. Without `uses` no entry is changed.
    - `"resize"`: linear interpolation along the axes that differ (antialiased where m < n): position tables,
      convolution taps. With `uses`, taps are scaled by n/m, which keeps their sum, and interpolating among
      the units of a kernel is refused. A grid stored as one axis needs a function.
    - a function `(value, leaf) -> array`, `leaf` being that of `params`, for anything else.
    - `"keep"`: the leaf of `params` as it is.

    Args:
      params: the model's own parameters, freshly drawn, or `jax.ShapeDtypeStruct` where nothing is kept.
      pretrained: any tree of arrays: nested dicts, a linen variables dict, an `nnx.State`, what msgpack or
        Orbax restores, or a flat dict with keys `a/b/c`. Flat keys `a.b.c` are read as `a/b/c` where the
        model's names have no dot. A box adds nothing to a path, nor does its key `value` in a state dict.
      missing: for leaves that `pretrained` does not have: `"error"`, or `"keep"` the value in `params`.
      extra: for leaves that `params` does not have: `"error"`, or `"drop"`.
      mismatch: for leaves of another shape, or another kind of number (integers for floats): `"error"`,
        `"keep"`, `"slice"`, `"tile"`, `"resize"`, or a function. Another dtype of the same kind is cast.
      rename: `{old prefix: new prefix}` for paths of `pretrained`, the longest that fits, or a function of
        the path. `{"": "params"}` puts a prefix before all, `{"params": ""}` takes it off.
      uses: `jinit.audit(apply)(params, *inputs)`: which axes of a kernel are summed over.

    Returns:
      The parameters, and a `Transfer` that says what became of every leaf.

    Raises:
      ValueError: leaves are missing, extra or don't fit, with the paths that come closest; two leaves have
        one path; a rule or prefix matches nothing; a cast would overflow.
      TypeError: a policy is none of the words above, or a leaf is no array.

    Example:
      >>> import jax.numpy as jnp, jinit
      >>> params = {"body": jnp.zeros((2, 2)), "head": jnp.zeros((2, 5)), "position": jnp.zeros((9, 2))}
      >>> old = {"body": jnp.ones((2, 2)), "head": jnp.ones((2, 1000)), "position": jnp.ones((4, 2))}
      >>> params, transfer = jinit.from_pretrained(
      ...     params, old, mismatch=[("head", "keep"), ("position", "resize")]
      ... )
      >>> print(transfer)
      jinit transfer: 1 taken, 1 kept, 1 resized
        taken     body      (2, 2)
        kept      head      (2, 1000) → (2, 5)
        resized   position  (4, 2) → (9, 2)

    References:
      Chen, Goodfellow, Shlens, "Net2Net", 2016, section 3.1 (`"tile"`; there the copied units are drawn at
      random). Carreira, Zisserman, "Quo Vadis, Action Recognition?", 2017, section 2.4 (copies divided by
      their number). Xu et al., "Initializing Models with Larger Ones", 2024 (`"slice"`; there entries are
      evenly spaced, and the leading ones do as well).
    """
    policies = {
        "missing": _policy("missing", missing),
        "extra": _policy("extra", extra),
        "mismatch": _policy("mismatch", mismatch),
    }
    if isinstance(pretrained, (str, os.PathLike)):
        must = "`pretrained` must be a tree of arrays"
        advice = "Load the file first, with Orbax, `flax.serialization.msgpack_restore` or `numpy.load`."
        raise TypeError(message(_CALLER, must, f"pretrained={pretrained!r}", advice))
    targets = named_leaves(params, caller=_CALLER, name="params")
    sources = named_leaves(pretrained, caller=_CALLER, name="pretrained")
    found = renamed(sources, targets, rename, caller=_CALLER)
    for name, paths in (("missing", targets), ("extra", found), ("mismatch", targets)):
        _refuse_idle(name, policies[name], list(paths))
    roles = {use.path: use for use in uses or ()}
    take = _Taking(policies, roles)
    leaves = [take.leaf(path, leaf, found.get(path), sources) for path, leaf in targets.items()]
    for path in found:
        if path not in targets:
            take.extra(path, found[path], sources[found[path]])
    if take.problems:
        raise ValueError(_refusal(take, list(targets), list(found)))
    return jax.tree.unflatten(jax.tree.structure(params), leaves), Transfer(tuple(take.log))


@dataclasses.dataclass(frozen=True)
class _Problem:
    """One leaf that does not fit: `kind` is the name of the argument that would settle it."""

    kind: str
    path: str
    text: str


@dataclasses.dataclass
class _Taking:
    """Collects what happens and what does not fit, so that an error can show all of it."""

    policies: dict[str, list[tuple[str, Any]]]
    uses: dict[str, WeightUse]
    log: list[TransferredLeaf] = dataclasses.field(default_factory=list)
    problems: list[_Problem] = dataclasses.field(default_factory=list)

    def leaf(self, path: str, leaf: Any, source: str | None, sources: dict[str, Any]) -> Any:
        """The new value of a leaf of `params`."""
        if not is_array(leaf):
            self.log.append(TransferredLeaf(path, "held", source or "", note=describe(leaf)))
            return leaf
        if source is None:
            return self.keep("missing", path, leaf, None, "", "not in `pretrained`")
        value = as_array(sources[source])
        if value is None:
            must = "every leaf of `pretrained` must be an array"
            advice = "Pass concrete arrays." if is_array(sources[source]) else ""
            raise TypeError(message(_CALLER, must, f"{describe(sources[source])} at {source}", advice))
        try:
            return self.fitted(path, leaf, source, value)
        except UnfitError as reason:
            return self.keep("mismatch", path, leaf, value, source, str(reason))

    def fitted(self, path: str, leaf: Any, source: str, value: Any) -> Any:
        """`value` in the shape and dtype of `leaf`, at its place."""
        new, action, note = value, "taken", ""
        policy = _chosen(self.policies["mismatch"], path)
        alike = fitting.kind(value.dtype) == fitting.kind(leaf.dtype)
        if value.shape != leaf.shape or not alike:
            if callable(policy):
                new, action = fitting.convert(policy, value, leaf), "converted"
            elif not alike or policy not in fitting.FITS:
                raise UnfitError(_unlike(value, leaf) if alike else "another kind of number")
            else:
                new, note = fitting.FITS[policy](value, leaf, self.uses.get(path))
                action = fitting.DONE[policy]
        new = fitting.place(fitting.cast(new, leaf.dtype), leaf)
        self.log.append(_entry(path, action, leaf, source, value, note))
        return new

    def keep(self, name: str, path: str, leaf: Any, value: Any, source: str, reason: str) -> Any:
        """The leaf as it is, if the policy `name` says so."""
        there = "" if value is None else f"{describe(value)} there, {describe(leaf)} here"
        why = "; ".join(part for part in (there, reason) if part)
        if _chosen(self.policies[name], path) != "keep":
            self.problems.append(_Problem(name, path, why))
        elif isinstance(leaf, jax.ShapeDtypeStruct):
            self.problems.append(_Problem(name, path, "to be kept, but `params` has only its shape"))
        self.log.append(_entry(path, "kept", leaf, source, value, reason))
        return leaf

    def extra(self, path: str, source: str, leaf: Any) -> None:
        """Log a leaf that the model does not have."""
        if _chosen(self.policies["extra"], path) != "drop":
            self.problems.append(_Problem("extra", path, describe(leaf)))
        shape, dtype = (tuple(leaf.shape), _name(leaf.dtype)) if is_array(leaf) else (None, "")
        self.log.append(TransferredLeaf(source, "dropped", source, shape, dtype, shape, dtype))


def _entry(path: str, action: Any, leaf: Any, source: str, value: Any, note: str) -> TransferredLeaf:
    there = (None, "") if value is None else (tuple(value.shape), _name(value.dtype))
    return TransferredLeaf(path, action, source, tuple(leaf.shape), _name(leaf.dtype), *there, note)


def _unlike(value: Any, leaf: Any) -> str:
    if sorted(value.shape) != sorted(leaf.shape):
        return ""
    return "the same axes in another order: PyTorch stores outputs first"


def _name(dtype: Any) -> str:
    return getattr(dtype, "name", str(dtype))


def _policy(name: str, given: Any) -> list[tuple[str, Any]]:
    """The argument `name` as rules, checked."""
    rules = [("*", given)] if isinstance(given, str) or callable(given) else given
    pairs = isinstance(rules, (list, tuple)) and all(
        isinstance(r, (list, tuple)) and len(r) == 2 for r in rules
    )
    if not pairs or not all(isinstance(pattern, str) for pattern, _ in rules):
        must = f"`{name}` must be one of its words or a list of `(pattern, word)`"
        raise TypeError(message(_CALLER, must, f"{name}={given!r}", f"Words: {', '.join(_CHOICES[name])}."))
    for _, word in rules:
        if word not in _CHOICES[name] and not (name == "mismatch" and callable(word)):
            words = ", ".join(f'"{w}"' for w in _CHOICES[name])
            other = " or a function `(value, leaf) -> array`" if name == "mismatch" else ""
            must = f"`{name}` must be one of {words}{other}"
            raise ValueError(message(_CALLER, must, f"{name}={word!r}"))
    return [(pattern, word) for pattern, word in rules]


def _is_rule(rule: Any) -> bool:
    return isinstance(rule, (list, tuple)) and len(rule) == 2 and isinstance(rule[0], str)


def _chosen(rules: list[tuple[str, Any]], path: str) -> Any:
    return next((word for pattern, word in rules if fnmatchcase(path, pattern)), "error")


def _refuse_idle(name: str, rules: list[tuple[str, Any]], paths: list[str]) -> None:
    for pattern, _ in rules:
        if pattern != "*" and not any(fnmatchcase(path, pattern) for path in paths):
            must = f"every pattern in `{name}` must match a leaf"
            close = closest(pattern, paths)
            raise ValueError(
                message(_CALLER, must, repr(pattern), f"Did you mean {close!r}?" if close else "")
            )


_TITLES = {"missing": "missing", "extra": "extra", "mismatch": "unlike"}
_SETTLE = {
    "missing": 'missing="keep"',
    "extra": 'extra="drop"',
    "mismatch": 'mismatch="keep", "slice", "tile", "resize" or a function',
}


def _refusal(take: _Taking, targets: list[str], found: list[str], few: int = 5) -> str:
    """What does not fit: counts, the first of each kind, and the way out."""
    lines, parts = [], []
    fit = sum(leaf.action not in ("dropped", "kept") for leaf in take.log)
    for name, title in _TITLES.items():
        group = [problem for problem in take.problems if problem.kind == name]
        if not group:
            continue
        parts.append(f"{len(group)} {title}")
        lines += [f"  {title} {p.path}: {p.text}{_like(p, targets, found)}" for p in group[:few]]
        lines += [f"  … {len(group) - few} more {title}"] if len(group) > few else []
    missing, extra = ([p.path for p in take.problems if p.kind == k] for k in ("missing", "extra"))
    hint = prefix_hint(missing, extra)
    lines += [f"The paths differ in a prefix: pass `{hint}`."] if hint else []
    settle = [_SETTLE[name] for name in _TITLES if any(p.kind == name for p in take.problems)]
    lines.append(f"To go on all the same, choose: {'; '.join(settle)}; or rules `[(pattern, …), …]`.")
    must = "every leaf of `params` must be in `pretrained` with its shape, and every leaf there must be used"
    return message(_CALLER, must, f"{fit} of {len(targets)} that fit, {', '.join(parts)}", "\n".join(lines))


def _like(problem: _Problem, targets: list[str], found: list[str]) -> str:
    if problem.kind != "missing":
        return ""
    here = set(targets)
    close = closest(problem.path, [path for path in found if path not in here])
    return f"; the closest there is {close}" if close else ""
