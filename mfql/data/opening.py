"""The one way to a dataset's files: what cannot be opened now is told from content that was read and is wrong.

Only the second is damage. On what the system refuses (permissions, locks, a device) a file says nothing of itself, and
nobody is to move it away or to make it anew.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import psutil

from mfql.errors import UserError
from mfql.files import CannotRead, is_refusal, there

# What numpy, zipfile and h5py raise of a file that is cut, altered or of another kind.
_FAULTS = (OSError, ValueError, LookupError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error)
# What HDF5 says of a file whose header is marked as open for writing.
_MARKED = "already open for write"
_CLOSE = (
    "Close it there: file.close() in a notebook, or restart its kernel. What it has not written yet nobody else sees."
    " Nothing was changed."
)


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
        UserError: the file is absent, or the block's own.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or path} does not exist", absent) from error
    except _FAULTS as error:
        if isinstance(error, OSError) and is_refusal(error):
            raise CannotRead(error.filename or path, error) from error
        raise Damaged(path, f"{fault}: {error}", remedy) from error


@contextmanager
def open_hdf5(path: str | Path) -> Iterator[h5py.File]:
    """An HDF5 file for reading; where the file system has no locks, without them.

    Raises:
        HeldElsewhere: another process has it open for writing, or one that did ended without closing it.
        OSError: as of `h5py.File`.
    """
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
        yield file


@contextmanager
def opened_by_a_library(path: Path) -> Iterator[None]:
    """The same for the block's files where a library such as Minari opens them, of which `path` is the first.

    Raises:
        CannotRead: the system does not let it be read now.
        HeldElsewhere: as of `open_hdf5`.
        UserError: the block's own. A file that is absent or damaged is for the library to say.
    """
    locked = True
    if path.suffix == ".hdf5" and there(path):
        with suppress(Damaged), content_of(path, "is damaged", ""), open_hdf5(path) as file:
            locked = _is_locked(file)
    before = h5py.File
    if not locked:
        # Minari has no parameter for it, and HDF5 reads its variable once, when h5py is imported; for all files then.
        h5py.File = _Unlocked
    try:
        yield
    finally:
        h5py.File = before


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
