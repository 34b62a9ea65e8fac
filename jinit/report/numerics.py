"""Findings about numbers that fail, parameters that do nothing, and what was not seen."""

from __future__ import annotations

import jax.numpy as jnp

from jinit.report.finding import Case, Finding, Severity, number
from jinit.report.rows import Row, Stats


def nonfinite(case: Case) -> list[Finding]:
    """The first place where NaN or infinity appears; all the others follow from it."""
    bad = case.survey.nonfinite_parameters
    if bad:
        named = _listed([f"{path} ({count})" for path, count in bad.items()])
        remedy = "params = model.init(key, *inputs)  # draw them anew, or restore an earlier checkpoint"
        return [
            Finding("severe", "nonfinite", next(iter(bad)), f"NaN or infinite parameters: {named}.", remedy)
        ]
    return _forward(case) or _backward(case)


def _forward(case: Case) -> list[Finding]:
    for row in case.rows:
        for name, stats in (("input", row.input), ("weight", row.weight), ("output", row.output)):
            if _bad(stats):
                return [_first_bad(row, name, stats)]
    if case.survey.nonfinite_outputs:
        evidence = (
            f"{case.survey.nonfinite_outputs} outputs are NaN or infinite; every site before is finite."
        )
        remedy = "jax.config.update('jax_debug_nans', True)  # shows the line after the last site"
        return [Finding("severe", "nonfinite", "", evidence, remedy)]
    return []


def _backward(case: Case) -> list[Finding]:
    """Cotangents run from the last site to the first, so the last bad one is where it starts."""
    for row in reversed(case.rows):
        for name, stats in (("cotangent", row.cotangent), ("weight gradient", row.weight_gradient)):
            if _bad(stats):
                return [_first_bad(row, name, stats)]
    return []


def _bad(stats: Stats | None) -> bool:
    return stats is not None and stats.nonfinite_count > 0


def _first_bad(row: Row, name: str, stats: Stats | None) -> Finding:
    assert stats is not None
    count = f"{stats.nonfinite_count:.0f} of {stats.count:.0f} entries"
    if name == "input" and row.info.reads_network_input:
        evidence = f"The inputs of the network hold NaN or infinity: {count} of what enters {row.label}"
    else:
        evidence = f"NaN or infinity first appears in the {name} of {row.label}: {count}"
    if row.info.source and "site-packages" not in row.info.source:
        evidence += f" ({row.info.source})"
    remedy = "jax.config.update('jax_debug_nans', True)  # shows the line"
    return Finding("severe", "nonfinite", row.site, evidence + ".", remedy, row.step)


def underflow(case: Case) -> list[Finding]:
    """Signals or gradients below what a narrow dtype can hold."""
    hits = [hit for row in case.rows for hit in _underflows(row)]
    if not hits:
        return []
    severity: Severity = "severe" if any(hit[0] == "severe" for hit in hits) else "warning"
    _, row, evidence = next(hit for hit in hits if hit[0] == severity)
    if len(hits) > 1:
        evidence += f" In all {len(hits)} such places."
    remedy = (
        "loss = loss * 2.0**15  # and divide the gradients by it before the update\n"
        "dtype=jnp.bfloat16     # or a dtype with the exponents of float32"
    )
    return [Finding(severity, "underflow", row.site, evidence, remedy, row.step)]


def _underflows(row: Row) -> list[tuple[Severity, Row, str]]:
    limits = narrow_limits(row.info.dtype)
    if limits is None:
        return []
    normal, smallest = limits
    hits: list[tuple[Severity, Row, str]] = []
    for name, stats in (("output", row.output), ("cotangent", row.cotangent)):
        if stats is None or stats.all_zero or not stats.rms < normal:
            continue
        size = f"The {name} of {row.label} has rms {number(stats.rms)}"
        under = f"{row.info.dtype}'s smallest {'number' if stats.rms < smallest else 'normal number'}"
        limit = smallest if stats.rms < smallest else normal
        severity: Severity = "severe" if stats.rms < smallest else "warning"
        hits.append((severity, row, f"{size}, under {under}, {number(limit)}."))
    if _flushed(row):
        evidence = f"Every output of {row.label} is 0 in {row.info.dtype}, though inputs and weights are not."
        hits.append(("severe", row, evidence))
    return hits


def _flushed(row: Row) -> bool:
    if row.input is None or row.weight is None or row.output is None:
        return False
    return row.output.all_zero and not row.input.all_zero and not row.weight.all_zero


def narrow_limits(dtype: str) -> tuple[float, float] | None:
    """Smallest normal and smallest subnormal number of a dtype under 32 bits; None for all others.

    >>> narrow_limits("float32"), narrow_limits("int8")
    (None, None)
    >>> narrow_limits("float16")[0] == 2.0**-14
    True
    """
    if not dtype.startswith(("float16", "bfloat16", "float8", "float4")):
        return None
    info = jnp.finfo(dtype)
    return float(info.tiny), float(info.smallest_subnormal)


def unused_parameter(case: Case) -> list[Finding]:
    """Parameters that no output depends on."""
    unused = case.survey.unused
    if any(path.startswith("params/") for path in _all_paths(case)):
        # A linen dict of variables: running statistics and caches need not reach the output.
        unused = tuple(path for path in unused if path.startswith("params/"))
    if not unused:
        return []
    some = "parameter reaches" if len(unused) == 1 else "parameters reach"
    evidence = f"{len(unused)} {some} no output and will never train: {_listed(list(unused))}."
    remedy = (
        "# remove the layer, or use what it computes; check arguments such as `train=` that switch it off"
    )
    return [Finding("warning", "unused_parameter", unused[0], evidence, remedy)]


def _all_paths(case: Case) -> list[str]:
    return [leaf for info in case.survey.sites for leaf in (info.name, *info.leaves)] + list(
        case.survey.unused
    )


def not_followed(case: Case) -> list[Finding]:
    """What the survey could not see or could not measure, one finding for each reason."""
    reasons: dict[str, list[str]] = {}
    for path, reason in case.survey.not_followed.items():
        reasons.setdefault(reason, []).append(path)
    for name, record in case.survey.records.items():
        if record.note and name not in case.survey.not_followed:
            reasons.setdefault(record.note, []).append(name)
    found = [
        Finding("info", "not_followed", paths[0], f"{_listed(paths)}: {_sentence(reason)}")
        for reason, paths in reasons.items()
    ]
    if case.rows and all(row.output is None for row in case.rows):
        evidence = "Nothing was measured: no entry reaches any site. Are the inputs empty?"
        found.append(Finding("info", "not_followed", "", evidence))
    if case.survey.backward_error:
        evidence = f"No gradients were measured: {_sentence(case.survey.backward_error)}"
        found.append(Finding("info", "not_followed", "", evidence, "jinit.diagnose(apply, backward=False)"))
    return found


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else text + "."


def _listed(names: list[str], most: int = 4) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
