"""Predicted and measured moments of every wide model of the zoo, side by side.

    python -m tests.signals.sweep [--width 128] [--draws 24] [model …]

For each model: in every field of every site, predicted over the mean over draws of weights and cotangents,
and how many standard errors of that mean lie between. The worst of each is printed.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from typing import Any

import jax
import numpy as np

import jinit
import tests.zoos.wide_functions
import tests.zoos.wide_loops  # noqa: F401
from tests.zoos.wide import WIDE

FIELDS = ("input", "output", "cotangent", "weight_gradient")
SCALES = {"bias": jinit.zeros, "scale": jinit.ones, "mean": jinit.zeros, "var": jinit.ones}


@dataclasses.dataclass(frozen=True)
class Difference:
    """Of one field of one site: predicted over measured second moment, and standard errors between them."""

    site: str
    field: str
    ratio: float
    z: float


def _init_of(use: Any) -> Any:
    """The usual laws by role: signals of order one, forward and backward, at any width."""
    last = use.path.split("/")[-1]
    if use.role in ("kernel", "embedding"):
        return jinit.lecun_normal() if use.role == "kernel" else jinit.normal(1.0)
    if last in SCALES or use.role in ("bias", "scale"):
        return SCALES.get(last, SCALES.get(use.role))
    return jinit.normal(1.0 if use.role == "other" else use.shape[-1] ** -0.5)


PLAN = jinit.plan([("*", lambda use: _init_of(use))])


def compared(name: str, *, width: int, draws: int) -> list[Difference]:
    """All fields of all sites of a model; of a loop each step, in the order of steps."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        apply, shapes, inputs, kwargs = WIDE[name](width)
        predicted = jinit.predict(apply, weights=PLAN)(shapes, *inputs, **kwargs)
        draw = jinit.init(apply, PLAN)
        measure = jax.jit(lambda p, key: jinit.measure(apply, key=key)(p, *inputs, **kwargs)[1])
        keys = [jax.random.key(i) for i in range(draws)]
        seen = [measure(draw(key, shapes, *inputs, **kwargs), key) for key in keys]
    found = []
    for site, record in predicted.items():
        for field in FIELDS:
            if (moments := getattr(record, field)) is None:
                continue
            of_draws = [getattr(m[site], field) for m in seen]
            measured = np.array([np.ravel(m.second_moment) for m in of_draws], float)
            theirs = np.ravel(np.asarray(moments.second_moment, float))
            found += _differences(site, field, theirs, measured)
            if field == "output":
                size = np.sqrt(measured.mean(0)) + np.finfo(np.float32).tiny
                means = np.array([np.ravel(m.mean) for m in of_draws], float) / size
                found += _differences(site, "mean", 1 + np.ravel(moments.mean) / size, 1 + means)
    return found


def _differences(site: str, field: str, predicted: Any, measured: Any) -> list[Difference]:
    mean = measured.mean(0)
    error = measured.std(0, ddof=1) / len(measured) ** 0.5 + 1e-4 * abs(mean)  # float32
    with np.errstate(all="ignore"):
        return [
            Difference(
                site,
                field,
                float(p / m) if m else float("nan") if p else 1.0,
                float((p - m) / e) if e else 0.0,
            )
            for p, m, e in zip(predicted, mean, error, strict=True)
        ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--draws", type=int, default=24)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("models", nargs="*")
    arguments = parser.parse_args()
    for name in arguments.models or WIDE:
        start = time.time()
        try:
            found = compared(name, width=arguments.width, draws=arguments.draws)
        except Exception as error:
            print(f"{name:30s} {type(error).__name__}: {str(error)[:160]!r}", flush=True)
            continue
        cells = []
        for field in (*FIELDS, "mean"):
            here = [d for d in found if d.field == field]
            if here:
                w = max(here, key=lambda d: abs(np.log(max(d.ratio, 1e-9))))
                cells.append(f"{field[:6]} {w.ratio:.3f} ({w.z:+.1f})")
        print(f"{name:30s} {time.time() - start:4.0f} s  " + "  ".join(cells), flush=True)
        if arguments.all:
            for d in found:
                flag = " <<<" if abs(d.z) > 5 and not 0.95 < d.ratio < 1.05 else ""
                print(f"    {d.site:40s} {d.field:16s} {d.ratio:8.3f} {d.z:+8.1f}{flag}", flush=True)


if __name__ == "__main__":
    main()
