"""JSON, YAML and texts: what is made of a file's content is bounded, and says where it is wrong.

JSON is this project's own, YAML and texts are people's. All are read by the door of `mfql.files`.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import sys
from collections import Counter
from contextlib import suppress
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, cast

import yaml

from mfql.errors import UserError, note
from mfql.files import MOST_JSON, MOST_TEXT, MOST_YAML, read_bytes, write_whole


def write_json(path: str | Path, value: Any) -> None:
    """Write `json_text(value)`, whole or not at all."""
    with write_whole(path) as file:
        file.write(json_text(value))


def json_text(value: Any) -> str:
    """`value` as indented JSON. NaN becomes null: JSON has no NaN."""
    return json.dumps(_finite(value), indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


# Of JSON and YAML: levels of lists and mappings in one another; and numbers that tables and arrays can hold.
_MOST_LEVELS, _WHOLE_NUMBERS = 64, 1 << 63
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(path: str | Path) -> Any:
    """Read JSON as this package writes it: no NaN, no number beyond 64 bits or a float's, no key twice in an object.

    Raises:
        UserError: the file is absent, cannot be read, is larger than `MOST_JSON`, or is not such JSON.
    """
    try:
        text = read_bytes(path, MOST_JSON).decode()
        value = _JSON.decode(text)
        _require_shallow(text, value)
        if "\\u" in text:
            _require_characters(text, value)
        return value
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path} does not exist", "Run the stage that writes it first.") from error
    except (ValueError, RecursionError) as error:
        said = _TOO_DEEP if isinstance(error, RecursionError) else error
        raise UserError(f"{path} is not valid JSON: {said}", "Delete it and run the stage that writes it.") from error


_TOO_DEEP = f"it has lists or objects more than {_MOST_LEVELS} deep in one another"


def read_object(path: str | Path) -> dict[str, Any]:
    """Read JSON that is an object.

    Raises:
        UserError: as of `read_json`, or it is something else.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        kind = "a list" if isinstance(found, list) else repr(found)[:40]
        raise UserError(f"{path} holds {kind}, no object", "Put the right file in its place.")
    return found


def read_json_lines(path: str | Path, remedy: str) -> list[Any]:
    """Read a file with JSON in each of its lines, empty ones left out.

    Args:
        remedy: what to do about one that is not such.

    Raises:
        UserError: as of `read_text`, or a line is not JSON as `read_json` reads it.
    """
    found = []
    for number, line in enumerate(read_text(path, remedy).split("\n"), 1):
        if not line.strip():
            continue
        try:
            found.append(_JSON.decode(line))
            _require_shallow(line, found[-1])
        except (ValueError, RecursionError) as error:
            said = _TOO_DEEP if isinstance(error, RecursionError) else error
            raise UserError(f"{path}: line {number} is not valid JSON: {said}", remedy) from error
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        times = Counter(key for key, _ in pairs)
        raise ValueError(f"the key {_shortened(max(times, key=times.__getitem__))!r} stands there twice")
    return found


def _whole_number(text: str) -> int:
    if len(text) > 20 or not -_WHOLE_NUMBERS <= (number := int(text)) < _WHOLE_NUMBERS:
        raise ValueError(f"the number {_shortened(text)} has more than 64 bits")
    return number


def _float(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"the number {_shortened(text)} is beyond {sys.float_info.max:.2g}")
    return number


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


_JSON = json.JSONDecoder(
    object_pairs_hook=_once, parse_int=_whole_number, parse_float=_float, parse_constant=_no_number
)


def _shortened(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:20]}..."


def _require_shallow(text: str, value: Any) -> None:
    """Refuse what nests so deep that who goes through it, by functions that call themselves, would not come back."""
    if text.count("[") + text.count("{") <= _MOST_LEVELS:
        return
    level = [value]
    for _ in range(_MOST_LEVELS):
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [item for items in inner for item in items]
    if level:
        raise RecursionError


