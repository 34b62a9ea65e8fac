"""The multilayer perceptron that the experiments train, and its parameters by a plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import jinit

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "gelu": jax.nn.gelu,
}


class MLP(nn.Module):
    """`depth` hidden layers `Dense_0` … of `width` units, and an output layer `out`.

    `normalize` makes a layer that stands between a hidden layer and its activation.
    """

    depth: int
    width: int
    activation: Callable[[jax.Array], jax.Array] = jax.nn.relu
    outputs: int = 10
    normalize: Callable[[], Callable[[jax.Array], jax.Array]] | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, features] -> [batch, outputs]."""
        for i in range(self.depth):
            x = nn.Dense(self.width, name=f"Dense_{i}")(x)
            if self.normalize is not None:
                x = self.normalize()(x)
            x = self.activation(x)
        return nn.Dense(self.outputs, name="out")(x)


def plan(kernel: Any, *first: tuple[str, Any]) -> jinit.Plan:
    """Kernels by one initializer, biases zero; `first` are rules that come before."""
    return jinit.plan([*first, ("*/kernel", kernel), ("*/bias", jinit.zeros)])


def initialize(model: nn.Module, rules: jinit.Plan, key: jax.Array, features: int) -> Any:
    """Parameters by a plan; with a vector of keys every leaf has a leading axis."""
    x = jnp.zeros((2, features))
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    return jinit.init(model.apply, rules)(key, shapes, x)


def stack(trees: list[Any]) -> Any:
    """Populations joined along their leading axis."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *trees)
