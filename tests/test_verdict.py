"""The verdict against published numbers, on constructed inputs."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from markupsafe import escape
from scipy import stats

from mfql.errors import UserError
from mfql.experiment.claims import read_claims
from mfql.extensions import VARIABLE, extend, tables
from mfql.report import aggregate
from mfql.report.benchmark import benchmark
from mfql.report.benchmark import write as write_benchmark
from mfql.report.cli import add_commands
from mfql.report.html import Options, page_of
from mfql.report.published import COLUMNS, read_published, read_third_party
from mfql.report.scores import collect, write_scores
from mfql.report.verdict import RULE, Comparison, Sample
from mfql.report.verdict_tables import References, printable, read, verdicts, write
from mfql.studies.claims.evidence import judge as judge_claims
from mfql.tasks import Registered, Task
from tests.support.fake_results import write_run

ROOT = Path(__file__).parents[1]
PAPER_TASK = "humanoidmaze-medium-navigate-singletask-task1-v0"
TIGHT = [52.0, 53.0, 54.0, 52.0, 53.0, 54.0, 53.0, 53.0]
WIDE = [13.0, 93.0, 33.0, 73.0, 23.0, 83.0, 43.0, 63.0]
SCOPED = (*COLUMNS, "scope")


def task(name: str, source: str = "published table", suite: str = "ogbench") -> Task:
    steps = dict.fromkeys(("offline_steps", "pretrain_steps", "online_steps"), 1000)
    return Task(name, suite, name, name, "success", "last_three", True, steps, source)


class Study:
    """Runs, published numbers and a task table, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[Path] = []
        self.tasks: dict[str, Task] = {}
        self.rows: list[str] = []

    def add(self, name: str, scores: list[float], published: str | None = None, **options: Any) -> None:
        """A task with one run a seed; `published` is its row's mean, std and seeds."""
        source, scope = options.pop("source", "published table"), options.pop("scope", "")
        self.tasks[name] = task(name, source, options.pop("suite", "ogbench"))
        for seed, score in enumerate(scores):
            settings = {"settings": {"offline_steps": 1000, "online_steps": 1000}} | options
            self.files.append(write_run(self.folder, [score] * 3, task=name, seed=seed, **settings))
        if published is not None:
            self.rows.append(f"{name},MFQL,{options.get('stage', 'offline')},{published},A paper,{scope}")

    def verdicts(self) -> pd.DataFrame:
        write_published(self.folder / "published", *self.rows, columns=SCOPED)
        references = References(
            read_published(self.folder / "published"), read_third_party(self.folder / "published"), self.tasks
        )
        return verdicts(collect(self.files), self.folder, references)

    def of(self, name: str, stage: str = "offline") -> dict[Any, Any]:
        table = self.verdicts()
        return table[(table["task"] == name) & (table["stage"] == stage)].iloc[0].to_dict()


def write_published(folder: Path, *rows: str, name: str = "paper.csv", columns: tuple[str, ...] = COLUMNS) -> None:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / name).write_text("\n".join([",".join(columns), *rows]) + "\n", encoding="utf-8")


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


# --- the rule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "published", "verdict"),
    [
        (TIGHT, "53,1,8", "reproduced"),
        (WIDE, "53,3,8", "inconclusive"),
        ([100.0] * 8, "100,0,8", "reproduced"),
        ([50.0] * 8, "50,0,8", "reproduced"),
        ([score + 30 for score in TIGHT], "53,1,8", "higher"),
        ([score - 30 for score in TIGHT], "53,1,8", "lower"),
        ([45.0, 61.0], "53,3,8", "inconclusive"),
        ([53.0], "53,3,8", "inconclusive"),
        (TIGHT, ",,8", "published but not at hand"),
        (TIGHT, None, "never published"),
    ],
)
def test_verdict_on_constructed_scores(study: Study, scores: list[float], published: str | None, verdict: str) -> None:
    study.add("task", scores, published)
    assert study.of("task")["verdict"] == verdict


