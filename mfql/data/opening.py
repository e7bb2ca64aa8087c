"""The one way to a dataset's files: what cannot be opened now is told from content that was read and is wrong.

Only the second is damage. On what the system refuses (permissions, locks, a device) a file says nothing of itself, and
nobody is to move it away or to make it anew.

A file is known by the sha256 of its bytes, so that it must hold all that is read of it: an HDF5 file that leads to
others is refused, and so is an archive that has one array twice, of which two readers may take another each. So is an
array that asks for more memory than there is, before it is taken.
"""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil

from mfql.data.constant import array_header
from mfql.errors import UserError, naming_extras
from mfql.files import CannotRead, is_refusal, open_file, require_file, there
from mfql.footprint import free_memory, require_memory

# What numpy, zipfile and h5py raise of a file that is cut, altered or of another kind.
_FAULTS = (OSError, ValueError, LookupError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error)
# What HDF5 says of a file whose header is marked as open for writing.
_MARKED = "already open for write"
_CLOSE = (
    "Close it there: file.close() in a notebook, or restart its kernel. What it has not written yet nobody else sees."
    " Nothing was changed."
)


_MEMORY = "Check that it is the file that is meant; or read it on a machine, or in a job, with more memory."
_IN_ONE_FILE = (
    "Copy the arrays themselves into one file (h5py: new[name] = old[name][()]), since it is known by its own bytes"
    " alone."
)


# Bytes of a number at most.
_NUMBER = 8


class Damaged(UserError):
    """What was read of a dataset's file is wrong.

    Args:
        path: of the file.
        fault: what is wrong, after the path.
        remedy: what to do.
    """

    def __init__(self, path: str | Path, fault: str, remedy: str) -> None:
        super().__init__(f"{path} {fault}", remedy)
        self.fault = fault


class HeldElsewhere(UserError):
    """Another process has a file open for writing."""


