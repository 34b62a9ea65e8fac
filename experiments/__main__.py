"""`python -m experiments list | run NAME… | all`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from experiments._results import (
    EXPERIMENTS,
    PAGE,
    Claim,
    T,
    load,
    missing,
    read,
    result,
    retold,
    title,
    write,
)

OTHERS = ("calibration_cost", "fans_of_flax", "first_parameters", "measure_cost", "phase_diagrams")


def show() -> None:
    """Names and titles, and what the committed results say."""
    for name in EXPERIMENTS:
        found = read(name)
        claims = [Claim(**claim) for claim in found["claims"]] if found else []
        held = (
            f"{sum(c.holds is True for c in claims)} of {len(claims)} claims hold" if found else "no result"
        )
        print(f"{name:18} {title(load(name))} ({held})")
    print("\nWith a page or a printout of their own, each `python -m experiments.NAME`:")
    for name in OTHERS:
        print(f"{name:18} {title(load(name))}")


def rewrite() -> None:
    """Words and figures follow the programs; numbers stay."""
    for name in EXPERIMENTS:
        if found := read(name):
            write(name, retold(found))


def run(name: str, progress: Progress, *, small: bool) -> None:
    """Run one, with a bar; write its result unless it is a small one; print the claims."""
    bar = progress.add_task(name, total=None)

    def track(items: Sequence[T], /) -> Iterable[T]:
        progress.update(bar, total=(progress.tasks[bar].total or 0) + len(items))
        for item in items:
            label = (
                item if isinstance(item, str) else " ".join(map(str, item)) if isinstance(item, tuple) else ""
            )
            progress.update(bar, description=f"{name} {label}")
            yield item
            progress.advance(bar)

    began = time.process_time()
    data: dict[str, Any] = load(name).run(track, small=small)
    progress.update(bar, description=name)
    found = result(name, data, time.process_time() - began)
    if not small:
        write(name, found)
    progress.console.print(f"[bold]{title(load(name))}[/bold]", highlight=False)
    for claim in found["claims"]:
        progress.console.print(Claim(**claim).sentence().replace("**", ""), markup=False, highlight=False)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments", description=f"Results are gathered in {PAGE}."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="names, titles, and what was found")
    one = commands.add_parser("run", help="run some, and write their results")
    one.add_argument("names", nargs="+", choices=EXPERIMENTS, metavar="NAME")
    every = commands.add_parser("all", help="run all of them")
    commands.add_parser("rewrite", help="words, figures and page anew from the committed numbers")
    for command in (one, every):
        command.add_argument(
            "--small", action="store_true", help="seconds instead of minutes; writes nothing"
        )
    arguments = parser.parse_args(argv)
    if arguments.command in ("list", "rewrite"):
        {"list": show, "rewrite": rewrite}[arguments.command]()
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=not sys.stdout.isatty())) as progress:
        for name in EXPERIMENTS if arguments.command == "all" else arguments.names:
            if lacking := missing(name):
                progress.console.print(f"{name}: left out, for it needs {lacking}", markup=False)
                continue
            run(name, progress, small=arguments.small)


if __name__ == "__main__":
    # A core trains one run more quickly than all cores together train one after the other.
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    main()
