"""What may lie in a file's place that the project did not put there."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any


def _socket(path: Path, _: bytes) -> None:
    with chdir(path.parent), socket.socket(socket.AF_UNIX) as one:
        one.bind(path.name)  # The address of a socket has at most 107 characters.


def _endless(path: Path, _: bytes) -> None:
    with open(path, "wb") as file:
        file.truncate(1 << 40)  # Of which the disk holds nothing.


def _changed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path, bytes], object]:
    """The file with other JSON in it; of a file that is no JSON, an empty object."""

    def write(path: Path, before: bytes) -> object:
        try:
            content = json.loads(before)
        except ValueError:
            content = {}
        return path.write_text(json.dumps(change(content)), encoding="utf-8")

    return write


def _others(value: dict[str, Any]) -> dict[str, Any]:
    return {key: 7 if isinstance(one, str) else "x" for key, one in value.items()}


def _inner(value: dict[str, Any]) -> dict[str, Any]:
    return {
        key: {inner: [] for inner in one} if isinstance(one, dict) else [None] if isinstance(one, list) else one
        for key, one in value.items()
    }


# By name: what puts it there, given the path, where nothing is, and what was there.
KINDS: dict[str, Callable[[Path, bytes], object]] = {
    "folder": lambda path, _: path.mkdir(),
    "link loop": lambda path, _: path.symlink_to(path.name),
    "link to nothing": lambda path, _: path.symlink_to("nothing"),
    "pipe": lambda path, _: os.mkfifo(path),
    "socket": _socket,
    "device": lambda path, _: path.symlink_to("/dev/zero"),
    "nothing": lambda path, _: None,
    "empty": lambda path, _: path.write_bytes(b""),
    "a tebibyte": _endless,
    "Latin-1": lambda path, before: path.write_bytes(_between(before, b"\xe9")),
    "NUL": lambda path, before: path.write_bytes(_between(before, b"\0")),
    "open quote": lambda path, before: path.write_bytes(_between(before, b'"')),
    "cut": lambda path, before: path.write_bytes(before[: len(before) // 2]),
    "deep": lambda path, _: path.write_bytes(b"[" * 1_500 + b"]" * 1_500),
    "huge number": lambda path, _: path.write_bytes(b'{"seed": ' + b"9" * 5000 + b"}"),
    "a list": lambda path, _: path.write_bytes(b"[1, 2]"),
    "a text": lambda path, _: path.write_bytes(b'"x"\n'),
    "an empty object": lambda path, _: path.write_bytes(b"{}"),
    "other types": _changed(_others),
    "other types within": _changed(_inner),
    "nothing but null": _changed(dict.fromkeys),
    "half of its entries": _changed(lambda value: dict(list(value.items())[::2])),
    "infinite numbers": lambda path, before: path.write_bytes(before.replace(b"1", b"1e400").replace(b"0", b"inf")),
    "cells beyond its columns": lambda path, before: path.write_bytes(before.partition(b"\n")[0] + b"\na" + b",1" * 30),
    "Python": lambda path, _: path.write_bytes(b"def f(:\n"),
}


def _between(content: bytes, more: bytes) -> bytes:
    return content[: len(content) // 2] + more + content[len(content) // 2 :]


@contextmanager
def replaced(path: Path, kind: str) -> Iterator[None]:
    """Put one of `KINDS` in a file's or a folder's place while the block runs."""
    aside = path.with_name(f".{path.name}.aside")
    before = path.read_bytes() if path.is_file() else b""
    if path.exists():
        path.rename(aside)
    try:
        KINDS[kind](path, before)
        yield
    finally:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        if aside.exists():
            aside.rename(path)
