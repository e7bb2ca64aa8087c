"""What a configuration asks for: methods on tasks with seeds, the jobs that they share, and where datasets lie."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial, reduce
from pathlib import Path
from typing import Any

from mfql.declared import unrun_checks
from mfql.documents import note_once, option_value, read_yaml
from mfql.errors import UserError, unknown
from mfql.experiment.schema import Place, check, check_tasks, from_text
from mfql.experiment.search import check_search
from mfql.extensions import extend, project_path, reading_once
from mfql.files import expanded
from mfql.methods import canonical_method, checkpoint_stage, declared_settings, method_file, same_settings
from mfql.settings import steps_of
from mfql.tasks import (
    Task,
    find_task,
    known_tasks,
    seeds_in_job,
    seeds_of_task,
    select_tasks,
    simulation_version,
    task_name,
)

_PAGE = "config/README.md"
_ABSENT = object()
# The keys whose values are paths of people's.
_PATHS = ("data_dir", "datasets_from", "expected", "outside_scores", "extensions")
# The key by which Snakemake evaluates a file's expressions before it reads the values.
_TEMPLATE = "__use_yte__"

# Size and sha256 of what was fetched first. It is written, and so lies where the workflow runs, in no `config_dir`.
LOCK = Path("config", "datasets.lock.json")
_WORKFLOW = "<workflow>/"
# A key of `--config`, as Snakemake takes it.
_KEY = re.compile(r"[a-zA-Z_][\w-]*\w")


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
        UserError: one of the two cannot be read, or as of `check_configuration`.
    """
    return laid_configuration([] if file is None else [file], [], config_dir)


def laid_configuration(files: Sequence[Path], changes: Iterable[str], config_dir: Path) -> dict[str, Any]:
    """A configuration as a launch with these options has it, over `config_dir/config.yaml`.

    The extensions that it names are those of this process from then on.

    Args:
        files: of `--configfile`, the last uppermost.
        changes: of `--config`, `KEY=VALUE` each, laid over the files.

    Raises:
        UserError: a file cannot be read, a change has no key, or as of `check_configuration`.
    """
    layers = _layers(files, config_dir)
    config = reduce(_laid_over, layers.values())
    for change in changes:
        key, equals, value = change.partition("=")
        if not (equals and _KEY.fullmatch(key)):
            raise UserError(f"--config {change} is no KEY=VALUE", "Write it as in --config seeds=[0,1].")
        config = _laid_over(config, in_workflow({key: option_value(value)}, config_dir))
    return _checked(config, layers, config_dir)


def in_workflow(value: Any, config_dir: str | Path) -> Any:
    """A configuration, or a part of it, in which `<workflow>/` before a path is the folder that `config_dir` lies in.

    What ships with the workflow is named so; any other relative path is one from the folder that the workflow runs in.
    """
    if isinstance(value, Mapping):
        return {key: in_workflow(item, config_dir) for key, item in value.items()}
    if isinstance(value, list):
        return [in_workflow(item, config_dir) for item in value]
    if isinstance(value, str) and value.startswith(_WORKFLOW):
        return os.path.normpath(Path(project_path(config_dir), "..", value.removeprefix(_WORKFLOW)))
    return value


def check_configuration(
    config: Mapping[str, Any], files: Sequence[str | Path], config_dir: str | Path = "config"
) -> dict[str, Any]:
    """A configuration as Snakemake has laid it together, `--config` included, with numbers where it has texts of them.

    The extensions that it names are those of this process from then on.

    Args:
        files: that were laid over `config_dir/config.yaml`, in this order; they are read for the messages, and for
            what Snakemake's own reader lets pass.

    Raises:
        UserError: a key, dataset, method or task is unknown, a key is absent or stands twice in a file, a value cannot
            be used, or the task table or an extension is faulty; names the file, the key, and what to write.
    """
    layers = _layers(files, config_dir)
    return _checked(_with_empty(config, reduce(_laid_over, layers.values())), layers, config_dir)


def check_file(file: str | Path) -> None:
    """Refuse a file that is no configuration at all; whether its values can be used, the whole configuration tells.

    Raises:
        UserError: it cannot be read, or is no mapping.
    """
    _read(project_path(file))


def path_from_here(path: str | Path) -> str:
    """A path as it is told: relative to the current folder if it begins with it."""
    return str(Path(path).absolute()).removeprefix(os.path.join(os.getcwd(), ""))


