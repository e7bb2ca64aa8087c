"""Where the project's own files lie, and folders outside it that add to it, each laid out as its own.

    tasks.csv            tasks: rows of the task table
    methods/NAME.yaml    methods
    agents/NAME.py       code of methods

They are known to a process and to all that it starts by the variable MFQL_EXTENSIONS, a search path like PYTHONPATH.
Their code runs where something is trained, evaluated or generated with it; elsewhere that of the folders alone which
MFQL_TRUSTED names.
How Python processes are started that find the same modules is here too.
"""

from __future__ import annotations

import ast
import fcntl
import json
import os
import re
import select
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, wraps
from importlib import metadata
from importlib.machinery import all_suffixes
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from mfql.documents import read_text, read_yaml
from mfql.errors import UserError, unknown
from mfql.files import expanded, files_below, listed, reading, sha256, there

VARIABLE, TRUSTED = "MFQL_EXTENSIONS", "MFQL_TRUSTED"
TASKS, METHODS, AGENTS, ABLATIONS = "tasks.csv", "methods", "agents", "ablations.yaml"
# What is said of a name that is nowhere, where nothing extends the project.
NONE_NAMED = ", and no extension is named (--extension DIR)"
_AGENTS = Path(__file__).parent / AGENTS
_ROOT = Path(__file__).parents[1]
# The folder that has `config/`, `published/`, `workflow/` and the fixtures of released code as a checkout has them: the
# checkout itself, or in an installed package what setup.py has put there.
_SHIPPED = Path(__file__).parent / "project"
IS_INSTALLED = _SHIPPED.is_dir()
PROJECT = _SHIPPED if IS_INSTALLED else _ROOT
# Whether a folder of this name is of this project's kind, what is in it tells: where datasets are fetched it may have a
# file of checksums alone.
_CONFIG = Path("config")
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
# How many callers of `running_code` there are now.
_running = 0
# What functions under `once` have found since `keep_what_is_read`; None outside.
_kept: dict[Any, Any] | None = None
P = ParamSpec("P")
T = TypeVar("T")
# Packages whose versions every manifest has.
_OF_EVERY_RUN = frozenset({"gymnasium", "mujoco", "ogbench", "mfql"})
# Where the modules of a folder have nothing to do with each other.
_SHARED = frozenset(sysconfig.get_paths().values())
# What a text in an environment's code does not name of a folder: the disk's top, and what else an extension holds.
_NO_PART, _LONGEST = frozenset({os.sep, "..", TASKS, METHODS, AGENTS, "results", "logs"}), 200
_DATA = frozenset({".npz", ".hdf5", ".h5"})
# `module:name`, as Gymnasium is told where an environment's class is.
_ENTRY_POINT = re.compile(r"([A-Za-z_]\w*)(?:\.\w+)*:[A-Za-z_]\w*")


def extend(folders: Iterable[str | Path]) -> None:
    """Make these folders the extensions of this process and of those that it starts.

    Args:
        folders: none leaves those that the variable names.

    Raises:
        UserError: one is absent, or holds nothing that extends.
    """
    paths = [Path(expanded(folder, "extensions")).absolute() for folder in folders]
    for path in paths:
        if not any(there(path / name) for name in (TASKS, METHODS, AGENTS, ABLATIONS)):
            raise UserError(
                f"{path} is no extension: it has neither {TASKS} nor {METHODS} nor {AGENTS} nor {ABLATIONS}",
                "Name the folder that holds them; docs/extend.md shows one.",
            )
    if paths:
        os.environ[VARIABLE] = os.pathsep.join(map(str, dict.fromkeys(paths)))


def extensions() -> list[Path]:
    """The folders that extend this process."""
    return [Path(expanded(folder, VARIABLE)) for folder in os.environ.get(VARIABLE, "").split(os.pathsep) if folder]


def project_path(path: str | Path, project: str | Path = PROJECT) -> Path:
    """Where a file or folder lies that is named as in a checkout, such as `config` or `config/quickstart.yaml`.

    What is in the current folder goes first; `config` itself only if it has a task table, and
    then it counts as a whole.

    Args:
        project: the folder of a checkout, or what stands for one.

    Returns:
        The path as it is given if it is here, or if the project has none of this name either; else the relative path
        to the project's.
    """
    given = Path(path)
    own = Path(project, given)
    if there(given / TASKS if given == _CONFIG else given) or not there(own):
        return given
    return Path(os.path.relpath(own))


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


