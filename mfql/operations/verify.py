"""`mfql verify`: whether each result is what its manifest says, what the settings now ask for, and of one origin."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mfql.data.description import identifying, recorded_facts
from mfql.data.paths import description_path
from mfql.data.unpacked import altered_copy
from mfql.errors import UserError, counted, in_one_line
from mfql.experiment.find import look_for_runs, name_of
from mfql.experiment.records import IDENTIFYING, unreadable
from mfql.experiment.run import RunFolder, alterations, changes, describe_run
from mfql.extensions import reading_once
from mfql.files import MOST_JSON, CannotRead, files_below, is_refusal, listed, sha256, there
from mfql.methods import checkpoint_stage, declared_settings
from mfql.operations.derived import altered_tables
from mfql.settings import STAGES
from mfql.suites import split_paths
from mfql.tasks import find_task

if TYPE_CHECKING:
    import pandas as pd

# The folder, in that of a study, of what is made of the runs that are finished.
PARTIAL = "partial"
# What every result has to say of where it came from; an entry may say "none", as `image` does outside a container.
PROVENANCE = (
    "method", "agent", "task", "seed", "stage", "identity", "settings", "training_version", "starts_from", "dataset",
    "code", "packages", "hardware", "device", "threads", "image", "started", "finished", "seconds", "outputs",
)  # fmt: skip


class Kind(StrEnum):
    """What is wrong with a result."""

    ALTERED = "altered"
    STALE = "stale"
    UNKNOWN = "unknown"
    MIXED = "mixed"
    INCOMPLETE = "incomplete"
    UNREADABLE = "unreadable"


MEANING = {
    Kind.ALTERED: "not what was written: restore it, or remove it and make it anew",
    Kind.STALE: "older than the settings, data or runs of now: the same snakemake command makes it anew",
    Kind.UNKNOWN: "nobody can say whether it is stale: name its extension (mfql --extension DIR ...), or mend the file",
    Kind.MIXED: "an average over runs that differ in more than the seed",
    Kind.INCOMPLETE: "its manifest does not say all of where it came from",
    Kind.UNREADABLE: "nobody knows whether it is right: its owner, or root, can look",
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Args:
        kind: see `Kind`.
        where: the run, `METHOD/TASK/seedN/STAGE`, or the file and the average.
        what: what was found.
    """

    kind: Kind
    where: str
    what: str


@dataclass
class Verification:
    """The findings on a results folder, and how many runs and tables of scores were looked at."""

    findings: list[Finding] = field(default_factory=list)
    runs: int = 0
    tables: int = 0

    def text(self) -> str:
        """The findings for people: what is wrong, by kind; last, how much was looked at."""
        lines = []
        for kind in Kind:
            found = [finding for finding in self.findings if finding.kind is kind]
            if found:
                lines += [f"{kind}: {MEANING[kind]}", *(in_one_line(f"  {one.where}: {one.what}") for one in found), ""]
        verdict = counted(len(self.findings), "finding") if self.findings else "nothing is wrong"
        looked = f"{counted(self.runs, 'finished run')} and {counted(self.tables, 'table')} of scores"
        return "\n".join([*lines, f"{looked}: {verdict}"])


@reading_once()
def verify(path: Path, config_dir: Path, data: Path) -> Verification:
    """Look at every finished run at or below a path, and, where it is a results folder, at every `scores.csv` in it.

    Args:
        path: a results folder, or a folder of runs in it.
        config_dir: folder with the task table and `methods/`, for what the settings are now.
        data: the folder below which datasets lie, each known by the sha256 written beside it.

    Raises:
        UserError: there is no run. What cannot be read, or is damaged, is a finding.
    """
    looked = look_for_runs(path)
    found = Verification([_unreadable("runs", error) for error in looked.hidden])
    current = Current(config_dir, data)
    for run in looked.runs:
        try:
            found.findings += list(_of_run(run, current))
            found.runs += run.finished()
        except UserError as error:
            found.findings.append(_unreadable(name_of(run), error))
    found.findings += list(_of_images(current))
    known = {finding.where for finding in found.findings if finding.kind in (Kind.ALTERED, Kind.UNREADABLE)}
    for table in (path / "scores.csv" for path in _studies(path, found)):
        try:
            if there(table) or table.is_symlink():  # One that leads nowhere is no table that was never made.
                found.tables += 1
                found.findings += list(_of_table(table, path, config_dir, known))
        except UserError as error:
            found.findings.append(_unreadable(table.relative_to(path).as_posix(), error))
    return found


