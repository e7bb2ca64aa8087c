"""The verdicts on a table of scores: a row for each method, task and stage, for each suite, and over all tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from typing import Any

import pandas as pd

from mfql.errors import UserError, unknown
from mfql.experiment.records import read_manifest
from mfql.experiment.tuning import UNTUNED
from mfql.extensions import METHODS, extensions, find
from mfql.files import write_whole
from mfql.methods import settings_source
from mfql.report.formats import markdown
from mfql.report.frames import read_frame
from mfql.report.intervals import Interval, weighted
from mfql.report.places import link
from mfql.report.published import Numbers, Published, ThirdPartyRun, plain, reproduced_name
from mfql.report.tasks import RETURN, SUCCESS, UNSCALED, bounded, in_order, mean_of, parts, runs
from mfql.report.verdict import DECIDED, RULE, Comparison, Sample, Verdict, sample_of
from mfql.tasks import SCORED_EVALUATIONS, Task

PUBLISHED_EPISODES = 50  # of one evaluation, in every table of published/
COLUMNS = ["scope", "stage", "method", "task", "unit", "tasks", "left_out", "mean", "low", "high", "std", "seeds"]
COLUMNS += ["diverged", "published", "published_std", "published_seeds", "difference", "difference_low"]
COLUMNS += ["difference_high", "margin", "verdict", "more_seeds", "settings", "source", "third_party"]
_TEXT = ("scope", "stage", "method", "task", "unit", "left_out", "verdict", "settings", "source", "third_party")
# What are never averaged together.
_ALL = {SUCCESS: "all success rates", RETURN: "all normalised returns"}
_STEPS = {  # the settings that a run is as long as, with the columns of the task table that have the paper's
    "offline": {"offline_steps": "offline_steps"},
    "pretrain": {"offline_steps": "pretrain_steps"},
    "online": {"offline_steps": "pretrain_steps", "online_steps": "online_steps"},
}


@dataclass(frozen=True)
class References:
    """What scores are compared with.

    Attributes:
        published: of `mfql.report.published.read_published`.
        third_party: of `mfql.report.published.read_third_party`.
        tasks: the task table, by name.
        config_dir: folder of `methods/`; without it, or for a method that has no file there or in an extension, the
            task table's sources of settings hold.
    """

    published: Numbers
    third_party: Sequence[ThirdPartyRun]
    tasks: Mapping[str, Task]
    config_dir: Path | None = None

    def number(self, method: str, task: str, stage: str) -> Published | None:
        """The published number, with or without a mean; None where nobody published one."""
        return self.published.get((reproduced_name(method), task, stage))

    def is_own(self, method: str, task: str) -> bool:
        """Whether the method or the task is one of an extension's, of which no paper has runs of another size."""
        file = f"{METHODS}/{method.partition('+')[0]}.yaml"
        return self.tasks[task].registered is not None or any((folder / file).is_file() for folder in extensions())

    def settings_source(self, method: str, task: str, stage: str) -> str:
        """Where a method's settings of a task are from."""
        file = f"{METHODS}/{method.partition('+')[0]}.yaml"
        if self.config_dir is None or not find(self.config_dir, file).is_file():
            return self.tasks[task].settings_source
        return settings_source(method, task, stage, self.config_dir)


@dataclass(frozen=True)
class _Compared:
    """A row of the table, and the two samples of a task that counts in aggregates."""

    row: dict[str, Any]
    comparison: Comparison | None


def verdicts(scores: pd.DataFrame, results: str | Path, references: References) -> pd.DataFrame:
    """Compare every score with the published one.

    Args:
        scores: the table of `mfql.report.scores`.
        results: the folder that holds `runs/`, for the manifests.
        references: what to compare with.

    Returns:
        The columns `COLUMNS`: over all tasks, by suite, by task (`scope`: all | suite | task; `task`: what it is of).
        `tasks` is how many tasks a row covers, `left_out` which were left out of it and why. Means and differences are
        in percent or normalised return (`unit`); ends are NaN for a single seed. `more_seeds` is how many further seeds
        would decide an inconclusive comparison, NaN where none would.

    Raises:
        UserError: a manifest is absent, a task is not in the table, or a published success rate is no percentage.
    """
    compared = []
    for (stage, task, method), part in parts(_with_starts(runs(scores)), ["stage", "task", "method"]):
        if task not in references.tasks:
            raise unknown("task", task, list(references.tasks), "the task table")
        reduced = any(_is_reduced(Path(results) / run, references.tasks[task], stage) for run in part["run"])
        compared.append(_on_task(method, stage, part, reduced, references))
    rows = [one.row for one in compared]
    table = pd.DataFrame([*_over_tasks(compared, references.tasks), *rows], columns=COLUMNS)
    return in_order(table)


