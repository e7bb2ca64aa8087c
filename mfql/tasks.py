"""The task table: one row a task, from `config/tasks.csv` and from the tables of extensions."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, wraps
from pathlib import Path
from typing import Any

from mfql.documents import read_object
from mfql.errors import UserError, note, unknown
from mfql.extensions import (
    NONE_NAMED,
    TASKS,
    Code,
    environment_code,
    extensions,
    imported_packages,
    method_names,
    project_path,
    task_tables,
)
from mfql.files import expanded, there
from mfql.tables import read_rows


@dataclass(frozen=True)
class Registered:
    """A task of one's own: an environment that Gymnasium knows by its id, and a dataset; or a dataset alone.

    Args:
        named: `env_id` as the row has it; None of a task that has no environment, and where the dataset says it.
        data: path of the dataset's file, of its folder in LeRobot's layout, or `minari:ID`.
        folder: of the task table that names it; modules in it can be imported. None of one that a policy describes:
            those of the extensions' folders can.
        limit: `max_episode_steps` as the row has it; None leaves it to the environment, or to what the dataset says.
        score_low, score_high: the returns that stand for a normalised return of 0 and 100; None for other metrics.
        action_low, action_high: without an environment, the bounds of actions: one number for all of their dimensions,
            or one each; None leaves them to the dataset.
        fqe_steps: without an environment, updates of off-policy evaluation; None with one.
        asks: file and line of a row whose `env_id` is empty: a dataset of Minari's says the environment, and need not
            be here for commands that ask for another task's.
    """

    named: str | None
    data: str
    folder: Path | None
    limit: int | None
    score_low: float | None
    score_high: float | None
    action_low: tuple[float, ...] | None = None
    action_high: tuple[float, ...] | None = None
    fqe_steps: int | None = None
    asks: str = ""

    @property
    def has_environment(self) -> bool:
        """Whether there is an environment, known or not."""
        return self.named is not None or bool(self.asks)

    @property
    def env_id(self) -> str | None:
        """As `gymnasium.make` takes it, such as `Pendulum-v1`, or `MODULE:ID` for one that a module registers.

        None of a task that has no environment.

        Raises:
            UserError: a dataset of Minari's is to say it, and is absent or does not.
        """
        return self._recorded[0] if self.asks else self.named

    @property
    def max_episode_steps(self) -> int | None:
        """Steps after which an episode is truncated; None leaves it to the environment.

        Raises:
            UserError: as of `env_id`.
        """
        return self._recorded[1] if self.asks and self.limit is None else self.limit

    @cached_property
    def _recorded(self) -> tuple[str, int | None]:
        return _recorded_environment(self.data, self.asks)

    def code(self) -> Code | None:
        """What the environment is made of; None without one, and where its module is not to be found here.

        Raises:
            UserError: as of `env_id`.
        """
        return None if self.env_id is None else environment_code(self.env_id, self.folders())

    def packages(self) -> dict[str, str]:
        """The versions of the installed packages that the environment's files import, by their names."""
        return imported_packages(self.code(), self.folders())

    def folders(self) -> list[Path]:
        """Where the environment's module is looked for first."""
        return extensions() if self.folder is None else [self.folder]


@dataclass(frozen=True)
class Task:
    """One row of the task table.

    Args:
        name: the task, as in the published tables, for example `cube-double-play-singletask-task2-v0`.
        suite: the benchmark that it belongs to.
        environment: the environment's name without dataset and task number.
        dataset: the dataset that its offline part is trained on.
        observations: `state`, vectors of numbers, or `pixels`, images.
        metric: what is scored: `success`, `normalized_return` or, of a task of one's own, `return`; of one without an
            environment `fqe_return`, an estimate.
        score_rule: `last_three` (mean of the last three evaluations) or `last`.
        online: whether the paper trains it online too.
        settings: values by task, as written in the table, for method files that say `task`.
        settings_source: where alpha, num_candidates and time_steps come from.
        registered: of a task of one's own; None for those of OGBench and D4RL.
    """

    name: str
    suite: str
    environment: str
    dataset: str
    metric: str
    score_rule: str
    online: bool
    settings: dict[str, float | int]
    settings_source: str
    observations: str = "state"
    registered: Registered | None = None

    @property
    def pixels(self) -> bool:
        """Whether the task shows images."""
        return self.observations == "pixels"

    @property
    def has_environment(self) -> bool:
        """Whether policies can be scored in episodes; without an environment off-policy evaluation estimates."""
        return self.registered is None or self.registered.has_environment


