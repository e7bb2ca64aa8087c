"""The `mfql` command line: one subcommand a stage."""

from __future__ import annotations

import argparse
import os
import re
import select
import sys
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mfql.arguments import ALL_CORES, CORES, add_compile, amount, count, processes
from mfql.cores import sleep_while_waiting
from mfql.errors import UserError, naming_extras, print_in_any_locale, printing, unknown
from mfql.experiment.cli import CONFIG_DIR

if TYPE_CHECKING:
    from mfql.data.transitions import Transitions
    from mfql.envs.isolated import Isolated
    from mfql.tasks import Task

# What a job that was asked to end exits with: the same command continues it (sysexits' EX_TEMPFAIL).
EXIT_CONTINUE = 75
# The forms of `mfql.data.export`, which needs Gymnasium; a test holds the two together.
_EXPORTED = ("minari", "minari-arrow", "npz")
# The options of `mfql` itself.
_BEFORE_COMMAND = ("--version", "--extension", "--print-completion")


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; returns the exit status: 0, or 2 after an error that the user can mend."""
    print_in_any_locale()
    with printing():
        return _run(arguments)


def _run(arguments: list[str] | None) -> int:
    options = _parser().parse_args(arguments)
    from mfql.extensions import extend  # Here and below, since `mfql --help` does without what reads files.

    try:
        _expand_paths(options)
        extend(options.extension)
        with naming_extras(getattr(options, "extra", "")):
            status = int(options.func(options) or 0)
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"mfql: {error}", file=sys.stderr)
        return 2
    except PermissionError as error:  # Of a file that nobody expected to be another user's.
        from mfql.files import CannotRead

        print(f"mfql: {CannotRead(error.filename or 'a file', error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        return 0


def _expand_paths(options: argparse.Namespace) -> None:
    """`--out=~/data` reaches a command as it is written: no shell expands it."""
    from mfql.files import expanded

    for name, value in vars(options).items():
        where = f"--{name.replace('_', '-')}"
        if isinstance(value, Path):
            setattr(options, name, Path(expanded(value, where)))
        elif isinstance(value, list) and any(isinstance(item, Path) for item in value):
            setattr(options, name, [Path(expanded(item, where)) for item in value])


def _nobody_reads() -> bool:
    """Whether what is printed goes to a reader that has seen enough, such as `head`; the rest then goes nowhere."""
    output = sys.stdout.fileno()
    watched = select.poll()
    watched.register(output, 0)
    ended = any(event & select.POLLERR for _, event in watched.poll(0))
    if ended:
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return ended


class _Help(argparse.HelpFormatter):
    """Says the default of an option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        said = action.help or ""
        no_default = action.default in (None, False, argparse.SUPPRESS) or action.default == []
        return said if no_default or "default" in said else f"{said}; default: %(default)s"


