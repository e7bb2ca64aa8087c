"""The runs that a configuration asks for, those that lie in a folder, and the report's panels that do."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Collection, Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from mfql.errors import UserError, in_one_line, note, unknown, warn_of
from mfql.experiment.configuration import Run, asked_runs, planned_runs
from mfql.experiment.run import CHECKPOINT, RUN, RunFolder
from mfql.files import CannotRead, files_below, listed
from mfql.methods import canonical_method, same_settings
from mfql.settings import STAGES
from mfql.tasks import task_name

PANEL = "panel.json"
AGGREGATE = "aggregate"
# In a folder of aggregates: the paths of its panels' files, a line each.
DRAWN = "panels.txt"
# How the name of a table ends that lies beside a report, and begins as that: what would be a third of the report, of
# each run the sha256 of its files.
EVIDENCE = ".evidence.csv"
# What a launch can be asked for of a run.
FILES = ("evaluation.json", "final.json", "video.gif", "strip.png", "video.json")
_PAUSED = re.compile(r"paused-[1-9][0-9]*\.json")


def configured_runs(configuration: Mapping[str, Any], config_dir: Path, results: Path) -> list[RunFolder]:
    """The folder of every run that a configuration asks for, whether or not it exists; starts of online runs included.

    Raises:
        UserError: an unknown method or task.
    """
    return [_folder(results, run, seed) for run in planned_runs(configuration, config_dir) for seed in run.seeds]


def asked_files(
    configuration: Mapping[str, Any], config_dir: str | Path, results: Path, name: str = "evaluation.json"
) -> list[Path]:
    """A file of every run that a configuration names, whether or not it exists; no starts among them.

    Raises:
        UserError: an unknown method or task.
    """
    return [
        file
        for stage in ("offline", "online")
        for file in files_of(asked_runs(configuration, config_dir, stage), results, name)
    ]


def files_of(runs: Iterable[Run], results: Path, name: str = "evaluation.json") -> list[Path]:
    """A file of each seed's run, as the workflow lists them: of each task by seeds, and of each seed by methods."""
    of_tasks = [list(same) for _, same in groupby(runs, key=lambda run: (run.stage, run.task.name))]
    return [_folder(results, run, seed).folder / name for same in of_tasks for seed in same[0].seeds for run in same]


class Found(NamedTuple):
    """The runs at or below a path, and the folders of which nobody here may see what runs they hold."""

    runs: list[RunFolder]
    hidden: list[CannotRead]


def runs_in(path: Path) -> list[RunFolder]:
    """The runs at or below a path: a results folder, its `runs`, or a folder on the way to a run or in it.

    Of folders that cannot be looked into a warning says that their runs are not among them.

    Raises:
        UserError: there is none, or none that can be seen.
    """
    found = look_for_runs(path)
    if not found.runs:
        raise found.hidden[0]
    for error in found.hidden:
        warn_of(error, "its runs are not looked at")
    return found.runs


def look_for_runs(path: Path) -> Found:
    """The same, and what cannot be looked into.

    Raises:
        UserError: there is neither.
    """
    parts = path.absolute().parts
    depth = len(parts) - parts[::-1].index("runs") - 1 if "runs" in parts else len(parts)
    results = path if depth == len(parts) else Path(*parts[:depth])
    folders, hidden = [results / "runs"], []
    for _ in ("method", "task", "seed", "stage"):
        inner: list[Path] = []
        for folder in folders:
            try:
                _require_folder(folder)
                inner += [inside for inside in listed(folder) if is_under(inside, path) or is_under(path, inside)]
            except CannotRead as error:
                hidden.append(error)
        folders = inner
    runs = [run for folder in folders if (run := _run_at(folder, results))]
    if not runs and not hidden:
        raise UserError(f"{path} holds no run", "Give a folder such as results or results/runs/METHOD/TASK.")
    return Found(sorted(runs, key=lambda run: (run.method, run.task, STAGES.index(run.stage), run.seed)), hidden)


