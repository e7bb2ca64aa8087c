"""The report: what its page says of runs and methods, and the commands that lead to it."""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from mfql.cli import main
from mfql.documents import write_json
from mfql.errors import UserError
from mfql.report import aggregate, chain, published, score_panels
from mfql.report.answer import answer
from mfql.report.cli import add_commands
from mfql.report.cost import cost as cost_of
from mfql.report.html import FEW_METHODS, Options, _speed, page_of, read_tables, write_report
from mfql.report.panels import Text, read_panels, write_panel
from mfql.report.provenance import SHOWN_ONCE, mixtures
from mfql.report.scores import collect, read_scores, write_scores
from mfql.report.tasks import runs
from tests.support.fake_results import TASK, write_final, write_quickstart, write_run, write_study
from tests.support.html_page import Page

ROOT = Path(__file__).parents[1]

# No test here looks at a bootstrap's numbers.
pytestmark = pytest.mark.usefixtures("few_repetitions")


def page_from(results: Path, files: list[Path], **options: object) -> str:
    scores = collect(files)
    tables = {name: table(scores) for name, table in aggregate.TABLES.items()}
    score_panels.write(tables, results / "aggregate")
    return page_of(scores, tables, results / "report.html", Options(results, results / "aggregate", **options))[0]  # type: ignore[arg-type]


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
    assert not re.search(r"@import|url\((?!#|\"data:image/svg)|\son\w+=", text)
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
    manifest = json.loads(
        (results / "runs/mfql" / TASK / "seed1/offline/run/manifest.json").read_text(encoding="utf-8")
    )
    shown = Page(text).text
    for value in (
        manifest["identity"],
        manifest["code"]["commit"],
        manifest["dataset"]["sha256"],
        manifest["dataset"]["source"],
        manifest["hardware"]["cpu"],
        manifest["packages"]["torch"],
        manifest["started"],
        "runs/METHOD/TASK/seedN/STAGE",
        "batch_size",
        "[128, 128]",
    ):
        assert value in shown
    assert text.count('<div class="evidence" id="evidence-') == 4  # one a method, task and stage


def test_the_page_says_the_licence_of_each_dataset_and_whom_to_cite(tmp_path: Path) -> None:
    """By where its files come from, once a dataset; of one of which tasks saw different files, each of them."""
    second, third = (TASK.replace("task1", f"task{number}") for number in (2, 3))
    files = []
    for task, source, digest in (
        (TASK, "generated", "ab"),
        (second, "generated", "cd"),
        (third, "generated", "ab"),
        ("pen-human-v1", "downloaded", "ab"),
        ("cube-single-play-singletask-task2-v0", "downloaded", "ab"),
        ("mine", "own", "ab"),
    ):
        name = re.sub(r"-singletask-task\d", "", task)
        dataset = {"name": name, "source": source, "sha256": digest * 32, "episodes": 100, "rows": 1000}
        files += [write_run(tmp_path, [50.0] * 5, task=task, seed=seed, dataset=dataset) for seed in range(2)]
    text = page_from(tmp_path, files)
    Page(text)
    section = text[text.index('<section aria-labelledby="datasets">') :]
    rows = re.findall(r"<tr>(<td>.*?)</tr>", section[: section.index("</section>")])
    cells = [[re.sub("<.*?>", "", cell) for cell in re.findall(r"<td>(.*?)</td>", row)] for row in rows]
    assert [row[:4] for row in cells] == [
        ["cube-single-play-v0", "cube-single-play-singletask-task2-v0", "downloaded", "ab" * 8],
        ["mine", "mine", "own", "ab" * 8],
        ["pen-human-v1", "pen-human-v1", "downloaded", "ab" * 8],
        ["pointmaze-medium-navigate-v0", f"{TASK}, {third}", "generated", "ab" * 8],
        ["pointmaze-medium-navigate-v0", second, "generated", "cd" * 8],
    ]
    licences, cited = ([row[column] for row in cells] for column in (4, 5))
    for licence, said in zip(
        licences, ("MIT is that of OGBench", "unknown", "CC BY 4.0", "of whoever", "of whoever"), strict=True
    ):
        assert licence.startswith(said)
    assert [("2410.20092" in cite, "2004.07219" in cite) for cite in cited] == [
        (True, False), (False, False), (False, True), (True, False), (True, False)
    ]  # fmt: skip


def test_the_page_says_what_was_expected_and_that_runs_are_reduced(quickstart: tuple[Path, str]) -> None:
    shown = Page(quickstart[1]).text
    assert "80 to 100: as expected" in shown
    assert "30 to 40: below" in shown
    assert "Reduced size. All of these runs" in shown


