"""What stands beside the page: figures, tables for papers, and found scores beside those to expect."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from markdown_it import MarkdownIt

from mfql.errors import UserError, in_one_line
from mfql.experiment.find import DRAWN
from mfql.report import chain, drawing, figures, formats, svg
from mfql.report.expected import compare, read_expected
from mfql.report.published import read_outside
from mfql.report.scores import collect
from tests.support.fake_results import TASK, write_quickstart, write_run
from tests.support.hostile import NAMES

pytestmark = pytest.mark.usefixtures("few_repetitions")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    chain.collect(write_quickstart(folder), folder / "scores.csv")
    chain.aggregate(folder / "scores.csv", folder)
    return folder


@pytest.mark.slow
def test_how_many_processes_draw_changes_no_file(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "_MANY", 2)
    chain.aggregate(drawn / "scores.csv", tmp_path, workers=2)
    written = [path.relative_to(tmp_path) for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    assert {"figure.svg", "curves.png"} <= {path.name for path in written}
    for path in written:
        if path.name != DRAWN:  # Its lines name the folder.
            assert (tmp_path / path).read_bytes() == (drawn / path).read_bytes(), path


@pytest.mark.slow
def test_every_figure_is_svg_and_png_beside_its_data(drawn: Path) -> None:
    for name in figures.FIGURES:
        root = ElementTree.parse(drawn / f"{name}.svg").getroot()
        assert "mfql" in "".join(root.itertext())
        assert "$" not in "".join(root.itertext())  # formulas are not drawn, such as those of logarithmic axes
        assert (drawn / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert not pd.read_csv(drawn / f"{name}.csv").empty


def test_the_same_table_draws_the_same_file(drawn: Path, tmp_path: Path) -> None:
    table = pd.read_csv(drawn / "curves.csv")
    for name in ("0", "1"):
        drawing.save(figures.curves(table, bare=True), tmp_path, name)
    first, second = (
        svg.inlined((tmp_path / f"{name}.svg").read_text(encoding="utf-8"), "figure", "label") for name in ("0", "1")
    )
    assert first == second
    assert drawing.INK not in first
    assert 'data-of="1"' in first


def test_tables_for_papers_hold_the_numbers(drawn: Path) -> None:
    latex = (drawn / "tasks.tex").read_text(encoding="utf-8")
    assert r"flow\_bc" in latex
    assert "94.0 [84.1, 100.0]" in latex
    assert "| offline | score    |" in " ".join((drawn / "tasks.md").read_text(encoding="utf-8").split("\n")).replace(
        "  | score", " | score"
    )
    assert "74.0 [64.9, 83.1] & apart" in (drawn / "comparisons.tex").read_text(encoding="utf-8")


def test_colours_stand_out_from_light_and_dark_pages() -> None:
    style = (Path(drawing.__file__).parent / "page.css").read_text(encoding="utf-8")
    pages = re.findall(r"--(?:page|card): (#\w{6})", style)
    assert len(pages) == 4
    assert min(contrast(colour, page) for colour in drawing.COLOURS for page in pages) >= 3
    assert len(set(drawing.styles(f"m{number}" for number in range(12)).values())) == 12


def contrast(first: str, second: str) -> float:
    """The contrast of two colours, from 1 to 21, as WCAG 2 defines it."""
    bright, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_found_scores_are_set_beside_those_to_expect(drawn: Path, tmp_path: Path) -> None:
    ranges = {"mfql": {TASK: {"offline": {"score": [95, 100]}, "online": {"rise": [20, 80]}}}}
    ranges |= {"iql": {TASK: {"offline": {"score": [0, 10]}}}}
    (tmp_path / "expected.yaml").write_text(json.dumps(ranges), encoding="utf-8")
    table = compare(pd.read_csv(drawn / "tasks.csv"), read_expected(tmp_path / "expected.yaml"))
    verdicts = table.set_index(["method", "stage", "metric"])["verdict"].to_dict()
    assert verdicts == {
        ("flow_bc", "offline", "score"): "nothing to expect",
        ("mfql", "offline", "score"): "below",
        ("mfql", "pretrain", "score"): "nothing to expect",
        ("mfql", "online", "score"): "nothing to expect",
        ("mfql", "online", "rise"): "as expected",
        ("iql", "offline", "score"): "not found",
    }


@pytest.mark.parametrize(
    "content", ["[", "[]", "mfql: 3", "mfql: {task: {later: {score: [0, 1]}}}", "mfql: {task: {offline: {score: [0]}}}"]
)
def test_a_malformed_expectation_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "expected.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"expected\.yaml"):
        read_expected(tmp_path / "expected.yaml")


def test_names_of_somebody_else_are_text_in_tables_for_people() -> None:
    """A reader of Markdown finds the names as they are in cells of their own: no link, picture, code or element."""
    table = pd.DataFrame({NAMES["markdown"]: NAMES.values(), "score": [f"{n}.0 [1.0, 2.0]" for n in range(len(NAMES))]})
    parsed = MarkdownIt("commonmark").enable("table").parse(formats.markdown(table))
    assert [one.tag for one in parsed if one.type == "td_open"] == ["td"] * 2 * len(NAMES)
    inline = [one for one in parsed if one.type == "inline"]
    assert {child.type for one in inline for child in one.children or []} <= {"text", "text_special", "softbreak"}
    cells = ["".join(child.content for child in one.children or []) for one in inline]
    assert cells[2::2] == [" ".join(in_one_line(name).split()) for name in NAMES.values()]
    latex = formats.latex(table)
    assert r"\input" not in latex
    assert r"\textbackslash input\{/etc/hostname\} \$x\$ \% \& \# \_" in latex
    assert latex.count("\n") == len(NAMES) + 6  # the frame, the head and a line each


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1", "-1", "@SUM(1)"])
def test_a_name_that_a_spreadsheet_takes_for_a_formula_enters_no_table(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="which a spreadsheet takes for a formula"):
        collect([write_run(tmp_path, [50.0], name, agent="mfql")])
    for row in (f"{TASK},{name},offline,1,2,3,a", f"{TASK},theirs,offline,1,2,3,{name}"):
        (tmp_path / "outside.csv").write_text(f"task,method,stage,mean,std,seeds,source\n{row}\n", encoding="utf-8")
        with pytest.raises(UserError, match=r"outside\.csv:2: .*which a spreadsheet takes for a formula"):
            read_outside([tmp_path / "outside.csv"])
