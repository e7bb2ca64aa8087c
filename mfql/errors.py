"""Errors meant for a person: what was wrong, where, and what to do."""

from __future__ import annotations

import io
import re
import sys
import sysconfig
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from traceback import extract_tb
from typing import Any, TextIO

# A name is suggested that is at least so near (1 is the same), and as near as the nearest but for so much.
_NEAR, _AS_NEAR = 0.6, 0.02
_MOST_SUGGESTED, _MOST_KNOWN = 5, 20
# What moves a cursor, colours or clears a screen, rings, or turns the direction of what follows: C0 but for tab and
# line feed, delete, C1, the marks, embeddings, overrides and isolates of bidirectional text, Unicode's line separators.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
# A carriage return alone goes to a terminal as it is: bars of progress begin their line anew.
_OF_BARS = "\r"


class UserError(Exception):
    """An error that the user can mend. The command line prints it without a traceback and exits with 2.

    Its text is as `message_of` makes it, whoever prints it.

    Args:
        message: what was wrong and where; names the file, key or value.
        remedy: what to do about it.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message_of(message, remedy))


def message_of(message: str, remedy: str = "") -> str:
    """A message whose names and values, which may be anybody's, neither steer a terminal nor begin a line of their own.

    All lines but the first are indented, as what to do is; control characters are shown as escapes.
    """
    return re.sub(r"\n(?=\S)", "\n  ", shown(f"{message}\n  {remedy}" if remedy else message))


def shown(text: str, kept: str = "") -> str:
    """A text as a terminal or a page may have it: control characters as escapes, such as \\x1b, lines and tabs kept.

    Args:
        kept: characters that are no matter where the text goes.
    """
    return _CONTROLS.sub(lambda found: found[0] if found[0] in kept else _escape(found[0]), text)


def in_one_line(text: str) -> str:
    """As `shown`, the ends of lines as escapes too: for a name in a row of a table."""
    return shown(text).replace("\n", "\\n").replace("\t", "\\t")


def _escape(character: str) -> str:
    return f"\\x{ord(character):02x}" if ord(character) < 0x100 else f"\\u{ord(character):04x}"


class _Shown:
    """A stream that gets what is written to it as `shown`; all else is the stream's."""

    def __init__(self, stream: TextIO, kept: str = "") -> None:
        self._stream, self._kept = stream, kept

    def write(self, text: str) -> int:
        self._stream.write(shown(text, self._kept))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


# Where this project's code lies, Python's and that of packages: who wrote an extension looks elsewhere.
_NOT_THEIRS = [
    Path(__file__).parent,
    *(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
]
_MOST_LINES = 5
# Modules whose packages have other names.
_PACKAGES = {
    "PIL": "pillow",
    "dm_control": "ogbench",
    "imageio_ffmpeg": "imageio-ffmpeg",
    "mlflow": "mlflow-skinny",
    "ot": "pot",
    "yaml": "pyyaml",
}


@contextmanager
def naming_extras(extra: str = "") -> Iterator[None]:
    """Within it, or within a function that has it as decorator, a package that is not installed is said with its extra.

    Args:
        extra: of all that happens there, where that needs more than the package's own.

    Raises:
        UserError: a module is absent of a package that this project or one of its extras names.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = _package(error.name or "")
        if (own := extra_of(package)) is None:
            raise
        raise UserError(f"this needs the package {package}, which is not installed", install(extra or own)) from error


@contextmanager
def errors_of(what: str, remedy: Callable[[Exception], str]) -> Iterator[None]:
    """Within it an error of an extension's code is said with the lines of theirs that led to it.

    Args:
        what: the code that runs there: its file, and what of it is called.
        remedy: what to do about an error.

    Raises:
        UserError: the code raised an error; its own, where it raised one.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        said = "\n".join([f"{what} ends with {type(error).__name__}: {error}", *_lines_of_theirs(error)])
        raise UserError(said, remedy(error)) from error


def _lines_of_theirs(error: Exception) -> list[str]:
    """The innermost lines of neither this project nor a package that led to an error; its last one, where none did."""
    frames = extract_tb(error.__traceback__)
    theirs = [
        frame
        for frame in frames
        if not frame.filename.startswith("<") and not any(map(Path(frame.filename).is_relative_to, _NOT_THEIRS))
    ]
    told = theirs[-_MOST_LINES:] or frames[-1:]
    return [f"{one.filename}, line {one.lineno}, in {one.name}: {one.line}" for one in told]


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, of the machine or of the GPU."""
    # torch's error on a processor has no class of its own; its text begins with where in the source it was raised.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "allocate memory" in str(error))
    )


def _package(module: str) -> str:
    top = module.partition(".")[0]
    return _PACKAGES.get(top, top.replace("_", "-"))


def extra_of(package: str) -> str | None:
    """The extra of this project that brings a package, "" for the core; None where none does."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        requirements = requires("mfql") or ()
    except PackageNotFoundError:  # Its source tree alone is on the path.
        return None
    for requirement in requirements:
        name = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"""extra == ["']([\w-]+)""", requirement)
        if name and name[0].lower().replace("_", "-") == package.lower():
            return extra[1] if extra else ""
    return None


