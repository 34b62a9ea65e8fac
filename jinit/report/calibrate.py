"""`jinit calibrate`: a network before and after its scales were set."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jinit._typing import PyTree
from jinit.calibrate.autoinit import autoinit
from jinit.calibrate.calibration import Calibration
from jinit.calibrate.compromise import compromise
from jinit.calibrate.equalize import equalize
from jinit.calibrate.gradinit import gradinit
from jinit.calibrate.learn import LearnedScales
from jinit.calibrate.lsuv import lsuv
from jinit.calibrate.metainit import metainit
from jinit.report.finding import number
from jinit.report.load import Target
from jinit.report.report import Report, diagnose, strict
from jinit.report.table import text_of
from jinit.report.trained import trained_part
from jinit.signals.records import Records

METHODS: dict[str, Callable[..., Any]] = {
    "lsuv": lsuv,
    "autoinit": autoinit,
    "equalize": equalize,
    "compromise": compromise,
    "metainit": metainit,
    "gradinit": gradinit,
}
LEARNED = ("metainit", "gradinit")
_GIVEN = ("loss", "key", "optimizer", "batches", "rules")  # from the file, or no matter of a command line


def options_of(method: str, settings: Sequence[str]) -> dict[str, Any]:
    """`["target=0.5"]` as keyword arguments of a method; what is no Python literal is text.

    Raises:
      ValueError: the method has no such option, or it is true or false and the value is neither.

    >>> options_of("lsuv", ["target=0.5", "sites=*/kernel", "per_unit=true"])
    {'target': 0.5, 'sites': '*/kernel', 'per_unit': True}
    """
    parameters = inspect.signature(METHODS[method]).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in _GIVEN}
    known = list(defaults)
    options = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
            raise ValueError(f"--set {setting}: expected OPTION=VALUE with an option of {method}; {hint}")
        options[name] = _value(setting, value, defaults[name])
    return options


def _value(setting: str, text: str, default: Any) -> Any:
    """What a text stands for, of the kind that the default of its option has."""
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(f"--set {setting}: expected true or false, got {text}")
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    # Paths may look like numbers: those of a list of arrays do.
    return text if isinstance(default, str) and not isinstance(value, (str, list, tuple)) else value


def calibrated(target: Target, method: str, options: Mapping[str, Any]) -> tuple[PyTree, Calibrated]:
    """The calibrated parameters, and the reports before and after."""
    apply, params, inputs, loss = target
    diagnosed = diagnose(apply, loss=loss, predict=False)
    before = diagnosed(params, *inputs)
    if method in LEARNED:
        part, whole = trained_part(params)
        value = lambda part, *inputs: loss(apply(whole(part), *inputs))  # type: ignore[misc]  # noqa: E731
        part, outcome = METHODS[method](value, **options)(part, *inputs)
        new = whole(part)
    else:
        given = {"loss": loss} if "loss" in inspect.signature(METHODS[method]).parameters else {}
        new, outcome = METHODS[method](apply, **given, **options)(params, *inputs)
    return new, Calibrated(method, dict(options), before, diagnosed(new, *inputs), jax.device_get(outcome))


@dataclasses.dataclass(frozen=True)
class Calibrated:
    """A network before and after, for people and for programs.

    Attributes:
      method: name of the method.
      options: what it was called with.
      before: the report on the parameters given.
      after: the report on those returned.
      outcome: what the method returned beside them.
    """

    method: str
    options: dict[str, Any]
    before: Report
    after: Report
    outcome: Records | LearnedScales

    @property
    def problems(self) -> dict[str, str]:
        """Site -> why it could not be set as asked for."""
        if isinstance(self.outcome, LearnedScales):
            return {}
        found = {n: r.problem for n, r in self.outcome.items() if isinstance(r, Calibration)}
        return {name: problem for name, problem in found.items() if problem}

    def to_dict(self) -> dict[str, Any]:
        """Everything as a dict of strict JSON values."""
        plain = {"method": self.method, "options": self.options, "before": self.before.to_dict()}
        plain |= {"after": self.after.to_dict()}
        if isinstance(self.outcome, LearnedScales):
            plain["scales"] = {path: float(s) for path, s in self.outcome.scales.items()}
            plain["steps"] = int(self.outcome.steps)
            plain["forward_passes"] = float(self.outcome.forward_passes)
        else:
            plain["factors"] = {name: f.tolist() for name, f in self._factors().items()}
            plain["problems"] = self.problems
        return strict(plain)

    def render(self, width: int | None = None) -> str:
        """Plain text of at most `width` columns (60 at least; the terminal's by default)."""
        return text_of(self._renderables, width)

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        yield from self._renderables(options.max_width)

    def _renderables(self, width: int) -> Iterator[Any]:
        from rich.rule import Rule
        from rich.text import Text

        yield Rule("before", characters="─")
        yield self.before
        yield Text("")
        yield Rule(f"after {self.method}", characters="─")
        yield self.after
        yield Text("")
        yield Text(f"jinit calibrate: {self._summary()}", style="bold")
        scaled = {} if isinstance(self.outcome, LearnedScales) else self._factors()
        for name, problem in list(self.problems.items())[:10]:
            yield Text(f"  {'off ' if name in scaled else 'left'}  {name}: {problem}")
        if len(self.problems) > 10:
            yield Text(f"  … and {len(self.problems) - 10} more")

    def _factors(self) -> dict[str, np.ndarray]:
        assert not isinstance(self.outcome, LearnedScales)
        records = {name: r for name, r in self.outcome.items() if isinstance(r, Calibration) and r.changed}
        return {name: np.asarray(r.factor) for name, r in records.items() if r.factor is not None}

    def _summary(self) -> str:
        if isinstance(self.outcome, LearnedScales):
            scales = [np.asarray(s) for s in self.outcome.scales.values()]
            cost = f"{int(self.outcome.steps)} steps, {float(self.outcome.forward_passes):.0f} forward passes"
            return f"{len(scales)} parameters scaled by {_range(scales)}; {cost}"
        factors, records = self._factors(), self.outcome.items()
        off = [name for name in self.problems if name in factors]
        left = [name for name in self.problems if name not in factors]
        changed = {path for _, r in records if isinstance(r, Calibration) for path in r.changed}
        same = {name for name, _ in records} - {*factors, *left, *changed}
        counts = {"of them not as asked": off, "left": left, "as before": same}
        rest = [f"{len(names)} {words}" for words, names in counts.items() if names]
        if not factors:
            return ", ".join(["nothing scaled", *rest])
        sites = f"{len(factors)} site{'s' * (len(factors) != 1)}"
        return ", ".join([f"{sites} scaled by {_range(list(factors.values()))}", *rest])


def _range(values: Sequence[np.ndarray]) -> str:
    low, high = min(float(v.min()) for v in values), max(float(v.max()) for v in values)
    return number(low) if low == high else f"{number(low)} to {number(high)}"