def test_entries_in_which_seeds_differ_are_shown_by_seed(tmp_path: Path) -> None:
    files = [write_run(tmp_path, [50.0], seed=seed, seconds=100.0 + seed, device="cpu") for seed in range(2)]
    text = page_from(tmp_path, files)
    (seeds,) = re.findall("<pre>(.*?)</pre>", text, re.DOTALL)
    assert [line.split("; ")[:2] for line in seeds.splitlines()] == [["seed", "score"], ["0", "50.0"], ["1", "50.0"]]
    assert [line.split("; ")[-1] for line in seeds.splitlines()] == ["seconds", "100.0", "101.0"]
    assert "<dt>device</dt><dd>cpu</dd>" in text
    assert "Reduced size" not in text


def test_the_hashes_of_all_files_lie_beside_the_page_which_names_where(tmp_path: Path) -> None:
    files = [write_run(tmp_path, [50.0], seed=seed) for seed in range(3)]
    names, hashes = ("evaluation.json", "policy/policy.safetensors"), []
    for file in files[:2]:  # The third is of a version that knew none.
        digests = (hashlib.sha256(content).hexdigest() for content in (file.read_bytes(), str(file).encode()))
        hashes.append(dict(zip(names, digests, strict=True)))
        path = file.parent / "run/manifest.json"
        write_json(path, json.loads(path.read_text(encoding="utf-8")) | {"outputs": hashes[-1]})
    chain.collect(files, tmp_path / "scores.csv")
    chain.aggregate(tmp_path / "scores.csv", tmp_path / "aggregate")
    chain.page(tmp_path / "scores.csv", tmp_path / "report.html", Options(tmp_path, tmp_path / "aggregate"))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "report.evidence.csv" in Page(text).links
    found = pd.read_csv(tmp_path / "report.evidence.csv", keep_default_na=False)
    assert [row[name] for row in found.to_dict("records") for name in names] == [
        *(known[name] for known in hashes for name in names),
        "",
        "",
    ]
    assert found["run"].tolist() == [f"runs/mfql/{TASK}/seed{seed}/offline" for seed in range(3)]
    assert not any(known[name] in text for known in hashes for name in names)


def test_two_pages_of_one_folder_have_a_table_of_hashes_each(tmp_path: Path) -> None:
    files = [write_run(tmp_path, [50.0], seed=seed) for seed in range(2)]
    others = tmp_path / "pages/evidence.csv"
    others.parent.mkdir()
    others.write_text("somebody's\n", encoding="utf-8")
    for count, name in ((1, "a #1"), (2, "b")):
        chain.collect(files[:count], tmp_path / "scores.csv")
        chain.aggregate(tmp_path / "scores.csv", tmp_path / "aggregate")
        page = tmp_path / f"pages/{name}.html"
        chain.page(tmp_path / "scores.csv", page, Options(tmp_path, tmp_path / "aggregate"))
    for count, name, link in ((1, "a #1", "a%20%231"), (2, "b", "b")):
        assert len(pd.read_csv(others.with_name(f"{name}.evidence.csv"))) == count
        assert f"{link}.evidence.csv" in Page(others.with_name(f"{name}.html").read_text(encoding="utf-8")).links
    assert others.read_text(encoding="utf-8") == "somebody's\n"


def test_what_very_many_share_is_on_the_page_once(quickstart: tuple[Path, str], tmp_path: Path) -> None:
    methods = [f"method{number:02d}" for number in range(SHOWN_ONCE)]
    files = [write_run(tmp_path, [50.0], method=method, device="cpu") for method in methods]
    text = page_from(tmp_path, files)
    page = Page(text)
    assert text.count("<h4>hardware</h4>") == 1
    assert text.count("hardware, packages</a>") == SHOWN_ONCE
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert quickstart[1].count("<h4>hardware</h4>") == 4  # Few have all of it at hand.
    assert "What many of them share" not in quickstart[1]


def test_names_are_escaped_everywhere(tmp_path: Path) -> None:
    task, method = "<script>alert(1)", 'a&b"c$d$'
    files = [write_run(tmp_path, [50.0, 60.0], method=m, task=task, seed=s) for m in (method, "plain") for s in (0, 1)]
    text = page_from(tmp_path, files)
    page = Page(text)
    assert text.count("<script>") == 1  # the page's own
    assert task in page.text
    assert method in page.text