def write(table: pd.DataFrame, folder: str | Path) -> None:
    """Write `verdict.csv`, and `verdict.md` with the rule."""
    with write_whole(Path(folder) / "verdict.csv") as file:
        table.to_csv(file, index=False)
    with write_whole(Path(folder) / "verdict.md") as file:
        file.write(_markdown(table))


def read(path: str | Path) -> pd.DataFrame:
    """Read the `verdict.csv` that `write` wrote.

    Raises:
        UserError: it is absent or has other columns.
    """
    remedy = "Write it anew with `mfql verdict`."
    table = read_frame(path, remedy, texts=_TEXT, dtype=dict.fromkeys(_TEXT, str))
    if list(table.columns) != COLUMNS:
        raise UserError(f"{path} has the columns {list(table.columns)}, not {COLUMNS}", remedy)
    return table.fillna(dict.fromkeys(_TEXT, ""))


def printable(table: pd.DataFrame) -> pd.DataFrame:
    """The table as people read it, numbers as text: stage, task, method, ours, published, difference, verdict, ..."""
    rows = table.to_dict("records")
    shown = {
        "ours": [_estimate(row["mean"], row["low"], row["high"]) for row in rows],
        "seeds": [f"{row['seeds']:.0f}" if row["seeds"] else "" for row in rows],
        "published": [_plus_minus(row["published"], row["published_std"]) for row in rows],
        "difference": [
            _estimate(row["difference"], row["difference_low"], row["difference_high"], "+") for row in rows
        ],
        "margin": ["" if isnan(row["margin"]) else f"±{row['margin']:.1f}" for row in rows],
        "verdict": [_in_words(row) for row in rows],
    }
    return table[["stage", "task", "method"]].assign(**shown, **{"third party": table["third_party"]})


def for_page(path: str | Path, folder: str | Path) -> dict[str, Any]:
    """What the report shows of a `verdict.csv`.

    Args:
        path: the file that `write` wrote.
        folder: where the page will lie, for the link to the file.

    Returns:
        aggregates, tasks (rows of `printable` with more of their columns), counts (verdict of a task -> how many),
        judged (whether any task could be), rule, data (the link).

    Raises:
        UserError: the file is absent or has other columns.
    """
    table = read(path)
    shown = printable(table).assign(**{name: table[name] for name in ("tasks", "left_out", "source", "third_party")})
    is_task = table["scope"] == "task"
    return {
        "aggregates": shown[~is_task].to_dict("records"),
        "tasks": shown[is_task].to_dict("records"),
        "counts": table.loc[is_task, "verdict"].value_counts().to_dict(),
        "judged": bool(table.loc[is_task, "verdict"].isin([*DECIDED, Verdict.INCONCLUSIVE]).any()),
        "rule": RULE,
        "data": link(Path(path), Path(folder)),
    }


def _with_starts(table: pd.DataFrame) -> pd.DataFrame:
    """The runs, and once more under the stage `pretrain` those offline runs that an online run starts from."""
    starts = table["run"].isin(table["start_run"].dropna()) & (table["stage"] == "offline")
    return pd.concat([table, table[starts].assign(stage="pretrain")], ignore_index=True)


def _is_reduced(folder: Path, task: Task, stage: str) -> bool:
    """Whether a run was trained for fewer steps than the paper's."""
    manifest = read_manifest(folder / "run" / "manifest.json", ("settings", "reduced"))
    settings, steps = manifest["settings"], _STEPS[stage]
    if stage == "online" and settings.get("offline_steps") == 0:  # of a method without an offline part
        steps = {"online_steps": "online_steps"}
    fewer = (settings.get(key, nan) < task.settings[column] for key, column in steps.items())
    return bool(manifest["reduced"]) or any(fewer)