def test_returns_are_compared_by_task_alone(study: Study) -> None:
    for name in ("a", "b"):
        study.add(name, TIGHT, "53,1,8", metric="return", suite="mine")
    table = study.verdicts()
    assert set(table["unit"]) == {"return"}
    assert set(table["scope"]) == {"task"}
    numbers = benchmark(table, read_published(study.folder / "published"), study.tasks)
    assert set(numbers["scope"]) == {"task"}
    write(table, study.folder / "out")
    assert "| a" in (study.folder / "out" / "verdict.md").read_text(encoding="utf-8")


def test_the_settings_of_an_extensions_method_are_from_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "mine.yaml").write_text("inherits: ifql-small\ntable: own.csv\n", encoding="utf-8")
    rows = (ROOT / "config/baselines/small/ifql.csv").read_text(encoding="utf-8").splitlines()
    (tmp_path / "own.csv").write_text(
        f"{rows[0]}\n*,*,{','.join(rows[1].split(',')[2:-1])},my grid\n", encoding="utf-8"
    )
    monkeypatch.setenv(VARIABLE, "")
    extend([tmp_path])
    references = References({}, [], {PAPER_TASK: task(PAPER_TASK, "untuned")}, ROOT / "config")
    assert references.settings_source("mine", PAPER_TASK, "offline") == "my grid"
    assert tables() == [tmp_path / "own.csv"]


def test_untuned_settings_are_never_called_lower_or_higher(study: Study) -> None:
    study.add("task", [0.0] * 8, "90,1,8", source="untuned; num_candidates published")
    row = study.of("task")
    assert row["verdict"] == "settings not at hand"
    assert row["difference"] == -90


@pytest.mark.parametrize("scores", [TIGHT, [score - 30 for score in TIGHT], [score + 30 for score in TIGHT], [53.0]])
@pytest.mark.parametrize("source", ["published table", "untuned"])
def test_a_number_of_unknown_scope_is_shown_and_never_judged(study: Study, scores: list[float], source: str) -> None:
    study.add("task", scores, "53,1,8", scope="unknown", source=source)
    row = study.of("task")
    assert row["verdict"] == "scope not known"
    assert (row["published"], row["published_std"], row["published_seeds"]) == (53, 1, 8)
    assert all(isnan(row[name]) for name in ("difference", "difference_low", "difference_high", "margin", "more_seeds"))


@pytest.mark.parametrize(
    ("published", "options", "verdict"),
    [
        ("53,1,8", {"scope": "task"}, "reproduced"),
        ("53,1,8", {"scope": "unknown", "reduced": True}, "reduced size"),
        (",,8", {"scope": "unknown"}, "published but not at hand"),
    ],
)
def test_of_several_reasons_not_to_judge_the_first_is_given(
    study: Study, published: str, options: dict[str, Any], verdict: str
) -> None:
    study.add("task", TIGHT, published, **options)
    assert study.of("task")["verdict"] == verdict


@pytest.mark.parametrize("mark", [{"reduced": True}, {"settings": {"offline_steps": 999}}])
def test_runs_of_reduced_size_are_never_judged(study: Study, mark: dict[str, Any]) -> None:
    study.add("task", TIGHT, "53,1,8", **mark)
    assert study.of("task")["verdict"] == "reduced size"


def test_what_nobody_published_is_of_no_reduced_size(study: Study, tmp_path: Path) -> None:
    """Of a method or a task of an extension; of one of the project's own a smaller size is what is to be known."""
    (tmp_path / "mine" / "methods").mkdir(parents=True)
    (tmp_path / "mine" / "methods" / "mine.yaml").write_text("inherits: mfql\n", encoding="utf-8")
    extend([tmp_path / "mine"])
    study.add("task", TIGHT, "53,1,8")
    for method in ("mine", "mine+alpha=30", "mfql-quickstart"):
        study.add("task", TIGHT, method=method, reduced=True)
    study.add("own", TIGHT, reduced=True)
    study.tasks["own"] = replace(study.tasks["own"], registered=Registered("Any-v0", "a.npz", None, None, None, None))
    table = study.verdicts()
    found = table[table["scope"] == "task"].set_index(["task", "method"])["verdict"].to_dict()
    assert found == {
        ("task", "mfql"): "reproduced",
        ("task", "mine"): "never published",
        ("task", "mine+alpha=30"): "never published",
        ("task", "mfql-quickstart"): "reduced size",
        ("own", "mfql"): "never published",
    }