def _require_folder(place: Path) -> None:
    """Refuse what has a seed's name and is no folder: its runs would pass for none."""
    if re.fullmatch(r"seed\d+", place.name) and not place.is_dir():
        raise CannotRead(place, NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)))


def is_under(path: Path, folder: Path) -> bool:
    """Whether a path is the folder or lies in it."""
    return path.absolute().is_relative_to(folder.absolute())


def name_of(run: RunFolder) -> str:
    """`METHOD/TASK/seedN/STAGE`, as under `results/runs`, in one line whatever the folders are called."""
    return in_one_line(run.folder.relative_to(run.results / "runs").as_posix())


def canonical_path(path: str, config_dir: str | Path, methods: Collection[str] = ()) -> str:
    """A path of `results/runs` with the one name of its method and task; a note says so where it is another.

    Args:
        path: of a run's file or folder, or one on the way to it; any other is returned as it is.
        methods: names that are used here: a name with the same values in another order is read as one of them.

    Raises:
        UserError: a seed has zeros in front, or there is no such stage or file of a run. Snakemake would train such a
            run under its own name, and then miss the file.
    """
    before, runs, rest = path.rpartition("runs/")
    if not runs or (before and not before.endswith("/")) or not rest:
        return path
    method, *others = rest.split("/")
    for one in methods:
        if one != method and same_settings(one) == same_settings(method):
            note(f"the method {method} is read as {one}, which has the same settings")
            method = one
    parts = [canonical_method(method), *(task_name(task, config_dir) for task in others[:1]), *others[1:]]
    if len(parts) > 2 and parts[2] and not re.fullmatch(r"seed(0|[1-9][0-9]*)", parts[2]):
        number = re.fullmatch(r"seed0+([0-9]+)", parts[2])
        remedy = f"Write seed{number[1]}." if number else "Write seed and a whole number, such as seed0."
        raise UserError(f"{path}: {parts[2]} is no name of a run's seed", remedy)
    if len(parts) > 3 and parts[3] and parts[3] not in STAGES:
        raise unknown("stage", parts[3], STAGES, path)
    if len(parts) == 5 and parts[4] not in (*FILES, RUN, CHECKPOINT, "run", "") and not _PAUSED.fullmatch(parts[4]):
        raise unknown("file of a run", parts[4], FILES, path)
    return f"{before}{runs}{'/'.join(parts)}"


def existing_run(path: Path, config_dir: Path = Path("config")) -> Path:
    """A run's folder, by another name of its method or task too.

    Args:
        config_dir: folder with the task table that knows these names.

    Raises:
        UserError: as of `canonical_path`.
    """
    return path if path.exists() else Path(canonical_path(str(path), config_dir))


def _folder(results: Path, run: Run, seed: int) -> RunFolder:
    return RunFolder(results, run.method, run.task.name, seed, run.stage)


def run_of(file: Path) -> RunFolder | None:
    """The run whose `results/runs/METHOD/TASK/seedN/STAGE/FILE` a file is; None of any other file."""
    parts = file.parts
    is_there = len(parts) > 6 and parts[-6] == "runs"
    return _run_at(file.parent, Path(*parts[:-6])) if is_there else None


def _run_at(folder: Path, results: Path) -> RunFolder | None:
    method, task, seed, stage = folder.parts[-4:]
    match = re.fullmatch(r"seed(\d+)", seed)
    return RunFolder(results, method, task, int(match[1]), stage) if match and stage in STAGES else None


def panel_files(folder: Path) -> list[Path]:
    """The descriptions of the panels below a folder such as `results/NAME`.

    Panels in a folder `aggregate` are of its scores, and shown only on the page of these: they are found from there.
    Of folders that cannot be looked into a warning says that their panels are not among them.

    Raises:
        CannotRead: that is the folder itself.
    """
    found: list[Path] = []
    for place in listed(folder):
        files, hidden = files_below(place) if place.name != AGGREGATE else ([], [])
        found += [path for path in files if path.name == PANEL]
        for error in hidden:
            warn_of(error, "its panels are not shown")
    return sorted((path for path in found if AGGREGATE not in path.relative_to(folder).parts), key=str)
