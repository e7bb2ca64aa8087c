"""The command line of the toy: `mfql toy train` and `mfql toy panels`."""

from __future__ import annotations

import argparse
from pathlib import Path

from mfql.arguments import add_compile, processes
from mfql.cores import sleep_while_waiting

# The modules that do the work load torch and matplotlib: the functions import them.


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand `toy`; each action sets `func`, which takes the parsed arguments and may raise UserError."""
    toy = commands.add_parser("toy", help="policies without values on a 4 x 4 grid of Gaussians")
    actions = toy.add_subparsers(metavar="ACTION")
    train = actions.add_parser("train", help="train a method with all seeds of a size; metrics, samples, manifest")
    train.add_argument("method", help="of the configuration, such as residual or residual+policy_hidden=32")
    _add_shared(train)
    train.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: a GPU if there is one")
    train.add_argument("--threads", type=processes(1), default=1, help="processor cores")
    add_compile(train)
    train.set_defaults(func=run_train)
    panels = actions.add_parser("panels", help="figures and tables of a study")
    panels.add_argument("study", help="of the configuration, such as formulations")
    _add_shared(panels)
    panels.add_argument("--runs", type=Path, required=True, help="the folder that has a folder of each method")
    panels.add_argument("--command", required=True, help="what makes these panels, for their readers")
    panels.set_defaults(func=run_panels)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", required=True, help="of the configuration: reduced or paper")
    parser.add_argument(
        "--config", type=Path, default=Path("config/toy.yaml"), metavar="YAML", help="its configuration"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets what is made")


def run_train(arguments: argparse.Namespace) -> None:
    """`mfql toy train`."""
    sleep_while_waiting()
    from mfql.studies.toy.settings import read_training
    from mfql.studies.toy.train import train
    from mfql.training.device import choose_device, memory_errors_for_people, repays_compiling, use_threads

    use_threads(arguments.threads)
    training = read_training(arguments.config, arguments.method, arguments.size)
    device = choose_device(arguments.device)
    compiled = arguments.compile == "on"
    if arguments.compile == "auto":
        # Nobody has seen a toy's compiled step on a GPU.
        compiled = device.type == "cpu" and repays_compiling(device, training.settings.offline_steps)
    with memory_errors_for_people():
        train(training, device, arguments.out, compiled=compiled)
    print(arguments.out)


def run_panels(arguments: argparse.Namespace) -> None:
    """`mfql toy panels`."""
    import torch

    from mfql.experiment.toy import read_study
    from mfql.studies.toy.panels import write
    from mfql.studies.toy.settings import read_training

    torch.set_num_threads(1)
    study = read_study(arguments.config, arguments.study)
    trainings = [read_training(arguments.config, method, arguments.size) for method in study.methods]
    write(study, trainings, arguments.runs, arguments.out, arguments.command)
    print(arguments.out)