class _Parser(argparse.ArgumentParser):
    """Suggests what a mistyped command, option or choice was meant to be; without a command it prints its help."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": _Help, **options})

    def add_subparsers(self, **options: Any) -> Any:
        self.set_defaults(func=lambda _: self.print_help())
        return super().add_subparsers(**{**options, "required": False})

    def _mistyped(self, words: list[str]) -> str | None:
        """The first word that can be no option of this command; those of its subcommands are theirs to look at."""
        if "-" not in self.prefix_chars or any(isinstance(one, argparse._SubParsersAction) for one in self._actions):
            return None
        for word in words:
            option = word.partition("=")[0]
            action = self._option_string_actions.get(option)
            if word == "--" or (action and action.nargs == argparse.REMAINDER):
                return None
            if re.match("--[a-z]", option) and not any(one.startswith(option) for one in self._option_string_actions):
                return option
        return None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        given = self._mistyped(sys.argv[1:] if args is None else list(args))
        if given is not None:  # Before anything else is found missing.
            self._unknown_option(given)
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            given = next((word for word in rest if word.startswith("-")), None)
            if given is None:
                self.error(f"{rest[0]!r} is an argument too many")
            self._unknown_option(given.partition("=")[0])
        return found, rest

    def _unknown_option(self, given: str) -> NoReturn:
        if given in _BEFORE_COMMAND:
            self.error(
                f"{given} comes before the command\n  Write mfql {given} ... {self.prog.removeprefix('mfql ')} ..."
            )
        self.error(str(unknown("option", given, self._option_string_actions)))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            is_command = isinstance(action, argparse._SubParsersAction)
            kind = "command" if is_command else f"value of {'/'.join(action.option_strings) or action.dest}"
            self.error(str(unknown(kind, str(value), [str(choice) for choice in action.choices])))


class _PrintVersion(argparse.Action):
    """Print the installed version, and end."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from mfql import __version__

        print(f"mfql {__version__}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="mfql", description="One-step MeanFlow Q-learning, from dataset to report.")
    parser.add_argument("--version", action=_PrintVersion, nargs=0, help="print the installed version")
    parser.add_argument(
        "--extension",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="a folder with tasks, methods or agents of your own; may be repeated (docs/extend.md)",
    )
    parser.add_argument(
        "--print-completion", action=_PrintCompletion, choices=["bash", "zsh", "tcsh"], help="a shell's completion"
    )
    commands = parser.add_subparsers(title="stages", metavar="COMMAND")
    from mfql.studies.tuning import cli as tuning

    _add_data(commands)
    _add_train(commands)
    _add_evaluate(commands)
    tuning.add_commands(commands)
    _add_import_released(commands)
    _add_parity(commands)
    _add_plan(commands)
    _add_run(commands)
    from mfql.evaluation import cli as evaluation
    from mfql.experiment import cli as experiment
    from mfql.operations import cli as operations
    from mfql.report import cli as report
    from mfql.studies.ablation import cli as ablation
    from mfql.studies.claims import cli as claims
    from mfql.studies.hub import cli as hub
    from mfql.studies.toy import cli as toy

    evaluation.add_commands(commands)
    experiment.add_commands(commands)
    ablation.add_commands(commands)
    claims.add_commands(commands)
    hub.add_commands(commands)
    operations.add_commands(commands)
    report.add_commands(commands)
    toy.add_commands(commands)
    return parser


class _PrintCompletion(argparse.Action):
    """Print what completes this command line in a shell, and end."""

    def __call__(
        self, parser: argparse.ArgumentParser, _: argparse.Namespace, shell: Any, __: str | None = None
    ) -> None:
        import shtab

        _complete_paths(parser)
        print(shtab.complete(parser, shell))
        parser.exit()


def _complete_paths(parser: argparse.ArgumentParser) -> None:
    """Have every argument that is a path completed as one, a folder where it must be one, in all subcommands."""
    import shtab

    for action in parser._actions:
        if action.type is Path:
            action.complete = shtab.DIRECTORY if action.metavar == "DIR" else shtab.FILE  # type: ignore[attr-defined]
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_paths(command)


def _add_data(commands: argparse._SubParsersAction) -> None:
    data = commands.add_parser("data", help="make or fetch a dataset").add_subparsers(metavar="ACTION")
    generate = data.add_parser("generate", help="collect a dataset with OGBench's scripted oracles")
    generate.add_argument("dataset", help="such as pointmaze-medium-navigate-v0")
    generate.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets the files and their description")
    generate.add_argument("--episodes", type=count(1), help="of the training file; default: the official number")
    generate.add_argument("--seed", type=count(0), default=0, help="of the oracles and the environment")
    generate.add_argument("--workers", type=processes(1), default=CORES, help=f"processes; {ALL_CORES}")
    generate.set_defaults(func=_generate, extra="train")
    fetch = data.add_parser("fetch", help="bring a published dataset")
    fetch.add_argument("dataset", help="such as antmaze-large-navigate-v0")
    fetch.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets the files and their description")
    sources = fetch.add_mutually_exclusive_group()
    sources.add_argument("--from", type=Path, dest="local", metavar="DIR", help="a folder that has the files")
    sources.add_argument(
        "--mirror",
        metavar="URL",
        help="the address of such a folder, or '$NAME' of a variable that has it; default: the published one",
    )
    fetch.add_argument(
        "--lock",
        type=Path,
        metavar="FILE",
        help="size and sha256 of each file: the first fetch records, later ones compare; it counts before what ships "
        "with the project; "
        "default: config/datasets.lock.json",
    )
    fetch.set_defaults(func=_fetch)
    describe = data.add_parser(
        "describe", help="check a task's dataset against its environment, say what it holds, and describe it"
    )
    describe.add_argument("task", help="a task of the task table, or of an extension's")
    describe.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="has a fetched or generated dataset; gets its .json, as of one of your own, which stays in place",
    )
    describe.add_argument("--config-dir", type=Path, default=Path("config"), metavar="DIR", help=CONFIG_DIR)
    describe.set_defaults(func=_describe)
    export = data.add_parser("export", help="write a task's dataset, or a run's episodes, in a layout that others read")
    export.add_argument("task", help="a task of the task table, or of an extension's; rewards are the task's")
    export.add_argument("out", type=Path, metavar="OUT", help="FILE.npz, or of Minari's a new folder NAME-v0")
    export.add_argument("--to", required=True, choices=_EXPORTED, help="minari is Minari's HDF5 format")
    of = export.add_mutually_exclusive_group()
    of.add_argument("--split", default="train", choices=("train", "val"), help="which file of the dataset")
    of.add_argument("--run", type=Path, metavar="DIR", help="of an online run: the episodes that it collected instead")
    export.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="folder of the dataset")
    export.add_argument("--config-dir", type=Path, default=Path("config"), metavar="DIR", help=CONFIG_DIR)
    export.set_defaults(func=_export)
    replay = data.add_parser("replay", help="compare one step of the simulator with a dataset's")
    replay.add_argument("task", help="of OGBench or D4RL, such as pen-human-v1")
    replay.add_argument("--data", type=Path, default=Path("data"), help="folder of the dataset")
    replay.add_argument("--rows", type=count(1), default=1000, help="steps, spread evenly over the file")
    replay.add_argument("--out", type=Path, metavar="FILE.json", help="gets what was found, which is printed too")
    replay.add_argument("--config-dir", type=Path, default=Path("config"), metavar="DIR", help=CONFIG_DIR)
    replay.set_defaults(func=_replay)
    table = data.add_parser("replay-table", help="gather replays into one table")
    table.add_argument("files", nargs="+", type=Path, metavar="FILE.json", help="what `mfql data replay --out` wrote")
    table.add_argument(
        "--out", type=Path, required=True, metavar="FILE.csv", help="a panel of the report goes beside it"
    )
    table.add_argument("--command", default="mfql data replay-table", help="what makes it, for its readers")
    table.set_defaults(func=_replay_table)