def test_tasks_whose_names_differ_in_case_alone_are_two(tmp_path: Path) -> None:
    files = [write_run(tmp_path, [50.0], task=task, method=m) for task in ("a-Maze", "a-maze") for m in ("x", "y")]
    text = page_from(tmp_path, files)
    evidence = text[text.index('<h2 id="evidence">') :]
    assert re.findall(r"<h3>(.*?)</h3>", evidence) == ["a-Maze", "a-maze"]
    comparisons = text[text.index('id="comparisons"') :]
    assert re.findall(r'<th scope="rowgroup" colspan="4">(.*?)</th>', comparisons) == ["a-Maze", "a-maze"]


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


def test_settings_and_simulations_that_are_a_tasks_own_are_no_mixed_origin(tmp_path: Path) -> None:
    config = tmp_path / "config"
    (config / "methods").mkdir(parents=True)
    (config / "methods/m.yaml").write_text("agent: rebrac\nalpha_actor: task\ntau: 0.1\n", encoding="utf-8")

    def differences(**changed: float) -> dict[str, list[str]]:
        other = "antmaze-large-navigate-singletask-task1-v0"
        settings = {TASK: {"alpha_actor": 1.0, "tau": 0.1}, other: {"alpha_actor": 0.01, "tau": 0.1} | changed}
        files = [
            write_run(tmp_path, [50.0], method="m", task=task, settings=own, simulation_version=version)
            for version, (task, own) in enumerate(settings.items(), start=1)
        ]
        return mixtures(runs(collect(files)), tmp_path, config)

    assert differences() == {}
    assert differences(tau=0.2).keys() == {"m offline"}


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


def test_online_scores_of_many_tasks_are_answered_where_there_is_no_rise(tmp_path: Path) -> None:
    """As of a method without an offline part."""
    tasks = [f"task{number}" for number in range(4)]
    files = [
        write_run(tmp_path, [80.0], method="rlpd", task=task, seed=seed, stage="online")
        for task in tasks
        for seed in (0, 1)
    ]
    scores = collect(files).query("metric == 'score'")
    shown = " ".join(map(str, answer({name: table(scores) for name, table in aggregate.TABLES.items()})))
    assert "<b>4 tasks</b>, online, mean: rlpd" in shown


def test_a_partial_report_lists_what_is_missing(tmp_path: Path) -> None:
    files = write_quickstart(tmp_path)
    begun = tmp_path / "runs/mfql/slow/seed0/offline/run"
    begun.mkdir(parents=True)
    (begun / "metrics.csv").write_text("step,metric,value\n1000,loss,2.0\n2000,loss,1.0\n2500,lo", encoding="utf-8")
    absent = [tmp_path / "runs/mfql" / task / "seed0/offline/evaluation.json" for task in ("slow", "later")]
    with pytest.raises(UserError, match="2 runs without a score, the first of them runs/mfql/later"):
        page_from(tmp_path, files, targets=[*files, *absent])
    shown = Page(page_from(tmp_path, files, targets=[*files, *absent], partial=True)).text
    assert "The answer so far" in shown
    assert "runs/mfql/slow/seed0/offline, at step 2500" in shown
    assert "Not begun: runs/mfql/later/seed0/offline" in shown


def test_a_manifest_that_is_absent_or_of_another_run_is_refused_unless_partial(tmp_path: Path) -> None:
    file = write_run(tmp_path, [50.0])
    manifest = file.parent / "run/manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    manifest.write_text(json.dumps(content | {"identity": "another"}), encoding="utf-8")
    with pytest.raises(UserError, match="not of the run"):
        page_from(tmp_path, [file])
    assert "manifest of seed 0 is not at hand" in page_from(tmp_path, [file], partial=True)
    manifest.unlink()
    with pytest.raises(UserError, match=r"manifest\.json"):
        page_from(tmp_path, [file])
    assert "manifest of seed 0 is not at hand" in page_from(tmp_path, [file], partial=True)
    manifest.write_text(json.dumps({"settings": {}, "identity": content["identity"]}), encoding="utf-8")
    with pytest.raises(UserError, match="lacks code, dataset"):
        page_from(tmp_path, [file])


def test_one_seed_is_answered_without_an_interval(tmp_path: Path) -> None:
    scores = collect([write_run(tmp_path, [50.0])])
    sentences = answer({name: table(scores) for name, table in aggregate.TABLES.items()})
    assert [sentence.striptags() for sentence in sentences] == [
        f"On {TASK}, mfql reaches 50.0 % success (one seed: no interval) over 1 seed."
    ]


