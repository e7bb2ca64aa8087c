"""The one door to a file that is read, files that appear whole or not at all, and hashes.

A file that this process did not just write may be anything: a pipe that nobody writes to, a folder, a gigabyte, lists
in lists ten thousand deep. `open_file` lets regular files through alone, and never waits; `read_bytes` bounds what is
read; `read_json`, `read_yaml` and `read_text` bound what is made of it. What they refuse names the path.
"""

from __future__ import annotations

import codecs
import errno
import fcntl
import hashlib
import json
import math
import os
import pwd
import re
import secrets
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from functools import cache
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, cast

import yaml

from mfql.errors import UserError, note


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


# Of JSON and YAML: levels of lists and mappings in one another; and numbers that tables and arrays can hold.
_MOST_LEVELS, _WHOLE_NUMBERS = 64, 1 << 63
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(path: str | Path) -> Any:
    """Read JSON as this package writes it: no NaN, no number beyond 64 bits or a float's, no key twice in an object.

    Raises:
        UserError: the file is absent, cannot be read, is larger than `MOST_JSON`, or is not such JSON.
    """
    try:
        text = read_bytes(path, MOST_JSON).decode()
        value = _JSON.decode(text)
        _require_shallow(text, value)
        if "\\u" in text:
            _require_characters(text, value)
        return value
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path} does not exist", "Run the stage that writes it first.") from error
    except (ValueError, RecursionError) as error:
        said = _TOO_DEEP if isinstance(error, RecursionError) else error
        raise UserError(f"{path} is not valid JSON: {said}", "Delete it and run the stage that writes it.") from error


_TOO_DEEP = f"it has lists or objects more than {_MOST_LEVELS} deep in one another"


def read_object(path: str | Path) -> dict[str, Any]:
    """Read JSON that is an object.

    Raises:
        UserError: as of `read_json`, or it is something else.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        kind = "a list" if isinstance(found, list) else repr(found)[:40]
        raise UserError(f"{path} holds {kind}, no object", "Put the right file in its place.")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        times = Counter(key for key, _ in pairs)
        raise ValueError(f"the key {_shortened(max(times, key=times.__getitem__))!r} stands there twice")
    return found


def _whole_number(text: str) -> int:
    if len(text) > 20 or not -_WHOLE_NUMBERS <= (number := int(text)) < _WHOLE_NUMBERS:
        raise ValueError(f"the number {_shortened(text)} has more than 64 bits")
    return number


def _float(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"the number {_shortened(text)} is beyond {sys.float_info.max:.2g}")
    return number


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


_JSON = json.JSONDecoder(
    object_pairs_hook=_once, parse_int=_whole_number, parse_float=_float, parse_constant=_no_number
)


def _shortened(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:20]}..."


def _require_shallow(text: str, value: Any) -> None:
    """Refuse what nests so deep that who goes through it, by functions that call themselves, would not come back."""
    if text.count("[") + text.count("{") <= _MOST_LEVELS:
        return
    level = [value]
    for _ in range(_MOST_LEVELS):
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [item for items in inner for item in items]
    if level:
        raise RecursionError


def _require_characters(text: str, value: Any) -> None:
    """Refuse texts that no path and no file can hold: NUL, and halves of characters."""
    if "\\u0000" in text:
        raise ValueError("it has a NUL character")
    if _HALF.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("it has half of a character, a surrogate without its other") from error


@cache
def note_once(message: str) -> None:
    """A note, however often what it is of is read."""
    note(message)


def read_text(path: str | Path, remedy: str, most: int = MOST_TEXT) -> str:
    """A text that people wrote: UTF-8, with or without a byte-order mark; UTF-16 with one, of which a note is given.

    Args:
        remedy: what to do where there is none.
        most: bytes that it may have.

    Raises:
        UserError: the file is absent, cannot be read, is larger, or is in another encoding or no text; names the line.
    """
    try:
        content = read_bytes(path, most)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"cannot read {path}: {error.strerror}", remedy) from error
    encoding = "utf-8-sig"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
        note_once(f"{path} is read as UTF-16, as its byte-order mark says; save it as UTF-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"cannot read {path}: line {line}: the byte 0x{content[error.start]:02x} is not of UTF-8:"
            " the file was saved in another encoding, such as Windows' cp1252",
            "Save it as UTF-8: in a spreadsheet as `CSV UTF-8`, else iconv -f CP1252 -t UTF-8.",
        ) from error
    if (at := text.find("\0")) >= 0:
        raise UserError(
            f"cannot read {path}: line {text[:at].count(chr(10)) + 1}: it has a NUL character, as no text has",
            "Put the text in its place; one that was saved as UTF-16 needs its byte-order mark, or save it as UTF-8.",
        )
    return text


class _Loader(yaml.SafeLoader):
    """YAML without tags that run anything, in which nothing is read as something else than it looks like.

    Of a key that stands twice PyYAML would take the last and say nothing. An alias costs PyYAML nothing, and whoever
    goes through the document as much as what it stands for: nodes are counted as if each alias were written out.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._level = self._deepest = self._nodes = 0
        self._sizes: dict[yaml.Node, tuple[int, int]] = {}  # Nodes and levels of each that is whole.

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        event, before, outer = self.peek_event(), self._nodes, self._deepest
        self._level += 1
        self._deepest = self._level
        self._require_bounded(event.start_mark)  # Before the next level, for which the stack may not suffice.
        node = cast("yaml.Node", super().compose_node(parent, index))
        if isinstance(event, yaml.AliasEvent):
            if node not in self._sizes:
                raise _misread(event, f"*{event.anchor} holds itself")
            nodes, levels = self._sizes[node]
            self._nodes, self._deepest = self._nodes + nodes, self._level + levels
        else:
            self._nodes += 1
            self._sizes[node] = self._nodes - before, self._deepest - self._level
        self._require_bounded(event.start_mark)
        self._level, self._deepest = self._level - 1, max(outer, self._deepest)
        return node

    def _require_bounded(self, mark: yaml.Mark) -> None:
        if self._deepest > _MOST_LEVELS:
            problem = f"lists or mappings are more than {_MOST_LEVELS} deep in one another"
            raise yaml.composer.ComposerError(None, None, problem, mark)
        if self._nodes > _MOST_NODES:
            raise yaml.composer.ComposerError(
                None, None, f"it has more than {_MOST_NODES} values, aliases counted", mark
            )

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        number = _of_bounded_length(node) and super().construct_yaml_int(node)
        if not -_WHOLE_NUMBERS <= number < _WHOLE_NUMBERS:
            raise _misread(node, f"the number {_shortened(node.value)} has more than 64 bits")
        return int(number)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        number = _of_bounded_length(node) and super().construct_yaml_float(node)
        if math.isinf(number) and "inf" not in node.value.lower():
            raise _misread(node, f"the number {_shortened(node.value)} is beyond {sys.float_info.max:.2g}")
        return float(number)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            line = key.start_mark.line + 1
            if key.tag == "tag:yaml.org,2002:bool":
                raise _misread(key, f"the key {key.value} is read as true or false: put it in quotes")
            if (key.tag, key.value) in seen:
                first = seen[key.tag, key.value]
                raise _misread(
                    key, f"the key {key.value} stands there twice, first in line {first}: keep one of the two"
                )
            seen[key.tag, key.value] = line
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        text = node.value
        if "\0" in text or _SURROGATES.search(text):
            raise _misread(node, "a text has a NUL character or half of a character")
        if node.style is not None or (len(text) > _MOST_DIGITS and node.tag == "tag:yaml.org,2002:str"):
            return node  # In quotes, a block, or longer than any number.
        if node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
            _of_bounded_length(node)
        if node.tag == "tag:yaml.org,2002:int" and _OCTAL.fullmatch(text) and int(text, 8) != int(text):
            raise _misread(
                node,
                f"{text} is read as {int(text, 8)}, since a number that begins with 0 counts in eights:"
                f" write {int(text)}, or '{text}' for the text",
            )
        if node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float") and ":" in text:
            number = yaml.safe_load(text)
            raise _misread(
                node,
                f"{text} is read as {number}, since a number with a colon counts in sixties:"
                f" write {number}, or '{text}' for the text",
            )
        if node.tag == "tag:yaml.org,2002:str" and (found := _EXPONENT.fullmatch(text)):
            point, sign = "" if "." in text else ".0", "" if found["exponent"][0] in "+-" else "+"
            written = f"{found['number']}{point}e{sign}{found['exponent']}"
            raise _misread(node, f"{text} is a text in YAML 1.1, no number: write {written}, or '{text}' for the text")
        return node


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
# Values of a document with each alias written out, and characters of a whole number, which may have underscores.
_MOST_NODES, _MOST_DIGITS = 100_000, 100
_SURROGATES = re.compile("[\ud800-\udfff]")
# Whole numbers that YAML 1.1 counts in eights, and those with an exponent that it takes for texts.
_OCTAL = re.compile(r"[-+]?0[0-7]+")
_EXPONENT = re.compile(r"(?P<number>[-+]?(\d+\.?\d*|\.\d+))[eE](?P<exponent>[-+]?\d+)")


