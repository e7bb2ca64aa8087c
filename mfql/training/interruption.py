"""Being asked to end: by a scheduler or the system (SIGTERM), or at the terminal (SIGINT, Ctrl-C)."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_ASKING = (signal.SIGTERM, signal.SIGINT)


class Interrupted(BaseException):
    """The job was asked to end; what it has is saved, and the same command continues it."""


@contextmanager
def asked_to_end(ask: Callable[[], None] | None = None) -> Iterator[None]:
    """Call `ask` when this process is asked to end; None raises `Interrupted` there and then.

    A second Ctrl-C is a `KeyboardInterrupt`: whoever presses it twice does not want to wait.
    """
    interrupts = 0

    def handle(number: int, frame: Any) -> None:
        nonlocal interrupts
        interrupts += number == signal.SIGINT
        if interrupts > 1:
            raise KeyboardInterrupt
        if ask is None:
            raise Interrupted
        ask()

    before = {number: signal.signal(number, handle) for number in _ASKING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
