"""The baselines' tables of settings, from the published ones: `python -m mfql.published_settings`.

`config/baselines/published/hyperparameters.csv` holds what Flow Q-Learning (arXiv 2502.02538) publishes, one row a
task, method and setting (`offline` or `online`). Rows marked `exact` are of the commands of its released code, rows
marked `ocr` were read from its tables by character recognition, which lost zeros in places. This module makes of it
`config/baselines/METHOD.csv`, with every decision in the row's `settings_source`:

- The tasks of one OGBench dataset share their settings there. A cell that was read otherwise than on most of them is
  corrected to theirs. Where most do not agree, or agree against an exact row, what was read is only a stand-in. Exact
  rows stay as they are.
- A cell that the published file tells to treat with care is not taken, but stands in.
- A task that is not published has a stand-in and is `untuned`: what the method has for the same dataset in this stage,
  or else in the other, else what it has most often in the suite, else most often anywhere.
- Discounts follow the papers' rule (`discount_of`), which every published cell confirms.
- The task `*` is any other, such as one of your own: the settings that the method has most often, and the task
  table's discount.
"""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mfql.errors import UserError
from mfql.files import write_whole
from mfql.tables import ANY, KEYS, SOURCE, read_rows
from mfql.tasks import Task, default_task, load_tasks

PUBLISHED = Path("baselines", "published", "hyperparameters.csv")
_PAPER = "arXiv 2502.02538"
_SOURCES = {"exact": f"{_PAPER}, commands of its code", "ocr": f"{_PAPER}, tables, read by OCR"}
_STAGES = ("offline", "online")
_LONG = ("antmaze-giant", "humanoidmaze", "antsoccer")

Cells = tuple[str, ...]


@dataclass(frozen=True)
class Baseline:
    """A method with settings by task.

    Args:
        published: its name in the published file.
        columns: its settings by task beside the discount.
        stages: of its table.
    """

    published: str
    columns: tuple[str, ...]
    stages: tuple[str, ...] = _STAGES


BASELINES = {
    "fql": Baseline("FQL", ("alpha", "q_agg")),
    "ifql": Baseline("IFQL", ("num_samples",)),
    "fbrac": Baseline("FBRAC", ("alpha",)),
    "fawac": Baseline("FAWAC", ("alpha",)),
    "iql": Baseline("IQL", ("alpha",)),
    "rebrac": Baseline("ReBRAC", ("alpha_actor", "alpha_critic")),
    "calql": Baseline("Cal-QL", ("cql_alpha", "target_gap_beta")),
    "rlpd": Baseline("RLPD", (), ("online",)),
}


def discount_of(task: Task) -> str:
    """The discount of the baselines on a task of OGBench or D4RL."""
    return "0.995" if task.environment.startswith(_LONG) else "0.99"


@dataclass
class Found:
    """The published settings of one method.

    Args:
        cells: by task and stage, in the order of the method's columns.
        sources: where they are from.
        doubtful: why some are only stand-ins.
    """

    cells: dict[tuple[str, str], Cells] = field(default_factory=dict)
    sources: dict[tuple[str, str], str] = field(default_factory=dict)
    doubtful: dict[tuple[str, str], str] = field(default_factory=dict)


def tables(config_dir: Path) -> dict[str, str]:
    """The text of each method's table, by method.

    Raises:
        UserError: the published file is absent, or a row contradicts another or the rule of discounts.
    """
    tasks = load_tasks(config_dir / "tasks.csv")
    published = _published(config_dir / PUBLISHED)
    found = {name: _found(method, published, tasks) for name, method in BASELINES.items()}
    return {name: _text(method, _rows(method, found[name], tasks)) for name, method in BASELINES.items()}


def _published(path: Path) -> list[dict[str, str]]:
    return [row for row, _ in read_rows(path, "Run from the project's folder.")[1]]


def _found(method: Baseline, published: Iterable[Mapping[str, str]], tasks: Mapping[str, Task]) -> Found:
    found = Found()
    # Exact rows first: a task may have one of each kind.
    for row in sorted(published, key=lambda row: row["confidence"] != "exact"):
        if row["method"] != method.published:
            continue
        task = default_task(row["task"]) or row["task"]
        key, cells = (task, row["setting"]), _cells(method, row)
        _check(row, tasks[task])
        if key in found.cells:
            if found.cells[key] != cells:
                raise UserError(f"{PUBLISHED}: {method.published} on {task} has two values", "Keep one of the rows.")
            continue
        confidence, _, care = row["confidence"].partition(" ")
        found.cells[key], found.sources[key] = cells, _SOURCES[confidence]
        if care:
            found.doubtful[key] = f"as read by OCR, which lost zeros of this method on this suite: {' '.join(cells)}"
    _reconcile(method, found, tasks)
    return found


