"""Runs `mfql` and ends it by a signal at a named moment: `python killed.py MOMENT COUNT ARGUMENT...`.

Moments, by SIGKILL but for the last: `step`, in the COUNT-th finish of an online step; `checkpoint`, half-way through
writing the COUNT-th checkpoint file; `evaluation`, at the COUNT-th step of the evaluations' environments; `tracked`,
like `evaluation`, when trackers have something of each run; `ask`, like `step`, by SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from mfql import cli, files
from mfql.evaluation import rollout
from mfql.training import online


def die(number: signal.Signals = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)


def kill_before(
    owner: Any,
    name: str,
    count: int,
    counts: Callable[..., bool] = lambda *args, **kwargs: True,
    number: signal.Signals = signal.SIGKILL,
) -> None:
    """Replace a function by one that sends the signal at its COUNT-th call, of those that count."""
    original, calls = getattr(owner, name), 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += bool(counts(*args, **kwargs))
        if calls == count and counts(*args, **kwargs):
            die(number)
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)


def wait_for_trackers(results: Path) -> None:
    """Until MLflow has a point of each run's metrics, and W&B a file of each."""
    runs = [path.parent for path in results.glob("runs/*/*/*/*/run/manifest.json")]
    while not all(_mlflow_has_points(run) and any(run.glob("wandb/*/*.wandb")) for run in runs):
        time.sleep(0.1)


def _mlflow_has_points(run: Path) -> bool:
    try:
        with closing(sqlite3.connect(f"file:{run / 'mlflow' / 'mlflow.db'}?mode=ro", uri=True)) as store:
            return bool(store.execute("select count(*) from metrics").fetchone()[0])
    except sqlite3.OperationalError:  # It is being made.
        return False


def main() -> None:
    moment, count = sys.argv[1], int(sys.argv[2])
    if moment == "step":
        kill_before(online.Environments, "finish", count)
    elif moment == "ask":
        kill_before(online.Environments, "finish", count, number=signal.SIGTERM)
    elif moment == "checkpoint":
        # The file beside the checkpoint is written in full and not yet synchronised or renamed: cut it in half, then
        # die.
        original = files.os.fsync

        def halve(descriptor: int) -> None:
            nonlocal count
            if "step-" in os.readlink(f"/proc/self/fd/{descriptor}"):
                count -= 1
                if count == 0:
                    os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
                    die()
            original(descriptor)

        files.os.fsync = halve
    elif moment == "tracked":
        at, results = rollout.DrawStream.at, Path(sys.argv[sys.argv.index("--results") + 1])

        def wait_and_die(stream: Any, index: Any) -> Any:
            nonlocal count
            count -= "evaluate" in stream.purpose
            if count == 0:
                wait_for_trackers(results)
                die()
            return at(stream, index)

        rollout.DrawStream.at = wait_and_die
    elif moment == "evaluation":
        kill_before(rollout.DrawStream, "at", count, lambda stream, index: "evaluate" in stream.purpose)
    else:
        raise SystemExit(f"no moment {moment}")
    sys.exit(cli.main(sys.argv[3:]))


if __name__ == "__main__":
    main()
