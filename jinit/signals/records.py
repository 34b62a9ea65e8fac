"""What `measure` and `predict` return: one `Record` a site, in program order."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from jinit.signals.moments import Moments


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Record:
    """The signals at one site: a place where a weight meets a signal.

    A field is None where there is nothing to measure (integer indices have no moments; nothing
    flows backward with `backward=False`). Inside a `scan` every field gains a leading axis `[length]`.

    Attributes:
      input: what enters the contraction, so the previous activation's output.
      output: what leaves it, after the bias where a parameter is added directly to it.
      cotangent: the gradient with respect to `output`.
      weight: the weight operand as it enters the contraction.
      weight_gradient: the gradient with respect to that operand, at this use.
      note: empty, or what could not be measured here and why; of `predict`, what theory leaves out.

    Example:
      >>> import jax.numpy as jnp, jinit
      >>> _, records = jinit.measure(lambda w, x: x @ w)(jnp.ones((3, 4)), jnp.ones((2, 3)))
      >>> record = records["params"]  # the path of an array that is all of `params`
      >>> float(record.input.second_moment), float(record.output.second_moment)
      (1.0, 9.0)
    """

    input: Moments | None = None
    output: Moments | None = None
    cotangent: Moments | None = None
    weight: Moments | None = None
    weight_gradient: Moments | None = None
    note: str = dataclasses.field(default="", metadata={"static": True})


class Records(dict[str, Record]):
    """A dict from site name to `Record` that keeps program order through `jax.jit`.

    Names are the paths of the weights: `params/Dense_0/kernel`, with `#0`, `#1`, … where one weight
    is used at several sites.

    Example:
      >>> import jax, jax.numpy as jnp, jinit
      >>> params = {"b": jnp.ones((3, 3)), "a": jnp.ones((3, 3))}
      >>> measured = jinit.measure(lambda p, x: x @ p["b"] @ p["a"] @ p["a"])
      >>> list(jax.jit(measured)(params, jnp.ones((2, 3)))[1])
      ['b', 'a#0', 'a#1']
    """


def _flatten(records: Records) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    return tuple(records.values()), tuple(records)


def _flatten_with_keys(records: Records) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    return tuple((jax.tree_util.DictKey(k), v) for k, v in records.items()), tuple(records)


def _unflatten(names: tuple[str, ...], values: Any) -> Records:
    return Records(zip(names, values, strict=True))


jax.tree_util.register_pytree_with_keys(Records, _flatten_with_keys, _unflatten, _flatten)
