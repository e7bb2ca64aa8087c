"""What an agent's file declares, read without running it: settings with their defaults, stages, version.

Whoever plans, lists or looks at a study may have the extension from somebody else. So nothing of its agents' files runs
there: their text is parsed, and what it declares by plain values becomes classes like those that running it makes, with
no code of its own in them. A value that only running the code would tell is refused by name: nothing is guessed, since
hashes and identities are of these values.
"""

from __future__ import annotations

import ast
import builtins
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import new_class
from typing import Any, ClassVar, Literal, Optional

from mfql.errors import UserError
from mfql.extensions import TRUSTED
from mfql.placeholder import Placeholder
from mfql.settings import Settings

# What the name of a class's part stands for decides what is planned and trained; others are for the trainer alone.
DECLARATIONS = ("settings_type", "stages", "training_version")
_LENIENT = ("extra_fields", "online_share", "updates_per_step")
_PROJECT = "mfql"
_LARGEST = 1_000  # of what is raised to a power, and of the power
# Expressions that are evaluated, each as often as it is named: what names another twice, and that another, has no end.
_MOST_EVALUATED = 10_000
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}
_KINDS = {kind.__name__: kind for kind in (int, float, bool, str, tuple)}
_FORMS = {"Literal": Literal, "Optional": Optional, "ClassVar": ClassVar, "KW_ONLY": KW_ONLY, "Tuple": tuple}
_Function = (ast.FunctionDef, ast.AsyncFunctionDef)


class NotPlain(Exception):
    """A part of a file that is no plain value; the node says where."""

    def __init__(self, node: ast.AST, what: str) -> None:
        super().__init__(what)
        self.line = getattr(node, "lineno", 0)


def read_agent(path: Path, code: str) -> type[Any]:
    """A class with the declarations of the one agent that a file defines, made without running the file.

    Its settings class has the fields and defaults of the file's, and of the project's classes their checks; a check of
    the file's own is left to the trainer.

    Args:
        path: named in errors.
        code: the file's text.

    Raises:
        UserError: it is no Python, it does not define one agent, or what it declares is known only by running it.
    """
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        where = f"{path}, line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else str(path)
        raise UserError(f"{where}: {type(error).__name__}: {error}", "Correct the file.") from error
    try:
        return _File(path, tree).agent()
    except NotPlain as unread:
        raise UserError(
            f"{path}, line {unread.line}: {unread}, which only running the file would tell",
            "Nothing of an extension runs in order to plan or list. Write a plain value there; or, where you trust the "
            f"code, name its folder: {TRUSTED}=DIR in the environment (docs/extend.md).",
        ) from None
    except RecursionError as error:
        raise UserError(f"{path}: its expressions are nested too deeply", "Correct the file.") from error


def has_own_checks(kind: type[Settings]) -> bool:
    """Whether a settings class of `read_agent` leaves checks to the trainer."""
    return any(vars(cls).get("_left_to_trainer", False) for cls in kind.__mro__)


@dataclass(frozen=True)
class _Imported:
    """What an import statement binds: a module, or one of its names."""

    module: str
    name: str | None


