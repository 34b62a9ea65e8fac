"""Entries among copies of one value."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Any

import numpy as np

from jinit.signals.laws import places
from jinit.signals.laws.arrays import xp
from jinit.signals.laws.law import Law
from jinit.signals.laws.moving import rearranged, without_runs
from jinit.signals.laws.roots import PLACE
from jinit.signals.laws.runs import Axes


def _standing_alone(law: Law, axes: Axes) -> Law:
    """`law`, different along axes of which it has one entry among copies of another: no two are the same."""
    own = (r.axes if r.kind == PLACE else r.axes | axes for r in law.roots)
    roots = (dataclasses.replace(r, axes=k) for r, k in zip(law.roots, own, strict=True))
    return dataclasses.replace(law, roots=tuple(roots))


def padded(law: Law, value: Law, eqn: Any, name: Hashable) -> Law:
    """`pad`: entries among copies of one value; negative padding cuts."""
    shape = eqn.outvars[0].aval.shape
    indices = {}
    for i, (low, high, interior) in enumerate(eqn.params["padding_config"]):
        if (low, high, interior) == (0, 0, 0):
            continue
        law = without_runs(law, frozenset([i])) if interior else law
        at = np.arange(-low, law.shape[i] + (law.shape[i] - 1) * interior + high)
        inside = (at >= 0) & (at % (interior + 1) == 0) & (at // (interior + 1) < law.shape[i])
        indices[i] = np.where(inside, at // (interior + 1), -1)
    one = xp.asarray(value.nodes.reshape(-1)[0], law.nodes.dtype)
    alone = frozenset(i for i in indices if law.shape[i] == 1)
    law = places.picked(_standing_alone(law, alone), indices, one)
    return rearranged(law, frozenset(indices), shape, name)
