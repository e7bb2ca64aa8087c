"""The one reader of tables that this project wrote, as pandas has them."""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping
from io import BytesIO, StringIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from mfql.errors import UserError
from mfql.files import read_bytes

# Bytes of a table: the scores of a study of 8,000 runs have a twentieth of it.
_MOST = 1 << 30


def read_frame(
    path: str | Path,
    remedy: str,
    columns: Collection[str] = (),
    texts: Collection[str] | None = None,
    finite: bool = True,
    filled: Collection[str] = (),
    known: Mapping[str, Collection[str]] = MappingProxyType({}),
    **options: Any,
) -> pd.DataFrame:
    """A CSV table.

    Args:
        remedy: what to do where it is absent or faulty.
        columns: those that it must have.
        texts: columns that may hold a text, and are read as one; all others must hold numbers, truths or nothing. None
            looks at none.
        finite: whether these numbers must be.
        filled: columns without an empty cell.
        known: of columns the texts that may stand in them.
        options: of `pandas.read_csv`.

    Raises:
        UserError: it is absent, cannot be read, is no table, lacks a column, holds what its columns cannot, or has a
            row that has not a cell for each column, of which pandas would fill up one and shift another.
    """
    if texts is not None:
        options["dtype"] = dict.fromkeys(texts, str) | options.get("dtype", {})
    try:
        content = read_bytes(path, _MOST)
        if "on_bad_lines" not in options:
            _require_cells(path, content, remedy)
        table = pd.read_csv(BytesIO(content), **options)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path} does not exist", remedy) from error
    # Of the parsers, of an encoding, of numbers that are too large.
    except (ValueError, ArithmeticError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {str(error).strip()}", remedy) from error
    if lacking := [column for column in columns if column not in table.columns]:
        raise UserError(f"{path} lacks the columns {', '.join(lacking)}", remedy)
    for column in table.columns.difference(list(texts)) if texts is not None else ():
        _require_numbers(path, table[column], finite, remedy)
        if table[column].dtype == object and any(
            isinstance(cell, str) for cell in table[column]
        ):  # Pandas leaves a number of very many digits a text.
            table[column] = table[column].astype(float)
    for column in filled:
        _require(path, ~table[column].isna(), f"{column} is empty", remedy)
    for column, texts_of_it in known.items():
        of_it = ", ".join(sorted(texts_of_it))
        _require(path, table[column].isin(texts_of_it), f"{column} is none of {of_it}", remedy)
    return table


def _require(path: str | Path, right: pd.Series, fault: str, remedy: str) -> None:
    """Refuse a table by the first of its rows that is not right."""
    if not right.all():
        raise UserError(f"{path}:{int(np.argmin(right)) + 2}: {fault}", remedy)


def _require_numbers(path: str | Path, column: pd.Series, finite: bool, remedy: str) -> None:
    cells = column.dropna()
    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(float)
    faulty = ~np.isfinite(numbers) if finite else np.isnan(numbers)
    if faulty.any():
        row = cells.index[int(np.argmax(faulty))]
        kind = "finite number" if finite else "number"
        raise UserError(f"{path}:{row + 2}: {column.name} is {str(column[row])[:40]!r}, no {kind}", remedy)


def _require_cells(path: str | Path, content: bytes, remedy: str) -> None:
    """Refuse a table with a row that has not a cell for each column."""
    fault = _row_of_others(content)
    if fault:
        line, columns = fault
        raise UserError(f"{path}:{line} has not {columns} cells", remedy)


def _row_of_others(content: bytes) -> tuple[int, int] | None:
    """The line of the first row with more or fewer cells than the head has, and how many that has."""
    if b'"' in content or b"\r" in content or content.startswith(b"\n"):
        reader = csv.reader(StringIO(content.decode("utf-8-sig"), newline=""))
        columns = next(reader, [])
        return next(((reader.line_num, len(columns)) for row in reader if row and len(row) != len(columns)), None)
    # Where a comma is a comma and a line a row, as in every table of ours but for odd names: in a tenth of the time.
    read = np.frombuffer(content, np.uint8)
    ends = np.append(np.flatnonzero(read == ord("\n")), len(read))
    cells = np.diff(np.searchsorted(np.flatnonzero(read == ord(",")), ends), prepend=0) + 1
    others = (cells != cells[0]) & (np.diff(ends, prepend=-1) > 1)
    return (int(np.argmax(others)) + 1, int(cells[0])) if others.any() else None
