"""The numbers that papers publish, and third parties' runs of released code, as `published/` holds them.

A file has one row a number: `task, method, stage, mean, std, seeds, source`, and where needed `scope`
(`published/README.md`). A row without a mean says that the source has the number and this table does not; no
row at all, that nobody published one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import isfinite, isnan, nan
from pathlib import Path
from typing import Any

from mfql.errors import UserError
from mfql.files import listed
from mfql.settings import STAGES
from mfql.tables import read_rows, require_no_formula
from mfql.tasks import SCORED_EVALUATIONS

COLUMNS = ("task", "method", "stage", "mean", "std", "seeds", "source")
THIRD_PARTY_COLUMNS = (*COLUMNS, "seed", "alpha", "score_rule")
THIRD_PARTY_FILE = Path("third_party", "runs.csv")
TASK, UNKNOWN = "task", "unknown"  # what a number is of; empty or no such column: the task
_RELEASED = "-released"
_REMEDY = "Correct the row; README.md beside the published numbers explains each column."


@dataclass(frozen=True)
class Published:
    """A published score.

    Attributes:
        stage: `offline`; `pretrain` and `online` are the scores before and after online training.
        mean: percent of success, or normalised return; NaN where the source has the number and this table does not.
        std: standard deviation over seeds, in the unit of `mean`; NaN where it is not known.
        seeds: how many, or None where it is not known.
        source: where the number stands.
        where: file and line that it was read from.
        scope: `task`; `unknown` where the number may as well be the mean over the tasks of the environment.
    """

    task: str
    method: str
    stage: str
    mean: float
    std: float
    seeds: int | None
    source: str
    where: str
    scope: str

    @property
    def at_hand(self) -> bool:
        """Whether the number itself is known here."""
        return not isnan(self.mean)

    @property
    def of_task(self) -> bool:
        """Whether the number is at hand and known to be of the task: the only kind that a score is judged by."""
        return self.at_hand and self.scope == TASK


@dataclass(frozen=True)
class ThirdPartyRun:
    """The score of one run that somebody else made of a method's released code.

    Attributes:
        number: its score, as of a single seed.
        alpha: the setting that these runs vary.
        score_rule: `last_three` or `last`, the evaluations that the score is the mean of.
        changed: what else was not as released, in words; empty for nothing.
    """

    number: Published
    alpha: float
    score_rule: str
    changed: str


Numbers = dict[tuple[str, str, str], Published]


def read_published(folder: str | Path) -> Numbers:
    """Read every CSV in the folder.

    Returns:
        (method as `plain` writes it, task, stage) -> the number.

    Raises:
        UserError: no CSV is there; a file lacks a column, or has a row that is malformed or repeats another; the
            message names file and line.
    """
    files = [path for path in listed(folder) if path.suffix == ".csv"]
    if not files:
        raise UserError(f"{folder} holds no CSV of published numbers", "Give the project's folder published/.")
    found: dict[tuple[str, str, str], dict[tuple[bool, bool], Published]] = {}
    for path in files:
        for row, where in _rows(path, COLUMNS):
            number = _published(row, where)
            rows = found.setdefault((plain(number.method), number.task, number.stage), {})
            if _knowledge(number) in rows:
                raise UserError(
                    f"{where} repeats {number.method} on {number.task}, {number.stage}, "
                    f"of {rows[_knowledge(number)].where}",
                    "Keep one of the two rows.",
                )
            rows[_knowledge(number)] = number
    # A row with the number fills in for one that says it is not at hand, or does not know what it is of.
    return {key: rows[max(rows)] for key, rows in found.items()}


def read_outside(files: Iterable[str | Path]) -> list[Published]:
    """Read scores from elsewhere, to be shown beside ours: CSV files of the same columns as the published numbers.

    Raises:
        UserError: a file lacks a column, or has a row that is malformed, lacks a mean or repeats another; the message
            names file and line.
    """
    numbers: dict[tuple[str, str, str], Published] = {}
    for path in files:
        for row, where in _rows(Path(path), COLUMNS):
            number = _published(row, where)
            _require(number.at_hand, where, "mean is empty")
            key = (number.method, number.task, number.stage)
            _require(key not in numbers, where, f"it repeats {' '.join(key)}")
            numbers[key] = number
    return list(numbers.values())


def read_third_party(folder: str | Path) -> list[ThirdPartyRun]:
    """Read third parties' runs from `third_party/runs.csv` of the folder; none where there is no such file.

    Raises:
        UserError: a column or a cell is missing or malformed; the message names file and line.
    """
    path = Path(folder) / THIRD_PARTY_FILE
    if not path.is_file():
        return []
    found = []
    for row, where in _rows(path, THIRD_PARTY_COLUMNS):
        number = _published(row, where)
        alpha = _number(row, "alpha", where)
        _require(number.at_hand, where, "mean is empty")
        _require(alpha > 0, where, f"alpha is {row['alpha']!r}, not a positive number")
        known = ", ".join(SCORED_EVALUATIONS)
        _require(row["score_rule"] in SCORED_EVALUATIONS, where, f"score_rule is {row['score_rule']!r}, not of {known}")
        found.append(ThirdPartyRun(number, alpha, row["score_rule"], row.get("changed", "")))
    return found


def plain(method: str) -> str:
    """A method's name as it is compared: Cal-QL, cal_ql and calql are one."""
    return re.sub(r"[^a-z0-9]", "", method.lower())


