"""Which rule of a plan takes which parameter, and the law that results."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jinit._errors import message
from jinit.initializers._base import Initializer
from jinit.initializers.constants import Constant
from jinit.plans import complaints
from jinit.plans.layers import Layers, each_layer, layers_of
from jinit.plans.patterns import Pattern, Rule, is_function_of_use, matches
from jinit.plans.table import render
from jinit.plans.uses import WeightUse


@dataclasses.dataclass(frozen=True)
class Assignment:
    """What a plan does to one parameter.

    Attributes:
      path: path of the parameter.
      rule: number of the rule that took it, from 0.
      pattern: pattern of that rule.
      initializer: what draws it, with the true fans of its use where it reads fans; for layers stacked by a
        scan whose laws differ, a tuple with one for each layer.
      use: how the program uses the parameter.

    Example:
      >>> import jax, jinit
      >>> apply, params = lambda params, x: x @ params["w"], {"w": jax.ShapeDtypeStruct((8, 4), "float32")}
      >>> uses = jinit.audit(apply)(params, jax.ShapeDtypeStruct((2, 8), "float32"))
      >>> assignment = jinit.plan([("w", jinit.he_normal())]).assign(uses)["w"]
      >>> assignment.rule, assignment.mean, assignment.variance
      (0, 0.0, 0.25)
    """

    path: str
    rule: int
    pattern: Pattern
    initializer: Any
    use: WeightUse

    @property
    def mean(self) -> float | complex | None:
        """The exact mean of an entry, where the initializer declares one."""
        means = [_declared(init, "mean", shape) for init, shape in self._calls()]
        return None if None in means else means[0] if len(means) == 1 else statistics.fmean(means)

    @property
    def variance(self) -> float | None:
        """The exact variance of an entry, where the initializer declares one.

        For a stack of layers of different laws it is that of an entry of a layer drawn at random.
        """
        variances = [_declared(init, "variance", shape) for init, shape in self._calls()]
        if None in variances or len(variances) == 1:
            return variances[0] if len(variances) == 1 else None
        means = [_declared(init, "mean", shape) for init, shape in self._calls()]
        return statistics.fmean(variances) + statistics.pvariance(means)

    @property
    def std(self) -> float | None:
        """The root of the variance."""
        return None if self.variance is None else self.variance**0.5

    @property
    def initializers(self) -> tuple[Any, ...]:
        """One initializer, or one for each layer of a stack."""
        return self.initializer if isinstance(self.initializer, tuple) else (self.initializer,)

    def to_dict(self) -> dict[str, Any]:
        """Everything as numbers, strings, lists and None, ready for JSON."""
        use, mean = self.use, self.mean
        texts = [repr(init) for init in self.initializers]
        return {
            "path": self.path,
            "rule": self.rule,
            "pattern": text_of(self.pattern),
            "initializer": texts if isinstance(self.initializer, tuple) else texts[0],
            "role": use.role,
            "shape": list(use.shape),
            "dtype": str(use.dtype),
            "fan_in": use.fan_in,
            "fan_out": use.fan_out,
            "mean": str(mean) if isinstance(mean, complex) else mean,
            "variance": self.variance,
        }

    def _calls(self) -> Iterator[tuple[Any, tuple[int, ...]]]:
        layers = layers_of(self.use)
        for init in self.initializers:
            yield init, called_shape(init, layers, whole=len(self.initializers) == 1)


@dataclasses.dataclass(frozen=True)
class Assignments(Mapping[str, Assignment]):
    """The dry run of a plan: from path to `Assignment`, in the order of the parameters.

    `str()` of it is a table that fits a terminal; layers that differ only in a number share a line.

    Attributes:
      rules: the rules of the plan.
      assignments: one for each parameter.

    Example:
      >>> import jax, jinit
      >>> apply, params = lambda params, x: x @ params["w"], {"w": jax.ShapeDtypeStruct((8, 4), "float32")}
      >>> uses = jinit.audit(apply)(params, jax.ShapeDtypeStruct((2, 8), "float32"))
      >>> print(jinit.plan([("w", jinit.normal(0.5))]).assign(uses))
      1 parameter, 32 entries, 1 rule
      rule  parameter  role    shape  initializer        mean  std
      0     w          kernel  8×4    jinit.normal(0.5)  0     0.5
    """

    rules: tuple[Rule, ...]
    assignments: tuple[Assignment, ...]

    @functools.cached_property
    def _by_path(self) -> dict[str, Assignment]:
        return {assignment.path: assignment for assignment in self.assignments}

    def __getitem__(self, path: str) -> Assignment:
        return self._by_path[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_path)

    def __len__(self) -> int:
        return len(self.assignments)

    def __str__(self) -> str:
        return render(self.rules, self.assignments)

    def to_dict(self) -> dict[str, Any]:
        """Everything as numbers, strings, lists and None, ready for JSON."""
        rules = [{"pattern": text_of(pattern), "initializer": repr(init)} for pattern, init in self.rules]
        return {"rules": rules, "parameters": [assignment.to_dict() for assignment in self.assignments]}


def assigned(
    rules: Sequence[Rule], uses: Iterable[WeightUse], *, caller: str, every_leaf: bool = True
) -> Assignments:
    """Give every parameter to the first rule that matches it.

    Args:
      rules: the rules of a plan.
      uses: the parameters; random keys among them are left out.
      caller: whom an error names.
      every_leaf: whether a parameter that no rule matches is an error, rather than left out.

    Raises:
      As `Plan.assign` does.
    """
    uses = [use for use in uses if not jnp.issubdtype(use.dtype, jax.dtypes.prng_key)]
    taken = {use.path: _first(rules, use, caller) for use in uses}
    complaints.idle_rules(rules, uses, taken, caller)
    if every_leaf:
        complaints.untaken(uses, taken, caller)
    numbered = [(taken[use.path], use) for use in uses]
    made = (_assignment(rules, number, use, caller) for number, use in numbered if number is not None)
    return Assignments(tuple(rules), tuple(made))


def _first(rules: Sequence[Rule], use: WeightUse, caller: str) -> int | None:
    numbers = (number for number, (pattern, _) in enumerate(rules) if matches(pattern, use, caller=caller))
    return next(numbers, None)


def _assignment(rules: Sequence[Rule], number: int, use: WeightUse, caller: str) -> Assignment:
    pattern, init = rules[number]
    where = f"rule {number} ({pattern!r}) for {use.path!r}"
    try:
        inits = _answers(init, use, caller, where)
        inits = tuple(_fitted(init, use, len(inits) == 1, caller, where) for init in inits)
    except Exception as error:
        if where not in str(error):
            error.add_note(f"`{caller}`: in {where}, {use.role} of shape {use.shape} and dtype {use.dtype}.")
        raise
    return Assignment(use.path, number, pattern, inits[0] if len(inits) == 1 else inits, use)


def likely(rules: Sequence[Rule], leaves: Iterable[tuple[str, Any]]) -> Iterator[Assignment]:
    """What a plan probably does to some parameters, before it is known how the program uses them.

    One guess for each rule and shape, where the rules up to the one that matches are by path and it gives an
    initializer of jinit that does not read the layout. Whether its fans are right does not matter here.
    """
    seen = set()
    for path, leaf in leaves:
        number = next(
            (n for n, (p, _) in enumerate(rules) if not isinstance(p, str) or fnmatchcase(path, p)), None
        )
        if number is None or not hasattr(leaf, "shape") or not jnp.issubdtype(leaf.dtype, jnp.number):
            continue
        pattern, init = rules[number]
        shape = tuple(leaf.shape)
        if not isinstance(pattern, str) or reads_layout(init) or (number, shape, leaf.dtype) in seen:
            continue
        seen.add((number, shape, leaf.dtype))
        use = WeightUse(path, shape, np.dtype(leaf.dtype), "kernel", fan_in=1.0, fan_out=1.0)
        with contextlib.suppress(Exception):  # if this fails the true use will tell why
            yield Assignment(path, number, pattern, _fitted(init, use, True, "", ""), use)


def _answers(init: Any, use: WeightUse, caller: str, where: str) -> tuple[Any, ...]:
    """The initializer that a rule gives; one for each layer where they differ."""
    if not is_function_of_use(init, caller=caller, where=where):
        return (init,)
    answers = tuple(init(one) for one in each_layer(use))
    for answer in answers:
        if is_function_of_use(answer, caller=caller, where=where):
            must = f"{where} must give an initializer"
            raise TypeError(message(caller, must, f"{answer!r}, a function of one argument"))
    return answers if any(answer != answers[0] for answer in answers) else answers[:1]


def _fitted(init: Any, use: WeightUse, whole: bool, caller: str, where: str) -> Any:
    """The initializer with the fans of this use, checked against its shape and dtype."""
    if not isinstance(init, Initializer):
        return init
    if init.reads == "fans":
        if use.fan_in is None:
            complaints.no_fans(init, use, caller, where)
        init = init.with_fans(use.fan_in, use.fan_out) if use.size else init  # an empty one has fans of zero
    layers = layers_of(use)
    if init.reads == "layout" and layers.kernels:
        init = init.in_default_axes()
    init.check(called_shape(init, layers, whole), use.dtype)
    return init


def called_shape(init: Any, layers: Layers, whole: bool) -> tuple[int, ...]:
    """The shape that an initializer is called on.

    One kernel, for initializers that read its layout and for those that jinit does not know; for others a
    layer as it is stored. Constants fill the whole array at once.
    """
    if isinstance(init, Constant) and whole:
        return layers.shape
    return layers.kernel if reads_layout(init) else layers.layer


def reads_layout(init: Any) -> bool:
    """Whether an initializer is called kernel by kernel."""
    return not isinstance(init, Initializer) or init.reads == "layout"


def text_of(pattern: Pattern) -> str:
    """A pattern as a person wrote it."""
    return pattern if isinstance(pattern, str) else repr(pattern)


def _declared(init: Any, what: str, shape: tuple[int, ...]) -> Any:
    """`init.mean(shape)` or `init.variance(shape)`, where there is one and it is no traced value."""
    declare: Callable[..., Any] | None = getattr(init, what, None)
    try:
        return None if declare is None else declare(shape)
    except jax.errors.JAXTypeError:
        return None
