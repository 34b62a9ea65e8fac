"""From which number on `diagnose` speaks up, and why there."""

from __future__ import annotations

import dataclasses

from jinit._errors import message


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """The numbers that separate a healthy network from a finding.

    Each kind of finding has a `warning` and a `severe` threshold. They are set so that networks known to
    train from their published initialization give no finding at all.

    Args:
      signal_warning: factor by which the second moment of the signals may fall, or grow, through the network.
        1e-3 is ten ReLU layers without He's factor 2; a residual sum or an attention average over a
        thousand tokens stays within it.
      signal_severe: likewise; at 1e-6 activations are a thousand times smaller or larger than the input, and
        biases or half precision take over.
      gradient_warning: factor by which the energy of the cotangents (the sum of their squares, which a
        fan-in-scaled network conserves) may change between its last and its first third.
      gradient_severe: likewise; at 1e-6 one learning rate can't serve both ends.
      dead_warning: share of the input features of a site that are zero on every example, beyond those that
        chance explains (see `dead_by_chance`). A fifth of the width is a loss that shows in accuracy.
      dead_severe: likewise; next to nothing passes.
      saturated_warning: share of the nonzero entries of an input that lie at the ends of its range. A
        standard normal through `tanh` has 2 % there; from half on, gradients have mostly vanished.
      saturated_severe: likewise.
      identical_warning: share of units that are copies of another unit. Random weights give exactly none.
      identical_severe: likewise; at one half the layer works as one of half its width at most.
      collapse_warning: `1 - cosine` between the input rows of different examples, under which they count as
        one. He-scaled ReLU networks reach 44/depth², so 1e-3 only at depth 210; a network in the ordered
        phase gets there exponentially fast.
      collapse_severe: likewise; float32 sums keep about seven digits, bfloat16 sees equal rows.
      fan_warning: factor by which the variance of a site's outputs is off, up or down, because a known rule
        (LeCun, Glorot, He, 1/√n) was given the fan of the array's shape, not of its use. Under 2 is what
        these rules differ by.
      fan_severe: likewise; at 100 one layer is off by a factor of 10.
      mean_shift_warning: `|mean| / std` of the outputs of a site. Raised to `5/sqrt(units)` where that is
        more: zero-mean weights reach `1/sqrt(units)` by chance.
      mean_shift_severe: likewise; also the threshold for a shift that a bias, not the weights, explains.
      theory_info: factor by which a second moment may differ from the predicted one, beyond what a draw of
        the weights differs from another by chance (see the guide). Approximations of `jinit.predict` stay
        within 2 in most networks.

    Raises:
      ValueError: a threshold is not a positive number, or the severe one comes before its warning.

    Example:
      >>> Thresholds(dead_warning=0.5).dead_severe
      0.9
      >>> Thresholds(signal_warning=1e-9)
      Traceback (most recent call last):
      ...
      ValueError: `jinit.Thresholds(...)`: `signal_severe` must be at most `signal_warning`; got ...

    References:
      He et al., *Delving Deep into Rectifiers*, 2015, section 2.2 (the factor 2).
      Schoenholz et al., *Deep Information Propagation*, 2017 (cosines through depth).
    """

    signal_warning: float = 1e-3
    signal_severe: float = 1e-6
    gradient_warning: float = 1e-3
    gradient_severe: float = 1e-6
    dead_warning: float = 0.2
    dead_severe: float = 0.9
    saturated_warning: float = 0.5
    saturated_severe: float = 0.9
    identical_warning: float = 0.01
    identical_severe: float = 0.5
    collapse_warning: float = 1e-3
    collapse_severe: float = 1e-5
    fan_warning: float = 2.0
    fan_severe: float = 100.0
    mean_shift_warning: float = 0.5
    mean_shift_severe: float = 5.0
    theory_info: float = 4.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not (isinstance(value, (int, float)) and 0 < value < float("inf")):
                raise ValueError(
                    message(
                        "jinit.Thresholds(...)", f"`{field.name}` must be a positive number", f"{value!r}"
                    )
                )
        for name in ("signal", "gradient", "collapse"):
            self._ordered(f"{name}_severe", f"{name}_warning")
        for name in ("dead", "saturated", "identical", "fan", "mean_shift"):
            self._ordered(f"{name}_warning", f"{name}_severe")

    def _ordered(self, low: str, high: str) -> None:
        if getattr(self, low) > getattr(self, high):
            given = f"{low}={getattr(self, low)!r}, {high}={getattr(self, high)!r}"
            raise ValueError(
                message("jinit.Thresholds(...)", f"`{low}` must be at most `{high}`", given, "Set both.")
            )