def _require_characters(text: str, value: Any) -> None:
    """Refuse texts that no path and no file can hold: NUL, and halves of characters."""
    if "\\u0000" in text:
        raise ValueError("it has a NUL character")
    if _HALF.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("it has half of a character, a surrogate without its other") from error


@cache
def note_once(message: str) -> None:
    """A note, however often what it is of is read."""
    note(message)


def read_text(path: str | Path, remedy: str, most: int = MOST_TEXT) -> str:
    """A text that people wrote: UTF-8, with or without a byte-order mark; UTF-16 with one, of which a note is given.

    Args:
        remedy: what to do where there is none.
        most: bytes that it may have.

    Raises:
        UserError: the file is absent, cannot be read, is larger, or is in another encoding or no text; names the line.
    """
    try:
        content = read_bytes(path, most)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"cannot read {path}: {error.strerror}", remedy) from error
    encoding = "utf-8-sig"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
        note_once(f"{path} is read as UTF-16, as its byte-order mark says; save it as UTF-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"cannot read {path}: line {line}: the byte 0x{content[error.start]:02x} is not of UTF-8:"
            " the file was saved in another encoding, such as Windows' cp1252",
            "Save it as UTF-8: in a spreadsheet as `CSV UTF-8`, else iconv -f CP1252 -t UTF-8.",
        ) from error
    if (at := text.find("\0")) >= 0:
        raise UserError(
            f"cannot read {path}: line {text[:at].count(chr(10)) + 1}: it has a NUL character, as no text has",
            "Put the text in its place; one that was saved as UTF-16 needs its byte-order mark, or save it as UTF-8.",
        )
    return text