def test_the_difference_has_welchs_interval(study: Study) -> None:
    study.add("task", WIDE, "40,12,8")
    row = study.of("task")
    variances = np.array([np.var(WIDE, ddof=1), 144]) / 8
    freedom = variances.sum() ** 2 / (variances**2 / 7).sum()
    reach = stats.t.ppf(0.975, freedom) * np.sqrt(variances.sum())
    found = [row[f"difference{end}"] for end in ("", "_low", "_high")]
    assert found == pytest.approx([13, 13 - reach, 13 + reach])


def test_two_seeds_that_agree_are_as_uncertain_as_their_episodes(study: Study) -> None:
    study.add("task", [50.0, 50.0], "50,0,8")
    row = study.of("task")
    ours = stats.binomtest(150, 300).proportion_ci(0.95, method="wilson")
    theirs = stats.binomtest(600, 1200).proportion_ci(0.95, method="wilson")
    reach = 100 * np.hypot(ours.high - 0.5, theirs.high - 0.5)
    assert row["difference_high"] == pytest.approx(reach)
    assert row["verdict"] == "inconclusive"


def test_the_margin_is_the_published_spread_where_that_is_more(study: Study) -> None:
    study.add("tight", TIGHT, "53,1,8")
    study.add("wide", TIGHT, "53,12,8")
    assert (study.of("tight")["margin"], study.of("wide")["margin"]) == (5, 12)


def test_unknown_published_spread_is_taken_to_be_ours(study: Study) -> None:
    study.add("unknown", WIDE, "40,,")
    study.add("known", WIDE, f"40,{np.std(WIDE, ddof=1)},8")
    unknown, known = study.of("unknown"), study.of("known")
    assert unknown["difference_low"] == pytest.approx(known["difference_low"])
    assert unknown["margin"] == 5


# --- stages, methods, aggregates --------------------------------------------------------------------------------------


def test_an_offline_run_that_an_online_run_starts_from_is_the_score_before(study: Study) -> None:
    study.add("task", TIGHT, "53,1,8")
    study.rows += ["task,MFQL,pretrain,83,1,8,A paper,"]
    study.add("task", [99.0] * 8, "99,1,8", stage="online", starts_from="offline")
    found = {stage: study.of("task", stage)["verdict"] for stage in ("offline", "pretrain", "online")}
    assert found == {"offline": "reproduced", "pretrain": "lower", "online": "reproduced"}


def test_the_released_protocol_has_the_same_numbers_and_an_ablation_none(study: Study) -> None:
    study.add("task", TIGHT, "53,1,8")
    for method in ("mfql-released", "mfql-gamma"):
        study.add("task", TIGHT, method=method)
    table = study.verdicts()
    found = table[table["scope"] == "task"].set_index("method")["verdict"].to_dict()
    assert found == {"mfql": "reproduced", "mfql-released": "reproduced", "mfql-gamma": "never published"}


def test_aggregates_cover_what_can_be_judged_and_say_what_they_leave_out(study: Study) -> None:
    study.add("first", [score - 20 for score in TIGHT], "53,1,8")
    study.add("second", [score + 20 for score in TIGHT], "53,1,8")
    study.add("third", [0.0] * 8, "90,1,8", source="untuned")
    study.add("fourth", TIGHT, ",,8")
    study.add("other", TIGHT, None, suite="toy")
    table = study.verdicts().set_index(["scope", "task"])
    suite = table.loc[("suite", "ogbench")]
    assert (suite["tasks"], suite["verdict"], suite["seeds"]) == (2, "reproduced", 8)
    assert suite["difference"] == pytest.approx(0)
    assert set(suite["left_out"].split(", ")) == {"1 settings not at hand", "1 published but not at hand"}
    assert table.loc[("all", "all success rates")]["tasks"] == 2
    assert "1 never published" in table.loc[("all", "all success rates")]["left_out"]
    assert table.loc[("suite", "toy")]["verdict"] == "nothing to compare"