def _generate(options: argparse.Namespace) -> None:
    from mfql.data.generate import generate

    path = generate(options.dataset, options.out, episodes=options.episodes, seed=options.seed, workers=options.workers)
    _say_dataset(path, options.dataset)


def _fetch(options: argparse.Namespace) -> None:
    from mfql.data.recipes import recipes
    from mfql.experiment.configuration import LOCK
    from mfql.suites import suite_of
    from mfql.tasks import default_task, known_tasks

    # OGBench has more datasets than tables have tasks; all have a version.
    known = recipes().keys() | {task.dataset for task in known_tasks().values()}
    tasks = known_tasks()
    is_task = options.dataset in tasks or default_task(options.dataset) is not None
    if options.dataset not in known and (is_task or not re.search(r"-v\d+$", options.dataset)):
        raise unknown("dataset", options.dataset, known, others={"task": [options.dataset] if is_task else []})
    source = {"lock": options.lock or LOCK, "mirror": options.mirror, "local": options.local}
    suite = suite_of(options.dataset)
    suite.fetch(options.dataset, options.out, **source)
    _say_dataset(suite.paths(options.out, options.dataset)["train"], options.dataset)


def _say_dataset(train: Path, dataset: str) -> None:
    """What lies where, as `data/NAME.json` has it, which is written last."""
    from mfql.data.paths import description_path
    from mfql.experiment.records import read_dataset

    path = description_path(train.parent, dataset)
    rows = read_dataset(path).get("rows", {})
    counted = ", ".join(f"{count:,} rows in {split}" for split, count in rows.items())
    print(
        f"{dataset}: {counted or train.name}\nWritten: {train.parent}, {path.name} among it, which describes the rest"
    )


def _describe(options: argparse.Namespace) -> None:
    from mfql.data.description import source_of
    from mfql.data.paths import description_path
    from mfql.data.terms import terms_of
    from mfql.suites import suite_of
    from mfql.tasks import find_task, task_name

    task = find_task(task_name(options.task, options.config_dir), options.config_dir)
    suite, path = suite_of(task.name), description_path(options.out, task.dataset)
    print(suite.describe(task, options.out).text())
    print(terms_of(suite.name, source_of(path) or "unknown").lines())
    print(f"Written: {path}")


