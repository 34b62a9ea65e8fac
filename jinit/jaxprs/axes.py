"""Which axes of a site's operands and output are features, units and examples."""

from __future__ import annotations

import dataclasses

from jinit.jaxprs.sites import Site


@dataclasses.dataclass(frozen=True)
class Axes:
    """Roles of the axes at a contraction.

    Attributes:
      features: axes of the signal that are summed over, with those shared with the weight (experts).
      examples: axes of the signal that tell examples apart; positions of a convolution do not.
      units: axes of the weight, one index of which makes one output unit.
      output_units: axes of the contraction's result that index the units, in the order of `units`.
    """

    features: tuple[int, ...]
    examples: tuple[int, ...]
    units: tuple[int, ...]
    output_units: tuple[int, ...]


def axes_of(site: Site) -> Axes | None:
    """The roles of the axes at a site; None where they are not defined, as in a lookup."""
    name = site.eqn.primitive.name
    if name == "dot_general":
        return _of_dot(site)
    if name == "conv_general_dilated" and site.weight == 1:
        numbers = site.eqn.params["dimension_numbers"]
        return Axes(
            (numbers.lhs_spec[1],), (numbers.lhs_spec[0],), (numbers.rhs_spec[0],), (numbers.out_spec[1],)
        )
    return None


def _of_dot(site: Site) -> Axes:
    contracted, batch = site.eqn.params["dimension_numbers"]
    weight, signal = site.weight, 1 - site.weight
    ranks = [len(a.shape) for a in site.operands[:2]]
    free = [tuple(i for i in range(ranks[k]) if i not in contracted[k] and i not in batch[k]) for k in (0, 1)]
    num_batch = len(batch[0])
    first = num_batch + (len(free[0]) if weight == 1 else 0)
    return Axes(
        features=(*batch[signal], *contracted[signal]),
        examples=free[signal],
        units=(*batch[weight], *free[weight]),
        output_units=(*range(num_batch), *range(first, first + len(free[weight]))),
    )