class _Loader(yaml.SafeLoader):
    """YAML without tags that run anything, in which nothing is read as something else than it looks like.

    Of a key that stands twice PyYAML would take the last and say nothing. An alias costs PyYAML nothing, and whoever
    goes through the document as much as what it stands for: nodes are counted as if each alias were written out.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._level = self._deepest = self._nodes = 0
        self._sizes: dict[yaml.Node, tuple[int, int]] = {}  # Nodes and levels of each that is whole.

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        event, before, outer = self.peek_event(), self._nodes, self._deepest
        self._level += 1
        self._deepest = self._level
        self._require_bounded(event.start_mark)  # Before the next level, for which the stack may not suffice.
        node = cast("yaml.Node", super().compose_node(parent, index))
        if isinstance(event, yaml.AliasEvent):
            if node not in self._sizes:
                raise _misread(event, f"*{event.anchor} holds itself")
            nodes, levels = self._sizes[node]
            self._nodes, self._deepest = self._nodes + nodes, self._level + levels
        else:
            self._nodes += 1
            self._sizes[node] = self._nodes - before, self._deepest - self._level
        self._require_bounded(event.start_mark)
        self._level, self._deepest = self._level - 1, max(outer, self._deepest)
        return node

    def _require_bounded(self, mark: yaml.Mark) -> None:
        if self._deepest > _MOST_LEVELS:
            problem = f"lists or mappings are more than {_MOST_LEVELS} deep in one another"
            raise yaml.composer.ComposerError(None, None, problem, mark)
        if self._nodes > _MOST_NODES:
            raise yaml.composer.ComposerError(
                None, None, f"it has more than {_MOST_NODES} values, aliases counted", mark
            )

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        number = _of_bounded_length(node) and super().construct_yaml_int(node)
        if not -_WHOLE_NUMBERS <= number < _WHOLE_NUMBERS:
            raise _misread(node, f"the number {_shortened(node.value)} has more than 64 bits")
        return int(number)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        number = _of_bounded_length(node) and super().construct_yaml_float(node)
        if math.isinf(number) and "inf" not in node.value.lower():
            raise _misread(node, f"the number {_shortened(node.value)} is beyond {sys.float_info.max:.2g}")
        return float(number)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            line = key.start_mark.line + 1
            if key.tag == "tag:yaml.org,2002:bool":
                raise _misread(key, f"the key {key.value} is read as true or false: put it in quotes")
            if (key.tag, key.value) in seen:
                first = seen[key.tag, key.value]
                raise _misread(
                    key, f"the key {key.value} stands there twice, first in line {first}: keep one of the two"
                )
            seen[key.tag, key.value] = line
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        text = node.value
        if "\0" in text or _SURROGATES.search(text):
            raise _misread(node, "a text has a NUL character or half of a character")
        if node.style is not None or (len(text) > _MOST_DIGITS and node.tag == "tag:yaml.org,2002:str"):
            return node  # In quotes, a block, or longer than any number.
        if node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
            _of_bounded_length(node)
        if node.tag == "tag:yaml.org,2002:int" and _OCTAL.fullmatch(text) and int(text, 8) != int(text):
            raise _misread(
                node,
                f"{text} is read as {int(text, 8)}, since a number that begins with 0 counts in eights:"
                f" write {int(text)}, or '{text}' for the text",
            )
        if node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float") and ":" in text:
            number = yaml.safe_load(text)
            raise _misread(
                node,
                f"{text} is read as {number}, since a number with a colon counts in sixties:"
                f" write {number}, or '{text}' for the text",
            )
        if node.tag == "tag:yaml.org,2002:str" and (found := _EXPONENT.fullmatch(text)):
            point, sign = "" if "." in text else ".0", "" if found["exponent"][0] in "+-" else "+"
            written = f"{found['number']}{point}e{sign}{found['exponent']}"
            raise _misread(node, f"{text} is a text in YAML 1.1, no number: write {written}, or '{text}' for the text")
        return node


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
# Values of a document with each alias written out, and characters of a whole number, which may have underscores.
_MOST_NODES, _MOST_DIGITS = 100_000, 100
_SURROGATES = re.compile("[\ud800-\udfff]")
# Whole numbers that YAML 1.1 counts in eights, and those with an exponent that it takes for texts.
_OCTAL = re.compile(r"[-+]?0[0-7]+")
_EXPONENT = re.compile(r"(?P<number>[-+]?(\d+\.?\d*|\.\d+))[eE](?P<exponent>[-+]?\d+)")


def _of_bounded_length(number: yaml.ScalarNode) -> bool:
    if len(number.value) > _MOST_DIGITS:
        raise _misread(number, f"the number {_shortened(number.value)} has more than {_MOST_DIGITS} characters")
    return True


def _misread(node: yaml.Node | yaml.Event, problem: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, cast("yaml.Mark | None", node.start_mark))


def read_yaml(path: str | Path, remedy: str) -> Any:
    """Read YAML that people write.

    Args:
        remedy: what to do where it is none.

    Raises:
        UserError: the file cannot be read, is larger than `MOST_YAML`, is no YAML, has a key twice in one mapping or a
            number that YAML reads as another or as a text, is nested too deep or too often, or holds itself.
    """
    try:
        return deepcopy(_parsed(read_text(path, remedy, MOST_YAML)))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(f"cannot read {path}: line {line}: {error.problem}", remedy) from error
    # The last three are PyYAML's own on values that their tags do not fit, such as the date 2026-13-45.
    except (yaml.YAMLError, RecursionError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"cannot read {path}: {error}", remedy) from error


def option_value(text: str) -> Any:
    """A value as Snakemake reads it behind `--config KEY=`: a number, else YAML whose values are texts."""
    bare = text.strip("'\"")
    if not bare:
        return None
    for kind in (int, float):
        with suppress(ValueError):
            return kind(bare)
    try:
        return {"True": True, "False": False}.get(bare, yaml.load(bare, Loader=yaml.BaseLoader))
    except (yaml.YAMLError, RecursionError):
        return bare


@cache
def _parsed(text: str) -> Any:
    """A document, parsed once: a launch asks for the settings of hundreds of runs."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506
