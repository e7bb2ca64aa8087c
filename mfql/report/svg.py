"""A figure's SVG as a part of the page, whoever wrote the file.

A panel may come from somebody else. What becomes of it is what an allow list has, kept by nh3, a sanitiser that parses
as browsers do: shapes, texts and markers as matplotlib writes them, which draw within their own box. Links, scripts,
styles, classes, other documents and all that could place something elsewhere on the page are not on it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from functools import partial

import nh3

from mfql.errors import shown
from mfql.report.compact import compact
from mfql.report.drawing import INK

_SHAPES = {"path", "use", "rect", "circle", "line", "image"}
_TAGS = {"svg", "defs", "g", "clipPath", "text", "tspan", *_SHAPES}
_DROPPED_WHOLE = {"metadata", "style", "script", "title", "desc"}
_PLACED = {"x", "y", "width", "height", "cx", "cy", "r", "x1", "y1", "x2", "y2"}
_ANYWHERE = {"id", "style", "transform", "clip-path"}
_HREF = {"href", "xlink:href"}
_ATTRIBUTES = dict.fromkeys(_TAGS, _ANYWHERE) | {
    "svg": {"viewBox"},
    "path": {*_ANYWHERE, "d"},
    "use": {*_ANYWHERE, *_PLACED, *_HREF},
    "image": {*_ANYWHERE, *_PLACED, *_HREF},
    **{tag: {*_ANYWHERE, *_PLACED} for tag in ("rect", "circle", "line", "text", "tspan")},
}
# What a style may set: how something is painted and set in type, never where it is; the letters' family is the page's.
_PROPERTIES = {
    *("fill", "fill-opacity", "fill-rule", "opacity", "stroke", "stroke-dasharray", "stroke-dashoffset"),
    *("stroke-linecap", "stroke-linejoin", "stroke-miterlimit", "stroke-opacity", "stroke-width"),
    *("font", "font-size", "font-style", "font-variant", "font-weight", "text-align", "text-anchor"),
}
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
_VALUES = {
    "id": r"[\w.:-]+",
    "d": r"[MmLlHhVvCcSsQqTtAaZz\d\s.,eE+-]*",
    "viewBox": rf"\s*{_NUMBER}(?:[\s,]+{_NUMBER}){{3}}\s*",
    "transform": r"[a-zA-Z\d\s.,()+-]*",
    "clip-path": r"url\(#[\w.:-]+\)",
    "href": r"#[\w.:-]+",
    "png": r"data:image/png;base64,[\w\s+/=]*",
    "style": r"[\w\s#.,%'\"+-]*",  # a value of a style: nothing that is called, as url() is
} | dict.fromkeys(_PLACED, _NUMBER)
_MATCHES = {name: re.compile(pattern, re.ASCII) for name, pattern in _VALUES.items()}
# A box is at most so many times as high as wide, or as wide as high; and markers have so many bytes, each time counted.
_SLIMMEST, _MOST_MARKED = 20, 50_000_000
_NOTHING_INSIDE = re.compile(rf"></(?:{'|'.join(sorted(_SHAPES))})>")


def inlined(svg: str, name: str, label: str) -> str | None:
    """A figure as an element for a page: text in the page's colour and font, no background.

    What is drawn of a method has the attribute `data-of`, the method's number in the figure's style.

    Args:
        svg: the file's text, as `mfql.report.drawing.save` writes it, or anything else.
        name: letters, digits and hyphens, unlike any other figure's on the page: the prefix of the element's ids.
        label: what the figure shows, for those who cannot see it; escaped by the caller where it may hold markup.

    Returns:
        None where it is no one figure that can be shown so.
    """
    clean = nh3.clean(
        svg[max(svg.find("<svg"), 0) :],
        tags=_TAGS,
        clean_content_tags=_DROPPED_WHOLE,
        attributes=_ATTRIBUTES,
        attribute_filter=partial(_allowed, name),
        filter_style_properties=_PROPERTIES,
        link_rel=None,
        url_schemes={"data"},
    ).strip()
    box = re.match(r'<svg viewBox="([^"]*)">', clean)
    if box is None or not _fits(box[1]) or clean.count("<svg") > 1 or not clean.endswith("</svg>"):
        return None
    drawn = _to_markers(_NOTHING_INSIDE.sub("/>", re.sub(r">\n\s*<", "><", clean)))
    if drawn is None:
        return None
    drawn = re.sub(rf'<(\w+) id="{name}-method(\d+)-', rf'<\1 data-of="\2" id="{name}-method\2-', drawn)
    return shown(compact(drawn, name).replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))


def _allowed(name: str, tag: str, attribute: str, value: str) -> str | None:
    """An attribute's value for the page; None leaves it out. Attributes that are not allowed are asked for, too."""
    attribute = attribute.removeprefix("xlink:")
    if attribute == "style":
        return _style(value)
    kind = "png" if tag == "image" and attribute == "href" else attribute
    if kind not in _MATCHES or not _MATCHES[kind].fullmatch(value):
        return None
    return _FORMS[kind](name, value) if kind in _FORMS else value


def _style(value: str) -> str | None:
    said = [part.partition(":") for part in value.split(";")]
    kept = [(key.strip(), told.strip()) for key, _, told in said if _MATCHES["style"].fullmatch(told)]
    if kept == [("fill", "#ffffff")]:  # the figure's ground, and that of its axes
        return "fill:none"
    return ";".join(f"{key}:{told.replace(INK, 'currentColor')}" for key, told in kept if key in _PROPERTIES) or None


def _rounded(_: str, value: str) -> str:
    """Lengths cut to hundredths of a point, which nobody sees and which halve a page."""
    return re.sub(r"(\.\d\d)\d+", r"\1", value)


_FORMS: dict[str, Callable[[str, str], str]] = {
    "id": lambda name, value: f"{name}-{value}",
    "href": lambda name, value: f"#{name}-{value[1:]}",
    "clip-path": lambda name, value: f"url(#{name}-{value[5:]}",
    "d": _rounded,
    "x": _rounded,
    "y": _rounded,
}


def _fits(box: str) -> bool:
    """Whether a figure's box is one that a page can have: neither empty nor a thread."""
    *_, width, height = (float(part) for part in re.split(r"[\s,]+", box.strip()))
    if not (math.isfinite(width) and math.isfinite(height) and width > 0 and height > 0):
        return False
    return 1 / _SLIMMEST <= width / height <= _SLIMMEST


def _to_markers(clean: str) -> str | None:
    """The figure in which what is used several times is a path: nothing that uses others, and so grows without end.

    Returns:
        None where all that is drawn so is too much to draw.
    """
    sizes = {found[1]: len(found[0]) for found in re.finditer(r'<path id="([^"]+)"[^>]*>', clean)}
    used = Counter(re.findall(r'href="#([^"]+)"', clean))
    if sum(count * sizes.get(target, 0) for target, count in used.items()) > _MOST_MARKED:
        return None

    def kept(use: re.Match[str]) -> str:
        targets = re.findall(r'href="#([^"]+)"', use[0])
        return use[0] if targets and all(target in sizes for target in targets) else ""

    return re.sub(r"<use\b[^>]*>", kept, clean)
