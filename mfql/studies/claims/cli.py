"""The command line of the claims: `mfql claims judge`, `page` and `parity`, and `mfql ship`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mfql.errors import UserError
from mfql.experiment.cli import CONFIG_DIR

if TYPE_CHECKING:
    from mfql.studies.claims.evidence import Judged

# The modules that do the work load pandas or torch: the functions import them.


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `claims` and `ship`; each sets `func`, which takes the parsed arguments and may raise UserError."""
    claims = commands.add_parser("claims", help="which of the paper's claims hold here")
    actions = claims.add_subparsers(metavar="ACTION")
    judge = actions.add_parser("judge", help="judge the claims by a configuration's finished tables")
    judge.add_argument("folder", type=Path, help="such as results/NAME; tables that are absent are not run")
    judge.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets the panel of the claims")
    judge.add_argument("--command", help="what makes it, for its readers; without it this very command")
    judge.add_argument("--config-dir", type=Path, default=Path("config"), metavar="DIR", help=CONFIG_DIR)
    judge.set_defaults(func=run_judge)
    page = actions.add_parser("page", help="write the tables of docs/claims.md anew")
    page.add_argument("folder", type=Path, help="such as shipped/NAME")
    page.add_argument("--page", type=Path, default=Path("docs/claims.md"), metavar="FILE.md", help="that has them")
    page.add_argument("--config-dir", type=Path, default=Path("config"), metavar="DIR", help=CONFIG_DIR)
    page.set_defaults(func=run_page)
    parity = actions.add_parser("parity", help="the largest errors of `mfql parity` as a table")
    parity.add_argument("files", type=Path, nargs="+", metavar="FILE", help="fixtures")
    parity.add_argument("--out", type=Path, required=True, metavar="FILE.csv", help="gets the table")
    parity.set_defaults(func=run_parity)
    ship = commands.add_parser(
        "ship", help="copy what reports and evaluation need of finished runs into a small folder"
    )
    ship.add_argument("folder", type=Path, help="of a configuration, such as results/NAME")
    ship.add_argument("--out", type=Path, default=Path("shipped"), metavar="DIR", help="gets the copies")
    ship.set_defaults(func=run_ship)


def run_judge(arguments: argparse.Namespace) -> None:
    """`mfql claims judge`."""
    from mfql.studies.claims.page import write

    judged = _judged(arguments)
    own = f"mfql claims judge {arguments.folder} --out {arguments.out}"
    write(judged, arguments.out, arguments.command or own)
    for one in judged:
        print(f"{one.claim.name:<28} {one.verdict}")


def run_page(arguments: argparse.Namespace) -> None:
    """`mfql claims page`."""
    from mfql.report.places import without_places
    from mfql.studies.claims.page import update_page

    folder = without_places(str(arguments.folder))
    update_page(arguments.page, _judged(arguments), f"By `mfql claims page {folder}`, from the tables there.")
    print(arguments.page)


def _judged(arguments: argparse.Namespace) -> list[Judged]:
    """The claims, judged by the tables of a folder.

    Raises:
        UserError: it has none, so that all would be said not to have run.
    """
    from mfql.experiment.claims import read_claims
    from mfql.studies.claims.evidence import judge

    claims, folder = read_claims(arguments.config_dir), arguments.folder
    if not any((folder / file).is_file() for file in claims.tables.values()):
        raise UserError(
            f"{folder} has none of the tables that the claims read",
            "Name the folder of a finished configuration, such as results/reduced, or make a claim's target first.",
        )
    return judge(claims, folder)


def run_parity(arguments: argparse.Namespace) -> None:
    """`mfql claims parity`."""
    from mfql.studies.claims.parity import write_parity

    write_parity(arguments.files, arguments.out)
    print(arguments.out)


def run_ship(arguments: argparse.Namespace) -> None:
    """`mfql ship`."""
    from mfql.studies.claims.ship import ship

    shipped = ship(arguments.folder, arguments.out)
    for path in shipped.left:
        print(f"left: {path}: not what a shipment copied")
    print(f"{arguments.out}: {shipped.bytes / 1e6:.2f} MB")
