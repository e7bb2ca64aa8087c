"""What people write, held against the JSON schemas in `schemas/`; a fault is said in their words, with its place."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from mfql.errors import UserError, unknown
from mfql.extensions import TASKS, project_path
from mfql.settings import misread_hint
from mfql.tables import read_rows

# Keys and positions from a document's top to what is meant.
Place = tuple[str | int, ...]

_FOLDER = Path(__file__).parent / "schemas"
# Each dry run reads all schemas; PyYAML is not built with libyaml everywhere.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_KINDS = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "null": "null",
    "number": "a number",
    "object": "a mapping",
    "string": "a text",
}
_WHOLE, _NUMBER = r"[+-]?[0-9]{1,18}", r"[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)(e[+-]?[0-9]+)?"


@cache
def schema(name: str) -> dict[str, Any]:
    """A schema by its name: `config`, `ablations`, `toy`, or `tasks`, which is of one row of the task table."""
    found: dict[str, Any] = yaml.load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"), Loader=_LOADER)  # noqa: S506
    return found


def check(content: Any, name: str, where: Callable[[Place], str], page: str) -> None:
    """Refuse what does not follow a schema.

    Args:
        content: the document.
        name: of the schema.
        where: what to call the source of what stands at a place.
        page: that explains the document.

    Raises:
        UserError: the first fault, by its source, its place, and what to write.
    """
    from jsonschema.exceptions import best_match

    fault = best_match(_validator(name).iter_errors(content))
    if fault is None:
        return
    place = tuple(fault.absolute_path)
    if fault.validator == "additionalProperties":
        known = fault.schema["properties"]
        key = next(key for key in fault.instance if key not in known)
        raise unknown("key", str(key), list(known), _said(where((*place, key)), place))
    raise UserError(f"{_said(where(place), place)}: {_complaint(fault)}", _remedy(fault, schema(name), page))


def check_tasks(config_dir: str | Path) -> None:
    """Refuse a task table of the project's with a faulty row.

    Raises:
        UserError: it cannot be read, or a row does not follow the schema.
    """
    path = project_path(config_dir) / TASKS
    for row, _ in read_rows(path, "Run from the project's folder.")[1]:
        cells = {column: _number(cell) for column, cell in row.items() if cell}
        source = f"{path}: {row.get('task')}"
        check(cells, "tasks", lambda _, source=source: source, "config/README.md")  # type: ignore[misc]


def from_text(content: Any, name: str) -> Any:
    """A document with numbers, `true`, `false` and `null` where its schema asks for them and texts of them stand.

    Snakemake's `--config` gives texts, and YAML 1.1 takes 1e3 for one.
    """
    return _from_text(content, schema(name), schema(name))


def _from_text(value: Any, asked: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    asked = _resolved(asked, root)
    if isinstance(value, Mapping):
        others = asked.get("additionalProperties") or {}
        known = asked.get("properties", {})
        return {key: _from_text(entry, known.get(key, others), root) for key, entry in value.items()}
    if isinstance(value, list):
        return [_from_text(entry, asked.get("items", {}), root) for entry in value]
    kinds = asked.get("type", [])
    return _typed(value, [kinds] if isinstance(kinds, str) else kinds) if isinstance(value, str) else value


def _typed(text: str, kinds: list[str]) -> Any:
    """A text as the first of the kinds that it can be; itself where it can be none."""
    if "null" in kinds and text == "null":
        return None
    if "boolean" in kinds and text in ("true", "false"):
        return text == "true"
    is_number = "number" in kinds or ("integer" in kinds and re.fullmatch(_WHOLE, text))
    return _number(text) if is_number else text


def _number(text: str) -> Any:
    """The number that a text is, as YAML would give it; the text where it is none."""
    if re.fullmatch(_WHOLE, text):
        return int(text)
    return float(text) if re.fullmatch(_NUMBER, text, re.IGNORECASE) else text


def _resolved(part: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """A part of a schema with what it refers to."""
    if "$ref" not in part:
        return part
    return {**_resolved(root["$defs"][part["$ref"].rpartition("/")[2]], root), **part}


@cache
def _validator(name: str) -> Any:
    # Inside a function: `mfql --help` and training do without the package.
    import jsonschema

    kind = jsonschema.Draft202012Validator
    types = kind.TYPE_CHECKER.redefine_many({"integer": _is_whole, "number": _is_number})
    return jsonschema.validators.extend(kind, {"pattern": _pattern}, type_checker=types)(schema(name))


def _is_whole(_: Any, value: Any) -> bool:
    """Names of folders have seeds and counts: to JSON Schema 1.0 is a whole number too."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(_: Any, value: Any) -> bool:
    """A number that a float can hold; not infinity, and not NaN, which is within all bounds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _pattern(_: Any, pattern: str, value: Any, __: Any) -> Iterator[Any]:
    """`$` is the very end: Python's is before a last line break too."""
    from jsonschema import ValidationError

    if isinstance(value, str) and not re.fullmatch(pattern, value):
        yield ValidationError("does not fit")


def _complaint(fault: Any) -> str:
    value = fault.instance
    if fault.validator == "type":
        kinds = [fault.validator_value] if isinstance(fault.validator_value, str) else fault.validator_value
        return f"{_shown(value)} is not {' or '.join(_KINDS[kind] for kind in kinds)}{misread_hint(value, kinds)}"
    if fault.validator == "required":
        return f"lacks {', '.join(key for key in fault.validator_value if key not in value)}"
    said = {
        "enum": lambda: f"is none of {', '.join(map(str, fault.validator_value))}",
        "maximum": lambda: f"is above {fault.validator_value}",
        "maxLength": lambda: f"has more than {fault.validator_value} characters",
        "minimum": lambda: f"is below {fault.validator_value}",
        "minItems": lambda: "is empty",
        "pattern": lambda: "does not fit",
        "uniqueItems": lambda: "has an entry twice",
    }
    return f"{_shown(value)} {said[fault.validator]()}" if fault.validator in said else str(fault.message)


def _shown(value: Any) -> str:
    """A value as YAML has it on one line, without the middle of a long one."""
    text = json.dumps(value, default=str, ensure_ascii=False, skipkeys=True)
    return text if len(text) <= 100 else f"{text[:50]} ... {text[-45:]}"


def _said(source: str, place: Place) -> str:
    return ": ".join([source, *(f"entry {step + 1}" if isinstance(step, int) else step for step in place)])


def _remedy(fault: Any, root: Mapping[str, Any], page: str) -> str:
    """What the innermost description on the way to the fault says to write."""
    part: Any = root
    told = ""
    for step in fault.absolute_schema_path:
        if isinstance(part, Mapping):
            part = _resolved(part, root)
            told = part.get("description", told)
        part = part[step]
    return f"{told} {page} explains each key.".lstrip()
