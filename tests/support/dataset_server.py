"""A server of datasets that misbehaves as it is told."""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler


@dataclass
class Site:
    """A local HTTP server with ranges and ETags.

    Args:
        files: content by path.
        faults: what becomes of the next requests, one each: an HTTP status; `cut:N`, the connection ends after N bytes
            of the body; `corrupt`, one byte is another; `span:S`, the Content-Range of a part is `bytes S`; `tag`, a
            part is of another version; `gzip`, it is sent compressed, to be cut by `gzip:N`; `chunked`, without a
            length, to be cut by `chunked:N`; `more`, longer than it says; `endless`; `drip`, a byte now and then;
            `silent`; `page`, a web page; `to:URL`, a redirect; `""`, nothing.
        ranges: whether it honours Range.
        tags: whether it sends ETags.
        asked: (path, Range, bytes sent) of each request.
        headers: of answers that are an HTTP status.
        reason: the server's words beside an HTTP status.
        authorized: the Authorization of each request.
    """

    files: dict[str, bytes]
    faults: list[str] = field(default_factory=list)
    ranges: bool = True
    tags: bool = True
    asked: list[tuple[str, str | None, int]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    url: str = ""
    reason: str | None = None
    authorized: list[str | None] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path, _, query = request.path.partition("?")
        name, fault = path.rpartition("/")[2], self.faults.pop(0) if self.faults else ""
        wanted = request.headers["Range"]
        self.authorized.append(request.headers["Authorization"])
        self.queries.append(query)
        kind, _, value = fault.partition(":")
        if kind in _UNUSUAL and name in self.files:
            self.asked.append((name, wanted, 0))
            _UNUSUAL[kind](request, self.files[name], wanted, value)
            return
        if fault.isdigit() or name not in self.files:
            self.asked.append((name, wanted, 0))
            request.send_response(int(fault or 404), self.reason)
            for key, value in self.headers.items():
                request.send_header(key, value)
            request.end_headers()
            return
        content = self.files[name]
        tag = f'"{hash(content)}"' if self.tags else None
        part = bool(wanted and self.ranges and request.headers["If-Range"] in (None, tag))
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and part else 0
        body = bytearray(content[start:])
        if fault == "corrupt":
            body[len(body) // 2] ^= 1
        if fault.startswith("cut:"):
            del body[int(fault.removeprefix("cut:")) :]
        # Before the headers, after which a client may have seen enough.
        self.asked.append((name, wanted, len(body)))
        request.send_response(206 if part else 200)
        if part:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if tag:
            request.send_header("ETag", tag)
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        request.wfile.write(body)


def _compressed(request: BaseHTTPRequestHandler, content: bytes, wanted: str | None, cut: str) -> None:
    body = gzip.compress(content)
    _begin(request, 206 if wanted and not cut else 200, content, wanted)
    request.send_header("Content-Encoding", "gzip")
    request.send_header("Content-Length", str(len(body)))
    request.send_header("ETag", f'"{hash(content)}"')
    request.end_headers()
    request.wfile.write(body[: int(cut)] if cut else body)


def _chunked(request: BaseHTTPRequestHandler, content: bytes, wanted: str | None, cut: str) -> None:
    _chunks(request, 200, content, None, [content[: int(cut)] if cut else content], ended=not cut)


def _more(request: BaseHTTPRequestHandler, content: bytes, wanted: str | None, _: str) -> None:
    start = int(wanted[6:-1]) if wanted else 0
    _chunks(request, 206 if wanted else 200, content, wanted, [content[start:], b"and more"])


def _endless(request: BaseHTTPRequestHandler, content: bytes, wanted: str | None, _: str) -> None:
    def forever() -> Iterator[bytes]:
        while True:
            yield bytes(1 << 16)

    _chunks(request, 200, content, None, forever())


def _drip(request: BaseHTTPRequestHandler, content: bytes, wanted: str | None, _: str) -> None:
    def slowly() -> Iterator[bytes]:
        for byte in content:
            yield bytes([byte])
            time.sleep(0.01)

    _chunks(request, 200, content, None, slowly())


def _chunks(request, status, content, wanted, blocks, ended=True) -> None:
    request.protocol_version = "HTTP/1.1"
    request.close_connection = True
    _begin(request, status, content, wanted)
    request.send_header("ETag", f'"{hash(content)}"')
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    try:
        for block in blocks:
            request.wfile.write(b"%x\r\n%s\r\n" % (len(block), block))
        if ended:
            request.wfile.write(b"0\r\n\r\n")
    except OSError:  # It has hung up.
        return


def _silent(request: BaseHTTPRequestHandler, content: bytes, wanted: str | None, _: str) -> None:
    _begin(request, 200, content, wanted)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    request.rfile.read(1)  # Until it hangs up.


def _page(request: BaseHTTPRequestHandler, content: bytes, wanted: str | None, _: str) -> None:
    _begin(request, 200, content, wanted)
    request.send_header("Content-Type", "text/html; charset=utf-8")
    request.end_headers()
    request.wfile.write(b"<html>log in</html>")


def _redirect(request: BaseHTTPRequestHandler, content: bytes, wanted: str | None, to: str) -> None:
    _begin(request, 302, content, wanted)
    request.send_header("Location", to)
    request.end_headers()


def _span(request: BaseHTTPRequestHandler, content: bytes, wanted: str | None, span: str) -> None:
    """A part by the given Content-Range, of bytes that do not follow those that were asked for."""
    request.send_response(206)
    request.send_header("Content-Range", f"bytes {span}")
    request.end_headers()
    request.wfile.write(content[:1000])


def _other_version(request: BaseHTTPRequestHandler, content: bytes, wanted: str | None, _: str) -> None:
    """What follows, of another version of the same size, though the request asked for this one alone."""
    start = int(wanted[6:-1]) if wanted else 0
    _begin(request, 206, content, wanted)
    request.send_header("ETag", '"another"')
    request.end_headers()
    request.wfile.write(bytes(len(content) - start))


def _begin(request: BaseHTTPRequestHandler, status: int, content: bytes, wanted: str | None) -> None:
    request.send_response(status)
    if status == 206 and wanted:
        request.send_header("Content-Range", f"bytes {wanted[6:]}{len(content) - 1}/{len(content)}")


_UNUSUAL = {
    "gzip": _compressed,
    "chunked": _chunked,
    "more": _more,
    "endless": _endless,
    "drip": _drip,
    "silent": _silent,
    "page": _page,
    "to": _redirect,
    "span": _span,
    "tag": _other_version,
}