def _export(options: argparse.Namespace) -> None:
    from mfql.data.export import export
    from mfql.suites import suite_of
    from mfql.tasks import find_task, task_name

    task = find_task(task_name(options.task, options.config_dir), options.config_dir)
    env = suite_of(task.name).make(task.name)
    try:
        rows, about = (_online_rows if options.run else _rows)(options, task, env)
        export(rows, env, about, options.to, options.out)
    finally:
        env.close()
    print(f"{task.name}: {len(rows):,} transitions, {len(rows.ends):,} trajectories")
    print(f"licence: {about['licence']}\ncite: {about['citation'] or 'unknown'}")
    print(f"Written: {options.out}")
    if options.to != "npz":
        print(f"Minari finds it by MINARI_DATASETS_PATH={options.out.absolute().parent}, as {options.out.name}")


def _rows(options: argparse.Namespace, task: Task, env: Isolated) -> tuple[Transitions, dict[str, Any]]:
    """The transitions of a dataset's file, and what is recorded beside them."""
    from mfql.data.terms import terms_of
    from mfql.files import sha256
    from mfql.suites import suite_of

    suite = suite_of(task.name)
    splits, source = suite.recorded(task, options.data)
    if options.split not in splits:
        raise UserError(f"{task.dataset} has no file of the split {options.split}", "Export the split train.")
    terms = terms_of(suite.name, source)
    return splits[options.split], {
        "task": task.name,
        "dataset": task.dataset,
        "split": options.split,
        "source": source,
        "sha256": sha256(suite.paths(options.data, task.dataset)[options.split]),
        "licence": terms.licence,
        "citation": terms.citation,
    }


def _online_rows(options: argparse.Namespace, task: Task, env: Isolated) -> tuple[Transitions, dict[str, Any]]:
    """The transitions of a run's online episodes, and what is recorded beside them."""
    from mfql.data.terms import COLLECTED
    from mfql.experiment.find import existing_run
    from mfql.suites import load
    from mfql.training.episodes import online_episodes, online_run

    run = online_run(existing_run(options.run), task.name)
    rows, about = online_episodes(run, load(task, options.data), env.units)
    terms = {"licence": COLLECTED.licence, "citation": COLLECTED.citation}
    return rows, {"task": task.name, "source": "online", **about, **terms}


def _replay(options: argparse.Namespace) -> None:
    from mfql.data.replay import table
    from mfql.documents import write_json
    from mfql.suites import suite_of
    from mfql.tasks import find_task, task_name

    task = find_task(task_name(options.task, options.config_dir), options.config_dir)
    result = suite_of(task.name).replay(task, options.data, options.rows)
    print(table(result))
    if options.out is not None:
        write_json(options.out, result)
        print(f"Written: {options.out}")


def _replay_table(options: argparse.Namespace) -> None:
    from mfql.report.replays import write

    write(options.files, options.out, options.command)
    print(f"Written: {options.out}, and a panel of the report beside it")


def _add_train(commands: argparse._SubParsersAction) -> None:
    train = commands.add_parser("train", help="train seeds of one method, task and stage; continues what was killed")
    train.add_argument("--method", required=True, help="such as mfql or mfql+alpha=300: `mfql list methods`")
    train.add_argument("--task", required=True, help="such as cube-double-play-singletask-task2-v0: `mfql list tasks`")
    train.add_argument("--stage", required=True, type=_stage, help="pretrain is the offline part before online")
    train.add_argument("--seeds", type=count(0), nargs="+", required=True, help="trained together, such as 0 1 2")
    train.add_argument("--data", type=Path, default=Path("data"), help="folder of the dataset")
    train.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="gets the runs, in runs/")
    train.add_argument("--config-dir", type=Path, default=Path("config"), metavar="DIR", help=CONFIG_DIR)
    train.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: a GPU if there is one")
    train.add_argument(
        "--threads",
        type=processes(1),
        default=CORES,
        help=f"of the updates on a processor; {ALL_CORES}",
    )
    train.add_argument(
        "--workers",
        type=processes(0),
        default=CORES,
        help=f"environment processes, 0 for none; {ALL_CORES}",
    )
    add_compile(train)
    train.add_argument("--checkpoint-seconds", type=amount(zero=True), default=300.0, help="between two checkpoints")
    train.add_argument(
        "--wait", action="store_true", help="for another process that trains one of these runs, and take its result"
    )
    train.add_argument(
        "--track",
        type=lambda text: text.split(","),
        action="extend",
        default=[],
        metavar="TRACKER",
        help="beside TensorBoard: wandb, mlflow or trackio, several with commas between; offline unless their own "
        "variables name a server (docs/trackers.md)",
    )
    train.add_argument(
        "--pause-at",
        type=count(1),
        metavar="STEP",
        help="save the state and end there, the evaluations so far in paused-STEP.json; without it training goes on",
    )
    train.add_argument(
        "--carry", action="store_true", help="pack each finished run, for jobs that share no folder (docs/cluster.md)"
    )
    train.add_argument("--no-progress", action="store_true", help="no bar; what was done is said all the same")
    train.add_argument("--allow-cpu", action="store_true", help="go on without a GPU however long it takes")
    train.set_defaults(func=_train, extra="train")


