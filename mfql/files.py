"""Files that appear whole or not at all, what the system does not let be read, and hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

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
        else:
            super().__init__(said, "Nothing was changed: the same command again when it can be read.")


_FORBIDDEN = (errno.EACCES, errno.EPERM)
_FAILED = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO, errno.ENODEV)


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


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Name the file where the block cannot write it.

    Raises:
        UserError: for an OSError, such as that of a full disk.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}", "Check the folder's permissions and free space."
        ) from error


@contextmanager
def write_whole(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file beside `path` for writing and rename it to `path` when the block ends without an error.

    Raises:
        UserError: the folder cannot be written, or the disk is full; nothing is left behind.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(beside, mode, encoding=None if "b" in mode else "utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
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
        UserError: the file is absent, cannot be read, or is not JSON.
    """
    try:
        with reading(path):
            return json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path} does not exist", "Run the stage that writes it first.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON: {error}", "Delete it and run the stage that writes it.") from error


class _Loader(yaml.SafeLoader):
    """YAML without tags that run anything; of a key that stands twice PyYAML would take the last and say nothing."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value} stands there twice", key.start_mark
                )
            seen.add((key.tag, key.value))
        return node


def read_yaml(path: str | Path, remedy: str) -> Any:
    """Read YAML that people write.

    Args:
        remedy: what to do where it is none.

    Raises:
        UserError: the file cannot be read, is no YAML, has a key twice in one mapping, or holds itself.
    """
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506
        json.dumps(content, default=str, skipkeys=True)  # Refuses what holds itself, by which no reader would end.
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", remedy) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(f"cannot read {path}: line {line}: {error.problem}", remedy) from error
    # The last three are PyYAML's own on values that their tags do not fit, such as the date 2026-13-45.
    except (yaml.YAMLError, RecursionError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"cannot read {path}: {error}", remedy) from error
    return content


def sha256(path: str | Path) -> str:
    """Hexadecimal sha256 of a file's content; of a folder, of the names and contents of the files below it.

    What a folder's `metadata.json` files say does not count: they tell of the data, and may be written anew.

    Raises:
        FileNotFoundError: it is absent.
        CannotRead: the system does not let it be read.
    """
    if Path(path).is_dir():
        files = [file for file in sorted(Path(path).rglob("*")) if file.is_file() and file.name != "metadata.json"]
        return hash_of([[str(file.relative_to(path)), sha256(file)] for file in files])
    with reading(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_of(value: Any) -> str:
    """A 16-digit hexadecimal hash of a JSON-serialisable value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
