"""The command line of what there is to name: `mfql list`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

# What each command says of its option `--config-dir`.
CONFIG_DIR = "folder of tasks.csv and methods/"
# Of what `mfql list` shows values of, where nobody says of what else.
_METHOD, _TASK = "mfql", "cube-double-play-singletask-task2-v0"


def add_configuration(parser: argparse.ArgumentParser, what: str) -> None:
    """Add `--configfile`, `--config` and `--config-dir`, with which a launch has a configuration.

    Args:
        what: what the command makes of it.
    """
    parser.add_argument(
        "--configfile", type=Path, action="append", default=[], help=f"{what}; as of snakemake, may be repeated"
    )
    parser.add_argument(
        "--config", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="changes to it, as of snakemake"
    )
    parser.add_argument("--config-dir", type=Path, default=Path("config"), metavar="DIR", help=CONFIG_DIR)


def configuration_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The configuration that the options of `add_configuration` say; `config.yaml` where they say nothing.

    Raises:
        UserError: as of `laid_configuration`.
    """
    from mfql.experiment.configuration import laid_configuration

    return laid_configuration(arguments.configfile, arguments.config, arguments.config_dir)


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `list`; it sets `func`, which takes the parsed arguments and may raise UserError."""
    parser = commands.add_parser("list", help="the methods, tasks and settings there are, or what one of them is")
    parser.add_argument("kind", choices=["methods", "tasks", "settings"], help="methods, tasks or settings")
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="explain this one, or list the tasks of this environment or suite; without it all are listed",
    )
    parser.add_argument("--method", default=_METHOD, help="whose settings are shown")
    parser.add_argument("--task", default=_TASK, help="on which settings are shown")
    parser.add_argument("--stage", default="offline", help="in which settings are shown")
    parser.add_argument("--config-dir", type=Path, default=Path("config"), metavar="DIR", help=CONFIG_DIR)
    parser.set_defaults(func=run_list)


def run_list(arguments: argparse.Namespace) -> None:
    """`mfql list`."""
    from mfql.experiment import listing

    name, config_dir, task = arguments.name, arguments.config_dir, arguments.task
    own = (arguments.method, config_dir, task, arguments.stage)
    if arguments.kind == "methods":
        print(listing.method(name, config_dir, task) if name else listing.methods(config_dir))
    elif arguments.kind == "tasks":
        print(listing.tasks_named(name, config_dir) if name else listing.tasks(config_dir))
    else:
        print(listing.setting(name, *own) if name else listing.settings(*own))
