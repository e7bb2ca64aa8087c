"""Images of pixel datasets beside their archives, not compressed, so that training maps them from the disk.

What is trained on is what the archive holds, whose sha256 is known: a copy is believed if it has the archive's own
checksum and length of these images, each time that it is used. One that has not is made again.
"""

from __future__ import annotations

import shutil
import zipfile
import zlib
from pathlib import Path

import numpy as np

from mfql.data.opening import open_zip
from mfql.errors import UserError, warn
from mfql.files import there, write_whole, writing
from mfql.locks import locked

_MEMBER = "observations.npy"
_FOLDER = "unpacked"
# Another job that needs the same images unpacks them meanwhile.
_LONGEST_UNPACKING = 3600.0
_BLOCK = 1 << 24


def unpacked_images(path: Path) -> np.ndarray:
    """The images [F, H, W, C] of an archive, mapped from a copy beside it, which is made where there is none like it.

    Raises:
        UserError: no room to unpack.
        CannotRead, OSError, ValueError, zipfile.BadZipFile: as of `open_zip`.
    """
    with open_zip(path) as archive:
        member = archive.getinfo(_MEMBER)
        copy = _place(path, member)
        if not _is_whole(copy, member):
            with writing(copy.parent):
                copy.parent.mkdir(exist_ok=True)
            with locked(copy.with_suffix(".lock"), wait=_LONGEST_UNPACKING):
                _unpack(archive, member, copy)
    # Copy on write: pages come from the file, and torch wants an array that could be written.
    images: np.ndarray = np.load(copy, mmap_mode="c", allow_pickle=False)
    return images


def altered_copy(path: Path) -> Path | None:
    """The copy of an archive's images, if there is one and it is not what the archive holds.

    Raises:
        CannotRead, OSError, ValueError, zipfile.BadZipFile: as of `open_zip`.
    """
    with open_zip(path) as archive:
        if _MEMBER not in archive.namelist():
            return None
        member = archive.getinfo(_MEMBER)
    copy = _place(path, member)
    return copy if there(copy) and not _is_whole(copy, member) else None


def _place(path: Path, member: zipfile.ZipInfo) -> Path:
    """By the archive's checksum, so that a replaced archive has another copy."""
    return path.parent / _FOLDER / f"{path.stem}-{member.CRC:08x}.npy"


def _is_whole(copy: Path, member: zipfile.ZipInfo) -> bool:
    if not copy.is_file() or copy.stat().st_size != member.file_size:
        return False
    found = 0
    with open(copy, "rb") as file:
        while block := file.read(_BLOCK):
            found = zlib.crc32(block, found)
    return found == member.CRC


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, copy: Path) -> None:
    if there(copy):
        if _is_whole(copy, member):  # By another job, while this one waited.
            return
        warn(f"{copy} is not what {archive.filename} holds: it is unpacked anew")
    free = shutil.disk_usage(copy.parent).free
    if free < member.file_size:
        raise UserError(
            f"unpacking the images of {archive.filename} takes {member.file_size / 1e9:.1f} GB,"
            f" and {copy.parent} has {free / 1e9:.1f} GB free",
            "Free some space, or move data_dir to a larger disk.",
        )
    with archive.open(member) as packed, write_whole(copy, "wb") as file:
        shutil.copyfileobj(packed, file, _BLOCK)
