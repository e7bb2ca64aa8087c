"""A figure's SVG in a fifth of the bytes: the same shapes, in the same places to a tenth of a point.

Of a page with a hundred figures most would be coordinates and styles that matplotlib writes in full for each mark.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?")
_LINES_AND_CURVES = re.compile(r"\s*M[MLCQz\d\s.,e+-]*")
_TOKENS = re.compile(rf"[MLCQz]|{_NUMBER.pattern}")
_POINTS = {"M": 1, "L": 1, "Q": 2, "C": 3}  # that a command takes
# In a box of so many points or more a tenth is a thousandth of the figure; what reaches less far, a marker, is small.
_BOX, _REACH = 100.0, 20.0
# A line, if there is one, a shape, and a group of marks that are this shape; of fewer the group is shorter.
_MARKS = re.compile(
    r'(<path d="([^"]*)"((?: clip-path="[^"]*")?) style="([^"]*)"/>|)'
    r'<defs><path id="([^"]+)"([^>]*)/></defs><g((?: clip-path="[^"]*")?) style="([^"]*)">'
    r'((?:<use href="#\5" x="[^"]*" y="[^"]*"/>){4,})</g>'
)
# A shape that is drawn by a reference right behind it.
_BAND = re.compile(
    rf'<defs><path id="([^"]+)" d="m({_NUMBER.pattern}) ?({_NUMBER.pattern}) ([^"]*)"/></defs>'
    r'<g((?: clip-path="[^"]*")?)><use href="#\1" x="([^"]+)" y="([^"]+)" style="([^"]*)"/></g>'
)
_GRID_LINE = (
    rf'<path d="(m{_NUMBER.pattern} ?{_NUMBER.pattern} ?{_NUMBER.pattern} ?{_NUMBER.pattern})"'
    r'( clip-path="[^"]*" style="fill:none;stroke:currentColor;stroke-opacity:[^"]*")/>'
)
_TICK = r"(?:<defs><path [^>]*/></defs>)?<use [^>]*/>(?:<text [^>]*>[^<]*</text>)?"
_AXIS = re.compile(f"(?:{_GRID_LINE.replace('(m', '(?:m').replace('( clip', '(?: clip')}{_TICK}){{2,}}")
# A style that may stand in a style sheet as it does in an attribute: of a tag, for a text may say the same.
_PLAIN_STYLE = re.compile(r' style="([\w\s#.,%:;()+-]+)"(?=[^<>]*>)', re.ASCII)


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
            return f' {key}="{_written(_parts(float(value), 10), 1) if coarse else value}"'
        return re.sub(r'#([^)"]+)', lambda target: f"#{short.get(target[1], target[1])}", f' {key}="{value}"')

    def tag(found: re.Match[str]) -> str:
        upright = re.sub(r' transform="rotate\(-0 [\d. ]*\)"', "", found[0])
        return re.sub(r' (?:xlink:)?(id|d|x|y|href|clip-path)="([^"]*)"', own, upright)

    svg = re.sub(r"<(?!image|/)[^>]*>", tag, svg).replace("<defs></defs>", "")
    svg = re.sub(r'<path d="[^"]*" style="fill:none"/>', "", svg)  # The ground, of which nothing is seen.
    return _as_markers(_together(_in_place(_styled_together(_unwrapped(svg)))))


def shared(figures: Sequence[str]) -> tuple[list[str], str, str]:
    """The same figures with what they repeat once a page: markers, and styles as classes.

    Args:
        figures: of `compact`, all of one page, which has no other id of `mark` or class of `f` and a number.

    Returns:
        the figures, the markers, which an element without a size may hold, and the classes' rules.
    """
    markers: dict[str, str] = {}

    def referring(figure: str) -> str:
        own = {}
        for name, marker in re.findall(r'(?s)<marker id="([^"]+)"(.*?</marker>)', figure):
            own[name] = markers.setdefault(marker, f"mark{len(markers)}")
        without = re.sub(r"(?s)<marker .*?</marker>", "", figure)
        # In styles alone: a text of the figure, or what it is called, may say the same.
        return re.sub(r'(?<=[";]marker:url\(#)([^)]+)(?=\)")', lambda found: own.get(found[1], found[1]), without)

    figures = [referring(figure) for figure in figures]
    counts = Counter(style for figure in figures for style in _PLAIN_STYLE.findall(figure))
    repeated = [style for style, count in counts.most_common() if count > 1]
    classes = {style: f"f{place}" for place, style in enumerate(repeated)}

    def named(found: re.Match[str]) -> str:
        return f' class="{classes[found[1]]}"' if found[1] in classes else found[0]

    rules = "".join(f".{name}{{{style}}}\n" for style, name in classes.items())
    held = "".join(f'<marker id="{name}"{marker}' for marker, name in markers.items())
    return [_PLAIN_STYLE.sub(named, figure) for figure in figures], held, rules


def _unwrapped(svg: str) -> str:
    """Without the groups that say nothing of what is in them."""
    said: list[bool] = []

    def kept(tag: re.Match[str]) -> str:
        if tag[0] == "</g>":
            return tag[0] if said.pop() else ""
        said.append(tag[0] != "<g>")
        return tag[0] if said[-1] else ""

    return re.sub(r"<g\b[^>]*>|</g>", kept, svg)


def _in_place(svg: str) -> str:
    """A shape that is used once, a band, where it is used."""
    used = Counter(re.findall(r'href="#([^"]+)"', svg))

    def drawn(found: re.Match[str]) -> str:
        name, x, y, rest, clip, right, down, style = found.groups()
        if used[name] > 1:
            return found[0]
        start = [_written(_parts(float(a) + float(b), 100), 2) for a, b in ((x, right), (y, down))]
        return f'<path d="{_joined("m", start)} {rest}"{clip} style="{style}"/>'

    return _BAND.sub(drawn, svg)


def _together(svg: str) -> str:
    """The lines of a grid, which stand between ticks and numbers, as one path in the place of the first."""

    def merged(axis: re.Match[str]) -> str:
        lines = re.findall(_GRID_LINE, axis[0])
        (_, said), others = lines[0], {said for _, said in lines}
        if len(others) > 1:
            return axis[0]
        places = [[_parts(float(number), 100) for number in _NUMBER.findall(course)] for course, _ in lines]
        here, courses = (0, 0), []
        for x, y, right, down in places:
            start = [_written(step, 2) for step in (x - here[0], y - here[1])]
            courses.append(_joined("m", [*start, _written(right, 2), _written(down, 2)]))
            here = x + right, y + down
        return f'<path d="{"".join(courses)}"{said}/>' + re.sub(_GRID_LINE, "", axis[0])

    return _AXIS.sub(merged, svg)


def _as_markers(svg: str) -> str:
    """Marks of one shape as the markers of a line that is not drawn itself: a step each, instead of an element."""
    used = Counter(re.findall(r'href="#([^"]+)"', svg))

    def line(found: re.Match[str]) -> str:
        drawn, course, around, look, name, shape, clip, style, marks = found.groups()
        if used[name] > marks.count("<use") or re.search(r"(?<!-)\bopacity:", style):
            return found[0]
        places = [_parts(float(number), 100) for number in re.findall(r' [xy]="([^"]+)"', marks)]
        steps = places[:2] + [place - before for before, place in zip(places, places[2:], strict=False)]
        path = _joined("m", [_written(step, 2) for step in steps])
        marker = f'<marker id="{name}" markerUnits="userSpaceOnUse" style="{style}"><path{shape}/></marker>'
        if (path, clip) == (course, around):
            return f'{marker}<path d="{path}"{clip} style="{look};marker:url(#{name})"/>'
        return f'{drawn}{marker}<path d="{path}"{clip} style="fill:none;marker:url(#{name})"/>'

    return _MARKS.sub(line, svg)


def _parts(number: float, scale: int) -> int:
    """A number in units of a `scale`th; 0 where it is beyond all that can be written: others' figures may have it."""
    return round(scale * number) if math.isfinite(scale * number) else 0


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
    if (
        not numbers
        or not _LINES_AND_CURVES.fullmatch(path)
        or not all(math.isfinite(100 * number) for number in numbers)
    ):
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