def _layers(files: Sequence[str | Path], config_dir: str | Path) -> dict[str, dict[str, Any]]:
    """The files' contents by name, lowest first."""
    return {
        path_from_here(path): in_workflow(_read(path), config_dir)
        for path in [project_path(config_dir) / "config.yaml", *map(project_path, files)]
    }


def _read(file: str | Path) -> dict[str, Any]:
    name = path_from_here(file)
    content = read_yaml(name, "Give a configuration such as config/quickstart.yaml.")
    if not isinstance(content, dict):
        raise UserError(f"{name} is no mapping of keys to values", f"{_PAGE} explains each key.")
    if _TEMPLATE in content:
        raise UserError(f"{name} is a template of YTE, which Snakemake alone reads", "Write its values out.")
    return content


def _checked(config: Mapping[str, Any], layers: Mapping[str, Any], config_dir: str | Path) -> dict[str, Any]:
    plain: dict[str, Any] = from_text(config, "config")
    check(plain, "config", lambda place: _source(place, config, layers), _PAGE)
    for key in _PATHS:
        plain[key] = _expanded(plain[key], f"{_source((key,), config, layers)}: {key}")
    extend(plain["extensions"])
    check_tasks(config_dir)
    datasets = {task.dataset for task in known_tasks(config_dir).values()}
    for name in plain["datasets"]:
        if name not in datasets:
            place = ("datasets", name)
            raise unknown("dataset", name, sorted(datasets), f"{_source(place, config, layers)}: datasets")
    _name_once(plain, lambda place: _source(place, config, layers), config_dir)
    for stage in ("offline", "online"):
        asked_runs(plain, config_dir, stage)
    check_search(plain["tuning"], lambda place: _source(place, config, layers), config_dir)
    return plain


def _expanded(value: Any, where: str) -> Any:
    """A path, or a list of them, as a shell takes them; an address stays, and so does null."""
    if isinstance(value, list):
        return [_expanded(path, where) for path in value]
    return value if value is None or "://" in value else expanded(value, where)


def _name_once(config: dict[str, Any], source: Callable[[Place], str], config_dir: str | Path) -> None:
    """Give each method and task its one name, by which its runs are known.

    Raises:
        UserError: a list names a method twice, in two writings.
    """
    # A name that stands in several places is said once.
    task, method = cache(partial(task_name, config_dir=config_dir)), cache(canonical_method)
    for stage in ("offline", "online"):
        found: dict[Any, str] = {}
        for position, given in enumerate(config[stage]["methods"], start=1):
            first = found.setdefault(same_settings(given), given)
            if first is not given:
                where = f"{source((stage, 'methods', position - 1))}: {stage}: methods: entry {position}"
                raise UserError(f"{where}: {given} is the method {first} in another writing", "Keep one of them.")
        config[stage]["methods"] = [method(name) for name in config[stage]["methods"]]
    for section in ("tuning", "ablations"):
        config[section]["method"] = method(config[section]["method"])
    if search := config["tuning"].get("search"):
        search["spaces"] = {method(name): space for name, space in search["spaces"].items()}
    for lists in (config["offline"], config["online"], config["tuning"], config["ablations"]["tasks"]):
        for kind in lists.keys() & {"tasks", "one", "several", "pixels"}:
            lists[kind] = list(dict.fromkeys(map(task, lists[kind])))
    films = (film.split("/") for film in config["videos"])
    config["videos"] = ["/".join([method(film[0]), task(film[1]), *film[2:]]) for film in films]


def _source(place: Place, config: Mapping[str, Any], layers: Mapping[str, Any]) -> str:
    """The uppermost file that has what the configuration has at a place; of none, as by `--config`, the whole."""
    value = _at(config, place)
    for name, layer in reversed(list(layers.items())):
        found = _at(layer, place)
        if found is not _ABSENT and (
            (isinstance(found, Mapping) and isinstance(value, Mapping)) or repr(found) == repr(value)
        ):
            return name
    return "configuration"


def _at(content: Any, place: Place) -> Any:
    for step in place:
        try:
            content = content[step]
        except (KeyError, IndexError, TypeError):
            return _ABSENT
    return content


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(below.get(key), Mapping)
        merged[key] = _laid_over(below[key], value) if both else value
    return merged


