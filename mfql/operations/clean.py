"""`mfql clean`: what finished runs and downloads no longer need, shown, and removed when one says so.

Of a run that stays, policy, evaluation, manifest, training log and TensorBoard's files are never touched; nor is any
run that is in use or unfinished, or the final state of one from which an online run still has to start. What goes are
files that this project wrote, known by their whole names and by what its records say, below the folder that was given
and behind no link. Whatever else lies among them is left, and named.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from mfql.data.description import source_of
from mfql.data.passing import KINDS, is_recorded, record_of
from mfql.data.paths import description_path
from mfql.errors import UserError
from mfql.experiment.configuration import LOCK, find_run, planned_runs
from mfql.experiment.find import is_under, look_for_runs, name_of
from mfql.experiment.owned import is_checkpoint, link_on_the_way, own_files, remove_files
from mfql.experiment.records import IDENTIFYING, read_manifest
from mfql.experiment.run import Fate, RunFolder, alterations, changes
from mfql.extensions import reading_once
from mfql.files import CannotRead, files_below, listed, sha256, there
from mfql.locks import InUse, holder, locked
from mfql.operations.verify import Current
from mfql.plan.outlook import Outlooks


class Kind(StrEnum):
    """What can be removed."""

    CHECKPOINTS = "checkpoints"
    EARLIER_RUNS = "earlier-runs"
    DOWNLOADS = "downloads"


MEANING = {
    Kind.CHECKPOINTS: "optimiser state, replay and earlier steps of finished runs",
    Kind.EARLIER_RUNS: "runs of earlier settings, moved aside, whole",
    Kind.DOWNLOADS: "refused files, and parts of files that have come whole since",
}


_UNREADABLE = "that cannot be read, of which nobody knows what they need"
_ALTERED = "runs that are not what their manifests say, which their last state can make again"
_STARTS = "final states from which an online run still has to start"
_ASKED_FOR = "earlier runs of the settings of now, which training puts back"
_UNTOLD = "earlier runs of methods or tasks that are not known here, whose settings may hold: name their extension"
# By these a manifest is held against its folder.
_OF_A_RUN = ("method", "task", "seed", "stage")
_NOT_OURS = "not of this project, by its name or its records"


@dataclass(frozen=True)
class Removable:
    """Files that can go together.

    Args:
        kind: see `Kind`.
        name: of the run, or of the folder of the files.
        top: the folder that they lie below.
        files: what is removed; of an earlier run its folder too, where nothing else lies in it.
        bytes: their size.
        lock: held while they are removed.
        still_so: looked at under the lock, since time passes between showing and removing.
    """

    kind: Kind
    name: str
    top: Path
    files: tuple[Path, ...]
    bytes: int
    lock: Path
    still_so: Callable[[], bool]

    def text(self) -> str:
        """Its files by name."""
        names = ", ".join(path.relative_to(self.top).as_posix() for path in self.files)
        return f"  {self.kind:<13} {size(self.bytes):>9}  {self.name}: {names}"


@dataclass
class Survey:
    """What can be removed; the runs of which nothing or not all is, by reason; and what is none of this project's."""

    removable: list[Removable] = field(default_factory=list)
    kept: dict[str, list[str]] = field(default_factory=dict)
    left: dict[Path, str] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """The size of all that can be removed."""
        return sum(one.bytes for one in self.removable)

    def text(self) -> str:
        """The survey for people: each file that can be removed, sizes by kind, what is kept, and what is left."""
        lines = [one.text() for one in self.removable]
        lines.append(f"{size(self.bytes)} that finished runs and downloads no longer need")
        for kind in Kind:
            own = [one for one in self.removable if one.kind is kind]
            if own:
                lines.append(f"  {kind:<13} {size(sum(one.bytes for one in own)):>9}  {len(own)}: {MEANING[kind]}")
        lines += [f"kept: {len(names)} {reason}" for reason, names in self.kept.items()]
        return "\n".join([*lines, *(f"left: {path}: {why}" for path, why in self.left.items())])

    def details(self) -> str:
        """Each run that is kept, with the reason."""
        return "\n".join(f"  kept: {name}: {why}" for why, names in self.kept.items() for name in names)

    def keep(self, reason: str, name: str) -> None:
        """Count something that stays, by the reason."""
        self.kept.setdefault(reason, []).append(name)