def _check(row: Mapping[str, str], task: Task) -> None:
    """Hold discount and steps of a published row against the rule and the task table."""
    steps = task.settings["offline_steps"]
    expected = {"discount": discount_of(task), "offline_steps": str(steps), "online_steps": "0"}
    if row["setting"] == "online":
        online, before = task.settings["online_steps"], task.settings["pretrain_steps"]
        # RLPD has no offline part.
        expected |= {"offline_steps": "0" if row["method"] == "RLPD" else str(before), "online_steps": str(online)}
    for column, value in expected.items():
        if row[column] not in ("", value):
            raise UserError(
                f"{PUBLISHED}: {row['method']} on {task.name} has {column} {row[column]}, not {value}",
                "Correct the row, the task table or the rule of discounts.",
            )


def _cells(method: Baseline, row: Mapping[str, str]) -> Cells:
    given = dict(pair.split("=") for pair in row["params"].split(";") if pair)
    if "q_agg" in method.columns:
        given["q_agg"] = row["q_agg"]
    return tuple(given[column].replace("-", "") for column in method.columns)


def _reconcile(method: Baseline, found: Found, tasks: Mapping[str, Task]) -> None:
    """Hold what was read of the tasks of each dataset against each other."""
    groups: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for key in found.cells:
        groups[tasks[key[0]].dataset, key[1]].append(key)
    for keys in groups.values():
        common, count = Counter(found.cells[key] for key in keys).most_common(1)[0]
        exact = [key for key in keys if found.sources[key] == _SOURCES["exact"]]
        agreed = 2 * count > len(keys) and all(found.cells[key] == common for key in exact)
        for key in keys:
            cell = found.cells[key]
            if key in exact:
                continue
            if not agreed:
                found.doubtful[key] = f"as read by OCR, and its dataset's tasks differ: {' '.join(cell)}"
            elif cell != common:
                found.cells[key] = common
                found.sources[key] += f"; corrected from {' '.join(cell)}, since its dataset's other tasks have this"


def _rows(method: Baseline, found: Found, tasks: Mapping[str, Task]) -> list[list[str]]:
    rows = []
    for task in tasks.values():
        if task.suite == "pointmaze":
            continue
        for stage in method.stages:
            if stage == "online" and task.settings["online_steps"] == 0:
                continue
            cells, source = _settings(method, found, tasks, task, stage)
            rows.append([task.name, stage, *cells, discount_of(task), source])
    usual = _most_common(_sure(found).values())
    source = f"untuned; most often so in {_PAPER}" if method.columns else "the task table's discount"
    return [*rows, *([ANY, stage, *usual, "task", source] for stage in method.stages)]


def _settings(method: Baseline, found: Found, tasks: Mapping[str, Task], task: Task, stage: str) -> tuple[Cells, str]:
    """The settings of a task and stage and their source."""
    key = (task.name, stage)
    if not method.columns:
        return (), f"{_PAPER}, its rule of discounts"
    if key in found.doubtful:
        return found.cells[key], f"untuned; {found.doubtful[key]}"
    if key in found.cells:
        return found.cells[key], found.sources[key]
    sure = _sure(found)
    for of in (stage, _STAGES[1 - _STAGES.index(stage)]):
        near = [cells for (name, one), cells in sure.items() if one == of and tasks[name].dataset == task.dataset]
        if near:
            return _most_common(near), f"untuned; as published for its dataset {of}"
    suite = [cells for (name, _), cells in sure.items() if tasks[name].suite == task.suite]
    if suite:
        return _most_common(suite), f"untuned; most often so on {task.suite}"
    return _most_common(sure.values()), f"untuned; most often so in {_PAPER}"


def _sure(found: Found) -> dict[tuple[str, str], Cells]:
    return {key: cells for key, cells in found.cells.items() if key not in found.doubtful}


def _most_common(cells: Iterable[Cells]) -> Cells:
    """The first of the most frequent."""
    return Counter(cells).most_common(1)[0][0]


def _text(method: Baseline, rows: list[list[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*KEYS, *method.columns, "discount", SOURCE])
    writer.writerows(rows)
    return text.getvalue()


def main() -> None:
    """Write the tables into `config/baselines`."""
    for name, text in tables(Path("config")).items():
        with write_whole(Path("config", "baselines", f"{name}.csv")) as file:
            file.write(text)


if __name__ == "__main__":
    main()
