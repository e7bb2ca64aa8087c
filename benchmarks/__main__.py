"""`python -m benchmarks`: measure, profile, and write the documentation's tables. docs/benchmarks.md explains."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.check.part import SIZES, Check
from benchmarks.check.run import parts, run
from benchmarks.job import FULL, QUICK, Context
from benchmarks.profile import profiled
from benchmarks.reference import Reference
from benchmarks.results import ROOT, LeftOut, Measurement
from benchmarks.run import DEFAULT_PARTS, FAILED, PARTS, measure, paper_hours
from benchmarks.tables import goals_table, section, write_docs
from mfql.documents import read_json, write_json
from mfql.errors import UserError, unknown
from mfql.extensions import extend
from mfql.training.device import choose_device, use_threads

_RESULTS = ROOT / "benchmarks" / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand, `run` if none is named; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or (given[0].startswith("-") and given[0] not in ("-h", "--help")):
        given.insert(0, "run")
    options = _parser().parse_args(given)
    use_threads(torch.get_num_threads())
    try:
        return int(options.func(options))
    except UserError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="How fast MFQL is on this machine.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="measure; what stands without a command")
    run.add_argument("--quick", action="store_true", help="a smoke run of about a minute; its numbers mean nothing")
    run.add_argument(
        "--parts", nargs="+", choices=PARTS, default=DEFAULT_PARTS, help="default: all but many and quickstart"
    )
    run.add_argument("--out", type=Path, metavar="FILE", help="default: benchmarks/results/DEVICE.json")
    run.add_argument(
        "--speed", type=Path, metavar="FILE", help="for mfql plan; default: results/speed.json, none if quick"
    )
    run.add_argument("--reference", type=Path, metavar="DIR", help="a checkout of the released JAX code")
    run.add_argument("--reference-agent", default="", metavar="MODULE:CLASS", help="its agent")
    run.add_argument("--reference-python", default=sys.executable, metavar="FILE", help="an interpreter that has jax")
    run.add_argument("--reference-set", nargs="+", default=[], metavar="KEY=VALUE", help="changes of its configuration")
    run.set_defaults(func=_run)
    check = commands.add_parser("check", help="what to run first on a GPU; called again it goes on where it ended")
    check.add_argument("--out", type=Path, metavar="DIR", help="default: benchmarks/results/check-DEVICE")
    check.add_argument("--minutes", type=float, metavar="M", help="that this call may take; default: no limit")
    check.add_argument("--size", choices=SIZES, help="default: full on a GPU; a processor does small alone")
    check.add_argument("--parts", nargs="+", default=[], metavar="PART", help="default: all")
    check.set_defaults(func=_check)
    profile = commands.add_parser("profile", help="where the time of a step goes, by operation")
    profile.add_argument("--eager", action="store_true", help="leave out the compiled step, which takes a minute")
    profile.add_argument("--precision", choices=("float32", "tf32", "bf16"), default="float32")
    profile.add_argument("--out", type=Path, metavar="FILE", help="default: benchmarks/results/profile-DEVICE.json")
    profile.set_defaults(func=_profile)
    for command in (run, check, profile):
        command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    docs = commands.add_parser("docs", help="write the tables of results files into a page")
    docs.add_argument("results", nargs="+", type=Path, metavar="FILE")
    docs.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md", metavar="FILE")
    docs.set_defaults(func=_docs)
    return parser


def _prepare(device: str) -> torch.device:
    # One process compiles many jobs here; beyond the usual limit torch would go on uncompiled.
    torch._dynamo.config.recompile_limit = 256
    torch._dynamo.config.accumulated_recompile_limit = 4096
    return choose_device(device)


def _run(options: argparse.Namespace) -> int:
    """Measure, write and print; returns 1 if a part failed."""
    device = _prepare(options.device)
    context = Context(QUICK if options.quick else FULL, device)
    reference = None
    if options.reference is not None:
        if "update" not in options.parts:
            raise UserError("--reference is measured in the part update, which --parts leaves out", "Add update.")
        settings = tuple(options.reference_set)
        reference = Reference(options.reference, options.reference_agent, options.reference_python, settings)
    result, found = measure(context, options.parts, options.quick, reference)
    speed = options.speed or (None if options.quick else ROOT / "results" / "speed.json")
    failed = [one.what for one in found if isinstance(one, LeftOut) and one.needs.startswith(FAILED)]
    if speed is not None and "plan" in {one.part for one in found if isinstance(one, Measurement)}:
        from benchmarks.speed import write_speed  # Its part was measured, so that what it imports is there.

        write_speed(speed, found, context)
        print(f"Written: {speed}")
        result["measurements"] += paper_hours(context, speed)
    out = options.out or _RESULTS / f"{device.type}.json"
    write_json(out, result)
    print(section(result), goals_table([result]), f"\nWritten: {out}", sep="\n")
    if failed:
        print(f"benchmarks: failed, see above: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _check(options: argparse.Namespace) -> int:
    deadline = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    device = _prepare(options.device)
    size = SIZES[options.size or ("full" if device.type == "cuda" else "small")]
    extend(size.extensions)
    if device.type == "cpu" and size.name == "full":
        raise UserError("--size full on a processor would take weeks", "Leave it out, or use --device cuda.")
    checked = Check(device, size, options.out or _RESULTS / f"check-{device.type}", deadline)
    known = [part.name for part in parts(checked)]
    for name in options.parts:
        if name not in known:
            raise unknown("part", name, known)
    return run(checked, options.parts)


def _profile(options: argparse.Namespace) -> int:
    device = _prepare(options.device)
    result = profiled(Context(FULL, device), not options.eager, options.precision)
    out = options.out or _RESULTS / f"profile-{device.type}.json"
    write_json(out, result)
    print(section(result), f"Written: {out}", sep="\n")
    return 0


def _docs(options: argparse.Namespace) -> int:
    write_docs(options.page, [read_json(path) for path in options.results])
    print(f"Written: {options.page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
