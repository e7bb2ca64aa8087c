"""What `mfql tune search` searches: of each method the settings with their ranges, checked before anything runs.

Points are methods whose names have their values, as a grid's are. This module needs neither Optuna nor torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from mfql.declared import settings_types
from mfql.errors import UserError, unknown
from mfql.experiment.tuning import COLUMNS, carried_to, published_columns, tuning_task
from mfql.methods import declared_settings, method_name, split_method, table_keys
from mfql.settings import Settings
from mfql.tables import as_value, value_text
from mfql.tasks import ESTIMATE, Task, find_task, known_tasks, select_tasks

SAMPLERS = ("tpe", "random", "qmc")
# Points of other lengths or other evaluations are not compared.
_FIXED = ("offline_steps", "online_steps", "eval_interval", "eval_episodes", "log_interval")
# A point's numbers have so many digits: names are short, and two points that nobody would tell apart are one run.
_DIGITS = 6
# A number in a name at its longest, such as -1.23457e-05.
_LONGEST = "0" * 12


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included.

    Args:
        log: evenly by their logarithms.
        step: multiples of it above `low`; None for any number, and for every whole one of a whole setting.
        whole: of a setting that is a whole number.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values to check that stand for all others."""
        return self.value(self.low), self.value(self.high)

    def value(self, number: float) -> float | int:
        """A number of the range as a point has it."""
        if self.whole:
            return round(number)
        return float(min(self.high, max(self.low, float(f"{number:.{_DIGITS}g}"))))

    def place(self, number: float) -> float:
        """Where a number lies, from 0 at `low` to 1 at `high`, as the sampler sees the range."""
        low, high, at = (math.log(one) if self.log else one for one in (self.low, self.high, number))
        return (at - low) / (high - low)


@dataclass(frozen=True)
class Choices:
    """Values that a setting may have, as texts of a method's name."""

    texts: tuple[str, ...]

    @property
    def ends(self) -> tuple[Any, ...]:
        """All of them."""
        return tuple(map(as_value, self.texts))


Space = Mapping[str, Range | Choices]


@dataclass(frozen=True)
class Pruning:
    """When a trial is given up.

    Args:
        after: the numbers of evaluations after which one is looked at, ascending.
        percentile: those that are not among the best so many percent of the finished ones end there.
        startup: so many trials are finished first.
    """

    after: tuple[int, ...]
    percentile: float = 50.0
    startup: int = 5


@dataclass(frozen=True)
class Study:
    """The search of one method's settings on one task.

    Args:
        method: that a point changes the values of.
        tabled: the task table has the settings: a choice is carried into it, as a grid's is.
        seeds: that each point is trained with.
        trials: how many points are tried; at_once: asked for together and trained together.
        sampler: one of `SAMPLERS`; seed: its own.
    """

    method: str
    task: str
    space: Space
    tabled: bool
    seeds: tuple[int, ...]
    trials: int
    at_once: int
    sampler: str
    seed: int
    pruning: Pruning | None

    @property
    def name(self) -> str:
        """What it is called, in its storage and for people."""
        return f"{self.method} on {self.task}"

    @property
    def chosen(self) -> tuple[str, ...]:
        """The settings of which a proposal names values: the task table's are chosen together."""
        return COLUMNS if self.tabled else tuple(self.space)

    def trained(self, point: Mapping[str, Any]) -> str:
        """The method of a point."""
        return method_name(self.method, point)


def studies(tuning: Mapping[str, Any], config_dir: str | Path = "config") -> list[Study]:
    """The studies of a configuration's section `tuning`, tasks outermost, as `check_search` let it pass.

    A method's settings that are all columns of the task table are searched on the tasks, and carried to those, that a
    grid's would be, and a column that is published for all of them keeps its cell. Others are searched on the default
    task of each environment that is named.

    Raises:
        UserError: it has no search, or tasks have published settings alone.
    """
    if not tuning.get("search"):
        raise UserError("nothing to search: tuning: search is null", "docs/tuning.md has an example.")
    if found := _studies(tuning, config_dir):
        return found
    named = ", ".join(tuning["tasks"]) or "none"
    raise UserError(f"nothing to search: tuning: tasks ({named}) have published settings", "Name others there.")