# The metric of tasks without an environment: the discounted return that fitted Q evaluation estimates.
ESTIMATE = "fqe_return"
# The declared version of that estimate: a raise scores the runs of those tasks anew. Version 2 has Student's interval
# over the critics where version 1 had a bootstrap's, and cuts their values to what rewards allow.
ESTIMATOR_VERSION = 2
# Updates of it, where a row does not say.
FQE_STEPS = 10_000
# How a row says that its task has no environment, and what of it can then be no other.
NO_ENVIRONMENT = "none"
_WITHOUT_ENVIRONMENT = {"metric": ESTIMATE, "score_rule": "last", "online": "no"}
# How many evaluations a score is the mean of, by its rule.
SCORED_EVALUATIONS = {"last_three": 3, "last": 1}
_TEXT = ("suite", "environment", "dataset", "observations", "metric", "score_rule", "settings_source")
_NUMBERS = {
    "discount": float,
    "alpha": float,
    "num_candidates": int,
    "time_steps": int,
    "offline_steps": int,
    "pretrain_steps": int,
    "online_steps": int,
}
# Columns that the tables of extensions alone have, and what stands for a cell there that is empty or has no column.
_ESTIMATED = ("action_low", "action_high", "fqe_steps")
_REGISTERED = ("env_id", "data", "max_episode_steps", "score_low", "score_high", *_ESTIMATED)
_DEFAULTS = {
    "suite": "own",
    "observations": "state",
    "score_rule": "last_three",
    "discount": "0.99",
    "alpha": "100",
    "num_candidates": "5",
    "time_steps": "50",
    "offline_steps": "1000000",
    "pretrain_steps": "1000000",
    "online_steps": "1000000",
    "online": "yes",
    "settings_source": "untuned",
}
_CHOICES = {
    "observations": ("state", "pixels"),
    "metric": ("success", "normalized_return", "return", ESTIMATE),
    "score_rule": tuple(SCORED_EVALUATIONS),
    "online": ("yes", "no"),
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_PAGE = "docs/extend.md explains the columns."
# The settings that may differ by task: a method's file says `task` for them.
SETTINGS = tuple(_NUMBERS)
# Those of them that a row's `settings_source` is of.
SOURCED = ("alpha", "num_candidates", "time_steps")

# What MuJoCo does otherwise than it did for the datasets, and by their names the tasks whose models have it.
# `mfql/envs/physics.py` corrects it, and a test holds these names against the models. A launcher has no MuJoCo.
CONTACT_MARGINS, SATURATED_DRIVES, CONVEX_CONTACTS = "contact margins", "saturated drives", "convex contacts"
_DIFFERENCES = {
    CONTACT_MARGINS: re.compile(r"(visual-)?ant(maze|soccer)-|(pen|hammer|door|relocate)-"),
    SATURATED_DRIVES: re.compile(r"(visual-)?(cube|scene|puzzle)-"),
    CONVEX_CONTACTS: re.compile(r"(visual-)?(cube|scene|puzzle)-|(pen|hammer|door)-"),
}

# The number of the task that OGBench, and who uses it, means by a name without one: `ENVIRONMENT-singletask-v0`. The
# environments' code alone has them, by which a test holds these; a launcher has no OGBench.
_WITHOUT_NUMBER = re.compile(r"(?:visual-)?(?P<environment>[a-z0-9]+(?:-[a-z0-9]+)*)-singletask-v0")
_DEFAULT_NUMBER = {
    re.compile(r"(pointmaze|antmaze|humanoidmaze)-"): 1,
    re.compile(r"antsoccer-"): 4,
    re.compile(r"(cube|scene)-"): 2,
    re.compile(r"puzzle-(3x3|4x4)-"): 4,
    re.compile(r"puzzle-(4x5|4x6)-"): 2,
}


def scored(evaluations: Sequence[Mapping[str, Any]], rule: str) -> Sequence[Mapping[str, Any]]:
    """The evaluations that a run's score is the mean of: the last ones; that at step 0 only where there is no other.

    Raises:
        UserError: another rule.
    """
    if rule not in SCORED_EVALUATIONS:
        raise unknown("score rule", rule, list(SCORED_EVALUATIONS))
    trained = [evaluation for evaluation in evaluations if evaluation["step"] > 0]
    return (trained or evaluations)[-SCORED_EVALUATIONS[rule] :]


def simulation_version(name: str) -> int:
    """The declared version of what simulates a task: a raise trains the task's finished runs anew.

    Version 2 has the physics of the task's dataset where version 1 had that of the installed MuJoCo. Tasks whose
    models are the same in both stay at 1.
    """
    return 2 if simulation_differences(name) else 1


def simulation_differences(name: str) -> list[str]:
    """What of the datasets' physics a task's models do not have by themselves; none of a task of one's own."""
    touched = [difference for difference, tasks in _DIFFERENCES.items() if tasks.match(name)]
    return touched if touched and name not in registered_tasks() else []


def estimator(name: str) -> dict[str, Any] | None:
    """What scores a task that has no environment, and what its actions are; None of one that has.

    It is part of what a run is: another version, discount, number of updates or bound trains the task's runs anew.
    """
    task = registered_tasks().get(name)
    if task is None or task.has_environment or task.registered is None:
        return None
    row = task.registered
    bounds = {column: ends and list(ends) for column, ends in (("low", row.action_low), ("high", row.action_high))}
    return {
        "version": ESTIMATOR_VERSION,
        "discount": task.settings["discount"],
        "updates": row.fqe_steps,
        "action_bounds": bounds,
    }


def code_of_environment(name: str) -> Code | None:
    """What the environment of a task of one's own is made of; of others, which have a simulation version, None.

    None too where its module is not to be found on this machine, as on one that only launches.
    """
    task = registered_tasks().get(name)
    return task.registered.code() if task and task.registered else None


def seeds_of_task(config: Mapping[str, Any], task: Task) -> list[int]:
    """The seeds that a configuration trains a task with: pixel tasks have their own."""
    return [int(seed) for seed in config["pixel_seeds" if task.pixels else "seeds"]]


def seeds_in_job(config: Mapping[str, Any], task: Task) -> int:
    """How many seeds of a task one training job takes: of a pixel task one."""
    return 1 if task.pixels else int(config["seeds_per_job"])


def _while_unchanged(read: Callable[[Path], dict[str, Task]]) -> Callable[[Path], dict[str, Task]]:
    """A reader of a table that reads it anew when the file is another, as where one works on it in a notebook."""
    kept = cache(lambda path, *_: read(path))

    @wraps(read)
    def asked(path: Path) -> dict[str, Task]:
        try:
            known = path.stat()
        except OSError:
            return read(path)  # Who reads it says what is amiss.
        found: dict[str, Task] = kept(path, os.getcwd(), known.st_mtime_ns, known.st_size, known.st_ino)
        return found

    return asked


@_while_unchanged
def load_tasks(path: Path) -> dict[str, Task]:
    """The tasks of the project's table by name.

    Raises:
        UserError: the table is absent, lacks a column, names a task twice, or has a cell that is no number, or
            none of its column's words.
    """
    columns, rows = read_rows(path, "Run from the project's folder, or give --config-dir.")
    missing = {"task", "online", *_TEXT, *_NUMBERS} - set(columns)
    if missing:
        raise UserError(
            f"{path} lacks the columns {', '.join(sorted(missing))}", "See config/README.md for the columns."
        )
    tasks: dict[str, Task] = {}
    for row, _ in rows:
        if row["task"] in tasks:
            raise UserError(f"{path} names the task {row['task']} twice", "Keep one of the rows.")
        _refuse_other_words(row, f"{path}: {row['task']}")
        tasks[row["task"]] = _task(row, path)
    return tasks


def known_tasks(config_dir: str | Path = "config") -> dict[str, Task]:
    """The tasks of the project's table and of the extensions' by name.

    Raises:
        UserError: a table is absent or faulty, or two name the same task.
    """
    return with_extensions(load_tasks(project_path(config_dir) / TASKS))


def with_extensions(tasks: Mapping[str, Task]) -> dict[str, Task]:
    """Tasks of a table together with those of the extensions.

    Raises:
        UserError: an extension's table is faulty, or names a task that another table has.
    """
    merged = dict(tasks)
    for path in task_tables():
        for name, task in load_extension(path).items():
            if name in merged:
                raise UserError(
                    f"{path} names the task {name}, which another task table has", "Give the row another name."
                )
            merged[name] = task
    return merged


def registered_tasks() -> dict[str, Task]:
    """The tasks of one's own by name: those of the extensions that have a dataset of their own."""
    return {name: task for name, task in with_extensions({}).items() if task.registered}


@_while_unchanged
def load_extension(path: Path) -> dict[str, Task]:
    """The tasks of an extension's table by name.

    A row with `env_id` and `data` is a task of one's own; Minari's data say their environment, and `none` says that
    there is none. Columns and cells that are missing have defaults; `task` and `metric` have none, nor has `dataset` in
    a row without `env_id`.

    Raises:
        UserError: a column is unknown, or a cell is missing or of the wrong kind; names file, line and column.
    """
    tasks: dict[str, Task] = {}
    for row, where in _cells(path):
        task = _extension_task(row, path, where)
        if task.name in tasks:
            raise UserError(f"{where} names the task {task.name} twice", "Keep one of the rows.")
        tasks[task.name] = task
    return tasks


def _cells(path: Path) -> Iterator[tuple[dict[str, str], str]]:
    """The rows of an extension's table, empty cells left out, each with its file and line."""
    known = {"task", "online", *_TEXT, *_NUMBERS, *_REGISTERED}
    columns, rows = read_rows(path, "Name the folder of an extension.")
    for column in columns:
        if column not in known:
            raise unknown("column", column, sorted(known), str(path))
    for row, where in rows:
        yield {name: cell for name, cell in row.items() if cell}, where


def _extension_task(row: dict[str, str], path: Path, where: str) -> Task:
    name = row.get("task", "")
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{where}: task is {name!r}", "A name begins with a letter or digit and goes on with these or ._-."
        )
    own = "env_id" in row or "data" in row
    recorded = "env_id" not in row and row.get("data", "").startswith("minari:")
    bare = row.get("env_id") == NO_ENVIRONMENT
    filled = _DEFAULTS | {"environment": name} | ({"dataset": name} if own else {})
    filled |= (_WITHOUT_ENVIRONMENT if bare else {}) | row
    required = ["metric", *([] if recorded else ["env_id"]), "data"] if own else ["metric", "dataset"]
    for column in required:
        if column not in filled:
            raise UserError(f"{where}: {column} of {name} is empty", _PAGE)
    _refuse_other_words(filled, where)
    _refuse_other_scoring(filled, bare, where)
    if own and filled["dataset"] != name:
        raise UserError(
            f"{where}: dataset is {filled['dataset']!r}",
            "Leave it empty: `data` names the file, and several tasks may share it.",
        )
    if own and filled["observations"] == "pixels":
        raise UserError(
            f"{where}: observations is 'pixels', and those of a task of one's own are vectors of numbers",
            "Wrap the environment so that it shows some, and register that one.",
        )
    registered = _registered(filled, path.parent, where) if own else None
    if registered is None and (filled["metric"] == "return" or filled.keys() & set(_REGISTERED)):
        raise UserError(
            f"{where}: {name} has no env_id", "`return` and its columns are for tasks with one of their own."
        )
    return _task(filled, path, registered)


