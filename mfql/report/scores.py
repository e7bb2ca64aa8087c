"""Collect runs' `evaluation.json` files into one tidy table of scores.

The table has one row per run, step and metric, with the columns `COLUMNS`. Metrics:

| metric | at | value |
|---|---|---|
| success, return, length, ... | each evaluation | as the evaluation gives it; success in percent |
| episodes | each evaluation | how many episodes it ran |
| score | the last step | the run's score by its rule, in percent, normalised return or return |
| score_episodes | the last step | how many episodes a score rests on that is a rate of them (`is_rate`) |
| plain_return | the last step | 1 where the score is a return that is not normalised |
| estimate | the last step | 1 where the score is an estimate from a dataset: no episode was played |
| estimate_low, estimate_high | the last step | the ends of that estimate's own interval |
| diverged | the step of divergence | 1; absent for runs that did not |
| stopped | the step of early stopping | 1; absent for runs that went on to the end |
| broken | the last step | how many of its episodes broke, online ones among them; absent where none did |
| all_broken | the last step | 1 for a run of whose evaluations every episode broke; absent for others |
| start, start_episodes | the last step of the run that an online run starts from | its score; `run` names that run |
| rise | the last step | an online run's score minus `start` |
| final, final_episodes | the last step | the separate evaluation's score, `final.json`, and its episodes |
| parameters, seeds_in_job | the last step | parameters of one seed; how many seeds its job trained together |
| step_ms, acting_ms | the last step | a step of that job without evaluations; one action for one observation |
| device_hours | the last step | the run's share of its job's time on the device of its column `device` |

What a run cost is from its manifest, and absent where that does not say it.

**Diverged runs are never dropped: from the step at which it diverged on, a run scores 0.** Its `score` is 0 whatever
its last evaluations were, since whoever trains has no policy in hand at the end; counting the evaluations before would
be the choice of a best checkpoint, which the protocol excludes, and dropping the run would reward a method for failing.
Where the score is a plain return, 0 may be better than all others, and the worst of its evaluations stands in; where it
came to none, the worst of all runs of the task that are counted.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mfql.errors import UserError
from mfql.experiment.records import if_there, read_evaluation, read_final, read_manifest, unreadable
from mfql.experiment.run import has_own_identity, is_vouched_for
from mfql.files import there, write_whole
from mfql.report.frames import read_frame
from mfql.report.origin import COMPARED, described, device, incomparable, origin
from mfql.tables import require_no_formula
from mfql.tasks import ESTIMATE, SCORED_EVALUATIONS, scored

COLUMNS = ["method", "task", "seed", "stage", "step", "metric", "value", "run", "origin", "device"]
_TEXTS = ("method", "task", "stage", "metric", "run", "origin", "device")
DIVERGED_SCORE = 0.0
# Metrics of which 0 may be better than all that runs reach.
_WITHOUT_ZERO = ("return", ESTIMATE)


class Altered(UserError):
    """A run's evaluation is not what its manifest vouches for."""


class Collected(NamedTuple):
    """A table of scores, and the runs that a partial one leaves out since they are not what their manifests say.

    Attributes:
        table: the columns `COLUMNS`.
        altered: the runs' folders from `runs` on.
    """

    table: pd.DataFrame
    altered: list[str]


def collect(files: Iterable[str | Path], partial: bool = False) -> pd.DataFrame:
    """The table of `gather`."""
    return gather(files, partial).table


