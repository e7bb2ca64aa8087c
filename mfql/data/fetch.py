"""Fetch published datasets: from OGBench's or D4RL's own address, a mirror, or a folder that has them."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from urllib3.util import Retry

from mfql.data.checksums import Checksum, record, recorded
from mfql.data.description import describe
from mfql.data.download import REMEDY, RETRIES, Part, download, require_space
from mfql.data.layouts import Layout
from mfql.data.opening import Damaged, content_of, open_hdf5
from mfql.data.paths import SPLITS, description_path
from mfql.errors import UserError
from mfql.files import expanded, move, read_json, there
from mfql.locks import locked


@dataclass(frozen=True)
class _Target:
    """Where a file is to lie.

    Args:
        path: the file.
        lock: what was recorded of it.
        ours: whether one that lies there was fetched or generated, as its description says; else somebody put it there.
    """

    path: Path
    lock: Path
    ours: bool


def fetch(
    dataset: str,
    folder: str | Path,
    files: Mapping[Path, str],
    *,
    layout: Layout | None = None,
    lock: str | Path,
    mirror: str | None = None,
    local: str | Path | None = None,
    retries: Retry = RETRIES,
    progress: bool = True,
) -> None:
    """Bring the files of a dataset; last, their description.

    A file has its own name only when it is whole and is the one that `lock` records. One that is in place already is
    not fetched again.

    Args:
        dataset: such as `antmaze-large-navigate-v0`.
        folder: where to write the description.
        files: the published address of each file, by where it is to lie; the training file first.
        layout: what the files are held against where nothing is recorded of them, and described by; None checks alone
            that they are whole, if they are .npz or HDF5.
        lock: JSON of size and sha256 by file name. The first fetch of a file records, later ones compare.
        mirror: the address of a folder that holds the files by the names that they are published under; None is the
            published address.
        local: a folder that holds the files, by those names or by ours; it comes before any address. They are
            hard-linked where that is possible, else copied.
        retries: how a download that fails is repeated.
        progress: whether to show progress bars.

    Raises:
        UserError: no network, no such file, a file that is damaged or not the recorded one, a disk without room, a
            folder that cannot be written, or another fetch of the same dataset at work.
    """
    lock = Path(lock)
    if local is not None:
        local = Path(expanded(local, "the folder that has the files"))
        _refuse_generated(local, dataset)
        for path, url in files.items():
            if not there(path):
                _find(local, path.name, url)  # Before a folder is made for it.
    with locked(Path(folder) / f".{dataset}.fetch"):
        ours = _is_ours(description_path(folder, dataset))
        for path, url in files.items():
            target = _Target(path, lock, ours)
            if _in_place(target):
                continue
            if local is not None:
                source = _find(local, path.name, url)
                _require_open(source)
                origin, found = str(source), _copy(source, path)
            else:
                origin = url if mirror is None else f"{mirror.rstrip('/')}/{_name(url)}"
                found = download(origin, path, retries=retries, progress=progress)
            _check(found, origin, target, layout)
            _refuse_foreign(target, found)
            # A description must never lie beside files that it does not describe.
            description_path(folder, dataset).unlink(missing_ok=True)
            move(found, path)
            Part.beside(path).discard()
        describe(folder, dataset, dict(zip(SPLITS, files, strict=False)), layout, "downloaded")


def _name(url: str) -> str:
    """The name that a file is published under; D4RL's AntMaze has others than ours."""
    return url.rpartition("/")[2]


def _find(folder: Path, name: str, url: str) -> Path:
    for source in (folder / name, folder / _name(url)):
        if there(source):
            return source
    raise UserError(f"{folder / name} does not exist", "Name the folder that holds the files of the dataset.")


def _refuse_generated(local: Path, dataset: str) -> None:
    """A generated dataset has the name of the published one: it must not become what the lock file records."""
    description = description_path(local, dataset)
    if there(description) and read_json(description).get("source") == "generated":
        raise UserError(
            f"{dataset} in {local} was generated, it is not the published dataset",
            "Use it where it lies, or generate it again (mfql data generate; datasets in a configuration).",
        )


def _in_place(target: _Target) -> bool:
    """Whether the recorded file is in place; a file that nothing is recorded of is fetched anew."""
    path = target.path
    expected = recorded(target.lock, path.name)
    if expected is None or not there(path):
        return False
    _compare(path, str(path), target, Checksum.of(path), expected)
    return True