@reading_once()
def survey(results: Path, data: Path, starts: Starts, kinds: Iterable[Kind]) -> Survey:
    """Look for what can be removed; removes nothing.

    Args:
        results: a results folder, or a folder of runs in it.
        data: the folder below which datasets lie; it may be absent.
        starts: tells the runs from which online runs still have to start.
        kinds: what to look for.
    """
    found, wanted = Survey(), set(kinds)
    runs, hidden = look_for_runs(results)
    if wanted & {Kind.CHECKPOINTS, Kind.EARLIER_RUNS}:
        for error in hidden:
            found.keep(_UNREADABLE, str(error.path))
        for run in runs:
            _look_at(run, results, starts, found)
    if Kind.DOWNLOADS in wanted:
        found.removable += _downloads(data, runs, found)
    found.removable = [one for one in found.removable if one.kind in wanted]
    return found


def remove(found: Iterable[Removable]) -> tuple[int, list[str]]:
    """Remove what a survey found.

    Returns:
        the bytes that are gone, and the names of what was left because it is in use now.

    Raises:
        UserError: a file cannot be removed.
    """
    gone, left = 0, []
    for one in found:
        try:
            with locked(one.lock):
                if not one.still_so():
                    left.append(one.name)
                    continue
                remove_files(one.files, one.top)
        except InUse:
            left.append(one.name)
            continue
        gone += one.bytes
    return gone, left


@dataclass
class Starts:
    """Tells the runs from which online runs still have to start.

    Args:
        configurations: only the online runs that they ask for count, and those that were begun. Without any, every
            run counts that has not yet been the start of a finished online run.
        config_dir: folder with the task table and `methods/`.
        results: folder that has `runs/`.
        data: the folder below which datasets lie.
    """

    configurations: Sequence[Mapping[str, Any]]
    config_dir: Path
    results: Path
    data: Path

    def __post_init__(self) -> None:
        self._now = Current(self.config_dir, self.data)
        self._needed = set(self._asked()) if self.configurations else None

    def needed(self, run: RunFolder) -> bool:
        """Whether the final state of a finished run is needed still."""
        if run.stage == "online":
            return False
        online = RunFolder(run.results, run.method, run.task, run.seed, "online")
        if self._needed is not None:
            return run in self._needed or (online.manifest() is not None and not online.finished())
        start = (online.manifest() or {}).get("starts_from") if online.finished() else None
        own = run.manifest() or {}
        return start is None or start["identity"] != own.get("identity")

    def asked_for(self, run: RunFolder, earlier: Mapping[str, Any]) -> bool:
        """Whether training would put an earlier run back, or an online run that was begun starts from it.

        Args:
            earlier: its manifest.

        Raises:
            UserError: its method or task is not known here, so that nobody can tell.
        """
        online = RunFolder(run.results, run.method, run.task, run.seed, "online")
        begun = online.manifest() if run.stage != "online" and not online.finished() else None
        start = (begun or {}).get("starts_from") or {}
        if start.get("identity") == earlier["identity"]:
            return True
        return not changes(dict(earlier), self._now.wanted(run, dict(earlier)))

    def _asked(self) -> Iterator[RunFolder]:
        for configuration in self.configurations:
            outlooks = Outlooks(configuration, self.results, LOCK)
            for run in planned_runs(configuration, self.config_dir):
                if run.start is None:
                    continue
                start = find_run(configuration, self.config_dir, run.method, run.task.name, run.start)
                for seed in run.seeds:
                    if outlooks.of(run, seed).fate is not Fate.FINISHED:
                        yield outlooks.of(start, seed).folder


def _look_at(run: RunFolder, given: Path, starts: Starts, found: Survey) -> None:
    """Add what can be removed of one run."""
    try:
        if (link := _link(run.folder, given)) is not None:
            found.left[link] = "a link, behind which nothing is removed: give the folder that it leads to"
            return
        _look_into(run, name_of(run), given, starts, found)
    except UserError:  # A damaged manifest says as little of what is needed as one that cannot be read.
        found.keep(_UNREADABLE, name_of(run))


def _link(folder: Path, given: Path) -> Path | None:
    """The first link between the folder that was given and one in it."""
    return link_on_the_way(folder, given) if is_under(folder, given) else None


