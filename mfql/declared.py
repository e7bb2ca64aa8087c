"""A method's settings with their defaults, read from its file without running it: a launcher need not have torch."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field, make_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mfql.settings import STAGES, Settings, agent_file, build_settings, declared_version, method_file, raw_settings

_PACKAGE = Path(__file__).parent


def declared_settings(method: str, task: str, stage: str, config_dir: str | Path = "config") -> tuple[str, Settings]:
    """The agent of a method and every setting of one task and stage, as a run has them.

    A method's own checks of ranges are not run.

    Raises:
        UserError: unknown method, task or stage, an unknown or missing setting, or a wrong type.
    """
    raw = raw_settings(method, task, stage, config_dir)
    agent = raw.pop("agent")
    where = f"method {method} ({method_file(method, config_dir)}), stage {stage}"
    return agent, build_settings(settings_type(agent), raw, where)


def settings_type(agent: str) -> type[Settings]:
    """A settings class with the fields and defaults of the agent's own.

    Where they cannot be read, because a default is computed or a base class is not in a file of this package, the
    agent's file is run after all, which needs torch.
    """
    path = agent_file(agent)
    found = _read(path, path.read_text())
    if found is not None:
        return found
    from mfql.agents.interface import load_agent

    return load_agent(agent).settings_type


def declared_class(path: Path, name: str) -> type[Settings]:
    """A settings class of a file of this package, with the fields and defaults that it declares or inherits.

    Raises:
        ValueError: they cannot be read without running the file.
    """
    found = _build(list(_Source.of(path).lineage(name)))
    if found is None:
        raise ValueError(f"the defaults of {name} in {path} are computed, or a base of it is not in a file of mfql")
    return found


def agent_stages(agent: str) -> tuple[str, ...]:
    """The stages that an agent's class declares, or a base of it; all, where none does.

    Raises:
        UserError: there is no such agent.
    """
    path = agent_file(agent)
    return _stages(path, path.read_text())


@cache
def _stages(path: Path, code: str) -> tuple[str, ...]:
    source = _Source(path, ast.parse(code))
    for name in source.agents():
        for _, cls in source.lineage(name):
            for node in cls.body:
                if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Tuple):
                    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                    if ast.unparse(target) == "stages":
                        return tuple(map(str, ast.literal_eval(node.value)))
    return STAGES


def raised_by_bases(agent: str) -> int:
    """By how much the declared training versions of the agents that an agent is derived from exceed 1, added up.

    Where its bases cannot be read, because one is not in a file of this package, the agent's file is run after all,
    which needs torch.

    Raises:
        UserError: there is no such agent.
    """
    path = agent_file(agent)
    found = _raised_by_bases(path, path.read_text())
    if found is not None:
        return found
    from mfql.agents.interface import load_agent

    versions = [vars(cls).get("training_version", 1) for cls in load_agent(agent).__mro__[1:]]
    return sum(version - 1 for version in versions)


@cache
def _raised_by_bases(path: Path, code: str) -> int | None:
    source = _Source(path, ast.parse(code))
    for name in source.agents():
        bases = {(origin.path, cls.name): cls for origin, cls in source.lineage(name) if origin.path != path}
        return sum(declared_version(cls) - 1 for cls in bases.values())
    return None


@cache
def _read(path: Path, code: str) -> type[Settings] | None:
    source = _Source(path, ast.parse(code))
    return next((_settings_of(source, name) for name in source.agents()), None)


def _settings_of(source: _Source, agent: str) -> type[Settings] | None:
    for origin, cls in source.lineage(agent):
        for node in cls.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "settings_type":
                return _build(list(origin.lineage(ast.unparse(node.value))))
    return None


def _build(lineage: list[tuple[_Source, ast.ClassDef]]) -> type[Settings] | None:
    """A dataclass of the fields of all classes between the first and `Settings`."""
    names = [cls.name for _, cls in lineage]
    if Settings.__name__ not in names:
        return None
    declared: dict[str, tuple[str, str] | tuple[str, str, Any]] = {}
    for _, cls in reversed(lineage[: names.index(Settings.__name__)]):
        for node in cls.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                name, kind = node.target.id, ast.unparse(node.annotation)
                if node.value is None:
                    declared[name] = (name, kind)
                    continue
                try:
                    declared[name] = (name, kind, field(default=ast.literal_eval(node.value)))
                except ValueError:
                    return None
    made = make_dataclass(names[0], list(declared.values()), bases=(Settings,), frozen=True, kw_only=True)
    # Where the annotations' names are looked up. Set afterwards: from Python 3.12 on `make_dataclass` puts its caller's
    # module over one in `namespace`, and 3.11 has no argument for it.
    made.__module__ = Settings.__module__
    return made


@dataclass(frozen=True)
class _Source:
    """A parsed file of code."""

    path: Path
    tree: ast.Module

    @classmethod
    def of(cls, path: Path) -> _Source:
        return cls(path, ast.parse(path.read_text()))

    def agents(self) -> Iterator[str]:
        """The names of the agents' classes in it."""
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef) and any(cls.name == "Agent" for _, cls in self.lineage(node.name)):
                yield node.name

    def lineage(self, name: str) -> Iterator[tuple[_Source, ast.ClassDef]]:
        """A class and its bases, as far as they are in files of this package, each with its file."""
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                yield self, node
                for base in node.bases:
                    yield from self.lineage(ast.unparse(base))
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mfql."):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        module = _PACKAGE.joinpath(*str(node.module).split(".")[1:]).with_suffix(".py")
                        yield from _Source.of(module).lineage(alias.name)
