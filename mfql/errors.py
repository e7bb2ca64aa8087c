"""Errors meant for a person: what was wrong, where, and what to do."""

from __future__ import annotations

import io
import sys
from difflib import get_close_matches


class UserError(Exception):
    """An error that the user can mend. The command line prints it without a traceback and exits with 2.

    Args:
        message: what was wrong and where; names the file, key or value.
        remedy: what to do about it.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message}\n  {remedy}" if remedy else message)


def print_in_any_locale() -> None:
    """Have stdout print what the locale's encoding lacks as an escape such as \\u2265, not end with an error."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def warn(message: str, remedy: str = "") -> None:
    """Say on stderr what is odd, though nothing forbids to go on.

    Args:
        message: what is odd and where; names the file, key or value.
        remedy: what to do about it if it is not meant.
    """
    _say("warning", message, remedy)


def note(message: str) -> None:
    """Say on stderr what was read as something else than it literally is."""
    _say("note", message)


def _say(kind: str, message: str, remedy: str = "") -> None:
    print(f"mfql: {kind}: {message}{f'{chr(10)}  {remedy}' if remedy else ''}", file=sys.stderr, flush=True)


def unknown(kind: str, name: str, known: list[str], where: str = "") -> UserError:
    """The error for a name that is not in a list, with the nearest names that are."""
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(sorted(known)[:20])}."
    return UserError(f"unknown {kind} {name!r}{f' in {where}' if where else ''}", hint)