def test_numbers_of_unknown_scope_are_in_no_aggregate_and_no_mean(study: Study) -> None:
    study.add("known", [score - 20 for score in TIGHT], "53,1,8")
    study.add("unknown", [score + 20 for score in TIGHT], "53,1,8", scope="unknown")
    table = study.verdicts()
    for scope in ("all", "suite"):
        row = table[table["scope"] == scope].iloc[0]
        assert (row["tasks"], row["verdict"], row["left_out"]) == (1, "lower", "1 scope not known")
        assert row["difference"] == pytest.approx(-20)
    numbers = benchmark(table, read_published(study.folder / "published"), study.tasks).set_index(["origin", "scope"])
    assert {key: value.item() for key, value in numbers["value"].groupby(level=[0, 1]) if len(value) == 1} == {
        ("ours", "suite"): pytest.approx(53),
        ("published", "task"): 53,
        ("published", "unknown"): 53,
    }


def test_a_claim_does_not_judge_by_a_number_of_unknown_scope(study: Study) -> None:
    study.add("known", TIGHT, "93,1,8")
    study.add("unknown", TIGHT, "93,1,8", scope="unknown")
    write(study.verdicts(), study.folder / "verdict")
    check = (
        "- {{says: ours less the published, table: t, of: {{task: {0}}}, column: difference, must: {{stay_below: 0}}}}"
    )
    entry = "group: headline, says: it falls short, paper: {confidence: low, because: none}, full_size: none"
    entry += ", target: none, minutes: 1, expect: less"
    claims = [f"  {name}: {{{entry}, checks: [{check.format(name)[2:]}]}}" for name in ("known", "unknown")]
    text = "\n".join(["configuration: mine", "tables: {t: verdict.csv}", "claims:", *claims])
    (study.folder / "claims.yaml").write_text(text, encoding="utf-8")
    found = judge_claims(read_claims(study.folder), study.folder / "verdict")
    assert [str(one.verdict) for one in found] == ["held", "undecided"]


def test_an_aggregate_is_the_mean_of_the_differences() -> None:
    ours, published = [Sample(50, 4, 8), Sample(70, 9, 5)], [Sample(45, 3, 8), Sample(71, 2, 8)]
    difference = Comparison(ours, published, "normalized_return").difference()
    variances = np.array([16 / 8, 81 / 5, 9 / 8, 4 / 8]) / 4
    freedom = variances.sum() ** 2 / (variances**2 / [7, 4, 7, 7]).sum()
    reach = stats.t.ppf(0.975, freedom) * np.sqrt(variances.sum())
    assert (difference.value, difference.high) == pytest.approx((2, 2 + reach))