def _refuse_other_scoring(row: Mapping[str, str], bare: bool, where: str) -> None:
    """Refuse what a task without an environment cannot have, and what no other can."""
    for column, value in _WITHOUT_ENVIRONMENT.items():
        if bare and row[column] != value:
            raise UserError(
                f"{where}: {column} is {row[column]!r}, and {row['task']} has no environment",
                f"Leave it out, or write {value}: docs/off_policy.md.",
            )
    given = [column for column in _ESTIMATED if column in row]
    if not bare and (row["metric"] == ESTIMATE or given):
        what = f"metric is {ESTIMATE!r}" if row["metric"] == ESTIMATE else f"{given[0]} is {row[given[0]]!r}"
        raise UserError(
            f"{where}: {what}, which is for tasks without an environment",
            f"Write {NO_ENVIRONMENT} as env_id; or score it in its environment, and estimate finished runs with"
            " `mfql evaluate --off-policy`.",
        )


def minari_folder(data: str) -> Path:
    """Where Minari keeps a dataset; known without the package, which a machine that only launches need not have."""
    root = os.environ.get("MINARI_DATASETS_PATH") or Path(os.path.expanduser("~"), ".minari", "datasets")
    return Path(root) / data.removeprefix("minari:")


def _recorded_environment(data: str, where: str) -> tuple[str, int | None]:
    """The environment that a dataset of Minari's says it was recorded in, and its time limit.

    Args:
        data: the dataset, `minari:ID`.
        where: file and line of the row that leaves it to say so.
    """
    remedy = "Write env_id."
    about = minari_folder(data) / "data" / "metadata.json"
    if not there(about):
        raise UserError(
            f"{where}: env_id is empty, and {about}, which would say it, does not exist",
            f"Write env_id, or fetch the dataset with `minari download {data.removeprefix('minari:')}`.",
        )
    recorded = read_object(about).get("env_spec")
    try:
        spec = json.loads(recorded) if recorded else {}
        name, entry, limit = spec.get("id"), str(spec.get("entry_point", "")), spec.get("max_episode_steps")
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{where}: env_id is empty, and {about} says none that can be read: {error}", remedy) from error
    if not name:
        raise UserError(f"{where}: env_id is empty, and {data} does not say where it was recorded", remedy)
    more = [f"{key}={value!r}" for key, value in (spec.get("kwargs") or {}).items()]
    more += [str(wrapper.get("name")) for wrapper in spec.get("additional_wrappers") or ()]
    if more:
        raise UserError(
            f"{where}: env_id is empty, and {data} was recorded in {name} with {', '.join(more)}, which no id says",
            "Register the environment as it was recorded, and write its env_id.",
        )
    package = entry.partition(":")[0].partition(".")[0]
    env_id = name if package in ("", "gymnasium") else f"{package}:{name}"
    note(f"{where}: env_id is empty, read as {env_id}, in which {data} was recorded")
    told = {} if limit is None else {"max_episode_steps": str(limit)}
    return env_id, _count(told, "max_episode_steps", f"{where}: env_id is empty, and of {about}")


