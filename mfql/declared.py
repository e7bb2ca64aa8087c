"""What a method's agent declares: its settings with their checks, its stages and its version, as the trainer has them.

A launcher need not have torch: see `mfql.placeholder`.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mfql.errors import UserError, unknown
from mfql.extensions import agent_code, agent_file
from mfql.placeholder import NeedsTorch, Placeholder, without_torch
from mfql.settings import Settings, build_settings, require
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
        UserError: there is no such agent, or its file cannot be run here; an unknown or missing setting; a value of a
            wrong type, out of range or without effect; or what is not to be had on this task or in this stage.
    """

    def checked() -> Settings:
        kind = agent_class(agent)
        settings = build_settings(kind.settings_type, values, where)
        for key, value in vars(settings).items():
            if isinstance(value, Placeholder):
                raise NeedsTorch(f"the default of the setting {key} is {value.__name__}")
        try:
            require_trainable(kind, settings, task, stage)
            require_trainable(_example(kind, settings, task), settings, task, stage)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        return settings

    return without_torch(checked)


def require_trainable(agent: Agent | type[Agent], settings: Settings, task: Task, stage: str) -> None:
    """Refuse what every setting allows by itself, but not this method on this task in this stage.

    Args:
        agent: of the settings, or its class, which may not know yet what its settings decide.
    """
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
    if stage == "online" and settings.replay_rows and agent.online_share is not None:
        raise UserError(
            f"setting replay_rows is {settings.replay_rows}, which has no effect",
            "This method draws rows of the dataset and online rows apart, and keeps both: leave it out.",
        )
    for name in agent.extra_fields:
        if name not in EXTRA_FIELDS:
            raise unknown("extra field", name, list(EXTRA_FIELDS))


def _example(kind: type[Agent], settings: Settings, task: Task) -> Agent | type[Agent]:
    """An agent of these settings, which knows what they decide; its class, where the example cannot be made.

    The trainer, which has the data's sizes and torch, makes it in any case.
    """
    try:
        return kind(settings, _IMAGES if task.pixels else _OBSERVATIONS, _ACTION_DIM)
    except Exception:
        return kind


def agent_class(agent: str) -> type[Agent]:
    """The class of an agent; without torch one whose declarations can be used, and no more.

    Raises:
        UserError: there is no such agent, or its file cannot be run here.
    """
    path = agent_file(agent)
    return without_torch(lambda: _loaded(agent, path, agent_code(path), isinstance(sys.modules["torch"], Placeholder)))


@cache
def _loaded(agent: str, path: Path, code: str, placeholder: bool) -> type[Agent]:
    """The class by `load_agent`, anew for other code, and when torch takes its placeholder's place."""
    found: type[Agent] = import_module("mfql.agents.interface").load_agent(agent)
    return found


def agent_stages(agent: str) -> tuple[str, ...]:
    """The stages that an agent has.

    Raises:
        UserError: there is no such agent, or its file cannot be run here.
    """
    return agent_class(agent).stages


def declared_version(agent: str) -> int:
    """The training version of an agent: its own, raised by what those of the agents it is derived from exceed 1.

    Of several classes of the agent's own file the one that is derived from the others counts.

    Raises:
        UserError: there is no such agent, or its file cannot be run here.
    """
    lineage = agent_class(agent).__mro__
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