def _train(options: argparse.Namespace) -> int:
    from mfql.extensions import running_code
    from mfql.training.interruption import Interrupted, asked_to_end

    try:
        with asked_to_end(), running_code():
            return _train_job(options)
    except Interrupted:
        print("mfql: asked to end; the state is saved, the same command continues", file=sys.stderr)
        return EXIT_CONTINUE


def _train_job(options: argparse.Namespace) -> int:
    sleep_while_waiting()
    import torch

    from mfql.methods import canonical_method
    from mfql.plan import EXIT_WANTS_GPU, training_wants_gpu
    from mfql.tasks import task_name
    from mfql.training.device import choose_device, use_threads
    from mfql.training.loop import Execution
    from mfql.training.train import Job, train

    use_threads(options.threads)
    # Gradients behind a zero initialisation are so small that their squares are denormal numbers, slow on most
    # processors.
    torch.set_flush_denormal(True)
    device = choose_device(options.device)
    job = Job(
        canonical_method(options.method),
        task_name(options.task, options.config_dir),
        options.stage,
        tuple(dict.fromkeys(options.seeds)),
        options.data,
        options.results,
        options.config_dir,
    )
    if device.type == "cpu" and not options.allow_cpu and training_wants_gpu(**vars(job)):
        return EXIT_WANTS_GPU
    execution = Execution(
        device,
        options.workers,
        options.checkpoint_seconds,
        options.compile == "on",
        not options.no_progress,
        options.threads,
        tuple(dict.fromkeys(options.track)),
        options.pause_at,
    )
    train(job, execution, choose_compiling=options.compile == "auto", wait=options.wait)
    if options.carry:
        from mfql.experiment.carried import pack_run

        for seed in job.seeds:
            pack_run(job.run(seed))
    return 0


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    evaluate = commands.add_parser("evaluate", help="score finished runs' policies anew")
    evaluate.add_argument(
        "runs", type=Path, nargs="+", metavar="run", help="such as results/runs/METHOD/TASK/seed0/offline"
    )
    evaluate.add_argument("--episodes", type=count(1), default=50, help="how many")  # as `Policy.begin` takes it
    evaluate.add_argument(
        "--out",
        type=Path,
        action="append",
        required=True,
        metavar="FILE.json",
        help="gets means and each episode; of several runs once for each, in their order",
    )
    evaluate.add_argument(
        "--video",
        type=Path,
        metavar="FILE",
        help="film one episode: .gif, .webp or .png; with imageio-ffmpeg .mp4, .webm, ...",
    )
    evaluate.add_argument("--strip", type=Path, metavar="FILE.png", help="a few frames of that episode in one picture")
    evaluate.add_argument(
        "--workers",
        type=processes(0),
        default=CORES,
        help=f"environment processes, 0 for none; {ALL_CORES}",
    )
    evaluate.add_argument("--no-progress", action="store_true", help="no bar")
    evaluate.add_argument(
        "--off-policy",
        action="store_true",
        help="estimate the discounted return from the task's dataset, by fitted Q evaluation (docs/off_policy.md)",
    )
    evaluate.add_argument("--data", type=Path, metavar="DIR", help="folder of that dataset; default: data")
    evaluate.add_argument("--fqe-steps", type=count(1), metavar="N", help="updates of it; default: the task's")
    evaluate.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        help="where the estimate is fitted; default: cpu, where episodes are played",
    )
    evaluate.add_argument("--threads", type=processes(1), help=f"of its updates on a processor; {ALL_CORES}")
    evaluate.add_argument("--config-dir", type=Path, default=Path("config"), metavar="DIR", help=CONFIG_DIR)
    evaluate.set_defaults(func=_evaluate)


