"""`diagnose` and the `Report` it returns."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jax.core import Tracer

from jinit._errors import message
from jinit.plans.audit import weight_uses
from jinit.plans.rules import Plan
from jinit.plans.uses import WeightUse
from jinit.report.finding import SEVERITIES, Case, Finding, Severity
from jinit.report.findings import find
from jinit.report.rows import Row, rows_of
from jinit.report.theory import theory_of
from jinit.report.thresholds import Thresholds
from jinit.signals.observe import Pass
from jinit.signals.predict import predict as prediction
from jinit.signals.records import Record, Records
from jinit.signals.survey import Survey, survey


@dataclasses.dataclass(frozen=True)
class Report:
    """What `diagnose` found, for people to read and for programs to act on.

    `str(report)` is a table that fits the terminal, `print` of a `rich` console shows it in color, and a
    notebook shows it as its value.

    Attributes:
      findings: the most severe first; empty for a healthy network.
      rows: the numbers of every site and loop step, in program order.
      thresholds: the ones that were used.
      no_prediction: why the rows hold no prediction; empty if they do, or none was asked for.

    Example:
      >>> report = Report(findings=(), rows=())
      >>> report.ok, report.worst, report.to_dict()["findings"]
      (True, None, [])
    """

    findings: tuple[Finding, ...]
    rows: tuple[Row, ...]
    thresholds: Thresholds = dataclasses.field(default_factory=Thresholds)
    no_prediction: str = ""

    @property
    def worst(self) -> Severity | None:
        """The highest severity among the findings; None where there are none."""
        found = {f.severity for f in self.findings}
        return next((severity for severity in reversed(SEVERITIES) if severity in found), None)

    @property
    def ok(self) -> bool:
        """Whether nothing is worse than `info`."""
        return self.worst in (None, "info")

    def to_dict(self) -> dict[str, Any]:
        """The report as a dict of strict JSON values.

        Numbers that JSON has no token for are the strings `"inf"`, `"-inf"` and `"nan"`; what was not
        measured is None. Keys: `worst`, `findings`, `rows`, `thresholds`, `no_prediction`.
        """
        out = {
            "worst": self.worst,
            "findings": [finding.to_dict() for finding in self.findings],
            "rows": [row.to_dict() for row in self.rows],
            "thresholds": dataclasses.asdict(self.thresholds),
            "no_prediction": self.no_prediction,
        }
        return strict(out)

    def render(self, width: int | None = None) -> str:
        """The report as plain text, at most `width` columns wide (60 at least; the terminal's by default)."""
        from jinit.report.table import render

        return render(self, width)

    def plot(self) -> Any:
        """A matplotlib `Figure` of signals, gradients and weights over all sites, findings marked.

        Raises:
          ImportError: matplotlib is not installed.
        """
        from jinit.report.plot import plot

        return plot(self)

    def __str__(self) -> str:
        return self.render()

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from jinit.report.table import renderables

        yield from renderables(self, options.max_width)

    def _repr_html_(self) -> str:
        import html

        return f"<pre>{html.escape(self.render(120))}</pre>"


def strict(value: Any) -> Any:
    """The value with floats that JSON has no token for as strings, and tuples as lists."""
    if isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def diagnose(
    apply: Callable[..., Any],
    *,
    loss: Callable[[Any], Any] | None = None,
    key: Any = None,
    backward: bool = True,
    plan: Plan | None = None,
    predict: bool = True,
    thresholds: Thresholds | None = None,
) -> Callable[..., Report]:
    """What is wrong with the signals of a network, where, how badly, and the line that mends it.

    Runs the network once forward and once backward in one jitted program, and looks at the moments of the
    signal `x` before and after every weight, and of the gradient `δ` with respect to the latter:

        vanishing or exploding signal      max E[x²] over the last third against E[x²] of the first input
        vanishing or exploding gradient    Σδ² over the first third against the last third

    further at units that are dead, saturated or equal to each other, examples that have become equal,
    weights whose scale goes by a fan that is not theirs, shifted means, NaN and infinity, numbers too small
    for their dtype, parameters without use, what could not be followed, and signals that theory does not
    explain. A healthy network gives no finding.

    Args:
      apply: pure function `(params, *inputs, **kwargs) -> outputs`, such as `model.apply` of a linen module;
        for nnx take `apply, params = jinit.functional(model)`.
      loss: `loss(outputs) -> scalar`; cotangents are then its gradient. Without it, standard normal
        cotangents enter at the outputs.
      key: key for these cotangents; `jax.random.key(0)` by default.
      backward: False leaves out gradients and all findings on them.
      plan: the plan that the parameters were drawn by. Kernels whose scale is not what it gives are found.
      predict: whether to show beside the signals what `jinit.predict` says of them, for independent weights
        with the moments of those given, and where the two part. With a `loss`, of the forward pass alone.
      thresholds: a `jinit.Thresholds`, when to speak up.

    Returns:
      A function of `(params, *inputs, **kwargs)` that returns a `Report`. Give it a batch of real inputs, of
      at least 16 examples: some findings compare examples.

    Raises:
      TypeError: the returned function was called while tracing, as under `jax.jit`: a report needs numbers.
      ValueError: `plan` is not one for these parameters.

    Example:
      >>> import jax, jax.numpy as jnp, jinit
      >>> def apply(params, x):
      ...     for w in params:
      ...         x = jnp.tanh(x @ w)
      ...     return x
      >>> keys = jax.random.split(jax.random.key(0), 20)
      >>> params = [0.01 * jax.random.normal(k, (64, 64)) for k in keys]
      >>> report = jinit.diagnose(apply)(params, jax.random.normal(jax.random.key(1), (16, 64)))
      >>> [(finding.severity, finding.kind) for finding in report.findings]
      [('severe', 'vanishing_signal'), ('severe', 'vanishing_gradient')]

    References:
      Glorot and Bengio, *Understanding the difficulty of training deep feedforward neural networks*, 2010
      (signals and gradients layer by layer). He et al., *Delving Deep into Rectifiers*, 2015.
      Schoenholz et al., *Deep Information Propagation*, 2017 (examples that become equal).
    """
    limits = Thresholds() if thresholds is None else thresholds
    surveyed = survey(apply, backward=backward, loss=loss, key=key, describe=_uses)
    predicted = prediction(apply, backward=backward and loss is None)

    def report(params: Any, *inputs: Any, **kwargs: Any) -> Report:
        refuse_tracers((params, inputs, kwargs), "jinit.diagnose(apply)(...)")
        _, found = surveyed(params, *inputs, **kwargs)
        records, reason = theory_of(predicted, params, *inputs, **kwargs) if predict else (Records(), "")
        return report_of(found, limits, plan, records, reason)

    return report


def _uses(one_pass: Pass, arrays: list[Any]) -> tuple[WeightUse, ...]:
    return weight_uses(one_pass.program, one_pass.analysis, arrays[: len(one_pass.program.paths)])


def report_of(
    found: Survey,
    thresholds: Thresholds,
    plan: Plan | None = None,
    predicted: Mapping[str, Record] | None = None,
    no_prediction: str = "",
) -> Report:
    """The report on a survey, fetched to the host all at once."""
    names = ("records", "units", "nonfinite_parameters", "nonfinite_outputs")
    host = jax.device_get({name: getattr(found, name) for name in names})
    local = dataclasses.replace(found, **host)
    rows = rows_of(local, predicted or {})
    declared = plan.assign(local.described) if plan is not None else {}
    return Report(find(Case(rows, local, thresholds, declared)), rows, thresholds, no_prediction)


def refuse_tracers(values: Any, caller: str) -> None:
    """Raise if an argument is no concrete array.

    Raises:
      TypeError: under `jax.jit` and the like.
    """
    for leaf in jax.tree.leaves(values):
        if isinstance(leaf, Tracer):
            must = "the arguments must be concrete arrays, since a report is made of numbers"
            advice = "Call it outside of `jax.jit` and `jax.grad`; `jinit.measure` works inside of them."
            raise TypeError(message(caller, must, f"the tracer {leaf}", advice))