def install(extra: str) -> str:
    """How an extra of this project is installed; "" is the core."""
    return f"pip install 'mfql[{extra}]'" if extra else "pip install mfql"


@contextmanager
def printing() -> Iterator[None]:
    """What this process prints within it goes out as `shown`: names and values in it may be anybody's."""
    out: Any = _Shown(sys.stdout)
    err: Any = _Shown(sys.stderr, _OF_BARS)
    with redirect_stdout(out), redirect_stderr(err):
        yield


def terminal_of(stream: TextIO) -> TextIO:
    """The stream behind one of `printing`, for what moves a terminal's cursor: it escapes names and values itself."""
    return stream._stream if isinstance(stream, _Shown) else stream


def counted(number: int, noun: str) -> str:
    """A number of things in words: `1 run`, `2 runs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def print_in_any_locale() -> None:
    """Have stdout print what the locale's encoding lacks as an escape such as \\u2265, not end with an error."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in ("strict", "surrogateescape"):
        sys.stdout.reconfigure(errors="backslashreplace")


def warn(message: str, remedy: str = "") -> None:
    """Say on stderr what is odd, though nothing forbids to go on.

    Args:
        message: what is odd and where; names the file, key or value.
        remedy: what to do about it if it is not meant.
    """
    _say("warning", message, remedy)


def warn_of(error: UserError, consequence: str) -> None:
    """Say of an error that ends nothing what is done without."""
    said, _, remedy = str(error).partition("\n  ")
    warn(f"{said}: {consequence}", remedy)


def note(message: str) -> None:
    """Say on stderr what was read as something else than it literally is."""
    _say("note", message)


def _say(kind: str, message: str, remedy: str = "") -> None:
    print(f"mfql: {kind}: {message_of(message, remedy)}", file=sys.stderr, flush=True)


def unknown(
    kind: str,
    name: object,
    known: Collection[str],
    where: str = "",
    others: Mapping[str, Collection[str]] | None = None,
    unseen: str = "",
) -> UserError:
    """The error for a name that is not in a list, with the nearest names that are.

    Args:
        kind: what the name was taken for, such as `task`.
        name: a text, or what YAML made of a key that looks like a number, a date or nothing.
        known: the names of that kind.
        where: what named it, or has those names.
        others: names of other kinds by kind, for one that is meant for another place.
        unseen: where else such names could be that are not seen, which is said of one that is near to none.
    """
    taken = [other for other, names in (others or {}).items() if name in names]
    said = f"unknown {kind} {name!r}"
    if taken:
        said += f", which is {' and '.join(map(_a, taken))}{',' if where else ''}"
    near = nearest(str(name), known)
    if where:
        said += f" in {where}{'' if near or taken else unseen}"
    hint = f"Did you mean {' or '.join(near)}?" if near else _listed(known)
    return UserError(said, hint)


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The names that one was probably meant to be, nearest first, those that are equally near in their natural order.

    Names are compared word by word and as a whole, so that a missing word counts little and a wrong number in one word
    leaves the others; `_`, blanks and capitals are no difference to `-` and small letters.
    """
    ordered = sorted(known, key=_natural)
    same = [one for one in ordered if _words(one) == _words(name)]
    if same:
        return same
    nearness = {one: _nearness(_words(name), _words(one)) for one in ordered}
    least = max(_NEAR, max(nearness.values(), default=0.0) - _AS_NEAR)
    near = [one for one in ordered if nearness[one] >= least]
    return sorted(near, key=lambda one: -round(nearness[one], 6))[:_MOST_SUGGESTED]


def _words(name: str) -> tuple[str, ...]:
    # An option's dashes make no word, which would be alike in all options.
    return tuple(word for word in re.split(r"[-_+.\s]+", name.lower()) if word) or ("",)


def _nearness(given: tuple[str, ...], known: tuple[str, ...]) -> float:
    """The mean of how near each given word is to the nearest known one, and of how near the wholes are."""
    words = sum(max(_alike(word, other) for other in known) for word in given) / len(given)
    return (words + _alike("-".join(given), "-".join(known))) / 2


@cache
def _alike(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other, autojunk=False).ratio()


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts task2 before task10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _listed(known: Collection[str]) -> str:
    shown = sorted(known, key=_natural)[:_MOST_KNOWN]
    return f"Known: {', '.join(shown)}{', ...' if len(known) > len(shown) else ''}."
