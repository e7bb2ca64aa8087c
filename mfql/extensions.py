"""Folders outside the project that add to it, each laid out as the project's own.

    tasks.csv            tasks: rows of the task table
    methods/NAME.yaml    methods
    agents/NAME.py       code of methods

They are known to a process and to all that it starts by the variable MFQL_EXTENSIONS, a search path like PYTHONPATH.
How Python processes are started that find the same modules is here too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mfql.errors import UserError, unknown
from mfql.files import expanded, read_yaml, there

VARIABLE = "MFQL_EXTENSIONS"
TASKS, METHODS, AGENTS = "tasks.csv", "methods", "agents"
# What is said of a name that is nowhere, where nothing extends the project.
NONE_NAMED = ", and no extension is named (--extension DIR)"
_AGENTS = Path(__file__).parent / AGENTS
_ROOT = Path(__file__).parents[1]


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


def search_path() -> list[str]:
    """Where a Python process that this one starts is to look for modules: as here, but last in the current folder.

    A `numpy.py` that lies there must not stand in for the package, nor a folder `mfql` for the project. What was made
    with this project's name elsewhere does not come before this one either.
    """
    current = os.getcwd()
    here = [entry for entry in sys.path if (entry or current) == current]
    places = [entry for entry in sys.path if entry not in here]
    others = (at for at, entry in enumerate(places) if os.path.isdir(os.path.join(entry, "mfql")))
    places.insert(next(others, len(places)), str(_ROOT))
    return [*places, *[entry or current for entry in here]]


def module_command(name: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """How to run a module as a Python process of its own: the command, and what is to be set in its environment."""
    # Without -P the current folder would come first.
    return [sys.executable, "-P", "-m", name, *arguments], {"PYTHONPATH": os.pathsep.join(search_path())}


@contextmanager
def safe_processes() -> Iterator[None]:
    """Within the block, what `multiprocessing` starts looks for modules in `search_path()`, from its first line on."""
    variable, path = "PYTHONSAFEPATH", sys.path[:]
    before = os.environ.get(variable)
    os.environ[variable], sys.path[:] = "1", search_path()
    try:
        yield
    finally:
        sys.path[:] = path
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


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
        known = [file.stem for file in _AGENTS.glob("*.py") if "settings_type = " in file.read_text(encoding="utf-8")]
        raise unknown("agent", agent, [*known, "a path to a .py file"])
    return found


def files(kind: str) -> list[Path]:
    """The files of all extensions that match a pattern, such as `methods/*.yaml`."""
    return sorted(file for folder in extensions() for file in folder.glob(kind))


def method_names(config_dir: str | Path) -> list[str]:
    """The names of all files of methods, in the configuration's folder and the extensions."""
    return [file.stem for file in [*(Path(config_dir) / METHODS).glob("*.yaml"), *files(f"{METHODS}/*.yaml")]]


def tables() -> list[Path]:
    """The tables of all extensions that reports read: of tasks, and those that methods name for their settings."""
    named = [folder / table for folder in extensions() for table in _settings_tables(folder)]
    return sorted({*files(TASKS), *(path for path in named if path.is_file())})


def _settings_tables(folder: Path) -> Iterable[str]:
    for path in folder.glob(f"{METHODS}/*.yaml"):
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