def gather(files: Iterable[str | Path], partial: bool = False) -> Collected:
    """Read the `evaluation.json` of runs into one tidy table.

    The run that an online run starts from is read too, whether listed or not. A run whose manifest is at hand is taken
    if that vouches for what is read.

    Args:
        files: `.../runs/METHOD/TASK/seedN/STAGE/evaluation.json`; an order or a repetition changes nothing.
        partial: leave out those that cannot be used, or are of earlier settings, data or training version while some
            are trained anew.

    Returns:
        The columns `COLUMNS`, sorted; `run` is the run's folder from `runs` on, `origin` that of `mfql.report.origin`,
        `device` what the run trained on; and which are left out as altered.

    Raises:
        UserError: no file is given; one is absent, is no JSON, lacks a value, says another run than its folder, or is
            not what its manifest vouches for; or runs of one method, task and stage cannot be averaged, or one has no
            finite score, unless partial.
    """
    runs, manifests, altered = _readable({Path(file).absolute(): None for file in files}, partial)
    for lost in _without_score(runs, partial):
        del runs[lost]
    if not runs:
        raise UserError("no evaluation.json was given", "Train a run first, or give the files that exist.")
    for earlier in _incomparable({path: manifests[path] for path in runs}, partial):
        del runs[earlier]
    worst = worst_returns(runs.values())
    rows = []
    for path, run in runs.items():
        manifest = manifests[path]
        known = (origin(manifest), device(manifest))
        own = [*_rows(path, run, runs, worst), *_final(path, run, worst), *_cost(path, run, manifest)]
        rows += [(*row, *known) for row in own]
    frame = pd.DataFrame(rows, columns=COLUMNS).astype({"seed": int, "step": int, "value": float})
    table = frame.sort_values(["method", "task", "seed", "stage", "metric", "step"], ignore_index=True)
    _require_no_formulas(table, "a run")
    return Collected(table, altered)


def write_scores(scores: pd.DataFrame, path: str | Path) -> None:
    """Write the table as CSV, whole or not at all."""
    with write_whole(path) as file:
        scores.to_csv(file, index=False)


def read_scores(path: str | Path) -> pd.DataFrame:
    """Read a table that `write_scores` wrote.

    Raises:
        UserError: the file is absent, has other columns, holds no score, or lacks that of a run.
    """
    remedy = "Write it anew with `mfql scores`."
    kinds = {"method": str, "task": str, "seed": int, "step": int, "value": float}
    filled = ("method", "task", "stage", "metric", "run")
    scores = read_frame(path, remedy, COLUMNS, _TEXTS, filled=filled, dtype=kinds)
    if list(scores.columns) != COLUMNS:
        raise UserError(f"{path} has the columns {list(scores.columns)}, not {COLUMNS}", remedy)
    _require_no_formulas(scores, str(path))
    if not (scores["metric"] == "score").any():
        raise UserError(f"{path} holds no score", "Train a run to its end first.")
    own = scores[~scores["metric"].isin(_OF_ANOTHER)]
    # Of returns it may be told, too, which episodes succeeded.
    successes = _runs_with(own, "success") - _runs_with(own, "normalized_return") - _runs_with(own, "plain_return")
    for runs, demanded in ((_runs_with(scores, ""), "score"), (successes, "score_episodes")):
        if lacking := sorted(runs - _runs_with(scores, demanded)):
            method, task, seed, stage = lacking[0]
            raise UserError(f"{path} has rows of {method} {task} seed {seed} {stage}, and no {demanded} of it", remedy)
    return scores


# The rows that an online run has of the run that it starts from.
_OF_ANOTHER = ("start", "start_episodes")


def _runs_with(scores: pd.DataFrame, metric: str) -> set[tuple[str, str, int, str]]:
    """Method, task, seed and stage of the runs that have a metric; of all for an empty one."""
    own = scores[scores["metric"] == metric] if metric else scores
    return set(own[["method", "task", "seed", "stage"]].drop_duplicates().itertuples(index=False, name=None))


def _require_no_formulas(scores: pd.DataFrame, where: str) -> None:
    for column in ("method", "task", "device"):
        for text in scores[column].unique():
            require_no_formula(str(text), f"the {column} of {where}")