def _on_task(method: str, stage: str, part: pd.DataFrame, reduced: bool, references: References) -> _Compared:
    """The verdict on the runs of one method, task and stage; `part` has their rows of `runs`."""
    unit, task = part["unit"].iloc[0], references.tasks[part["task"].iloc[0]]
    ours = sample_of(part["score"].to_list(), part["score_episodes"].to_list())
    number = references.number(method, task.name, stage)
    published = _sample(number, ours, task, unit) if number and number.at_hand else None
    # A number that may be of other tasks is shown and no more: not even the difference to it means anything.
    comparison = Comparison([ours], [published], unit) if number and number.of_task and published else None
    source = references.settings_source(method, task.name, stage)
    # What nobody has published is of no smaller size than something.
    reduced = reduced and not (number is None and references.is_own(method, task.name))
    verdict = _barrier(number, reduced, source)
    own = _estimates(mean_of(part, "score"), comparison, verdict)
    row = own | {
        "scope": "task",
        "stage": stage,
        "method": method,
        "task": task.name,
        "unit": unit,
        "tasks": 1,
        "left_out": "",
        "std": ours.std,
        "seeds": ours.seeds,
        "diverged": int(part["diverged"].sum()),
        "published": published.mean if published else nan,
        "published_std": number.std if number else nan,
        "published_seeds": number.seeds if number and published else nan,
        "settings": source,
        "source": number.source if number else "",
        "third_party": _third_party(reproduced_name(method), task, stage, references.third_party),
    }
    return _Compared(row, comparison if verdict is None else None)


def _barrier(number: Published | None, reduced: bool, source: str) -> Verdict | None:
    """Why a score cannot be judged; None where it can. `source` is where the settings are from."""
    if reduced:
        return Verdict.REDUCED
    if number is None:
        return Verdict.NEVER
    if not number.at_hand:
        return Verdict.NOT_AT_HAND
    if not number.of_task:
        return Verdict.SCOPE_UNKNOWN
    return Verdict.UNTUNED if source.startswith(UNTUNED) else None


def _estimates(mean: Interval, comparison: Comparison | None, barrier: Verdict | None) -> dict[str, Any]:
    """The columns of our mean, of the difference and of the verdict."""
    verdict = barrier if comparison is None or barrier is not None else comparison.verdict()
    difference = comparison.difference() if comparison else Interval(nan, nan, nan)
    open_ = comparison is not None and verdict is Verdict.INCONCLUSIVE
    more = comparison.seeds_to_settle() if comparison and open_ else None
    return {
        "mean": mean.value,
        "low": mean.low,
        "high": mean.high,
        "published": comparison.published_mean if comparison else nan,
        "difference": difference.value,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "margin": comparison.margin if comparison else nan,
        "verdict": str(verdict),
        "more_seeds": nan if more is None else more,
    }


def _sample(number: Published, ours: Sample, task: Task, unit: str) -> Sample:
    """A published number as a sample; as many seeds as ours where their number is not known."""
    if unit == SUCCESS and not 0 <= number.mean <= 100:
        raise UserError(f"{number.where}: mean is {number.mean:g}, not a percentage", "Correct the row.")
    is_rate = ours.episodes > 0 and 0 <= number.mean <= 100
    episodes = PUBLISHED_EPISODES * SCORED_EVALUATIONS[task.score_rule] if is_rate else 0
    return Sample(number.mean, number.std, number.seeds or ours.seeds, episodes)


def _over_tasks(compared: Sequence[_Compared], tasks: Mapping[str, Task]) -> list[dict[str, Any]]:
    """The rows over all tasks, and over those of each suite; plain returns have no common scale."""
    table = pd.DataFrame([one.row for one in compared]).assign(index=range(len(compared)))
    table = table[~table["unit"].isin(UNSCALED)].copy()
    table["all"] = table["unit"].map(_ALL)
    table["suite"] = [tasks[task].suite for task in table["task"]]
    rows = []
    for scope in ("all", "suite"):
        for (method, unit, stage, name), part in parts(table, ["method", "unit", "stage", scope]):
            chosen = [compared[index] for index in part["index"]]
            rows.append(
                _aggregate(chosen) | {"scope": scope, "stage": stage, "method": method, "unit": unit, "task": name}
            )
    return rows


