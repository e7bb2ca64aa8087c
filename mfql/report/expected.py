"""The scores to expect from a configuration, and how those found compare."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd

from mfql.documents import read_yaml
from mfql.errors import UserError
from mfql.settings import STAGES

_RANGE = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
_STAGE = {
    "type": "object",
    "properties": {"score": _RANGE, "rise": _RANGE},
    "minProperties": 1,
    "additionalProperties": False,
}
_TASK = {"type": "object", "properties": dict.fromkeys(STAGES, _STAGE), "additionalProperties": False}
_METHOD = {"type": "object", "additionalProperties": _TASK}
_VALIDATOR = jsonschema.Draft202012Validator({"type": "object", "additionalProperties": _METHOD})

Expected = dict[tuple[str, str, str, str], tuple[float, float]]


def read_expected(path: str | Path) -> Expected:
    """Read the ranges that mean scores are expected in.

    Args:
        path: YAML of `{method: {task: {stage: {score: [low, high], rise: [low, high]}}}}`.

    Returns:
        (method, task, stage, metric) -> (low, high).

    Raises:
        UserError: the file cannot be read, or is no such mapping.
    """
    remedy = "Write it as {method: {task: {stage: {score: [low, high]}}}}."
    content = read_yaml(path, remedy)
    fault = jsonschema.exceptions.best_match(_VALIDATOR.iter_errors(content))
    if fault is not None:
        raise UserError(f"{path}: {fault.json_path.replace('$.', '')}: {fault.message}", remedy)
    return {
        (method, task, stage, metric): (low, high)
        for method, tasks in content.items()
        for task, stages in tasks.items()
        for stage, metrics in stages.items()
        for metric, (low, high) in metrics.items()
    }


def compare(tasks: pd.DataFrame, expected: Expected) -> pd.DataFrame:
    """The mean scores and rises found, beside those to expect.

    Args:
        tasks: the frame of `mfql.report.tasks.by_task`.
        expected: of `read_expected`.

    Returns:
        task, stage, method, metric, unit, value, low, high, seeds, expected_low, expected_high, verdict (as expected |
        below | above | not found | nothing to expect); every row of `tasks`, then what was expected and not found.
    """
    keys = ["method", "task", "stage", "metric"]
    ends = ["expected_low", "expected_high"]
    ranges = pd.DataFrame([(*key, *both) for key, both in expected.items()], columns=[*keys, *ends])
    ranges = ranges.astype(dict.fromkeys(ends, float))
    found = tasks.assign(order=np.arange(len(tasks))).merge(ranges, on=keys, how="outer").sort_values("order")
    found["verdict"] = "as expected"
    found.loc[found["value"] < found["expected_low"], "verdict"] = "below"
    found.loc[found["value"] > found["expected_high"], "verdict"] = "above"
    found.loc[found["expected_low"].isna(), "verdict"] = "nothing to expect"
    found.loc[found["value"].isna(), "verdict"] = "not found"
    columns = ["task", "stage", "method", "metric", "unit", "value", "low", "high", "seeds"]
    return found[[*columns, *ends, "verdict"]].reset_index(drop=True)
