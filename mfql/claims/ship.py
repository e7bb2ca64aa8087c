"""Scores, tables, panels and small policies of finished runs: report and evaluation run again without training.

What is shipped is a results folder itself: `NAME/` with tables and panels, `runs/` with each run's result and manifest,
and of one seed the policy.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from mfql.errors import UserError
from mfql.files import write_whole
from mfql.report.panels import DESCRIPTION
from mfql.report.scores import read_scores

# Of a configuration's folder: tables, and the figures of panels, which cannot be drawn anew without their runs.
_KINDS, _DRAWN = (".csv", ".json", ".md"), (".svg", ".png")
_TABLES = ("scores.csv", "aggregate", "verdict", "toy", "ablations", "claims")
# Of a run, with the policy where it is shipped.
_OF_RUN = ("evaluation.json", "run/evaluation.json", "run/manifest.json")
_POLICY = ("run/policy/policy.json", "run/policy/policy.safetensors")
# Bytes of one file that is still small: densities of samples are not. Scores are shipped however many.
_LARGEST = 200_000


def ship(folder: Path, out: Path) -> int:
    """Copy what is small of a configuration's results.

    Of every run in its `scores.csv` the result and the manifest are copied, and of each method, task and stage the
    policy of the first seed. Files that are there already are replaced.

    Args:
        folder: of the configuration, such as `results/NAME`, with `runs/` beside it.
        out: such as `results/shipped`.

    Returns:
        Bytes of `out`.

    Raises:
        UserError: there are no scores, or a file of a run is absent.
    """
    scores = read_scores(folder / "scores.csv")
    for path in _small_files(folder):
        _copy(path, out / folder.name / path.relative_to(folder))
    for run, has_policy in _runs(scores):
        for part in (*_OF_RUN, *(_POLICY if has_policy else ())):
            _copy(folder.parent / run / part, out / run / part)
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file())


def _small_files(folder: Path) -> Iterable[Path]:
    """Of each folder all of these files, or none: what is left of a panel without its data is none."""
    for name in _TABLES:
        top = folder / name
        for place in [top, *sorted(path for path in top.rglob("*") if path.is_dir())]:
            kinds = _KINDS + _DRAWN if (place / DESCRIPTION).is_file() else _KINDS
            files = [place] if place.is_file() else sorted(path for path in place.glob("*") if path.suffix in kinds)
            if all(path.stat().st_size <= _LARGEST or path == folder / "scores.csv" for path in files):
                yield from files


def _runs(scores: pd.DataFrame) -> Iterable[tuple[str, bool]]:
    """Each run's folder from `runs` on, and whether its policy is shipped."""
    runs = scores[["method", "task", "stage", "seed", "run"]][scores["metric"] == "score"].drop_duplicates()
    first = runs.groupby(["method", "task", "stage"])["seed"].transform("min")
    starts = scores.loc[scores["metric"] == "start", "run"]
    yield from zip(runs["run"], runs["seed"] == first, strict=True)
    yield from ((run, False) for run in sorted(set(starts) - set(runs["run"])))


def _copy(source: Path, target: Path) -> None:
    if not source.is_file():
        raise UserError(f"{source} does not exist", "Let the configuration's workflow end, then ship it.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(target, "wb") as file, open(source, "rb") as content:
        shutil.copyfileobj(content, file)
