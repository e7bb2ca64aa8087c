"""Files that import torch, run without it: a launcher reads the settings that they declare, and checks them.

A placeholder stands for torch and all of its modules, as for the imports that documentation tools mock: its attributes,
calls, items and sums are placeholders again, and classes derive from it. It answers nothing: where a file asks it for a
truth, a number or a length, `NeedsTorch` is raised, so that no value is ever made up. A machine that has torch then
imports it after all.

What is imported meanwhile and knows the placeholder is kept apart from `sys.modules`, so that a later import of torch
and of the same files is a real one.
"""

from __future__ import annotations

import sys
from abc import ABCMeta
from collections.abc import Callable
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from traceback import extract_tb
from types import FunctionType, ModuleType
from typing import Any, TypeVar

from typing_extensions import override

from mfql.errors import UserError

T = TypeVar("T")
_STANDS_FOR = "torch"
_IMPORTING = "<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>"
_ARITHMETIC = ("add", "sub", "mul", "truediv", "pow", "matmul", "and", "or")
_GIVES = (*_ARITHMETIC, *(f"r{name}" for name in _ARITHMETIC), "neg", "call", "getitem", "enter")
_ASKS = (
    "bool", "int", "index", "float", "complex", "str", "format", "len", "iter", "contains", "lt", "le",
    "gt", "ge", "instancecheck", "subclasscheck",
)  # fmt: skip


class NeedsTorch(Exception):
    """The placeholder was asked for what only torch knows."""


def _stands_for(name: str) -> bool:
    return name.partition(".")[0] == _STANDS_FOR


class _Kind(ABCMeta):
    """The class of classes derived from the placeholder: what they would inherit, such as `Function.apply`."""

    def __getattr__(cls, name: str) -> Any:
        return Placeholder(f"{cls.__module__}.{cls.__name__}").__getattr__(name)


class _Base(metaclass=_Kind):
    """What a class that derives from a class of torch derives from instead."""


class Placeholder(ModuleType):
    """Torch, a module of it, or anything that comes of them."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"the placeholder of {self.__name__} has no {name}")
        found = Placeholder(f"{self.__name__}.{name}")
        setattr(self, name, found)
        return found

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        # One base stands for all of torch's.
        return (_Base,) if next(base for base in bases if isinstance(base, Placeholder)) is self else ()

    def __exit__(self, *exception: object) -> None:
        """A block under `with`, as under `torch.no_grad()`, runs as it is."""

    def __eq__(self, other: object) -> Any:
        # `typing` compares with its own special forms whatever it is given.
        is_value = isinstance(other, Placeholder | int | float | complex | str | bytes | tuple | list | None)
        return self is other or (_ask(self) if is_value else NotImplemented)

    __hash__ = ModuleType.__hash__


def _give(self: Placeholder, *_: object, **__: object) -> Placeholder:
    return Placeholder(self.__name__)


def _ask(self: Placeholder, *_: object) -> Any:
    raise NeedsTorch(f"the value of {self.__name__} is asked for")


for _name in (*_GIVES, *_ASKS):
    setattr(Placeholder, f"__{_name}__", _give if _name in _GIVES else _ask)


class _Finder(MetaPathFinder, Loader):
    """Gives the placeholder for every import of torch or a module of it."""

    @override
    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return spec_from_loader(name, self, is_package=True) if _stands_for(name) else None

    @override
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Placeholder(spec.name)

    @override
    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


# Modules that know the placeholder, by name.
_apart: dict[str, ModuleType] = {}


def without_torch(call: Callable[[], T]) -> T:
    """What a call returns that imports files which import torch: with the placeholder, unless torch is imported anyway.

    Raises:
        UserError: raised by the call; or it needs torch itself, and there is none here.
    """
    if sys.modules.get(_STANDS_FOR) is not None:
        return call()
    try:
        return _with_placeholder(call)
    except UserError:
        raise
    except Exception as error:
        try:
            import_module(_STANDS_FOR)
        except ImportError:
            raise _unreadable(error) from error
    return call()


def _with_placeholder(call: Callable[[], T]) -> T:
    finder = _Finder()
    # An import may be blocked by None in the module's place.
    blocked = {name: sys.modules.pop(name) for name in (_STANDS_FOR,) if name in sys.modules}
    _bind()
    before = set(sys.modules)
    sys.meta_path.insert(0, finder)
    try:
        import_module(_STANDS_FOR)  # So that a call within this one sees that it is there.
        return call()
    finally:
        sys.meta_path.remove(finder)
        _set_apart({name: sys.modules[name] for name in sorted(sys.modules.keys() - before)})
        _unbind()
        sys.modules.update(blocked)


def _set_apart(imported: dict[str, ModuleType]) -> None:
    """Keep those of the modules that know the placeholder, or one that does."""
    while touched := {name: module for name, module in imported.items() if name not in _apart and _knows(name, module)}:
        _apart.update(touched)


def _knows(name: str, module: ModuleType) -> bool:
    return _stands_for(name) or any(_origin(value) in _apart for value in list(vars(module).values()))


def _origin(value: object) -> str:
    """The module that a module's value is, or comes from."""
    if isinstance(value, Placeholder):
        return _STANDS_FOR
    if isinstance(value, ModuleType):
        return value.__name__
    return value.__module__ if isinstance(value, type | FunctionType) else type(value).__module__


def _bind() -> None:
    sys.modules.update(_apart)
    for name, module in _apart.items():
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def _unbind() -> None:
    for name in _apart:
        sys.modules.pop(name, None)
    for name, module in _apart.items():
        parent, _, child = name.rpartition(".")
        if vars(sys.modules.get(parent, module)).get(child) is module:
            delattr(sys.modules[parent], child)


def _unreadable(error: Exception) -> UserError:
    """What a machine without torch says of a file that cannot be run so."""
    frames = [frame for frame in extract_tb(error.__traceback__) if frame.filename not in (__file__, *_IMPORTING)]
    where = f"{frames[-1].filename}, line {frames[-1].lineno}"
    return UserError(
        f"{where}: {type(error).__name__}: {error}; torch is not installed here",
        "Settings, their checks and what runs when a method's file is imported must do without it; functions need not.",
    )
