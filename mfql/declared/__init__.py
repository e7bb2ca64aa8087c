"""What a method's agent declares: its settings with their checks, its stages and its version, as the trainer has them.

A launcher need not have torch: see `mfql.placeholder`. An extension's agent is read without running it, unless its code
is trusted or about to train anyway: see `mfql.declared.unrun`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from mfql.declared.unrun import has_own_checks, read_agent
from mfql.errors import UserError, errors_of, unknown
from mfql.extensions import TRUSTED, agent_code, agent_file, is_own, is_trusted, may_run, once
from mfql.placeholder import NeedsTorch, Placeholder, without_torch
from mfql.settings import STAGES, Settings, build_settings, require
from mfql.tasks import Task

if TYPE_CHECKING:
    from mfql.agents.interface import Agent

# Raise it when the code that all methods share changes a number: finished runs are then trained anew.
TRAINING_VERSION = 1
# Fields of a transition that a method may ask for beside the usual.
EXTRA_FIELDS = ("next_actions", "mc_returns", "next_row_actions")
# Of a pixel task's observations, whose image has 2^6 rows and columns; and sizes that stand for any other's.
_IMAGES, _HALVINGS = (64, 64, 9), 6
_OBSERVATIONS, _ACTION_DIM = (64,), 8


def checked_settings(agent: str, values: dict[str, Any], task: Task, stage: str, where: str) -> Settings:
    """The settings of an agent from values as a file has them, checked for one task and stage.

    Args:
        agent: its name or file.
        values: keys and values, defaults left out.
        where: named in errors.

    Raises:
        UserError: there is no such agent, or its file cannot be run or read here; an unknown or missing setting; a
            value of a wrong type, out of range or without effect; or what is not to be had on this task or in this
            stage. Checks in the file of an extension's agent are made where it may run.
    """

    def checked() -> Settings:
        kind = _declaring(agent)
        with _checks_of(agent, kind):
            settings = build_settings(kind.settings_type, values, where)
        for key, value in vars(settings).items():
            if isinstance(value, Placeholder):
                raise NeedsTorch(f"the default of the setting {key} is {value.__name__}")
        try:
            require_trainable(kind, settings, task, stage)
            if may_run(agent):
                require_trainable(_example(kind, settings, task), settings, task, stage)
                _require_as_read(agent, kind, settings, values)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        return settings

    return without_torch(checked)


def _require_as_read(agent: str, kind: type[Agent], settings: Settings, values: dict[str, Any]) -> None:
    """Refuse an extension's agent whose code makes other settings, stages or versions than a launch reads in it.

    A launch would compare runs with what they are not, and train them again and again.
    """
    if not is_own(agent) or is_trusted(agent_file(agent)):
        return
    try:
        read = _read(agent)
        other = build_settings(read.settings_type, values, agent).as_dict()
    except UserError:
        return  # So a launch says, and starts nothing.
    declared = [(name, getattr(kind, name), getattr(read, name)) for name in ("stages", "training_version")]
    made = settings.as_dict()
    declared += [(key, made.get(key), other.get(key)) for key in dict.fromkeys([*made, *other])]
    for name, found, said in declared:
        if found != said:
            raise UserError(
                f"{agent_file(agent)} makes {name} {found}, and without running it one reads {said}",
                "Write it as a plain value in its class; or, where you trust the code, name its folder: "
                f"{TRUSTED}=DIR in the environment of every command (docs/extend.md).",
            )


@contextmanager
def _checks_of(agent: str, kind: type[Agent]) -> Iterator[None]:
    """Within it an error that the checks of an agent's settings end with is said with their lines."""
    if isinstance(sys.modules.get("torch"), Placeholder):
        yield  # It may be the placeholder's doing.
        return
    what = f"{agent_file(agent)}: {kind.settings_type.__name__}"
    with errors_of(what, lambda _: "Correct it there; what is to be refused raises a UserError, as `require` does."):
        yield


def settings_types(settings: Settings) -> dict[str, Any]:
    """The type of each setting, by its name."""
    # The module of a class that was read without torch is known while it is read alone.
    return without_torch(lambda: get_type_hints(type(settings)))


def require_trainable(agent: Agent | type[Agent], settings: Settings, task: Task, stage: str) -> None:
    """Refuse what every setting allows by itself, but not this method on this task in this stage.

    Args:
        agent: of the settings, or its class, which may not know yet what its settings decide.
    """
    if not task.has_environment:
        _require_without_environment(settings, task, stage)
    if stage == "online" and task.pixels:
        raise UserError(f"{task.name} is not trained online", "Pixel tasks have an offline stage alone.")
    if task.pixels:
        channels = settings.encoder_channels
        halved = f"of at most {_HALVINGS} stages, each of which halves the image"
        require("encoder_channels", channels, len(channels) <= _HALVINGS, halved)
        groups = [] if isinstance(agent, type) else list(agent.groups.values())
        if groups and not any(name.startswith("encoder.") for group in groups for name in group.layout.parameters):
            raise UserError(
                f"{task.name} shows images, and this method has no encoder",
                "Its agent's groups need `with_encoder` and its losses `encode`: mfql/agents/interface.py.",
            )
        require("horizon", getattr(settings, "horizon", 1), getattr(settings, "horizon", 1) == 1, "1 on pixel tasks")
    if stage == "online" and settings.replay_rows and agent.online_share is not None:
        raise UserError(
            f"setting replay_rows is {settings.replay_rows}, which has no effect",
            "This method draws rows of the dataset and online rows apart, and keeps both: leave it out.",
        )
    for name in agent.extra_fields:
        if name not in EXTRA_FIELDS:
            raise unknown("extra field", name, list(EXTRA_FIELDS))


