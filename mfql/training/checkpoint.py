"""Checkpoints that are whole or refused, and the online tail beside them in segments that are written once."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from mfql.errors import UserError
from mfql.experiment.run import CheckpointFolder
from mfql.files import CannotRead, open_file, reading, write_whole
from mfql.footprint import free_memory

_DIGEST = 64
# The last two are kept: a seed of a job may be one checkpoint ahead of the others when the job is killed.
_KEPT = 2


def save_tensors(path: Path, value: Any) -> str:
    """Write nested dicts of tensors and plain values behind their sha256, whole or not at all; returns the sha256."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    payload = buffer.getvalue()
    digest = hashlib.sha256(payload).hexdigest()
    with write_whole(path, "wb") as file:
        file.write(digest.encode())
        file.write(payload)
    return digest


def load_tensors(path: Path, expected: str | None = None) -> Any:
    """Read what `save_tensors` wrote; nothing in the file is executed.

    Raises:
        CannotRead: the system does not let it be read now, which says nothing of it.
        UserError: the file is absent, cut or altered, or holds anything but tensors and plain values.
    """
    try:
        with open_file(path) as file, reading(path):
            size, free = os.fstat(file.fileno()).st_size, free_memory()
            if size > free:
                said = f"it asks for {size:,} bytes of memory, and {free:,} are free here"
                raise CannotRead(path, OSError(errno.ENOMEM, said))
            content = file.read()
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}", "Remove the run's checkpoint folder to start anew."
        ) from error
    digest, payload = content[:_DIGEST].decode(errors="replace"), content[_DIGEST:]
    if hashlib.sha256(payload).hexdigest() != digest or expected not in (None, digest):
        raise UserError(
            f"{path} is cut or altered: its content does not match its checksum",
            "Put the right file back, or remove it: training continues from the one before it, or starts anew.",
        )
    try:
        return torch.load(io.BytesIO(payload), weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError) as error:
        # A file that was made to look whole: it asks for more than tensors and plain values.
        raise UserError(
            f"{path} is no checkpoint of this project: nothing but tensors and plain values is loaded",
            "Remove it; do not load it elsewhere unless you trust who made it.",
        ) from error


class Checkpoints(CheckpointFolder):
    """The checkpoints of one run: `step-<n>.pt`, and the finished online episodes in `tail-<first>-<end>.pt`."""

    def usable(self) -> dict[int, dict[str, Any]]:
        """Checkpoints that are whole, by step; the others are named, left alone and count as absent.

        Raises:
            CannotRead: one cannot be read now: to go on without it could train for days again.
        """
        found = {}
        for step in self.steps():
            try:
                found[step] = self.load(step)
            except CannotRead:
                raise
            except UserError as error:
                print(f"{str(error).splitlines()[0]}; passed over", flush=True)
        return found

    def load(self, step: int) -> dict[str, Any]:
        """The checkpoint of a step, its tail joined under `tail`.

        Raises:
            UserError: it or a segment of its tail is absent, cut or altered.
        """
        saved = load_tensors(self.path(step))
        parts = [load_tensors(self.folder / name, digest) for name, digest in saved["segments"]]
        parts.append(saved["open_rows"])
        saved["tail"] = {name: torch.cat([part[name] for part in parts]) for name in saved["open_rows"]}
        return saved

    def save_segment(self, first: int, rows: dict[str, torch.Tensor]) -> tuple[str, str]:
        """Write finished rows of the tail; returns the segment's name and sha256 for the checkpoint to list."""
        name = f"tail-{first:09d}-{first + len(rows['rewards']):09d}.pt"
        return name, save_tensors(self.folder / name, rows)

    def save(self, step: int, value: dict[str, Any]) -> None:
        """Write the checkpoint of a step; remove all but the last two."""
        save_tensors(self.path(step), value)
        for old in self.steps()[:-_KEPT]:
            self.path(old).unlink(missing_ok=True)
