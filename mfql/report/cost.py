"""What the runs cost beside what they score: parameters, time a step, time an action, hours of a device."""

from __future__ import annotations

import pandas as pd

from mfql.report.tasks import RETURN, SUCCESS, in_order, parts, runs

COLUMNS = ["stage", "method", "device", "runs", "tasks", "parameters", "seeds_in_job", "step_ms", "acting_ms"]
COLUMNS += ["acting_ms_low", "acting_ms_high", "device_hours", "hours_a_run", SUCCESS, RETURN]


def cost(scores: pd.DataFrame) -> pd.DataFrame:
    """What the runs of each method cost on each device, stage by stage.

    Returns:
        stage, method, device, runs, tasks, and as medians over these runs parameters, seeds_in_job, step_ms (of a job,
        without evaluations; online the environment's step included), acting_ms; acting_ms_low and acting_ms_high, the
        least and the most of these runs (NaN where one measurement is all there is); device_hours (all of them),
        hours_a_run; success and normalized_return, the mean over these tasks in that unit. NaN where no manifest says
        it. A method without any cost is left out.
    """
    table = runs(scores).dropna(subset=["device_hours"])
    rows = []
    for (stage, method, device), part in parts(table, ["stage", "method", "device"]):
        medians = part[["parameters", "seeds_in_job", "step_ms", "acting_ms"]].median()
        by_task = part.groupby(["unit", "task"])["score"].mean()
        means = by_task.groupby("unit").mean()
        row = {
            "stage": stage,
            "method": method,
            "device": device,
            "runs": len(part),
            "tasks": part["task"].nunique(),
            **medians,
            **_reach(part["acting_ms"]),
            "device_hours": part["device_hours"].sum(),
            "hours_a_run": part["device_hours"].mean(),
            **{unit: means.get(unit) for unit in (SUCCESS, RETURN)},
        }
        rows.append(row)
    numbers = dict.fromkeys(COLUMNS[5:], float)
    return in_order(pd.DataFrame(rows, columns=COLUMNS).astype(numbers))


def _reach(acting: pd.Series) -> dict[str, float]:
    """The ends of what was measured; the runs of one job share a measurement, which alone has no ends."""
    known = acting.dropna() if acting.nunique() > 1 else pd.Series(dtype=float)
    return {"acting_ms_low": known.min(), "acting_ms_high": known.max()}
