"""Which files below a trainer's folder are its own, by their whole names; whatever else lies there is somebody's.

What deletes looks here first. A link is never ours, and nothing behind one is looked at or touched.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from mfql.errors import UserError
from mfql.files import CannotRead, left_name

# Regular expressions of the files that are written whole, by their folder from `run` or `run.IDENTITY` on;
# docs/architecture.md names them.
WRITTEN = {
    ".": (r"manifest\.json", r"evaluation\.json"),
    "policy": (r"policy\.json", r"policy\.safetensors"),
    "checkpoint": (r"step-\d{9,}\.pt", r"tail-\d{9,}-\d{9,}\.pt"),
}
# And of those that are written to as long as a run trains.
_GROWING = {".": (r"metrics\.csv",), "tensorboard": (r"events\.out\.tfevents\..+",)}
# Of trackers, whose libraries write them: whole paths. docs/trackers.md says what they hold.
TRACKERS = ("wandb", "mlflow", "trackio")
_SESSION = r"wandb/(offline-)?run-\d{8}_\d{6}-[0-9a-f]{16}"
_TRACKED = tuple(
    re.compile(pattern)
    for pattern in (
        rf"{_SESSION}/run-[0-9a-f]{{16}}\.wandb(\.synced)?",
        rf"{_SESSION}/logs/debug(-core|-internal)?\.log",
        rf"{_SESSION}/files/(config\.yaml|output\.log|requirements\.txt|wandb-(metadata|summary)\.json)",
        r"mlflow/mlflow\.db(-journal|-shm|-wal)?",
        r"trackio/[A-Za-z0-9_-]+\.(db|lock)(-journal|-shm|-wal)?",
    )
)


class Files(NamedTuple):
    """The files and links below a folder: the trainer's own, and others'."""

    own: list[Path]
    others: list[Path]


def own_files(folder: Path) -> Files:
    """What lies below a trainer's folder, in the order of names.

    Args:
        folder: `run` or `run.IDENTITY` of a run; it may be absent.

    Raises:
        CannotRead: a folder below it does not let that be seen.
    """
    if folder.is_symlink():
        return Files([], [folder])
    found = Files([], [])

    def look(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise CannotRead(error.filename, error)

    for place, folders, names in os.walk(folder, onerror=look):
        at = Path(place)
        found.others.extend(at / name for name in folders if (at / name).is_symlink())
        for path in (at / name for name in names):
            is_own = _is_own(path.relative_to(folder)) and path.is_file() and not path.is_symlink()
            (found.own if is_own else found.others).append(path)
    return Files(sorted(found.own), sorted(found.others))


def _is_own(path: Path) -> bool:
    whole, growing = (names.get(str(path.parent), ()) for names in (WRITTEN, _GROWING))
    if any(re.fullmatch(name, path.name) for name in (*whole, *growing)):
        return True
    if any(pattern.fullmatch(path.as_posix()) for pattern in _TRACKED):
        return True
    return bool(whole) and left_name(whole).fullmatch(path.name) is not None


def is_checkpoint(path: Path) -> bool:
    """Whether a path, from a trainer's folder on, is that of a checkpoint, a segment of replay, or part of one."""
    return path.parent == Path("checkpoint") and _is_own(path)


def link_on_the_way(path: Path, top: Path) -> Path | None:
    """The first link on the way from a folder to what lies in it, that itself included; None where there is none.

    Raises:
        ValueError: it does not lie in the folder.
    """
    at = top.absolute()
    for part in path.absolute().relative_to(at).parts:
        at = at / part
        if part == ".." or at.is_symlink():
            return at
    return None


def remove_files(files: Iterable[Path], top: Path) -> None:
    """Remove files below a folder, and those of the folders on the way to them that are empty then.

    Raises:
        UserError: one cannot be removed, or is reached through a link.
    """
    emptied: set[Path] = set()
    for path in files:
        if (link := link_on_the_way(path, top)) is not None:
            raise UserError(f"{path} is not removed: {link} is a link", "Give the folder that it leads to.")
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot remove {path}: {error.strerror}", "Check its permissions; the same command removes the rest."
            ) from error
        emptied.update(parent for parent in path.parents if parent != top and parent.is_relative_to(top))
    # Of a tracker's session these may be empty from the start.
    sessions = [folder for folder in emptied if re.search(rf"(^|/){_SESSION}$", folder.as_posix())]
    emptied.update(folder / name for folder in sessions for name in ("files", "tmp", "tmp/code"))
    for folder in sorted(emptied, key=lambda folder: len(folder.parts), reverse=True):
        with suppress(OSError):  # Others' files lie in it.
            folder.rmdir()