CUBE = [f"cube-double-play-singletask-task{number}-v0" for number in range(1, 6)]
OUTSIDE = "task,method,stage,mean,std,seeds,source\n{task},theirs,offline,{mean},2,3,a notebook\n"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Four methods on all tasks of an environment and one of another, beside published numbers and one from outside."""
    results = tmp_path_factory.mktemp("study")
    files = write_study(results, [*CUBE, "scene-play-singletask-task2-v0"], [], ["bc", "iql", "fql", "mfql"], seeds=2)
    write_final(files[0], 40.0)
    write_final(files[1], 60.0)
    (results / "outside.csv").write_text(OUTSIDE.format(task=CUBE[0], mean=12), encoding="utf-8")
    scores, tasks = results / "scores.csv", ROOT / "config/tasks.csv"
    write_scores(collect(files), scores)
    mfql("aggregate", scores, "--out", results / "aggregate")
    numbers = ("--published", ROOT / "published", "--outside", results / "outside.csv")
    mfql("verdict", "--scores", scores, "--tasks", tasks, "--results", results, *numbers, "--out", results / "verdict")
    text = Text("Alpha & more", "Which alpha?", "Success against alpha.", "snakemake ablation_alpha")
    write_panel(results / "ablations/alpha", None, pd.DataFrame({"alpha": [1.5], "success": [50.0]}), text)
    strip = results / f"runs/mfql/{CUBE[0]}/seed0/offline/strip.png"
    strip.write_bytes(b"\x89PNG")
    (strip.parent / "video.json").write_text("{}", encoding="utf-8")
    about = ("--aggregates", results / "aggregate", "--results", results, "--panels", results, "--tasks", tasks)
    verdict = ("--verdict", results / "verdict/verdict.csv")
    mfql("report", "--scores", scores, *about, *verdict, "--out", results / "report.html")
    return results, (results / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_every_published_method_stands_beside_ours(study: tuple[Path, str]) -> None:
    table = pd.read_csv(study[0] / "verdict/benchmark.csv", keep_default_na=False)
    own = table[(table["task"] == CUBE[0]) & (table["stage"] == "offline")]
    columns = {origin: set(part["column"]) for origin, part in own.groupby("origin")}
    assert columns["ours"] == {"bc", "iql", "fql", "mfql"}
    others = {"ReBRAC", "IDQL", "SRPO", "CAC", "FAWAC", "FBRAC", "IFQL"}
    assert columns["published"] == {"bc", "iql", "fql"} | others  # MFQL's number on this task is not at hand
    assert columns["outside"] == {"theirs"}
    shown = Page(study[1]).text
    assert "IDQL published only: a diffusion policy" in shown
    assert "FAWAC published only" in shown
    assert "theirs from outside" in shown


def test_a_mean_over_tasks_needs_every_task_of_the_column(study: tuple[Path, str]) -> None:
    table = pd.read_csv(study[0] / "verdict/benchmark.csv", keep_default_na=False)
    means = table[table["scope"] == "environment"]
    assert set(means["environment"]) == {"cube-double"}  # the other has one task
    assert "theirs" not in set(means["column"])
    ours = means[(means["column"] == "mfql") & (means["origin"] == "ours")]["value"].item()
    by_task = table[(table["environment"] == "cube-double") & (table["scope"] == "task")]
    of_mfql = by_task[(by_task["column"] == "mfql") & (by_task["origin"] == "ours")]
    assert float(ours) == pytest.approx(of_mfql["value"].astype(float).mean())


def test_tables_of_every_method_are_there_for_papers(study: tuple[Path, str]) -> None:
    latex = (study[0] / "verdict/benchmark.tex").read_text(encoding="utf-8")
    assert r"\toprule" in latex
    assert "& IDQL &" in latex
    fql = published.read_published(ROOT / "published")["fql", CUBE[0], "offline"]
    assert f"({fql.mean:.1f} ± {fql.std:.1f})" in latex
    assert "mean of cube-double" in (study[0] / "verdict/benchmark.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (OUTSIDE.format(task=TASK, mean=""), r"outside\.csv:2: (mean is empty|there is a std)"),
        (OUTSIDE.format(task=TASK, mean=5) * 2, r"outside\.csv:3: stage"),
        (
            OUTSIDE.format(task=TASK, mean=5) + f"{TASK},theirs,offline,6,2,3,again\n",
            r"outside\.csv:3: it repeats theirs",
        ),
    ],
)
def test_malformed_scores_from_outside_are_refused(tmp_path: Path, content: str, fault: str) -> None:
    (tmp_path / "outside.csv").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=fault):
        published.read_outside([tmp_path / "outside.csv"])


def test_a_separate_evaluation_stands_beside_the_score(study: tuple[Path, str]) -> None:
    tasks = pd.read_csv(study[0] / "aggregate/tasks.csv")
    row = tasks[(tasks["method"] == "bc") & (tasks["task"] == CUBE[0])].iloc[0]
    assert (row["final"], row["final_seeds"], row["final_episodes"]) == (50.0, 2, 100)
    assert 0 <= row["final_low"] < 50 < row["final_high"] <= 100
    assert re.search(r"50\.0 % \[[\d., ]+\], 100 episodes", Page(study[1]).text)
    assert tasks[tasks["method"] == "mfql"]["final"].isna().all()


def test_a_separate_evaluation_of_another_run_counts_for_nothing(tmp_path: Path) -> None:
    file = write_run(tmp_path, [50.0])
    write_final(file, 40.0)
    final = file.with_name("final.json")
    final.write_text(final.read_text(encoding="utf-8").replace('"identity": "', '"identity": "not'), encoding="utf-8")
    assert "final" not in set(collect([file])["metric"])


def test_cost_stands_beside_score(study: tuple[Path, str]) -> None:
    cost = pd.read_csv(study[0] / "aggregate/cost.csv").set_index("method")
    row = cost.loc["iql"]
    assert (row["parameters"], row["step_ms"], row["acting_ms"]) == pytest.approx((2_000_000, 3.0, 0.3))
    assert pd.isna(row["acting_ms_low"])  # all its runs tell the same measurement
    assert row["hours_a_run"] == pytest.approx(1200 / 3600 / 3)  # three seeds share the job
    assert row["device_hours"] == pytest.approx(12 * row["hours_a_run"])
    shown = Page(study[1]).text
    assert "Score beside cost, offline, Example CPU" in shown
    assert "2,000,000" in shown


def test_the_time_of_an_action_has_the_reach_of_its_measurements(tmp_path: Path) -> None:
    files = [
        write_run(tmp_path, [50.0], seed=seed, seconds=9.0, acting_ms=ms) for seed, ms in enumerate((0.2, 0.3, 0.7))
    ]
    row = cost_of(collect(files)).iloc[0]
    assert tuple(row[["acting_ms", "acting_ms_low", "acting_ms_high"]]) == (0.3, 0.2, 0.7)


def test_the_time_of_a_continued_run_is_that_of_all_its_steps(tmp_path: Path) -> None:
    sessions = [{"started": "2026-11-22T18:41:04+0000", "from_step": step} for step in (0, 1500)]
    scores = collect([write_run(tmp_path, [50.0, 60.0], seconds=900.0, seeds_in_job=[0], sessions=sessions)])
    assert scores.loc[scores["metric"] == "device_hours", "value"].tolist() == [1.0]  # 500 of 2000 steps in 900 s


def test_panels_and_film_strips_are_on_the_page(study: tuple[Path, str]) -> None:
    page = Page(study[1])
    assert "Ablations" in page.text
    assert "Alpha & more Which alpha? Success against alpha." in page.text
    assert "Made by snakemake ablation_alpha" in page.text
    assert "ablations/alpha/data.csv" in page.links
    assert f"runs/mfql/{CUBE[0]}/seed0/offline/strip.png" in page.links
    assert any(link.startswith("data:image/png;base64,") for link in page.links)


def test_of_many_methods_the_leading_one_is_compared_with_each(study: tuple[Path, str]) -> None:
    assert FEW_METHODS == 3
    assert "18 comparisons of two methods on a task" in Page(study[1]).text  # 6 tasks, mfql with 3 others
    assert len(pd.read_csv(study[0] / "aggregate/comparisons.csv")) == 36


def test_what_the_filter_needs_is_on_every_row(study: tuple[Path, str]) -> None:
    text = study[1]
    assert text.count(" data-score>") == 24
    assert f'data-suite="ogbench" data-task="{CUBE[0]}"' in text
    assert re.search(r'<input type="checkbox" name="suite" value="ogbench">', text)
    assert len(re.findall(r'name="method" value="', text)) == 4 + 7 + 1  # ours, published only, from outside


LENGTHS = """
import sys
from pathlib import Path
import pandas as pd
from mfql.report.drawing import drawing, grid, intervals, styles
from mfql.report.panels import Text, write_panel