def test_third_parties_stand_beside_with_the_tasks_own_rule_first(study: Study) -> None:
    study.add("task", TIGHT, "53,1,8")
    columns = (*COLUMNS, "seed", "alpha", "score_rule")
    rows = ["task,MFQL,pretrain,76,,1,A run,1,150,last", "task,MFQL,pretrain,58.7,,1,A run,1,150,last_three"]
    write_published(study.folder / "published/third_party", *rows, name="runs.csv", columns=columns)
    assert study.of("task")["third_party"] == "58.7 (alpha 150); 76 (alpha 150, last evaluation)"
    rows = [f"{row}," for row in rows] + ["task,MFQL,pretrain,60,,1,A run,1,150,last_three,critic rate 1e-4"]
    write_published(study.folder / "published/third_party", *rows, name="runs.csv", columns=(*columns, "changed"))
    assert study.of("task")["third_party"].split("; ")[1] == "60 (alpha 150, critic rate 1e-4)"


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("task,MFQL,offline,high,1,8,A paper", "mean is 'high', not a number"),
        ("task,MFQL,offline,inf,1,8,A paper", "mean is 'inf', not a number"),
        ("task,MFQL,offline,53,-1,8,A paper", "std is -1, below 0"),
        ("task,MFQL,offline,53,1,eight,A paper", "seeds is 'eight', not a whole number"),
        ("task,MFQL,offline,53,1,0,A paper", "seeds is 0, below 1"),
        ("task,MFQL,offline,53,1,,A paper", "there is a std and no number of seeds"),
        ("task,MFQL,offline,,1,8,A paper", "there is a std and no mean"),
        ("task,MFQL,later,53,1,8,A paper", "stage is 'later', not one of offline, pretrain, online"),
        ("task,MFQL,offline,53,1,8,", "source is empty"),
        ("task,MFQL,offline,53,1,8", "has not 7 cells"),
        ("task,MFQL,offline,53,1,8,A paper,B", "has not 7 cells"),
        ("fine,mfql,offline,53,1,8,A paper", "repeats mfql on fine, offline"),
    ],
)
def test_a_bad_row_is_refused_by_file_and_line(tmp_path: Path, row: str, fault: str) -> None:
    write_published(tmp_path, "fine,MFQL,offline,53,nan,8,A paper", row)
    with pytest.raises(UserError, match=r"paper\.csv:3\b") as error:
        read_published(tmp_path)
    assert fault in str(error.value)


def test_a_scope_that_is_not_one_is_refused_by_file_and_line(tmp_path: Path) -> None:
    write_published(tmp_path, "task,MFQL,offline,53,1,8,A paper,environment", columns=SCOPED)
    with pytest.raises(UserError, match=r"paper\.csv:2: scope is 'environment', not one of task, unknown"):
        read_published(tmp_path)


def test_other_files_are_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no CSV"):
        read_published(tmp_path)
    write_published(tmp_path, columns=COLUMNS[:-1])
    with pytest.raises(UserError, match="lacks the columns source"):
        read_published(tmp_path)
    (tmp_path / "paper.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot read"):
        read_published(tmp_path)


def test_a_users_own_row_fills_in_for_one_that_is_not_at_hand(study: Study) -> None:
    study.add("task", TIGHT, ",,8")
    write_published(study.folder / "published", "task,MFQL,offline,53,1,8,The paper that I hold", name="mine.csv")
    assert study.of("task")["verdict"] == "reproduced"


@pytest.mark.parametrize("file", ["mine.csv", "zzz.csv"])  # read before and after the paper's
def test_a_users_own_row_says_what_a_number_of_unknown_scope_is_of(study: Study, file: str) -> None:
    study.add("task", TIGHT, "94,3,8", scope="unknown")
    write_published(study.folder / "published", "task,MFQL,offline,53,1,8,The paper that I hold", name=file)
    assert study.of("task")["verdict"] == "reproduced"
    write_published(study.folder / "published", "task,MFQL,offline,53,1,8,Again,unknown", name="b.csv", columns=SCOPED)
    with pytest.raises(UserError, match="repeats MFQL on task, offline"):
        study.verdicts()


def test_a_published_success_rate_is_a_percentage(study: Study) -> None:
    study.add("task", TIGHT, "153,1,8")
    with pytest.raises(UserError, match=r"paper\.csv:2: mean is 153, not a percentage"):
        study.verdicts()


def test_a_task_that_is_not_in_the_table_is_refused(study: Study) -> None:
    study.add("task", TIGHT, "53,1,8")
    study.tasks["tusk"] = study.tasks.pop("task")
    with pytest.raises(UserError, match=r"unknown task 'task'[^$]*tusk"):
        study.verdicts()