def _readable(
    files: Iterable[Path], partial: bool
) -> tuple[dict[Path, dict[str, Any]], dict[Path, dict[str, Any] | None], list[str]]:
    """The runs of these files and those that they start from, their manifests, and the runs that are altered.

    Raises:
        UserError: files of some are absent or faulty, unless partial: a mean without them would be another.
    """
    runs: dict[Path, dict[str, Any]] = {}
    manifests: dict[Path, dict[str, Any] | None] = {}
    faults: dict[Path, UserError] = {}
    waiting = list(dict.fromkeys(files))
    known = set(waiting)
    for path in waiting:
        try:
            run = read_evaluation(path)
            manifests[path] = _manifest(path, run)
            _require_vouched_for(path, manifests[path] or {})
            _final_of(path)
            start = _start_of(path, run)
        except UserError as error:
            faults[path] = error
            continue
        runs[path] = run
        if start is not None and start not in known:
            waiting.append(start)
            known.add(start)
    if len(faults) == 1 and not partial:
        raise next(iter(faults.values()))
    said = "; ".join(map(unreadable, faults.values()))
    if faults and not partial:
        raise UserError(
            f"{len(faults)} of {len(waiting)} runs cannot be scored: {said}",
            "Mend or train them again; or report the other runs alone (--partial).",
        )
    if faults:
        print(f"Left out, since a file of theirs cannot be used: {said}", file=sys.stderr)
    return runs, manifests, [_run_name(path) for path, error in faults.items() if isinstance(error, Altered)]


def _without_score(runs: Mapping[Path, dict[str, Any]], partial: bool) -> list[Path]:
    """Finished runs without a finite score: earlier versions took an environment's numbers as they came.

    Raises:
        UserError: there are some, unless partial. To leave them out of an average would reward a method for failing.
    """
    lost = [path for path, run in runs.items() if run["status"] != "diverged" and not _is_finite(run["score"])]
    names = ", ".join(map(_run_name, lost))
    if lost and not partial:
        raise UserError(
            f"the score of {names} is no finite number: its environment gave some in an evaluation that are not, which"
            " earlier versions did not look at",
            f"Remove {_folder(lost[0]) / 'run'}{' and that of the others' if len(lost) > 1 else ''}, and launch again:"
            " trained anew, episodes that break count as failed. Or report the other runs alone (--partial).",
        )
    if lost:
        print(f"Left out, without a finite score: {names}", file=sys.stderr)
    return lost


def _is_finite(score: float | None) -> bool:
    return score is not None and math.isfinite(score)