@contextmanager
def content_of(path: str | Path, fault: str, remedy: str, absent: str = "") -> Iterator[None]:
    """Tell errors of the block, which reads a dataset's file: the system's refusals from faults of the content.

    Args:
        path: of the file, or what to call several of them.
        fault: what it is if its content is wrong, such as `is no readable .npz file`.
        remedy: what to do then.
        absent: what to do where there is no such file.

    Raises:
        CannotRead: the system does not let it be read now.
        Damaged: what was read is wrong.
        UserError: the file is absent, memory does not suffice, or the block's own.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or path} does not exist", absent) from error
    except MemoryError as error:
        said = f": {error}" if str(error) else ""
        raise UserError(
            f"{path} asks for more memory than there is, of which {free_memory():,} bytes are free here{said}", _MEMORY
        ) from error
    except _FAULTS as error:
        if isinstance(error, OSError) and is_refusal(error):
            raise CannotRead(error.filename or path, error) from error
        raise Damaged(path, f"{fault}: {error}", remedy) from error


@contextmanager
def open_zip(path: str | Path) -> Iterator[zipfile.ZipFile]:
    """An archive for reading, such as an .npz file.

    Raises:
        CannotRead: as of `mfql.files.require_file`.
        OSError, ValueError, zipfile.BadZipFile: it is absent, or no archive.
    """
    require_file(path)
    with zipfile.ZipFile(path) as archive:
        yield archive


@contextmanager
def open_hdf5(path: str | Path) -> Iterator[h5py.File]:
    """An HDF5 file for reading; where the file system has no locks, without them.

    Raises:
        HeldElsewhere: another process has it open for writing, or one that did ended without closing it.
        LeadsElsewhere: something in it lies in another file.
        CannotRead: as of `mfql.files.require_file`.
        OSError: as of `h5py.File`.
    """
    require_file(path)
    try:
        file = h5py.File(path)
    except BlockingIOError as error:
        raise _held(Path(path), "or its lock is left over", "HDF5_USE_FILE_LOCKING=FALSE in the environment") from error
    except OSError as error:
        if _MARKED in str(error):
            raise _held(Path(path), "or its writer ended without closing it", f"`h5clear -s {path}`") from error
        if "unable to lock file" not in str(error):
            raise
        file = h5py.File(path, locking=False)  # The system has none here: errors such as ENOLCK, ENOSYS, EOPNOTSUPP.
    with file:
        refuse_other_files(Path(path), file)
        yield file


class LeadsElsewhere(Damaged):
    """An HDF5 file whose reader reads other files too, of which its own bytes say nothing."""


def refuse_other_files(path: Path, file: h5py.File) -> None:
    """Refuse an HDF5 file that leads to other files, by links to them or by where its arrays are stored.

    Soft links lead to what lies in the same file, or along one of those.

    Raises:
        LeadsElsewhere: names the first.
    """
    known = path.stat()
    if found := _first_elsewhere(path, known.st_size, known.st_mtime_ns, known.st_ino, _Opened(file)):
        raise LeadsElsewhere(path, found, _IN_ONE_FILE)


class _Opened:
    """An open file, the same to a cache as any other: what counts of it are the other arguments."""

    def __init__(self, file: h5py.File) -> None:
        self.file = file

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Opened)

    def __hash__(self) -> int:
        return 0


@cache
def _first_elsewhere(path: Path, size: int, changed: int, number: int, opened: _Opened) -> str | None:
    """What of a file lies in another one; a file of as many bytes and of the same date is looked at once."""
    of_links, of_arrays = h5py.h5l, h5py.h5o

    def link(name: bytes, info: Any) -> str | None:
        if info.type in (of_links.TYPE_HARD, of_links.TYPE_SOFT):
            return None
        if info.type != of_links.TYPE_EXTERNAL:
            return f"has the link {_text(name)} of a kind of its own, number {info.type}"
        target, within = opened.file.id.links.get_val(name)
        return f"has the link {_text(name)} to {_text(within)} in another file, {_text(target)}"

    def array(name: bytes, info: Any) -> str | None:
        if info.type != of_arrays.TYPE_DATASET:
            return None
        stored = h5py.h5d.open(opened.file.id, name).get_create_plist()
        if stored.get_external_count():
            return f"keeps the array {_text(name)} in another file, {_text(stored.get_external(0)[0])}"
        if stored.get_layout() == h5py.h5d.VIRTUAL:
            source = stored.get_virtual_filename(0) if stored.get_virtual_count() else "."
            return f"puts the array {_text(name)} together of others, the first of the file {_text(source)}"
        return None

    visited: str | None = opened.file.id.links.visit(link, info=True)
    return visited or of_arrays.visit(opened.file.id, array, info=True)


def _text(name: bytes | str) -> str:
    return name if isinstance(name, str) else name.decode(errors="backslashreplace")


def hdf5_values(dataset: h5py.Dataset) -> np.ndarray:
    """All values of an array of an HDF5 file, if there is memory for them.

    Raises:
        UserError: there is none.
        ValueError: it is no array.
    """
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"{getattr(dataset, 'name', dataset)} is no array")
    require_memory(f"{dataset.file.filename}: {dataset.name}", dataset.nbytes, _MEMORY)
    return np.asarray(dataset[()])


class NpzArrays:
    """The arrays of an open .npz file, each read when it is asked for.

    Args:
        path: of the file.
        archive: it.
    """

    def __init__(self, path: str | Path, archive: np.lib.npyio.NpzFile) -> None:
        assert archive.zip is not None  # It is open.
        self._path, self._archive, self._zip = path, archive, archive.zip
        self.names = frozenset(_array_name(member) for member in self._zip.namelist())

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> np.ndarray:
        """The values of an array.

        Raises:
            UserError: there is no memory for them.
            KeyError: there is no such array.
            ValueError: it has fewer values than its header says, or they are Python's objects.
        """
        self.require(name)
        found: np.ndarray = self._archive[name]
        return found

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype]:
        """Shape and type of an array, of which nothing else is read.

        Raises:
            KeyError: there is no such array.
            ValueError: it has fewer bytes than its header says.
        """
        shape, dtype = array_header(self._zip, f"{name}.npy")
        held, said = self._zip.getinfo(f"{name}.npy").file_size, math.prod(shape) * dtype.itemsize
        if said > held and not dtype.hasobject:
            raise ValueError(f"{name} has {held:,} bytes, and its header says {list(shape)} of {dtype}, {said:,} bytes")
        return shape, dtype

    def require(self, name: str) -> None:
        """Refuse an array for which there is no memory; as of `__getitem__`."""
        shape, dtype = self.header(name)
        require_memory(f"{self._path}: {name}", math.prod(shape) * dtype.itemsize, _MEMORY)


@contextmanager
def open_npz(path: str | Path) -> Iterator[NpzArrays]:
    """An .npz file for reading, of which nothing is run.

    Raises:
        UserError: it has an array twice.
        CannotRead, OSError, ValueError, zipfile.BadZipFile: as of `open_zip`.
    """
    with open_zip(path) as archive:  # Numpy reads other files too: of an .npy file at once.
        counts = Counter(map(_array_name, archive.namelist()))
    for name, count in counts.items():
        if count > 1:
            raise UserError(f"{path} has the array {name} {count} times", "Write the file anew.")
    with np.load(path, allow_pickle=False) as file:
        yield NpzArrays(path, file)


def _array_name(member: str) -> str:
    """By which numpy finds it: `rewards.npy` and `rewards` are one name."""
    return member.removesuffix(".npy")


def parquet_columns(path: str | Path, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Columns of a Parquet file, if there is memory for them: [N] of single values, [N, D] of lists.

    Args:
        path: of the file.
        sizes: numbers in a row of each column, as far as is known; by it memory is asked for.

    Raises:
        UserError: there is no memory for them, or pyarrow is not installed.
        CannotRead: as of `mfql.files.open_file`.
        KeyError: a column is not there, or twice.
        OSError, ValueError, TypeError: it is no such file, lacks values, or has lists of different lengths.
    """
    with naming_extras("lerobot"):
        from pyarrow import parquet
    with open_file(path) as opened:
        file = parquet.ParquetFile(opened)
        if absent := [name for name in sizes if file.schema_arrow.names.count(name) != 1]:
            raise KeyError(f"it has {', '.join(absent)} not once among its columns")
        # What a file says of its single columns is not asked: where that is damaged, pyarrow 26 ends the process.
        needed = _NUMBER * file.metadata.num_rows * sum(sizes.values())
        require_memory(f"{path}: {', '.join(sizes)}", needed, _MEMORY)
        table = file.read(columns=list(sizes), use_threads=False)
    return {name: _column(name, table.column(name)) for name in sizes}


