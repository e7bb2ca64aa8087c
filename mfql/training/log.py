"""The training log of one run: a CSV whose rows survive a kill exactly once, and TensorBoard."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mfql.errors import UserError
from mfql.files import require_file, sync_folder, there, writing

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_HEADER = "step,metric,value\n"
_BLOCK = 1 << 20


class TrainingLog:
    """Rows `step,metric,value` in `metrics.csv`, the same scalars in `tensorboard/`.

    Args:
        folder: the run's own folder.
        size: bytes of the CSV that a checkpoint vouches for; what a killed run wrote after it is cut off. None starts
            anew.
        step: the step of that checkpoint.
        digest: the sha256 of those bytes; None where the checkpoint is of a version that did not keep it.

    Raises:
        UserError: the CSV is no file, or does not begin with what the checkpoint vouches for.
    """

    def __init__(self, folder: Path, size: int | None, step: int, digest: str | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._path, board = folder / "metrics.csv", folder / "tensorboard"
        with writing(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            if there(self._path):
                require_file(self._path)
            if size is None:
                self._path.write_text(_HEADER, encoding="utf-8")
                sync_folder(folder)
                self._written = hashlib.sha256(_HEADER.encode())
            else:
                self._written = _cut(self._path, size, digest)
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 - open for the run's life, closed by close()
        with writing(board):
            self._board: SummaryWriter = SummaryWriter(str(board), purge_step=step + 1 if size else None)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One row a metric, in the order of their names."""
        with writing(self._path):
            for name in sorted(values):
                row = f"{step},{name},{values[name]!r}\n"
                self._file.write(row)
                self._written.update(row.encode())
                self._board.add_scalar(name, values[name], step)
            self._file.flush()  # Whoever watches the run reads how far it is.

    def sync(self) -> tuple[int, str]:
        """Bring all rows to the disk; returns the CSV's bytes and the sha256 of what was written."""
        with writing(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            return self._file.tell(), self._written.hexdigest()

    def close(self) -> None:
        """Flush and close both."""
        with writing(self._path):
            self._file.close()
            self._board.close()


def _cut(path: Path, size: int, digest: str | None) -> hashlib._Hash:
    """Cut off what was written after a checkpoint.

    Returns:
        the hash of what stays, to go on with.

    Raises:
        UserError: the file does not begin with what the checkpoint vouches for.
    """
    present = path.stat().st_size if path.exists() else 0
    remedy = f"Put the file back, or remove {path.parent / 'checkpoint'} to train anew."
    if present < size:
        raise UserError(f"{path} has {present} bytes, its checkpoint vouches for {size}", remedy)
    kept = hashlib.sha256()
    with open(path, "rb") as file:
        for start in range(0, size, _BLOCK):
            kept.update(file.read(min(_BLOCK, size - start)))
    if digest not in (None, kept.hexdigest()):
        raise UserError(
            f"{path} is altered: its checkpoint vouches for other content of its first {size} bytes", remedy
        )
    os.truncate(path, size)
    return kept
