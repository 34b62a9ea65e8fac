"""What an experiment leaves: numbers as JSON, a figure, and a section of docs/experiments.md."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import platform
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import jax
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
FOLDER, PAGE = "docs/experiments", "docs/experiments.md"
EXPERIMENTS = (
    "ten_techniques",
    "training_cost",
    "symmetry",
    "gradients",
    "crosswise",
    "fan_in_spread",
    "every_layer",
    "biases",
    "transfer",
    "normalization",
)
T = TypeVar("T")


class Track(Protocol):
    """Shows progress over what is iterated."""

    def __call__(self, items: Sequence[T], /) -> Iterable[T]: ...


@dataclasses.dataclass(frozen=True)
class Claim:
    """What is claimed, what was found, and whether it holds: `True`, `False`, or `"in k of n"`."""

    claimed: str
    found: str
    holds: bool | str

    @classmethod
    def of(cls, claimed: str, found: str, holds: Sequence[bool] | np.ndarray | bool) -> Claim:
        """Holds if all parts do, fails if none does, else in part."""
        parts = np.atleast_1d(np.asarray(holds, bool))
        some = f"in {int(parts.sum())} of {parts.size}"
        return cls(claimed, found, bool(parts.all()) if parts.all() or not parts.any() else some)

    @property
    def verdict(self) -> str:
        """As a word for people."""
        if isinstance(self.holds, str):
            return f"holds {self.holds}"
        return "holds" if self.holds else "does not hold"

    def sentence(self) -> str:
        """As an item of the page."""
        return f"- **Claimed:** {self.claimed} **Found:** {self.found} **It {self.verdict}.**"


class Experiment(Protocol):
    """What a module of an experiment has. Its docstring is the title and the description."""

    __doc__: str | None

    def run(self, track: Track, *, small: bool) -> dict[str, Any]:
        """The numbers, ready for JSON; `small` takes seconds and shows only that the program works."""
        ...

    def claims(self, data: dict[str, Any]) -> list[Claim]:
        """What the numbers say of the claims."""
        ...

    def tables(self, data: dict[str, Any]) -> Iterator[str]:
        """The numbers that the page shows, as tables in Markdown."""
        ...

    def draw(self, data: dict[str, Any], figure: Any) -> None:
        """The figure."""
        ...


def load(name: str) -> Experiment:
    """The module of an experiment."""
    return cast(Experiment, importlib.import_module(f"experiments.{name}"))


def missing(name: str) -> str | None:
    """The extra that an experiment needs and that is not installed."""
    needed = {"training_cost": ("torch", "pip install -e '.[benchmark]'")}.get(name)
    return None if needed is None or importlib.util.find_spec(needed[0]) else f"{needed[0]}: {needed[1]}"


def title(experiment: Experiment) -> str:
    """The first sentence of the docstring, without its full stop."""
    return str(experiment.__doc__).split("\n", 1)[0].removesuffix(".")


def about(experiment: Experiment) -> str:
    """The rest of the docstring: the setting, a line a paragraph."""
    paragraphs = textwrap.dedent(str(experiment.__doc__)).split("\n\n")[1:]
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def plain(value: Any) -> Any:
    """Arrays as lists and floats to six digits, so that JSON holds them; what is not finite becomes None."""
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return plain(np.asarray(value).tolist())
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def result(name: str, data: dict[str, Any], processor_seconds: float) -> dict[str, Any]:
    """The committed form of a run: the numbers, and what they say."""
    made_with = {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "backend": jax.default_backend(),
        "processor_seconds": round(processor_seconds),
    }
    return retold({"experiment": name, "claims": [], "data": plain(data), "made_with": made_with})


def retold(found: dict[str, Any]) -> dict[str, Any]:
    """The same numbers, and what the experiment says of them today."""
    claims = load(found["experiment"]).claims(found["data"])
    return {**found, "claims": [dataclasses.asdict(claim) for claim in claims]}


def write(name: str, found: dict[str, Any], root: Path = ROOT) -> None:
    """Write NAME.json and NAME.png, and the page anew."""
    import matplotlib.figure

    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(dumps(found))
    figure = matplotlib.figure.Figure(figsize=(9, 3.6), layout="constrained")
    load(name).draw(found["data"], figure)
    figure.savefig(folder / f"{name}.png", dpi=90, metadata={"Software": None})
    (root / PAGE).write_text(page(root))


def dumps(found: dict[str, Any]) -> str:
    """JSON with a list of numbers on one line."""
    text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False)
    numbers = re.compile(r"\[[^\[\]{}\"]*\]")
    return numbers.sub(lambda match: re.sub(r"\s*\n\s*", "", match[0]).replace(",", ", "), text) + "\n"


def read(name: str, root: Path = ROOT) -> dict[str, Any] | None:
    """A committed result, or None."""
    path = root / FOLDER / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def section(name: str, found: dict[str, Any]) -> str:
    """The part of the page that one experiment fills."""
    experiment, made = load(name), found["made_with"]
    return "\n\n".join(
        [
            f"## {title(experiment)}",
            about(experiment),
            "\n".join(Claim(**claim).sentence() for claim in found["claims"]),
            *experiment.tables(found["data"]),
            f"![{title(experiment)}](experiments/{name}.png)",
            f"`python -m experiments run {name}` took {made['processor_seconds']} s of "
            f"processor time with JAX {made['jax']} on a "
            f"{made['backend'].upper()}. [Every number](experiments/{name}.json)",
        ]
    )


HEAD = """\
# Experiments

What people say of initialization, tried on real data. Every number and every verdict on this page was written
by the program that found it. `python -m experiments list` names them, `python -m experiments run NAME` runs
one and `python -m experiments all` all of them, after `pip install -e '.[experiments]'`. ± is the 95 %
interval of a mean over seeds, by Student's t.
"""


def page(root: Path = ROOT) -> str:
    """The page of all committed results."""
    found = {name: read(name, root) for name in EXPERIMENTS}
    return "\n".join([HEAD, *(section(name, each) + "\n" for name, each in found.items() if each)])
