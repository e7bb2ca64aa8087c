"""`mfql tune freeze`: reviewed choices become cells of the task table, with their evidence beside it.

From then on training uses them: the runs whose settings changed are trained anew, no others. Cells that are published,
or that a person gave a source of their own, are never changed. Settings that are no columns of the task table, and
tasks of an extension, go into a new method with a table of its own.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from datetime import date
from difflib import unified_diff
from pathlib import Path
from typing import Any

import jsonschema

from mfql.documents import read_yaml
from mfql.errors import UserError, unknown
from mfql.experiment.tuning import COLUMNS, Point, published_columns, tuning_task
from mfql.files import MOST_TEXT, read_bytes, write_whole
from mfql.methods import table_keys
from mfql.studies.tuning.choose import write_proposal
from mfql.studies.tuning.new_method import freeze_method, point_of, settings_of, source_of
from mfql.tables import read_rows
from mfql.tasks import Task, load_tasks, with_extensions

EVIDENCE = "tuned.yaml"
_REMEDY = "Give a file of `mfql tune choose` or `search`."
_HEADER = (
    "# The evidence behind every `tuned on` of tasks.csv, written by `mfql tune freeze`. docs/tuning.md explains it.\n"
)
_POINT = {
    "type": "object",
    "required": list(COLUMNS),
    "properties": {
        "alpha": {"type": "number", "minimum": 0},
        "num_candidates": {"type": "integer", "minimum": 1},
        "time_steps": {"type": "integer", "minimum": 1},
    },
}
_SCHEMA = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "required": ["chosen", "certainty", "carried_to", "method", "points"],
        "properties": {
            "certainty": {"type": "string", "pattern": "^[^;]+$"},
            "chosen": {"type": ["object", "null"]},
            "settings": {"type": "array", "minItems": 1, "items": {"type": "string"}, "uniqueItems": True},
            "carried_to": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
            "method": {"type": "string", "pattern": "^[^;]+$"},
            "points": {"type": "array", "minItems": 1, "items": {"type": "object"}},
        },
        "if": {"required": ["settings"]},
        "else": {
            "properties": {
                "chosen": {"anyOf": [{"type": "null"}, _POINT | {"additionalProperties": False}]},
                "points": {"items": _POINT},
            },
        },
    },
}


def freeze(
    proposal: Path,
    config_dir: Path = Path("config"),
    dry_run: bool = False,
    new_method: str | None = None,
    into: Path | None = None,
) -> str:
    """Carry a reviewed proposal into the task table, and its entries into `tuned.yaml` beside it.

    Args:
        proposal: a file of `mfql tune choose` or `search`, possibly edited.
        config_dir: folder of the task table.
        dry_run: write nothing.
        new_method: carry it into a method of this name instead, with a table of its own.
        into: folder that has `methods/`, which gets that; None for `config_dir`.

    Returns:
        What is left as it was and why, and the table's changes as a diff; or the new method's files.

    Raises:
        UserError: the proposal or the table is faulty, a choice is none of its points, or a task is not tuned there;
            there is a method of that name, or no name where the settings are no columns of the task table.
    """
    entries = _read(proposal)
    if new_method is not None or any("settings" in entry for entry in entries.values()):
        return freeze_method(entries, new_method, proposal, config_dir, into or config_dir, dry_run)
    if into is not None:
        raise UserError("--into is of a new method", "Name it with --new-method.")
    table = config_dir / "tasks.csv"
    tasks = load_tasks(table)
    _refuse_extensions(entries, tasks, proposal)
    rows: dict[str, dict[str, str]] = {}
    remarks = []
    for method in dict.fromkeys(entry["method"] for entry in entries.values()):
        own = [column for column in COLUMNS if column not in table_keys(method, config_dir)]
        if own:
            remarks.append(f"{method} sets {', '.join(own)} itself: only methods that say `task` use the table's cells")
    for name, entry in entries.items():
        if entry["chosen"] is None:
            remarks.append(f"{name}: nothing was chosen, its tasks stay as they are")
            continue
        for taker in _takers(name, entry, tasks, proposal):
            published = published_columns(taker.settings_source)
            if published == set(COLUMNS):
                remarks.append(f"{taker.name}: has settings from {taker.settings_source!r}, which stay")
                continue
            rows[taker.name] = _cells(entry["chosen"], source_of(name, entry, published), published)
    # `Path.read_text` would change the ends of lines.
    before = read_bytes(table, MOST_TEXT).decode(errors="replace")
    if _columns(before) != read_rows(table, _REMEDY)[0]:
        raise UserError(
            f"{table} is a table as spreadsheets save one, in which no cell is written",
            "Save it as CSV with commas, in UTF-8 without a byte-order mark.",
        )
    after = _edited(before, rows)
    if not dry_run and after != before:
        frozen = {name: {"frozen": date.today(), **entry} for name, entry in entries.items() if entry["chosen"]}
        # First the evidence: evidence that no cell names yet is harmless, a cell without evidence is not.
        write_proposal(_evidence(config_dir / EVIDENCE) | frozen, config_dir / EVIDENCE, _HEADER)
        with write_whole(table) as file:
            file.write(after)
    return "\n".join([*remarks, _diff(before, after, table) or f"{table} has these settings already"])


def _refuse_extensions(entries: Iterable[str], tasks: Mapping[str, Task], proposal: Path) -> None:
    """The table of an extension, whose columns may be fewer, is for its owner to write."""
    outside = with_extensions({})
    for name in entries:
        if name in outside and name not in tasks:
            raise UserError(
                f"{proposal}: {name} is a task of an extension, whose table is not written here",
                "Write the chosen cells into its tasks.csv, and take the entry out of the proposal; or make a method "
                "with the settings: --new-method NAME --into DIR.",
            )


def _read(path: Path) -> dict[str, Any]:
    """A proposal, checked."""
    proposal = read_yaml(path, _REMEDY)
    fault = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(_SCHEMA).iter_errors(proposal))
    if fault is not None:
        where = ": ".join(map(str, fault.absolute_path))
        raise UserError(f"{path}: {where or 'the file'}: {fault.message}", "Write it anew with `mfql tune choose`.")
    for name, entry in proposal.items():
        if lacking := [key for key in settings_of(entry) if any(key not in point for point in entry["points"])]:
            raise UserError(f"{path}: {name}: a point lacks {', '.join(lacking)}", _REMEDY)
        points = [point_of(point, entry) for point in entry["points"]]
        if entry["chosen"] is not None and entry["chosen"] not in points:
            raise UserError(
                f"{path}: {name}: no run has the chosen settings {entry['chosen']}",
                "Choose one of the points, or tune with a grid that has this one.",
            )
    return proposal


def _evidence(path: Path) -> dict[str, Any]:
    """The evidence of earlier choices."""
    return (read_yaml(path, _REMEDY) or {}) if path.exists() else {}


def _takers(name: str, entry: Mapping[str, Any], tasks: dict[str, Task], proposal: Path) -> list[Task]:
    """The tasks that an entry's choice is carried to."""
    for taker in entry["carried_to"]:
        if taker not in tasks:
            raise unknown("task", taker, list(tasks), str(proposal))
        if tuning_task(taker, tasks) != name:
            raise UserError(
                f"{proposal}: {name}: {taker} is not tuned on this task",
                f"Take it out of carried_to; it is tuned on {tuning_task(taker, tasks)}.",
            )
    return [tasks[taker] for taker in entry["carried_to"]]


def _cells(chosen: Point, source: str, published: set[str]) -> dict[str, str]:
    """A row's new cells by column."""
    return {column: str(chosen[column]) for column in COLUMNS if column not in published} | {"settings_source": source}


def _columns(table: str) -> list[str]:
    return next(csv.reader([table.partition("\n")[0]]))


def _edited(table: str, rows: Mapping[str, dict[str, str]]) -> str:
    """The table's text with some cells changed; a row without a change keeps its text."""
    lines, columns = io.StringIO(table, newline="").readlines(), _columns(table)
    for index, line in enumerate(lines[1:], start=1):
        row = dict(zip(columns, next(csv.reader([line]), []), strict=False))
        changes = rows.get(row.get("task", ""), {})
        if any(row[column] != cell for column, cell in changes.items()):
            end = line[len(line.rstrip("\r\n")) :]
            text = io.StringIO()
            csv.writer(text, lineterminator=end).writerow((row | changes).values())
            lines[index] = text.getvalue()
    return "".join(lines)


def _diff(before: str, after: str, path: Path) -> str:
    """The changed lines alone, as a unified diff."""
    lines = unified_diff(before.splitlines(), after.splitlines(), f"{path} (before)", f"{path}", n=0, lineterm="")
    return "\n".join(lines)
