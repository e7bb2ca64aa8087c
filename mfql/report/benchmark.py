"""Every method's score on every task, as papers' tables have them: ours, published numbers, scores from outside.

The table has one row a number, with the columns `COLUMNS`:

| column | meaning |
|---|---|
| scope | `task`, or the mean over the tasks of an `environment` or a `suite`; `unknown`: of task or environment |
| suite, environment, task | what it is of |
| column | what the number stands under: our method's name, else the published or outside method's |
| origin | `ours`, `published` or `outside` |
| value, low, high, std, seeds | of ours the mean over seeds with its 95 % interval; NaN where not known |
| source | where a published or outside number stands |

A mean over tasks is there only where the column has every task of the table's group: means over different tasks are no
comparison. A number of unknown scope stands beside those of its task and counts in none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from typing import Any

import pandas as pd

from mfql.errors import UserError, in_one_line
from mfql.files import write_whole
from mfql.report.formats import latex, markdown, markdown_cell
from mfql.report.frames import read_frame
from mfql.report.published import TASK, UNKNOWN, Numbers, Published, plain, reproduced_name
from mfql.report.tasks import ESTIMATED, UNSCALED, in_order, is_estimate, parts
from mfql.report.verdict import Verdict
from mfql.tasks import Task

OURS, PUBLISHED, OUTSIDE = "ours", "published", "outside"
COLUMNS = ["stage", "unit", "scope", "suite", "environment", "task", "column", "method", "origin"]
COLUMNS += ["value", "low", "high", "std", "seeds", "source"]
# The order of the papers' tables.
ORDER = ("BC", "IQL", "ReBRAC", "IDQL", "SRPO", "CAC", "FAWAC", "FBRAC", "IFQL", "FQL", "Cal-QL", "RLPD", "MFQL")
# Diffusion policies: shown with their published numbers, not trained here.
NOT_TRAINED = ("IDQL", "SRPO", "CAC")
_RANK = {plain(name): rank for rank, name in enumerate(ORDER)}


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: the method.
        ours: whether it has runs of ours.
        note: what to know of a column without them; empty else.
    """

    name: str
    ours: bool
    note: str


@dataclass(frozen=True)
class Table:
    """The table of a suite, stage and unit.

    Attributes:
        rows: scope and name (task, or what a mean is over) -> column -> origin -> the number's row.
    """

    stage: str
    unit: str
    suite: str
    columns: list[Column]
    rows: dict[tuple[str, str], dict[str, dict[str, dict[Any, Any]]]]

    def origins(self) -> set[str]:
        """The origins of the table's numbers."""
        return {origin for cells in self.rows.values() for found in cells.values() for origin in found}