# The options of `mfql evaluate` that an estimate alone has.
_ESTIMATES = ("data", "fqe_steps", "device", "threads")


def _evaluate(options: argparse.Namespace) -> None:
    sleep_while_waiting()
    from mfql.evaluation.evaluate import evaluate, evaluate_each
    from mfql.experiment.find import existing_run

    runs = [existing_run(run, options.config_dir) for run in options.runs]
    outs, progress = options.out, not options.no_progress
    if len(runs) != len(outs):
        raise UserError(
            f"{len(runs)} runs and {len(outs)} files for what is found",
            "Name an --out for each run, in the same order.",
        )
    if not options.off_policy and (given := [name for name in _ESTIMATES if getattr(options, name) is not None]):
        raise UserError(
            f"--{given[0].replace('_', '-')} is of an estimate, and episodes are played",
            "Add --off-policy, or leave it out.",
        )
    if len(set(map(os.path.abspath, outs))) < len(outs):
        raise UserError("two runs would be written into one file", "Name a file of its own for each.")
    found: Iterable[dict[str, Any]]
    if len(runs) > 1:
        if options.off_policy or options.video is not None or options.strip is not None:
            raise UserError("--off-policy, --video and --strip are of one run", "Name one run at a time with them.")
        found = evaluate_each(runs, options.episodes, outs, options.workers, progress)
    elif options.off_policy:
        _evaluate_off_policy(options, runs[0], outs[0])
        return
    else:
        found = [evaluate(runs[0], options.episodes, outs[0], options.video, options.workers, options.strip, progress)]
    units = {"success": " %", "normalized_return": "", "return": "", "length": " steps"}
    for run, one in zip(runs, found, strict=True):
        scores = ", ".join(f"{name} {one[name]:.4g}{unit}" for name, unit in units.items() if one.get(name) is not None)
        print(f"{run}: {scores} over {options.episodes} episodes", flush=True)
    written = ", ".join(str(path) for path in (*outs, options.video, options.strip) if path is not None)
    print(f"Written: {written}")


def _evaluate_off_policy(options: argparse.Namespace, run: Path, out: Path) -> None:
    from mfql.training.device import use_threads
    from mfql.training.off_policy import evaluate_off_policy

    if options.video is not None or options.strip is not None:
        raise UserError("--off-policy plays no episode that could be filmed", "Leave out --video and --strip.")
    use_threads(options.threads or CORES)
    found = evaluate_off_policy(
        run,
        out,
        options.data or Path("data"),
        options.config_dir,
        episodes=options.episodes,
        steps=options.fqe_steps,
        device=options.device or "cpu",
    )
    print(
        f"{run}: estimated discounted return (FQE) {found['fqe_return']:.4g} [{found['fqe_low']:.4g},"
        f" {found['fqe_high']:.4g}], discount {found['discount']:g}, {found['episodes']} starts of held-out episodes"
    )
    if (true := found["true"]) is not None:
        print(f"  true: {true['discounted_return']:.4g} over {true['episodes']} episodes from the same starts")
    print(f"Written: {out}")


def _add_import_released(commands: argparse._SubParsersAction) -> None:
    released = commands.add_parser("import-released", help="make a policy of a checkpoint of the authors' code")
    released.add_argument("file", type=Path, help="such as params_1000000.pkl; nothing of it is run")
    released.add_argument("--method", default="mfql-released", help="whose settings it was trained with")
    released.add_argument("--task", required=True, help="that it was trained on")
    released.add_argument("--stage", default="offline", type=_stage, help="whose settings it was trained with")
    released.add_argument("--seed", type=count(0), default=0, help="that the policy says it is of")
    released.add_argument("--data", type=Path, default=Path("data"), help="folder of the task's dataset")
    released.add_argument("--config-dir", type=Path, default=Path("config"), metavar="DIR", help=CONFIG_DIR)
    released.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets the policy")
    released.set_defaults(func=_import_released)


def _import_released(options: argparse.Namespace) -> None:
    from mfql.methods import canonical_method
    from mfql.tasks import task_name
    from mfql.training.released import import_released

    import_released(
        options.file,
        canonical_method(options.method),
        task_name(options.task, options.config_dir),
        options.stage,
        options.seed,
        options.data,
        options.config_dir,
        options.out,
    )
    print(f"{options.out}: mfql.load_policy loads it, mfql evaluate scores it")


