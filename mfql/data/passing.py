"""Files that a fetch has under passing names beside the one that they become, and how they are known as its own.

`.NAME.part` comes over the network, `.NAME.copy` is linked or copied from a folder, `.NAME.refused` was set aside. Each
has a record beside it (`.NAME.part.json` and so on), written before it: what has none is somebody else's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mfql.documents import read_json, write_json
from mfql.errors import UserError
from mfql.files import there

KINDS = ("part", "copy", "refused")


def passing(path: Path, kind: str) -> Path:
    """The passing file of a kind of `KINDS` beside the file `path`."""
    return path.with_name(f".{path.name}.{kind}")


def record_of(file: Path) -> Path:
    """The record of a passing file."""
    return file.with_name(f"{file.name}.json")


def is_recorded(file: Path) -> bool:
    """Whether a fetch wrote a passing file, or was about to: its record is there and says so.

    A link, a pipe or a folder of that name is none that it wrote. Records of earlier versions, which have those of
    `.NAME.part` alone, count too.
    """
    if file.is_symlink() or (there(file) and not file.is_file()):
        return False
    try:
        said = read_json(record_of(file))
    except UserError:
        return False
    return isinstance(said, dict) and ("url" in said or said.get("file") == file.name)


def claim(file: Path, **facts: Any) -> None:
    """Write the record of a passing file that is about to be written.

    Args:
        facts: what is known of it.

    Raises:
        UserError: such a file is there without a record, or a link is, so that somebody else put it there.
    """
    if (there(file) or file.is_symlink()) and not is_recorded(file):
        raise UserError(
            f"{file} is in the way, and no record beside it says that a fetch wrote it: it stays as it is",
            "Move it away; the same command goes on.",
        )
    write_json(record_of(file), {"file": file.name} | facts)


def release(file: Path) -> None:
    """Remove a passing file that is recorded, and its record."""
    if is_recorded(file):
        file.unlink(missing_ok=True)
        record_of(file).unlink(missing_ok=True)
