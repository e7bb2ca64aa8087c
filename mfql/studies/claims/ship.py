"""Scores, tables, panels and small policies of finished runs: report and evaluation run again without training.

What is shipped is a results folder itself: `NAME/` with tables and panels, `runs/` with each run's result and manifest,
and of one seed the policy.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from mfql.documents import read_object, write_json
from mfql.errors import UserError
from mfql.experiment.find import AGGREGATE, PANEL, is_under, run_of
from mfql.experiment.owned import link_on_the_way, remove_files
from mfql.experiment.records import read_evaluation, read_manifest, unreadable
from mfql.files import MOST_WEIGHTS, files_below, listed, open_file, sha256, there, write_whole
from mfql.report.absent import say_absent
from mfql.report.places import copy_given
from mfql.report.scores import read_scores
from mfql.studies.ablation.measure import read_plan

# Of a configuration's folder: tables, and the figures of panels, which cannot be drawn anew without their runs.
_KINDS, _DRAWN = (".csv", ".json", ".md"), (".svg", ".png")
_TABLES = ("scores.csv", AGGREGATE, "verdict", "toy", "ablations", "claims", "replay")
# Of a run, with the policy where it is shipped.
_OF_RUN = ("evaluation.json", "run/evaluation.json", "run/manifest.json")
_POLICY = ("run/policy/policy.json", "run/policy/policy.safetensors")
# Of a configuration's shipment: what was copied, by its path in the folder of shipments, with its sha256.
SHIPPED = "shipped.json"
# The parts of runs/METHOD/TASK/seedN/STAGE.
_DEPTH = 5
_READ = {"evaluation.json": read_evaluation, "manifest.json": read_manifest}
# Bytes of a panel's data that are still small: densities of samples are not. Scores are shipped however many.
_LARGEST = 200_000


class Shipment(NamedTuple):
    """What a folder of shipments holds.

    Attributes:
        bytes: of all its files.
        left: files that are in the way of none, and stay: changed since an earlier shipment copied them, or others'.
    """

    bytes: int
    left: list[Path]


def ship(folder: Path, out: Path) -> Shipment:
    """Copy what is small of a configuration's results, without what it says of the machine (`mfql.report.places`).

    Of every run in its `scores.csv` and of every ablation's that is drawn the result and the manifest are copied, and
    of each method, task and stage of the scores the policy of the first seed. `shipped.json` lists what was copied, so
    that the next shipment of the configuration removes what it ships no more. That alone goes, where it is still what
    was copied, and no other shipment has it.

    Args:
        folder: of the configuration, such as `results/NAME`, with `runs/` beside it.
        out: such as `shipped`.

    Returns:
        Bytes of `out`, and the files there that are of no shipment.

    Raises:
        UserError: there are no scores, a row of them names no run, a file of a run is absent or must name a folder of
            the machine, `out` is the folder of the results themselves, or a link in it leads elsewhere.
    """
    folder = Path(os.path.normpath(folder.absolute()))
    if out.resolve() == folder.parent.resolve():
        raise UserError(f"{out} holds the results themselves", "Ship them into another folder: --out DIR.")
    files = _files(folder)
    _require(files)
    say_absent(read_scores(folder / "scores.csv"), folder / "scores.csv")
    record = Path(folder.name, SHIPPED)
    before, others = _recorded(out / record), _of_others(out, out / folder.name)
    for target in (*files.values(), record):
        _refuse_link(out / target, out)
    with TemporaryDirectory() as beside:
        made = Path(beside)
        for source, target in files.items():
            _made((made / target).parent)
            copy_given(source, made / target)
        now = {target.as_posix(): sha256(made / target) for target in files.values()}
        # What is there from now on is recorded before it is: a kill leaves nothing that no record names.
        write_json(out / record, {"files": before | now})
        for target in files.values():
            with write_whole(out / target, "wb") as file:
                file.write((made / target).read_bytes())
    gone = {name: digest for name, digest in before.items() if name not in now and not _is_of(name, others)}
    left = _remove(gone, out)
    write_json(out / record, {"files": now})
    known = {out / name for name in (*now, record.as_posix())}
    left |= {path for path in files_below(out / folder.name)[0] if path not in known}
    return Shipment(sum(path.stat().st_size for path in out.rglob("*") if path.is_file()), sorted(left))


def _files(folder: Path) -> dict[Path, Path]:
    """What is shipped of a configuration's folder, and where to in the folder of shipments."""
    files = {path: Path(folder.name, path.relative_to(folder)) for path in _small_files(folder)}
    for run, has_policy in _runs(folder).items():
        files |= {folder.parent / run / part: Path(run, part) for part in (*_OF_RUN, *(_POLICY if has_policy else ()))}
    return files


