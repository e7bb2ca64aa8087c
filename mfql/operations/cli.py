"""The command line of a study in hand: `status`, `clean`, `verify`. None of them needs torch."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mfql.errors import UserError
from mfql.experiment.cli import CONFIG_DIR, add_configuration, configuration_of

if TYPE_CHECKING:
    from mfql.experiment.run import RunFolder

# The modules that do the work are imported by the functions: `mfql --help` should not wait for them.


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommands of this package; each sets `func`, which takes the parsed arguments, may raise UserError."""
    _add_status(commands)
    _add_verify(commands)
    _add_clean(commands)
    _add_carry(commands)


def _add_status(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("status", help="which runs are done, running, waiting, interrupted, failed, diverged")
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="results or folders in it: their runs only")
    add_configuration(parser, "the runs that it asks for, those not begun too")
    parser.add_argument("--results", type=Path, default=Path("results"), help="of the configuration's runs")
    parser.add_argument("--logs", type=Path, default=Path("logs"), help="the folder of the workflow's logs")
    parser.add_argument("--all", action="store_true", help="a line for every job, however many")
    parser.add_argument(
        "--watch",
        type=_seconds,
        nargs="?",
        const=5.0,
        metavar="SECONDS",
        help="look again every so many seconds, 5 unless said, until Ctrl-C; on a terminal as one table",
    )
    parser.add_argument("--until-done", action="store_true", help="with --watch: end when no run is left to go on")
    parser.set_defaults(func=run_status)


def _seconds(text: str) -> float:
    """An argument type: how long to wait between two looks."""
    with suppress(ValueError):
        if 0.1 <= (value := float(text)) <= 86_400.0:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0.1 on; a PATH goes before --watch")


def run_status(arguments: argparse.Namespace) -> None:
    """`mfql status`."""
    from mfql.experiment.find import configured_runs, existing_run, is_under, runs_in
    from mfql.locks import watch
    from mfql.operations.run_status import Looks
    from mfql.operations.status import overview
    from mfql.operations.watching import watch_runs

    if arguments.until_done and arguments.watch is None:
        raise UserError("--until-done ends what --watch goes on with", "Give both.")
    paths = [existing_run(path, arguments.config_dir) for path in arguments.paths]
    asked: list[RunFolder] | None = None
    if arguments.configfile or arguments.config:
        asked = configured_runs(configuration_of(arguments), arguments.config_dir, arguments.results)
        if paths:
            asked = [run for run in asked if any(is_under(run.folder, path) for path in paths)]

    def runs() -> list[RunFolder]:
        found = asked
        if found is None:  # Others may have begun since the last look.
            found = [run for path in paths or [arguments.results] for run in runs_in(path)]
        return list(dict.fromkeys(found))

    looks = Looks(arguments.logs, arguments.config_dir)
    first = runs()
    watch(run.lock for run in first)
    if arguments.watch is None:
        print(overview(looks.at(first), in_full=arguments.all))
    else:
        watch_runs(lambda: looks.at(runs()), arguments.watch, arguments.until_done, in_full=arguments.all)


def _add_verify(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("verify", help="find results that are altered, stale or of mixed origin")
    parser.add_argument("path", nargs="?", type=Path, default=Path("results"), help="a results folder, or runs in it")
    parser.add_argument("--config-dir", type=Path, default=Path("config"), metavar="DIR", help=CONFIG_DIR)
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder below which datasets lie")
    parser.set_defaults(func=run_verify)


def run_verify(arguments: argparse.Namespace) -> int:
    """`mfql verify`; 1 where something is wrong."""
    from mfql.operations.verify import verify

    found = verify(arguments.path, arguments.config_dir, arguments.data)
    print(found.text())
    return 1 if found.findings else 0


def _add_clean(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("clean", help="show, and with --yes remove, what finished runs no longer need")
    parser.add_argument("path", nargs="?", type=Path, default=Path("results"), help="a results folder, or runs in it")
    parser.add_argument(
        "--configfile",
        type=Path,
        nargs="+",
        default=[],
        help="count only the online runs that these ask for as still to start; default: any run may be one's start",
    )
    parser.add_argument("--config-dir", type=Path, default=Path("config"), metavar="DIR", help=CONFIG_DIR)
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder below which datasets lie")
    parser.add_argument("--only", nargs="+", choices=["checkpoints", "earlier-runs", "downloads"], help="default: all")
    parser.add_argument("--list", action="store_true", help="name each run that is kept, too")
    parser.add_argument("--yes", action="store_true", help="remove without asking")
    parser.set_defaults(func=run_clean)


def run_clean(arguments: argparse.Namespace) -> None:
    """`mfql clean`."""
    from mfql.experiment.configuration import read_configuration
    from mfql.experiment.find import runs_in
    from mfql.operations import clean

    configurations = [read_configuration(file, arguments.config_dir) for file in arguments.configfile]
    results = runs_in(arguments.path)[0].results
    starts = clean.Starts(configurations, arguments.config_dir, results, arguments.data)
    found = clean.survey(arguments.path, arguments.data, starts, map(clean.Kind, arguments.only or clean.Kind))
    print(found.text())
    if arguments.list:
        print(found.details())
    if not found.removable:
        return
    if not (arguments.yes or _agreed()):
        print("Nothing was removed; --yes removes it.")
        return
    gone, left = clean.remove(found.removable)
    print(f"{clean.size(gone)} removed")
    for name in left:
        print(f"left, since it is in use now: {name}")


def _agreed() -> bool:
    """Whether the person at the terminal says yes; where there is none, nobody does."""
    return sys.stdin.isatty() and input("Remove it? [y/N] ").strip().lower() in ("y", "yes")


def _add_carry(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    carry = commands.add_parser(
        "carry", help="archives of what jobs hand on where they share no folder (docs/cluster.md)"
    )
    actions = carry.add_subparsers(metavar="ACTION")
    dataset = actions.add_parser("dataset", help="pack a dataset's files, beside its description")
    dataset.add_argument("dataset", help="such as antmaze-large-navigate-v0")
    dataset.add_argument("--data", type=Path, required=True, metavar="DIR", help="has the files, and gets DATASET.tar")
    dataset.set_defaults(func=run_carry_dataset)
    panels = actions.add_parser("panels", help="pack the panels that `mfql aggregate` drew")
    panels.add_argument("folder", type=Path, metavar="DIR", help="has them, and gets panels.tar")
    panels.set_defaults(func=run_carry_panels)
    unpack = actions.add_parser("unpack", help="put in place what archives hold, each in the folder that it lies in")
    unpack.add_argument("archives", nargs="*", type=Path, metavar="ARCHIVE", help="such as run.tar or DATASET.tar")
    unpack.add_argument("--study", metavar="NAME", help="its panels too, and the results of all runs at hand")
    unpack.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="with --study: has them")
    unpack.set_defaults(func=run_carry_unpack)


def run_carry_dataset(arguments: argparse.Namespace) -> None:
    """`mfql carry dataset`."""
    from mfql.experiment.carried import pack
    from mfql.suites import split_paths

    pack(arguments.data / f"{arguments.dataset}.tar", split_paths(arguments.data, arguments.dataset).values())


def run_carry_panels(arguments: argparse.Namespace) -> None:
    """`mfql carry panels`."""
    from mfql.experiment.carried import pack_panels

    pack_panels(arguments.folder)


def run_carry_unpack(arguments: argparse.Namespace) -> None:
    """`mfql carry unpack`."""
    from mfql.experiment.carried import unpack, unpack_below

    for archive in arguments.archives:
        unpack(archive)
    if arguments.study is not None:
        unpack_below(arguments.results, arguments.study)