def _require_without_environment(settings: Settings, task: Task, stage: str) -> None:
    if stage == "online":
        raise UserError(
            f"{task.name} is not trained online: it has no environment, but a dataset alone",
            "Leave it out of the tasks of `online`; its offline stage is scored by an estimate: docs/off_policy.md.",
        )
    horizon, stopping = getattr(settings, "horizon", 1), settings.early_stopping
    require("horizon", horizon, horizon == 1, "1 on tasks without an environment: off-policy evaluation is of steps")
    require("early_stopping", stopping, stopping == 0, "0 on tasks without an environment, scored once, at the end")


def _example(kind: type[Agent], settings: Settings, task: Task) -> Agent | type[Agent]:
    """An agent of these settings, which knows what they decide; its class, where the example cannot be made.

    The trainer, which has the data's sizes and torch, makes it in any case.
    """
    try:
        return kind(settings, _IMAGES if task.pixels else _OBSERVATIONS, _ACTION_DIM)
    except Exception:
        return kind


@once
def _declaring(agent: str) -> type[Agent]:
    """The class of an agent, or one with its declarations alone where its code may not run."""
    return agent_class(agent) if may_run(agent) else _read(agent)


@once
def unrun_checks(agent: str) -> Path | None:
    """The file of an agent whose own checks of its settings are left to the trainer; None where none are.

    Raises:
        UserError: there is no such agent, or its file cannot be read.
    """
    left = not may_run(agent) and has_own_checks(_read(agent).settings_type)
    return agent_file(agent) if left else None


def _read(agent: str) -> type[Agent]:
    path = agent_file(agent)
    code = agent_code(path)
    # Its bases are the project's, which import torch.
    return without_torch(lambda: _read_once(path, code, isinstance(sys.modules["torch"], Placeholder)))


@cache
def _read_once(path: Path, code: str, placeholder: bool) -> type[Agent]:
    return _declared(read_agent(path, code), path)


def _declared(kind: type[Agent], path: Path) -> type[Agent]:
    """A class whose declarations are such as the trainer reads.

    Raises:
        UserError: they are not.
    """
    where = f"{path}: {kind.__name__}"
    settings: Any = getattr(kind, "settings_type", None)
    if not (isinstance(settings, type) and issubclass(settings, Settings)):
        raise UserError(
            f"{where} has no settings_type", "Set it in the class to that of its settings, a subclass of Settings."
        )
    if "__annotations__" in vars(settings) and "__dataclass_fields__" not in vars(settings):
        raise UserError(
            f"{path}: {settings.__name__} is no dataclass, so that its settings are not known",
            "Write @dataclass(frozen=True, kw_only=True) above it.",
        )
    known: dict[str, Sequence[str]] = {"stages": STAGES, "extra_fields": EXTRA_FIELDS}
    for name, values in known.items():
        found: Any = getattr(kind, name)
        if isinstance(found, Placeholder):
            continue
        if isinstance(found, str) or not isinstance(found, Sequence):
            example = found if found in values else values[0]
            expected = f"It is a tuple out of {', '.join(values)}, of one with a comma after it: ({example!r},)."
            raise UserError(f"{where}: {name} is {found!r}", expected)
        if unknowns := [one for one in found if one not in values]:
            raise unknown("name", unknowns[0], list(values), f"{where}: {name}")
    return kind


def agent_class(agent: str) -> type[Agent]:
    """The class of an agent, whose file is run; without torch one whose declarations can be used, and no more.

    Raises:
        UserError: there is no such agent, or its file cannot be run here.
    """
    path = agent_file(agent)
    return without_torch(lambda: _loaded(agent, path, agent_code(path), isinstance(sys.modules["torch"], Placeholder)))


@cache
def _loaded(agent: str, path: Path, code: str, placeholder: bool) -> type[Agent]:
    """The class by `load_agent`, anew for other code, and when torch takes its placeholder's place."""
    found: type[Agent] = import_module("mfql.agents.interface").load_agent(agent)
    return _declared(found, path)


def agent_stages(agent: str) -> tuple[str, ...]:
    """The stages that an agent has.

    Raises:
        UserError: there is no such agent, or its file cannot be run here.
    """
    return _declaring(agent).stages


@once
def declared_version(agent: str) -> int:
    """The training version of an agent: its own, raised by what those of the agents it is derived from exceed 1.

    Of several classes of the agent's own file the one that is derived from the others counts.

    Raises:
        UserError: there is no such agent, or its file cannot be run here.
    """
    lineage = _declaring(agent).__mro__
    of_file = [cls for cls in lineage if cls.__module__ == lineage[0].__module__]
    versions = [vars(cls)["training_version"] for cls in of_file if "training_version" in vars(cls)] or [1]
    return int(versions[0]) + sum(vars(cls).get("training_version", 1) - 1 for cls in lineage if cls not in of_file)


def training_version(agent: str) -> list[int]:
    """The declared versions of the shared training code and of a method's own.

    What the agents that it is derived from are raised by is added to its own, so that a raise of theirs counts.

    Raises:
        UserError: there is no such agent, or its file cannot be run here.
    """
    return [TRAINING_VERSION, declared_version(agent)]
