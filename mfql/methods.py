"""Methods: what `config/methods/NAME.yaml` and its tables give for a task and a stage, and the settings of that.

A method's name may change values of the file that it begins with: `mfql+alpha=300+q_agg=min` is `mfql` with two others.
So a grid's points and an ablation need no file each, and no two of them share a run folder.

This module needs no torch, so that a launcher can compare settings on a machine that never trains.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfql.declared import agent_stages, checked_settings, training_version
from mfql.documents import read_yaml
from mfql.errors import UserError, note, unknown
from mfql.extensions import METHODS, NONE_NAMED, extensions, find, method_names, once
from mfql.files import expanded, hash_of
from mfql.settings import STAGES, Settings, identified
from mfql.tables import as_value, find_row, own_columns, value_text
from mfql.tasks import (
    SOURCED,
    Task,
    code_of_environment,
    estimator,
    find_task,
    known_tasks,
    simulation_version,
)

# The bytes of a folder's or file's name, and those of what a name gets as an ending, such as `.log`.
_LONGEST, _ENDING = 255, 5
_META = ("agent", "inherits", "table", *STAGES)


@dataclass(frozen=True)
class _Lost:
    """A value in a method's name that a section of its file stands against: refused where the section's stage is used.

    Where it is not, as the `pretrain` of a method that trains offline alone, the name does what it says.
    """

    method: str
    named: Any
    kept: Any


@once
def declared_settings(method: str, task: str, stage: str, config_dir: str | Path = "config") -> tuple[str, Settings]:
    """The agent of a method and every setting of one task and stage: trainer, launcher and plan have them from here.

    Raises:
        UserError: an unknown method, task or stage, or agent; an unknown or missing setting; a value of a wrong type,
            out of range or without effect; or what is not to be had on this task or in this stage.
    """
    raw = raw_settings(method, task, stage, config_dir)
    agent = raw.pop("agent")
    where = f"method {method} ({method_file(method, config_dir)}), stage {stage}"
    return agent, checked_settings(agent, raw, find_task(task, config_dir), stage, where)


def raw_settings(method: str, task: str, stage: str, config_dir: str | Path = "config") -> dict[str, Any]:
    """Agent and values of a method's file for one task and stage, inheritance and tables resolved.

    The value `task` takes the cell of the method's own table, or else of the task table. The result has the key `agent`
    and the settings' keys; defaults of the settings class are not in it.

    Raises:
        UserError: unknown method, task or stage, a stage that the method lacks, a cycle of `inherits`, a file that is
            no YAML mapping, or a table that is faulty or has no such cell.
    """
    if stage not in STAGES:
        raise unknown("stage", stage, list(STAGES))
    row = find_task(task, config_dir)
    document = _load_method(method, config_dir)
    stages = _stages_of(method, document)
    if stage not in stages:
        raise UserError(f"method {method} has no stage {stage}", f"It has {', '.join(stages)}.")
    values = _values(document, stage)
    if stage == "online" and "offline_steps" not in document.get(stage, {}):
        start = checkpoint_stage(method, task, config_dir)
        values["offline_steps"] = raw_settings(method, task, start, config_dir)["offline_steps"] if start else 0
    cells = _cells(document, row, stage, config_dir)
    for key, value in values.items():
        if value == "task":
            if key not in cells:
                raise UserError(
                    f"method {method}: {key} is 'task', but no table has a column {key}",
                    f"Columns: {', '.join(cells)}.",
                )
            values[key] = cells[key]
    return {"agent": document["agent"], **values}


def settings_source(method: str, task: str, stage: str, config_dir: str | Path = "config") -> str:
    """Where the settings by task of a method are from.

    A method with a table of its own has the row's; another, or one whose row says `task`, that of the task table, if
    it takes any setting from there that the table has a source for.

    Raises:
        UserError: as of `raw_settings`.
    """
    row = find_task(task, config_dir)
    document = _load_method(method, config_dir)
    if "table" in document:
        source = find_row(find(config_dir, document["table"]), task, stage).source
        if source != "task":
            return source
    takes = {key for key, value in _values(document, stage).items() if value == "task"}
    return row.settings_source if takes & set(SOURCED) else "the same for all tasks"


def _values(document: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """The values of a stage as they are written.

    Raises:
        UserError: a value in the method's name is lost to that of the stage's section.
    """
    values = _written(document, stage)
    for key, value in values.items():
        if isinstance(value, _Lost):
            raise UserError(
                f"method {value.method}: the name says {key}={value_text(value.named)}, the section {stage} of its "
                f"file {key}: {value_text(value.kept)}",
                f"Leave {key} out of the name, or write a file that inherits {value.method.partition('+')[0]} and has "
                f"the value in its section {stage}.",
            )
    return values


def _written(document: Mapping[str, Any], stage: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in _META} | document.get(stage, {})


def _cells(document: Mapping[str, Any], row: Task, stage: str, config_dir: str | Path) -> dict[str, Any]:
    """What the value `task` stands for, by setting."""
    cells = dict(row.settings)
    if stage == "pretrain":
        cells["offline_steps"] = cells["pretrain_steps"]
    if "table" not in document:
        return cells
    own = find_row(find(config_dir, document["table"]), row.name, stage).settings
    return cells | {key: cells[key] if cell == "task" else cell for key, cell in own.items()}


def _stages_of(method: str, document: Mapping[str, Any]) -> tuple[str, ...]:
    """The stages of a method's agent."""
    if "agent" not in document:
        raise UserError(f"method {method} names no agent", "Add `agent: mfql` or another to its file.")
    return agent_stages(document["agent"])