def _with_empty(config: Mapping[str, Any], laid: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the empty mappings of its files, which Snakemake drops where they are laid over a value."""
    found = dict(config)
    for key, value in laid.items():
        if isinstance(value, Mapping) and isinstance(config.get(key), Mapping):
            found[key] = _with_empty(config[key], value)
        elif value == {}:
            found[key] = value
    return found


def packs(seeds: Iterable[int], size: int) -> list[list[int]]:
    """The seeds as they share jobs, so many a job."""
    ordered = sorted(seeds)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def named_packs(config: Mapping[str, Any]) -> list[list[int]]:
    """The packs of the seeds that a configuration names for state tasks, then of those that it tunes with."""
    named = (config["seeds"], config["tuning"]["seeds"])
    return [pack for seeds in named for pack in packs(seeds, config["seeds_per_job"])]


def packs_of_task(config: Mapping[str, Any], task: Task) -> list[list[int]]:
    """The packs of the seeds that a configuration trains a task with."""
    return packs(seeds_of_task(config, task), seeds_in_job(config, task))


def pack_name(seeds: Sequence[int | str]) -> str:
    """`0-7` for the seeds 0 to 7, `3` for one, `{seed}` for any other."""
    return f"{seeds[0]}-{seeds[-1]}" if len(seeds) > 1 else str(seeds[0])


def generated_in(config: Mapping[str, Any], dataset: str, simulation: int | None = None) -> str | None:
    """The folder, in that of the data, of a dataset that is generated: by size and physics, so that these do not mix.

    Args:
        simulation: its simulation version; None is today's. Version 1 is not named.

    Returns:
        its name; None of a dataset that is fetched.
    """
    made = config["datasets"].get(dataset, {"source": "fetch"})
    if made["source"] != "generate":
        return None
    version = simulation_version(dataset) if simulation is None else simulation
    return f"episodes{made['episodes']}-seed{made['seed']}{f'-simulation{version}' if version > 1 else ''}"


def dataset_folder(config: Mapping[str, Any], dataset: str, simulation: int | None = None) -> Path:
    """Where a dataset lies; of one that is generated, that of a simulation version, None of today's."""
    return Path(config["data_dir"]) / (generated_in(config, dataset, simulation) or "")


def checksum_file(config: Mapping[str, Any], dataset: str) -> str:
    """The file beside a dataset's arrays that stands for them; begins with the data's folder as it is configured."""
    return "/".join(filter(None, [config["data_dir"], generated_in(config, dataset), f"{dataset}.json"]))


def asked_runs(config: Mapping[str, Any], config_dir: str | Path, stage: str) -> list[Run]:
    """The runs that a configuration names under `offline` or `online`, tasks outermost.

    Raises:
        UserError: an unknown method or task.
    """
    methods = config[stage]["methods"]
    for method in methods:
        method_file(method, config_dir)  # Refuses what there is not.
    tasks = select_tasks(config[stage]["tasks"], config_dir)
    return [find_run(config, config_dir, method, task, stage) for task in tasks for method in methods]


def note_unrun(runs: Iterable[Run]) -> None:
    """Say which checks of the runs' settings nobody makes before they train: those of extensions, whose code runs then.

    Raises:
        UserError: a method or an agent that is not to be read.
    """
    for path in sorted({path for agent in {run.agent for run in runs} if (path := unrun_checks(agent)) is not None}):
        note_once(f"{path}: its own checks of settings are made when it trains, since no extension's code runs before")


@reading_once()
def planned_runs(config: Mapping[str, Any], config_dir: str | Path) -> list[Run]:
    """Every run that a configuration asks for, those that online ones start from too, each once.

    Raises:
        UserError: as of `asked_runs`.
    """
    online = asked_runs(config, config_dir, "online")
    starts = [find_run(config, config_dir, run.method, run.task.name, run.start) for run in online if run.start]
    found = [*asked_runs(config, config_dir, "offline"), *starts, *online]
    return list({(run.method, run.task.name, run.stage): run for run in found}.values())


def find_run(config: Mapping[str, Any], config_dir: str | Path, method: str, task: str, stage: str) -> Run:
    """The run of a method, task and stage with the seeds that the configuration gives it."""
    row = find_task(task, config_dir)
    return Run(method, row, stage, tuple(seeds_of_task(config, row)), Path(config_dir))