def _manifest(path: Path, run: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest that has to know an evaluation.json; None where none is at hand.

    While a run is trained anew, its earlier result and manifest are moved aside, and the copy of the result stays.
    Beside a run that has finished there is no copy of another's.
    """
    for trained in ("run", f"run.{run['identity']}"):
        manifest = if_there(read_manifest, _folder(path) / Path(trained).name / "manifest.json") or {}
        if manifest.keys() >= COMPARED and manifest.get("identity") == run["identity"]:
            return manifest
    here = if_there(read_manifest, _folder(path) / "run" / "manifest.json") or {}
    return here if here.get("outputs") and here.keys() >= COMPARED else None


def _require_vouched_for(path: Path, manifest: dict[str, Any]) -> None:
    """Refuse an evaluation that the manifest of its run, if any is at hand, does not vouch for.

    Raises:
        Altered: it is not the file that the manifest knows, or the manifest is not what it was.
    """
    remedy = "Restore it, or remove it and make it anew; `mfql verify` looks at all of the run."
    if not is_vouched_for(path, manifest):
        raise Altered(f"{path} is altered: it is not the file that its manifest knows", remedy)
    if not has_own_identity(manifest):
        what = "is altered: it has other settings, versions or data than its identity is of"
        raise Altered(f"{_folder(path) / 'run' / 'manifest.json'} {what}", remedy)


def _incomparable(manifests: dict[Path, dict[str, Any] | None], partial: bool) -> list[Path]:
    """The runs that are not of the same settings, data and training version as the newest of their method and task."""
    groups: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    paths = {_run_name(path): path for path in manifests}
    for path, manifest in manifests.items():
        if manifest is not None:
            keys = tuple(str(manifest[key]) for key in ("method", "task", "stage"))
            groups.setdefault(keys, {})[_run_name(path)] = manifest
    left_out = []
    for keys, found in groups.items():
        differences = incomparable(found)
        if differences and not partial:
            raise UserError(
                f"the runs of {' '.join(keys)} are not of one kind: {' | '.join(described(differences))}",
                "Train the earlier ones anew, as the workflow does; or report the newest alone (--partial).",
            )
        if differences:
            newest = max(found.values(), key=lambda manifest: str(manifest.get("finished")))
            left_out += [name for name, own in found.items() if incomparable({"": newest, name: own})]
    if left_out:
        print(f"Left out, of earlier settings, data or training version: {', '.join(left_out)}", file=sys.stderr)
    return [paths[name] for name in left_out]


def _run_name(path: Path) -> str:
    """The folder of an evaluation.json's run from `runs` on."""
    return "/".join(_folder(path).parts[-5:])


def _start_of(path: Path, run: dict[str, Any]) -> Path | None:
    """The evaluation.json of the run that an online run starts from; None where there is none (any more).

    The declared copy may be lost; the trainer's own, in the folder `run`, serves as well.
    """
    stage = run.get("starts_from")
    if run["stage"] != "online" or not stage:
        return None
    folder = _folder(path).parent / stage
    return next((file for file in (folder / path.name, folder / "run" / path.name) if there(file)), None)


def _folder(path: Path) -> Path:
    """The folder of the run that an evaluation.json is of, be it the declared copy or the trainer's own."""
    return path.parent.parent if path.parent.name == "run" else path.parent


def _score(run: dict[str, Any], worst: Mapping[str, float]) -> float:
    """The run's score, by the rule for diverged runs where it diverged."""
    return diverged_score(run, worst) if run["status"] == "diverged" else float(run["score"])


def diverged_score(run: Mapping[str, Any], worst: Mapping[str, float]) -> float:
    """What a run scores that diverged, from its evaluation.json.

    Args:
        worst: by task, what stands in for a return where the run came to no evaluation; `worst_returns`.
    """
    if run["metric"] not in _WITHOUT_ZERO:
        return DIVERGED_SCORE
    return worst_returns([run]).get(run["task"], worst.get(run["task"], DIVERGED_SCORE))


def worst_returns(runs: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """By task, the lowest mean return of all evaluations of these runs; without a task that has none."""
    found: dict[str, float] = {}
    for run in runs:
        metric = run["metric"] if run["metric"] in _WITHOUT_ZERO else "return"
        values = [float(one[metric]) for one in run["evaluations"] if one.get(metric) is not None]
        if values:
            found[run["task"]] = min(*values, found.get(run["task"], math.inf))
    return found


def is_rate(run: Mapping[str, Any]) -> bool:
    """Whether a run's score is a share of its episodes, in percent, from its evaluation.json.

    A success rate is. So is a normalised return that equals it in every evaluation: D4RL's AntMaze pays 1 where an
    episode reaches its goal, and is normalised from 0 to 1.
    """
    if run["metric"] == "success":
        return True
    pairs = [(one.get("normalized_return"), one.get("success")) for one in run["evaluations"]]
    return bool(pairs) and run["metric"] == "normalized_return" and all(map(_agree, pairs))


def _agree(pair: tuple[float | None, float | None]) -> bool:
    first, second = pair
    return first is not None and second is not None and math.isclose(first, second, rel_tol=1e-9, abs_tol=1e-9)


def ends_of_estimate(run: Mapping[str, Any]) -> tuple[float, float]:
    """The low and high end of the interval of the estimate that a run ended with, from its evaluation.json.

    They are NaN of a diverged run, whose score is no estimate of what it ended with, and of a score of episodes.
    """
    if run["metric"] != ESTIMATE or run["status"] == "diverged":
        return math.nan, math.nan
    last = run["evaluations"][-1]
    return float(last["fqe_low"]), float(last["fqe_high"])


def _score_episodes(run: dict[str, Any]) -> int:
    """How many episodes the score rests on; a diverged run counts with as many as it would have had."""
    if run["status"] == "diverged":
        return SCORED_EVALUATIONS[run["score_rule"]] * int(run["episodes"])
    return sum(int(evaluation["episodes"]) for evaluation in scored(run["evaluations"], run["score_rule"]))


def _rows(
    path: Path, run: dict[str, Any], runs: dict[Path, dict[str, Any]], worst: Mapping[str, float]
) -> list[tuple[Any, ...]]:
    """The run's rows, in the order of `COLUMNS` but for origin and device."""
    rows: list[tuple[Any, ...]] = []
    keys, name = (run["method"], run["task"], run["seed"], run["stage"]), _run_name(path)

    def add(step: int, metric: str, value: float, of: str = name) -> None:
        rows.append((*keys, step, metric, value, of))

    for evaluation in run["evaluations"]:
        for metric, value in evaluation.items():
            if metric not in ("step", "broken") and value is not None:
                add(evaluation["step"], metric, value)
    add(run["steps"], "score", _score(run, worst))
    if is_rate(run):
        add(run["steps"], "score_episodes", _score_episodes(run))
    if run["metric"] == "return":
        add(run["steps"], "plain_return", 1)
    if run["metric"] == ESTIMATE:
        add(run["steps"], "estimate", 1)
        for metric, end in zip(("estimate_low", "estimate_high"), ends_of_estimate(run), strict=True):
            if not math.isnan(end):
                add(run["steps"], metric, end)
    if run["status"] == "diverged":
        add(run["diverged_at"], "diverged", 1)
    if run.get("stopped_at") is not None:
        add(run["stopped_at"], "stopped", 1)
    if broken := run.get("broken_online", 0) + sum(one.get("broken") or 0 for one in run["evaluations"]):
        add(run["steps"], "broken", broken)
    if run["evaluations"] and all(one.get("broken") == one["episodes"] for one in run["evaluations"]):
        add(run["steps"], "all_broken", 1)
    start = _start_of(path, run)
    if start is not None and start in runs:
        before = runs[start]
        add(before["steps"], "start", _score(before, worst), _run_name(start))
        if is_rate(before):
            add(before["steps"], "start_episodes", _score_episodes(before), _run_name(start))
        add(run["steps"], "rise", _score(run, worst) - _score(before, worst))
    return rows


def _final_of(path: Path) -> dict[str, Any] | None:
    return if_there(read_final, _folder(path) / "final.json")


def _final(path: Path, run: dict[str, Any], worst: Mapping[str, float]) -> list[tuple[Any, ...]]:
    """The rows of the separate evaluation of the run's policy; none where there is none of this very run."""
    file, found = _folder(path) / "final.json", _final_of(path)
    if found is None or found["identity"] != run["identity"]:
        return []
    if not _is_finite(found.get(run["metric"])):
        raise UserError(f"{file} lacks a finite {run['metric']}", "Write it anew with `mfql evaluate`.")
    score = diverged_score(run, worst) if run["status"] == "diverged" else float(found[run["metric"]])
    return _at_the_end(path, run, {"final": score, "final_episodes": found["episodes"]})


def _cost(path: Path, run: dict[str, Any], manifest: dict[str, Any] | None) -> list[tuple[Any, ...]]:
    """The rows of what the run cost."""
    known = {key: (manifest or {}).get(key) for key in ("parameters", "step_ms", "acting_ms")}
    if manifest is not None and manifest.get("seconds") is not None:
        seeds = len(manifest.get("seeds_in_job") or [run["seed"]])
        begun = (manifest.get("sessions") or [{}])[-1].get("from_step", 0)
        # Of a continued run the manifest knows the last session's time.
        whole = run["steps"] / (run["steps"] - begun) if 0 < begun < run["steps"] else 1.0
        known |= {"seeds_in_job": seeds, "device_hours": manifest["seconds"] * whole / seeds / 3600}
    return _at_the_end(path, run, {name: value for name, value in known.items() if value is not None})


def _at_the_end(path: Path, run: dict[str, Any], values: dict[str, float]) -> list[tuple[Any, ...]]:
    """One row a value, at the run's last step."""
    keys = (run["method"], run["task"], run["seed"], run["stage"], run["steps"])
    name = _run_name(path)
    return [(*keys, metric, value, name) for metric, value in values.items()]
