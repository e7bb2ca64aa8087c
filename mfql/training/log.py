"""The training log of one run: a CSV whose rows survive a kill exactly once, and TensorBoard."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mfql.errors import UserError
from mfql.files import sync_folder, writing

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_HEADER = "step,metric,value\n"


class TrainingLog:
    """Rows `step,metric,value` in `metrics.csv`, the same scalars in `tensorboard/`.

    Args:
        folder: the run's own folder.
        size: bytes of the CSV that a checkpoint vouches for; what a killed run wrote after it is cut off. None starts
            anew.
        step: the step of that checkpoint.
    """

    def __init__(self, folder: Path, size: int | None, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._path, board = folder / "metrics.csv", folder / "tensorboard"
        with writing(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            if size is None:
                self._path.write_text(_HEADER, encoding="utf-8")
                sync_folder(folder)
            else:
                _cut(self._path, size)
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 - open for the run's life, closed by close()
        with writing(board):
            self._board: SummaryWriter = SummaryWriter(str(board), purge_step=step + 1 if size else None)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One row a metric, in the order of their names."""
        with writing(self._path):
            for name in sorted(values):
                self._file.write(f"{step},{name},{values[name]!r}\n")
                self._board.add_scalar(name, values[name], step)
            self._file.flush()  # Whoever watches the run reads how far it is.

    def sync(self) -> int:
        """Bring all rows to the disk; returns the CSV's bytes."""
        with writing(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            return self._file.tell()

    def close(self) -> None:
        """Flush and close both."""
        with writing(self._path):
            self._file.close()
            self._board.close()


def _cut(path: Path, size: int) -> None:
    """Cut off what was written after a checkpoint.

    Raises:
        UserError: the file has less than the checkpoint vouches for.
    """
    present = path.stat().st_size if path.exists() else 0
    if present < size:
        raise UserError(
            f"{path} has {present} bytes, its checkpoint vouches for {size}",
            f"Put the file back, or remove {path.parent / 'checkpoint'} to train anew.",
        )
    os.truncate(path, size)