def _recorded(record: Path) -> dict[str, str]:
    """The sha256 of each file of an earlier shipment, by its path in the folder of shipments."""
    files = read_object(record).get("files") if there(record) else {}
    if not isinstance(files, dict):
        raise UserError(f"{record} lists no files", "Put the right file in its place, or move it away.")
    return {str(name): str(digest) for name, digest in files.items()}


def _of_others(out: Path, place: Path) -> set[str]:
    """The files that the records of other shipments name, and the folders of the runs of their scores."""
    places = [folder for folder in listed(out) if folder != place]
    found = {name for folder in places for name in _recorded(folder / SHIPPED)}
    return found | {run for folder in places if there(folder / "scores.csv") for run in _runs(folder)}


def _is_of(name: str, others: set[str]) -> bool:
    return any(part.as_posix() in others for part in (Path(name), *Path(name).parents))


def _remove(recorded: Mapping[str, str], out: Path) -> set[Path]:
    """Remove files that an earlier shipment copied; returns those that are not what it copied."""
    gone: set[Path] = set()
    left: set[Path] = set()
    for path, digest in ((out / name, digest) for name, digest in recorded.items()):
        if os.path.lexists(path):
            is_inside = is_under(Path(os.path.normpath(path.absolute())), out)
            is_same = is_inside and link_on_the_way(path, out) is None and path.is_file() and sha256(path) == digest
            (gone if is_same else left).add(path)
    remove_files(gone, out)
    return left


def _refuse_link(target: Path, out: Path) -> None:
    if (link := link_on_the_way(target, out)) is not None:
        raise UserError(f"{link} is a link out of {out}, or may be: nothing is written there", "Ship into a folder.")


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
    found = dict.fromkeys(others, False) | dict(zip(runs["run"], runs["seed"] == first, strict=True))
    for run in found:
        if run_of(Path("results", run, "evaluation.json")) is None or len(Path(run).parts) != _DEPTH:
            raise UserError(
                f"{folder / 'scores.csv'} names the run {run!r}, which is none: runs/METHOD/TASK/seedN/STAGE",
                "Write it anew with `mfql scores`.",
            )
    return found


def _runs_of_ablations(folder: Path) -> Iterable[str]:
    for panel in sorted(folder.glob(f"ablations/*/{PANEL}")):
        for point in read_plan(panel.with_name("plan.json"))["points"]:
            yield from (f"runs/{point['method']}/{point['task']}/seed{seed}/offline" for seed in point["seeds"])


def _require(files: Iterable[Path]) -> None:
    """Refuse to begin unless every file is there and can be what it is taken for: scores name runs that are shipped."""
    faults = []
    for path in files:
        try:
            _look_at(path)
        except UserError as error:
            faults.append(error)
    if len(faults) == 1:
        raise faults[0]
    if faults:
        said = "; ".join(map(unreadable, faults))
        raise UserError(f"{len(faults)} files cannot be shipped: {said}", "Mend them, or train their runs again.")


def _look_at(path: Path) -> None:
    if not there(path):
        raise UserError(f"{path} does not exist", "Let the configuration's workflow end, then ship it.")
    with open_file(path):
        pass  # What is no file is refused by what it is.
    if path.name in _READ and run_of(path if path.parent.name != "run" else path.parent.with_name(path.name)):
        _READ[path.name](path)
    elif path.stat().st_size > MOST_WEIGHTS:
        raise UserError(f"{path} has more bytes than any file of its kind", "Put the right file in its place.")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
