"""A stored array as a stack of layers, and a layer as a batch of kernels (…receptive field, in, out)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jinit._typing import Array, Key
from jinit.plans.uses import WeightUse

Map = Callable[[Callable[..., Array]], Callable[..., Array]]  # `jax.vmap`, or what stands for it


@dataclasses.dataclass(frozen=True)
class Layers:
    """How a stored array is made up.

    Attributes:
      shape: shape of the stored array.
      scan_axes: axes along which layers are stacked, outermost loop first.
      order: axes of one layer in the order batch, receptive field, inputs, outputs.
      num_batch: how many of them are batch axes.
      kernel: shape of one kernel, (…receptive field, in, out), all inputs in one axis and all outputs; the
        layer itself, where it is no kernel.
      kernels: whether it holds kernels at all.
    """

    shape: tuple[int, ...]
    scan_axes: tuple[int, ...]
    order: tuple[int, ...]
    num_batch: int
    kernel: tuple[int, ...]
    kernels: bool

    @property
    def layer(self) -> tuple[int, ...]:
        """Shape of one layer, as it is stored."""
        return tuple(size for axis, size in enumerate(self.shape) if axis not in self.scan_axes)

    @property
    def stack(self) -> tuple[int, ...]:
        """Number of layers along each of `scan_axes`."""
        return tuple(self.shape[axis] for axis in self.scan_axes)

    @property
    def plain(self) -> Layers:
        """The same stack, of layers in which no axis has a role."""
        return plain_layers(self.shape, self.scan_axes)

    def fill(self, init: Callable[[Key, tuple[int, ...]], Array], key: Key, map_: Map) -> Array:
        """One layer, each of its kernels drawn by `init` with a key of its own."""
        layer = self.layer
        if self.kernel == layer and self.order == tuple(range(len(layer))):
            return init(key, layer)
        batch = tuple(layer[axis] for axis in self.order[: self.num_batch])
        if batch:
            kernels = map_(lambda key: init(key, self.kernel))(jax.random.split(key, math.prod(batch)))
        else:
            kernels = init(key, self.kernel)
        unfolded = kernels.reshape(tuple(layer[axis] for axis in self.order))
        return jnp.transpose(unfolded, sorted(range(len(layer)), key=self.order.__getitem__))

    def joined(self, layers: Array) -> Array:
        """The stored array of layers `[number of layers, …layer]`."""
        whole = layers.reshape(self.stack + self.layer)
        return jnp.moveaxis(whole, range(len(self.scan_axes)), self.scan_axes)


def layers_of(use: WeightUse) -> Layers:
    """How the array of a parameter is made up.

    An axis that is a batch axis and an input or output axis at once, as that of a grouped convolution,
    counts as the latter: the kernel stays as it is stored.
    """
    stored = [axis for axis in range(len(use.shape)) if axis not in use.scan_axes]
    layer = tuple(use.shape[axis] for axis in stored)
    if use.role != "kernel" or not (use.in_axes or use.out_axes):
        return plain_layers(use.shape, use.scan_axes)

    def places(axes: Any) -> tuple[int, ...]:
        return tuple(stored.index(axis) for axis in axes if axis in stored)

    ins = places(use.in_axes)
    outs = tuple(axis for axis in places(use.out_axes) if axis not in ins)
    batch = tuple(axis for axis in places(use.batch_axes) if axis not in (*ins, *outs))
    receptive = tuple(axis for axis in range(len(layer)) if axis not in (*ins, *outs, *batch))
    kernel = (
        *(layer[axis] for axis in receptive),
        math.prod(layer[axis] for axis in ins),
        math.prod(layer[axis] for axis in outs),
    )
    order = (*batch, *receptive, *ins, *outs)
    return Layers(use.shape, use.scan_axes, order, len(batch), kernel, kernels=True)


def plain_layers(shape: tuple[int, ...], scan_axes: tuple[int, ...]) -> Layers:
    """A stack of arrays that are no kernels."""
    layer = tuple(size for axis, size in enumerate(shape) if axis not in scan_axes)
    return Layers(shape, scan_axes, tuple(range(len(layer))), 0, layer, kernels=False)


def each_layer(use: WeightUse) -> list[WeightUse]:
    """One `WeightUse` for every layer of a stack, each with its own `index`; the use itself where none is."""
    uses = [use]
    for axis, step in zip(use.scan_axes, use.steps, strict=True):
        uses = [
            dataclasses.replace(one, index=one.index + place * step)
            for one in uses
            for place in range(use.shape[axis])
        ]
    return uses
