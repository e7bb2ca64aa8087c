"""Scores, tables, panels and small policies of finished runs: report and evaluation run again without training.

What is shipped is a results folder itself: `NAME/` with tables and panels, `runs/` with each run's result and manifest,
and of one seed the policy.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from mfql.errors import UserError
from mfql.experiment.find import AGGREGATE, PANEL
from mfql.files import read_json, write_json
from mfql.report.places import without_machine, without_places
from mfql.report.scores import read_scores

# Of a configuration's folder: tables, and the figures of panels, which cannot be drawn anew without their runs.
_KINDS, _DRAWN = (".csv", ".json", ".md"), (".svg", ".png")
_TABLES = ("scores.csv", AGGREGATE, "verdict", "toy", "ablations", "claims", "replay")
# Of a run, with the policy where it is shipped.
_OF_RUN = ("evaluation.json", "run/evaluation.json", "run/manifest.json")
_POLICY = ("run/policy/policy.json", "run/policy/policy.safetensors")
# What a run's identity rests on in its manifest, and the files whose sha256 stand there.
_MANIFEST, _IDENTIFYING = "manifest.json", ("agent", "settings", "dataset")
_VOUCHED_FOR, _TEXTS = ("evaluation.json", "policy.json"), (*_KINDS, ".svg")
# Bytes of a panel's data that are still small: densities of samples are not. Scores are shipped however many.
_LARGEST = 200_000


def ship(folder: Path, out: Path) -> int:
    """Copy what is small of a configuration's results, without what it says of the machine (`mfql.report.places`).

    Of every run in its `scores.csv` and of every ablation's that is drawn the result and the manifest are copied, and
    of each method, task and stage of the scores the policy of the first seed. What an earlier shipment of the
    configuration left there is replaced, its runs that nothing shipped names any more included.

    Args:
        folder: of the configuration, such as `results/NAME`, with `runs/` beside it.
        out: such as `shipped`.

    Returns:
        Bytes of `out`.

    Raises:
        UserError: there are no scores, a file of a run is absent or must name a folder of the machine, or `out` is the
            folder of the results themselves.
    """
    if out.resolve() == folder.parent.resolve():
        raise UserError(f"{out} holds the results themselves", "Ship them into another folder: --out DIR.")
    runs, place = _runs(folder), out / folder.name
    files = {path: Path(folder.name, path.relative_to(folder)) for path in _small_files(folder)}
    for run, has_policy in runs.items():
        files |= {folder.parent / run / part: Path(run, part) for part in (*_OF_RUN, *(_POLICY if has_policy else ()))}
    _require(files)
    before = set(_runs(place)) if place.exists() else set()
    with TemporaryDirectory(dir=_made(out)) as beside:
        made = Path(beside)
        for source, target in files.items():
            _made((made / target).parent)
            _copy(source, made / target)
        for path in (folder.name, *runs):
            _replace(made / path, out / path)
    shipped = {run for scores in out.glob("*/scores.csv") for run in _runs(scores.parent)}
    for run in before - shipped:
        shutil.rmtree(out / run, ignore_errors=True)
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file())


def _small_files(folder: Path) -> Iterable[Path]:
    """The files of `_TABLES`, of each folder all or none: what is left of a panel without its data is none."""
    for name in _TABLES:
        top = folder / name
        # Panels of the scores are drawn anew from the tables.
        below = [] if name == AGGREGATE else sorted(path for path in top.rglob("*") if path.is_dir())
        for place in [top, *below]:
            kinds = _KINDS + _DRAWN if (place / PANEL).is_file() else _KINDS
            files = [place] if place.is_file() else sorted(path for path in place.glob("*") if path.suffix in kinds)
            data = [path for path in files if path.suffix == ".csv" and path != folder / "scores.csv"]
            if all(path.stat().st_size <= _LARGEST for path in data):
                yield from files


def _runs(folder: Path) -> dict[str, bool]:
    """The folders of a configuration's runs from `runs` on, and whether the policy of each is shipped."""
    scores = read_scores(folder / "scores.csv")
    runs = scores[["method", "task", "stage", "seed", "run"]][scores["metric"] == "score"].drop_duplicates()
    first = runs.groupby(["method", "task", "stage"])["seed"].transform("min")
    others = [*sorted(scores.loc[scores["metric"] == "start", "run"]), *_runs_of_ablations(folder)]
    return dict.fromkeys(others, False) | dict(zip(runs["run"], runs["seed"] == first, strict=True))


def _runs_of_ablations(folder: Path) -> Iterable[str]:
    for panel in sorted(folder.glob(f"ablations/*/{PANEL}")):
        for point in read_json(panel.with_name("plan.json"))["points"]:
            yield from (f"runs/{point['method']}/{point['task']}/seed{seed}/offline" for seed in point["seeds"])


def _copy(source: Path, target: Path) -> None:
    """Copy a file without what it says of the machine; what a manifest vouches for is copied byte for byte.

    Raises:
        UserError: what must stay as it is names a folder of the machine.
    """
    if source.name == _MANIFEST:
        manifest = read_json(source)
        given = without_machine(manifest)
        for key in _IDENTIFYING:
            if given.get(key) != manifest.get(key):
                raise UserError(
                    f"{source} names a folder of this machine in its {key}, on which the run's identity rests",
                    "An agent in agents/ of an extension is named without a path: its runs can be shipped.",
                )
        write_json(target, given)
    elif source.suffix in _TEXTS and source.name not in _VOUCHED_FOR:
        content = source.read_bytes()
        target.write_bytes(without_places(content.decode()).encode())
    else:
        shutil.copyfile(source, target)
    if Path.home() != Path("/") and os.fsencode(Path.home()) in target.read_bytes():
        raise UserError(f"{source} names {Path.home()}, and what it says is vouched for", "It cannot be shipped.")


def _require(files: Iterable[Path]) -> None:
    """Refuse to begin unless every file is there."""
    for path in files:
        if not path.is_file():
            raise UserError(f"{path} does not exist", "Let the configuration's workflow end, then ship it.")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _replace(new: Path, old: Path) -> None:
    """Put a folder in the place of another of the same file system, which may be absent."""
    if old.exists():
        shutil.rmtree(old)
    new.rename(_made(old.parent) / old.name)
