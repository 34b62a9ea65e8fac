"""Names of parameters: the path to a leaf, as `params/Dense_0/kernel` or `layers/0/kernel`."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx
from flax.core import meta

from jinit._typing import PyTree


def leaf_paths(tree: PyTree) -> list[str]:
    """One path for every leaf of `tree`, in the order of `jax.tree.leaves`.

    A box around a leaf (`nn.Partitioned`, `nnx.Param`) adds nothing to its name.

    Example:
      >>> leaf_paths({"params": {"Dense_0": {"bias": 0.0, "kernel": 1.0}}, "layers": [2.0]})
      ['layers/0', 'params/Dense_0/bias', 'params/Dense_0/kernel']
    """
    boxed, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_box)
    return [join(path) for path, box in boxed for _ in range(len(jax.tree.leaves(box)))]


def join(path: tuple[Any, ...]) -> str:
    """A key path of `jax.tree_util` as a string with slashes; `params` for the empty path."""
    return "/".join(jax.tree_util.keystr((key,), simple=True) for key in path) or "params"


def _is_box(x: Any) -> bool:
    return isinstance(x, (meta.AxisMetadata, nnx.Variable))
