"""Fetch published datasets: from OGBench's or D4RL's own address, a mirror, or a folder that has them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from urllib3.util import Retry

from mfql.data.addresses import is_address, is_plain, shown, within
from mfql.data.checksums import Checksum, Known, contradicted, known, record, recorded
from mfql.data.description import describe
from mfql.data.download import REMEDY, RETRIES, Part, download, require_space
from mfql.data.layouts import Layout
from mfql.data.opening import Damaged, content_of, open_hdf5, open_zip
from mfql.data.passing import claim, passing, release
from mfql.data.paths import SPLITS, description_path
from mfql.errors import UserError, note, warn
from mfql.experiment.records import if_there, read_dataset
from mfql.files import expanded, move, require_file, there
from mfql.locks import locked


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
    not fetched again, and never renamed, altered or replaced: if it is another, it is named.

    Args:
        dataset: such as `antmaze-large-navigate-v0`.
        folder: where to write the description.
        files: the published address of each file, by where it is to lie; the training file first.
        layout: what the files are held against where nothing is recorded of them, and described by; None checks alone
            that they are whole, if they are .npz or HDF5.
        lock: JSON of size and sha256 by file name. The first fetch of a file records, which is said, later ones
            compare; what ships with the project (`mfql.data.checksums`) is compared in the first, too.
        mirror: the address of a folder that holds the files by the names that they are published under, or `$NAME` of
            the environment's variable that has it; None is the published address. What it holds of credentials is in
            no message and in no file.
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
    base = None if mirror is None else _address(mirror)
    with locked(Path(folder) / f".{dataset}.fetch"):
        for path, url in files.items():
            expected = _known(lock, path.name)
            if _in_place(path, expected):
                continue
            if local is not None:
                source = _find(local, path.name, url)
                _require_open(source)
                _require_size(source, expected)
                origin, found = str(source), _copy(source, path)
            else:
                address = url if base is None else within(base, _name(url))
                origin = shown(address)
                found = download(address, path, known=expected, retries=retries, progress=progress)
            _check(found, origin, path, lock, expected, layout)
            if found == path:
                continue
            if not _same_in_place(path, found):
                # A description must never lie beside files that it does not describe.
                description_path(folder, dataset).unlink(missing_ok=True)
                move(found, path)
            release(found)
            Part.beside(path).discard()
        describe(folder, dataset, dict(zip(SPLITS, files, strict=False)), layout, "downloaded")


def _address(mirror: str) -> str:
    """A mirror's address, which may be that of a variable, so that neither commands nor their logs show it."""
    address = expanded(mirror, "--mirror") if mirror.startswith("$") else mirror
    if not is_address(address):
        raise UserError(
            f"cannot download from {shown(address)}: it is no address such as https://host/folder",
            "In a user's name and password other characters than letters and digits are escaped (/ as %2F). A folder of"
            " this machine is named by --from.",
        )
    return address


def _known(lock: Path, name: str) -> Known | None:
    """What is known of a file before it is fetched."""
    if (other := contradicted(lock, name)) is not None:
        warn(
            f"{lock} records another {name} ({recorded(lock, name)}) than {other.source}, which ships with the project"
            f" ({other}); the first counts",
            f"To go by the second, delete the entry {name} from {lock}.",
        )
    return known(lock, name)


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
    if (if_there(read_dataset, description) or {}).get("source") == "generated":
        raise UserError(
            f"{dataset} in {local} was generated, it is not the published dataset",
            "Use it where it lies, or generate it again (mfql data generate; datasets in a configuration).",
        )


def _in_place(path: Path, expected: Known | None) -> bool:
    """Whether the recorded file is in place; one of which no sha256 is known is fetched anew, to be compared with."""
    if expected is None or not there(path):
        return False
    if path.stat().st_size != expected.bytes:
        raise _another(path, f"{path.stat().st_size} bytes", expected)
    if expected.sha256 is None:
        return False
    found = Checksum.of(path)
    if not expected.admits(found):
        raise _another(path, str(found), expected)
    return True


def _another(path: Path, found: str, expected: Known) -> UserError:
    """The error for a file in place that is not the recorded one. Runs may rest on it, or somebody put it there."""
    return UserError(
        f"{path} is not the file that {expected.source} records: found {found}; recorded {expected}. It stays as it is",
        "Runs may have been trained on it: mfql verify tells. For the recorded one move it away, and the same command "
        f"fetches that; to accept this one, {expected.acceptance}.",
    )


def _require_open(source: Path) -> None:
    """Refuse a local file that cannot be opened now, by its own name; whether it is whole is looked at later."""
    with suppress(Damaged), content_of(source, "is damaged", ""):
        require_file(source)
        if source.suffix == ".hdf5":
            with open_hdf5(source):
                pass