def test_the_numbers_in_the_repository_are_whole() -> None:
    published = read_published(ROOT / "published")
    of_mfql = [number for (method, _, _), number in published.items() if method == "mfql"]
    stages = pd.Series([number.stage for number in of_mfql]).value_counts().to_dict()
    assert stages == {"offline": 73, "pretrain": 15, "online": 15}
    assert sum(number.at_hand for number in of_mfql) == 25
    assert published["mfql", "cube-double-play-singletask-task2-v0", "online"].mean == 95
    unknown = {key: number.mean for key, number in published.items() if number.scope == "unknown"}
    assert unknown == {
        ("mfql", "humanoidmaze-medium-navigate-singletask-task1-v0", "pretrain"): 62,
        ("mfql", "humanoidmaze-medium-navigate-singletask-task1-v0", "online"): 100,
        ("mfql", "cube-double-play-singletask-task2-v0", "pretrain"): 3,
        ("mfql", "cube-double-play-singletask-task2-v0", "online"): 95,
    }


def test_third_partys_runs_with_another_critic_rate_and_statistics_are_told_apart() -> None:
    runs = [run for run in read_third_party(ROOT / "published") if "audit_matrix" in run.number.source]
    online = [(run.number.task, run.changed, run.number.mean) for run in runs if run.number.stage == "online"]
    assert online == [
        ("door-cloned-v1", "", 0.01),
        ("door-cloned-v1", "statistics of valid rows", 0.04),
        ("door-cloned-v1", "critic rate 1e-4", 0.04),
        ("door-cloned-v1", "statistics of valid rows, critic rate 1e-4", 0.0),
        ("hammer-cloned-v1", "statistics of valid rows", 119.8),
    ]


def test_third_partys_runs_end_where_their_curves_do() -> None:
    curves = pd.read_csv(ROOT / "published/third_party/curves.csv")
    ends = curves[curves["step"] == 1_000_000].set_index(["task", "stage"])["value"]
    runs = read_third_party(ROOT / "published")
    for (name, stage), value in ends.items():
        own = [run.number for run in runs if (run.number.task, run.number.stage) == (name, stage)]
        assert value in [number.mean for number in own]


def run_command(study: Study, published: Path) -> Path:
    """`mfql verdict` on the study, with the repository's task table; returns the folder that it wrote."""
    write_scores(collect(study.files), study.folder / "scores.csv")
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers())
    line = f"verdict --scores {study.folder}/scores.csv --results {study.folder} --out {study.folder}/out"
    options = parser.parse_args(
        [*line.split(), "--published", str(published), "--tasks", str(ROOT / "config/tasks.csv")]
    )
    options.func(options)
    return study.folder / "out"


