"""Download a file over HTTP in as many pieces as it takes."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urljoin

import requests
from requests.exceptions import RequestException, Timeout
from tqdm import tqdm
from urllib3.exceptions import DecodeError, HTTPError
from urllib3.util import Retry

from mfql.data.addresses import host_of, is_plain, shown
from mfql.data.checksums import Known
from mfql.data.passing import claim, is_recorded, passing, record_of, release
from mfql.documents import read_json
from mfql.errors import UserError, note

# Tries in a row that bring nothing new; they wait 0, 2, 4, 8, 16 and 32 seconds, or what the server's Retry-After says.
RETRIES = Retry(total=6, backoff_factor=1, backoff_max=60, retry_after_max=600)
_TRANSIENT = frozenset({408, 425, 429, *range(500, 600)})
_TIMEOUT = (30, 60)  # seconds to connect, seconds without a byte
_SLOWEST = (300.0, 300_000)  # seconds in which at least so many bytes must come
_BLOCK = 1 << 16  # bytes that are read at once, at most
_ENDLESS = 200_000_000_000  # bytes of a file whose size nobody says, at most
_SPARE = 1_000_000_000  # bytes of the disk that such a file leaves free
_ENCODINGS = ("gzip", "x-gzip", "deflate")
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


class _Slow(_Fault):
    """So little comes that what has come counts for nothing."""


@dataclass(frozen=True)
class _Version:
    """What a server said of a file when the download began: bytes of another version never continue it.

    Args:
        url: without credentials, since it is written down.
        size: None if it did not say.
        validator: for `If-Range`; None if there is none.
    """

    url: str
    size: int | None
    validator: str | None

    @classmethod
    def of(cls, url: str, answer: requests.Response) -> _Version:
        """The version that a whole answer (200) begins."""
        if _encoding(answer):
            # The length and the tag are those of the compressed bytes, of which no part can continue ours.
            return cls(shown(url), None, None)
        size = answer.headers.get("Content-Length", "")
        return cls(shown(url), int(size) if size.isdigit() else None, _validator(answer))


def _validator(answer: requests.Response) -> str | None:
    tag = answer.headers.get("ETag", "")
    # If-Range takes no weak tag.
    return tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified")


def _encoding(answer: requests.Response) -> str:
    """How the server compressed what it sends, which it was asked not to do; empty if it did not."""
    encoding = answer.headers.get("Content-Encoding", "").strip().lower()
    return "" if encoding == "identity" else encoding


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
        return cls(passing(path, "part"))

    @property
    def size(self) -> int:
        """Bytes that have come."""
        return self.path.stat().st_size if self.path.exists() else 0

    def discard(self) -> None:
        """Forget what has come."""
        release(self.path)

    def begin(self, version: _Version) -> None:
        """Start from zero.

        Raises:
            UserError: somebody else's file is in the way.
        """
        self.discard()
        claim(self.path, **asdict(version))

    def version(self, url: str) -> _Version | None:
        """What the bytes are a part of; None if no download from `url` can continue them."""
        try:
            version = _Version(**{name: value for name, value in read_json(self._note).items() if name != "file"})
        except (UserError, AttributeError, TypeError):
            return None
        same = version.url == shown(url) and (version.size, version.validator) != (None, None)
        return version if same and self.path.exists() and is_recorded(self.path) else None

    @property
    def _note(self) -> Path:
        return record_of(self.path)


class _Session(requests.Session):
    """Follows a server's redirects, and says to where; never from an encrypted address to an unencrypted one."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target is None:
            return None
        here = resp.url
        try:
            there = urljoin(here, target)
            other = host_of(here) != host_of(there)
        except ValueError as error:
            raise UserError(f"{shown(here)} sends on to {shown(target)!r}, which is no address", REMEDY) from error
        if not is_plain(here) and is_plain(there):
            raise UserError(
                f"{shown(here)} sends on to {shown(there)}, which is not encrypted: nothing was fetched",
                "Whoever is on the way could alter what comes. Name that address yourself (--mirror) if you trust it.",
            )
        if other and host_of(there) not in self._said:  # Requests asks several times of each.
            self._said.add(host_of(there))
            note(f"{shown(here)} sends on to another host: {shown(there)}")
        return target


