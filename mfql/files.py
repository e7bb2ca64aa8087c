"""The one door to a file that is read, files that appear whole or not at all, and hashes.

A file that this process did not just write may be anything: a pipe that nobody writes to, a folder, or have no end.
`open_file` lets regular files through alone, and never waits; `read_bytes` bounds what is read. What they refuse names
the path. `mfql.documents` bounds what is made of it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import pwd
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

from mfql.errors import UserError


class CannotRead(UserError):
    """The system does not let a file or folder be read now, which says nothing of what it holds.

    Args:
        path: of the file or folder.
        error: the system's, with its number.
    """

    def __init__(self, path: str | Path, error: OSError) -> None:
        self.path = Path(path)
        said = f"cannot read {path}: {error.strerror or error}"
        if error.errno in _FORBIDDEN:
            super().__init__(f"{said}{_owner(path)}", "Its owner can let you: chmod -R g+rX or a+rX.")
        elif error.errno in _FAILED:
            super().__init__(said, "The disk failed, or the network behind it: the same command again when it answers.")
        elif error.errno == errno.EISDIR:
            super().__init__(said, "Name the file.")
        elif error.errno == _IRREGULAR:
            super().__init__(said, "Nothing was changed: put the file itself in its place.")
        else:
            super().__init__(said, "Nothing was changed: the same command again when it can be read.")


_FORBIDDEN = (errno.EACCES, errno.EPERM)
_FAILED = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO, errno.ENODEV)
_IRREGULAR = errno.EOPNOTSUPP


def _owner(path: str | Path) -> str:
    """Whose a file is, or the innermost folder on the way to it that can be seen."""
    place = Path(path).absolute()
    for seen in (place, *place.parents):
        try:
            found = seen.stat()
        except OSError:
            continue
        try:
            name = pwd.getpwuid(found.st_uid).pw_name
        except KeyError:  # A user of another machine, or of outside the container.
            name = f"user {found.st_uid}"
        return f" ({'it' if seen is place else seen} is {name}'s, with the mode {found.st_mode & 0o7777:o})"
    return ""


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Say of what the block reads that the system does not let it be read; that it is absent is an error as ever.

    Raises:
        CannotRead: for an OSError of the system that does not say that something is absent.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise CannotRead(error.filename or path, error) from error


def is_refusal(error: Exception) -> bool:
    """Whether an error is the system's refusal to read, and no word on what was read.

    Libraries raise OSErrors without a number for content that is wrong, and seek where it leads them (EINVAL).
    """
    known = (errno.EINVAL, errno.EISDIR, errno.ENOENT, errno.ENOTDIR)
    return isinstance(error, OSError) and error.errno is not None and error.errno not in known


_PIECE = 1 << 16  # Bytes beyond a file's size that are asked for at once: it grows, or is one of /proc and has none.
# Bytes of a file that are read, by kind: a multiple of what any here has had, and what is parsed within a minute.
MOST_JSON, MOST_YAML, MOST_TEXT, MOST_PICTURE = 64 << 20, 1 << 20, 32 << 20, 64 << 20
MOST_WEIGHTS = 16 << 30  # Of a policy, and of a training log: hashed within a minute.
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextmanager
def open_file(path: str | Path) -> Iterator[BufferedReader]:
    """A regular file for reading, or a link to one. Anything else is refused at once: a pipe would be waited for.

    Raises:
        FileNotFoundError, NotADirectoryError: it is absent.
        CannotRead: the system does not let it be read, or it is a folder, a pipe, a socket or a device.
    """
    with reading(path):
        file = open(_descriptor(path), "rb")  # noqa: SIM115 - closed below, where errors are the block's own
    with file:
        yield file


def _descriptor(path: str | Path) -> int:
    try:
        # What it is is asked of what was opened: between a look and the opening, a name may come to be another's.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:  # A socket, or a device that is not there.
            raise OSError(_IRREGULAR, "it is a socket or a device, no file", str(path)) from error
        raise
    try:
        kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
        if kind == stat.S_IFDIR:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if kind != stat.S_IFREG:
            raise OSError(_IRREGULAR, f"it is {_KINDS.get(kind, 'something else')}, no file", str(path))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def require_file(path: str | Path) -> None:
    """Refuse what is no regular file, before a library opens it by its name.

    Raises:
        FileNotFoundError, NotADirectoryError: it is absent.
        CannotRead: as of `open_file`.
    """
    with open_file(path):
        pass


def read_bytes(path: str | Path, most: int) -> bytes:
    """The content of a regular file.

    Args:
        most: bytes that it may have.

    Raises:
        FileNotFoundError, NotADirectoryError: it is absent.
        CannotRead: as of `open_file`.
        UserError: it has more bytes.
    """
    # By the system's own calls: a study has thousands of manifests.
    try:
        descriptor = _descriptor(path)
        try:
            size, content = os.fstat(descriptor).st_size, b""
            while size <= most and (more := os.read(descriptor, max(size - len(content), 0) + _PIECE)):
                content += more
                if len(content) > most:
                    break
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise CannotRead(error.filename or path, error) from error
    if max(size, len(content)) > most:
        raise _too_large(path, most)
    return content


def _too_large(path: str | Path, most: int) -> UserError:
    return UserError(
        f"{path} has more than {most >> 20} MiB, more than any file of its kind", "Put the right file in its place."
    )


def there(path: str | Path) -> bool:
    """Whether a file or folder is there.

    Raises:
        CannotRead: a folder on the way to it does not let that be seen.
    """
    with reading(path):
        try:
            os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
    return True


def listed(folder: str | Path) -> list[Path]:
    """What lies in a folder, by name; nothing of one that is absent.

    Raises:
        CannotRead: it does not let that be seen. `Path.glob` would say nothing.
    """
    with reading(folder):
        try:
            return sorted(Path(folder, name) for name in os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return []


def files_below(folder: str | Path) -> tuple[list[Path], list[CannotRead]]:
    """All files below a folder, by name, and the folders among them into which nobody here may look."""
    hidden: list[CannotRead] = []

    def look(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            hidden.append(CannotRead(error.filename, error))

    found = [Path(place, name) for place, _, names in os.walk(folder, onerror=look) for name in names]
    return sorted(found), hidden


def expanded(path: str | Path, where: str) -> str:
    """A path as a shell takes it: with `~` and `~USER` for a home, `$NAME` and `${NAME}` for a variable.

    Args:
        where: what to call the place in which the path stands.

    Raises:
        UserError: there is no such user or variable. A folder of that name would be made.
    """
    told = os.path.expandvars(os.path.expanduser(path))
    if told.startswith("~"):
        raise UserError(f"{where}: {path}: this machine knows no such home", f"Write the whole path, or ./{path}.")
    if (unset := _VARIABLE.search(told)) is not None:
        raise UserError(
            f"{where}: {path}: the environment has no variable {unset[1] or unset[2]}",
            "Set it, or write the whole path.",
        )
    return told


_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([^}]*)\})")


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Name the file where the block cannot write it.

    Raises:
        UserError: for an OSError, such as that of a full disk.
    """
    try:
        yield
    except OSError as error:
        remedy = "Check the folder's permissions and free space."
        if error.errno == errno.EISDIR:
            remedy = "Name a file in it."
        raise UserError(f"cannot write {path}: {error.strerror or error}", remedy) from error