def benchmark(
    verdicts: pd.DataFrame, published: Numbers, tasks: Mapping[str, Task], outside: Iterable[Published] = ()
) -> pd.DataFrame:
    """Collect the numbers on every task and stage that has a run of ours.

    Args:
        verdicts: of `mfql.report.verdict_tables.verdicts`.
        published: of `mfql.report.published.read_published`.
        tasks: the task table, by name.
        outside: of `mfql.report.published.read_outside`.

    Returns:
        The columns `COLUMNS`.
    """
    on_tasks = verdicts[verdicts["scope"] == "task"]
    asked = dict(zip(zip(on_tasks["task"], on_tasks["stage"], strict=True), on_tasks["unit"], strict=True))
    rows = [
        {
            **_place(row["task"], row["stage"], asked, tasks),
            "column": row["method"],
            "method": row["method"],
            "origin": OURS,
            "value": row["mean"],
            **{key: row[key] for key in ("low", "high", "std", "seeds")},
            "source": "",
        }
        for row in on_tasks.to_dict("records")
    ]
    trained: dict[str, list[str]] = {}
    for method in on_tasks["method"].unique():
        trained.setdefault(reproduced_name(method), []).append(method)
    for number in published.values():
        if number.at_hand and (number.task, number.stage) in asked:
            columns = trained.get(plain(number.method), [number.method])
            rows += [_row(number, PUBLISHED, column, asked, tasks) for column in columns]
    rows += [
        _row(number, OUTSIDE, number.method, asked, tasks) for number in outside if (number.task, number.stage) in asked
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    return in_order(pd.concat([table, *_means(table)], ignore_index=True))


def write(table: pd.DataFrame, folder: str | Path) -> None:
    """Write `benchmark.csv`, and as `benchmark.md` and `benchmark.tex` a table for each suite and stage."""
    with write_whole(Path(folder) / "benchmark.csv") as file:
        table.to_csv(file, index=False)
    printed = [(_heading(one), _printable(one)) for one in tables(table)]
    with write_whole(Path(folder) / "benchmark.md") as file:
        for heading, shown in printed:
            file.write(f"## {markdown_cell(heading)}\n\n{markdown(shown)}\n\n")
    with write_whole(Path(folder) / "benchmark.tex") as file:
        for heading, shown in printed:
            file.write(f"% {in_one_line(heading)}\n{latex(shown)}\n")


def read(path: str | Path) -> pd.DataFrame:
    """Read the `benchmark.csv` that `write` wrote.

    Raises:
        UserError: it is absent or has other columns.
    """
    remedy = "Write it anew with `mfql verdict`."
    texts = [*COLUMNS[:9], "source"]
    table = read_frame(path, remedy, texts=texts, dtype=dict.fromkeys(texts, str))
    if list(table.columns) != COLUMNS:
        raise UserError(f"{path} has the columns {list(table.columns)}, not {COLUMNS}", remedy)
    return table.fillna(dict.fromkeys(texts, ""))


def tables(table: pd.DataFrame) -> list[Table]:
    """The table of each stage, unit and suite, its columns in the papers' order."""
    found = []
    for keys, part in table.groupby(["stage", "unit", "suite"], sort=False):
        stage, unit, suite = map(str, keys)
        rows: dict[tuple[str, str], dict[str, dict[str, dict[Any, Any]]]] = {}
        for row in part.to_dict("records"):
            name = row["task"] or row["environment"] or row["suite"]
            scope = TASK if row["task"] else row["scope"]
            rows.setdefault((scope, name), {}).setdefault(row["column"], {})[row["origin"]] = row
        found.append(Table(stage, unit, suite, _columns(part), rows))
    return found


def number(row: Mapping[Any, Any]) -> str:
    """A number as text: mean ± standard deviation, where that is known; and where it is not known what it is of."""
    text = f"{row['value']:.1f}" + ("" if isnan(row["std"]) else f" ± {row['std']:.1f}")
    return f"{text}, {Verdict.SCOPE_UNKNOWN}" if row["scope"] == UNKNOWN else text


def _row(
    number: Published, origin: str, column: str, asked: Mapping[tuple[str, str], str], tasks: Mapping[str, Task]
) -> dict[str, Any]:
    return {
        **_place(number.task, number.stage, asked, tasks),
        "scope": number.scope,
        "column": column,
        "method": number.method,
        "origin": origin,
        "value": number.mean,
        "low": nan,
        "high": nan,
        "std": number.std,
        "seeds": nan if number.seeds is None else number.seeds,
        "source": number.source,
    }


def _place(task: str, stage: str, asked: Mapping[tuple[str, str], str], tasks: Mapping[str, Task]) -> dict[str, str]:
    asked_task = tasks[task]
    unit = asked[task, stage]
    return {
        "stage": stage,
        "unit": unit,
        "scope": TASK,
        "suite": asked_task.suite,
        "environment": asked_task.environment,
        "task": task,
    }


def _means(table: pd.DataFrame) -> list[pd.DataFrame]:
    """The means over environments and suites that have several tasks; plain returns have no common scale."""
    found = []
    table = table[~table["unit"].isin(UNSCALED) & (table["scope"] == TASK)]
    for scope, keys in (("environment", ["suite", "environment"]), ("suite", ["suite"])):
        for _, group in table.groupby(["stage", "unit", *keys], sort=False):
            several = group["task"].nunique()
            if several == 1 or (scope == "suite" and group["environment"].nunique() == 1):
                continue
            for _, own in parts(group, ["column", "origin"]):
                if own["task"].nunique() == several:
                    mean = own.iloc[:1].assign(scope=scope, task="", value=own["value"].mean(), source="")
                    mean = mean.assign(low=nan, high=nan, std=nan, seeds=own["seeds"].min())
                    found.append(mean if scope == "environment" else mean.assign(environment=""))
    return found


def _columns(part: pd.DataFrame) -> list[Column]:
    found = []
    for name, own in part.groupby("column"):
        origins = set(own["origin"])
        note = "" if OURS in origins else "from outside" if OUTSIDE in origins else "published only"
        if note == "published only" and name in NOT_TRAINED:
            note = "published only: a diffusion policy"
        found.append(Column(str(name), OURS in origins, note))
    return sorted(found, key=lambda column: (_RANK.get(reproduced_name(column.name), len(_RANK)), column.name))


def _heading(table: Table) -> str:
    what = f", {ESTIMATED}" if is_estimate(table.unit) else ""
    return f"{table.suite}, {table.stage}{what}: mean ± standard deviation over seeds, published numbers in parentheses"


def _printable(table: Table) -> pd.DataFrame:
    """The table as text, ours first, the published number in parentheses."""
    rows = []
    for (scope, name), cells in table.rows.items():
        row = {"task": name if scope == "task" else f"mean of {name}"}
        for column in table.columns:
            by_origin = cells.get(column.name, {})
            texts = [number(by_origin[origin]) for origin in (OURS, OUTSIDE) if origin in by_origin]
            texts += [f"({number(by_origin[PUBLISHED])})"] if PUBLISHED in by_origin else []
            row[column.name] = " ".join(texts)
        rows.append(row)
    return pd.DataFrame(rows, columns=["task", *(column.name for column in table.columns)])
