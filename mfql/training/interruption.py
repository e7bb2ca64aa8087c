"""Being asked to end: by a scheduler (SIGTERM), by Ctrl-C (SIGINT), or by a terminal that closes (SIGHUP)."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Interrupted(BaseException):
    """The job was asked to end; what it has is saved, and the same command continues it."""


@contextmanager
def asked_to_end(ask: Callable[[], None] | None = None) -> Iterator[None]:
    """Call `ask` when this process is asked to end; None raises `Interrupted` there and then.

    A second Ctrl-C is a `KeyboardInterrupt`: whoever presses it twice does not want to wait. A signal that whoever
    started the process had it ignore, as `nohup` does, stays ignored.
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

    heard = [number for number in _ASKING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