def _studies(tuning: Mapping[str, Any], config_dir: str | Path) -> list[Study]:
    search = tuning["search"]
    tasks = known_tasks(config_dir)
    chosen_on = dict.fromkeys(tuning_task(task, tasks) for task in select_tasks(tuning["tasks"], config_dir))
    pruning = search.get("pruning") and Pruning(**search["pruning"] | {"after": tuple(search["pruning"]["after"])})
    found = []
    for method, entries in search["spaces"].items():
        tabled = is_tabled(method, entries, config_dir)
        for task in chosen_on:
            own = _unpublished(entries, task, tasks) if tabled else entries
            if not own:
                continue
            shared = (search["trials"], search.get("at_once", 1), search.get("sampler", SAMPLERS[0]))
            # In the order of names, so that a point has one name however its settings are listed.
            space = {key: _distribution(own[key], _hint(method, key, task, config_dir)) for key in sorted(own)}
            study = Study(method, task, space, tabled, tuple(tuning["seeds"]), *shared, search.get("seed", 0), pruning)
            found.append(study)
    order = {task: place for place, task in enumerate(chosen_on)}
    return sorted(found, key=lambda study: order[study.task])


def is_tabled(method: str, settings: Mapping[str, Any] | tuple[str, ...], config_dir: str | Path) -> bool:
    """Whether the task table has all of these settings of a method, so that a choice belongs there."""
    return set(settings) <= set(COLUMNS) & table_keys(method, config_dir)


def takers(task: str, tabled: bool, tasks: Mapping[str, Task]) -> list[str]:
    """The tasks that take a choice made on a task: of a setting that is no column of the table, its environment's."""
    if tabled:
        return carried_to(task, tasks)
    return [other for other in tasks if tuning_task(other, tasks) == task]


def rungs(study: Study, config_dir: str | Path) -> list[int]:
    """The steps at which a trial of a study is looked at.

    Raises:
        UserError: one is no earlier than the end, or the task has no environment.
    """
    _, settings = declared_settings(study.method, study.task, "offline", config_dir)
    steps = [count * settings.eval_interval for count in (study.pruning.after if study.pruning else ())]
    if steps and find_task(study.task, config_dir).metric == ESTIMATE:
        raise UserError(
            f"tuning: search: pruning: {study.task} has no environment, so that its runs are scored at their end alone",
            "Leave `pruning` out.",
        )
    if steps and steps[-1] >= settings.offline_steps:
        raise UserError(
            f"tuning: search: pruning: after: evaluation {steps[-1] // settings.eval_interval} of {study.method} is no"
            " earlier than its last",
            f"It evaluates every {settings.eval_interval:,} of {settings.offline_steps:,} steps: name earlier ones.",
        )
    return steps


def check_search(tuning: Mapping[str, Any], source: Callable[[tuple[str, ...]], str], config_dir: str | Path) -> None:
    """Refuse a search of settings that a method does not have, or of values that it does not take.

    Every end of a range and every choice is tried as a method's settings are, beside each of every other setting.

    Args:
        tuning: the section of a configuration, which follows the schema.
        source: the file that has what stands at a place.

    Raises:
        UserError: names the file, the method, the setting, and what is wrong.
    """
    search = tuning.get("search")
    if not search:
        return
    pruning = search.get("pruning")
    if pruning and list(pruning["after"]) != sorted(set(pruning["after"])):
        where = f"{source(('tuning', 'search', 'pruning'))}: tuning: search: pruning: after"
        raise UserError(f"{where}: {pruning['after']} is not ascending", "Write each number once, the lowest first.")
    tasks = known_tasks(config_dir)
    named = dict.fromkeys(tuning_task(task, tasks) for task in select_tasks(tuning["tasks"], config_dir))
    # What a method may have depends on what a task shows.
    examples = list({tasks[task].observations: task for task in named}.values())
    for method, entries in search["spaces"].items():
        where = f"{source(('tuning', 'search', 'spaces', method))}: tuning: search: spaces: {method}"
        for task in examples:
            space = {key: _checked(method, key, entry, task, where, config_dir) for key, entry in entries.items()}
            _require_trainable(method, space, task, where, config_dir)
    for study in _studies(tuning, config_dir) if pruning else ():
        try:
            rungs(study, config_dir)
        except UserError as error:
            raise UserError(f"{source(('tuning', 'search', 'pruning'))}: {error}") from None


def _unpublished(entries: Mapping[str, Any], task: str, tasks: Mapping[str, Task]) -> dict[str, Any]:
    """The settings that tuning may choose for a task: not those that are published for all that take the choice."""
    published = [published_columns(tasks[taker].settings_source) for taker in carried_to(task, tasks)]
    kept = set.intersection(*published) if published else set(COLUMNS)
    return {key: entry for key, entry in entries.items() if key not in kept}


