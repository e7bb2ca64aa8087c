"""A method's own table of settings by task: a CSV that its file names as `table`, relative to `config/`.

One row a task and stage. The stage `online` holds for both parts of offline-to-online training, `pretrain` and
`online`. The task `*` is every task without a row of its own, the stage `*` every stage. All columns but `task`,
`stage` and `settings_source` are settings; an empty cell is none, and the word `task` takes the task table's cell, as a
source too.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mfql.documents import note_once, read_text
from mfql.errors import UserError

ANY = "*"
KEYS, SOURCE = ("task", "stage"), "settings_source"
# The rows of a table that a stage takes its settings from.
_TABLE_STAGE = {"offline": "offline", "pretrain": "online", "online": "online"}
_NUMBER = r"\d+(?:\.\d+)?(?:e-?\d+)?"
# What a spreadsheet takes a cell for a formula by.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_LIST = re.compile(rf"{_NUMBER}(?:x|(?:x{_NUMBER})+)")
_REMEDY = "Correct it; config/README.md explains the tables of methods."


@dataclass(frozen=True)
class SettingsRow:
    """The settings of a task and stage, and where they are from."""

    settings: Mapping[str, Any]
    source: str


@cache
def load_table(path: Path) -> dict[tuple[str, str], SettingsRow]:
    """The rows of a table by task and the table's stage: `offline`, `online` or any.

    Raises:
        UserError: the table is absent or empty, lacks a column, names a task and stage twice, or has a row of another
            length, of an unknown stage or without a source.
    """
    found: dict[tuple[str, str], SettingsRow] = {}
    for row, where in _read(path):
        key = (row["task"], row["stage"])
        if row["stage"] not in (*_TABLE_STAGE.values(), ANY):
            raise UserError(
                f"{where}: stage is {row['stage']!r}", f"Write offline, online, which holds for pretrain too, or {ANY}."
            )
        if not row[SOURCE]:
            raise UserError(f"{where}: {SOURCE} is empty", "Say where the settings are from, or write untuned.")
        if key in found:
            raise UserError(f"{where} names {row['task']}, {row['stage']} twice", "Keep one of the rows.")
        settings = {name: as_value(cell) for name, cell in row.items() if name not in (*KEYS, SOURCE)}
        found[key] = SettingsRow(settings, row[SOURCE])
    if not found:
        raise UserError(f"{path} has no row", _REMEDY)
    return found


def _read(path: Path) -> list[tuple[dict[str, str], str]]:
    """The rows as they stand, each with its file and line."""
    columns, rows = read_rows(path, "Correct `table` in the method's file.")
    lacking = [column for column in (*KEYS, SOURCE) if column not in columns]
    if lacking:
        raise UserError(f"{path} lacks the columns {', '.join(lacking)}", _REMEDY)
    return rows


def read_rows(path: str | Path, remedy: str) -> tuple[list[str], list[tuple[dict[str, str], str]]]:
    """The columns of a CSV table, and its rows, each with its file and line.

    As spreadsheets save one: with a byte-order mark, semicolons and decimal commas, or tabs, and a whole number as
    1.00E+06; a note says of what is read as something else. Columns without name and content, and rows without
    content, are left out.

    Args:
        remedy: what to do where there is no such file.

    Raises:
        UserError: it is absent, cannot be read, is in another encoding, is no CSV, or has a column twice, a row that
            has not a cell for each column, or a number that may mean two.
    """
    text = read_text(path, remedy)
    told = _TOLD.match(text)  # Excel's own first line, which names the delimiter.
    text, above = (text[told.end() :], 1) if told else (text, 0)
    header = text.partition("\n")[0]
    delimiter = next((found for found in _DELIMITERS if found in header), ",")
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    found, last = [], above
    try:
        for row in reader:
            last = reader.line_num + above
            if any(row.values()):
                found.append((row, f"{path}:{last}"))
    except csv.Error as error:
        # A quote that nothing closes would take the rows below it into one cell.
        where, remedy = f"{path}:{last + 1}", "Correct the line, or write the table as CSV."
        raise UserError(f"{where}: {error}; the row begins there", remedy) from error
    if text.count('"') % 2:  # Within a cell that no quote begins the reader takes it for a character.
        line = next(at for at, one in enumerate(text.split("\n"), above + 1) if one.count('"') % 2)
        remedy = "Remove it, or double it in a quoted cell."
        raise UserError(f"{path}:{line}: a quotation mark stands there alone", remedy)
    columns = list(reader.fieldnames or ())
    for name in columns:
        if name and columns.count(name) > 1:
            raise UserError(f"{path}: the column {name} stands there twice", "Keep one of the two.")
    unused = "" in columns and not any(row.get("") for row, _ in found)
    rows = []
    for row, where in found:
        cells = {name: _plain(name, cell, where, delimiter) for name, cell in row.items() if name or not unused}
        if None in cells or None in cells.values():
            raise UserError(f"{where} has not {len(columns) - unused} cells", "Correct the row.")
        rows.append((cells, where))
    if delimiter != ",":
        note_once(f"{path} is read as a table with {_DELIMITERS[delimiter]}, as its first line has them")
    return [name for name in columns if name or not unused], rows


# What stands between cells, by how telling it is, and what is said of it.
_DELIMITERS = {",": "commas", ";": "semicolons and decimal commas", "\t": "tabs"}
_TOLD = re.compile(r"\"?sep=.\"?[;,\t]*\r?\n", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
_SPREADSHEETS = re.compile(r"[+-]?\d+[.]\d+E[+-]\d+")


def _plain(column: str | None, cell: Any, where: str, delimiter: str) -> Any:
    """A cell as this project's tables have it."""
    if not isinstance(cell, str):
        return cell
    text = cell.strip()
    if delimiter == ";" and _THOUSANDS.fullmatch(text):
        one, other = text.replace(",", ".", 1), text.replace(",", "")
        raise UserError(
            f"{where}: {column} is {text!r}, which may be {one} or {other}", f"Write {float(one):g} or {other}."
        )
    if delimiter == ";" and _DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    if _SPREADSHEETS.fullmatch(text) and float(text).is_integer():
        whole = str(int(float(text)))
        note_once(f"{where}: {column} {text} is read as {whole}; a spreadsheet may have rounded it")
        return whole
    return text