_FIXTURES = [Path("tests/data/reference.npz"), Path("tests/data/baselines.npz")]


def _add_parity(commands: argparse._SubParsersAction) -> None:
    parity = commands.add_parser("parity", help="compare the methods with fixtures of released code's numbers")
    parity.add_argument("files", metavar="FILE", type=Path, nargs="*", default=_FIXTURES, help="default: all of them")
    parity.add_argument("--device", choices=["auto", "cpu", "cuda"], default="cpu", help="that ours is computed on")
    parity.add_argument(
        "--precision",
        choices=["float32", "tf32", "bf16"],
        default="float32",
        help="of ours: float32 is held to the bounds, of another it is said what it loses",
    )
    parity.set_defaults(func=_parity)


def _parity(options: argparse.Namespace) -> int:
    from mfql.extensions import project_path
    from mfql.parity import Computed, report
    from mfql.training.device import choose_device

    files = [project_path(path) for path in options.files]
    return 0 if report(files, Computed(choose_device(options.device), options.precision)) else 1


def _add_plan(commands: argparse._SubParsersAction) -> None:
    plan = commands.add_parser("plan", help="what a launch would run and take here, and what it trains anew and why")
    plan.add_argument(
        "targets", nargs="*", metavar="TARGET", help="as given to snakemake, such as offline; default: all"
    )
    plan.add_argument(
        "--configfile",
        type=Path,
        action="append",
        default=[],
        help="laid over config.yaml, as snakemake lays it; may be repeated",
    )
    for option, metavar, what in (
        ("--config", "KEY=VALUE", "changes to the configuration"),
        ("--until", "TARGET", "rules or files to stop at"),
        ("--omit-from", "TARGET", "rules or files to leave out, with all that rests on them"),
    ):
        plan.add_argument(option, nargs="+", action="extend", default=[], metavar=metavar, help=f"{what}: of snakemake")
    for option in ("--profile", "--workflow-profile"):
        plan.add_argument(option, type=Path, metavar="DIR", help="of snakemake: how many jobs run at once by it")
    plan.add_argument(
        "--snakemake",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="OPTION",
        help="comes last: all that follows is handed on, such as --forcerun scores",
    )
    plan.add_argument("--speed", type=Path, metavar="FILE", help="measured speed; default: results/speed.json")
    plan.add_argument("--gpus", type=processes(0), help="to plan for; default: those of this machine")
    plan.add_argument(
        "--gpu-memory",
        type=amount(zero=False),
        metavar="GB",
        help="of one GPU, such as 24; default: that of this machine's",
    )
    plan.add_argument("--allow-cpu", action="store_true", help="go on without a GPU however long it takes")
    plan.add_argument("--verbose", action="store_true", help="name each run, and what becomes of it")
    plan.set_defaults(func=_plan, extra="workflow")


def _plan(options: argparse.Namespace) -> int:
    from mfql.plan import Request, plan

    chosen = {field.name: getattr(options, field.name) for field in fields(Request)}
    return plan(Request(**chosen))


def _add_run(commands: argparse._SubParsersAction) -> None:
    # Each word is Snakemake's, options too: to this parser none begins with a dash.
    run = commands.add_parser(
        "run",
        help="the workflow, by snakemake, from any folder",
        usage="mfql run [TARGET ...] [OPTION OF SNAKEMAKE ...]",
        epilog="`mfql plan` says what that takes. The workflow is that of the current folder, or else the project's; "
        "so are files named as in the project, such as `--configfile config/quickstart.yaml`. `snakemake --help` has "
        "all options.",
        prefix_chars="\0",
        add_help=False,
    )
    run.add_argument("words", nargs="*", metavar="WORD", help="as given to snakemake, such as `offline -n`")
    run.set_defaults(func=_run_workflow, helped=run, extra="workflow")


def _run_workflow(options: argparse.Namespace) -> None:
    if options.words in (["-h"], ["--help"]):
        options.helped.print_help()
        return
    from mfql.plan.graph import become_snakemake

    become_snakemake(options.words)


def _stage(text: str) -> str:
    """An argument type: a stage."""
    from mfql.settings import STAGES  # Here, since `mfql --help` does without.

    if text not in STAGES:
        raise argparse.ArgumentTypeError(str(unknown("stage", text, STAGES)))
    return text


if __name__ == "__main__":
    sys.exit(main())