class _File:
    """One file's top level: its classes, its imports, and the names that are bound to one value."""

    def __init__(self, path: Path, tree: ast.Module) -> None:
        self._path, self.module = path, f"mfql_agent_{path.stem}"
        self._tree = tree
        self._classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        self._made: dict[str, type] = {}
        self._resolving: list[str] = []
        self._evaluated = 0

    def agent(self) -> type[Any]:
        interface = import_module("mfql.agents.interface")
        made = {name: self._class(name) for name, node in self._classes.items() if self._may_be_agent(node)}
        agents = [cls for cls in made.values() if issubclass(cls, interface.Agent)]
        if len(agents) != 1:
            raise UserError(
                f"{self._path} defines {len(agents)} agents at its top level",
                "An agent's file defines one subclass of Agent, or of one of the project's agents.",
            )
        return agents[0]

    @cached_property
    def _bound(self) -> dict[str, list[ast.AST]]:
        """Every binding of a name outside of functions and classes, and every change of a class from there."""
        found: dict[str, list[ast.AST]] = {}
        for node in _outside_functions(self._tree):
            for name, is_name in _names_bound(node):
                if is_name or name in self._classes:
                    found.setdefault(name, []).append(node)
        return found

    def _may_be_agent(self, node: ast.ClassDef) -> bool:
        """Whether a class is derived from the project's Agent, through others of the file or of the project."""
        interface = import_module("mfql.agents.interface")
        waiting, seen = [*node.bases], set[str]()
        while waiting:
            base = waiting.pop()
            if isinstance(base, ast.Name) and base.id in self._classes:
                waiting += self._classes[base.id].bases if base.id not in seen else []
                seen.add(base.id)
            elif any(isinstance(found, type) and issubclass(found, interface.Agent) for found in self._known(base)):
                return True
        return False

    def _known(self, node: ast.expr) -> list[Any]:
        try:
            return [self._value(node)]
        except NotPlain:
            return []

    # --- classes ------------------------------------------------------------------------------------------------------

    def _class(self, name: str) -> type:
        node = self._classes[name]
        if name not in self._made:
            if name in self._resolving:
                raise NotPlain(node, f"class {name} is derived from itself")
            self._resolving.append(name)
            try:
                self._made[name] = self._make(node)
            finally:
                self._resolving.remove(name)
        return self._made[name]

    def _make(self, node: ast.ClassDef) -> type:
        if len(self._bound[node.name]) > 1:
            raise NotPlain(node, f"class {node.name} is bound or changed in several places")
        if node.keywords or getattr(node, "type_params", None):
            raise NotPlain(node, f"class {node.name} has a metaclass or keywords")
        bases = tuple(base for base in map(self._base, node.bases) if base is not None)
        if any(issubclass(base, Settings) for base in bases):
            return self._settings_class(node, bases)
        if node.decorator_list:
            raise NotPlain(node, f"class {node.name} is what a decorator makes of it")
        return self._built(node, bases, self._parts(node))

    def _base(self, node: ast.expr) -> type | None:
        """A base; None for one that declares nothing: of torch, or of Python's own abc and typing."""
        if isinstance(node, ast.Subscript):  # Generic[T]
            node = node.value
        target = self._imported(node)
        if target is not None and target.partition(".")[0] in ("abc", "typing", "torch"):
            return None
        found = self._value(node)
        if isinstance(found, Placeholder) or found is object:
            return None
        if not isinstance(found, type):
            raise NotPlain(node, f"the base {ast.unparse(node)} is no class of this file or of the project")
        return found

    def _built(self, node: ast.ClassDef, bases: tuple[type, ...], parts: dict[str, Any]) -> type:
        parts |= {"__module__": self.module, "__doc__": ast.get_docstring(node)}
        try:
            return new_class(node.name, bases, exec_body=lambda namespace: namespace.update(parts))
        except TypeError as error:
            raise NotPlain(node, f"class {node.name} cannot be made ({error})") from None

    def _parts(self, node: ast.ClassDef) -> dict[str, Any]:
        """The declarations in the body of an agent's class."""
        parts: dict[str, Any] = {}
        for one in node.body:
            if isinstance(one, _Function):
                if one.name in DECLARATIONS or one.name.startswith("__init_sub"):
                    raise NotPlain(one, f"{one.name} of class {node.name} is a function")
                continue
            for name, value in _assigned(one, node.name):
                if value is None:
                    continue
                if name in DECLARATIONS:
                    parts[name] = self._plain(value, f"{name} of class {node.name}", of_class=name == "settings_type")
                elif name in _LENIENT:
                    parts.update((name, found) for found in self._known(value))
        return parts

    def _settings_class(self, node: ast.ClassDef, bases: tuple[type, ...]) -> type:
        parts: dict[str, Any] = {"__annotations__": {}}
        for one in node.body:
            if isinstance(one, _Function):
                if one.name.startswith("__") or one.name == "as_dict" or one.name in parts["__annotations__"]:
                    raise NotPlain(one, f"settings are what {one.name} of class {node.name} makes of them")
                parts["_left_to_trainer"] = True
            else:
                self._add_field(one, node.name, parts)
        if not _checks_as_its_base(node, bases):
            parts["check"] = lambda self: None
        made = self._built(node, bases, parts)
        options = self._dataclass_options(node)
        try:
            return made if options is None else dataclass(**options)(made)
        except (TypeError, ValueError) as error:
            raise NotPlain(node, f"class {node.name} cannot be made ({error})") from None

    def _add_field(self, node: ast.stmt, owner: str, parts: dict[str, Any]) -> None:
        for name, value in _assigned(node, owner):
            if name.startswith("__"):
                raise NotPlain(node, f"class {owner} sets {name}")
            if isinstance(node, ast.AnnAssign):
                parts["__annotations__"][name] = self._type(node.annotation, name)
            if value is not None:
                called = isinstance(value, ast.Call) and self._imported(value.func) == "dataclasses.field"
                default = _default_of(value, name) if called and isinstance(value, ast.Call) else value
                if default is not None:
                    parts[name] = self._plain(default, f"the default of the setting {name}")

    def _dataclass_options(self, node: ast.ClassDef) -> dict[str, Any] | None:
        """The arguments of `@dataclass`; None for a class without."""
        if not node.decorator_list:
            return None
        first, *others = node.decorator_list
        call = first.func if isinstance(first, ast.Call) else first
        if others or self._imported(call) != "dataclasses.dataclass" or getattr(first, "args", None):
            raise NotPlain(first, f"class {node.name} is what a decorator makes of it")
        keywords = first.keywords if isinstance(first, ast.Call) else []
        return {str(one.arg): self._plain(one.value, "an argument of dataclass") for one in keywords}

    # --- values -------------------------------------------------------------------------------------------------------

    def _plain(self, node: ast.expr, what: str, of_class: bool = False) -> Any:
        try:
            found = self._value(node)
        except NotPlain as unread:
            if of_class:
                raise
            raise NotPlain(node, f"{what} is {ast.unparse(node)[:80]}") from unread
        if not (isinstance(found, type) and issubclass(found, Settings) if of_class else _is_plain(found)):
            raise NotPlain(node, f"{what} is {ast.unparse(node)[:80]}")
        return found

    def _value(self, node: ast.expr) -> Any:
        """The value of an expression: of constants, their arithmetic, and names of this file and of the project."""
        self._count(node)
        match node:
            case ast.Constant():
                return node.value
            case ast.Tuple() | ast.List():
                items = [self._value(item) for item in node.elts]
                return tuple(items) if isinstance(node, ast.Tuple) else items
            case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
                value = self._number(node.operand)
                return -value if isinstance(node.op, ast.USub) else value
            case ast.BinOp() if type(node.op) in _ARITHMETIC:
                return self._computed(node)
            case ast.Name():
                return self._named(node)
            case ast.Attribute() if not node.attr.startswith("__"):
                return self._attribute(node)
        raise NotPlain(node, f"{ast.unparse(node)[:80]} is computed")

    def _count(self, node: ast.expr) -> None:
        self._evaluated += 1
        if self._evaluated > _MOST_EVALUATED:
            raise NotPlain(node, f"{ast.unparse(node)[:80]} is computed of too many parts")

    def _number(self, node: ast.expr) -> Any:
        value = self._value(node)
        if type(value) not in (int, float):
            raise NotPlain(node, f"{ast.unparse(node)[:80]} is no number")
        return value

    def _computed(self, node: ast.BinOp) -> Any:
        left, right = self._number(node.left), self._number(node.right)
        if isinstance(node.op, ast.Pow) and max(abs(left), abs(right)) > _LARGEST:
            raise NotPlain(node, f"{ast.unparse(node)[:80]} is large")
        try:
            found = _ARITHMETIC[type(node.op)](left, right)
        except (ArithmeticError, ValueError):
            found = None
        if type(found) not in (int, float):  # Also a complex power.
            raise NotPlain(node, f"{ast.unparse(node)[:80]} is no number")
        return found

    def _named(self, node: ast.Name) -> Any:
        bindings = self._bound.get(node.id, [])
        if not bindings:
            if node.id in _KINDS or node.id == "object":
                return getattr(builtins, node.id)
            raise NotPlain(node, f"{node.id} is not bound at the file's top level")
        if (target := self._imported(node)) is not None:
            return _of_project(*_split(target), node)
        if node.id in self._classes:
            return self._class(node.id)
        value = self._given(node.id)
        if value is None or node.id in self._resolving:
            raise NotPlain(node, f"{node.id} is not bound to one plain value")
        self._resolving.append(node.id)
        try:
            return self._value(value)
        finally:
            self._resolving.remove(node.id)

    def _given(self, name: str) -> ast.expr | None:
        """What the one statement that binds a name gives it; None where there is no such statement."""
        bindings = self._bound.get(name, [])
        statements = [one for one in self._tree.body if isinstance(one, ast.Assign | ast.AnnAssign)]
        for one in statements if len(bindings) == 1 else []:
            targets = one.targets if isinstance(one, ast.Assign) else [one.target]
            if any(target is bindings[0] for target in targets):
                return one.value
        return None

    def _attribute(self, node: ast.Attribute) -> Any:
        target = self._imported(node)
        if target == "math.inf":
            return math.inf
        if target is not None:
            return _of_project(*_split(target), node)
        owner = self._value(node.value)
        if isinstance(owner, type) and (owner.__module__ == self.module or _is_project(owner.__module__)):
            found = getattr(owner, node.attr, None)
            if _is_plain(found) and found is not None:
                return found
        raise NotPlain(node, f"{ast.unparse(node)[:80]} is computed")

    def _imported(self, node: ast.expr) -> str | None:
        """The dotted name, from its package on, of a name that comes from one import statement; None for another."""
        if isinstance(node, ast.Attribute):
            inner = self._imported(node.value)
            return None if inner is None else f"{inner}.{node.attr}"
        if not isinstance(node, ast.Name):
            return None
        imports = [one for one in self._bound.get(node.id, []) if isinstance(one, ast.Import | ast.ImportFrom)]
        found = {_import_of(one, node.id) for one in imports}
        if len(found) != 1 or len(imports) != len(self._bound[node.id]):
            return None
        (one,) = found
        return ".".join(part for part in (one.module, one.name) if part)

    # --- types --------------------------------------------------------------------------------------------------------

    def _type(self, node: ast.expr, name: str) -> Any:
        """The type that an annotation says."""
        self._count(node)
        match node:
            case ast.Constant(value=None):
                return None
            case ast.Constant(value=str() as text):
                try:
                    return self._type(ast.parse(text, mode="eval").body, name)
                except SyntaxError:
                    raise NotPlain(node, f"the type of the setting {name}") from None
            case ast.BinOp(op=ast.BitOr()):
                left, right = self._type(node.left, name), self._type(node.right, name)
                try:
                    return left | right
                except TypeError:
                    raise NotPlain(node, f"the type of the setting {name}") from None
            case ast.Subscript():
                return self._generic(node, name)
            case ast.Name() | ast.Attribute():
                return self._named_type(node, name)
        raise NotPlain(node, f"the type of the setting {name} is {ast.unparse(node)[:80]}")

    def _named_type(self, node: ast.Name | ast.Attribute, name: str) -> Any:
        target = self._imported(node)
        package, _, form = (target or "").rpartition(".")
        if package in ("typing", "typing_extensions", "dataclasses") and form in _FORMS:
            return _FORMS[form]
        if target is not None:
            return _of_project(package, form, node)
        if isinstance(node, ast.Name) and node.id in _KINDS and node.id not in self._bound:
            return _KINDS[node.id]
        # An alias, such as Rule = Literal["mean", "min"].
        alias = self._given(node.id) if isinstance(node, ast.Name) and node.id not in self._resolving else None
        if alias is not None and isinstance(node, ast.Name):
            self._resolving.append(node.id)
            try:
                return self._type(alias, name)
            finally:
                self._resolving.remove(node.id)
        raise NotPlain(node, f"the type of the setting {name} is {ast.unparse(node)[:80]}")

    def _generic(self, node: ast.Subscript, name: str) -> Any:
        form = self._type(node.value, name)
        items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if form is Literal:
            return Literal[tuple(self._plain(item, f"the type of the setting {name}") for item in items)]
        if form not in (tuple, Optional, ClassVar):
            raise NotPlain(node, f"the type of the setting {name} is {ast.unparse(node)[:80]}")
        types = tuple(... if _is_ellipsis(item) else self._type(item, name) for item in items)
        return form[types if form is tuple else types[0]]