def _registered(row: dict[str, str], folder: Path, where: str) -> Registered:
    low, high = (_number(row, column, where) for column in ("score_low", "score_high"))
    if (row["metric"] == "normalized_return") != (low is not None and high is not None) or (low is None) != (
        high is None
    ):
        raise UserError(
            f"{where}: metric is {row['metric']}, score_low is {low}, score_high is {high}",
            "A normalized_return needs both reference returns; the other metrics have none.",
        )
    if low is not None and high is not None and not low < high:
        raise UserError(f"{where}: score_low {low:g} is not below score_high {high:g}", "Exchange or correct them.")
    limit = _count(row, "max_episode_steps", where)
    data = row["data"] if row["data"].startswith("minari:") else str(folder / expanded(row["data"], f"{where}: data"))
    if (env_id := row.get("env_id")) != NO_ENVIRONMENT:
        return Registered(env_id, data, folder, limit, low, high, asks="" if env_id else where)
    least, most = (_bounds(row, column, where) for column in ("action_low", "action_high"))
    if (least is None) != (most is None):
        raise UserError(f"{where}: one of action_low and action_high is empty", "Write both, or none of them.")
    steps = _count(row, "fqe_steps", where) or FQE_STEPS
    return Registered(None, data, folder, limit, low, high, action_low=least, action_high=most, fqe_steps=steps)


