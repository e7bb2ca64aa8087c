"""The command line of tuning: `mfql tune choose`, `search` and `freeze`."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from mfql.experiment.cli import CONFIG_DIR

# The modules that do the work load pandas, Snakemake or Optuna: the functions import them.


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `tune`; each action sets `func`, which takes the parsed arguments and may raise UserError."""
    tune = commands.add_parser("tune", help="choose settings from the runs of a grid or a search")
    actions = tune.add_subparsers(metavar="ACTION")
    choose = actions.add_parser("choose", help="propose the best point for each task", fromfile_prefix_chars="@")
    choose.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="an evaluation.json, or @LIST, which names one a line"
    )
    choose.add_argument("--out", type=Path, required=True, metavar="FILE.yaml", help="gets the proposal")
    choose.add_argument("--config-dir", type=Path, default=Path("config"), metavar="DIR", help=CONFIG_DIR)
    choose.set_defaults(func=run_choose)
    search = actions.add_parser("search", help="let Optuna choose points, train them by the workflow, propose the best")
    search.add_argument(
        "--configfile",
        type=Path,
        action="append",
        default=[],
        help="laid over config.yaml, as snakemake lays it; may be repeated",
    )
    search.add_argument(
        "--config",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="changes to the configuration: of snakemake",
    )
    for option in ("--profile", "--workflow-profile"):
        search.add_argument(option, type=Path, metavar="DIR", help="of snakemake: where and how its jobs run")
    search.add_argument(
        "--storage", type=Path, metavar="FILE.db", help="Optuna's; default: results/NAME/tuning/search.db"
    )
    search.add_argument("--skip-failed", action="store_true", help="go on without points of which an error ended a run")
    search.add_argument(
        "--snakemake",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="OPTION",
        help="comes last: all that follows is handed on, such as --cores 8",
    )
    search.set_defaults(func=run_search, extra="studies")
    freeze = actions.add_parser("freeze", help="carry a reviewed proposal into the task table, or into a new method")
    freeze.add_argument("proposal", type=Path, help="of `mfql tune choose` or `search`")
    freeze.add_argument("--config-dir", type=Path, default=Path("config"), metavar="DIR", help=CONFIG_DIR)
    freeze.add_argument("--new-method", metavar="NAME", help="a method with the settings, and a table of its own")
    freeze.add_argument(
        "--into", type=Path, metavar="DIR", help="gets that method, such as an extension; default: that of --config-dir"
    )
    freeze.add_argument("--dry-run", action="store_true", help="print the changes and write nothing")
    freeze.set_defaults(func=run_freeze)


def run_choose(options: argparse.Namespace) -> None:
    """`mfql tune choose`."""
    from mfql.studies.tuning.choose import choose, summary, write_proposal

    proposal = choose(options.files, options.config_dir)
    write_proposal(proposal, options.out)
    print(summary(proposal))
    extensions = "".join(f" --extension {shlex.quote(str(folder))}" for folder in options.extension)
    print(f"\nReview {options.out}, then: mfql{extensions} tune freeze {options.out}")


def run_search(options: argparse.Namespace) -> None:
    """`mfql tune search`."""
    from mfql.plan import Request
    from mfql.studies.tuning.search import search

    request = Request(
        configfile=options.configfile,
        config=options.config,
        profile=options.profile,
        workflow_profile=options.workflow_profile,
        snakemake=options.snakemake,
    )
    print(search(request, options.storage, options.skip_failed))


def run_freeze(options: argparse.Namespace) -> None:
    """`mfql tune freeze`."""
    from mfql.studies.tuning.freeze import freeze

    print(freeze(options.proposal, options.config_dir, options.dry_run, options.new_method, options.into))
