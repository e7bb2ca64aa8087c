"""The command line of ablations: `mfql ablation list`, `mfql ablation draw`."""

from __future__ import annotations

import argparse
from pathlib import Path

from mfql.arguments import processes
from mfql.cores import sleep_while_waiting, usable_cores
from mfql.experiment.cli import add_configuration, configuration_of


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `ablation`; its actions set `func`, which takes the parsed arguments and may raise UserError."""
    ablation = commands.add_parser("ablation", help="design choices and open questions: what there is, and figures")
    actions = ablation.add_subparsers(metavar="ACTION")
    listed = actions.add_parser("list", help="the ablations, their questions, and how many runs each has")
    add_configuration(listed, "laid over config.yaml")
    listed.set_defaults(func=run_list)
    drawn = actions.add_parser("draw", help="the figure and tables of an ablation whose runs are finished")
    drawn.add_argument("plan", type=Path, help="plan.json, which the workflow writes")
    drawn.add_argument("--results", type=Path, default=Path("results"), help="the folder that holds runs/")
    drawn.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets the panel")
    drawn.add_argument("--threads", type=processes(1), default=usable_cores(), help="where updates are timed")
    drawn.set_defaults(func=run_draw)


def run_list(arguments: argparse.Namespace) -> None:
    """`mfql ablation list`."""
    from mfql.experiment.ablation import plan_of, read_ablations

    config = configuration_of(arguments)
    for name, ablation in read_ablations(arguments.config_dir).items():
        points = plan_of(name, config, arguments.config_dir)["points"]
        runs = {(point["method"], point["task"], seed) for point in points for seed in point["seeds"]}
        print(f"{name:<20}{len(runs):>5} runs  {ablation.asks}")


def run_draw(arguments: argparse.Namespace) -> None:
    """`mfql ablation draw`."""
    sleep_while_waiting()
    import torch

    from mfql.studies.ablation.draw import draw
    from mfql.training.device import use_threads

    use_threads(arguments.threads)
    torch.set_flush_denormal(True)
    draw(arguments.plan, arguments.results, arguments.out)
    print(arguments.out)
