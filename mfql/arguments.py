"""Types of command-line arguments that several commands share, with what they say of a value that is none."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

from mfql.cores import usable_cores

# The default of arguments that count processes or threads, and what their help says of it.
CORES, ALL_CORES = usable_cores(), "default: the cores that it may use"
# What is more is a mistyped number: of anything, and of processes and threads.
_MOST, _MOST_PROCESSES = 2**53, max(1024, CORES)


def count(least: int, most: int = _MOST) -> Callable[[str], int]:
    """An argument type: a whole number from `least` to `most`."""

    def parse(text: str) -> int:
        if not re.fullmatch("-?[0-9]+", text):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
        value = int(text)
        if str(value) != text:
            raise argparse.ArgumentTypeError(f"{text!r} is written {value}")
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is below {least}")
        if value > most:
            raise argparse.ArgumentTypeError(f"{value} is above {most}")
        return value

    return parse


def processes(least: int) -> Callable[[str], int]:
    """An argument type: how many processes, threads or devices."""
    return count(least, _MOST_PROCESSES)


def amount(zero: bool) -> Callable[[str], float]:
    """An argument type: a number above zero, or that too; not NaN, with which each comparison is false."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not (0 <= value < float("inf") and (zero or value)):
            raise argparse.ArgumentTypeError(f"{text} is not a number {'from 0 on' if zero else 'above 0'}")
        return value

    return parse


def add_compile(parser: argparse.ArgumentParser) -> None:
    """Add `--compile`: whether the update of a training is compiled."""
    parser.add_argument(
        "--compile", choices=["auto", "on", "off"], default="auto", help="the update; auto: where that repays itself"
    )