def _column(name: str, column: Any) -> np.ndarray:
    """A column of Arrow's as an array; lists in one another become one row."""
    from pyarrow import types

    rows, values = len(column), column.combine_chunks()
    values = getattr(values, "storage", values)
    is_row = False
    while types.is_list(values.type) or types.is_large_list(values.type) or types.is_fixed_size_list(values.type):
        if values.null_count:
            raise ValueError(f"{name} lacks the values of {values.null_count} rows")
        if len(np.unique(np.asarray(values.value_lengths()))) > 1:
            raise ValueError(f"{name} has lists of different lengths")
        values, is_row = values.flatten(), True
    if values.null_count:
        raise ValueError(f"{name} lacks {values.null_count} values")
    found = np.asarray(values.to_numpy(zero_copy_only=False))
    return found.reshape(rows, -1) if is_row and rows else found


@contextmanager
def opened_by_a_library(path: Path) -> Iterator[None]:
    """The same for the block's files where a library such as Minari opens them; `path` is the first, or their folder.

    Raises:
        CannotRead: the system does not let it be read now.
        HeldElsewhere, LeadsElsewhere: as of `open_hdf5`.
        UserError: a folder in it is a link to elsewhere; or the block's own. A file that is absent or damaged is for
            the library to say.
    """
    locked = True
    for part in _hdf5_files(path):
        try:
            with content_of(part, "is damaged", ""), open_hdf5(part) as file:
                locked &= _is_locked(file)
        except LeadsElsewhere:
            raise
        except Damaged:  # The library says it better.
            continue
    before = h5py.File
    if not locked:
        # Minari has no parameter for it, and HDF5 reads its variable once, when h5py is imported; for all files then.
        h5py.File = _Unlocked
    try:
        yield
    finally:
        h5py.File = before


def _hdf5_files(path: Path) -> list[Path]:
    """The HDF5 files of a dataset that is one, or a folder of files.

    Raises:
        UserError: as of `refuse_linked_folders`.
    """
    if not path.is_dir():
        return [path] if path.suffix == ".hdf5" and there(path) else []
    refuse_linked_folders(path)
    return sorted(path.rglob("*.hdf5"))


def refuse_linked_folders(path: Path) -> None:
    """Refuse a folder below which a folder is a link: what lies in it is read, and is no part of the folder's sha256.

    Raises:
        UserError: names the first.
    """
    for place, folders, _ in os.walk(path):
        for name in folders:
            if (folder := Path(place, name)).is_symlink():
                raise UserError(
                    f"{folder} is a link to the folder {os.readlink(folder)}, which is no part of {path}",
                    "Put the folder itself there, since a dataset is known by the bytes in its own.",
                )


class _Unlocked(h5py.File):
    """As `h5py.File`, without locks unless they are asked for."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"locking": False} | options)


def _is_locked(file: h5py.File) -> bool:
    return bool(file.id.get_access_plist().get_file_locking()[0])


def _held(path: Path, otherwise: str, remedy: str) -> HeldElsewhere:
    if holders := list(_writers(path)):
        return HeldElsewhere(f"{path} is open for writing in {' and '.join(holders)}", _CLOSE)
    return HeldElsewhere(
        f"{path} is open for writing in a process that cannot be seen from here, {otherwise}",
        f"{_CLOSE} If nothing writes it any more: {remedy}.",
    )


def _writers(path: Path) -> Iterator[str]:
    """The processes on this machine that have a file open for writing, in words, as far as this user may see them."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if any(file.mode != "r" and os.path.samefile(file.path, path) for file in process.open_files()):
                yield f"process {process.pid} ({' '.join(process.cmdline())[:100]})"