def _outside_functions(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a file that are not inside of a function or a class."""
    for node in ast.iter_child_nodes(tree):
        yield node
        if not isinstance(node, (*_Function, ast.ClassDef, ast.Lambda)):
            yield from _outside_functions(node)


def _names_bound(node: ast.AST) -> list[tuple[str, bool]]:
    """The names that a statement binds; with False those of which it sets or deletes a part."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [(node.name, True)]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [(alias.asname or alias.name.partition(".")[0], True) for alias in node.names]
    if isinstance(node, ast.ExceptHandler):
        return [(node.name, True)] if node.name else []
    stored = ast.Store, ast.Del
    if isinstance(node, ast.Name):
        return [(node.id, True)] if isinstance(node.ctx, stored) else []
    if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, stored):
        root: ast.AST = node
        while isinstance(root, ast.Attribute | ast.Subscript):
            root = root.value
        return [(root.id, False)] if isinstance(root, ast.Name) else []
    return []


def _assigned(node: ast.stmt, owner: str) -> list[tuple[str, ast.expr | None]]:
    """Names and values of a statement in a class's body, which must be of the kinds that declare something."""
    match node:
        case ast.Assign() if all(isinstance(target, ast.Name) for target in node.targets):
            return [(target.id, node.value) for target in node.targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name()):
            return [(node.target.id, node.value)] if isinstance(node.target, ast.Name) else []
        case ast.Pass() | ast.Expr(value=ast.Constant()):
            return []
    raise NotPlain(node, f"the body of class {owner} has more than declarations and functions")


