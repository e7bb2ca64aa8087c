"""The command line of sharing: `mfql card`, `mfql push` and `mfql pull`."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from mfql.experiment.cli import CONFIG_DIR

# The modules that do the work load huggingface_hub: the functions import them.
_ENDPOINT = "address of a Hub, or a folder that stands for one; default: HF_ENDPOINT, or else the public Hub"


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommands of this package; each sets `func`, which takes the parsed arguments, may raise UserError."""
    _add_card(commands)
    _add_push(commands)
    _add_pull(commands)


def _add_card(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("card", help="write a model card of a finished run, as the Hugging Face Hub has them")
    parser.add_argument("run", type=Path, help="such as results/runs/METHOD/TASK/seed0/offline")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="gets the card; without it, it is printed")
    _add_license(parser)
    parser.set_defaults(func=run_card)


def _add_license(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--license", metavar="ID", help="of the policy, as the Hub names licences, such as mit")


def _add_push(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("push", help="share a finished run, its policy first, through the Hugging Face Hub")
    parser.add_argument("run", type=Path, help="such as results/runs/METHOD/TASK/seed0/offline")
    parser.add_argument("repo", metavar="REPO", help="OWNER/NAME; made if it is not there")
    parser.add_argument("--private", action="store_true", help="a new repository that nobody else may see")
    parser.add_argument("--revision", metavar="BRANCH", help="made if it is not there; default: the main branch")
    parser.add_argument("--endpoint", metavar="URL|DIR", help=_ENDPOINT)
    _add_license(parser)
    parser.add_argument("--dry-run", action="store_true", help="list what would be sent, and send nothing")
    parser.add_argument("--config-dir", type=Path, default=Path("config"), metavar="DIR", help=CONFIG_DIR)
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder below which datasets lie")
    parser.set_defaults(func=run_push)


def _add_pull(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("pull", help="bring a run that was pushed, once it is what its manifest vouches for")
    parser.add_argument("repo", metavar="REPO", help="OWNER/NAME")
    parser.add_argument("--revision", help="a branch, a tag or a commit; default: the main branch")
    parser.add_argument("--out", type=Path, default=Path("pulled"), metavar="DIR", help="gets the run, in runs/")
    parser.add_argument("--endpoint", metavar="URL|DIR", help=_ENDPOINT)
    parser.set_defaults(func=run_pull)


def run_card(arguments: argparse.Namespace) -> None:
    """`mfql card`."""
    from mfql.files import write_whole
    from mfql.studies.hub.card import card_of
    from mfql.studies.hub.runs import finished_run

    card = card_of(finished_run(arguments.run), arguments.license)
    if arguments.out is None:
        print(card)
        return
    with write_whole(arguments.out) as file:
        file.write(card)
    print(f"Written: {arguments.out}")


def run_push(arguments: argparse.Namespace) -> None:
    """`mfql push`."""
    from mfql.studies.hub.library import library_of
    from mfql.studies.hub.push import Asked, prepared, push

    asked = Asked(arguments.repo, arguments.endpoint, arguments.private, arguments.revision, arguments.license)
    name = library_of(asked.endpoint).name
    with prepared(arguments.run, asked, arguments.config_dir, arguments.data) as folder:
        files = sorted((path.name, path.stat().st_size) for path in folder.iterdir())
        listed = "\n".join(f"  {file:<20} {size:>14,} bytes" for file, size in files)
        if arguments.dry_run:
            print(f"{asked.repo} at {name} would get\n{listed}\nNothing was sent.")
            return
        print(f"{asked.repo} at {name} gets\n{listed}")
        sent = push(folder, asked)
    print(f"Pushed: {sent.where}{f', commit {sent.commit}' if sent.commit else ''}")


def run_pull(arguments: argparse.Namespace) -> None:
    """`mfql pull`."""
    from mfql.errors import note
    from mfql.experiment.find import name_of
    from mfql.studies.hub.pull import pull
    from mfql.tasks import ESTIMATE

    pulled = pull(arguments.repo, arguments.out, arguments.endpoint, arguments.revision)
    if pulled.left:
        shown = ", ".join(pulled.left[:_MOST_NAMED])
        more = f" and {len(pulled.left) - _MOST_NAMED} more" if len(pulled.left) > _MOST_NAMED else ""
        note(f"{arguments.repo} has other files, which were not taken: {shown}{more}")
    commit = f"commit {pulled.commit}" if pulled.commit else "a folder, which has no commits"
    folder, score = pulled.run.folder, pulled.result["score"]
    said = f"{pulled.result['metric'].replace('_', ' ')} {score:.4g}" if score is not None else "no score"
    print(f"{arguments.repo}, {commit}: {name_of(pulled.run)}, {said} as recorded, is what its manifest vouches for")
    print(f"Written: {folder}")
    if pulled.result["metric"] != ESTIMATE:  # Else there is no environment to act in.
        print(f"  mfql evaluate {shlex.quote(str(folder))} --out scored.json")
    print(f"  policy = mfql.load_policy({str(folder)!r})")


_MOST_NAMED = 10
