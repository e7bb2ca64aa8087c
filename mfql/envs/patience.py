"""How long a reset or a step of an environment is waited for, so that one that hangs ends in an error.

The limit is `DEFAULT` seconds, or what `MFQL_ENV_TIMEOUT` says. It is waited for in parts: a process that is stopped
and goes on, as a scheduler's suspended job does, loses one of them and not all.
"""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from mfql.errors import UserError

VARIABLE, DEFAULT = "MFQL_ENV_TIMEOUT", 600.0
PARTS = 10
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


class _Late(BaseException):
    """Breaks off a block that is late; what asks a server again and again catches each `Exception`."""


class Limited:
    """Within the block, this process's main thread is waited for as long as a reset or a step may take.

    The block, which may be entered again afterwards, ends with a `UserError`, also where its code caught what broke it
    off: nobody knows what such a step is worth. In another thread, and where somebody else uses SIGALRM, nothing is
    limited; nor is what never returns from a library's own code.

    Args:
        what: says what hangs, asked when it does.
        progress: a number that changes with each reset or step, if there are several in the block.
    """

    def __init__(self, what: Callable[[], str], progress: Callable[[], int] = int) -> None:
        self._what, self._progress, self._seconds = what, progress, env_timeout()
        self._before: Any = None
        self._late: UserError | None = None

    def __enter__(self) -> None:
        self._late = None
        free = signal.getsignal(signal.SIGALRM) in (signal.SIG_DFL, signal.SIG_IGN)
        if not free or threading.current_thread() is not threading.main_thread():
            return
        part = self._seconds / PARTS
        self._seen, self._parts = -1, 0
        self._before = signal.signal(signal.SIGALRM, self._part)
        signal.setitimer(signal.ITIMER_REAL, part, part)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, self._before)
            self._before = None  # The next block may be in another thread, or SIGALRM somebody else's by then.
        if self._late is not None and (kind is None or issubclass(kind, Exception | _Late)):
            raise self._late from None

    def _part(self, _: int, frame: FrameType | None) -> None:
        now = self._progress()
        self._parts = self._parts + 1 if now == self._seen else 0
        self._seen = now
        if self._parts >= PARTS:
            stack = "".join(traceback.format_stack(frame, _FRAMES))
            self._late = self._late or UserError(*hanging(self._what(), self._seconds, stack))
            raise _Late