def start_module(name: str, arguments: Sequence[str], passed: Sequence[int]) -> tuple[subprocess.Popen[bytes], int]:
    """Run a module as a process of its own, on one core, that ends when this one does, however that happens.

    Args:
        name: of a module that calls `end_with_parent` with its last argument.
        arguments: come first; after them come the descriptors that it gets.
        passed: those descriptors, before the one of `end_with_parent`.

    Returns:
        the process, and a descriptor to be closed after it.
    """
    lives, kept = os.pipe()  # The process's end, and that which closes when this process ends.
    command, variables = module_command(name, *arguments, *map(str, (*passed, lives)))
    # A scheduler sends SIGTERM to every process of a job. It is for the parent, which saves and ends what it started:
    # in that, which inherits the mask, it stays blocked.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        process = subprocess.Popen(
            command,
            env=os.environ | _ONE_THREAD | variables,
            pass_fds=(*passed, lives),
            stdin=subprocess.DEVNULL,
            process_group=0,  # Nor is a terminal's interrupt for it.
        )
    except BaseException:
        os.close(kept)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.close(lives)
    return process, kept


def end_with_parent(lives: int) -> None:
    """Have the system end this process, whatever it does, when a pipe's last writer is gone: by default SIGIO does.

    Args:
        lives: the end for reading; nothing is ever written.
    """
    fcntl.fcntl(lives, fcntl.F_SETOWN, -os.getpgrp())  # Also what environments started, a simulator perhaps.
    fcntl.fcntl(lives, fcntl.F_SETFL, fcntl.fcntl(lives, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lives], [], [], 0.0)[0]:  # The parent was gone before.
        sys.exit(1)


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


def is_own(agent: str) -> bool:
    """Whether an agent is none of the project's.

    Raises:
        UserError: there is no such agent.
    """
    return agent_file(agent).parent != _AGENTS


def is_trusted(file: Path) -> bool:
    """Whether a file's code may run in order to plan or list: it lies, links followed, in a folder that is trusted."""
    folders = [Path(expanded(one, TRUSTED)) for one in os.environ.get(TRUSTED, "").split(os.pathsep) if one]
    return any(file.resolve().is_relative_to(folder.resolve()) for folder in folders)


def may_run(agent: str) -> bool:
    """Whether the code of an agent may run here: the project's, trusted code, and any within `running_code`.

    Raises:
        UserError: there is no such agent.
    """
    return _running > 0 or not is_own(agent) or is_trusted(agent_file(agent))


@contextmanager
def running_code() -> Iterator[None]:
    """What trains or evaluates runs the code of extensions, and reads what it declares from it."""
    global _running
    _running += 1
    try:
        yield
    finally:
        _running -= 1


def once(function: Callable[P, T]) -> Callable[P, T]:
    """A function of what the files of configuration and extensions say, which within `reading_once` is called once.

    Of thousands of runs a few hundred have settings of their own, and reading these is dear. What it returns is shared.
    """

    @wraps(function)
    def asked(*arguments: P.args, **named: P.kwargs) -> T:
        if _kept is None:
            return function(*arguments, **named)
        # What there is to read, and whose code may run; settings read beside the placeholder of torch are others'.
        places = os.getcwd(), os.environ.get(VARIABLE), os.environ.get(TRUSTED)
        given = [str(one) if isinstance(one, Path) else one for one in arguments]
        key = function, *given, *sorted(named.items()), *places, _running > 0, type(sys.modules.get("torch"))
        if key not in _kept:
            _kept[key] = function(*arguments, **named)
        found: T = _kept[key]
        return found

    return asked


def keep_what_is_read() -> None:
    """From now on what is asked of files under `once` is what they said at the first look, as for a launch's jobs."""
    global _kept
    _kept = {} if _kept is None else _kept


@contextmanager
def reading_once() -> Iterator[None]:
    """Within the block what is asked of files under `once` is what they said at the first look."""
    global _kept
    before = _kept
    keep_what_is_read()
    try:
        yield
    finally:
        _kept = before


def find(config_dir: str | Path, name: str) -> Path:
    """A file of the configuration's folder, such as `methods/mfql.yaml`, or of an extension.

    Returns:
        Where it is; in the configuration's folder if it is nowhere.

    Raises:
        UserError: two folders have it.
    """
    places = [project_path(config_dir) / name, *(folder / name for folder in extensions())]
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
    return [file.stem for file in method_files(project_path(config_dir), *extensions())]


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


# What code is made of: `files`, the sha256 of each by its name, and `packages`, the version of each by its name.
Code = dict[str, dict[str, str]]


def environment_code(env_id: str, folders: Iterable[Path]) -> Code | None:
    """What makes an environment another one under the same id, told without running any of it.

    Of a module that no package has installed, or that one has as a link to where it is worked on, these are its file
    and those beside it that it imports or names in a text of its own, as an `entry_point` or a model's file, and what
    these name in turn; of a package's folder all files. Of a package that is installed it is its version. Packages
    that every manifest names are not named again.

    Args:
        env_id: as `gymnasium.make` takes it.
        folders: that modules are looked for in first.

    Returns:
        None where the module is not to be found here.

    Raises:
        CannotRead: the system does not let a file be read.
    """
    module, named, name = env_id.rpartition(":")
    module = module.partition(".")[0]
    if not named:
        return _of_plugin(name)
    for folder in folders:
        if _module(folder, module):
            return {"files": _files(folder, module), "packages": {}}
    return _of_package(module)


