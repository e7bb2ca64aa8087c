"""How long a reset or a step of an environment is waited for, so that one that hangs ends in an error.

The limit is `DEFAULT` seconds, or what `MFQL_ENV_TIMEOUT` says. It is waited for in parts: a process that is stopped
and goes on, as a scheduler's suspended job does, loses one of them and not all. A process that was asked to end waits
`GRACE` seconds more at most.

What hangs in this process, and not in a worker, is broken off by a signal; Python sees that only once a library's own
code has returned. Where that does not return either, the process ends with all stacks `GRACE` seconds later, by a clock
that goes on while it is stopped.
"""

from __future__ import annotations

import _thread
import faulthandler
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import FrameType, FunctionType, TracebackType
from typing import Any

from mfql.errors import UserError

VARIABLE, DEFAULT = "MFQL_ENV_TIMEOUT", 600.0
# Of a scheduler's time between asking and killing, often 30 seconds, the rest is for saving.
GRACE = 10.0
PARTS, _LONGEST_PART = 10, 1.0
_LONGEST = 30 * 86400.0  # seconds: timers take no infinity
_FRAMES, _LINES = 8, 40  # of a stack, the innermost


def env_timeout() -> float:
    """Seconds that a reset or a step may take.

    Raises:
        UserError: `MFQL_ENV_TIMEOUT` is no number above 0.
    """
    said = os.environ.get(VARIABLE, "").strip()
    try:
        seconds = float(said) if said else DEFAULT
    except ValueError:
        seconds = 0.0
    if not seconds > 0.0:
        raise UserError(
            f"{VARIABLE} is {said!r}, and not a number of seconds above 0",
            f"Unset it for {DEFAULT:g} seconds, or give how long one step of an environment may take; inf is no limit.",
        )
    return min(seconds, _LONGEST)


class Waiting:
    """Counts the parts of a wait.

    Attributes:
        part: seconds of one.
    """

    # Seconds that this process goes on waiting, for whatever.
    _left = math.inf

    def __init__(self, seconds: float) -> None:
        self.part = min(seconds / PARTS, _LONGEST_PART)
        self._most, self._parts, self._seen = round(seconds / self.part), 0, -1

    def is_over(self, progress: int) -> bool:
        """Whether it has lasted long enough, asked after each part.

        Args:
            progress: a number that changes with each reset or step: the wait begins anew, unless there is a hurry.
        """
        self._parts = self._parts + 1 if progress == self._seen else 0
        self._seen = progress
        Waiting._left -= self.part
        return self._parts >= self._most or Waiting._left <= 0.0

    @property
    def waited(self) -> float:
        """Seconds without progress."""
        return max(1, self._parts) * self.part


@contextmanager
def able_to_hurry() -> Iterator[Callable[[], None]]:
    """Within the block, after a call of what it gives, this process waits for `GRACE` seconds more, and not longer."""

    def hurry() -> None:
        Waiting._left = min(Waiting._left, GRACE)

    try:
        yield hurry
    finally:
        Waiting._left = math.inf


def hanging(what: str, seconds: float, stack: str) -> tuple[str, str]:
    """Message and remedy of the error for what has not ended.

    Args:
        what: such as `mine: environment 3: step 7 of the episode of seed 12`.
        seconds: that it was waited for.
        stack: where it stands, a line an entry.
    """
    shown = "\n".join(stack.rstrip().splitlines()[:_LINES])
    return (
        f"{what} has not ended after {seconds:g} seconds; it stands here:\n{shown}",
        f"Mend the environment, or give it longer: set the variable {VARIABLE} to more seconds. The same command of a"
        " training goes on from the last checkpoint.",
    )


class Hangs(UserError):
    """A reset or a step has not ended in time."""


class _Late(BaseException):
    """Breaks off a block that is late; what asks a server again and again catches each `Exception`."""


class Limited:
    """Within the block, this process's main thread is waited for as long as a reset or a step may take.

    The block, which may be entered again afterwards, ends with a `Hangs` error, also where its code caught what broke
    it off: nobody knows what such a step is worth. In another thread, and where somebody else uses SIGALRM, nothing is
    limited. What never returns from a library's own code ends the process, with 1, after `GRACE` seconds more.

    Args:
        what: says what hangs, asked when it does.
        progress: a number that changes with each reset or step, if there are several in the block.
        least: seconds that are waited for, whatever a step may take.
    """

    def __init__(self, what: Callable[[], str], progress: Callable[[], int] = int, least: float = 0.0) -> None:
        self._what, self._progress, self._seconds = what, progress, max(env_timeout(), least)
        self._before: Any = None
        self._late: Hangs | None = None

    def __enter__(self) -> None:
        self._late = None
        free = signal.getsignal(signal.SIGALRM) in (signal.SIG_DFL, signal.SIG_IGN)
        if not free or threading.current_thread() is not threading.main_thread():
            return
        self._waiting = Waiting(self._seconds)
        self._before = signal.signal(signal.SIGALRM, self._part)
        signal.setitimer(signal.ITIMER_REAL, self._waiting.part, self._waiting.part)
        self._live()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            faulthandler.cancel_dump_traceback_later()
            signal.signal(signal.SIGALRM, self._before)
            self._before = None  # The next block may be in another thread, or SIGALRM somebody else's by then.
        if self._late is not None and (kind is None or issubclass(kind, Exception | _Late)):
            raise self._late from None

    def _part(self, _: int, frame: FrameType | None) -> None:
        if self._waiting.is_over(self._progress()):
            stack = "".join(traceback.format_stack(frame, _FRAMES))
            self._late = self._late or Hangs(*hanging(self._what(), self._waiting.waited, stack))
            raise _Late
        self._live()

    def _live(self) -> None:
        """Python runs: only from now on may a library's own code be what hangs."""
        _explain_in_stacks()
        faulthandler.dump_traceback_later(self._seconds + GRACE, exit=True, file=sys.__stderr__ or 2)


@cache
def _explain_in_stacks() -> None:
    """Have stacks, which are all that can be shown while a library holds Python's lock, say what to do.

    They name the file of each thread's code; that of the one that is started here, and waits for ever, is a sentence.
    """
    said = (
        "A reset or a step of an environment has not come back from a library's own code in time. Mend it, or set the"
        f" variable {VARIABLE} to more seconds. The same command of a training goes on from the last checkpoint."
    )
    lock = _thread.allocate_lock()
    lock.acquire()
    _thread.start_new_thread(FunctionType(_wait.__code__.replace(co_filename=said), {}), (lock,))


def _wait(lock: _thread.LockType) -> None:
    lock.acquire()