def _bounds(row: dict[str, str], column: str, where: str) -> tuple[float, ...] | None:
    """The numbers of a cell, which blanks are between."""
    if column not in row:
        return None
    found = [_number({column: cell}, column, where) for cell in row[column].split()]
    return tuple(number for number in found if number is not None)


def _count(row: dict[str, str], column: str, where: str) -> int | None:
    found = _number(row, column, where)
    if found is not None and (found < 1 or found != int(found)):
        raise UserError(f"{where}: {column} is {found:g}", "Write a whole number of one or more.")
    return None if found is None else int(found)


def _number(row: dict[str, str], column: str, where: str) -> float | None:
    if column not in row:
        return None
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where}: {column} is {row[column]!r}, not a number", "Correct the cell.")
    return value


def default_task(name: str) -> str | None:
    """The task that OGBench means by a name without a task's number, such as `scene-play-singletask-v0`; else None."""
    found = _WITHOUT_NUMBER.fullmatch(name)
    if found is None:
        return None
    numbers = [number for names, number in _DEFAULT_NUMBER.items() if names.match(f"{found['environment']}-")]
    return f"{name.removesuffix('-v0')}-task{numbers[0]}-v0" if numbers else None


def task_name(name: str, config_dir: str | Path = "config") -> str:
    """The one name of what is given as a task, by which its runs are known; a note says so where it is another.

    A name that no table has is returned as it is: who looks it up refuses it.
    """
    default = default_task(name)
    if default is None or name in (tasks := known_tasks(config_dir)) or default not in tasks:
        return name
    note(f"{name} is read as {default}, which OGBench means by it")
    return default