scores, panel = pd.read_csv(sys.argv[1]), Path(sys.argv[2])
of_method = scores[scores["metric"] == "length"].groupby("method")["value"]
lengths = of_method.agg(value="mean", low="min", high="max").reset_index()
with drawing():
    figure, (axes,) = grid(1, 1, 2.0)
    for place, (method, own) in enumerate(lengths.groupby("method")):
        intervals(axes, [place], own, styles(lengths["method"])[method])
    text = Text("Lengths of episodes", "How long are they?", "Mean and range over evaluations.", "snakemake lengths")
    write_panel(panel.parent, figure, lengths, text)
"""
RULE = """
rule lengths:
    input: "results/study/scores.csv"
    output: "results/study/lengths_of_episodes/all/panel.json"
    shell: "PYTHON lengths.py {input} {output}"
"""


@pytest.mark.slow
def test_a_new_figure_is_one_module_and_one_rule(tmp_path: Path) -> None:
    results = tmp_path / "results"
    chain.collect(write_quickstart(results), results / "study/scores.csv")
    (tmp_path / "lengths.py").write_text(LENGTHS, encoding="utf-8")
    (tmp_path / "Snakefile").write_text(RULE.replace("PYTHON", sys.executable), encoding="utf-8")
    snakemake = [sys.executable, "-m", "snakemake", "--cores", "1", "lengths"]
    subprocess.run(snakemake, cwd=tmp_path, check=True, capture_output=True)
    chain.aggregate(results / "study/scores.csv", results / "study/aggregate")
    options = Options(results, results / "study/aggregate", panels=results / "study")
    chain.page(results / "study/scores.csv", results / "study/report.html", options)
    page = Page((results / "study/report.html").read_text(encoding="utf-8"))
    assert "Lengths of episodes How long are they?" in page.text
    assert "Made by snakemake lengths" in page.text
    assert "lengths_of_episodes/all/figure.svg" in page.links
    headings = re.findall(
        r'<li><a href="#section-1">([^<]*)</a>', (results / "study/report.html").read_text(encoding="utf-8")
    )
    assert headings == ["Lengths of episodes"]  # The scores' own figures stand in no second section.


def test_a_panel_in_a_section_of_the_scores_is_shown_where_the_scores_have_none(tmp_path: Path) -> None:
    text = Text("Mine", "Why?", "A number.", "snakemake mine")
    for section in ("curves", "over_tasks", "cost"):
        write_panel(tmp_path / section / "mine", None, pd.DataFrame({"x": [1]}), text)
    page = page_from(tmp_path, [write_run(tmp_path, [50.0])], panels=tmp_path)  # one task, no cost
    assert Page(page).text.count("Mine Why?") == 3


@pytest.mark.parametrize(
    ("cell", "becomes", "said"),
    [
        ("offline,", "onlin ,", "tasks.csv:2: stage is none of offline, online, pretrain"),
        (",score,", ",scores,", "tasks.csv:2: metric is none of rise, score"),
        (f",{TASK},", ",NaN,", "tasks.csv:2: task is empty"),
        ("\nonline,", "\noffline,", f"tasks.csv has a rise of mfql on {TASK}, and no score online"),
    ],
)
def test_aggregates_that_are_of_nothing_are_refused(
    tmp_path: Path, few_repetitions: None, cell: str, becomes: str, said: str
) -> None:
    aggregate.write(collect(write_quickstart(tmp_path)), tmp_path)
    path = tmp_path / "tasks.csv"
    path.write_text(path.read_text(encoding="utf-8").replace(cell, becomes, 1), encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(said)):
        read_tables(tmp_path)


def test_a_number_of_very_many_digits_is_a_number(tmp_path: Path, few_repetitions: None) -> None:
    aggregate.write(collect(write_quickstart(tmp_path)), tmp_path)
    table = pd.read_csv(tmp_path / "tasks.csv", dtype=str)
    table["final"] = ["9" * 31 + "1.0", *table["final"][1:]]
    table.to_csv(tmp_path / "tasks.csv", index=False)
    assert read_tables(tmp_path)["tasks"]["final"][0] == 1e32


@pytest.mark.slow
def test_tables_without_the_scores_panels_make_the_same_page_and_stay_as_they_are(tmp_path: Path) -> None:
    chain.collect(write_quickstart(tmp_path), tmp_path / "scores.csv")
    folder = tmp_path / "aggregate"
    aggregate.write(collect(write_quickstart(tmp_path)), folder)
    before = sorted(folder.rglob("*"))
    chain.page(tmp_path / "scores.csv", tmp_path / "report.html", Options(tmp_path, folder))
    assert sorted(folder.rglob("*")) == before
    score_panels.write(read_tables(folder), folder)
    chain.page(tmp_path / "scores.csv", tmp_path / "again.html", Options(tmp_path, folder))
    page, again = ((tmp_path / name).read_text(encoding="utf-8") for name in ("report.html", "again.html"))
    assert again.replace("again.evidence.csv", "report.evidence.csv") == page  # The hashes are named after their page.
    assert "Learning curves" in again


def test_new_panels_of_scores_take_the_place_of_earlier_ones_and_of_nothing_else(
    tmp_path: Path, few_repetitions: None
) -> None:
    """A folder given by mistake may hold panels of other commands, and somebody's notes."""
    folder, study = tmp_path / "results", tmp_path / "scores.csv"
    chain.collect(write_quickstart(tmp_path), study)
    score_panels.write(aggregate.write(read_scores(study), folder), folder)
    earlier = {path.relative_to(folder).as_posix() for path in folder.glob("curves/*/*/*")}
    write_panel(folder / "toy/comparison", None, pd.DataFrame({"x": [1]}), Text("t", "q", "c", "mfql toy panels"))
    write_panel(tmp_path / "elsewhere", None, pd.DataFrame({"x": [1]}), Text("t", "q", "c", "mfql aggregate"))
    (folder / "curves/linked").symlink_to(tmp_path / "elsewhere")
    notes = folder / sorted(earlier)[0]
    (notes := notes.with_name("notes.md")).touch()
    chain.collect([write_run(tmp_path, [50.0], task="other")], study)
    score_panels.write(aggregate.write(read_scores(study), folder), folder)
    assert not {name for name in earlier if (folder / name).exists()}
    assert list(folder.glob("curves/other/*/panel.json"))
    assert notes.exists()
    assert (folder / "toy/comparison/panel.json").exists()
    assert (tmp_path / "elsewhere/data.csv").exists()


