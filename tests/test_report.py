import argparse
import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from fake_results import TASK, write_quickstart, write_run

from mfql.cli import main
from mfql.errors import UserError
from mfql.report import aggregate, figures, formats
from mfql.report.answer import answer
from mfql.report.cli import add_commands
from mfql.report.expected import compare, read_expected
from mfql.report.html import Options, page_of, write_report
from mfql.report.scores import collect

ROOT = Path(__file__).parents[1]
VOID = {"meta", "path", "circle", "rect", "br", "hr", "use", "image", "img", "input", "line"}


class Page(HTMLParser):
    """What a page holds; refuses tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src", "xlink:href", "data", "action", "srcset", "poster"):
                self.links.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(autouse=True, scope="module")
def few_repetitions() -> Iterator[None]:
    """No test here looks at a bootstrap's numbers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aggregate, "REPETITIONS", 50)
        yield


def page_from(results: Path, files: list[Path], **options: object) -> str:
    scores = collect(files)
    tables = {name: table(scores) for name, table in aggregate.TABLES.items()}
    return page_of(scores, tables, results / "report.html", Options(results, results / "aggregate", **options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    results = tmp_path_factory.mktemp("results")
    expected = {("mfql", TASK, "offline", "score"): (80.0, 100.0), ("flow_bc", TASK, "offline", "score"): (30.0, 40.0)}
    return results, page_from(results, write_quickstart(results), expected=expected)


def test_the_page_is_whole_and_opens_with_the_answer(quickstart: tuple[Path, str]) -> None:
    page = Page(quickstart[1])
    said = page.text[: page.text.index("Reduced size")]
    assert (
        f"On {TASK} , mfql reaches 94.0 % success [84.1, 100.0] over 3 seeds; flow_bc 20.0 % success [10.1, 29.9]"
        in said
    )
    assert "intervals apart" in said
    assert (
        f"Online on {TASK} , mfql goes from 18.0 % to 92.3 % : a rise of 74.3 points [68.9, 78.8] over 3 seeds" in said
    )
    assert "above zero" in said


def test_the_page_loads_nothing_and_runs_its_own_script_alone(quickstart: tuple[Path, str]) -> None:
    text = quickstart[1]
    page = Page(text)
    assert not page.tags & {"link", "iframe", "object", "embed", "base"}
    assert not [link for link in page.links if re.match(r"[a-z]+:|//", link)]
    assert not re.search(r"@import|url\((?!#)|\son\w+=", text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{allowed}'" in policy


def test_every_link_within_the_page_leads_somewhere(quickstart: tuple[Path, str]) -> None:
    page = Page(quickstart[1])
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)


def test_every_number_has_its_evidence(quickstart: tuple[Path, str]) -> None:
    results, text = quickstart
    manifest = json.loads((results / "runs/mfql" / TASK / "seed1/offline/run/manifest.json").read_text())
    shown = Page(text).text
    for value in (
        manifest["identity"],
        manifest["code"]["commit"],
        manifest["dataset"]["sha256"],
        manifest["dataset"]["source"],
        manifest["hardware"]["cpu"],
        manifest["packages"]["torch"],
        manifest["started"],
        f"runs/mfql/{TASK}/seed1/online",
        "batch_size",
        "[128, 128]",
    ):
        assert value in shown
    assert text.count('<div class="evidence" id="evidence-') == 4  # one a method, task and stage


def test_the_page_says_what_was_expected_and_that_runs_are_reduced(quickstart: tuple[Path, str]) -> None:
    shown = Page(quickstart[1]).text
    assert "80 to 100: as expected" in shown
    assert "30 to 40: below" in shown
    assert "Reduced size. All of these runs" in shown


def test_entries_in_which_seeds_differ_are_shown_by_seed(tmp_path: Path) -> None:
    files = [write_run(tmp_path, [50.0], seed=seed, seconds=100.0 + seed, device="cpu") for seed in range(2)]
    text = page_from(tmp_path, files)
    assert re.search(r"<th[^>]*>seconds</th>", text)
    assert "<td>100.0</td>" in text
    assert "<td>101.0</td>" in text
    assert "<dt>device</dt><dd>cpu</dd>" in text
    assert "Reduced size" not in text


def test_names_are_escaped_everywhere(tmp_path: Path) -> None:
    task, method = "<script>alert(1)", 'a&b"c$d$'
    files = [write_run(tmp_path, [50.0, 60.0], method=m, task=task, seed=s) for m in (method, "plain") for s in (0, 1)]
    text = page_from(tmp_path, files)
    page = Page(text)
    assert text.count("<script>") == 1  # the page's own
    assert task in page.text
    assert method in page.text


def test_diverged_runs_are_counted_and_named(tmp_path: Path) -> None:
    files = [write_run(tmp_path, [50.0], seed=0), write_run(tmp_path, [90.0], seed=1, diverged_at=1500)]
    shown = Page(page_from(tmp_path, files)).text
    assert "1 of 2 runs diverged and counts 0" in shown
    assert f"mfql, {TASK}, offline, seed 1" in shown
    assert "25.0 % success [0.0, 100.0], 1 of 2 diverged" in shown


def test_an_average_over_runs_of_other_code_or_packages_is_said(tmp_path: Path) -> None:
    packages = {"torch": "2.14.0", "numpy": "2.4.6", "mujoco": "3.3.0"}
    files = [write_run(tmp_path, [50.0]), write_run(tmp_path, [60.0], seed=1)]
    assert "Mixed origin" not in page_from(tmp_path, files)
    files.append(write_run(tmp_path, [60.0], seed=2, packages=packages))
    said = Page(page_from(tmp_path, files)).text
    assert "Mixed origin." in said
    name = f"mfql/{TASK}/seed{{}}/offline"
    assert f"package torch: 2.13.0 ({name.format(0)}, {name.format(1)}); 2.14.0 ({name.format(2)})" in said


def test_uncommitted_code_is_said(tmp_path: Path) -> None:
    file = write_run(tmp_path, [50.0], code={"version": "0.1.0", "commit": "abc", "dirty": True})
    assert "Uncommitted code" in page_from(tmp_path, [file])


def test_many_tasks_are_answered_together(tmp_path: Path) -> None:
    tasks = [f"task{number}" for number in range(4)]
    ends = {"good": (90.0, 94.0), "bad": (10.0, 14.0)}
    files = [
        write_run(tmp_path, [score], method=method, task=task, seed=seed)
        for task in tasks
        for method, scores in ends.items()
        for seed, score in enumerate(scores)
    ]
    shown = Page(page_from(tmp_path, files)).text
    assert "Over 4 tasks , offline, mean: good 92.0 % success" in shown
    assert "good is above, intervals apart: bad on 4 of 4" in shown
    assert "Performance profile, offline, 4 tasks" in shown


def test_a_partial_report_lists_what_is_missing(tmp_path: Path) -> None:
    files = write_quickstart(tmp_path)
    begun = tmp_path / "runs/mfql/slow/seed0/offline/run"
    begun.mkdir(parents=True)
    (begun / "metrics.csv").write_text("step,metric,value\n1000,loss,2.0\n2000,loss,1.0\n2500,lo")
    absent = [tmp_path / "runs/mfql" / task / "seed0/offline/evaluation.json" for task in ("slow", "later")]
    with pytest.raises(UserError, match="1 runs have no score, the first of them runs/mfql/later"):
        page_from(tmp_path, files, targets=[*files, *absent])
    shown = Page(page_from(tmp_path, files, targets=[*files, *absent], partial=True)).text
    assert "The answer so far" in shown
    assert "runs/mfql/slow/seed0/offline, at step 2500" in shown
    assert "Not begun: runs/mfql/later/seed0/offline" in shown


def test_a_manifest_that_is_absent_or_of_another_run_is_refused_unless_partial(tmp_path: Path) -> None:
    file = write_run(tmp_path, [50.0])
    manifest = file.parent / "run/manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"identity": "another"}))
    with pytest.raises(UserError, match="not of the run"):
        page_from(tmp_path, [file])
    assert "manifest of seed 0 is not at hand" in page_from(tmp_path, [file], partial=True)
    manifest.unlink()
    with pytest.raises(UserError, match=r"manifest\.json"):
        page_from(tmp_path, [file])
    assert "manifest of seed 0 is not at hand" in page_from(tmp_path, [file], partial=True)
    manifest.write_text(json.dumps({"settings": {}, "identity": content["identity"]}))
    with pytest.raises(UserError, match="lacks code, dataset"):
        page_from(tmp_path, [file])


def test_one_seed_is_answered_without_an_interval(tmp_path: Path) -> None:
    scores = collect([write_run(tmp_path, [50.0])])
    sentences = answer({name: table(scores) for name, table in aggregate.TABLES.items()})
    assert [sentence.striptags() for sentence in sentences] == [
        f"On {TASK}, mfql reaches 50.0 % success (one seed: no interval) over 1 seed."
    ]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    tables = aggregate.write(collect(write_quickstart(folder)), folder)
    formats.write(tables, folder)
    figures.write(tables, folder)
    return folder


def test_every_figure_is_svg_and_png_beside_its_data(drawn: Path) -> None:
    for name in figures.FIGURES:
        root = ElementTree.parse(drawn / f"{name}.svg").getroot()
        assert "mfql" in "".join(root.itertext())
        assert (drawn / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert not pd.read_csv(drawn / f"{name}.csv").empty


def test_the_same_table_draws_the_same_file(drawn: Path, tmp_path: Path) -> None:
    table = pd.read_csv(drawn / "curves.csv")
    for number in range(2):
        text = figures.inline_svg(figures.curves(table, bare=True), "figure", "label")
        (tmp_path / str(number)).write_text(text)
    assert (tmp_path / "0").read_text() == (tmp_path / "1").read_text()
    assert figures.INK not in text


def test_tables_for_papers_hold_the_numbers(drawn: Path) -> None:
    latex = (drawn / "tasks.tex").read_text()
    assert r"flow\_bc" in latex
    assert "94.0 [84.1, 100.0]" in latex
    assert "| offline | score    |" in " ".join((drawn / "tasks.md").read_text().split("\n")).replace(
        "  | score", " | score"
    )
    assert "74.0 [64.9, 83.1] & apart" in (drawn / "comparisons.tex").read_text()


def test_colours_stand_out_from_light_and_dark_pages() -> None:
    style = (Path(figures.__file__).parent / "page.css").read_text()
    pages = re.findall(r"--(?:page|card): (#\w{6})", style)
    assert len(pages) == 4
    assert min(contrast(colour, page) for colour in figures.COLOURS for page in pages) >= 3
    assert len(set(figures.styles(f"m{number}" for number in range(12)).values())) == 12


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
    (tmp_path / "expected.yaml").write_text(json.dumps({"name": "a configuration", "expected": ranges}))
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
    (tmp_path / "expected.yaml").write_text(content)
    with pytest.raises(UserError, match=r"expected\.yaml"):
        read_expected(tmp_path / "expected.yaml")


def mfql(*arguments: object) -> None:
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers(required=True))
    parsed = parser.parse_args([str(argument) for argument in arguments])
    parsed.func(parsed)


def test_the_commands_lead_from_runs_to_the_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [*write_quickstart(tmp_path), tmp_path / "runs/mfql" / TASK / "seed9/offline/evaluation.json"]
    (tmp_path / "runs.txt").write_text("".join(f"{file}\n" for file in files))
    (tmp_path / "expected.yaml").write_text(json.dumps({"flow_bc": {TASK: {"offline": {"score": [30, 40]}}}}))
    scores, out, page = tmp_path / "scores.csv", tmp_path / "aggregate", tmp_path / "report.html"
    with pytest.raises(UserError, match="seed9"):
        mfql("scores", "--from-file", tmp_path / "runs.txt", "--out", scores)
    assert not scores.exists()
    mfql("scores", "--from-file", tmp_path / "runs.txt", "--out", scores, "--partial")
    mfql("aggregate", scores, "--out", out)
    about = ("--expected", tmp_path / "expected.yaml")
    asked = ("--targets", tmp_path / "runs.txt", "--partial")
    mfql("report", "--scores", scores, "--aggregates", out, "--results", tmp_path, "--out", page, *asked, *about)
    assert "seed9" in page.read_text()
    capsys.readouterr()
    mfql("summary", "--aggregates", out, "--report", page, *about)
    printed = capsys.readouterr().out
    assert re.search(rf"{TASK} +offline +flow_bc +20\.0 \[10\.1, 29\.9\] +3 +30 to 40 +below", printed)
    assert re.search(r"rise online +mfql +74\.3 \[68\.9, 78\.8\] +3", printed)
    assert "intervals apart" in printed
    assert printed.rstrip().endswith(str(page))


def test_one_command_reports_what_a_configuration_has_finished(tmp_path: Path, capsys) -> None:
    results = tmp_path / "results"
    write_quickstart(results)
    shutil.copytree(ROOT / "results" / "published", results / "published")
    benchmark = {"methods": ["mfql", "flow_bc"], "tasks": [TASK]}
    asked = {"name": "study", "offline": benchmark, "online": benchmark | {"methods": ["mfql"]}, "seeds": [0, 1, 2, 3]}
    (tmp_path / "study.yaml").write_text(json.dumps(asked))
    command = ["report", "--partial", "--configfile", str(tmp_path / "study.yaml"), "--results", str(results)]
    assert main([*command, "--config-dir", str(ROOT / "config")]) == 0
    folder = results / "study" / "partial"
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    shown = Page((folder / "report.html").read_text()).text
    assert "The answer so far" in shown
    assert f"On {TASK} , mfql reaches 94.0 % success [84.1, 100.0] over 3 seeds" in shown
    not_begun = [
        f"runs/{method}/{TASK}/seed3/{stage}" for method, stage in (("mfql", "offline"), ("flow_bc", "offline"))
    ]
    assert all(run in shown[shown.index("Not begun") :] for run in not_begun)
    assert (folder / "verdict" / "verdict.csv").exists()
    assert (folder / "aggregate" / "tasks.png").exists()


def test_a_partial_report_of_nothing_says_how_to_look_further(tmp_path: Path, capsys) -> None:
    configuration = str(ROOT / "config" / "quickstart.yaml")
    command = ["report", "--partial", "--configfile", configuration, "--results", str(tmp_path)]
    assert main([*command, "--config-dir", str(ROOT / "config")]) == 2
    assert "none of the 9 runs" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [["--partial"], ["--configfile", "a.yaml"]])
def test_a_report_of_too_little_says_what_it_needs(options: list[str], capsys) -> None:
    assert main(["report", *options]) == 2
    assert "--partial" in capsys.readouterr().err


def test_nothing_is_written_where_the_report_fails(tmp_path: Path) -> None:
    scores = collect([write_run(tmp_path, [50.0])])
    (tmp_path / "runs/mfql" / TASK / "seed0/offline/run/manifest.json").unlink()
    tables = {name: table(scores) for name, table in aggregate.TABLES.items()}
    with pytest.raises(UserError):
        write_report(scores, tables, tmp_path / "report.html", Options(tmp_path, tmp_path))
    assert not (tmp_path / "report.html").exists()


def test_the_package_needs_no_torch() -> None:
    code = "import sys, mfql.report.html, mfql.report.cli, mfql.report.formats; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