def _require_open(source: Path) -> None:
    """Refuse a local file that cannot be opened now, by its own name; whether it is whole is looked at later."""
    with suppress(Damaged), content_of(source, "is damaged", ""), open(source, "rb"):
        if source.suffix == ".hdf5":
            with open_hdf5(source):
                pass


def _is_ours(description: Path) -> bool:
    return there(description) and read_json(description).get("source") in ("downloaded", "generated")


def _refuse_foreign(target: _Target, found: Path) -> None:
    """Refuse to write over a file that somebody put there, unless it is the same."""
    path = target.path
    if found == path or not there(path) or target.ours or Checksum.of(path) == Checksum.of(found):
        return
    raise UserError(
        f"{path} is not the file that was fetched, and no description says that it ever was: it stays as it is",
        f"Move it away, and the same command goes on; or, to use it, name its folder: mfql data fetch --from"
        f" {path.parent}, or datasets_from in a configuration.",
    )


def _copy(source: Path, path: Path) -> Path:
    """A local file under a passing name beside `path`; where it is `path` itself, there is nothing to copy."""
    if there(path) and source.samefile(path):
        return path
    beside = path.with_name(f".{path.name}.copy")
    beside.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), beside)
    except OSError:  # Another disk, another owner, or a file system without hard links.
        _copy_content(source, beside, path.name)
    return beside


def _copy_content(source: Path, target: Path, name: str) -> None:
    require_space(target.parent, source.stat().st_size, name)
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        target.unlink(missing_ok=True)
        raise UserError(
            f"cannot copy {source} to {target.parent}: {error.strerror or error}",
            "Check both folders' permissions and free space.",
        ) from error


def _check(found: Path, origin: str, target: _Target, layout: Layout | None) -> None:
    """Refuse a file that is not the recorded one, or, where nothing is recorded yet, is damaged."""
    path, lock = target.path, target.lock
    checksum, expected = Checksum.of(found), recorded(lock, path.name)
    if expected is None:
        if (fault := _fault(found, path.suffix, layout)) is not None:
            raise UserError(
                f"{origin} {fault}; {_set_aside(found, target)}", f"Fetch it again. If that does not help: {REMEDY}"
            )
        expected = record(lock, path.name, checksum)
    _compare(found, origin, target, checksum, expected)


def _compare(found: Path, origin: str, target: _Target, checksum: Checksum, expected: Checksum) -> None:
    path, lock = target.path, target.lock
    if checksum != expected:
        raise UserError(
            f"{origin} is not the file that {lock} records: found {checksum}; recorded {expected}. It is not used; "
            f"{_set_aside(found, target)}",
            "Fetch it again: a transfer may damage a file. If it is refused again, the source holds another file: try "
            f"another source, or, to accept this one, delete the entry {path.name} from {lock} and fetch again.",
        )


def _set_aside(found: Path, target: _Target) -> str:
    """Move a refused file out of the way, and say where to; one that somebody put there stays where it is."""
    path = target.path
    if found == path and not target.ours:
        return "it was not fetched by this project, and stays where it is"
    refused = path.with_name(f".{path.name}.refused")
    os.replace(found, refused)
    Part.beside(path).discard()
    return f"kept as {refused}"


def _fault(path: Path, kind: str, layout: Layout | None) -> str | None:
    """What is wrong with a file, as far as its format tells: .npz has checksums, HDF5 its length; None if nothing.

    Raises:
        UserError: it cannot be opened now, which is no fault of the file.
    """
    try:
        with content_of(path, f"is no whole {kind} file", ""):
            if kind == ".hdf5":
                with open_hdf5(path) as file:
                    names, damaged = set(file), None
            elif kind == ".npz":
                with zipfile.ZipFile(path) as archive:
                    names, damaged = {name.removesuffix(".npy") for name in archive.namelist()}, archive.testzip()
            else:
                return None
    except Damaged as error:
        return error.fault
    if damaged is not None:
        return f"is damaged in its array {damaged}"
    missing = sorted(layout.arrays - names) if layout else []
    return f"is no dataset: it lacks the arrays {', '.join(missing)}" if missing else None
