"""How far a prediction is from what was measured over draws of the weights."""

from __future__ import annotations

from typing import Any

import numpy as np

DRAWS = 8
# Terms of order one over width, which no number of draws averages out: the narrowest layer has 64 channels.
NARROW = 4 / 64


def disagreement(predicted: Any, measured: list[Any], *, narrow: float = NARROW) -> float:
    """How far a prediction is from the mean over draws, in units of 3 standard errors and `narrow`."""
    seen = np.array([float(m.second_moment) for m in measured])
    room = 3 * seen.std(ddof=1) / len(seen) ** 0.5 + narrow * seen.mean()
    return abs(float(predicted.second_moment) - seen.mean()) / room