def test_a_panel_without_its_description_or_with_a_part_missing_is_not_shown_or_refused(tmp_path: Path) -> None:
    text = Text("title", "question", "caption", "command")
    folder = tmp_path / "toy/one"
    write_panel(folder, plt.figure(), pd.DataFrame({"x": [1]}), text, pd.DataFrame({"x": ["1"]}))
    (panel,) = read_panels(tmp_path)
    assert (panel.section, panel.has_figure, panel.text) == ("toy", True, text)
    assert panel.table is not None
    assert r"\toprule" in (folder / "table.tex").read_text(encoding="utf-8")
    (folder / "figure.png").unlink()
    with pytest.raises(UserError, match=r"figure\.png"):
        read_panels(tmp_path)
    (folder / "panel.json").unlink()
    assert read_panels(tmp_path) == []


MEASURED = {
    "quick": False,
    "date": "2026-01-01",
    "machine": {"device": "cpu", "cpu": "Bench CPU", "gpu": None},
    "measurements": [
        {"part": "methods", "quantity": quantity, "unit": "ms", "value": value, "case": {"method": "mfql"}}
        for quantity, value in (("parameters", 3_828_232), ("update", 12.5), ("latency p50", 0.8))
    ],
}


def test_what_makes_bench_measured_stands_beside_the_runs(tmp_path: Path) -> None:
    (tmp_path / "cpu.json").write_text(json.dumps(MEASURED), encoding="utf-8")
    shown = Page(page_from(tmp_path, [write_run(tmp_path, [50.0])], speed=[tmp_path / "cpu.json"])).text
    assert "on Bench CPU, 2026-01-01" in shown
    assert "3,828,232 12.5 0.8" in shown


