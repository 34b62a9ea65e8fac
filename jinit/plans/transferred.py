"""`Transfer`: what became of every leaf when pre-trained parameters were taken over."""

from __future__ import annotations

import dataclasses
import re
import shutil
import textwrap
from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

Action = Literal["taken", "sliced", "tiled", "resized", "converted", "kept", "held", "dropped"]
_NUMBER = re.compile(r"\d+")
_NARROWEST = 60


@dataclasses.dataclass(frozen=True)
class TransferredLeaf:
    """What became of one leaf.

    Attributes:
      path: path in `params`; of a dropped leaf, path in `pretrained`.
      action: `taken` as it was; `sliced`, `tiled`, `resized` or `converted` (by a function) to another shape;
        `kept` at its drawn value; `held`, being no array; `dropped`, having no place in the model.
      source: path in `pretrained`; empty where there is none.
      shape: shape in the model; of a dropped leaf, in `pretrained`.
      dtype: name of its dtype there.
      source_shape: shape in `pretrained`; None where there is none.
      source_dtype: name of its dtype there; empty where there is none.
      note: what else should be known.
    """

    path: str
    action: Action
    source: str = ""
    shape: tuple[int, ...] | None = None
    dtype: str = ""
    source_shape: tuple[int, ...] | None = None
    source_dtype: str = ""
    note: str = ""

    @property
    def cast(self) -> bool:
        """Whether the values changed dtype."""
        used = self.action not in ("kept", "held", "dropped")
        return used and self.dtype != self.source_dtype


@dataclasses.dataclass(frozen=True)
class Transfer:
    """What `from_pretrained` did, leaf by leaf; no leaf of either tree is left out.

    `str(transfer)` is a table that fits the terminal. Leaves that differ only in a number in their path
    share a line.

    Attributes:
      leaves: one entry for every leaf of `params`, in the order of `jax.tree.leaves`, then one for every leaf
        of `pretrained` that was dropped. Each has `path`, `action` (`taken`, `sliced`, `tiled`, `resized`,
        `converted`, `kept`, `held`, `dropped`), `source` (its path in `pretrained`), `shape`, `dtype`,
        `source_shape`, `source_dtype`, `cast` and `note`.

    Example:
      >>> import jax.numpy as jnp, jinit
      >>> params = {"body": jnp.zeros((2, 2)), "head": jnp.zeros((2, 5))}
      >>> _, transfer = jinit.from_pretrained(params, {"body": jnp.ones((2, 2))}, missing="keep")
      >>> transfer.counts
      {'taken': 1, 'kept': 1}
      >>> [leaf.path for leaf in transfer.leaves if leaf.action == "kept"]
      ['head']
    """

    leaves: tuple[TransferredLeaf, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many leaves each action befell."""
        return dict(Counter(leaf.action for leaf in self.leaves))

    def to_dict(self) -> dict[str, Any]:
        """The report as a dict of JSON values, with the keys `counts` and `leaves`."""
        rows = [{**dataclasses.asdict(leaf), "cast": leaf.cast} for leaf in self.leaves]
        for row in rows:
            for name in ("shape", "source_shape"):
                row[name] = None if row[name] is None else list(row[name])
        return {"counts": self.counts, "leaves": rows}

    def render(self, width: int | None = None) -> str:
        """The report as plain text, at most `width` columns wide (60 at least; the terminal's by default)."""
        columns = shutil.get_terminal_size((100, 24)).columns if width is None else width
        columns = max(_NARROWEST, columns)
        head = ", ".join(f"{n} {action}" for action, n in self.counts.items()) or "no leaves"
        num_cast = sum(leaf.cast for leaf in self.leaves)
        head += f", {num_cast} of them cast" if num_cast else ""
        groups, left_out = _shortened(_folded(self.leaves))
        room = min(max((len(path) for path, _ in groups), default=0), columns // 2)
        lines = [line for path, leaf in groups for line in _lines(path, leaf, room, columns)]
        lines += [f"  ⋮ {left_out} more lines; all are in `.leaves`"] if left_out else []
        return "\n".join([*textwrap.wrap(f"jinit transfer: {head}", columns), *lines])

    def __str__(self) -> str:
        return self.render()


def _folded(leaves: Iterable[TransferredLeaf]) -> list[tuple[str, TransferredLeaf]]:
    """Leaves to show with a path each; those that differ in one number of their path alone are one."""
    groups: dict[Any, list[TransferredLeaf]] = {}
    for leaf in leaves:
        alike = (_NUMBER.sub("#", leaf.path), _NUMBER.sub("#", leaf.source))
        key = (*alike, dataclasses.replace(leaf, path="", source=""))
        groups.setdefault(key, []).append(leaf)
    return [line for group in groups.values() for line in _lines_of(group)]


def _lines_of(group: list[TransferredLeaf]) -> list[tuple[str, TransferredLeaf]]:
    """One line for three leaves or more: `params/layers_{0…11}/kernel ×12`."""
    if len(group) < 3:
        return [(leaf.path, leaf) for leaf in group]
    first = group[0]
    columns = zip(*(map(int, _NUMBER.findall(leaf.path)) for leaf in group), strict=True)
    spans = iter([(min(column), max(column)) for column in columns])

    def span(number: re.Match[str]) -> str:
        low, high = next(spans)
        return number.group() if low == high else f"{{{low}…{high}}}"

    path = _NUMBER.sub(span, first.path)
    # Sources count along with the paths; where they are named otherwise the first is shown.
    source = "" if all(leaf.path == leaf.source for leaf in group) else f"{first.source}, …"
    return [(f"{path} ×{len(group)}", dataclasses.replace(first, path=path, source=source))]


def _shortened(
    groups: list[tuple[str, TransferredLeaf]], most: int = 40
) -> tuple[list[tuple[str, TransferredLeaf]], int]:
    """At most so many lines, and how many there are more: of leaves simply taken first, then from the end."""
    left_out = max(0, len(groups) - most)
    taken = [i for i, (_, leaf) in enumerate(groups) if leaf.action == "taken" and not leaf.cast]
    others = [i for i in range(len(groups)) if i not in set(taken)]
    gone = set([*others, *taken][len(groups) - left_out :])
    return [line for i, line in enumerate(groups) if i not in gone], left_out


def _lines(path: str, leaf: TransferredLeaf, room: int, columns: int) -> list[str]:
    """One line, or more where it does not fit."""
    text = f"  {leaf.action:<9} {path:<{room}}  {_what(leaf)}".rstrip()
    indent = " " * 12
    return textwrap.wrap(text, columns, subsequent_indent=indent, break_on_hyphens=False)


def _what(leaf: TransferredLeaf) -> str:
    words = []
    if leaf.shape is not None:
        same = leaf.source_shape in (None, leaf.shape)
        words.append(str(leaf.shape) if same else f"{leaf.source_shape} → {leaf.shape}")
    if leaf.cast:
        words.append(f"{leaf.source_dtype} → {leaf.dtype}")
    if leaf.source and leaf.source != leaf.path:
        words.append(f"from {leaf.source}")
    if leaf.note:
        words.append(f"({leaf.note})")
    return " ".join(words)