def _of_bounded_length(number: yaml.ScalarNode) -> bool:
    if len(number.value) > _MOST_DIGITS:
        raise _misread(number, f"the number {_shortened(number.value)} has more than {_MOST_DIGITS} characters")
    return True


def _misread(node: yaml.Node | yaml.Event, problem: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, cast("yaml.Mark | None", node.start_mark))


def read_yaml(path: str | Path, remedy: str) -> Any:
    """Read YAML that people write.

    Args:
        remedy: what to do where it is none.

    Raises:
        UserError: the file cannot be read, is larger than `MOST_YAML`, is no YAML, has a key twice in one mapping or a
            number that YAML reads as another or as a text, is nested too deep or too often, or holds itself.
    """
    try:
        return deepcopy(_parsed(read_text(path, remedy, MOST_YAML)))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(f"cannot read {path}: line {line}: {error.problem}", remedy) from error
    # The last three are PyYAML's own on values that their tags do not fit, such as the date 2026-13-45.
    except (yaml.YAMLError, RecursionError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"cannot read {path}: {error}", remedy) from error


@cache
def _parsed(text: str) -> Any:
    """A document, parsed once: a launch asks for the settings of hundreds of runs."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506


def sha256(path: str | Path, most: int | None = None) -> str:
    """Hexadecimal sha256 of a file's content; of a folder, of the names and contents of the files below it.

    What a folder's `metadata.json` files say does not count: they tell of the data, and may be written anew.

    Args:
        most: bytes that a file may have; more would be hashed for hours.

    Raises:
        FileNotFoundError: it is absent.
        CannotRead: the system does not let it be read.
        UserError: it has more bytes.
    """
    if Path(path).is_dir():
        found, hidden = files_below(path)
        if hidden:
            raise hidden[0]
        files = [file for file in found if file.is_file() and file.name != "metadata.json"]
        return hash_of([[str(file.relative_to(path)), sha256(file)] for file in files])
    with open_file(path) as file, reading(path):
        if most is not None and os.fstat(file.fileno()).st_size > most:
            raise _too_large(path, most)
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_of(value: Any) -> str:
    """A 16-digit hexadecimal hash of a JSON-serialisable value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