@pytest.mark.parametrize(
    "faulty", [{}, [1], MEASURED | {"measurements": [{"part": "methods"}]}, MEASURED | {"machine": {"device": "cpu"}}]
)
def test_a_file_that_make_bench_did_not_write_is_named(tmp_path: Path, faulty: object) -> None:
    (tmp_path / "cpu.json").write_text(json.dumps(faulty), encoding="utf-8")
    with pytest.raises(UserError, match=r"cpu\.json is no result of `python -m benchmarks`"):
        _speed([tmp_path / "cpu.json"])


def mfql(*arguments: object) -> None:
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers(required=True))
    parsed = parser.parse_args([str(argument) for argument in arguments])
    parsed.func(parsed)


@pytest.mark.slow
def test_the_commands_lead_from_runs_to_the_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [*write_quickstart(tmp_path), tmp_path / "runs/mfql" / TASK / "seed9/offline/evaluation.json"]
    (tmp_path / "runs.txt").write_text("".join(f"{file}\n" for file in files), encoding="utf-8")
    (tmp_path / "expected.yaml").write_text(
        json.dumps({"flow_bc": {TASK: {"offline": {"score": [30, 40]}}}}), encoding="utf-8"
    )
    scores, out, page = tmp_path / "scores.csv", tmp_path / "aggregate", tmp_path / "report.html"
    with pytest.raises(UserError, match="seed9"):
        mfql("scores", "--from-file", tmp_path / "runs.txt", "--out", scores)
    assert not scores.exists()
    mfql("scores", "--from-file", tmp_path / "runs.txt", "--out", scores, "--partial")
    mfql("aggregate", scores, "--out", out)
    about = ("--expected", tmp_path / "expected.yaml")
    asked = ("--targets", tmp_path / "runs.txt", "--partial")
    mfql("report", "--scores", scores, "--aggregates", out, "--results", tmp_path, "--out", page, *asked, *about)
    assert "seed9" in page.read_text(encoding="utf-8")
    capsys.readouterr()
    mfql("summary", "--aggregates", out, "--report", page, *about)
    printed = capsys.readouterr().out
    assert re.search(rf"{TASK} +offline +flow_bc +20\.0 \[10\.1, 29\.9\] +3 +30 to 40 +below", printed)
    assert re.search(r"rise online +mfql +74\.3 \[68\.9, 78\.8\] +3", printed)
    assert "intervals apart" in printed
    assert printed.rstrip().endswith(str(page))


