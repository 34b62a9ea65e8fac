"""`jinit.recommend`: which initialization suits a network and its data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import optax

from jinit._errors import speaking_as
from jinit._typing import Array, Key, PyTree
from jinit.calibrate.lsuv import lsuv
from jinit.initializers.distributions import truncated_normal
from jinit.initializers.lecun_glorot_he import glorot_normal, he_normal, lecun_normal
from jinit.initializers.orthogonal import orthogonal
from jinit.jaxprs.tracing import check_call, check_params, split
from jinit.report.compare import compare
from jinit.report.comparison import Comparison, ComparisonRow, median
from jinit.report.report import strict
from jinit.report.table import text_of

_REDRAW = """rules = [(jinit.role("kernel"), {})]
params = jinit.redraw(apply, rules)(key, params, *inputs)"""
_LSUV = "params, records = jinit.lsuv(apply)(params, *inputs)"
AS_GIVEN = "as given"
_CALLER = "jinit.recommend(...)"
_KERNELS = {
    "LeCun": lecun_normal(),
    "Glorot": glorot_normal(),
    "He": he_normal(),
    "orthogonal": orthogonal(),
    "orthogonal, √2": orthogonal(2**0.5),
    "normal, 0.02": truncated_normal(0.02),
}


def schemes(apply: Callable[..., PyTree]) -> dict[str, tuple[str, Any]]:
    """Name -> the code that does it, and the method for `jinit.compare`."""
    found: dict[str, tuple[str, Any]] = {
        AS_GIVEN: ("# the parameters as they were given", lambda key, params, *inputs, **kwargs: params)
    }
    for name, kernel in _KERNELS.items():
        found[name] = _REDRAW.format(kernel), kernel
    for name in ("He", "orthogonal"):
        code = f"{_REDRAW.format(_KERNELS[name])}\n{_LSUV}"
        found[f"{name}, lsuv"] = code, [_KERNELS[name], lsuv(apply)]
    return found


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """What `jinit.recommend` found.

    Attributes:
      comparison: all schemes, side by side.
      ranked: their rows, best first.
      code: scheme -> the lines that do it, given `apply`, `params`, `inputs` and a `key`.

    Example:
      >>> import jax, jax.numpy as jnp, jinit
      >>> apply = lambda params, x: jnp.tanh(x @ params["a"]) @ params["b"]
      >>> params = {"a": jnp.ones((8, 8)), "b": jnp.ones((8, 2))}
      >>> found = jinit.recommend(apply, seeds=1)(params, jax.random.normal(jax.random.key(0), (16, 8)))
      >>> found.best == found.ranked[0].method, found.best in found.code
      (True, True)
    """

    comparison: Comparison
    ranked: tuple[ComparisonRow, ...]
    code: dict[str, str]

    @property
    def best(self) -> str:
        """Name of the winner."""
        return self.ranked[0].method

    @property
    def reason(self) -> str:
        """Why it won, and by how much."""
        first, second = self.ranked[:2]
        if not first.losses:
            return (
                "Without a loss schemes are ranked by how many sites signal and gradient reach, then by how "
                "near to one the variances are."
            )
        losses = [f"{median(row.loss):.4g}" for row in (first, second)]
        given = next(row for row in self.ranked if row.method == AS_GIVEN)
        reason = f"Median loss {losses[0]}; next comes {second.method} with {losses[1]}"
        if AS_GIVEN not in (first.method, second.method):
            reason += f", and the parameters as given reach {median(given.loss):.4g}"
        if min(second.loss) <= max(first.loss):
            reason += ". Their seeds overlap: the two may be equally good"
        return reason + "."

    def to_dict(self) -> dict[str, Any]:
        """Everything as a dict of strict JSON values."""
        ranked = [row.method for row in self.ranked]
        plain = {"best": self.best, "ranked": ranked, "code": self.code, "reason": self.reason}
        return strict(plain | {"comparison": self.comparison.to_dict()})

    def render(self, width: int | None = None) -> str:
        """Plain text of at most `width` columns (60 at least; the terminal's by default)."""
        return text_of(self._renderables, width)

    def __str__(self) -> str:
        return self.render()

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        yield from self._renderables(options.max_width)

    def _renderables(self, width: int) -> Iterator[Any]:
        from rich.padding import Padding
        from rich.text import Text

        yield dataclasses.replace(self.comparison, rows=self.ranked)
        yield Text(f"\njinit recommend: {self.best}", style="bold green")
        yield Padding(Text(self.reason), (0, 0, 0, 2))
        yield Padding(Text(self.code[self.best], style="green", overflow="fold"), (0, 0, 0, 4))


def recommend(
    apply: Callable[..., PyTree],
    *,
    loss: Callable[..., Array] | None = None,
    labels: PyTree = None,
    steps: int = 100,
    optimizer: optax.GradientTransformation | None = None,
    batch_size: int | None = None,
    seeds: int = 3,
    key: Key | None = None,
) -> Callable[..., Recommendation]:
    """Which initialization suits a network and its data, by trying them.

    The kernels are drawn by LeCun's, Glorot's and He's rule, orthogonal with gain 1 and √2, and with
    deviation 0.02, each with their true fans; two of these are calibrated by `jinit.lsuv` too. All else stays
    as given, and the parameters as given take part. `jinit.compare` measures and trains them; the least
    median loss over the seeds wins. Without a loss the scheme wins whose signal and gradient reach the most
    sites, and of these the one whose outputs have variances nearest to one.

    Args:
      apply: any pure `(params, *inputs, **kwargs) -> outputs`, as for `jinit.measure`.
      loss: a function of the outputs to one number, or of the outputs and `labels`.
      labels: what `loss` takes beside the outputs.
      steps: of training.
      optimizer: an optax optimizer; `optax.adam(1e-3)` if None.
      batch_size: how many examples, drawn at random, a step takes; None for all of them.
      seeds: how many draws each scheme makes.
      key: `jax.random.key(0)` if None.

    Returns:
      A function `(params, *inputs, **kwargs) -> Recommendation`: the schemes ranked, and the winner as code.

    Raises:
      TypeError, ValueError: as `jinit.compare` does.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp, jinit
      >>> model = nn.Sequential([layer for _ in range(12) for layer in (nn.Dense(32), nn.relu)])
      >>> x = jax.random.normal(jax.random.key(0), (64, 8))
      >>> params = model.init(jax.random.key(1), x)
      >>> found = jinit.recommend(model.apply, seeds=2)(params, x)
      >>> found.ranked[-1].method
      'normal, 0.02'
      >>> print(found.code["He"])
      rules = [(jinit.role("kernel"), jinit.he_normal())]
      params = jinit.redraw(apply, rules)(key, params, *inputs)

    References:
      Mishkin and Matas, *All you need is a good init*, 2016, §4: schemes compared by what training follows.
    """
    check_call(apply, caller=_CALLER)
    known = schemes(apply)
    speaking = speaking_as(_CALLER, "jinit.compare(...)")
    compared = speaking(compare)(
        {name: method for name, (_, method) in known.items()},
        apply,
        loss=loss,
        labels=labels,
        steps=steps,
        optimizer=optimizer,
        batch_size=batch_size,
        seeds=seeds,
        key=key,
    )

    def recommended(params: PyTree, *inputs: Any, **kwargs: Any) -> Recommendation:
        check_params(split(params, inputs, kwargs)[0], caller=_CALLER)
        comparison = speaking(compared)(params, *inputs, **kwargs)
        ranked = comparison.ranked
        if loss is None:
            ranked = tuple(sorted(ranked, key=lambda row: (-_reach(row), median(row.variance_error))))
        return Recommendation(comparison, ranked, {name: code for name, (code, _) in known.items()})

    return recommended


def _reach(row: ComparisonRow) -> float:
    """How many sites signal and gradient get to."""
    return median(row.signal_depth) + median(row.gradient_depth)
