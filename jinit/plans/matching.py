"""Leaves of one tree found in another by their paths."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jinit._errors import message
from jinit._typing import PyTree
from jinit.jaxprs.paths import leaf_paths

Rename = Callable[[str], str] | Mapping[str, str]


def named_leaves(tree: PyTree, *, caller: str, name: str) -> dict[str, Any]:
    """Path -> leaf, in the order of `jax.tree.leaves`.

    Raises:
      ValueError: two leaves have one path, or the keys of a dict can't be sorted.
    """
    try:
        paths, leaves = leaf_paths(tree), jax.tree.leaves(tree)
    except (TypeError, ValueError) as error:
        must = f"the dict keys in `{name}` must be of one type each, such as all strings"
        raise ValueError(message(caller, must, f"{type(error).__name__}: {error}")) from error
    _refuse_twins(paths, paths, caller=caller, name=name)
    return dict(zip(paths, leaves, strict=True))


def renamed(
    sources: dict[str, Any], targets: Mapping[str, Any], rename: Rename | None, *, caller: str
) -> dict[str, str]:
    """Path in the model -> path in `pretrained`, for every leaf of `pretrained`.

    Args:
      sources: leaves of `pretrained` by path.
      targets: leaves of the model by path.
      rename: a function of the path, or new prefixes by old ones; whole names between slashes count.
      caller: whom an error names.

    Raises:
      ValueError: two leaves get the same path, or a prefix to rename is nowhere.
      TypeError: `rename` is neither.
    """
    if rename is not None and not callable(rename) and not isinstance(rename, Mapping):
        must = "`rename` must be a dict of prefixes or a function from path to path"
        raise TypeError(message(caller, must, f"rename={type(rename).__name__}"))
    dotted = _dots_are_slashes(sources, targets)
    plain = {path: path.replace(".", "/") if dotted else path for path in sources}
    names = {path: _rename(name, rename, caller) for path, name in plain.items()}
    if isinstance(rename, Mapping):
        idle = [old for old in rename if not any(_starts(name, old) for name in plain.values())]
        if idle:
            must = "every prefix in `rename` must begin a path of `pretrained`"
            close = closest(idle[0], sorted(_prefixes(plain.values())))
            advice = f"Did you mean {close!r}?" if close else ""
            raise ValueError(message(caller, must, repr(idle[0]), advice))
    # Serialization writes the array in a box, such as `nn.Partitioned`, under the key `value`.
    unboxed = {
        path: name.removesuffix("/value")
        if name not in targets and name.removesuffix("/value") in targets
        else name
        for path, name in names.items()
    }
    _refuse_twins(list(unboxed.values()), list(unboxed), caller=caller, name="pretrained")
    return {name: path for path, name in unboxed.items()}


def _rename(path: str, rename: Rename | None, caller: str) -> str:
    if rename is None:
        return path
    if isinstance(rename, Mapping):
        old = max((p for p in rename if _starts(path, p)), key=len, default=None)
        if old is None:
            return path
        rest = path[len(old) :].strip("/")
        return "/".join(part for part in (rename[old].strip("/"), rest) if part)
    new = rename(path)
    if not isinstance(new, str):
        must = "`rename` must return a path, a string"
        raise TypeError(message(caller, must, f"{type(new).__name__} for {path!r}"))
    return new


def _starts(path: str, prefix: str) -> bool:
    prefix = prefix.strip("/")
    return not prefix or path == prefix or path.startswith(f"{prefix}/")


def _prefixes(paths: Any) -> set[str]:
    return {
        "/".join(parts[:k]) for path in paths for parts in [path.split("/")] for k in range(1, len(parts))
    }


def _dots_are_slashes(sources: Mapping[str, Any], targets: Mapping[str, Any]) -> bool:
    """Whether `pretrained` is a flat dict with keys such as `a.b.c`, and the model has no such names."""
    dots = any("." in path for path in sources) and not any("/" in path for path in sources)
    return dots and not any("." in path for path in targets)


def _refuse_twins(paths: Sequence[str], origins: Sequence[str], *, caller: str, name: str) -> None:
    twins = [path for path, n in Counter(paths).items() if n > 1]
    if not twins:
        return
    owners = [origin for path, origin in zip(paths, origins, strict=True) if path == twins[0]]
    became = f" (from {', '.join(owners)})" if set(owners) != {twins[0]} else ""
    must = f"the paths of leaves in `{name}` must differ"
    advice = 'A key such as "a/b" in a dict reads like a dict in a dict: give one of them another name.'
    raise ValueError(message(caller, must, f"{len(owners)} leaves with the path {twins[0]}{became}", advice))


def as_array(leaf: Any) -> Any:
    """The leaf as an array, or None: NumPy and JAX arrays as they are, numbers and array-likes by NumPy."""
    if isinstance(leaf, (jax.Array, np.ndarray)):
        array = leaf
    elif isinstance(leaf, (bool, int, float, complex, np.generic)) or hasattr(leaf, "__array__"):
        array = np.asarray(leaf)
    else:
        return None
    return None if array.dtype == object else array


def is_array(leaf: Any) -> bool:
    """Whether a leaf of the model is a parameter, concrete or abstract, rather than a setting."""
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def closest(path: str, others: Sequence[str]) -> str:
    """The most similar of other paths, or the empty string."""
    # difflib takes milliseconds a path: only those that end alike are looked at where there are many.
    last = path.rsplit("/", 1)[-1]
    likely = others if len(others) <= 200 else [o for o in others if o.rsplit("/", 1)[-1] == last][:200]
    close = difflib.get_close_matches(path, likely, 1, 0.6)
    return close[0] if close else ""


def prefix_hint(missing: Sequence[str], extra: Sequence[str]) -> str:
    """`rename=…` that would find most of the missing leaves, or the empty string."""
    by_end: dict[str, list[str]] = {}
    for path in extra:
        for end in _ends(path):
            by_end.setdefault(end, []).append(path)
    votes: Counter[tuple[str, str]] = Counter()
    for path in missing:
        for end in [end for end in _ends(path) if end in by_end][:1]:
            for other in by_end[end][:16]:
                votes[other[: -len(end)].strip("/"), path[: -len(end)].strip("/")] += 1
    if not votes:
        return ""
    (old, new), found = votes.most_common(1)[0]
    return f"rename={{{old!r}: {new!r}}}" if 2 * found >= len(missing) and old != new else ""


def _ends(path: str) -> list[str]:
    """The path and what is left of it after each slash, the longest first."""
    parts = path.split("/")
    return ["/".join(parts[k:]) for k in range(len(parts))]
