"""The command line: what jinit does with a `FILE.py:NAME`, and `jinit demo`."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import optax

from jinit.plans.audit import audit
from jinit.report.audit import AuditTable
from jinit.report.calibrate import LEARNED, METHODS, Calibrated, calibrated, options_of
from jinit.report.files import check_place, write_file, write_params
from jinit.report.load import UsageError, describe, load
from jinit.report.recommend import Recommendation, recommend
from jinit.report.report import Report, diagnose
from jinit.report.table import NARROWEST


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 1 for a severe finding, 2 for wrong use, else 0."""
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse has printed its message
        return int(stop.code or 0)
    try:
        status = arguments.run(arguments)
        sys.stdout.flush()
    except UsageError as error:
        print(f"jinit: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jinit", description="Signals and gradients of a network at start.")
    parser.add_argument("--version", action="version", version=f"jinit {_version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_diagnose(
        commands.add_parser("diagnose", help="what is wrong with a network, and the line that mends it")
    )
    _add_audit(commands.add_parser("audit", help="how each parameter is used, and if its fans are right"))
    _add_calibrate(
        commands.add_parser(
            "calibrate", help="set the scale of every weight by what the network does with it"
        )
    )
    _add_recommend(commands.add_parser("recommend", help="which initialization suits a network, by trying"))
    demo = commands.add_parser(
        "demo", help="deep networks on digits, badly and well initialized, side by side"
    )
    demo.add_argument("--quick", action="store_true", help="fewer schemes and steps, some ten seconds")
    demo.set_defaults(run=_demo)
    return parser


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.description = "Exit status 1 if a finding is severe, 2 if FILE.py:NAME can't be run, else 0."
    parser.add_argument(
        "target",
        metavar="FILE.py:NAME",
        help="NAME is, or is a function returning, (apply, params, inputs) or (Flax model, inputs); "
        "a loss of the outputs may follow",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, nothing else")
    parser.add_argument("--width", metavar="N", type=_width, help=f"columns, at least {NARROWEST}")


def _add_audit(parser: argparse.ArgumentParser) -> None:
    _add_target(parser)
    parser.add_argument("--abstract", action="store_true", help="draw no parameters: shapes alone, no gain")
    parser.set_defaults(run=_audit)


def _add_diagnose(parser: argparse.ArgumentParser) -> None:
    _add_target(parser)
    parser.add_argument("--plot", metavar="PATH", type=Path, help="also write a figure: .png, .pdf or .svg")
    parser.add_argument("--no-backward", action="store_true", help="leave out gradients")
    parser.add_argument("--no-predict", action="store_true", help="leave out what theory says")
    parser.set_defaults(run=_diagnose)


def _add_calibrate(parser: argparse.ArgumentParser) -> None:
    _add_target(parser)
    parser.description = "Exit status 1 if a finding is severe afterwards, 2 if it can't be done, else 0."
    parser.add_argument("--method", choices=METHODS, default="lsuv", help="metainit and gradinit need a loss")
    parser.add_argument(
        "--set",
        metavar="OPTION=VALUE",
        action="append",
        default=[],
        help="an option of the method, as in Python: target=0.5, sites='*/kernel', steps=100; repeatable",
    )
    parser.add_argument(
        "--output",
        metavar="PATH",
        type=Path,
        help="write the parameters: a PATH.msgpack of flax, or, without suffix, a folder of orbax",
    )
    parser.set_defaults(run=_calibrate)


def _add_recommend(parser: argparse.ArgumentParser) -> None:
    _add_target(parser)
    parser.description = (
        "Ranks schemes by the loss after some steps of Adam, if the file gives a loss; else by how far "
        "signal and gradient get. Exit status 2 if FILE.py:NAME can't be run, else 0."
    )
    parser.add_argument("--steps", metavar="N", type=_positive, default=100, help="of training (100)")
    parser.add_argument("--seeds", metavar="N", type=_positive, default=3, help="draws a scheme (3)")
    parser.add_argument("--learning-rate", metavar="X", type=float, default=1e-3, help="of Adam (0.001)")
    parser.set_defaults(run=_recommend)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _width(text: str) -> int:
    if not text.isdecimal() or int(text) < NARROWEST:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {NARROWEST}, got {text!r}")
    return int(text)


def _version() -> str:
    try:
        return importlib.metadata.version("jinit")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _diagnose(arguments: argparse.Namespace) -> int:
    apply, params, inputs, loss = load(arguments.target)
    backward = not arguments.no_backward
    try:
        loss, predict = loss if backward else None, not arguments.no_predict
        report = diagnose(apply, backward=backward, loss=loss, predict=predict)(params, *inputs)
    except Exception as error:
        raise UsageError(f"diagnosing {arguments.target} raised {describe(error)}") from error
    _show(report, arguments)
    if arguments.plot:
        _write_plot(report, arguments.plot)
    return 1 if report.worst == "severe" else 0


def _audit(arguments: argparse.Namespace) -> int:
    apply, params, inputs, _ = load(arguments.target, abstract=arguments.abstract)
    try:
        table = AuditTable(audit(apply)(params, *inputs))
    except Exception as error:
        raise UsageError(f"auditing {arguments.target} raised {describe(error)}") from error
    _show(table, arguments)
    return 1 if table.severe else 0


def _calibrate(arguments: argparse.Namespace) -> int:
    method, path = arguments.method, arguments.output
    try:
        options = options_of(method, arguments.set)
        if path:
            check_place(path)
    except ValueError as error:
        raise UsageError(str(error)) from error
    target = load(arguments.target)
    if method in LEARNED and target.loss is None:
        what = "a function of the outputs to one number"
        raise UsageError(f"--method {method} needs a loss: let {arguments.target} end in one, {what}")
    try:
        params, result = calibrated(target, method, options)
    except Exception as error:
        raise UsageError(f"calibrating {arguments.target} raised {describe(error)}") from error
    if path:
        try:
            write_params(path, params)
        except (ImportError, OSError, TypeError, ValueError) as error:
            raise UsageError(f"--output {path}: {error}") from error
    _show(result, arguments)
    return 1 if result.after.worst == "severe" else 0


def _recommend(arguments: argparse.Namespace) -> int:
    target = load(arguments.target)
    optimizer = optax.adam(arguments.learning_rate)
    options = {"steps": arguments.steps, "seeds": arguments.seeds, "optimizer": optimizer}
    try:
        found = recommend(target.apply, loss=target.loss, **options)(target.params, *target.inputs)
    except Exception as error:
        raise UsageError(f"trying schemes on {arguments.target} raised {describe(error)}") from error
    _show(found, arguments)
    return 0


def _show(report: Report | AuditTable | Calibrated | Recommendation, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(json.dumps(report.to_dict(), indent=1, allow_nan=False))
    elif sys.stdout.isatty():
        from rich.console import Console

        Console(width=arguments.width).print(report)
    else:
        print(report.render(arguments.width))


def _write_plot(report: Report, path: Path) -> None:
    try:
        figure = report.plot()
        write_file(path, figure.savefig)
    except (ImportError, OSError, ValueError) as error:
        raise UsageError(f"--plot {path}: {error}") from error


def _demo(arguments: argparse.Namespace) -> int:
    from jinit.report.demo import demo

    return demo(quick=arguments.quick)


if __name__ == "__main__":
    raise SystemExit(main())