def _look_into(run: RunFolder, name: str, given: Path, starts: Starts, found: Survey) -> None:
    if holder(run.lock) is not None:
        found.keep("runs in use", name)
        return
    if not run.finished():
        found.keep("unfinished runs", name)
        return
    ours, others = own_files(run.trained)
    ours = [path for path in ours if is_checkpoint(path.relative_to(run.trained)) and is_under(path, given)]
    found.left |= dict.fromkeys(others, _NOT_OURS)
    needed = starts.needed(run)
    if ours and not _is_intact(run):
        found.keep(_ALTERED, name)
        ours = []
    elif needed:
        found.keep(_STARTS, name)
        last = [run.checkpoints.path(step) for step in run.checkpoints.steps()[-1:]]
        ours = [path for path in ours if path not in last]

    def still_so() -> bool:
        return run.finished() and starts.needed(run) == needed

    _add(found, Kind.CHECKPOINTS, run, name, run.trained, ours, still_so)
    for aside in listed(run.folder):
        if aside.name.startswith("run.") and is_under(aside, given):
            _look_aside(run, name, aside, starts, found)


def _is_intact(run: RunFolder) -> bool:
    """Whether result, policy and log of a run are what its manifest says, so that nothing needs to be made again."""
    try:
        manifest = run.manifest()
    except CannotRead:
        raise
    except UserError:
        return False
    return manifest is not None and not any(alterations(run, manifest))


def _look_aside(run: RunFolder, name: str, aside: Path, starts: Starts, found: Survey) -> None:
    """Add an earlier run that was moved aside, if it is one."""
    known: dict[str, Any] = {}
    with suppress(UserError):
        known = {} if aside.is_symlink() else read_manifest(aside / "manifest.json", (*IDENTIFYING, *_OF_A_RUN))
    if not known or not re.fullmatch(rf"run\.{re.escape(known['identity'])}(\.\d+)?", aside.name):
        found.left[aside] = _NOT_OURS
        return
    try:
        reason = _ASKED_FOR if starts.asked_for(run, known) else None
    except CannotRead:
        raise
    except UserError:
        reason = _UNTOLD
    if reason is not None:
        found.keep(reason, f"{name}/{aside.name}")
        return
    ours, others = own_files(aside)
    found.left |= dict.fromkeys(others, _NOT_OURS)

    def still_so() -> bool:
        return run.finished() and not starts.asked_for(run, known)

    _add(found, Kind.EARLIER_RUNS, run, name, run.folder, ours, still_so)


def _add(
    found: Survey, kind: Kind, run: RunFolder, name: str, top: Path, files: list[Path], still_so: Callable[[], bool]
) -> None:
    if files:
        found.removable.append(Removable(kind, name, top, tuple(files), _bytes(files), run.lock, still_so))


def _downloads(data: Path, runs: Iterable[RunFolder], found: Survey) -> Iterator[Removable]:
    """Files that a fetch has set aside, and what is left of those that have come whole since."""
    files, hidden = files_below(data)
    for error in hidden:
        found.keep(_UNREADABLE, str(error.path))
    for path in files:
        match = re.fullmatch(rf"\.(.+\.(?:npz|hdf5))\.({'|'.join(KINDS)})", path.name)
        if match is None:
            continue
        whole, kind = path.with_name(match[1]), match[2]
        if kind != "refused" and not there(whole):
            continue  # The same fetch continues it.
        dataset = re.sub(r"(-val)?\.(npz|hdf5)$", "", match[1])
        lock = path.with_name(f".{dataset}.fetch")
        if holder(lock) is not None:
            continue
        if (why := _why_left(path, kind, whole, dataset, runs)) is not None:
            found.left[path] = why
            continue
        own = (path, record_of(path))
        yield Removable(Kind.DOWNLOADS, str(path.parent), path.parent, own, _bytes(own), lock, path.exists)


def _why_left(path: Path, kind: str, whole: Path, dataset: str, runs: Iterable[RunFolder]) -> str | None:
    """Why a file beside a dataset is not removed; None where it can be."""
    if not is_recorded(path):
        return _NOT_OURS
    try:
        source = source_of(description_path(path.parent, dataset))
    except UserError:
        source = None
    if source not in ("downloaded", "generated") or not there(whole):
        return f"no fetched or generated {whole.name} lies there in its place"
    if kind != "refused":
        return None
    try:
        used = {((run.manifest() or {}).get("dataset") or {}).get("sha256") for run in runs}
    except UserError:
        return "a run's manifest cannot be read, which may have been trained on it"
    return "runs were trained on it" if sha256(path) in used else None


def _bytes(files: Iterable[Path]) -> int:
    """The size of files together."""
    total = 0
    for file in files:
        with suppress(FileNotFoundError):
            total += file.stat().st_size
    return total


def size(count: float) -> str:
    """A number of bytes as people read it."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