def keys_by_task(method: str, config_dir: str | Path = "config") -> set[str]:
    """The settings that a method takes from a table by task, the task table or its own, in any stage.

    Raises:
        UserError: there is no such method, or its file is faulty.
    """
    document = _load_method(method, config_dir)
    return {key for stage in STAGES for key, value in _written(document, stage).items() if value == "task"}


def table_keys(method: str, config_dir: str | Path = "config") -> set[str]:
    """The settings that a method takes from the task table for its offline stage."""
    document = _load_method(method, config_dir)
    own = own_columns(find(config_dir, document["table"])) if "table" in document else set()
    return {key for key, value in _values(document, "offline").items() if value == "task"} - own


def table_of(method: str, config_dir: str | Path = "config") -> Path | None:
    """Where a method's own table of settings by task lies; None of one that has none."""
    document = _load_method(method, config_dir)
    return find(config_dir, document["table"]) if "table" in document else None


def method_name(base: str, values: Mapping[str, Any]) -> str:
    """The name of a method with these values changed: `mfql` and {alpha: 300} give `mfql+alpha=300`.

    Raises:
        UserError: a value that no name can have, such as a list without elements.
    """
    return "+".join([base, *(f"{key}={value_text(value)}" for key, value in values.items())])


def split_method(method: str) -> tuple[str, dict[str, Any]]:
    """The file that a method's name begins with, and the values that the name changes.

    Raises:
        UserError: a part of the name is no KEY=VALUE, names no setting, or a key twice; or the name is too long for a
            folder's.
    """
    base, *parts = method.split("+")
    if (length := len(os.fsencode(method))) > _LONGEST - _ENDING:
        raise UserError(
            f"method {method}: the name has {length} bytes, of which a folder's name has room for {_LONGEST - _ENDING}",
            f"Give its values a shorter name: a file in the folder {METHODS} with `inherits: {base}` and these values.",
        )
    values: dict[str, Any] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not (key and equals and value) or key in _META or key in values:
            raise UserError(
                f"method {method}: {part!r} changes no setting", "Write it as NAME+KEY=VALUE, each key once."
            )
        values[key] = as_value(value)
    return base, values


def canonical_method(method: str) -> str:
    """The one writing of a method's name: `mfql+alpha=30` for `mfql+alpha=30.0`; a note says so where it is another.

    The order of the values stays: runs and tables of both orders are there.

    Raises:
        UserError: as of `split_method`.
    """
    name = method_name(*split_method(method))
    if name != method:
        note(f"the method {method} is read as {name}")
    return name


