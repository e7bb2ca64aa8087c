"""A server of datasets that misbehaves as it is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler


@dataclass
class Site:
    """A local HTTP server with ranges and ETags.

    Args:
        files: content by path.
        faults: what becomes of the next requests, one each: an HTTP status; `cut:N`, the connection ends after N bytes
            of the body; `corrupt`, one byte is another; `""`, nothing.
        ranges: whether it honours Range.
        tags: whether it sends ETags.
        asked: (path, Range, bytes sent) of each request.
    """

    files: dict[str, bytes]
    faults: list[str] = field(default_factory=list)
    ranges: bool = True
    tags: bool = True
    asked: list[tuple[str, str | None, int]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    url: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        name, fault = request.path.rpartition("/")[2], self.faults.pop(0) if self.faults else ""
        wanted = request.headers["Range"]
        if fault.isdigit() or name not in self.files:
            self.asked.append((name, wanted, 0))
            request.send_response(int(fault or 404))
            for key, value in self.headers.items():
                request.send_header(key, value)
            request.end_headers()
            return
        content = self.files[name]
        tag = f'"{hash(content)}"' if self.tags else None
        start = 0
        if wanted and self.ranges and request.headers["If-Range"] in (None, tag):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            request.send_response(200)
        if tag:
            request.send_header("ETag", tag)
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        body = bytearray(content[start:])
        if fault == "corrupt":
            body[len(body) // 2] ^= 1
        if fault.startswith("cut:"):
            del body[int(fault.removeprefix("cut:")) :]
        self.asked.append((name, wanted, len(body)))
        request.wfile.write(body)