def _aggregate(compared: Sequence[_Compared]) -> dict[str, Any]:
    """The row over some tasks of a method, unit and stage: those that can be judged, each weighing the same."""
    judged = [one for one in compared if one.comparison is not None]
    left_out = pd.Series([one.row["verdict"] for one in compared if one.comparison is None], dtype=str).value_counts()
    shared = {"tasks": len(judged), "left_out": ", ".join(f"{count} {why}" for why, count in left_out.items())}
    shared |= {"std": nan, "settings": "", "source": "", "third_party": ""}
    if not judged:
        blank = _estimates(Interval(nan, nan, nan), None, Verdict.NOTHING)
        return shared | blank | {"seeds": 0, "diverged": 0, "published_std": nan, "published_seeds": nan}
    pairs = [(one.comparison.ours[0], one.comparison.published[0]) for one in judged if one.comparison]
    ours, published = [own for own, _ in pairs], [other for _, other in pairs]
    unit = judged[0].row["unit"]
    comparison = Comparison(ours, published, unit)
    mean = weighted([sample.group() for sample in ours], [1 / len(ours)] * len(ours))
    counts = {
        "seeds": min(sample.seeds for sample in ours),
        "diverged": sum(one.row["diverged"] for one in judged),
        "published_std": comparison.published_std,
        "published_seeds": min(sample.seeds for sample in published),
    }
    return shared | _estimates(bounded(mean, unit, "score"), comparison, None) | counts


def _third_party(method: str, task: Task, stage: str, found: Sequence[ThirdPartyRun]) -> str:
    """Third parties' scores on a task and stage in words, those by the task's own rule first."""
    # A run whose offline part is as long as that before online training is the same run.
    same = stage == "offline" and task.settings["offline_steps"] == task.settings["pretrain_steps"]
    stages = {stage, "pretrain"} if same else {stage}
    own = [run for run in found if run.number.task == task.name and plain(run.number.method) == method]
    own = [run for run in own if run.number.stage in stages]
    own.sort(key=lambda run: run.score_rule != task.score_rule)
    rules = {"last": "last evaluation", "last_three": "mean of the last three evaluations"}
    return "; ".join(
        f"{run.number.mean:g} (alpha {run.alpha:g}"
        + ("" if run.score_rule == task.score_rule else f", {rules[run.score_rule]}")
        + (f", {run.changed}" if run.changed else "")
        + ")"
        for run in own
    )


def _markdown(table: pd.DataFrame) -> str:
    """The page `verdict.md`."""
    rule = "\n".join(f"- **{name}**: {text}" for name, text in RULE.items())
    page = f"# Verdict\n\n{rule}\n"
    for heading, own in (("Over tasks", table[table["scope"] != "task"]), ("By task", table[table["scope"] == "task"])):
        shown = printable(own)
        if heading == "Over tasks":
            shown = shown.drop(columns="third party").assign(tasks=own["tasks"], **{"left out": own["left_out"]})
        page += f"\n## {heading}\n\n{markdown(shown)}\n"
    return page


def _estimate(value: float, low: float, high: float, sign: str = "") -> str:
    if isnan(value):
        return ""
    # What rounds to 0 has no sign.
    value, low, high = (round(number, 1) + 0.0 for number in (value, low, high))
    return f"{value:{sign}.1f}" + ("" if isnan(low) else f" [{low:{sign}.1f}, {high:{sign}.1f}]")


def _plus_minus(mean: float, std: float) -> str:
    if isnan(mean):
        return ""
    return f"{mean:.1f}" + ("" if isnan(std) else f" ± {std:.1f}")


def _in_words(row: dict[Any, Any]) -> str:
    """The verdict, and of an inconclusive one what would settle it."""
    if row["verdict"] != Verdict.INCONCLUSIVE:
        return str(row["verdict"])
    if row["scope"] == "task" and row["seeds"] == 1:
        return f"{row['verdict']}, one seed says nothing of the spread over seeds"
    if isnan(row["more_seeds"]):
        return f"{row['verdict']}, more seeds would not settle it"
    more = round(row["more_seeds"])
    return f"{row['verdict']}, {more} more seed{'' if more == 1 else 's'} would settle it"
