"""What a configuration asks for: methods on tasks with seeds, the jobs that they share, and where datasets lie."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from mfql.errors import UserError
from mfql.extensions import extend
from mfql.methods import checkpoint_stage, declared_settings
from mfql.settings import steps_of
from mfql.tasks import Task, find_task, seeds_of_task, select_tasks, simulation_version

# Size and sha256 of what was fetched first. It is written, and so lies where the workflow runs, in no `config_dir`.
LOCK = Path("config", "datasets.lock.json")
_WORKFLOW = "<workflow>/"


@dataclass(frozen=True)
class Run:
    """One method, task and stage, for all of its seeds.

    Args:
        seeds: those that the configuration names.
        config_dir: folder with the task table and `methods/`.
    """

    method: str
    task: Task
    stage: str
    seeds: tuple[int, ...]
    config_dir: Path

    @cached_property
    def agent(self) -> str:
        """The method's code."""
        return self._declared[0]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Every setting, defaults included."""
        return self._declared[1].as_dict()

    @cached_property
    def _declared(self) -> Any:
        return declared_settings(self.method, self.task.name, self.stage, self.config_dir)

    @cached_property
    def start(self) -> str | None:
        """The stage that it starts from; None for the offline part, and for a method that has none."""
        return checkpoint_stage(self.method, self.task.name, self.config_dir) if self.stage == "online" else None

    @property
    def steps(self) -> int:
        """Updates, or environment steps online."""
        return steps_of(self.settings, self.stage)


def read_configuration(file: Path | None, config_dir: Path) -> dict[str, Any]:
    """A configuration laid over `config_dir/config.yaml` as by Snakemake's `--configfile`; None is the latter alone.

    The extensions that it names are those of this process from then on.

    Raises:
        UserError: one of the two cannot be read, or is no mapping.
    """
    default = _read(config_dir / "config.yaml")
    config = in_workflow(default if file is None else _laid_over(default, _read(file)), config_dir)
    extend(config.get("extensions", []))
    return config


def in_workflow(value: Any, config_dir: str | Path) -> Any:
    """A configuration, or a part of it, in which `<workflow>/` before a path is the folder that `config_dir` lies in.

    What ships with the workflow is named so; any other relative path is one from the folder that the workflow runs in.
    """
    if isinstance(value, Mapping):
        return {key: in_workflow(item, config_dir) for key, item in value.items()}
    if isinstance(value, list):
        return [in_workflow(item, config_dir) for item in value]
    if isinstance(value, str) and value.startswith(_WORKFLOW):
        return os.path.normpath(Path(config_dir, "..", value.removeprefix(_WORKFLOW)))
    return value


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            f"cannot read {file}: {error}", "Give a configuration such as config/quickstart.yaml."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is no mapping of keys to values", "config/README.md explains each key.")
    return content


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(below.get(key), Mapping)
        merged[key] = _laid_over(below[key], value) if both else value
    return merged


def packs(seeds: Iterable[int], size: int) -> list[list[int]]:
    """The seeds as they share jobs, so many a job."""
    ordered = sorted(map(int, seeds))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def generated_in(dataset: str, made: Mapping[str, Any], simulation: int | None = None) -> str:
    """The folder, in that of the data, of a dataset that is generated: by size and physics, so that these do not mix.

    Args:
        made: its entry of the configuration, `episodes` and `seed`.
        simulation: its simulation version; None is today's. Version 1 is not named.
    """
    version = simulation_version(dataset) if simulation is None else simulation
    return f"episodes{made['episodes']}-seed{made['seed']}{f'-simulation{version}' if version > 1 else ''}"


def dataset_folder(config: Mapping[str, Any], dataset: str, simulation: int | None = None) -> Path:
    """Where a dataset lies; of one that is generated, that of a simulation version, None of today's."""
    made = config["datasets"].get(dataset, {"source": "fetch"})
    folder = Path(config["data_dir"])
    return folder / generated_in(dataset, made, simulation) if made["source"] == "generate" else folder


def asked_runs(config: Mapping[str, Any], config_dir: Path, stage: str) -> list[Run]:
    """The runs that a configuration names under `offline` or `online`.

    Raises:
        UserError: an unknown method, task or setting, or a key that is absent.
    """
    try:
        return [
            find_run(config, config_dir, method, task, stage)
            for method in config[stage]["methods"]
            for task in select_tasks(config[stage]["tasks"], config_dir)
        ]
    except KeyError as error:
        raise UserError(f"the configuration lacks {error}", "config/README.md explains each key.") from error


def planned_runs(config: Mapping[str, Any], config_dir: Path) -> list[Run]:
    """Every run that a configuration asks for, those that online ones start from too, each once.

    Raises:
        UserError: as of `asked_runs`.
    """
    online = asked_runs(config, config_dir, "online")
    starts = [find_run(config, config_dir, run.method, run.task.name, run.start) for run in online if run.start]
    found = [*asked_runs(config, config_dir, "offline"), *starts, *online]
    return list({(run.method, run.task.name, run.stage): run for run in found}.values())


def find_run(config: Mapping[str, Any], config_dir: Path, method: str, task: str, stage: str) -> Run:
    """The run of a method, task and stage with the seeds that the configuration gives it."""
    row = find_task(task, config_dir)
    return Run(method, row, stage, tuple(seeds_of_task(config, row)), config_dir)
