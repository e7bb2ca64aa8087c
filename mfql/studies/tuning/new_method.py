"""A reviewed proposal as a method of its own: its file, a table of its settings by task, and the evidence."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from mfql.documents import read_text
from mfql.errors import UserError, unknown
from mfql.experiment.tuning import COLUMNS, TUNED, Point
from mfql.extensions import METHODS, find, method_names
from mfql.files import there, write_whole
from mfql.methods import declared_settings, keys_by_task, method_name, table_of
from mfql.studies.tuning.choose import write_proposal
from mfql.tables import ANY, KEYS, SOURCE, find_row, value_text
from mfql.tasks import known_tasks

_TABLES = "tuned"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_FROZEN = (
    "# Settings by task that `mfql tune freeze` carried here; the evidence lies beside the table. docs/tuning.md\n"
)
_EVIDENCE = (
    "# The evidence behind a method of `mfql tune freeze`, with the score of every point. docs/tuning.md explains it.\n"
)


def freeze_method(
    entries: Mapping[str, Any], name: str | None, proposal: Path, config_dir: Path, into: Path, dry_run: bool
) -> str:
    """Write a method with the choices of a proposal: `methods/NAME.yaml`, `tuned/NAME.csv` and `tuned/NAME.yaml`.

    Args:
        entries: of the proposal, checked, all of one method.
        name: the new method's; None only says what would be written.
        proposal: named in errors.
        config_dir: folder of the task table and `methods/`.
        into: folder that gets the files.
        dry_run: write nothing.

    Returns:
        what was or would be written.

    Raises:
        UserError: the entries are of several methods or settings, nothing was chosen, a choice is none that the method
            takes, a task is not known, or there is a method of that name that was not frozen.
    """
    chosen = {task: entry for task, entry in entries.items() if entry["chosen"] is not None}
    if not chosen:
        return f"{proposal}: nothing was chosen, and nothing is written"
    bases = {(entry["method"], tuple(settings_of(entry))) for entry in chosen.values()}
    if len(bases) > 1:
        raise UserError(f"{proposal} has entries of several methods or settings", "Freeze a file of each.")
    ((base, settings),) = bases
    if name is not None and not _NAME.fullmatch(name):
        raise UserError(f"{name!r} is no method's name", "Use letters, digits and _.-, a letter or digit first.")
    shown = name or f"{base.partition('+')[0]}-tuned"
    table = _table(chosen, base, settings, proposal, config_dir)
    file = f"{_FROZEN}{_document(shown, base, table)}"
    texts = {into / METHODS / f"{shown}.yaml": file, into / _TABLES / f"{shown}.csv": table}
    said = "\n".join(f"--- {path}\n{text}" for path, text in texts.items())
    if name is None:
        return f"{said}\nNothing is written: --new-method NAME writes these files, with --into DIR into an extension."
    if dry_run:
        return said
    _require_free(name, into, config_dir)
    frozen = {task: {"frozen": date.today(), **entry} for task, entry in chosen.items()}
    # The file that makes it a method comes last.
    write_proposal(frozen, into / _TABLES / f"{name}.yaml", _EVIDENCE)
    for path, text in reversed(texts.items()):
        with write_whole(path) as opened:
            opened.write(text)
    return said


def _require_free(name: str, into: Path, config_dir: Path) -> None:
    """Refuse the name of a method that this command did not write."""
    own = into / METHODS / f"{name}.yaml"
    is_frozen = there(own) and read_text(own, "Name another method.").startswith(_FROZEN)
    others = find(config_dir, f"{METHODS}/{name}.yaml").absolute() != own.absolute()
    if (there(own) and not is_frozen) or (others and name in method_names(config_dir)):
        raise UserError(f"there is a method {name} already, which was not frozen there", "Give another --new-method.")


def _table(chosen: Mapping[str, Any], base: str, settings: tuple[str, ...], proposal: Path, config_dir: Path) -> str:
    """The settings by task: those that were chosen and, of a method with a table of its own, that one's others."""
    tasks, own = known_tasks(config_dir), table_of(base, config_dir)
    by_task = keys_by_task(base, config_dir) - set(settings)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for task, entry in chosen.items():
        for taker in entry["carried_to"]:
            if taker not in tasks:
                raise unknown("task", taker, list(tasks), str(proposal))
            declared_settings(method_name(base, entry["chosen"]), taker, "offline", config_dir)
            # A table's stage `online` stands for both parts of that.
            for stage in (ANY,) if own is None else ("offline", "online"):
                others = {} if own is None else find_row(own, taker, stage).settings
                cells = {key: value for key, value in others.items() if key in by_task}
                rows[taker, stage] = {**cells, **entry["chosen"], SOURCE: source_of(task, entry, set())}
    if not rows:
        raise UserError(f"{proposal}: no task takes a choice", "Name tasks under carried_to.")
    columns = [*KEYS, *dict.fromkeys(key for row in rows.values() for key in row)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for key, row in rows.items():
        writer.writerow([*key, *(_cell(row.get(column), column) for column in columns[len(KEYS) :])])
    return text.getvalue()


def _cell(value: Any, column: str) -> str:
    if value is None:
        return ""
    return str(value) if column == SOURCE else value_text(value)


def _document(name: str, base: str, table: str) -> str:
    """The text of the method's file."""
    columns = next(csv.reader([table.partition("\n")[0]]))
    by_task = [column for column in columns if column not in (*KEYS, SOURCE)]
    content = {"inherits": base, "table": f"{_TABLES}/{name}.csv", **dict.fromkeys(by_task, "task")}
    return yaml.safe_dump(content, sort_keys=False, width=1000)


def source_of(task: str, entry: Mapping[str, Any], published: set[str]) -> str:
    """The settings_source of a row that takes a choice: on what it was tuned, with what, and how certain it is."""
    is_best = point_of(entry["points"][0], entry) == entry["chosen"]
    how = entry["certainty"] if is_best else "chosen by hand"
    kept = [column for column in COLUMNS if column in published]
    return f"{TUNED}{task} with {entry['method']} ({how})" + (f"; {' and '.join(kept)} published" if kept else "")


def point_of(evidence: Mapping[str, Any], entry: Mapping[str, Any]) -> Point:
    """The settings of a point in an entry of a proposal."""
    return {key: evidence[key] for key in settings_of(entry)}


def settings_of(entry: Mapping[str, Any]) -> Iterable[str]:
    """The settings that an entry chooses."""
    found: Iterable[str] = entry.get("settings", COLUMNS)
    return found
