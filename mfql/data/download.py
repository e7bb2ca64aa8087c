"""Download a file over HTTP in as many pieces as it takes."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import requests
from requests.exceptions import ChunkedEncodingError, RequestException, Timeout
from tqdm import tqdm
from urllib3.util import Retry

from mfql.errors import UserError
from mfql.files import read_json, write_json

# Tries in a row that bring nothing new; they wait 0, 2, 4, 8, 16 and 32 seconds, or what the server's Retry-After says.
RETRIES = Retry(total=6, backoff_factor=1, backoff_max=60, retry_after_max=600)
_TRANSIENT = frozenset({408, 425, 429, *range(500, 600)})
_TIMEOUT = (30, 60)  # seconds to connect, seconds without a byte
_BLOCK = 1 << 16  # bytes; what of a block has come when the connection is cut is lost
_KEPT = "What has come is kept: the same command continues it."
REMEDY = (
    "Check the network and the dataset's name; or fetch from a mirror (mfql data fetch --mirror URL) or from a folder "
    "that has the files (--from DIR; datasets_from in a configuration means either); or make the dataset with mfql "
    "data generate (point mazes, cubes, scene, puzzles)."
)


class _Fault(Exception):
    """What another try may mend.

    Args:
        reason: for people.
        answer: the server's, whose Retry-After counts; None if there was none.
    """

    def __init__(self, reason: str, answer: requests.Response | None = None) -> None:
        super().__init__(reason)
        self.answer = answer


@dataclass(frozen=True)
class _Version:
    """What a server said of a file when the download began: bytes of another version never continue it."""

    url: str
    size: int | None
    validator: str | None

    @classmethod
    def of(cls, url: str, answer: requests.Response) -> _Version:
        """The version that a whole answer (200) begins."""
        size, tag = answer.headers.get("Content-Length", ""), answer.headers.get("ETag", "")
        # If-Range takes no weak tag.
        strong = tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified")
        return cls(url, int(size) if size.isdigit() else None, strong)


@dataclass(frozen=True)
class Part:
    """A partial download: `.NAME.part` beside the file that it becomes, and `.NAME.part.json`, which says of what.

    Args:
        path: of the bytes that have come.
    """

    path: Path

    @classmethod
    def beside(cls, path: Path) -> Part:
        """The partial download of the file `path`."""
        return cls(path.with_name(f".{path.name}.part"))

    @property
    def size(self) -> int:
        """Bytes that have come."""
        return self.path.stat().st_size if self.path.exists() else 0

    def discard(self) -> None:
        """Forget what has come."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def begin(self, version: _Version) -> None:
        """Start from zero."""
        self.discard()
        write_json(self._note, asdict(version))

    def version(self, url: str) -> _Version | None:
        """What the bytes are a part of; None if no download from `url` can continue them."""
        try:
            version = _Version(**read_json(self._note))
        except (UserError, TypeError):
            return None
        same = version.url == url and (version.size, version.validator) != (None, None)
        return version if same and self.path.exists() else None

    @property
    def _note(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")


def download(url: str, path: Path, *, retries: Retry = RETRIES, progress: bool = True) -> Path:
    """Download a file, continuing what an earlier call left; cuts, refused connections and busy servers are retried.

    Args:
        url: `http` or `https`.
        path: the file is not written here but beside, as `.NAME.part`: the caller checks it and renames it.
        retries: how often in a row, and with which waits, a try that brings nothing new is repeated.
        progress: whether to show a progress bar.

    Returns:
        The path of the whole `.NAME.part`.

    Raises:
        UserError: no such address, no network, a disk without room, or a folder that cannot be written. What has come
            stays.
    """
    part, left, farthest = Part.beside(path), retries, 0
    while True:
        try:
            _continue(url, part, path.name, progress)
            return part.path
        except _Fault as fault:
            if part.size > farthest:
                left, farthest = retries, part.size
            if not left.total:
                raise UserError(f"cannot download {url}: {fault}", f"{_KEPT} {REMEDY}") from fault
            left = left.increment("GET", url, error=fault)
            tqdm.write(f"{url}: {fault}; trying again, {left.total} tries left", file=sys.stderr)
            left.sleep(fault.answer.raw if fault.answer is not None else None)


def require_space(folder: Path, needed: int, name: str) -> None:
    """Stop before a disk runs full.

    Args:
        folder: on the disk in question.
        needed: bytes that are still to be written.
        name: of the file, for the message.

    Raises:
        UserError: fewer bytes are free than needed.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"the disk of {folder} is too full for {name}: {_bytes(needed)} needed, {_bytes(free)} free",
            "Free some space, or choose another folder (--out; data_dir in a configuration).",
        )


def _continue(url: str, part: Part, name: str, progress: bool) -> None:
    """One request for the bytes that are missing."""
    version = part.version(url)
    if version is not None and part.size == version.size:
        return
    try:
        with requests.get(url, headers=_headers(part, version), stream=True, timeout=_TIMEOUT) as answer:
            version = _check_answer(answer, url, part, version)
            _receive(answer, part, version.size, name, progress)
    except (requests.ConnectionError, ChunkedEncodingError, Timeout) as error:
        raise _Fault(_reason(error)) from error
    except RequestException as error:
        raise UserError(f"cannot download {url}: {error}", REMEDY) from error
    except OSError as error:
        raise UserError(
            f"cannot write {part.path}: {error.strerror or error}",
            f"Check the folder's permissions and free space. {_KEPT}",
        ) from error
    if version.size is not None and part.size != version.size:
        raise _Fault(f"ended after {part.size} of {version.size} bytes")


def _headers(part: Part, version: _Version | None) -> dict[str, str]:
    """Ask for what is missing; a server whose file has changed sends the whole of it."""
    headers = {"Accept-Encoding": "identity"}  # Compressed, the lengths would be those of something else.
    if version is not None:
        headers["Range"] = f"bytes={part.size}-"
        if version.validator is not None:
            headers["If-Range"] = version.validator
    return headers


def _check_answer(answer: requests.Response, url: str, part: Part, version: _Version | None) -> _Version:
    """The version that the answer's body belongs to; an answer that continues nothing starts the part from zero."""
    status = f"{answer.status_code} {answer.reason}"
    if answer.status_code in _TRANSIENT:
        raise _Fault(f"the server answers {status}", answer)
    if answer.status_code == 206 and version is not None and _continues(answer, part.size, version):
        return version
    if answer.status_code in (206, 416):
        part.discard()
        raise _Fault(f"the server answers {status} with other bytes than those asked for; starting from zero")
    if answer.status_code != 200:
        raise UserError(f"{url} answers {status}", REMEDY)
    version = _Version.of(url, answer)
    part.begin(version)
    return version


def _continues(answer: requests.Response, offset: int, version: _Version) -> bool:
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    if span is None or int(span[1]) != offset:
        return False
    return version.size is None or span[2] in ("*", str(version.size))


def _receive(answer: requests.Response, part: Part, size: int | None, name: str, progress: bool) -> None:
    if size is not None:
        require_space(part.path.parent, size - part.size, name)
    bar = tqdm(total=size, initial=part.size, desc=name, unit="B", unit_scale=True, disable=not progress)
    with bar, open(part.path, "ab") as file:
        for block in answer.iter_content(_BLOCK):
            file.write(block)
            bar.update(len(block))


def _reason(error: RequestException) -> str:
    """The innermost cause, such as `[Errno 111] Connection refused`, which requests wraps in several others."""
    cause = error.args[0] if error.args else error
    cause = getattr(cause, "reason", cause)
    return next((text for text in getattr(cause, "args", ()) if isinstance(text, str)), str(cause))


def _bytes(number: int) -> str:
    return tqdm.format_sizeof(number, suffix="B", divisor=1000)
