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
    """Write `value` as indented JSON, whole or not at all. NaN becomes null: JSON has no NaN."""
    with write_whole(path) as file:
        json.dump(_finite(value), file, indent=1, allow_nan=False)
        file.write("\n")


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


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Hold the lock file `path` while the block runs, so that no second process writes in its folder.

    A lock left by a process of this host that no longer lives is taken over; one of another host is respected.

    Raises:
        UserError: another process holds the folder, or it cannot be written.
    """
    path = Path(path)
    folder = path.parent
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}", "Check the folder's permissions.") from error
    for attempt in range(2):
        try:
            with open(path, "x") as file:
                json.dump(mine, file)
            break
        except FileExistsError:
            holder = _read_holder(path)
            if attempt or (holder is not None and _alive(holder)):
                raise UserError(
                    f"{folder} is in use by process {(holder or mine)['pid']} on {(holder or mine)['host']}",
                    f"Wait for it or end it; if that machine is gone for good, delete {path}.",
                ) from None
            path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}", "Check the folder's permissions.") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _read_holder(path: Path) -> dict[str, Any] | None:
    """The holder of a lock, or None if the lock is gone or was cut while being written more than a minute ago."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except json.JSONDecodeError:
        fresh = time.time() - path.stat().st_mtime < 60
        return {"host": "unknown", "pid": "unknown", "started": 0.0} if fresh else None


def _alive(holder: dict[str, Any]) -> bool:
    if holder["host"] != socket.gethostname():
        return True
    try:
        return abs(psutil.Process(holder["pid"]).create_time() - holder["started"]) < 1.0
    except psutil.NoSuchProcess:
        return False
