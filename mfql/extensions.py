"""Folders outside the project that add to it, each laid out as the project's own.

    tasks.csv            tasks: rows of the task table
    methods/NAME.yaml    methods
    agents/NAME.py       code of methods

They are known to a process and to all that it starts by the variable MFQL_EXTENSIONS, a search path like PYTHONPATH.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from mfql.errors import UserError, unknown
from mfql.files import expanded, listed, read_text, read_yaml, there

VARIABLE = "MFQL_EXTENSIONS"
TASKS, METHODS, AGENTS = "tasks.csv", "methods", "agents"
# What is said of a name that is nowhere, where nothing extends the project.
NONE_NAMED = ", and no extension is named (--extension DIR)"
_AGENTS = Path(__file__).parent / AGENTS


def extend(folders: Iterable[str | Path]) -> None:
    """Make these folders the extensions of this process and of those that it starts.

    Args:
        folders: none leaves those that the variable names.

    Raises:
        UserError: one is absent, or holds nothing that extends.
    """
    paths = [Path(expanded(folder, "extensions")).absolute() for folder in folders]
    for path in paths:
        if not any(there(path / name) for name in (TASKS, METHODS, AGENTS)):
            raise UserError(
                f"{path} is no extension: it has neither {TASKS} nor {METHODS} nor {AGENTS}",
                "Name the folder that holds them; docs/extend.md shows one.",
            )
    if paths:
        os.environ[VARIABLE] = os.pathsep.join(map(str, dict.fromkeys(paths)))


def extensions() -> list[Path]:
    """The folders that extend this process."""
    return [Path(expanded(folder, VARIABLE)) for folder in os.environ.get(VARIABLE, "").split(os.pathsep) if folder]


def find(config_dir: str | Path, name: str) -> Path:
    """A file of the configuration's folder, such as `methods/mfql.yaml`, or of an extension.

    Returns:
        Where it is; in the configuration's folder if it is nowhere.

    Raises:
        UserError: two folders have it.
    """
    places = [Path(config_dir) / name, *(folder / name for folder in extensions())]
    return _only([place for place in places if place.is_file()]) or places[0]


def agent_file(agent: str) -> Path:
    """The file of an agent: `mfql/agents/NAME.py`, `agents/NAME.py` of an extension, or a path to a Python file.

    Raises:
        UserError: there is no such file, or two folders have it.
    """
    folders = [_AGENTS, *(folder / AGENTS for folder in extensions())]
    places = (
        [Path(expanded(agent, "agent"))] if agent.endswith(".py") else [folder / f"{agent}.py" for folder in folders]
    )
    found = _only([place for place in places if place.is_file()])
    if found is None:
        known = [file.stem for file in _AGENTS.glob("*.py") if "settings_type = " in agent_code(file)]
        raise unknown("agent", agent, [*known, "a path to a .py file"])
    return found


def agent_code(path: Path) -> str:
    """What an agent's file says.

    Raises:
        UserError: it cannot be read, or is in another encoding than UTF-8.
    """
    return read_text(path, "An agent is a text of Python.")


def task_tables() -> list[Path]:
    """The task tables of all extensions.

    Raises:
        CannotRead: an extension does not let that be seen.
    """
    return sorted(folder / TASKS for folder in extensions() if there(folder / TASKS))


def method_files(*folders: str | Path) -> list[Path]:
    """The files of methods of folders that are laid out as an extension, of each by name.

    Raises:
        CannotRead: a folder does not let that be seen.
    """
    return [file for folder in folders for file in listed(Path(folder) / METHODS) if file.suffix == ".yaml"]


def method_names(config_dir: str | Path) -> list[str]:
    """The names of all files of methods, in the configuration's folder and the extensions.

    Raises:
        CannotRead: as of `method_files`.
    """
    return [file.stem for file in method_files(config_dir, *extensions())]


def tables() -> list[Path]:
    """The tables of all extensions that reports read: of tasks, and those that methods name for their settings."""
    named = [folder / table for folder in extensions() for table in _settings_tables(folder)]
    return sorted({*task_tables(), *(path for path in named if path.is_file())})


def _settings_tables(folder: Path) -> Iterable[str]:
    for path in method_files(folder):
        try:
            document = read_yaml(path, "")
        except UserError:
            continue  # Who uses the method is told.
        if isinstance(document, dict) and isinstance(document.get("table"), str):
            yield os.path.expandvars(os.path.expanduser(document["table"]))


def _only(found: list[Path]) -> Path | None:
    if len(found) > 1:
        raise UserError(
            f"{found[0]} and {found[1]} have the same name", "Rename one: a name stands for one thing in all results."
        )
    return found[0] if found else None