def test_the_command_writes_the_table_and_the_page(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    study.add(PAPER_TASK, [94.0, 93.0, 95.0, 94.0], settings={"offline_steps": 1_000_000})
    written = run_command(study, ROOT / "published")
    page = (written / "verdict.md").read_text(encoding="utf-8")
    assert page in capsys.readouterr().out
    assert all(name in page for name in RULE)
    assert "94.0 ± 3.0" in page
    assert "58.7 (alpha 150)" in page
    row = read(written / "verdict.csv").iloc[-1]
    assert (row["task"], row["verdict"], row["tasks"]) == (PAPER_TASK, "reproduced", 1)
    assert isnan(row["more_seeds"])


def test_one_seed_is_no_finding_about_more_and_what_rounds_to_zero_has_no_sign(study: Study) -> None:
    study.add("first", [52.96], "53,9,8")
    study.add("second", [52.96, 52.96, 52.96], "53,0.01,8")
    shown = printable(study.verdicts()).set_index("task")
    assert shown.loc["first", "verdict"] == "inconclusive, one seed says nothing of the spread over seeds"
    assert shown.loc["second", "difference"].startswith("+0.0 [")


def test_the_table_is_read_as_it_was_written(study: Study) -> None:
    study.add("first", TIGHT, "53,1,8")
    study.add("second", [53.0])
    table = study.verdicts()
    write(table, study.folder)
    pd.testing.assert_frame_equal(read(study.folder / "verdict.csv"), table, check_dtype=False)


def test_the_command_names_published_tasks_that_the_table_lacks(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    study.add(PAPER_TASK, [94.0, 93.0, 95.0, 94.0], settings={"offline_steps": 1_000_000})
    write_published(study.folder / "published", f"{PAPER_TASK}-,MFQL,offline,94,3,8,A paper")
    run_command(study, study.folder / "published")
    assert f"tasks.csv lacks were not used: {PAPER_TASK}-\n" in capsys.readouterr().out


def test_the_report_shows_the_rule_and_both_protocols_beside_third_parties(study: Study) -> None:
    study.add("task", TIGHT, "53,1,8")
    study.add("task", WIDE, method="mfql-released")
    study.add("other", TIGHT, "83,1,8", scope="unknown")
    columns = (*COLUMNS, "seed", "alpha", "score_rule")
    rows = ["task,MFQL,pretrain,58.7,,1,A run,1,150,last_three"]
    write_published(study.folder / "published/third_party", *rows, name="runs.csv", columns=columns)
    table = study.verdicts()
    write(table, study.folder / "verdict")
    numbers = benchmark(table, read_published(study.folder / "published"), study.tasks)
    write_benchmark(numbers, study.folder / "verdict")
    scores = collect(study.files)
    options = Options(study.folder, study.folder / "aggregate", verdict=study.folder / "verdict/verdict.csv")
    tables = aggregate.write(scores, study.folder / "aggregate")
    page, _ = page_of(scores, tables, study.folder / "report.html", options)
    section = page[page.index('id="verdict"') : page.index('id="comparisons"')]
    assert 'href="verdict/verdict.csv"' in section
    assert "<b>1</b> reproduced" in section
    assert "<b>1</b> inconclusive" in section
    assert "<b>1</b> scope not known" in section
    assert section.count("left out: 1 scope not known") == 2  # over its suite and over all
    assert "<td>83.0 ± 1.0<sup>1</sup></td><td></td>" in section
    assert "Sources: <sup>1</sup> A paper" in section
    assert "83.0 ± 1.0, scope not known" in page
    for name in ("verdict.md", "benchmark.md"):
        assert "scope not known" in (study.folder / "verdict" / name).read_text(encoding="utf-8").split("## ", 1)[1]
    assert section.count("53.0 ± 1.0") == 2 + 2 * 2  # both protocols on the task, over its suite and over all
    assert section.count("58.7 (alpha 150)") == 2
    assert all(escape(text) in section for text in RULE.values())


def test_every_source_that_the_page_cites_is_named_as_it_is_written(study: Study) -> None:
    study.add("other", TIGHT, "83,1,8")
    study.add("task", TIGHT, "53,1,8")
    table = study.verdicts()
    table.loc[table["task"] == "task", "source"] = "a PAPER"
    table.loc[table["task"] == "other", "source"] = "a <paper>"
    extra = table[table["task"] == "task"].assign(source="A paper")
    write(pd.concat([table, extra]), study.folder / "verdict")
    write_benchmark(benchmark(table, {}, study.tasks), study.folder / "verdict")
    options = Options(study.folder, study.folder / "aggregate", verdict=study.folder / "verdict/verdict.csv")
    tables = aggregate.write(scores := collect(study.files), study.folder / "aggregate")
    page, _ = page_of(scores, tables, study.folder / "report.html", options)
    (told,) = re.findall("Sources: (.*?)</p>", page)
    assert told.replace("\u202f", " ") == "<sup>1</sup> a &lt;paper&gt;; <sup>2</sup> a PAPER; <sup>3</sup> A paper"


def test_a_page_has_no_verdict_on_methods_without_scores(study: Study) -> None:
    study.add("task", TIGHT, "53,1,8")
    write(study.verdicts().assign(method="absent"), study.folder / "verdict")
    options = Options(study.folder, study.folder / "aggregate", verdict=study.folder / "verdict/verdict.csv")
    tables = aggregate.write(scores := collect(study.files), study.folder / "aggregate")
    with pytest.raises(UserError, match=r"verdict.csv judges absent, of which the scores have nothing"):
        page_of(scores, tables, study.folder / "report.html", options)
