"""The training log of one run: a CSV whose rows survive a kill exactly once, and TensorBoard.

TensorBoard has the settings too, as a text and as hyper-parameters, by which its HParams tab compares runs.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mfql.errors import UserError
from mfql.files import require_file, sync_folder, there, writing

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_HEADER = "step,metric,value\n"
_BLOCK = 1 << 20
_BOARD, _SCORE = "tensorboard", "score"


class TrainingLog:
    """Rows `step,metric,value` in `metrics.csv`, the same scalars in `tensorboard/`.

    Args:
        folder: the run's own folder.
        size: bytes of the CSV that a checkpoint vouches for; what a killed run wrote after it is cut off. None starts
            anew.
        step: the step of that checkpoint.
        digest: the sha256 of those bytes; None where the checkpoint is of a version that did not keep it.
        told: settings and what names the run, for TensorBoard, of a log that starts anew.
        compared: metrics by which its HParams tab compares runs, beside the score.

    Raises:
        UserError: the CSV is no file, or does not begin with what the checkpoint vouches for.
    """

    def __init__(
        self,
        folder: Path,
        size: int | None,
        step: int,
        digest: str | None = None,
        told: Mapping[str, Any] | None = None,
        compared: tuple[str, ...] = (),
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._path, board = folder / "metrics.csv", folder / _BOARD
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
            if told and size is None:
                _describe(self._board, told, compared)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One row a metric, in the order of their names."""
        with writing(self._path):
            for name in sorted(values):
                row = f"{step},{name},{values[name]!r}\n"
                self._file.write(row)
                self._written.update(row.encode())
                self._board.add_scalar(name, values[name], step)
            self._file.flush()  # Whoever watches the run reads how far it is.

    @property
    def size(self) -> int:
        """Bytes of the CSV."""
        return self._file.tell()

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


def _describe(board: SummaryWriter, told: Mapping[str, Any], compared: tuple[str, ...]) -> None:
    """Write settings as a text, and as the hyper-parameters of a session that has begun."""
    from torch.utils.tensorboard.summary import hparams

    values = {key: value if isinstance(value, int | float | str) else json.dumps(value) for key, value in told.items()}
    rows = "".join(f"| {key} | {str(value).replace('|', '&#124;')} |\n" for key, value in values.items())
    board.add_text("settings", f"| | |\n|---|---|\n{rows}")
    # What `add_hparams` writes, but for a folder of its own, which would be a run beside this one.
    experiment, begin, _ = hparams(values, dict.fromkeys((_SCORE, *compared), 0.0))
    for summary in (experiment, begin):
        board._get_file_writer().add_summary(summary)


def end_board(folder: Path, score: float | None, step: int) -> None:
    """Give TensorBoard's hyper-parameters the score of a run that is finished, and the session's end.

    Args:
        folder: the run's own folder.
        score: in percent; None without an evaluation.
        step: the last.
    """
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    with writing(folder / _BOARD), SummaryWriter(str(folder / _BOARD)) as board:
        if score is not None:
            board.add_scalar(_SCORE, score, step)
        board._get_file_writer().add_summary(hparams({}, {})[2])


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