def _of_images(current: Current) -> Iterator[Finding]:
    """Images of the runs' datasets that were unpacked beside them, and are not what the datasets' files hold."""
    for path in current.archives():
        try:
            copy = altered_copy(path)
        except CannotRead as error:
            yield _unreadable(str(path), error)
            continue
        except OSError as error:
            if is_refusal(error):
                yield _unreadable(str(path), CannotRead(error.filename or path, error))
            continue
        except (ValueError, zipfile.BadZipFile):
            continue  # A file that is none is refused, with its copy, when it is trained on.
        if copy is not None:
            what = f"is not what {path.name} holds: remove it; training, which compares it too, unpacks it anew"
            yield Finding(Kind.ALTERED, str(copy), what)


def _unreadable(where: str, error: UserError) -> Finding:
    """What the system refuses says nothing of what was written; what was read and is no result of ours was altered."""
    return Finding(Kind.UNREADABLE if isinstance(error, CannotRead) else Kind.ALTERED, where, unreadable(error))


def _studies(path: Path, found: Verification) -> list[Path]:
    """The folders of a results folder that tables of scores lie in, partial reports' among them."""
    if path.name == "runs" or "runs" in path.absolute().parts:
        return []
    studies = [folder for folder in listed(path) if folder.name != "runs"]
    return [place for folder in studies for place in (folder, folder / PARTIAL)]


def _of_run(run: RunFolder, current: Current) -> Iterator[Finding]:
    name, manifest = name_of(run), run.manifest() or {}
    if not run.finished():
        if "outputs" in manifest:
            yield Finding(Kind.ALTERED, name, "run/evaluation.json is gone")
        return
    lacking = [entry for entry in PROVENANCE if entry not in manifest]
    if lacking:
        yield Finding(Kind.INCOMPLETE, name, f"lacks {', '.join(lacking)}")
    for fault in _alterations(run, manifest):
        yield Finding(Kind.ALTERED, name, fault)
    if not set(IDENTIFYING) - manifest.keys():
        yield from _of_now(run, manifest, current)


def _of_now(run: RunFolder, manifest: dict[str, Any], current: Current) -> Iterator[Finding]:
    """Whether a run would be trained anew, and whether that can be told without its extension."""
    try:
        reasons = changes(manifest, current.wanted(run, manifest))
    except CannotRead as error:
        yield _unreadable(name_of(run), error)
    except UserError as error:
        yield Finding(Kind.UNKNOWN, name_of(run), unreadable(error))
    else:
        if reasons:
            yield Finding(Kind.STALE, name_of(run), ", ".join(reasons))


def _alterations(run: RunFolder, manifest: dict[str, Any]) -> Iterator[str]:
    """What of a run is not as it was when it ended, the copy of its result among it."""
    yield from alterations(run, manifest)
    delivered = run.folder / "evaluation.json"
    if there(delivered) and sha256(delivered, MOST_JSON) != sha256(run.trained / "evaluation.json", MOST_JSON):
        yield "evaluation.json is not a copy of run/evaluation.json"
    elif delivered.is_symlink() and not there(delivered):
        yield "evaluation.json is a link that leads nowhere"


@dataclass
class Current:
    """What the settings and data of now ask for."""

    config_dir: Path
    data: Path
    _wanted: dict[RunFolder, dict[str, Any]] = field(default_factory=dict)
    _settings: dict[tuple[str, ...], tuple[str, dict[str, Any]]] = field(default_factory=dict)
    _datasets: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def wanted(self, run: RunFolder, manifest: dict[str, Any] | None) -> dict[str, Any]:
        """The run that training would make now, as `describe_run` describes it.

        Raises:
            UserError: its method, task or agent is not known here, as without its extension, or a file is faulty.
        """
        if run not in self._wanted:
            agent, settings = self._declared(run.method, run.task, run.stage)
            dataset = self.dataset(find_task(run.task, self.config_dir).dataset, (manifest or {}).get("dataset"))
            self._wanted[run] = describe_run(run, agent, settings, dataset, self._parent(run))
        return self._wanted[run]

    def _declared(self, method: str, task: str, stage: str) -> tuple[str, dict[str, Any]]:
        """Agent and settings: the same for all seeds, and dear to read."""
        key = (method, task, stage)
        if key not in self._settings:
            agent, settings = declared_settings(method, task, stage, self.config_dir)
            self._settings[key] = agent, settings.as_dict()
        return self._settings[key]

    def _parent(self, run: RunFolder) -> dict[str, Any] | None:
        if run.stage != "online":
            return None
        stage = checkpoint_stage(run.method, run.task, self.config_dir)
        if stage is None:
            return None
        start = RunFolder(run.results, run.method, run.task, run.seed, stage)
        return {"stage": stage, "identity": self.wanted(start, start.manifest())["identity"]}

    def dataset(self, name: str, used: dict[str, Any] | None) -> dict[str, Any]:
        """What identifies a dataset: as used, if it lies there still or none does, else as it lies there now."""
        if name not in self._datasets:
            self._datasets[name] = [recorded_facts(path) for path in self._descriptions(name)]
        described = self._datasets[name]
        before, now = (used or {}).get("sha256"), {facts["sha256"] for facts in described}
        sha256 = before if before in now or not now else min(now)
        return identifying(name, str(sha256), (*described, used or {}))

    def archives(self) -> list[Path]:
        """The .npz files of the datasets that runs were asked about, of those that lie below the folder of the data."""
        places = [(path.parent, name) for name in self._datasets for path in self._descriptions(name)]
        files = [file for folder, name in places for file in split_paths(folder, name).values()]
        return sorted({file for file in files if file.suffix == ".npz" and there(file)})

    def _descriptions(self, dataset: str) -> list[Path]:
        """The descriptions of a dataset below the folder of the data.

        Raises:
            CannotRead: none is found, and a folder cannot be looked into.
        """
        files, hidden = files_below(self.data)
        usual = description_path(self.data, dataset)
        found = [path for path in files if path.name == usual.name]
        if usual not in found and there(usual):  # A folder in its place, say, which its reader refuses.
            found.append(usual)
        if hidden and not found:
            raise hidden[0]
        return found


