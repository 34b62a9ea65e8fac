"""Small models by name, each with the sites it has: `ZOO[name].make() -> (apply, params, inputs, kwargs)`."""

from __future__ import annotations

from tests.zoos import corners, devices, frameworks, layers, loops, weights
from tests.zoos.member import ZOO, Member, array, fill, linen

__all__ = ["ZOO", "Member", "array", "corners", "devices", "fill", "frameworks", "layers", "linen", "loops",
           "weights"]  # fmt: skip
