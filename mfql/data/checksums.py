"""The lock file of datasets: size and sha256 of every published file, as it was when it was first fetched."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from mfql.errors import UserError
from mfql.files import read_json, sha256, there, write_json
from mfql.locks import locked

_WAIT = 60.0  # seconds for another fetch that is writing its record, which takes milliseconds


@dataclass(frozen=True)
class Checksum:
    """The size and the sha256 by which a file is known.

    Args:
        bytes: its size.
        sha256: 64 hexadecimal digits.
    """

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Checksum:
        """The checksum of a file."""
        return cls(path.stat().st_size, sha256(path))

    def __str__(self) -> str:
        return f"sha256 {self.sha256}, {self.bytes} bytes"


def recorded(lock: Path, name: str) -> Checksum | None:
    """What a lock file says of the published file `name`; None if nothing.

    Raises:
        UserError: the lock file is damaged.
    """
    return _read(lock).get(name)


def record(lock: Path, name: str, checksum: Checksum) -> Checksum:
    """Write down a file's checksum, unless another fetch was faster.

    Returns:
        The checksum that the lock file has now: the first one written.

    Raises:
        UserError: the lock file is damaged or cannot be written.
    """
    with locked(lock.with_name(f".{lock.name}.lock"), wait=_WAIT):
        checksums = _read(lock)
        first = checksums.setdefault(name, checksum)
        write_json(lock, {name: asdict(checksums[name]) for name in sorted(checksums)})
    return first


def _read(lock: Path) -> dict[str, Checksum]:
    if not there(lock):
        return {}
    try:
        return {name: Checksum(int(entry["bytes"]), str(entry["sha256"])) for name, entry in read_json(lock).items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{lock} is no lock file of datasets: each file's name must have bytes and sha256",
            "Restore it from version control, or delete it to record anew what is fetched.",
        ) from error
