"""A panel's SVG on the page: what matplotlib draws stays as it is, and of anything else what draws within its box."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfql.report.compact import shared
from mfql.report.drawing import INK, drawing
from mfql.report.svg import inlined
from tests.support.hostile import ELSEWHERE, SVG, UNFIT
from tests.support.html_page import Page

_TAGS = {"svg", "defs", "g", "clippath", "text", "tspan", "path", "use", "rect", "circle", "line", "image"}
_NAMES = {"id", "style", "transform", "clip-path", "viewbox", "d", "x", "y", "width", "height", "cx", "cy", "r"}
_NAMES |= {"x1", "y1", "x2", "y2", "href", "xlink:href", "role", "aria-label", "data-of"}


class Parts(HTMLParser):
    """The tags, attributes and texts of a figure."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts += [data] if data.strip() else []


def harmless(figure: str) -> Parts:
    """A figure's parts, all of which are of the kinds that a figure has and stay within it."""
    Page(figure)
    parts = Parts(figure)
    assert parts.tags.count("svg") == 1
    assert set(parts.tags) <= _TAGS
    assert {name for name, _ in parts.attributes} <= _NAMES
    for name, value in parts.attributes:
        if name.endswith("href"):
            assert value.startswith(("#panel-1-", "data:image/png;base64,"))
        if name == "id":
            assert value.startswith("panel-1-")
        if name != "aria-label" and "(" in value:
            assert name == "transform" or value.startswith("url(#panel-1-")
        if name == "style":
            properties = {said.partition(":")[0] for said in value.split(";")}
            assert all(re.match("fill|stroke|opacity|font|text-a", one) for one in properties)
    return parts


def drawn() -> str:
    """A figure with all that the project's figures have, and more."""
    with drawing():
        figure, axes = plt.subplots()
        (line,) = axes.plot([1, 2, 3], [3, 1, 2], marker="o", dashes=(5, 2))
        line.set_gid("method3-0-0")
        axes.fill_between([1, 2, 3], [1, 1, 1], [2, 2, 2], alpha=0.3)
        axes.scatter([1, 2], [2, 2])
        axes.errorbar([1, 2], [2, 1], yerr=0.1, capsize=3)
        axes.imshow([[1, 2], [3, 4]], extent=(1, 2, 1, 2))
        axes.set_title('a<b & "c" $x$')
        axes.text(1, 1, "turned", rotation=30)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
        plt.close(figure)
    return file.getvalue()


def test_what_matplotlib_draws_stays_shape_by_shape() -> None:
    svg = drawn()
    figure = inlined(svg, "panel-1", "label")
    assert figure is not None
    parts = harmless(figure)
    shapes = ("use", "text", "image", "rect", "clippath")
    before = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL).lower()
    assert {tag: parts.tags.count(tag) for tag in shapes} == {
        tag: len(re.findall(f"<{tag}[ >]", before)) for tag in shapes
    }
    assert parts.texts[-2:] == ["turned", 'a<b & "c" $x$']
    said = dict(parts.attributes)
    assert said["data-of"] == "3"
    assert INK not in figure
    assert "currentColor" in figure
    assert 'style="fill:none"' not in figure  # the ground
    rotated = next(value for name, value in parts.attributes if name == "transform" and "rotate" in value)
    assert rotated.replace(" ", "") in svg.replace(" ", "")
    targets = {value for name, value in parts.attributes if name == "id"}
    assert {value[1:] for name, value in parts.attributes if name.endswith("href") and value[0] == "#"} <= targets
    assert {value[5:-1] for name, value in parts.attributes if name == "clip-path"} <= targets


def test_marks_of_a_line_are_its_markers_which_figures_of_one_page_share() -> None:
    figures = []
    for name, values in (("p1", [1, 4, 2, 3, 9]), ("p2", [3, 1, 2, 2, 8])):
        with drawing():
            figure, axes = plt.subplots()
            axes.plot(values, marker="s", color="#1f7fbf")
            axes.set(xlim=(-1, 5), ylim=(0, 10))
            file = io.StringIO()
            figure.savefig(file, format="svg", metadata={"Date": None})
            plt.close(figure)
        figures.append(inlined(file.getvalue(), name, "label") or "")
    for figure in figures:
        assert figure.count("<marker ") == figure.count("marker:url(") == 1
        (path,) = re.findall(r'<path d="([^"]*)"[^>]*marker:url', figure)
        assert len(re.findall(r"-?[\d.]+", path)) == 2 * 5  # A vertex a mark, and no mark without one.
    parts, markers, rules = shared(figures)
    assert markers.count("<marker ") == 1
    assert "<marker " not in "".join(parts)
    (name,) = re.findall(r'id="(mark\d+)"', markers)
    (marked,) = [style for style in rules.splitlines() if f"marker:url(#{name})" in style]
    number = marked[1 : marked.index("{")]
    assert [part.count(f'class="{number}"') for part in parts] == [1, 1]
    assert not set(re.findall(r' id="([^"]+)"', parts[0])) & set(re.findall(r' id="([^"]+)"', parts[1]))


def test_texts_that_look_like_markup_stay_as_they_are() -> None:
    odd = 'marker:url(#none) style="fill:red" '
    figure = inlined(f'<svg viewBox="0 0 300 200"><text>{odd}</text></svg>', "p1", "marker:url(#none)")
    assert figure is not None
    figures, markers, rules = shared([figure, figure])
    assert (figures, markers, rules) == ([figure, figure], "", "")


