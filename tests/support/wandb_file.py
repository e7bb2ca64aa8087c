"""Reads a `.wandb` file of an offline run: LevelDB's log format, with W&B's own messages as records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK, _HEADER = 1 << 15, 7
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[Any]:
    """Each whole record of the file."""
    from wandb.proto.wandb_internal_pb2 import Record

    content = path.read_bytes()
    assert content[:4] == b":W&B"
    at, parts = _HEADER, b""
    while at + _HEADER <= len(content):
        if _BLOCK - at % _BLOCK < _HEADER:  # No record begins in so small a rest of a block.
            at += _BLOCK - at % _BLOCK
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        at += _HEADER
        part = content[at : at + length]
        at += length
        if kind not in (_FULL, _FIRST, _MIDDLE, _LAST) or len(part) < length:
            return
        parts = part if kind in (_FULL, _FIRST) else parts + part
        if kind in (_FULL, _LAST):
            record = Record()
            record.ParseFromString(parts)
            yield record


def history(path: Path) -> list[tuple[int, dict[str, float]]]:
    """The step and values of each row, in the order in which they were logged."""
    rows = []
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            items = {
                (item.key or ".".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item
            }
            step = items.pop("_step", None)
            values = {name: value for name, value in items.items() if not name.startswith("_")}
            rows.append((record.history.step.num if step is None else step, values))
    return rows


def summary(path: Path) -> dict[str, Any]:
    """The last value of each entry of the summary."""
    found = {}
    for record in records(path):
        if record.WhichOneof("record_type") == "summary":
            found |= {
                (item.key or ".".join(item.nested_key)): json.loads(item.value_json) for item in record.summary.update
            }
    return found


def run_of(path: Path) -> Any:
    """The record of the run itself."""
    return next(record.run for record in records(path) if record.WhichOneof("record_type") == "run")