def download(
    url: str, path: Path, *, known: Known | None = None, retries: Retry = RETRIES, progress: bool = True
) -> Path:
    """Download a file, continuing what an earlier call left; cuts, refused connections and busy servers are retried.

    Args:
        url: `http` or `https`. What it holds of credentials is in no message.
        path: the file is not written here but beside, as `.NAME.part`: the caller checks it and renames it.
        known: of the file; None if nothing is. One of another size is refused, if possible before it comes.
        retries: how often in a row, and with which waits, a try that brings nothing new is repeated.
        progress: whether to show a progress bar.

    Returns:
        The path of the whole `.NAME.part`.

    Raises:
        UserError: no such address, no network, a file of another size, a disk without room, or a folder that cannot be
            written. What has come of the right file stays.
    """
    part, left, farthest = Part.beside(path), retries, 0
    with _Session() as session:
        while True:
            try:
                _continue(session, url, part, known, path.name, progress)
                return part.path
            except _Fault as fault:
                if part.size > farthest and not isinstance(fault, _Slow):
                    left, farthest = retries, part.size
                if not left.total:
                    raise UserError(f"cannot download {shown(url)}: {fault}", f"{_KEPT} {REMEDY}") from fault
                left = left.increment("GET", shown(url), error=fault)
                tqdm.write(f"{shown(url)}: {fault}; trying again, {left.total} tries left", file=sys.stderr)
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


def _continue(session: requests.Session, url: str, part: Part, known: Known | None, name: str, progress: bool) -> None:
    """One request for the bytes that are missing."""
    version = part.version(url)
    if version is not None and part.size == version.size:
        _require_size(url, part.size, known)
        return
    try:
        with session.get(url, headers=_headers(part, version), stream=True, timeout=_TIMEOUT) as answer:
            version = _check_answer(answer, url, part, version, known)
            size = known.bytes if known and version.size is None else version.size
            _receive(answer, part, size, _excess(url, part, known), name, progress)
    except DecodeError as error:
        part.discard()
        raise UserError(
            f"cannot download {shown(url)}: what it sends as compressed ({_encoding(answer)}) is not", REMEDY
        ) from error
    except (requests.ConnectionError, HTTPError, Timeout) as error:
        raise _Fault(_reason(error)) from error
    except RequestException as error:
        raise UserError(f"cannot download {shown(url)}: {shown(str(error))}", REMEDY) from error
    except OSError as error:
        raise UserError(
            f"cannot write {part.path}: {error.strerror or error}",
            f"Check the folder's permissions and free space. {_KEPT}",
        ) from error
    if size is not None and part.size < size:
        raise _Fault(f"ended after {part.size} of {size} bytes")


def _require_size(url: str, size: int, known: Known | None) -> None:
    """Refuse a file that has not the bytes that are known of it, if possible before they come."""
    if known is not None and size != known.bytes:
        raise _not_recorded(url, str(size), known)


def _not_recorded(url: str, size: str, known: Known) -> UserError:
    return UserError(
        f"{shown(url)} is not the file that {known.source} records: it has {size} bytes, recorded are {known.bytes}."
        " Nothing of it is kept",
        f"Try another source; or, to accept this one, {known.acceptance}.",
    )


def _headers(part: Part, version: _Version | None) -> dict[str, str]:
    """Ask for what is missing; a server whose file has changed sends the whole of it."""
    headers = {"Accept-Encoding": "identity"}  # Compressed, the lengths would be those of something else.
    if version is not None:
        headers["Range"] = f"bytes={part.size}-"
        if version.validator is not None:
            headers["If-Range"] = version.validator
    return headers


