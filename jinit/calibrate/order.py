"""The order in which signals pass the sites, the steps of a scan one after another."""

from __future__ import annotations

import itertools

from jinit.jaxprs.sites import Analysis


def in_order(analysis: Analysis, chosen: list[int]) -> list[tuple[int, int]]:
    """`(site, step)` in the order of the program; steps of nested scans are numbered through.

    Args:
      analysis: of the program.
      chosen: indices of sites.
    """
    keyed = []
    for index in chosen:
        site = analysis.sites.sites[index]
        steps = itertools.product(*(range(n) for n in site.lengths))
        keyed += [(_key(analysis, site.address, step), (index, k)) for k, step in enumerate(steps)]
    return [pair for _, pair in sorted(keyed)]


def _key(analysis: Analysis, address: tuple[int, ...], step: tuple[int, ...]) -> tuple[int, ...]:
    """The address with the step put in behind every scan that leads to it."""
    key, steps = [], iter(step)
    for length in range(1, len(address) + 1):
        key.append(address[length - 1])
        if analysis.graph.regions.get(address[:length]) == "scan" and length < len(address):
            key.append(next(steps))
    return tuple(key)
