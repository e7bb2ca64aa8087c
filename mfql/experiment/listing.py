"""What there is to name: methods, tasks and settings, each explained by what the project itself says of it."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from mfql.declared import agent_stages, settings_types
from mfql.documents import read_text
from mfql.errors import UserError, in_one_line, unknown, warn_of
from mfql.extensions import METHODS, agent_code, agent_file, extensions, method_names, project_path
from mfql.files import listed
from mfql.methods import canonical_method, declared_settings, method_file, raw_settings, settings_source
from mfql.settings import Settings
from mfql.tables import value_text
from mfql.tasks import Task, find_task, known_tasks, select_tasks, task_name, with_extensions

# What a setting's check is asked, to hear the range that it allows.
_TRIED: tuple[float, ...] = (-1, 0, 1.5, 2)


def methods(config_dir: str | Path) -> str:
    """Every method: its agent, its stages and where its file is."""
    rows, faults = [], []
    folder = project_path(config_dir) / METHODS
    if not listed(folder):
        raise UserError(f"{folder} has no methods", "Run from the project's folder, or give --config-dir.")
    for name in sorted(method_names(config_dir)):
        try:
            agent = _agent(name, config_dir)
            rows.append((name, agent, " ".join(agent_stages(agent)), _said_first(method_file(name, config_dir))))
        except UserError as error:
            faults.append(error)
    for fault in faults:
        warn_of(fault, "the method is not listed")
    return _table(("method", "agent", "stages", ""), rows)


def method(name: str, config_dir: str | Path, task: str) -> str:
    """A method: its file and agent, and every setting with its value by stage on a task."""
    name, row = canonical_method(name), _find(task, config_dir)
    path = method_file(name, config_dir)
    agent = _agent(name, config_dir)
    asked = {stage: _settings(name, row, stage, config_dir) for stage in agent_stages(agent)}
    found = {stage: settings for stage, settings in asked.items() if settings is not None}
    sources = {settings_source(name, row.name, stage, config_dir) for stage in found}
    keys = dict.fromkeys(key for settings in found.values() for key in settings.as_dict())
    rows = [(key, *(_text(getattr(settings, key)) for settings in found.values())) for key in keys]
    code = agent_code(agent_file(agent))
    about = (ast.get_docstring(ast.parse(code)) or "").split("\n\n")[0].replace("\n", " ")
    said = [f"{name}, in {path}{_own(path)}", f"agent {agent}: {about}" if about else f"agent {agent}"]
    said += [f"settings on {row.name}; those by task are from: {', '.join(sorted(sources))}"]
    return "\n".join([*said, "", _table(("setting", *found), rows)])


def tasks(config_dir: str | Path) -> str:
    """Every task: its suite, its dataset, how it is scored, and whether its row says that it is trained online too."""
    return _of_tasks(known_tasks(config_dir).values())


def tasks_named(name: str, config_dir: str | Path) -> str:
    """What a name stands for: a task explained, or the tasks of an environment or of a suite.

    Raises:
        UserError: no task table has it.
    """
    name = task_name(name, config_dir)
    named = [find_task(one, config_dir) for one in select_tasks([name], config_dir)]
    own = [task for task in named if task.name == name]
    return _task(own[0]) if own else _of_tasks(named)


def _of_tasks(found: Iterable[Task]) -> str:
    rows = [(task.name, task.suite, task.dataset, task.metric, "online too" if task.online else "") for task in found]
    return _table(("task", "suite", "dataset", "metric", ""), rows)


def _task(found: Task) -> str:
    """What a task stands for, and the settings that methods take from its row."""
    own = found.registered
    rows = [
        ("suite", found.suite),
        ("environment", (own.env_id or "none: a dataset alone") if own else found.environment),
        ("dataset", own.data if own else found.dataset),
        ("observations", found.observations),
        ("scored by", _scored_by(found)),
        ("online", _online(found)),
        *((key, _text(value)) for key, value in found.settings.items()),
        ("settings from", found.settings_source),
    ]
    if own and own.max_episode_steps:
        rows.insert(3, ("time limit", str(own.max_episode_steps)))
    if own and own.score_low is not None:
        rows.insert(3, ("returns for 0 and 100", f"{own.score_low:g} and {own.score_high:g}"))
    return "\n".join([found.name, *(f"  {key:<16} {value}" for key, value in rows)])


def settings(name: str, config_dir: str | Path, task: str, stage: str) -> str:
    """Every setting of a method with its type, default and value."""
    own = _declared(name, config_dir, task, stage)
    hints = settings_types(own)
    rows = [
        (field.name, _kind(hints[field.name]), _default(field), _text(getattr(own, field.name)))
        for field in fields(own)
    ]
    return _table(("setting", "type", "default", f"in {canonical_method(name)}, {stage}"), rows)


def setting(key: str, name: str, config_dir: str | Path, task: str, stage: str) -> str:
    """What a setting of a method does, its type, range and default, and its value there.

    Raises:
        UserError: the method has no such setting.
    """
    own = _declared(name, config_dir, task, stage)
    named = {field.name: field for field in fields(own)}
    if key not in named:
        raise unknown("setting", key, named, f"method {name}", {"method": method_names(config_dir)})
    kind = settings_types(own)[key]
    rows = [
        ("type", _kind(kind)),
        *([("range", allowed)] if (allowed := _range(own, key, kind)) else []),
        ("default", _default(named[key])),
        (f"in {name}", f"{_text(getattr(own, key))}  ({task}, {stage})"),
    ]
    return "\n".join([f"{key}: {_said_of(type(own), key)}", *(f"  {what:<16} {value}" for what, value in rows)])


def _declared(name: str, config_dir: str | Path, task: str, stage: str) -> Settings:
    return declared_settings(canonical_method(name), _find(task, config_dir).name, stage, config_dir)[1]


def _find(name: str, config_dir: str | Path) -> Task:
    return find_task(task_name(name, config_dir), config_dir)


def _agent(name: str, config_dir: str | Path) -> str:
    """The agent of a method, by the first stage that the method has."""
    any_task = next(iter(known_tasks(config_dir)))
    for stage in ("offline", "online"):
        try:
            return str(raw_settings(name, any_task, stage, config_dir)["agent"])
        except UserError:
            if stage == "online":
                raise
    raise AssertionError


def _settings(name: str, task: Task, stage: str, config_dir: str | Path) -> Settings | None:
    """The settings of a stage; None where the task has no such stage, as pixel tasks online."""
    try:
        return declared_settings(name, task.name, stage, config_dir)[1]
    except UserError:
        if stage == "offline":
            raise
        return None


def _said_first(path: Path) -> str:
    """The first comment of a method's file, and that it is one's own."""
    lines = read_text(path, "It is a method's file.").splitlines()
    comment = next((line.lstrip("# ").strip() for line in lines if line.startswith("#")), "")
    return f"{comment}{_own(path)}".strip()


def _own(path: Path) -> str:
    return f"  (of {path.parents[1]})" if any(path.is_relative_to(folder) for folder in extensions()) else ""


def _said_of(kind: type[Settings], key: str) -> str:
    """What the docstrings of a settings class and of those that it is derived from say of a setting."""
    entries = [entry for cls in kind.__mro__ for entry in _entries(inspect.cleandoc(vars(cls).get("__doc__") or ""))]
    # One entry may be of two settings, and then says both; or a setting is explained with the one that it belongs to.
    named = next((entry for entry in entries if re.search(rf"(^|; |, ){key}(, \w+)*: ", entry)), None)
    found = named or next((entry for entry in entries if f"`{key}`" in entry), "its class says nothing of it")
    return found.removeprefix(f"{key}: ")


def _entries(docstring: str) -> list[str]:
    """What a docstring lists under `Args:`, each entry in one line."""
    _, _, listed = docstring.partition("Args:\n")
    return [" ".join(entry.split("\n\n")[0].split()) for entry in re.split(r"\n    (?=\w+(?:, \w+)*: )", f"\n{listed}")]


def _range(own: Settings, key: str, kind: Any) -> str:
    """The range that the check of the settings names for a value out of it; empty where it allows all."""
    if kind not in (int, float):
        return ""
    for value in _TRIED:
        try:
            replace(own, **{key: kind(value)}).check()
        except UserError as error:
            found = re.search(rf"setting {key} is .*\n  It must be (.*)\.$", str(error))
            if found:
                return found[1]
    return ""


def _kind(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " | ".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:
        return f"list of {_kind(get_args(hint)[0])}"
    if hint in (int, float, bool, str):
        return {int: "whole number", float: "number", bool: "true | false", str: "text"}[hint]
    return str(hint).replace("NoneType", "null").replace("None", "null")


def _default(field: Field[Any]) -> str:
    if field.default is not MISSING:
        return _text(field.default)
    return "none: a method says it" if field.default_factory is MISSING else _text(field.default_factory())


def _text(value: Any) -> str:
    return ", ".join(map(_text, value)) if isinstance(value, list | tuple) else value_text(value)


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, *(tuple(map(in_one_line, row)) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _online(task: Task) -> str:
    """Of the paper a row of the project's table alone says something."""
    if task.name in with_extensions({}):
        return "yes" if task.online else "no"
    return "in the paper too" if task.online else "not in the paper"


def _scored_by(task: Task) -> str:
    if not task.has_environment:
        return f"{task.metric}, an estimate of off-policy evaluation at the end of training"
    return f"{task.metric}, {task.score_rule.replace('_', ' ')} of its evaluations"