def _require_size(source: Path, expected: Known | None) -> None:
    """Refuse a local file of another size before it is copied."""
    size = source.stat().st_size
    if expected is not None and size != expected.bytes:
        raise UserError(
            f"{source} is not the file that {expected.source} records: it has {size} bytes, recorded are"
            f" {expected.bytes}. It is not used, and stays where it is",
            f"Try another source; or, to accept this one, {expected.acceptance}.",
        )


def _same_in_place(path: Path, found: Path) -> bool:
    """Whether a file is in place that is the fetched one.

    Raises:
        UserError: another is, which somebody put there, or which runs were trained on.
    """
    if not os.path.lexists(path):
        return False
    if there(path) and Checksum.of(path) == Checksum.of(found):
        return True
    raise UserError(
        f"{path} is not the file that was fetched, which is kept as {found}; what is in place stays as it is",
        f"Move {path} away, and the same command goes on; or, to use it, name its folder: mfql data fetch --from"
        f" {path.parent}, or datasets_from in a configuration.",
    )


def _copy(source: Path, path: Path) -> Path:
    """A local file under a passing name beside `path`; where it is `path` itself, there is nothing to copy."""
    if there(path) and source.samefile(path):
        return path
    beside = passing(path, "copy")
    release(beside)
    claim(beside, bytes=source.stat().st_size)
    try:
        os.link(source.resolve(), beside)
    except OSError:  # Another disk, another owner, or a file system without hard links.
        _copy_content(source, beside, path.name)
    return beside


def _copy_content(source: Path, target: Path, name: str) -> None:
    try:
        require_space(target.parent, source.stat().st_size, name)
        shutil.copyfile(source, target)
    except UserError:
        release(target)
        raise
    except OSError as error:
        release(target)
        raise UserError(
            f"cannot copy {source} to {target.parent}: {error.strerror or error}",
            "Check both folders' permissions and free space.",
        ) from error


def _check(found: Path, origin: str, path: Path, lock: Path, expected: Known | None, layout: Layout | None) -> None:
    """Refuse a file that is not the recorded one; one of which no sha256 is recorded is looked through and recorded.

    Raises:
        UserError: it is another, or damaged.
    """
    checksum = Checksum.of(found)
    _compare(found, origin, path, checksum, expected)
    if expected is not None and expected.sha256 is not None:
        if expected.is_shipped:
            record(lock, path.name, checksum)
        return
    if (fault := _fault(found, path.suffix, layout)) is not None:
        raise UserError(
            f"{origin} {fault}; {_set_aside(found, path, checksum)}", f"Fetch it again. If that does not help: {REMEDY}"
        )
    first = record(lock, path.name, checksum)
    if first == checksum:
        _say_first(path.name, origin, lock, checksum, expected)
    else:
        _compare(found, origin, path, checksum, known(lock, path.name))


def _say_first(name: str, origin: str, lock: Path, checksum: Checksum, expected: Known | None) -> None:
    """Say that nobody vouches for what was recorded just now."""
    compared = "nothing" if expected is None else f"its size alone, as {expected.source} has it"
    way = ", over a way that is not encrypted" if is_plain(origin) else ""
    note(
        f"{name} was compared with {compared}: {lock} records what came from {origin}{way} ({checksum}), and later"
        " fetches are compared with that"
    )


def _compare(found: Path, origin: str, path: Path, checksum: Checksum, expected: Known | None) -> None:
    if expected is None or expected.admits(checksum):
        return
    if found == path:
        raise _another(path, str(checksum), expected)
    raise UserError(
        f"{origin} is not the file that {expected.source} records: found {checksum}; recorded {expected}. It is not "
        f"used; {_set_aside(found, path, checksum)}",
        "Fetch it again: a transfer may damage a file. If it is refused again, the source holds another file: try "
        f"another source, or, to accept this one, {expected.acceptance}.",
    )


def _set_aside(found: Path, path: Path, checksum: Checksum) -> str:
    """Move a refused file out of the way, and say where to; one that is in place stays there."""
    if found == path:
        return "it stays as it is"
    refused = passing(path, "refused")
    release(refused)
    claim(refused, bytes=checksum.bytes, sha256=checksum.sha256)
    os.replace(found, refused)
    release(found)
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
                with open_zip(path) as archive:
                    names, damaged = {name.removesuffix(".npy") for name in archive.namelist()}, archive.testzip()
            else:
                return None
    except Damaged as error:
        return error.fault
    if damaged is not None:
        return f"is damaged in its array {damaged}"
    missing = sorted(layout.arrays - names) if layout else []
    return f"is no dataset: it lacks the arrays {', '.join(missing)}" if missing else None
