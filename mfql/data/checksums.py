"""The lock files of datasets: size and sha256 of every published file, as it was when it was first fetched.

One is written by fetches. Another, `datasets.lock.json` beside this module, ships with the project: it has what was
known of published files before anybody here fetched them, of most the size alone. The first comes before it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mfql.documents import read_json, write_json
from mfql.errors import UserError
from mfql.files import sha256, there
from mfql.locks import locked

SHIPPED = Path(__file__).with_name("datasets.lock.json")
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


@dataclass(frozen=True)
class Known:
    """What is known of a published file before it is fetched.

    Args:
        name: of the file.
        bytes: its size.
        sha256: None where the size alone is known.
        lock: the lock file that fetches write.
        is_shipped: whether that has no entry of the file, so that the one that ships with the project counts.
    """

    name: str
    bytes: int
    sha256: str | None
    lock: Path
    is_shipped: bool

    def admits(self, found: Checksum) -> bool:
        """Whether a file with that checksum is what is known."""
        return found.bytes == self.bytes and self.sha256 in (None, found.sha256)

    @property
    def source(self) -> Path:
        """The lock file that says it."""
        return SHIPPED if self.is_shipped else self.lock

    @property
    def acceptance(self) -> str:
        """What to do to have another file accepted."""
        if self.is_shipped:
            return f"give {self.lock} an entry {self.name} with its bytes and sha256, which counts before the other"
        return f"delete the entry {self.name} from {self.lock} and fetch again"

    def __str__(self) -> str:
        return f"{'' if self.sha256 is None else f'sha256 {self.sha256}, '}{self.bytes} bytes"


def known(lock: Path, name: str) -> Known | None:
    """What a lock file says of the published file `name`, or else the one that ships with the project; None if nothing.

    Raises:
        UserError: the lock file is damaged.
    """
    found = recorded(lock, name)
    if found is not None:
        return Known(name, found.bytes, found.sha256, lock, is_shipped=False)
    entry = _read_shipped().get(name)
    return None if entry is None else Known(name, entry["bytes"], entry.get("sha256"), lock, is_shipped=True)


def contradicted(lock: Path, name: str) -> Known | None:
    """What ships with the project of a file of which a lock file records something else; None if they agree."""
    found, entry = recorded(lock, name), _read_shipped().get(name)
    if found is None or entry is None:
        return None
    shipped = Known(name, entry["bytes"], entry.get("sha256"), lock, is_shipped=True)
    return None if shipped.admits(found) else shipped


@cache
def _read_shipped() -> dict[str, Any]:
    found: dict[str, Any] = read_json(SHIPPED)
    return found


def recorded(lock: Path, name: str) -> Checksum | None:
    """What fetches wrote into a lock file of the published file `name`; None if nothing.

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