@pytest.mark.slow
def test_the_partial_page_of_a_finished_study_is_the_whole_page(tmp_path: Path) -> None:
    """But for its note: what the commands make one by one and what `--partial` makes at once is the same."""
    results, tasks = tmp_path / "results", ROOT / "config/tasks.csv"
    files = write_quickstart(results)
    (tmp_path / "outside.csv").write_text(OUTSIDE.format(task=TASK, mean=12), encoding="utf-8")
    ranges = {"mfql": {TASK: {"offline": {"score": [95, 100]}}}}
    (tmp_path / "expected.yaml").write_text(json.dumps(ranges), encoding="utf-8")
    benchmark = {"methods": ["mfql", "flow_bc"], "tasks": [TASK]}
    asked = {"name": "study", "offline": benchmark, "online": benchmark | {"methods": ["mfql"]}, "seeds": [0, 1, 2]}
    asked |= {"expected": str(tmp_path / "expected.yaml"), "outside_scores": [str(tmp_path / "outside.csv")]}
    (tmp_path / "study.yaml").write_text(json.dumps(asked), encoding="utf-8")
    text = Text("Alpha", "Which alpha?", "Success against alpha.", "snakemake ablation_alpha")
    write_panel(results / "study/ablations/alpha", None, pd.DataFrame({"alpha": [1.5]}), text)
    (tmp_path / "speed.json").write_text(json.dumps(MEASURED), encoding="utf-8")
    speed = ("--speed", tmp_path / "speed.json")
    where = ("--results", results, "--config-dir", ROOT / "config")
    mfql("report", "--partial", "--configfile", tmp_path / "study.yaml", *where, *speed)

    one, study = results / "study/whole", results / "study"  # as deep as `partial`: addresses are the same
    shown = [file for file in files if "pretrain" not in file.parts]
    mfql("scores", *shown, "--out", one / "scores.csv")
    mfql("aggregate", one / "scores.csv", "--out", one / "aggregate")
    numbers = ("--published", ROOT / "published", "--outside", tmp_path / "outside.csv")
    about = ("--scores", one / "scores.csv", "--tasks", tasks, "--results", results)
    mfql("verdict", *about, *numbers, "--out", one / "verdict")
    made = ("--aggregates", one / "aggregate", "--verdict", one / "verdict/verdict.csv", "--panels", study)
    mfql("report", *about, *made, *speed, "--expected", tmp_path / "expected.yaml", "--out", one / "report.html")
    whole, partial = ((study / name / "report.html").read_text(encoding="utf-8") for name in ("whole", "partial"))
    note = r'<div class="note" role="note"><p><b>Partial report</b> of what is finished\. Nothing [^<]*</p>\s*</div>\n'
    assert len(re.findall(note, partial)) == 1
    assert re.sub(note, "", partial).replace("The answer so far", "The answer") == whole
    files_of = [{path.relative_to(study / name) for path in (study / name).rglob("*")} for name in ("whole", "partial")]
    assert files_of[0] == files_of[1]


@pytest.mark.slow
def test_one_command_reports_what_a_configuration_has_finished(tmp_path: Path, capsys) -> None:
    results = tmp_path / "results"
    write_quickstart(results)
    benchmark = {"methods": ["mfql", "flow_bc"], "tasks": [TASK]}
    asked = {"name": "study", "offline": benchmark, "online": benchmark | {"methods": ["mfql"]}, "seeds": [0, 1, 2, 3]}
    (tmp_path / "study.yaml").write_text(json.dumps(asked), encoding="utf-8")
    command = ["report", "--partial", "--configfile", str(tmp_path / "study.yaml"), "--results", str(results)]
    assert main([*command, "--config-dir", str(ROOT / "config")]) == 0
    folder = results / "study" / "partial"
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    shown = Page((folder / "report.html").read_text(encoding="utf-8")).text
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


@pytest.mark.slow
def test_the_package_needs_no_torch() -> None:
    code = "import sys, mfql.report.html, mfql.report.cli, mfql.report.formats; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
