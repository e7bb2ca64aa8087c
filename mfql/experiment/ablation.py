"""What an ablation trains: the points of `ablations.yaml` on the tasks that a configuration names.

This module needs no pandas and no torch, so that a launcher can list the runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from mfql.documents import read_yaml
from mfql.errors import UserError, unknown
from mfql.experiment.schema import check
from mfql.extensions import ABLATIONS, extensions, project_path
from mfql.files import there
from mfql.methods import declared_settings, method_name, split_method
from mfql.tasks import find_task, seeds_of_task, select_tasks

# Where the value of a setting is a multiple of the base method's.
_TIMES = "times"


@dataclass(frozen=True)
class Ablation:
    """An entry of `ablations.yaml`; that of `config` explains the keys."""

    title: str
    asks: str
    shows: str
    tasks: list[str]
    x: Mapping[str, Any] | None = None
    series: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"": {}})
    measures: list[str] = field(default_factory=list)
    cost: bool = False
    proxy: bool = False


@dataclass(frozen=True)
class Point:
    """A method of an ablation on one task.

    Args:
        series: the line that it belongs to; empty where there is one alone.
        x: its place on the axis, as the ablation writes it; None without an axis.
        task: the task.
        method: the base method with the point's settings.
    """

    series: str
    x: float | str | None
    task: str
    method: str


def raw_ablations(config_dir: str | Path = "config") -> dict[str, dict[str, Any]]:
    """The entries of the configuration's file and of the extensions' by name, as they are written.

    Raises:
        UserError: the former is absent; an entry lacks a key, has an unknown one or a value that it cannot have; or two
            files have a name.
    """
    entries: dict[str, dict[str, Any]] = {}
    files: dict[str, Path] = {}
    for path in _files(config_dir):
        found = read_yaml(path, f"The first lines of {project_path(config_dir) / ABLATIONS} say what an entry has.")
        check(found, "ablations", partial(_same, str(path)), str(path))
        if twice := sorted(found.keys() & entries):
            said = f"{files[twice[0]]} and {path} both have an ablation {twice[0]}"
            raise UserError(said, "Rename one: a name stands for one thing in all results.")
        entries |= found
        files |= dict.fromkeys(found, path)
    return entries


def _files(config_dir: str | Path) -> list[Path]:
    own = [folder / ABLATIONS for folder in extensions()]
    return [project_path(config_dir) / ABLATIONS, *(path for path in own if there(path))]


def _same(where: str, _: Any) -> str:
    return where


def read_ablations(config_dir: str | Path = "config") -> dict[str, Ablation]:
    """The ablations by name.

    Raises:
        UserError: as of `raw_ablations`.
    """
    return {name: Ablation(**entry) for name, entry in raw_ablations(config_dir).items()}


def find_ablation(name: str, config_dir: str | Path = "config") -> Ablation:
    """The ablation of that name.

    Raises:
        UserError: there is none; the message names the nearest.
    """
    known = read_ablations(config_dir)
    if name not in known:
        raise unknown("ablation", name, list(known), " or ".join(map(str, _files(config_dir))))
    return known[name]


def points_of(name: str, section: Mapping[str, Any], config_dir: str | Path = "config") -> list[Point]:
    """The points of an ablation, tasks outermost, then series, then the axis.

    Args:
        section: `ablations` of a configuration: method, and tasks by kind.

    Raises:
        UserError: an unknown ablation, kind of tasks, task, method or setting, or a multiple of what is no number.
    """
    ablation = find_ablation(name, config_dir)
    base = section["method"]
    found = []
    for task in _tasks(name, ablation, section, config_dir):
        own = declared_settings(base, task, "offline", config_dir)[1].as_dict()
        for (series, values), (x, along) in product(ablation.series.items(), _axis(ablation)):
            settings = {key: _resolved(name, key, value, own) for key, value in {**values, **along}.items()}
            found.append(Point(series, x, task, _changed(base, settings, own)))
    return found


def _tasks(name: str, ablation: Ablation, section: Mapping[str, Any], config_dir: str | Path) -> list[str]:
    for kind in ablation.tasks:
        if kind not in section["tasks"]:
            raise unknown("kind of tasks", kind, list(section["tasks"]), f"ablation {name}")
    entries = [entry for kind in ablation.tasks for entry in section["tasks"][kind]]
    return select_tasks(list(dict.fromkeys(entries)), config_dir)


def _axis(ablation: Ablation) -> list[tuple[float | str | None, dict[str, Any]]]:
    """Places on the axis, each with the setting there."""
    if ablation.x is None:
        return [(None, {})]
    key = ablation.x["key"]
    if _TIMES in ablation.x:
        return [(factor, {key: {_TIMES: factor}}) for factor in ablation.x[_TIMES]]
    return [(value, {key: value}) for value in ablation.x["values"]]


def _resolved(name: str, key: str, value: Any, own: Mapping[str, Any]) -> Any:
    """A setting's value; a multiple of a whole number of the base method's is one too, from 1 on."""
    source = value.get("of", key) if isinstance(value, Mapping) else key
    for named in (key, source):
        if named not in own:
            raise unknown("setting", named, list(own), f"ablation {name}")
    if not isinstance(value, Mapping):
        return value
    one = own[source]
    if isinstance(one, bool) or not isinstance(one, int | float):
        raise UserError(f"ablation {name}: {source} is {one!r}, of which there are no multiples", "Give a value.")
    multiple = one * value[_TIMES]
    return max(1, round(multiple)) if isinstance(one, int) else float(f"{multiple:.6g}")


def _changed(base: str, settings: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """The name of the base method with those of the settings that it does not have anyway, always in the same order."""
    file, given = split_method(base)
    changed = {key: _as_settings_have(settings[key]) for key in sorted(settings)}
    return method_name(file, given | {key: value for key, value in changed.items() if value != own[key]})


def _as_settings_have(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def plan_of(name: str, config: Mapping[str, Any], config_dir: str | Path = "config") -> dict[str, Any]:
    """What `mfql ablation draw` is told of an ablation: its entry, its command, and its points with their seeds.

    Only who launches knows the configuration's files; the command is without them.

    Args:
        config: the configuration.

    Raises:
        UserError: as of `points_of`.
    """
    points = points_of(name, config["ablations"], config_dir)
    seeded = [asdict(point) | {"seeds": seeds_of_task(config, find_task(point.task, config_dir))} for point in points]
    return {**asdict(find_ablation(name, config_dir)), "command": f"snakemake ablation_{name}", "points": seeded}