@contextmanager
def write_whole(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file beside `path` for writing and rename it to `path` when the block ends without an error.

    The passing name is `.NAME.TOKEN.part` with a random token: process numbers repeat in containers and on other
    machines. What a killed writer of the same file left beside it is removed.

    Raises:
        UserError: the folder cannot be written, or the disk is full; nothing is left behind.
    """
    path = Path(path)
    with writing(path):
        _make(path.parent)
        file, beside = _beside(path, mode)
    try:
        with writing(path), file:
            remove_left(path.parent, [re.escape(path.name)])
            yield file
            file.flush()
            os.fsync(file.fileno())
        with writing(path):
            os.replace(beside, path)
            sync_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """The path of a folder to be made, which becomes `path` when the block ends without an error.

    Raises:
        UserError: something of that name is there, or the folder around it cannot be written; nothing is left behind.
    """
    path = Path(path)
    if os.path.lexists(path):
        raise UserError(f"{path} is there already", "Name another folder, or remove it.")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield beside / path.name
        with writing(path):
            move(beside / path.name, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


# Of the random part of a passing name.
_TOKEN_BYTES = 8
# Of a file system that knows no such thing, or of a folder that may be written and not read.
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EPERM)


def _beside(path: Path, mode: str) -> tuple[IO[Any], Path]:
    """A new file under a passing name, marked as in use."""
    while True:
        beside = path.with_name(f".{path.name}.{secrets.token_hex(_TOKEN_BYTES)}.part")
        file = open(beside, mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8")  # noqa: SIM115
        _hold(file.fileno())
        if os.fstat(file.fileno()).st_nlink:
            return file, beside
        file.close()  # Another writer took it for one that a killed one left, in the moment before it was marked.


def _hold(descriptor: int) -> bool:
    """Mark a file as in use until it is closed or the process ends; whether it is this process's now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # Another's; or a file system without such marks, where nothing is removed.
        return False
    return True


def remove_left(folder: str | Path, names: Iterable[str], *, locked: bool = False) -> None:
    """Remove what killed writers of `write_whole` left in a folder; files of writers that live stay.

    Args:
        folder: it may be absent; what lies in its folders is left alone.
        names: regular expressions of the names that are written there.
        locked: whether the caller holds the folder's lock, so that nobody else writes there. Then also what was left
            on a file system without marks is removed, or by an earlier version, which named it by the process.
    """
    left = left_name(tuple(names))
    with suppress(OSError):  # What cannot be removed is in nobody's way.
        for entry in [entry for entry in os.scandir(folder) if entry.name.endswith(".part")]:
            match = left.fullmatch(entry.name)
            if match is None or not entry.is_file(follow_symlinks=False):
                continue
            if locked or (len(match[1]) == 2 * _TOKEN_BYTES and _nobody_holds(entry.path)):
                os.unlink(entry.path)


@cache
def left_name(names: tuple[str, ...]) -> re.Pattern[str]:
    """The passing names of `write_whole` for files whose names match a regular expression; the group is the token.

    That of earlier versions was the process's number.
    """
    return re.compile(rf"\.(?:{'|'.join(names)})\.([0-9a-f]{{{2 * _TOKEN_BYTES}}}|\d{{1,7}})\.part")


def _nobody_holds(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return _hold(descriptor)
    finally:
        os.close(descriptor)


def move(source: str | Path, target: str | Path) -> None:
    """Rename a file or folder for good: a machine that then loses its power has it under the new name, and whole."""
    if not os.path.isdir(source):
        with open(source, "rb") as file:
            os.fsync(file.fileno())
    os.replace(source, target)
    for folder in {Path(source).parent, Path(target).parent}:
        sync_folder(folder)


def sync_folder(folder: str | Path) -> None:
    """Bring a folder's list of names to the disk, where the file system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


def _make(folder: Path) -> None:
    """Make a folder and those above it for good."""
    missing = [] if folder.is_dir() else [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in missing:
        sync_folder(one.parent)


def sha256(path: str | Path, most: int | None = None) -> str:
    """Hexadecimal sha256 of a file's content; of a folder, of the names and contents of the files below it.

    What a folder's `metadata.json` files say does not count: they tell of the data, and may be written anew. Of a
    dataset in LeRobot's layout, which has a `meta/info.json`, that counts, `meta/episodes*` and `data`: videos and
    images, statistics and the card of the dataset are not read.

    Args:
        most: bytes that a file may have; more would be hashed for hours.

    Raises:
        FileNotFoundError: it is absent.
        CannotRead: the system does not let it be read.
        UserError: it has more bytes.
    """
    if Path(path).is_dir():
        found, hidden = _counting(Path(path))
        if hidden:
            raise hidden[0]
        files = [file for file in found if file.is_file() and file.name != "metadata.json"]
        return hash_of([[str(file.relative_to(path)), sha256(file)] for file in files])
    with open_file(path) as file, reading(path):
        if most is not None and os.fstat(file.fileno()).st_size > most:
            raise _too_large(path, most)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _counting(folder: Path) -> tuple[list[Path], list[CannotRead]]:
    """The files of a dataset's folder by which it is known, as of `files_below`."""
    about = folder / "meta"
    if not there(about / "info.json"):
        return files_below(folder)
    (data, hidden), (episodes, more) = files_below(folder / "data"), files_below(about / "episodes")
    return [*data, *episodes, about / "episodes.jsonl", about / "info.json"], hidden + more


def hash_of(value: Any) -> str:
    """A 16-digit hexadecimal hash of a JSON-serialisable value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