def find_task(name: str, config_dir: str | Path = "config") -> Task:
    """The task of that name; see `task_name` for one without a number.

    Raises:
        UserError: no task table has it; the message names the nearest ones.
    """
    tasks = known_tasks(config_dir)
    if name not in tasks:
        raise _unknown_task("task", name, list(tasks), config_dir)
    return tasks[name]


def select_tasks(entries: list[str], config_dir: str | Path = "config") -> list[str]:
    """The tasks that the entries name: each is a task, or an environment or a suite, which stands for all of its tasks.

    Raises:
        UserError: an entry names nothing in the tables.
    """
    tasks = known_tasks(config_dir).values()
    selected: dict[str, None] = {}
    for entry in entries:
        named = [task.name for task in tasks if entry in (task.name, task.environment, task.suite)]
        if not named:
            known = {name for task in tasks for name in (task.name, task.environment, task.suite)}
            raise _unknown_task("task, environment or suite", entry, known, config_dir)
        selected |= dict.fromkeys(named)
    return list(selected)


def _unknown_task(kind: str, name: str, known: Collection[str], config_dir: str | Path) -> UserError:
    """The error for a task that no table has; where OGBench means one by it, that is what is missing."""
    tasks = known_tasks(config_dir).values()
    others = {
        "dataset": {task.dataset for task in tasks if task.dataset != task.name},
        "environment": {task.environment for task in tasks if task.environment != task.name},
        "suite": {task.suite for task in tasks},
        "method": method_names(config_dir),
    }
    own = {other: names for other, names in others.items() if other not in kind}
    tables = ", ".join(map(str, [project_path(config_dir) / TASKS, *task_tables()]))
    return unknown(kind, default_task(name) or name, known, tables, own, "" if task_tables() else NONE_NAMED)


def _refuse_other_words(row: Mapping[str, str], where: str) -> None:
    """Refuse a row whose cell is none of the words that its column has."""
    for column, words in _CHOICES.items():
        if row[column] not in words:
            raise UserError(f"{where}: {column} is {row[column]!r}", f"Write {', '.join(words[:-1])} or {words[-1]}.")


def _task(row: dict[str, str], path: Path, registered: Registered | None = None) -> Task:
    settings: dict[str, float | int] = {}
    for column, kind in _NUMBERS.items():
        try:
            settings[column] = kind(row[column])
        except ValueError:
            expected = "a whole number" if kind is int else "a number"
            raise UserError(
                f"{path}: {column} of {row['task']} is {row[column]!r}, not {expected}",
                "Correct the cell.",
            ) from None
    return Task(
        name=row["task"],
        online=row["online"] == "yes",
        settings=settings,
        registered=registered,
        **{key: row[key] for key in _TEXT},
    )
