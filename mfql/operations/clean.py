"""`mfql clean`: what finished runs and downloads no longer need, shown, and removed when one says so.

Of a run that stays, policy, evaluation, manifest, training log and TensorBoard's files are never touched; nor is any
run that is in use or unfinished, or the final state of one from which an online run still has to start.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from mfql.errors import UserError
from mfql.experiment.configuration import LOCK, find_run, planned_runs
from mfql.experiment.find import look_for_runs, name_of
from mfql.experiment.run import Fate, RunFolder
from mfql.files import files_below, listed
from mfql.locks import InUse, holder, locked
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


@dataclass(frozen=True)
class Removable:
    """Files or folders that can go together.

    Args:
        kind: see `Kind`.
        name: of the run, or of the file.
        paths: what is removed.
        bytes: their size.
        lock: held while they are removed.
        still_so: looked at under the lock, since time passes between showing and removing.
    """

    kind: Kind
    name: str
    paths: tuple[Path, ...]
    bytes: int
    lock: Path
    still_so: Callable[[], bool]


@dataclass
class Survey:
    """What can be removed, and the runs of which nothing or not all is, by reason."""

    removable: list[Removable] = field(default_factory=list)
    kept: dict[str, list[str]] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """The size of all that can be removed."""
        return sum(one.bytes for one in self.removable)

    def text(self) -> str:
        """The survey for people: sizes by kind, and what is kept."""
        lines = [f"{size(self.bytes)} that finished runs and downloads no longer need"]
        for kind in Kind:
            own = [one for one in self.removable if one.kind is kind]
            if own:
                lines.append(f"  {kind:<13} {size(sum(one.bytes for one in own)):>9}  {len(own)}: {MEANING[kind]}")
        lines += [f"kept: {len(names)} {reason}" for reason, names in self.kept.items()]
        return "\n".join(lines)

    def details(self) -> str:
        """Each thing that can be removed, and each run that is kept with the reason."""
        lines = [f"  {one.kind:<13} {size(one.bytes):>9}  {one.name}" for one in self.removable]
        return "\n".join([*lines, *(f"  kept: {name}: {why}" for why, names in self.kept.items() for name in names)])


def survey(results: Path, data: Path, starts: Starts, kinds: Iterable[Kind]) -> Survey:
    """Look for what can be removed; removes nothing.

    Args:
        results: a results folder, or a folder of runs in it.
        data: the folder below which datasets lie; it may be absent.
        starts: tells the runs from which online runs still have to start.
        kinds: what to look for.
    """
    found, wanted = Survey(), set(kinds)
    if wanted & {Kind.CHECKPOINTS, Kind.EARLIER_RUNS}:
        runs, hidden = look_for_runs(results)
        if hidden:
            found.kept[_UNREADABLE] = [str(error.path) for error in hidden]
        for run in runs:
            _look_at(run, starts, found)
    if Kind.DOWNLOADS in wanted:
        found.removable += _downloads(data, found)
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
                for path in one.paths:
                    _remove(path)
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
    """

    configurations: Sequence[Mapping[str, Any]]
    config_dir: Path
    results: Path

    def __post_init__(self) -> None:
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


def _look_at(run: RunFolder, starts: Starts, found: Survey) -> None:
    """Add what can be removed of one run."""
    try:
        _look_into(run, name_of(run), starts, found)
    except UserError:
        found.kept.setdefault(_UNREADABLE, []).append(name_of(run))


def _look_into(run: RunFolder, name: str, starts: Starts, found: Survey) -> None:
    if holder(run.lock) is not None:
        found.kept.setdefault("runs in use", []).append(name)
        return
    if not run.finished():
        found.kept.setdefault("unfinished runs", []).append(name)
        return
    files = [path for path in listed(run.checkpoints.folder) if path.is_file()]
    if starts.needed(run):
        found.kept.setdefault("final states from which an online run still has to start", []).append(name)
        last = run.checkpoints.steps()[-1:]
        files = [path for path in files if path not in [run.checkpoints.path(step) for step in last]]
    _add(found, Kind.CHECKPOINTS, run, name, files)
    for aside in listed(run.folder):
        if aside.name.startswith("run."):
            _add(found, Kind.EARLIER_RUNS, run, f"{name}/{aside.name}", [aside])


def _add(found: Survey, kind: Kind, run: RunFolder, name: str, paths: list[Path]) -> None:
    if paths:
        size = sum(map(_bytes, paths))
        found.removable.append(Removable(kind, name, tuple(paths), size, run.lock, run.finished))


def _downloads(data: Path, found: Survey) -> Iterator[Removable]:
    """Files that a fetch has set aside, and what is left of those that have come whole since."""
    files, hidden = files_below(data)
    if hidden:
        found.kept.setdefault(_UNREADABLE, []).extend(str(error.path) for error in hidden)
    for path in files:
        match = re.fullmatch(r"\.(.+\.(?:npz|hdf5))\.(refused|copy|part|part\.json)", path.name)
        if match is None:
            continue
        whole, kind = path.with_name(match[1]), match[2]
        if kind != "refused" and not whole.exists():
            continue  # The same fetch continues it.
        dataset = re.sub(r"(-val)?\.(npz|hdf5)$", "", match[1])
        lock = path.with_name(f".{dataset}.fetch")
        if holder(lock) is None:
            yield Removable(Kind.DOWNLOADS, str(path), (path,), _bytes(path), lock, path.exists)


def _bytes(path: Path) -> int:
    """The size of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    total = 0
    for file in files:
        with suppress(FileNotFoundError):
            total += file.stat().st_size
    return total


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot remove {path}: {error.strerror}", "Check its permissions; the same command removes the rest."
        ) from error


def size(count: float) -> str:
    """A number of bytes as people read it."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
