"""Whether the tables that were made of a study's scores still say what those give: means and verdicts."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mfql.errors import UserError, in_one_line
from mfql.extensions import project_path
from mfql.files import there
from mfql.tasks import known_tasks

if TYPE_CHECKING:
    import pandas as pd

# Numbers of another machine or release of numpy may differ by rounding.
_ROUNDING = 1e-6


def altered_tables(scores: pd.DataFrame, study: Path, results: Path, config_dir: Path) -> Iterator[tuple[Path, str]]:
    """The tables of a study that hold something else than its scores give, and what.

    Each is made anew in memory. A verdict that cannot be, as without the extension of its runs, is left out: the runs
    themselves say so then.

    Args:
        scores: the table of scores as it lies there.
        study: its folder, with `aggregate/` and `verdict/`.
        results: the folder that holds `runs/`.
        config_dir: folder with the task table and `methods/`.
    """
    from mfql.report import chain, verdict_tables
    from mfql.report.aggregate import TABLES

    for name, made in TABLES.items():
        file = study / "aggregate" / f"{name}.csv"
        if there(file) and (said := _difference(file, made(scores))):
            yield file, said
    file = study / "verdict" / "verdict.csv"
    if there(file):
        try:
            compared = chain.references(project_path("published"), known_tasks(config_dir), config_dir)
            now = verdict_tables.verdicts(scores, results, compared)
        except UserError:
            return
        if said := _difference(file, now):
            yield file, said


def _difference(file: Path, now: pd.DataFrame) -> str:
    """Where a file holds another cell than a table in the columns of both, in words; empty if nowhere."""
    import pandas as pd

    from mfql.report.frames import read_frame

    texts: dict[str, Any] = {"dtype": str, "keep_default_na": False}
    held = read_frame(file, "Write it anew: snakemake --forcerun aggregate verdict.", **texts)
    table = pd.read_csv(io.StringIO(now.to_csv(index=False)), **texts)
    if len(held) != len(table):
        return f"has {len(held)} rows, where scores.csv gives {len(table)}"
    for column in [name for name in table.columns if name in held]:
        for row, (one, other) in enumerate(zip(held[column], table[column], strict=True), start=2):
            if one != other and not _is_rounding(one, other):
                return f"line {row}: {column} is {in_one_line(one)!r}, where scores.csv gives {other!r}"
    return ""


def _is_rounding(one: str, other: str) -> bool:
    with suppress(ValueError):
        return bool(np.isclose(float(one), float(other), rtol=_ROUNDING, atol=1e-9))
    return False
