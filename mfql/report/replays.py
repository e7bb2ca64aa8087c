"""The table of replays: how far this simulator's steps are from those that the datasets recorded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mfql.documents import read_json
from mfql.errors import UserError
from mfql.files import write_whole
from mfql.report.panels import Text, write_panel

_OF_ALL = ("task", "dataset", "rows", "mujoco", "sha256")
_QUANTILES = ("median", "p95", "max", "moved")
_COLUMNS = ("task", "dataset", "quantity", *_QUANTILES, "rows", "mujoco", "sha256")


def write(files: Sequence[str | Path], out: str | Path, command: str) -> None:
    """Write the results of several replays as one table, and beside it as a panel of the report.

    Args:
        files: what `mfql.data.replay.replay` gave, as JSON.
        out: CSV, one row a task and quantity; columns as in a result's `discrepancy`, each in the quantity's own unit.
        command: what makes it, for its readers.

    Raises:
        UserError: a file is absent or is no result of a replay.
    """
    found = pd.DataFrame([row for file in files for row in _rows(Path(file))], columns=_COLUMNS)
    text = Text(
        "Recorded steps",
        "How far is one step of this simulator from the step that each dataset recorded?",
        "From recorded states the simulator takes one environment step with the recorded action. Over evenly spread "
        "rows the median, 95th percentile and maximum of the root mean square difference to the row that follows, in "
        "the quantity's own unit; beside them how far the step itself moves (median).",
        command,
    )
    write_panel(Path(out).parent, None, found, text, _readable(found))
    with write_whole(out) as file:
        found.to_csv(file, index=False)


def _rows(file: Path) -> list[dict[str, Any]]:
    result = read_json(file)
    try:
        of_all = {name: result[name] for name in _OF_ALL}
        return [
            of_all | {"quantity": quantity} | {name: f"{values[name]:.6g}" for name in _QUANTILES}
            for quantity, values in result["discrepancy"].items()
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} is no result of a replay ({error})", "Run `mfql data replay --out` anew.") from error


def _readable(found: pd.DataFrame) -> pd.DataFrame:
    """The table for people, cells as text."""
    shown = found[["dataset", "quantity", *_QUANTILES, "rows", "mujoco"]].astype(str)
    for name in _QUANTILES:
        shown[name] = shown[name].map(lambda value: f"{float(value):.1e}")
    return shown.rename(columns={"p95": "95 %", "moved": "step itself", "mujoco": "MuJoCo"})
