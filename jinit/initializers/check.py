"""A statistical check of any initializer: does it draw from the law it should, and behave as JAX expects?"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from jinit._errors import message
from jinit._typing import Key, Shape
from jinit.initializers import _arguments as arguments
from jinit.initializers import _statistics as statistics
from jinit.initializers._base import is_maker
from jinit.initializers._statistics import Check as Check


@dataclasses.dataclass(frozen=True)
class CheckReport:
    """What `jinit.check_initializer` found; `str(report)` is a table.

    Attributes:
      checks: every check, also those that could not be done.

    Example:
      >>> import jinit
      >>> report = jinit.check_initializer(lambda key, shape, dtype: jinit.ones(key, shape, dtype), (8, 8))
      >>> report.passed, [check.name for check in report.failures]
      (False, ['other keys, other values'])
    """

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """True if no check failed."""
        return all(check.passed is not False for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.passed is False)

    def __getitem__(self, name: str) -> Check:
        """The check of this name."""
        return next(check for check in self.checks if check.name == name)

    def __str__(self) -> str:
        word = {True: "ok", False: "FAILED", None: "skipped"}
        width = max(len(check.name) for check in self.checks)
        return "\n".join(f"{word[c.passed]:8}{c.name:{width}}  {c.detail}" for c in self.checks)


def check_initializer(
    init: Callable[..., Any],
    shape: Shape,
    dtype: Any = jnp.float32,
    *,
    key: Key | None = None,
    samples: int = 100_000,
    mean: float | None = None,
    variance: float | None = None,
    law: Any = None,
) -> CheckReport:
    """Draws from any initializer and checks the result.

    Checked are shape, dtype and finiteness; that the same key gives the same values and other keys give
    other, uncorrelated ones; that `jax.jit`, `jax.vmap` over keys and sharding change nothing; and mean,
    variance and law against what is declared. jinit's initializers declare their law; for others state
    `mean`, `variance` or `law`. What is not declared or can't be done on this machine is listed as skipped.

    Bounds come from the sample size: a z-score beyond 5, a Kolmogorov-Smirnov p-value below 1e-6. The score
    of the variance uses the fourth moment of the declared law, or of the sample where there is none. In low
    precision the sample is compared with the declared law rounded to the dtype. The bounds hold for
    independent entries; orthogonal ones stay further inside them.

    Args:
      init: anything called as `init(key, shape, dtype)`.
      shape: the shape to draw.
      dtype: the dtype to draw.
      key: the key that the keys of all draws come from, by default `jax.random.key(0)`.
      samples: the number of entries to look at, of up to 64 draws.
      mean: the mean an entry should have.
      variance: the variance an entry should have.
      law: the law an entry should have: anything with a `cdf`, such as a frozen distribution of
        `scipy.stats`.

    Returns:
      A report; `report.passed` is the verdict, `str(report)` a table.

    Raises:
      TypeError: if `init` can't be called, `samples` is no whole number or `law` has no `cdf`.

    Example:
      >>> import jax, jinit
      >>> jinit.check_initializer(jinit.he_normal(), (64, 32)).passed
      True
      >>> report = jinit.check_initializer(jax.nn.initializers.he_normal(), (64, 32), variance=1 / 64)
      >>> [check.name for check in report.failures]
      ['variance']

    References:
      Kolmogorov, "Sulla determinazione empirica di una legge di distribuzione", 1933; Stephens, "EDF
      statistics for goodness of fit and some comparisons", 1974, for the correction for finite samples.
    """
    caller = "jinit.check_initializer(...)"
    if not _is_initializer(init):
        _refuse(init, caller, forgot=is_maker(init) or _takes(init))
    if law is not None and not callable(getattr(law, "cdf", None)):
        raise TypeError(message(caller, "`law` must have a method `cdf`", f"law={law!r}"))
    shape = arguments.static_shape(caller, shape)
    samples = arguments.count(caller, "samples", samples)
    key = jax.random.key(0) if key is None else arguments.single_key(caller, key)
    draws = statistics.Draws(init, shape, jnp.dtype(dtype), key, samples)
    if callable(draws.first):  # of what is called once more, such as `jax.nn.initializers.he_normal`
        _refuse(init, caller, forgot=True)
    declared = statistics.declared_law(draws, mean, variance, law)
    formal = list(statistics.form(draws))
    if not all(check.passed for check in formal):
        return CheckReport(tuple(formal))
    return CheckReport(
        (
            *formal,
            *statistics.keys(draws, declared),
            *statistics.transforms(draws),
            *statistics.moments_and_law(draws, declared),
        )
    )


def _is_initializer(init: Any) -> bool:
    """Whether it can be called as one; what makes initializers is none."""
    if not callable(init) or is_maker(init):
        return False
    return _takes(init, "key", "shape", "dtype")


def _takes(function: Any, *args: Any) -> bool:
    try:
        inspect.signature(function).bind(*args)
    except TypeError:
        return False
    except ValueError:  # a built-in function that does not say
        pass
    return True


def _refuse(init: Any, caller: str, *, forgot: bool) -> NoReturn:
    must = "`init` must be an initializer, called as `init(key, shape, dtype)`"
    other = "For example `jinit.he_normal()`, or a function of these three."
    todo = "Did you forget the ()?" if forgot else other
    raise TypeError(message(caller, must, f"init={init!r}", todo))
