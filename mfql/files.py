"""Files that appear whole or not at all, hashes, and locks on folders in use."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import psutil

from mfql.errors import UserError


@contextmanager
def write_whole(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file beside `path` for writing and rename it to `path` when the block ends without an error.

    Raises:
        UserError: the folder cannot be written, or the disk is full; nothing is left behind.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}", "Check the folder's permissions and free space."
        ) from error
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write `json_text(value)`, whole or not at all."""
    with write_whole(path) as file:
        file.write(json_text(value))


def json_text(value: Any) -> str:
    """`value` as indented JSON. NaN becomes null: JSON has no NaN."""
    return json.dumps(_finite(value), indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def read_json(path: str | Path) -> Any:
    """Read JSON written by this package.

    Raises:
        UserError: the file is absent or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist", "Run the stage that writes it first.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON: {error}", "Delete it and run the stage that writes it.") from error


def sha256(path: str | Path) -> str:
    """Hexadecimal sha256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def identity_of(value: Any) -> str:
    """A 16-digit hexadecimal hash of a JSON-serialisable value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


class InUse(UserError):
    """Another process holds a lock."""


@contextmanager
def locked(path: str | Path, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path` while the block runs, so that no second process writes in its folder.

    A lock left by a process of this host that no longer lives is taken over; one of another host is respected.

    Args:
        path: the lock file, absent before and after.
        wait: seconds to wait for another process to release it.

    Raises:
        InUse: another process holds the folder.
        UserError: it cannot be written.
    """
    path = Path(path)
    deadline = time.monotonic() + wait
    while True:
        try:
            _take(path)
            break
        except InUse:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.05)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def holder(path: str | Path) -> dict[str, Any] | None:
    """`host` and `pid` of the process that holds a lock; None where none does.

    A process of another host counts as holding it: whether it lives cannot be seen from here.
    """
    found = _read_holder(Path(path))
    return found if found is not None and _alive(found) else None


def _take(path: Path) -> None:
    """Write the lock file, or raise `InUse`."""
    folder = path.parent
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}", "Check the folder's permissions.") from error
    for _ in range(2):
        try:
            with open(path, "x") as file:
                json.dump(mine, file)
            return
        except FileExistsError:
            holder = _read_holder(path)
            if holder is not None and _alive(holder):
                raise _in_use(path, f"process {holder['pid']} on {holder['host']}") from None
            if holder is not None:  # One that was released just now may be another's again.
                path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}", "Check the folder's permissions.") from error
    raise _in_use(path, "another process")


def _in_use(path: Path, holder: str) -> InUse:
    return InUse(
        f"{path.parent} is in use by {holder}",
        f"Wait for it or end it; if that machine is gone for good, delete {path}.",
    )


def _read_holder(path: Path) -> dict[str, Any] | None:
    """The holder of a lock; None if the lock is gone."""
    try:
        text, written = path.read_text(), path.stat().st_mtime
    except FileNotFoundError:
        return None
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        # Being written, or its writer was cut off in the middle: no process has the number 0.
        fresh = time.time() - written < 60
        return {"host": "unknown" if fresh else socket.gethostname(), "pid": 0, "started": 0.0}


def _alive(holder: dict[str, Any]) -> bool:
    if holder["host"] != socket.gethostname():
        return True
    try:
        return abs(psutil.Process(holder["pid"]).create_time() - holder["started"]) < 1.0
    except psutil.NoSuchProcess:
        return False
