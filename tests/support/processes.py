"""Processes of tests: they end with the test that started them, also where it fails, and are waited for until then."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def started(command: Sequence[Any], **options: Any) -> Iterator[subprocess.Popen]:
    """A process in a group of its own; when the block ends, in whatever way, nothing of the group lives on.

    Args:
        options: of `subprocess.Popen`.
    """
    with subprocess.Popen([*map(str, command)], start_new_session=True, **options) as process:
        try:
            yield process
        finally:
            end(process)


def end(process: subprocess.Popen) -> None:
    """End a process of `started` and all that it started; its own children outlive one that has ended already."""
    with suppress(ProcessLookupError):  # Nothing of the group is left.
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run(command: Sequence[Any], **options: Any) -> subprocess.CompletedProcess:
    """As `subprocess.run`, with the promise of `started`; a busy machine may take as long as it needs.

    Args:
        options: of `subprocess.Popen`; without `stdout` both streams are captured as text.
    """
    streams = {} if "stdout" in options else {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started(command, encoding="utf-8", **{"stdin": subprocess.DEVNULL, **streams, **options}) as process:
        printed, errors = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, printed, errors)


def until(condition: Callable[[], Any], process: subprocess.Popen, said: Callable[[], str]) -> Any:
    """The condition's value as soon as it is true.

    Args:
        process: on which it waits; one that ends before fails the test.
        said: what it printed, for the message.
    """
    while not (value := condition()):
        assert process.poll() is None, said()
        time.sleep(0.05)
    return value
