"""One function of many arguments, shared out among worker processes that end with their parent."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import TypeVar

from mfql.errors import UserError
from mfql.extensions import safe_processes

Given = TypeVar("Given")
Made = TypeVar("Made")


@contextmanager
def mapped(function: Callable[[Given], Made], given: Sequence[Given], workers: int) -> Iterator[Iterable[Made]]:
    """The results of a function in the order of what it is given, within the block.

    Args:
        function: of a module, so that a worker process finds it.
        given: what it is called with, one after the other.
        workers: processes that compute; with 1 the calling one alone does.

    Raises:
        UserError: worker processes cannot be started, or one was killed.
    """
    if workers == 1:
        yield map(function, given)
        return
    with safe_processes():
        try:
            pool = ProcessPoolExecutor(
                min(workers, len(given)), mp_context=get_context("spawn"), initializer=_follow_parent
            )
        except OSError as error:  # Their locks lie in memory that processes share.
            raise UserError(
                f"cannot start worker processes: {error.strerror or error}",
                "Make room in /dev/shm (docker run --shm-size), or do without (--workers 1).",
            ) from error
        results = pool.map(function, given)
    try:
        yield results
    except BrokenProcessPool as error:
        raise UserError("a worker process was killed", "Probably out of memory: use fewer workers.") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _follow_parent() -> None:
    """Leave a terminal's interrupt to the parent, and end when it is killed, which an executor's workers do not."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch(parent: BaseProcess) -> None:
        parent.join()
        os._exit(1)

    if (parent := parent_process()) is not None:
        Thread(target=watch, args=(parent,), daemon=True).start()
