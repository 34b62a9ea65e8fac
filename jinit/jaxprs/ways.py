"""Where a contraction takes the axes of one of its operands: to its result, and to the other operand."""

from __future__ import annotations

import numpy as np

from jinit.jaxprs.graph import Node
from jinit.jaxprs.tags import NotFollowedError, Tags, compressed, placed, reshaped, varies


class Ways:
    """Where the axes of one operand of a contraction go: to the result, and to the other operand."""

    def __init__(self, node: Node, position: int):
        self.node, self.position, self.params = node, position, node.eqn.params
        self.shapes = [tuple(v.aval.shape) for v in (*node.eqn.invars[:2], node.eqn.outvars[0])]
        if node.kind == "dot_general":
            contracted, batch = self.params["dimension_numbers"]
            self.summed, self.batch = tuple(contracted[position]), tuple(batch[position])
            self.others = (tuple(contracted[1 - position]), tuple(batch[1 - position]))
        elif node.kind == "conv_general_dilated" and self.params["batch_group_count"] == 1:
            numbers = self.params["dimension_numbers"]
            spec = numbers.lhs_spec if position == 0 else numbers.rhs_spec
            # Taps and positions are combined too: the units must not depend on them.
            self.summed, self.batch = tuple(spec[1:]), ()
        else:
            raise NotFollowedError(f"what `{node.kind}` does with it is not known")
        rank = len(self.shapes[position])
        self.free = tuple(i for i in range(rank) if i not in (*self.summed, *self.batch))

    def onward(self, tags: Tags, loops: int) -> Tags:
        """Tags of the result, where the summed axes don't vary."""
        places: list[int | None] = [None] * len(self.shapes[self.position])
        if self.node.kind == "dot_general":
            num_batch = len(self.batch)
            num_left = len(self.shapes[0]) - num_batch - len(self.summed)
            for i, axis in enumerate(self.batch):
                places[axis] = i
            for i, axis in enumerate(self.free):
                places[axis] = num_batch + i + (num_left if self.position == 1 else 0)
        else:
            places[self.free[0]] = self.params["dimension_numbers"].out_spec[self.position]
        return compressed(placed(tags, loops, places, len(self.shapes[2])))

    def across(self, tags: Tags, loops: int) -> Tags:
        """Tags of the other operand, where the free axes don't vary."""
        if self.node.kind == "conv_general_dilated":
            return self.conv_rows(tags, loops)
        places: list[int | None] = [None] * len(self.shapes[self.position])
        for axes, others in zip((self.summed, self.batch), self.others, strict=True):
            for axis, other in zip(axes, others, strict=True):
                places[axis] = other
        return placed(tags, loops, places, len(self.shapes[1 - self.position]))

    def conv_rows(self, tags: Tags, loops: int) -> Tags:
        """A kernel's rows are its inputs; with groups each output has the rows of its own group."""
        if self.position != 0:
            raise NotFollowedError("it is the kernel of a convolution")
        numbers, groups = self.params["dimension_numbers"], self.params["feature_group_count"]
        if any(varies(tags, loops + axis) for axis in numbers.lhs_spec[2:]):
            raise NotFollowedError("only a part of what a weight sums over is made of it")
        feature, kernel = numbers.lhs_spec[1], self.shapes[1]
        outs, ins = numbers.rhs_spec[:2]
        places = [0 if axis == feature else None for axis in range(len(self.shapes[0]))]
        flat = placed(tags, loops, places, 1)
        before = flat.shape[:loops]
        full = np.broadcast_to(flat, [*before, self.shapes[0][feature]])
        grouped = reshaped(full, loops, full.shape[loops:], (groups, kernel[ins]))
        wide = np.broadcast_to(grouped, [*before, groups, kernel[ins]])
        wide = np.repeat(wide, kernel[outs] // groups, axis=loops)
        return compressed(placed(wide, loops, [outs, ins], len(kernel)))