def find_row(path: Path, task: str, stage: str) -> SettingsRow:
    """The row of a task and stage; what is named goes before what is any, the task before the stage.

    Raises:
        UserError: the table is faulty, or has no row that fits.
    """
    table, kind = load_table(path), _TABLE_STAGE[stage]
    rows = (table.get(key) for key in ((task, kind), (task, ANY), (ANY, kind), (ANY, ANY)))
    found = next((row for row in rows if row is not None), None)
    if found is None:
        raise UserError(f"{path} has no row for {task}, {kind}", f"Add one, or one of the task {ANY}, any other.")
    return found


def own_columns(path: Path) -> set[str]:
    """The settings that a table has, without those that some row takes from the task table.

    Raises:
        UserError: the table is faulty.
    """
    rows = [row.settings for row in load_table(path).values()]
    return {key for key in rows[0] if all(row[key] != "task" for row in rows)}


def as_value(text: str) -> Any:
    """A number, true, false, null or a list of numbers where the text is one, else the text; an empty text is null too.

    The numbers of a list are joined by x: 64x64, and 64x is the list of one.
    """
    if _LIST.fullmatch(text):
        return [as_value(item) for item in text.removesuffix("x").split("x")]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False, "null": None, "": None}.get(text, text)


def value_text(value: Any) -> str:
    """A value as a method's name has it, which `as_value` reads back.

    A whole number has no point, so that 30 and 30.0 are one.

    Raises:
        UserError: a list without elements or of other than numbers of zero or more, which has no such text.
    """
    if isinstance(value, list | tuple):
        text = "x".join(map(_number_text, value)) + ("x" if len(value) == 1 else "")
        if not _LIST.fullmatch(text):
            raise UserError(f"no method's name can have the value {list(value)}", "Write it into the method's file.")
        return text
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else _number_text(value)


def _number_text(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    text = str(value).replace("e+", "e")  # A plus begins the next value of a name.
    return "0" if value == 0 else text.removesuffix(".0")


def require_no_formula(text: str, where: str) -> None:
    """Refuse a name or a note that a spreadsheet would take for a formula: it goes into CSV files that people open.

    Args:
        where: what the text is and where it stands.
    """
    if text.startswith(_FORMULA):
        raise UserError(
            f"{where} is {text!r}, which a spreadsheet takes for a formula",
            f"Begin it with none of {' '.join(_FORMULA[:4])}, a tab or a line's end.",
        )
