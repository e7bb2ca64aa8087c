"""The subcommand `mfql export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from mfql.errors import UserError

# The forms of `mfql.evaluation.export`, which needs torch; a test holds the two together.
FORMS = ("onnx", "torch-export")


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand; its function takes the parsed arguments and may raise UserError."""
    export = commands.add_parser("export", help="write a policy as one file that acts without this project")
    export.add_argument("run", type=Path, help="such as results/runs/METHOD/TASK/seed0/offline, or a policy's folder")
    export.add_argument("--to", required=True, choices=FORMS, help="what the file is")
    export.add_argument("--out", type=Path, required=True, metavar="FILE", help="a new file: .onnx, or .pt2")
    export.add_argument(
        "--candidates", type=int, metavar="K", help="actions of which the critics take the best; default: the policy's"
    )
    export.add_argument(
        "--noise",
        choices=("input", "seed"),
        default="input",
        help="whether each call gives the noise that it acts on, or the file draws it (docs/deployment.md)",
    )
    export.add_argument("--seed", type=int, help="of noise that the file draws; default: 0")
    export.set_defaults(func=run_export)


def run_export(options: argparse.Namespace) -> None:
    """`mfql export`."""
    if options.candidates is not None and options.candidates < 1:
        raise UserError(f"--candidates {options.candidates}", "One or more.")
    if options.seed is not None and options.noise != "seed":
        raise UserError("--seed is of noise that the file draws", "Add --noise seed.")
    if options.seed is not None and options.seed < 0:
        raise UserError(f"--seed {options.seed}", "0 or more.")
    from mfql.evaluation.export import Options, export
    from mfql.experiment.find import existing_run

    seed = (options.seed or 0) if options.noise == "seed" else None
    about = export(existing_run(options.run), options.out, Options(options.to, options.candidates, seed))
    compared = about["comparison"]
    print(
        f"{about['method']} on {about['task']}: at most {compared['max_abs_difference']:.1e} from the policy's actions"
        f" on {compared['observations']:,} observations, where the bounds are -1 and 1\nWritten: {options.out}"
    )