def reproduced_name(method: str) -> str:
    """What `method` sets out to reproduce, as `plain` writes it: the method of its name.

    The protocol of the released code, `NAME-released`, has the numbers of NAME. A method of any other name, such as an
    ablation, has only those that are published under that name.
    """
    return plain(method.removesuffix(_RELEASED))


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[dict[str, str], str]]:
    """The rows of a CSV, cells stripped, each with its file and line."""
    found, rows = read_rows(path, _REMEDY)
    lacking = [column for column in columns if column not in found]
    if lacking:
        raise UserError(f"{path} lacks the columns {', '.join(lacking)}", _REMEDY)
    yield from rows


def _published(row: dict[str, str], where: str) -> Published:
    """The number of a row."""
    for column in ("task", "method", "source"):
        _require(row[column] != "", where, f"{column} is empty")
        require_no_formula(row[column], f"{where}: {column}")
    _require(row["stage"] in STAGES, where, f"stage is {row['stage']!r}, not one of {', '.join(STAGES)}")
    mean, std = _number(row, "mean", where), _number(row, "std", where)
    _require(not std < 0, where, f"std is {row['std']}, below 0")
    _require(not isnan(mean) or isnan(std), where, "there is a std and no mean")
    seeds = _cell(row, "seeds", where, int, "a whole number") if row["seeds"] else None
    _require(seeds is None or seeds >= 1, where, f"seeds is {row['seeds']}, below 1")
    _require(seeds is not None or isnan(std), where, "there is a std and no number of seeds")
    scope = row.get("scope") or TASK
    _require(scope in (TASK, UNKNOWN), where, f"scope is {scope!r}, not one of {TASK}, {UNKNOWN}")
    return Published(row["task"], row["method"], row["stage"], mean, std, seeds, row["source"], where, scope)


def _knowledge(number: Published) -> tuple[bool, bool]:
    """How much a row says, to be compared: first the number itself, then what it is of."""
    return number.at_hand, number.of_task


def _number(row: dict[str, str], column: str, where: str) -> float:
    """A finite number; NaN where the cell is empty or says NaN."""
    if row[column].lower() in ("", "nan"):
        return nan
    value = float(_cell(row, column, where, float, "a number"))
    _require(isfinite(value), where, f"{column} is {row[column]!r}, not a number")
    return value


def _cell(row: dict[str, str], column: str, where: str, kind: Callable[[str], Any], expected: str) -> Any:
    try:
        return kind(row[column])
    except ValueError:
        raise UserError(f"{where}: {column} is {row[column]!r}, not {expected}", _REMEDY) from None


def _require(condition: bool, where: str, fault: str) -> None:
    if not condition:
        raise UserError(f"{where}: {fault}", _REMEDY)