def _of_plugin(env_id: str) -> Code:
    """Of the package that Gymnasium itself imports for ids that begin with `NAME/`."""
    namespace, slash, _ = env_id.rpartition("/")
    points = metadata.entry_points(group="gymnasium.envs", name=namespace) if slash else ()
    found = {point.dist.name: point.dist.version for point in points if point.dist is not None}
    return {"files": {}, "packages": found}


def _of_package(module: str) -> Code | None:
    if module in _OF_EVERY_RUN:
        return {"files": {}, "packages": {}}
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not (spec.origin or spec.submodule_search_locations):
        return None
    installed = [metadata.distribution(name) for name in _distributions().get(module, ())]
    if installed and not any(map(_is_editable, installed)):
        return {"files": {}, "packages": {found.name: found.version for found in installed}}
    folder = Path(next(iter(spec.submodule_search_locations or ()), spec.origin or "")).parent
    return {"files": _files(folder, module), "packages": {}} if str(folder) not in _SHARED else None


@cache
def _distributions() -> dict[str, list[str]]:
    return {module: sorted(set(names)) for module, names in metadata.packages_distributions().items()}


def _is_editable(installed: metadata.Distribution) -> bool:
    """Whether what is installed is a link to a folder in which it is worked on, whatever its version says."""
    try:
        told = json.loads(installed.read_text("direct_url.json") or "{}")
        return bool(told.get("dir_info", {}).get("editable", False))
    except (ValueError, AttributeError, TypeError):
        return False


def imported_packages(code: Code | None, folders: Iterable[Path]) -> dict[str, str]:
    """The versions of installed packages that an environment's files import, by their names.

    Args:
        code: what the environment is made of.
        folders: that its files lie in.
    """
    files = [folder / name for folder in folders for name in (code or {}).get("files", {}) if name.endswith(".py")]
    modules = {module for file in files if file.is_file() for module in _names_in(file.read_bytes())[0]}
    names = {name for module in modules for name in _distributions().get(module, ())}
    return {name.lower(): metadata.version(name) for name in sorted(names)}


def _files(folder: Path, module: str) -> dict[str, str]:
    """The sha256 of each file that a module in a folder is made of, by its name in there."""
    found: dict[Path, None] = {}
    waiting = _module(folder, module)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found[path] = None
            waiting += _named(folder, path)
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(found)}


def _module(folder: Path, name: str) -> list[Path]:
    """The file of a module in a folder, or those of a package; none where there is neither."""
    if there(folder / name / "__init__.py"):
        return _all(folder / name)
    return [path for path in (folder / f"{name}{suffix}" for suffix in all_suffixes()) if path.is_file()]


def _all(folder: Path) -> list[Path]:
    """The files of a folder that people put there."""
    found, hidden = files_below(folder)
    if hidden:
        raise hidden[0]

    def written(path: Path) -> bool:
        parts = path.relative_to(folder).parts
        return path.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in parts)

    return [path for path in found if written(path)]


def _named(folder: Path, path: Path) -> list[Path]:
    """What a file names of what lies in the folder: modules, files and folders of files."""
    if path.suffix != ".py":
        return []
    with reading(path):
        modules, texts = _names_in(path.read_bytes())
    found = [file for module in modules for file in _module(folder, module)]
    for place in (beside / text for text in texts for beside in {folder, path.parent}):
        if os.path.isfile(place):  # A text may be longer than any file's name.
            found.append(place)
        elif os.path.isdir(place) and not any(child.suffix in _DATA for child in place.iterdir()):
            found += _all(place)
    return found


def _may_name(text: str) -> bool:
    """Whether a text may name a file or a folder beside its own; not one that is no part of an environment."""
    parts = Path(text).parts if 0 < len(text) < _LONGEST and text.isprintable() else ()
    return bool(parts) and not any(part in _NO_PART or part.startswith(".") for part in parts)


@cache
def _names_in(code: bytes) -> tuple[frozenset[str], frozenset[str]]:
    """The modules that Python's code imports or names as entry points, and its texts that may name a file."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset(), frozenset()  # Whoever imports it is told.
    modules, texts = set[str](), set[str]()
    for node in ast.walk(tree):
        modules |= set(_imported(node))
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            entry = _ENTRY_POINT.fullmatch(node.value)
            modules |= {entry[1]} if entry else set()
            texts |= {node.value} if _may_name(node.value) and re.search(r"[./]", node.value) else set()
        texts |= {text for text in _joined(node) if _may_name(text)}
    return frozenset(modules), frozenset(texts)


def _joined(node: ast.AST) -> Iterator[str]:
    """The texts that an expression joins to a path: without a point or a slash any other word may name a folder."""
    parts: list[ast.expr] = []
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        parts = [node.left, node.right]
    elif isinstance(node, ast.Call):
        function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        parts = node.args if function in ("join", "joinpath", "Path") else []
    yield from (part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str))


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module.partition(".")[0]
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if function in ("import_module", "__import__") and isinstance(node.args[0].value, str):
            yield node.args[0].value.partition(".")[0]