def _checks_as_its_base(node: ast.ClassDef, bases: tuple[type, ...]) -> bool:
    """Whether the check of a class's bases holds for it: it calls that, and defines nothing that would change it."""
    functions = {one.name: one for one in node.body if isinstance(one, _Function)}
    if any(name != "check" and hasattr(base, name) for name in functions for base in bases):
        return False
    called = "super().check()"
    return "check" not in functions or any(ast.unparse(one) == called for one in functions["check"].body)


def _default_of(call: ast.Call, name: str) -> ast.expr | None:
    """What `field(default=...)` gives; None where it gives none."""
    said = {one.arg: one.value for one in call.keywords}
    if call.args or not said.keys() <= {"default", "repr", "compare", "hash", "kw_only", "metadata", "doc"}:
        raise NotPlain(call, f"the default of the setting {name} is {ast.unparse(call)[:80]}")
    return said.get("default")


def _import_of(node: ast.Import | ast.ImportFrom, name: str) -> _Imported:
    for alias in node.names:
        if isinstance(node, ast.ImportFrom):
            if (alias.asname or alias.name) == name:
                return _Imported("." * node.level + (node.module or ""), alias.name)
        elif alias.asname == name:
            return _Imported(alias.name, None)
    return _Imported(name, None)  # import a.b binds a


def _split(target: str) -> tuple[str, str]:
    """What a dotted name is of, and its last part; a package alone is of none."""
    owner, _, name = target.rpartition(".")
    return owner, name


def _of_project(module: str, name: str, node: ast.expr) -> Any:
    """A module of the project, or a name of one; nothing else is imported."""
    if not _is_project(module or name):
        raise NotPlain(node, f"{ast.unparse(node)[:80]} is of {module or name}")
    try:
        if not module:
            return import_module(name)
        owner = import_module(module)
        return getattr(owner, name) if hasattr(owner, name) else import_module(f"{module}.{name}")
    except ImportError:
        raise NotPlain(node, f"{ast.unparse(node)[:80]} is not in the project") from None


def _is_project(module: str) -> bool:
    return module.partition(".")[0] == _PROJECT


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or type(value) in (int, float, bool, str)


def _is_ellipsis(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...