_SHAPE = '<defs><path id="a" d="M0 0L1 1"/></defs>'
_LINE = 'clip-path="url(#c)" style="fill:none;stroke:currentColor;stroke-opacity:.1"/><use href="#a" x="1" y="1"/>'


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1e308"])
@pytest.mark.parametrize("box", ["0 0 300 200", "0 0 30 20"])
@pytest.mark.parametrize(
    "drawn",
    [
        f'{_SHAPE}<g style="fill:red">{4 * """<use href="#a" x="N" y="2"/>"""}</g>',
        '<defs><path id="a" d="mN 0 5 6"/></defs><g><use href="#a" x="N" y="2" style="fill:red"/></g>',
        '<defs><path id="a" d="MN 0L5 6"/></defs><g><use href="#a" x="N" y="2" style="fill:red"/></g>',
        f'{_SHAPE}{3 * f"""<path d="mN 0 5 6" {_LINE}"""}',
        f'{_SHAPE}{3 * f"""<path d="MN 0L5 6" {_LINE}"""}',
    ],
    ids=["marks", "band", "absolute band", "grid", "absolute grid"],
)
def test_numbers_beyond_all_bounds_end_no_page(drawn: str, box: str, number: str) -> None:
    figure = inlined(f'<svg viewBox="{box}">{drawn.replace("N", number)}</svg>', "p1", "label")
    assert figure is not None
    Page(shared([figure])[0][0])


def test_what_would_leave_a_figure_or_cover_the_page_is_left_out() -> None:
    figure = inlined(SVG[: SVG.index("</svg>") + 6], "panel-1", "label")
    assert figure is not None
    parts = harmless(figure)
    assert ELSEWHERE not in figure
    assert "taken" not in figure
    assert "shown <b>text\\u202e" in parts.texts
    assert parts.tags.count("use") == 2  # of the marker, not of groups of uses
    assert inlined(SVG, "panel-1", "label") is None  # what stands after the figure is no part of it


@pytest.mark.parametrize("svg", UNFIT.values(), ids=UNFIT)
def test_what_is_no_one_figure_in_a_box_is_not_shown(svg: str) -> None:
    assert inlined(svg, "panel-1", "label") is None


def absolute(path: str) -> list[tuple[str, list[float]]]:
    """A path's commands with the places that they lead to, whatever way they are written."""
    found: list[tuple[str, list[float]]] = []
    here, start = [0.0, 0.0], [0.0, 0.0]
    for command, said in re.findall(r"([MLCQZmlcqz])([^MLCQZmlcqz]*)", path):
        numbers = [float(number) for number in re.findall(r"-?(?:\d+\.?\d*|\.\d+)", said)]
        size = {"C": 6, "Q": 4}.get(command.upper(), 2)
        for at in range(0, len(numbers), size):
            places = numbers[at : at + size]
            if command.islower():
                places = [value + here[axis % 2] for axis, value in enumerate(places)]
            first = command.upper() == "M" and at == 0
            found.append(("L" if command.upper() == "M" and not first else command.upper(), places))
            here = places[-2:]
            start = here if first else start
        if command in "zZ":
            found.append(("Z", []))
            here = start
    return found


_PLACE = st.integers(-40_000, 40_000).map(lambda hundredths: hundredths / 100)
_STEP = st.sampled_from([("M", 2), ("L", 2), ("Q", 4), ("C", 6), ("z", 0)]).flatmap(
    lambda kind: st.tuples(st.just(kind[0]), st.lists(_PLACE, min_size=kind[1], max_size=kind[1]))
)


@settings(max_examples=40)
@given(steps=st.lists(_STEP, max_size=12), box=st.sampled_from([9, 300]))
def test_a_path_is_written_shorter_and_leads_to_the_same_places(steps: list[tuple[str, list[float]]], box: int) -> None:
    path = " \n".join(
        [
            "M 25 30",
            *(command if command == "z" else f"{command} {' '.join(map(str, places))}" for command, places in steps),
        ]
    )
    figure = inlined(f"<svg viewBox='0 0 {box} {box}'><path d='{path}'/></svg>", "panel-1", "label")
    assert figure is not None
    written = re.findall(r' d="([^"]*)"', figure)[0]
    near, found = absolute(path), absolute(written)
    # Level stretches may have become one; where they go on to is the same.
    if len(found) < len(near):
        assert "L" in path
        found, near = found[-1:], near[-1:]
    assert [command for command, _ in found] == [command for command, _ in near]
    for (_, places), (_, expected) in zip(found, near, strict=True):
        assert places == pytest.approx(expected, abs=0.07 if box == 300 else 0.011)


def test_level_stretches_of_a_line_are_one_step() -> None:
    path = "M 10 10 L 60 10 L 110 10 L 160 10 L 160 60 L 160 110 L 110 110 L 160 110 z"
    figure = inlined(f"<svg viewBox='0 0 300 300'><path d='{path}'/></svg>", "panel-1", "label")
    assert figure is not None
    assert re.findall(r' d="([^"]*)"', figure) == ["m10 10 150 0 0 100-50 0 50 0z"]


_PIECES = """
<svg viewBox='0 0 9 9'>|</svg>|<g>|</g>|<style>|</style>|<p>|<math>|<mtext>|<!--|-->|<![CDATA[|]]>|<text>|</text>
<title>|</title>|<a href=javascript:x>|<script>x</script>|<foreignObject>|<div style='position:fixed'>
<img src=x onerror=x>|<path d='M 0 0'/>|&lt;|<|"|<use href='http://x/y#z'/>|<g style='fill:url(http://x)'>
<g id='a"b' onload=x>|<table>|<template>
"""


@given(pieces=st.lists(st.sampled_from(re.split(r"[|\n]", _PIECES.strip())), max_size=14))
def test_of_any_markup_a_figure_or_nothing_comes(pieces: list[str]) -> None:
    found = inlined("<svg viewBox='0 0 9 9'>" + "".join(pieces), "panel-1", "label")
    if found is not None:
        harmless(found)