def _check_answer(
    answer: requests.Response, url: str, part: Part, version: _Version | None, known: Known | None
) -> _Version:
    """The version that the answer's body belongs to; an answer that continues nothing starts the part from zero."""
    status = shown(f"{answer.status_code} {answer.reason}")
    if answer.status_code in _TRANSIENT:
        raise _Fault(f"the server answers {status}", answer)
    if answer.status_code == 206 and version is not None and _continues(answer, part.size, version):
        return version
    if answer.status_code in (206, 416):
        part.discard()
        raise _Fault(f"the server answers {status} with other bytes than those asked for; starting from zero")
    if answer.status_code != 200:
        raise UserError(f"{shown(url)} answers {status}", REMEDY)
    if answer.headers.get("Content-Type", "").lower().startswith(("text/html", "application/xhtml")):
        raise UserError(
            f"{shown(url)} answers with a web page instead of the file, such as one to log in or of an error", REMEDY
        )
    if (encoding := _encoding(answer)) and encoding not in _ENCODINGS:
        raise UserError(f"{shown(url)} sends the file compressed as {encoding!r}, which is not read", REMEDY)
    version = _Version.of(url, answer)
    if version.size is not None:
        _require_size(url, version.size, known)
    part.begin(version)
    return version


def _continues(answer: requests.Response, offset: int, version: _Version) -> bool:
    """Whether a part that was sent is what follows the bytes that are here, of the same version and not compressed."""
    span = re.fullmatch(r"bytes ([0-9]+)-([0-9]+)/([0-9]+|\*)", answer.headers.get("Content-Range", ""))
    if span is None or _encoding(answer) or int(span[1]) != offset or int(span[2]) < offset:
        return False
    found = _validator(answer)
    if found is not None and version.validator is not None and found != version.validator:
        return False
    whole = None if span[3] == "*" else int(span[3])
    if whole is not None and int(span[2]) >= whole:
        return False
    return version.size is None or whole in (None, version.size)


def _excess(url: str, part: Part, known: Known | None) -> Exception:
    """What it means if more comes than the file has. Of a whole answer that said its length nothing more is read."""
    if part.size:
        return _Fault("more comes than what is missing of the file; starting from zero")
    if known is None:
        return UserError(f"{shown(url)} sends more than {_bytes(_ENDLESS)} and never said how many bytes", REMEDY)
    return _not_recorded(url, f"more than {known.bytes}", known)


def _receive(
    answer: requests.Response, part: Part, size: int | None, excess: Exception, name: str, progress: bool
) -> None:
    """Append an answer's body to a part.

    Args:
        size: bytes of the whole file; None if nobody says.
        excess: raised if more come, of which nothing is kept.
    """
    if size is not None:
        require_space(part.path.parent, size - part.size, name)
    most, come = _ENDLESS if size is None else size, part.size
    bar = tqdm(total=size, initial=come, desc=name, unit="B", unit_scale=True, disable=not progress)
    with bar, open(part.path, "ab") as file:
        for block in _blocks(answer):
            come += len(block)
            if come > most:
                part.discard()
                raise excess
            if size is None:
                require_space(part.path.parent, len(block) + _SPARE, name)
            file.write(block)
            bar.update(len(block))


def _blocks(answer: requests.Response) -> Iterator[bytes]:
    """What comes, as it comes.

    Raises:
        _Slow: hardly anything does, though the server never falls silent.
    """
    seconds, least = _SLOWEST
    begun, come = time.monotonic(), 0
    while block := answer.raw.read1(_BLOCK, decode_content=True):
        yield block
        come += len(block)
        if (taken := time.monotonic() - begun) >= seconds:
            if come < least:
                raise _Slow(f"only {come} bytes came in {taken:.0f} seconds")
            begun, come = time.monotonic(), 0


def _reason(error: Exception) -> str:
    """The innermost cause, such as `[Errno 111] Connection refused`, which requests wraps in several others."""
    cause = error.args[0] if error.args else error
    cause = getattr(cause, "reason", cause)
    return shown(next((text for text in getattr(cause, "args", ()) if isinstance(text, str)), str(cause)))


def _bytes(number: int) -> str:
    return tqdm.format_sizeof(number, suffix="B", divisor=1000)