def same_settings(method: str) -> tuple[str, frozenset[tuple[str, str]]]:
    """What two methods' names have in common if and only if they are of one file with the same values."""
    base, values = split_method(method)
    return base, frozenset((key, value_text(value)) for key, value in values.items())


@once
def settings_hash(
    method: str, task: str, stage: str, config_dir: str | Path = "config", with_environment: bool = True
) -> str:
    """Changes with every value that changes a number, defaults of the method's code included.

    That of `online` changes with those of the run that it starts from, too.

    Args:
        with_environment: what an environment of one's own is made of counts; not so for a run that is known without.
    """
    agent, own = declared_settings(method, task, stage, config_dir)
    hashed = [stage, agent, identified(own.as_dict()), training_version(agent)]
    start = checkpoint_stage(method, task, config_dir) if stage == "online" else None
    if (simulation := simulation_version(task)) > 1:
        hashed.append(f"simulation_version {simulation}")
    if with_environment and (environment := code_of_environment(task)) is not None:
        hashed.append(f"environment {hash_of(environment)}")
    if (scoring := estimator(task)) is not None:
        hashed.append(f"estimator {hash_of(scoring)}")
    if start is not None:
        hashed.append(identified(declared_settings(method, task, start, config_dir)[1].as_dict()))
    return hash_of(hashed)


@once
def checkpoint_stage(method: str, task: str, config_dir: str | Path = "config") -> str | None:
    """The stage that `online` starts from; None for a method that has no offline part.

    `offline` where `pretrain` equals it in every value, else `pretrain`.
    """
    has = _stages_of(method, _load_method(method, config_dir))
    raw = {stage: raw_settings(method, task, stage, config_dir) for stage in ("offline", "pretrain") if stage in has}
    if len(raw) == 2 and raw["offline"] == raw["pretrain"]:
        return "offline"
    return "pretrain" if "pretrain" in raw else next(iter(raw), None)


@once
def method_file(method: str, config_dir: str | Path = "config") -> Path:
    """The file that a method's name begins with, in the configuration's folder or an extension.

    Raises:
        UserError: there is none, or there are two.
    """
    name, _ = split_method(method)
    path = find(config_dir, f"{METHODS}/{name}.yaml")
    if not path.is_file():
        unseen = "" if extensions() else NONE_NAMED
        others = {"task": known_tasks(config_dir)}
        raise unknown("method", name, method_names(config_dir), str(path.parent), others, unseen)
    return path


def _load_method(method: str, config_dir: str | Path, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    name, changed = split_method(method)
    document = _load_file(name, config_dir, seen)
    sections = {
        stage: {
            key: _against(method, changed[key], value) if key in changed else value
            for key, value in document[stage].items()
        }
        for stage in STAGES
        if stage in document
    }
    return document | changed | sections


def _against(method: str, named: Any, kept: Any) -> Any:
    """What a section has for a setting that the method's name has too."""
    kept = kept.kept if isinstance(kept, _Lost) else kept
    return kept if named == kept else _Lost(method, named, kept)


@once
def _load_file(name: str, config_dir: str | Path, seen: tuple[str, ...]) -> dict[str, Any]:
    path = method_file(name, config_dir)
    if name in seen:
        raise UserError(f"{path} inherits from itself through {' -> '.join((*seen, name))}", "Break the circle.")
    document = read_yaml(path, "Correct the file.")
    mapping = isinstance(document, dict) and all(isinstance(document.get(stage, {}), dict) for stage in STAGES)
    if not mapping or not isinstance(document.get("table", ""), str):
        raise UserError(f"{path} is not a mapping of settings", "See config/README.md.")
    if not isinstance(document.get("agent", ""), str):
        raise UserError(f"{path}: agent is {document['agent']!r}, and not a name", "See config/README.md.")
    if "table" in document:
        document["table"] = expanded(document["table"], f"{path}: table")
    if "inherits" not in document:
        return dict(document)
    parent = _load_method(str(document["inherits"]), config_dir, (*seen, name))
    document = {key: value for key, value in document.items() if key != "inherits"}
    stages = {
        stage: parent.get(stage, {}) | document.get(stage, {})
        for stage in STAGES
        if stage in parent or stage in document
    }
    return parent | document | stages