def _hint(method: str, key: str, task: str, config_dir: str | Path) -> Any:
    """The type of a method's setting.

    Raises:
        UserError: it has no such setting.
    """
    types = settings_types(declared_settings(method, task, "offline", config_dir)[1])
    if key not in types:
        raise unknown("setting", key, types)
    return types[key]


def _distribution(entry: Any, hint: Any) -> Range | Choices:
    """What is searched, of what the configuration says."""
    if isinstance(entry, list):
        return Choices(tuple(map(value_text, entry)))
    whole = _plain(hint) is int
    return Range(entry["low"], entry["high"], entry.get("log", False), entry.get("step"), whole)


def _plain(hint: Any) -> Any:
    """A setting's type without that it may be empty."""
    if get_origin(hint) is UnionType:
        return next(kind for kind in get_args(hint) if kind is not NoneType)
    return hint


def _checked(method: str, key: str, entry: Any, task: str, where: str, config_dir: str | Path) -> Range | Choices:
    """What is searched of a setting.

    Raises:
        UserError: there is no such setting, it is none to search, or its range is none of the setting's.
    """
    try:
        hint = _hint(method, key, task, config_dir)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    where = f"{where}: {key}"
    if key in _FIXED:
        raise UserError(f"{where}: runs of another {key} are not compared", "Set it in the method's name or file.")
    if key in split_method(method)[1]:
        raise UserError(f"{where}: the method's name has the setting already", "Leave it out of one of the two.")
    if isinstance(entry, Mapping):
        _require_range(entry, _plain(hint), where)
    found = _distribution(entry, hint)
    if isinstance(found, Choices) and len(set(found.texts)) < len(found.texts):
        raise UserError(f"{where}: {', '.join(found.texts)} has a value twice", "Keep one of them.")
    return found


def _require_range(entry: Mapping[str, Any], kind: Any, where: str) -> None:
    low, high, step, log = entry["low"], entry["high"], entry.get("step"), entry.get("log", False)
    if kind not in (int, float):
        raise UserError(f"{where}: the setting is no number", "Write a list of the values to choose from.")
    if kind is int and any(float(one) != int(one) for one in (low, high, step or 1)):
        raise UserError(f"{where}: the setting is a whole number", "Write whole low, high and step.")
    if low >= high:
        raise UserError(f"{where}: low {low} is not below high {high}", "Write the lower one as low.")
    if log and step is not None:
        raise UserError(f"{where}: there is no step by the logarithm", "Leave out step, or log.")
    if log and low <= 0:
        raise UserError(f"{where}: low {low} has no logarithm", "Write a low above 0, or leave out log.")
    if step is not None and not math.isclose((steps := (high - low) / step), round(steps), abs_tol=1e-9):
        raise UserError(f"{where}: from {low} no whole number of steps of {step} leads to {high}", "Write such a high.")


def _require_trainable(method: str, space: Space, task: str, where: str, config_dir: str | Path) -> None:
    """Try the ends of ranges and the choices of any two settings together, beside the first ones of the others."""
    first = {key: found.ends[0] for key, found in space.items()}
    longest = {key: _LONGEST if isinstance(one, Range) else max(one.texts, key=len) for key, one in space.items()}
    try:
        split_method("+".join([method, *(f"{key}={text}" for key, text in longest.items())]))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    for point in _pairs(first, space):
        try:
            declared_settings(method_name(method, point), task, "offline", config_dir)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None


def _pairs(first: dict[str, Any], space: Space) -> Iterator[dict[str, Any]]:
    keys = list(space)
    if len(keys) == 1:
        yield from ({keys[0]: value} for value in space[keys[0]].ends)
    for one, other in combinations(keys, 2):
        for values in product(space[one].ends, space[other].ends):
            yield first | dict(zip((one, other), values, strict=True))


def identifying(study: Study, config_dir: str | Path) -> dict[str, Any]:
    """What all trials of a study share, as JSON holds it: one of other conditions is another study."""
    agent, settings = declared_settings(study.method, study.task, "offline", config_dir)
    return {
        "space": {key: vars(found) | {"kind": type(found).__name__} for key, found in study.space.items()},
        "seeds": list(study.seeds),
        "sampler": study.sampler,
        "sampler's seed": study.seed,
        "pruning": study.pruning and vars(study.pruning),
        "settings": {"agent": agent, **_others(settings, study.space)},
    }


def _others(settings: Settings, space: Space) -> dict[str, Any]:
    return {key: value for key, value in settings.as_dict().items() if key not in space}
