"""A figure's SVG in a third of the bytes: the same shapes, in the same places to a tenth of a point.

Of a page with a hundred figures most would be coordinates and styles that matplotlib writes in full for each mark.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?")
_LINES_AND_CURVES = re.compile(r"\s*M[MLCQz\d\s.,e+-]*")
_TOKENS = re.compile(rf"[MLCQz]|{_NUMBER.pattern}")
_POINTS = {"M": 1, "L": 1, "Q": 2, "C": 3}  # that a command takes
# In a box of so many points or more a tenth is a thousandth of the figure; what reaches less far, a marker, is small.
_BOX, _REACH = 100.0, 20.0


def compact(svg: str, name: str) -> str:
    """The same figure, shorter: relative paths, a style once for its marks, no ids but those that are referred to.

    Args:
        svg: as nh3 leaves it, without a `>` in any attribute.
        name: the prefix of the ids.
    """
    _, _, width, height = map(float, re.split(r"[\s,]+", re.findall(r'viewBox="\s*([^"]*?)\s*"', svg)[0]))
    coarse = min(width, height) >= _BOX
    used = dict.fromkeys(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    short = {found: f"{name}-{place}" for place, found in enumerate(used)}

    def own(attribute: re.Match[str]) -> str:
        key, value = attribute[1], attribute[2]
        if key == "id":
            return f' id="{short[value]}"' if value in short else ""
        if key == "d":
            return f' d="{_path(value, coarse)}"'
        if key in {"x", "y"}:
            return f' {key}="{_written(_tenths(value), 1) if coarse else value}"'
        return re.sub(r'#([^)"]+)', lambda target: f"#{short.get(target[1], target[1])}", f' {key}="{value}"')

    def tag(found: re.Match[str]) -> str:
        upright = re.sub(r' transform="rotate\(-0 [\d. ]*\)"', "", found[0])
        return re.sub(r' (?:xlink:)?(id|d|x|y|href|clip-path)="([^"]*)"', own, upright)

    svg = re.sub(r"<(?!image|/)[^>]*>", tag, svg).replace("<defs></defs>", "")
    return _styled_together(svg)


def _tenths(value: str) -> int:
    number = 10 * float(value)
    return round(number) if math.isfinite(number) else 0


def _styled_together(svg: str) -> str:
    """Marks of one look beside each other, whose style the group around them takes."""

    def group(found: re.Match[str]) -> str:
        said = re.findall(r' style="([^"]*)"', found[2])
        # A group's opacity is that of its whole, where marks lie over each other.
        if "style=" in found[1] or len(said) < 2 or len(set(said)) > 1 or re.search(r"(?<!-)\bopacity:", said[0]):
            return found[0]
        if len(said) < found[2].count("<use"):
            return found[0]
        return f'<g{found[1]} style="{said[0]}">' + found[2].replace(f' style="{said[0]}"', "") + "</g>"

    return re.sub(r"<g\b([^>]*)>((?:<use\b[^>]*/>)+)</g>", group, svg)


def _path(path: str, coarse: bool) -> str:
    """A path of absolute lines and curves as a relative one; any other as it is, but for its line breaks."""
    numbers = [float(number) for number in _NUMBER.findall(path)]
    if not numbers or not _LINES_AND_CURVES.fullmatch(path) or not all(map(math.isfinite, numbers)):
        return " ".join(path.split())
    digits = 1 if coarse and max(map(abs, numbers)) >= _REACH else 2
    steps = _steps(_TOKENS.findall(path), 10**digits)
    shorter = ((command, _straightened(values) if command in "ml" else values) for command, values in steps)
    return "".join(_joined(command, [_written(value, digits) for value in values]) for command, values in shorter)


def _straightened(values: list[int]) -> list[int]:
    """Lines whose level or upright stretches are one step each: of a profile most are."""
    kept = [values[:2]]
    for step in zip(values[2::2], values[3::2], strict=True):
        before = kept[-1]
        level = [axis for axis in (0, 1) if step[axis] == before[axis] == 0 and step[1 - axis] * before[1 - axis] >= 0]
        if len(kept) > 1 and level:
            kept[-1] = [before[0] + step[0], before[1] + step[1]]
        else:
            kept.append(list(step))
    return [value for step in kept for value in step]


def _steps(tokens: list[str], scale: int) -> Iterator[tuple[str, list[int]]]:
    """Relative commands, each with the steps of all that follow one another, in units of a `scale`th.

    Like a browser, it takes a path up to its first error.
    """
    here = start = (0, 0)
    command, place, open_command, values = "M", 0, "", list[int]()
    while place < len(tokens):
        explicit = tokens[place].isalpha()
        command = tokens[place] if explicit else command
        place += explicit
        count = 2 * _POINTS.get(command, 0)
        given = tokens[place : place + count]
        if len(given) < count or any(token.isalpha() for token in given):
            break
        place += count
        # A line after a first point needs no command of its own.
        if command in "Mz" or (command != open_command and (open_command, command) != ("M", "L")):
            yield from [(open_command.lower(), values)] if open_command else []
            open_command, values = command, []
        if command == "z":
            here = start
            if place < len(tokens) and not tokens[place].isalpha():
                break
            continue
        points = [round(scale * float(token)) for token in given]
        values += [value - here[axis % 2] for axis, value in enumerate(points)]
        here = (points[-2], points[-1])
        start, command = (here, "L") if command == "M" else (start, command)
    yield from [(open_command.lower(), values)] if open_command else []


def _written(value: int, digits: int) -> str:
    """A whole number of 10^-digits as the shortest decimal."""
    whole, rest = divmod(abs(value), 10**digits)
    decimals = f"{rest:0{digits}}".rstrip("0")
    text = f"{whole or ''}.{decimals}" if decimals else str(whole)
    return f"-{text}" if value < 0 else text


def _joined(command: str, numbers: list[str]) -> str:
    return command + re.sub(" -", "-", " ".join(numbers))