def _of_table(table: Path, results: Path, config_dir: Path, faulty: set[str]) -> Iterator[Finding]:
    """A table of scores: whether its runs still say what it holds, and whether its averages are of one origin."""
    from mfql.report.absent import absent_seeds, planned_beside, said
    from mfql.report.provenance import mixtures
    from mfql.report.scores import collect, read_scores
    from mfql.report.tasks import runs

    where = table.relative_to(results).as_posix()
    held = read_scores(table)
    for average, differences in mixtures(runs(held), results, config_dir).items():
        yield from (Finding(Kind.MIXED, f"{where}, {average}", line) for line in differences)
    if table.parent.name != PARTIAL:
        for (method, task, stage), seeds in absent_seeds(held, planned_beside(table)).items():
            lost = [RunFolder(results, method, task, seed, stage).trained / "evaluation.json" for seed in seeds]
            kind = Kind.ALTERED if any(_is_after(table, result) for result in lost) else Kind.STALE
            yield Finding(kind, where, f"has no score of {said((method, task, stage), seeds)}")
    for name, rows in held.groupby("run"):
        run = str(name).removeprefix("runs/")
        file = results / str(name) / "run" / "evaluation.json"
        if run in faulty:
            continue
        if not there(file):
            yield Finding(Kind.STALE, where, f"{run} has no result any more")
            continue
        starts = {f"{run.rpartition('/')[0]}/{stage}" for stage in STAGES}
        if run.endswith("/online") and starts & faulty:
            continue  # Its rise is from what is found apart.
        now = collect([file])
        if not _same(rows, now[now["run"] == name]):
            kind = Kind.ALTERED if _is_after(table, file) else Kind.STALE
            yield Finding(kind, where, f"does not hold what {run} says")
    for path, said_of in altered_tables(held, table.parent, results, config_dir):
        kind = Kind.ALTERED if _is_after(path, table) else Kind.STALE
        remedy = "edited, or written by another version; snakemake --forcerun aggregate verdict writes it anew"
        yield Finding(kind, path.relative_to(results).as_posix(), f"{said_of}: {remedy}")


def _is_after(table: Path, result: Path) -> bool:
    """Whether a result is there, and was when a table was made."""
    return there(result) and result.stat().st_mtime <= table.stat().st_mtime


def _same(held: pd.DataFrame, now: pd.DataFrame) -> bool:
    """Whether two tables of one run hold the same values, and say them of the same.

    What another run says of it is no part of it, nor a separate evaluation, which may come later, nor the score of one
    that diverged before its first evaluation, for which the task's other runs may stand in.
    """
    from mfql.report.origin import UNKNOWN
    from mfql.report.tasks import FINAL

    keys = ["stage", "step", "metric"]
    metrics = set(now["metric"])
    borrowed = (
        ["score", "rise"]
        if "diverged" in metrics and metrics & {"plain_return", "estimate"} and not metrics & {"return", "fqe_return"}
        else []
    )
    stage = str(held["run"].iloc[0]).rpartition("/")[2]
    left_out = [*FINAL, *borrowed]
    one, other = (
        table[(table["stage"] == stage) & ~table["metric"].isin(left_out)].sort_values(keys) for table in (held, now)
    )
    # A manifest that does not say the device any more is a finding of its own.
    of = ["method", "task", "seed", *keys, "origin", *(["device"] if UNKNOWN not in set(other["device"]) else [])]
    if not np.array_equal(one[of].to_numpy(str), other[of].to_numpy(str)):
        return False
    return bool(np.allclose(one["value"], other["value"], rtol=1e-9, atol=0))
