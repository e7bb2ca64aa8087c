"""The paper's claims: what makes one hold, what the shipped tables say, and that the page says the same."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from math import inf, isnan, nan
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from scipy import stats

from mfql.agents.flow_bc import FlowBC, FlowBCSettings
from mfql.agents.update import initial_state
from mfql.cli import main
from mfql.declared import agent_class
from mfql.documents import read_json, write_json
from mfql.errors import UserError
from mfql.evaluation.policy import Actor, load_policy, save_policy
from mfql.experiment.claims import GROUPS, read_claims
from mfql.files import sha256
from mfql.methods import raw_settings
from mfql.parity import Comparison
from mfql.report.intervals import Interval
from mfql.report.panels import Text, read_panels, write_panel
from mfql.report.places import NOWHERE, link, without_places
from mfql.report.scores import collect, write_scores
from mfql.settings import build_settings
from mfql.studies.claims.evidence import Judged, Verdict, difference, judge, ratio
from mfql.studies.claims.page import tables, tidy
from mfql.studies.claims.parity import write_parity
from tests.support.fake_results import write_quickstart, write_run
from tests.support.project import NOTHING_TO_DO, clone

ROOT = Path(__file__).parents[1]
CONFIG, PAGE = ROOT / "config", ROOT / "docs" / "claims.md"
CLAIM = {
    "group": "mechanism",
    "says": "a is above b",
    "paper": {"confidence": "high", "because": "a figure"},
    "target": "snakemake all",
    "minutes": 1,
    "expect": "more than 5",
    "full_size": "nothing",
}
ABOVE = {"says": "a less b", "table": "t", "of": {"name": "a"}, "than": {"name": "b"}, "as": "difference"}


def write(folder: Path, *checks: dict, rows: str | None = None, **more: object) -> Path:
    """A folder with these checks of one claim, and the table that they read, where there are rows."""
    entry = {**CLAIM, **more, **({"checks": list(checks)} if checks else {})}
    (folder / "claims.yaml").write_text(
        yaml.safe_dump({"configuration": "small", "tables": {"t": "t.csv"}, "claims": {"above": entry}}),
        encoding="utf-8",
    )
    if rows is not None:
        (folder / "t.csv").write_text("name,value,low,high\n" + rows, encoding="utf-8")
    return folder


def judged(folder: Path) -> Judged:
    (one,) = judge(read_claims(folder), folder)
    return one


# --- the rule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "must", "verdict"),
    [
        ("a,30,25,35", {"exceed": 5}, Verdict.HELD),
        ("a,30,25,35", {"stay_below": 5}, Verdict.NOT_HELD),
        ("a,12,5,19", {"exceed": 5}, Verdict.UNDECIDED),
        ("a,0,-4,4", {"exceed": 5}, Verdict.NOT_HELD),
        ("a,30,,", {"exceed": 5}, Verdict.UNDECIDED),
    ],
)
def test_a_check_is_decided_where_its_interval_lies_on_one_side(tmp_path, a, must, verdict) -> None:
    write(tmp_path, ABOVE | {"must": must}, rows=f"{a}\nb,10,7,13\n")
    assert judged(tmp_path).verdict is verdict


@pytest.mark.parametrize(("must", "found"), [({"exceed": 0}, "0"), ({"stay_below": 1}, "1")])
def test_what_lies_on_its_bound_without_any_width_fails(tmp_path: Path, must: dict, found: str) -> None:
    check = {"says": "a", "table": "t", "of": {"name": "a"}, "must": must}
    write(tmp_path, check, rows=f"a,{found},{found},{found}\n")
    assert judged(tmp_path).verdict is Verdict.NOT_HELD


def test_a_difference_is_as_wide_as_newcombe_has_it() -> None:
    found = difference(Interval(30, 26, 33), Interval(10, 7, 14))
    assert (found.value, found.low, found.high) == pytest.approx((20, 20 - np.hypot(4, 4), 20 + np.hypot(3, 3)))


def test_a_ratio_is_a_difference_of_logarithms() -> None:
    found = ratio(Interval(2, 1, 4), Interval(4, 2, 8))
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5 / 2 ** np.sqrt(2), 0.5 * 2 ** np.sqrt(2)))
    assert isnan(ratio(Interval(2, 0, 4), Interval(4, 2, 8)).low)
    assert isnan(ratio(Interval(2, 1, 4), Interval(0, 0, 8)).value)


@pytest.mark.parametrize("bound", [2.5, 3.5, 2.95, 3.0])
def test_an_undecided_check_says_how_many_seeds_would_decide(tmp_path: Path, bound: float) -> None:
    """Of a mean of 3 with a standard deviation of 1 over 3 seeds, those from which Student's t leaves the bound out."""

    def reach(seeds: int) -> float:
        return float(stats.t.ppf(0.975, seeds - 1)) / np.sqrt(seeds)

    write(tmp_path, {"says": "a", "table": "t", "of": {"name": "a"}, "must": {"exceed": bound}})
    rows = f"name,value,low,high,seeds\na,3,{3 - reach(3)},{3 + reach(3)},3\n"
    (tmp_path / "t.csv").write_text(rows, encoding="utf-8")
    least = next((seeds for seeds in range(3, 1001) if reach(seeds) < abs(3 - bound)), None)
    (finding,) = judged(tmp_path).findings
    assert finding.seeds_to_decide == least
    (row,) = tidy([judged(tmp_path)]).to_dict("records")
    assert (row["seeds"], row["seeds_to_decide"]) == (3, least)
    assert (f"about {least} seeds would decide" in tables([judged(tmp_path)], "")) == (least is not None)


def test_seeds_are_those_of_the_row_with_fewer_and_a_ratio_counts_in_logarithms(tmp_path: Path) -> None:
    write(tmp_path, ABOVE | {"as": "ratio", "must": {"exceed": 2.5}})
    (tmp_path / "t.csv").write_text("name,value,low,high,seeds\na,8,4,16,8\nb,2,2,2,4\n", encoding="utf-8")
    (finding,) = judged(tmp_path).findings
    assert (finding.seeds, finding.verdict) == (4, Verdict.UNDECIDED)
    # Half the interval, log 4 - log 2, has to come below log 4 - log 2.5: t / sqrt(n) is 1.59, 1.24, 1.05 for 4, 5, 6.
    assert finding.seeds_to_decide == 6


@pytest.mark.parametrize("seeds", ["", "inf", "1e300", "0"])
def test_a_number_of_seeds_that_is_none_says_nothing(tmp_path: Path, seeds: str) -> None:
    write(tmp_path, ABOVE | {"must": {"exceed": 5}})
    (tmp_path / "t.csv").write_text(f"name,value,low,high,seeds\na,8,4,16,{seeds}\nb,2,2,2,{seeds}\n", encoding="utf-8")
    (finding,) = judged(tmp_path).findings
    assert (finding.seeds, finding.seeds_to_decide) == (None, None)


@pytest.mark.parametrize("cells", ["x,4,16,3", "8,4,16,x"])
def test_a_cell_that_is_no_number_is_refused_with_its_table(tmp_path: Path, cells: str) -> None:
    write(tmp_path, ABOVE | {"must": {"exceed": 5}})
    (tmp_path / "t.csv").write_text(f"name,value,low,high,seeds\na,{cells}\nb,2,2,2,4\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"t\.csv is damaged: .*'x'"):
        judged(tmp_path)


def test_a_table_without_intervals_is_exact(tmp_path: Path) -> None:
    write(tmp_path, {"says": "a", "table": "t", "of": {"name": "a"}, "must": {"stay_below": 1}})
    (tmp_path / "t.csv").write_text("name,value\na,0.5\n", encoding="utf-8")
    assert judged(tmp_path).verdict is Verdict.HELD


def test_one_failed_check_is_enough(tmp_path: Path) -> None:
    other = {"says": "b", "table": "t", "of": {"name": "b"}, "must": {"exceed": 20}}
    write(tmp_path, ABOVE | {"must": {"exceed": 5}}, other, rows="a,30,25,35\nb,10,7,13\n")
    assert judged(tmp_path).verdict is Verdict.NOT_HELD


@pytest.mark.parametrize("rows", [None, "a,30,25,35\n", "c,1,1,1\n"])
def test_what_is_not_there_was_not_run(tmp_path: Path, rows: str | None) -> None:
    write(tmp_path, ABOVE | {"must": {"exceed": 5}}, rows=rows)
    assert judged(tmp_path).verdict is Verdict.NOT_RUN
    assert judged(tmp_path).confidence == "none"


@pytest.mark.parametrize(
    ("more", "a", "confidence"),
    [
        ({}, 30, "moderate"),
        ({"any_size": True}, 30, "high"),
        ({"others": "it failed"}, 30, "low"),
        ({"any_size": True, "others": "it failed"}, 30, "moderate"),
        ({}, 0, "against"),
        ({}, 15, "low"),
    ],
)
def test_confidence_follows_from_verdict_size_and_third_parties(tmp_path, more, a, confidence) -> None:
    write(tmp_path, ABOVE | {"must": {"exceed": 5}}, rows=f"a,{a},{a - 3},{a + 3}\nb,10,8,12\n", **more)
    assert judged(tmp_path).confidence == confidence


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"table": "u"}, "unknown table 'u'"),
        ({"must": {"equal": 5}}, "'equal' was unexpected"),
        ({"as": "product"}, "'product' is not one of"),
        ({"of": "a"}, "is not of type 'object'"),
    ],
)
def test_a_faulty_claim_is_named(tmp_path: Path, change: dict, said: str) -> None:
    write(tmp_path, ABOVE | {"must": {"exceed": 5}} | change)
    with pytest.raises(UserError, match=said) as caught:
        read_claims(tmp_path)
    assert "above" in str(caught.value)


def test_a_claim_has_checks_or_says_why_not(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(UserError, match="above"):
        read_claims(tmp_path)


@pytest.mark.parametrize(
    ("rows", "verdict", "reason"),
    [
        ("a,30,25,35\n" * 2 + "b,1,1,1\n", Verdict.UNDECIDED, "2 rows with name a"),
        ("a,30,25,35\n", Verdict.NOT_RUN, "no rows with name b"),
    ],
)
def test_what_one_check_lacks_leaves_the_others_judged(
    tmp_path: Path, rows: str, verdict: Verdict, reason: str
) -> None:
    other = {"says": "a", "table": "u", "of": {"name": "a"}, "must": {"exceed": 20}}
    write(tmp_path, ABOVE | {"must": {"exceed": 5}}, other, rows=rows)
    content = yaml.safe_load((tmp_path / "claims.yaml").read_text(encoding="utf-8"))
    content["tables"]["u"] = "u.csv"
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    (tmp_path / "u.csv").write_text("name,value,low,high\na,30,25,35\n", encoding="utf-8")
    first, second = judged(tmp_path).findings
    assert (first.verdict, first.reason) == (verdict, reason)
    assert second.verdict is Verdict.HELD


SPEED = ABOVE | {"as": "ratio", "column": "ms", "same": "device", "must": {"stay_below": 1}}


@pytest.mark.parametrize(
    ("rows", "verdict", "reason"),
    [
        ("a,cpu,1,0.8,1.2\nb,cpu,9,8,10\n", Verdict.HELD, ""),
        ("a,cpu,1,0.8,1.2\na,gpu,2,1,3\nb,cpu,9,8,10\n", Verdict.HELD, ""),
        ("a,cpu,1,0.8,1.2\nb,gpu,9,8,10\n", Verdict.NOT_RUN, "no device has both rows"),
        ("a,cpu,1,,\nb,cpu,9,8,10\n", Verdict.UNDECIDED, ""),
        ("a,cpu,1,1,1\na,gpu,1,1,1\nb,cpu,9,9,9\nb,gpu,9,9,9\n", Verdict.UNDECIDED, "2 rows with name a"),
    ],
)
def test_times_are_compared_on_one_device(tmp_path: Path, rows: str, verdict: Verdict, reason: str) -> None:
    write(tmp_path, SPEED)
    (tmp_path / "t.csv").write_text("name,device,ms,ms_low,ms_high\n" + rows, encoding="utf-8")
    (found,) = judged(tmp_path).findings
    assert (found.verdict, found.reason) == (verdict, reason)


def test_a_time_without_an_interval_decides_nothing(tmp_path: Path) -> None:
    write(tmp_path, SPEED)
    (tmp_path / "t.csv").write_text("name,device,ms\na,cpu,1\nb,cpu,9\n", encoding="utf-8")
    assert judged(tmp_path).verdict is Verdict.UNDECIDED


# --- the project's claims ---------------------------------------------------------------------------------------------


def test_every_group_of_claims_is_there_and_every_target_is_of_the_workflow() -> None:
    claims = read_claims(CONFIG).claims
    assert {claim.group for claim in claims} == set(GROUPS)
    assert len(claims) >= 15
    own = {
        rule
        for path in (ROOT / "workflow" / "rules").glob("*.smk")
        for rule in path.read_text(encoding="utf-8").split()
    }
    ablations = yaml.safe_load((CONFIG / "ablations.yaml").read_text(encoding="utf-8"))
    for claim in claims:
        for target in claim.target.split()[1:]:
            if target.startswith("ablation_"):
                assert target.removeprefix("ablation_") in ablations, target
            elif "/" not in target and not target.startswith("-"):
                assert f"{target}:" in own or f"{target}:" in (ROOT / "workflow" / "Snakefile").read_text(
                    encoding="utf-8"
                ), target


@pytest.mark.slow
def test_the_workflow_makes_every_table_that_the_claims_read(tmp_path: Path) -> None:
    project = clone(tmp_path / "mfql")
    (project.folder / "tests" / "data").mkdir()
    for name in ("reference.npz", "baselines.npz"):
        (project.folder / "tests" / "data" / name).touch()
    reduced = ("--configfile", "config/reduced.yaml")
    printed = project.snakemake("-n", "claims", *reduced)
    counted = sum(int(number) for number in re.findall(r"^train_o\w+ +(\d+)$", printed, re.MULTILINE)) // 2
    assert counted > 30
    planned = project.mfql("plan", "claims", *reduced, "--gpus", "1")
    by_stage = dict(re.findall(r"^  (offline|pretrain|online) +(\d+)  ", planned, re.MULTILINE))
    assert sum(map(int, by_stage.values())) == counted


@pytest.mark.slow
def test_another_configuration_is_refused_before_anything_is_trained(tmp_path: Path, capsys, monkeypatch) -> None:
    project = clone(tmp_path / "mfql")
    message = "the claims are about the runs of the configuration reduced, not of paper"
    for target in ("claims", "results/paper/claims/panel.json"):
        assert message in project.snakemake("-n", target, fails=True)
    monkeypatch.chdir(project.folder)
    assert main(["plan", "claims", "--gpus", "1"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_errors_against_released_code_are_those_of_the_code_as_it_is(tmp_path: Path) -> None:
    project = clone(tmp_path / "mfql")
    shutil.copytree(ROOT / "mfql", project.folder / "mfql", ignore=shutil.ignore_patterns("__pycache__"))
    agent, out = project.folder / "mfql/agents/new.py", "results/reduced/claims/parity.csv"
    fixtures = [project.folder / "tests/data" / name for name in ("reference.npz", "baselines.npz")]
    for path in (agent, *fixtures, project.folder / out):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    dry = ("-n", out, "--configfile", "config/reduced.yaml", "--rerun-triggers", "mtime")
    assert NOTHING_TO_DO in project.snakemake(*dry)
    os.utime(agent, (time.time() + 100,) * 2)
    assert "rule parity" in project.snakemake(*dry)


def test_panels_name_the_configuration_that_they_were_made_with(tmp_path: Path) -> None:
    project = clone(tmp_path / "mfql")
    own = project.folder / "my study.yaml"
    shutil.copy(CONFIG / "reduced.yaml", own)
    printed = project.snakemake("-n", "-p", "toy_reduced_noise", "--configfile", str(own))
    assert "--command 'snakemake toy_reduced_noise --configfile '\"'\"'my study.yaml'" in printed


def test_all_claims_fit_into_three_hours() -> None:
    minutes = {frozenset(claim.target.split()): claim.minutes for claim in read_claims(CONFIG).claims if claim.target}
    # The target of the parity check makes the toy too, which is a target of its own: its minutes count once.
    assert sum(own for target, own in minutes.items() if not any(target < other for other in minutes)) <= 180


def test_scores_above_others_must_exceed_them_and_alpha_must_move() -> None:
    claims = {claim.name: claim for claim in read_claims(CONFIG).claims}
    assert {(check.relation, check.bound) for check in claims["offline_scores"].checks} == {("exceed", 0)}
    moves = claims["adaptive_alpha"].checks[0]
    assert moves.of["measure"] == "alpha_moves"
    assert moves.bound > 0


def test_the_quantities_of_the_ablations_are_measured() -> None:
    ablations = yaml.safe_load((CONFIG / "ablations.yaml").read_text(encoding="utf-8"))
    found = read_claims(CONFIG)
    checked = 0
    for check in (check for claim in found.claims for check in claim.checks):
        file = Path(found.tables[check.table])
        for row in filter(None, (check.of, check.than)):
            if file.parts[0] == "ablations":
                entry, checked = ablations[file.parts[1]], checked + 1
                assert row["measure"] in ["score", "behind", *entry["measures"]], check.says
                assert row.get("series", "") in entry.get("series", {"": {}}), check.says
                places = entry.get("x", {})
                assert row.get("x") in [None, *places.get("values", []), *places.get("times", [])], check.says
    assert checked >= 8


def test_the_page_says_what_the_shipped_tables_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = tmp_path / "claims.md"
    written.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.chdir(ROOT)
    if Path("shipped/reduced").exists():
        assert main(["claims", "page", "shipped/reduced", "--page", str(written)]) == 0
        assert written.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")
    else:  # Nothing is claimed to be found before anything is shipped.
        said = re.findall(r"^\| `(\w+)` \| \*\*(.+?)\*\*", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
        nothing = {one.claim.name: str(one.verdict) for one in judge(read_claims(CONFIG), tmp_path)}
        assert dict(said) == nothing


@pytest.mark.parametrize("empty", [True, False])
@pytest.mark.parametrize("action", ["page", "judge"])
def test_a_folder_without_any_table_is_refused(tmp_path: Path, capsys, action: str, empty: bool) -> None:
    folder, page = tmp_path / "results", tmp_path / "claims.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    if empty:
        folder.mkdir()
    own = {"page": ["--page", str(page)], "judge": ["--out", str(tmp_path / "out")]}[action]
    assert main(["claims", action, str(folder), *own, "--config-dir", str(CONFIG)]) == 2
    assert f"{folder} has none of the tables" in capsys.readouterr().err
    assert page.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")
    assert not (tmp_path / "out").exists()


def test_the_settings_that_troubleshooting_names_exist() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| ") and line.count("|") == 5]
    named = {name for row in rows for name in re.findall(r"`(\w+)(?::[^`]*)?`", row[3])}
    known = set(agent_class("mfql").settings_type.__dataclass_fields__)
    assert len(named) >= 12
    assert named - known <= {"online", "videos"}


def test_a_page_without_the_marks_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, ABOVE | {"must": {"exceed": 5}}, rows="a,30,25,35\n")
    (tmp_path / "page.md").write_text("nothing", encoding="utf-8")
    arguments = ["claims", "page", str(tmp_path), "--page", str(tmp_path / "page.md"), "--config-dir", str(tmp_path)]
    assert main(arguments) == 2
    assert "has not both lines" in capsys.readouterr().err
    (tmp_path / "page.md").write_bytes("größer".encode("cp1252"))
    assert main(arguments) == 2
    assert "line 1: the byte 0xf6 is not of UTF-8" in capsys.readouterr().err


def test_judging_writes_a_panel_of_the_report(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "small"
    write(tmp_path, ABOVE | {"must": {"exceed": 5}})
    folder.mkdir(parents=True)
    (folder / "t.csv").write_text("name,value,low,high\na,30,25,35\nb,10,7,13\n", encoding="utf-8")
    arguments = ["claims", "judge", str(folder), "--out", str(folder / "claims")]
    assert main([*arguments, "--config-dir", str(tmp_path)]) == 0
    (panel,) = read_panels(folder)
    assert panel.section == "claims"
    assert panel.text.command == f"mfql claims judge {folder} --out {folder / 'claims'}"
    assert "a less b: 20" in panel.table.loc[0, "found"]
    rows = pd.read_csv(folder / "claims" / "data.csv")
    assert rows.loc[0, ["verdict", "outcome", "value", "must"]].tolist() == ["held", "held", 20, "difference above 5"]


def test_parity_is_a_table_of_errors_in_units_of_their_bounds(tmp_path: Path) -> None:
    out = tmp_path / "parity.csv"
    assert main(["claims", "parity", str(ROOT / "tests/data/reference.npz"), "--out", str(out)]) == 0
    row = pd.read_csv(out).iloc[0]
    assert row["fixture"] == "reference"
    assert row["arrays"] > 100
    assert 0 < row["value"] < inf


def test_an_error_that_is_no_number_is_out_of_bounds_wherever_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [Comparison("g", "a", error, 1.0) for error in (0.5, nan, 0.25)]
    monkeypatch.setattr("mfql.studies.claims.parity.load_fixture", lambda path: {})
    monkeypatch.setattr("mfql.studies.claims.parity.comparisons", lambda arrays: iter(errors))
    write(tmp_path, {"says": "a", "table": "t", "of": {"fixture": "f"}, "must": {"stay_below": 1}})
    write_parity([tmp_path / "f.npz"], tmp_path / "t.csv")
    assert judged(tmp_path).verdict is Verdict.NOT_HELD


# --- what is shipped --------------------------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A study with a policy beside each run."""
    folder = tmp_path / "results"
    files = write_quickstart(folder)
    write_scores(collect(files), folder / "quickstart" / "scores.csv")
    raw = raw_settings("flow_bc-miniature", "pointmaze-medium-navigate-singletask-task1-v0", "offline", CONFIG)
    settings = build_settings(FlowBCSettings, {key: value for key, value in raw.items() if key != "agent"}, "this test")
    agent, cpu = FlowBC(settings, (2,), 2), torch.device("cpu")
    flat = initial_state(agent, [torch.Generator().manual_seed(0)], cpu).flat
    actor = Actor(agent, flat, np.zeros(2, np.float32), np.ones(2, np.float32), cpu)
    for file in files:
        run = json.loads(file.read_text(encoding="utf-8")) | {"agent": "flow_bc", "settings": settings.as_dict()}
        described = {key: run[key] for key in ("method", "agent", "task", "seed", "stage", "identity", "settings")}
        save_policy(file.parent / "run" / "policy", actor, 0, described)
        (file.parent / "run" / "evaluation.json").write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    for panel, size in {"comparison": 10, "densities": 300_000}.items():
        place = folder / "quickstart" / "toy" / panel
        place.mkdir(parents=True)
        for name in ("panel.json", "data.csv", "figure.svg"):
            (place / name).write_bytes(b"x" * (size if name == "data.csv" else 10))
    return folder


def test_what_is_shipped_can_be_reported_and_evaluated_from(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "shipped"
    assert main(["ship", str(results / "quickstart"), "--out", str(out)]) == 0
    assert (out / "quickstart" / "scores.csv").read_text(encoding="utf-8") == (
        results / "quickstart" / "scores.csv"
    ).read_text(encoding="utf-8")
    shipped = {path.relative_to(out / "quickstart" / "toy").as_posix() for path in out.glob("quickstart/toy/*/*")}
    assert shipped == {f"comparison/{name}" for name in ("panel.json", "data.csv", "figure.svg")}
    policies = sorted(path.relative_to(out / "runs") for path in out.glob("runs/**/policy"))
    seeds = {(path.parts[0], path.parts[3]): path.parts[2] for path in policies}
    assert len(policies) == len(seeds)
    assert set(seeds.values()) == {"seed0"}
    load_policy(out / "runs" / policies[0].parent.parent)(np.zeros(2))
    again = collect(sorted(out.glob("runs/*/*/*/*/evaluation.json")))
    pd.testing.assert_frame_equal(again, collect(sorted(results.glob("runs/*/*/*/*/evaluation.json"))))


def test_shipping_again_leaves_nothing_of_the_shipment_before(results: Path, tmp_path: Path) -> None:
    out, folder = tmp_path / "shipped", results / "quickstart"
    assert main(["ship", str(folder), "--out", str(out)]) == 0
    other = write_run(out, [50.0], method="another-study")
    write_scores(collect([other]), out / "other" / "scores.csv")
    scores = pd.read_csv(folder / "scores.csv")
    gone = scores[scores["seed"] == 0]["run"].drop_duplicates()
    scores[scores["seed"] != 0].to_csv(folder / "scores.csv", index=False)
    (folder / "toy" / "comparison").rename(folder / "toy" / "compared")
    assert main(["ship", str(folder), "--out", str(out)]) == 0
    assert sorted(path.name for path in (out / "quickstart" / "toy").iterdir()) == ["compared"]
    assert len(gone) > 1
    assert not any((out / run).exists() for run in gone)
    seeds = {path.parts[-4] for path in out.glob("runs/**/policy")}
    assert seeds == {"seed1"}
    assert other.is_file()
    assert sorted(path.name for path in out.iterdir()) == ["other", "quickstart", "runs"]


@pytest.mark.parametrize("row", ["../elsewhere", "runs/../../elsewhere/t/seed0/offline", "{tmp_path}/elsewhere"])
def test_shipping_touches_nothing_outside_whatever_a_table_says(row, results, tmp_path, capsys) -> None:
    """Not what an earlier shipment's table names, nor what this one's does, nor what lies behind a link."""
    out, folder = tmp_path / "shipped", results / "quickstart"
    elsewhere = tmp_path / "elsewhere" / "t" / "seed0" / "offline"
    elsewhere.mkdir(parents=True)
    (elsewhere / "evaluation.json").touch()
    assert main(["ship", str(folder), "--out", str(out)]) == 0
    for scores in (out / "quickstart" / "scores.csv", folder / "scores.csv"):
        table = pd.read_csv(scores)
        table.loc[table["seed"] == 0, "run"] = row.format(tmp_path=tmp_path)
        table.to_csv(scores, index=False)
        before = sorted(path for path in tmp_path.rglob("*") if not path.is_relative_to(out))
        expected = 0 if scores.is_relative_to(out) else 2
        assert main(["ship", str(folder), "--out", str(out)]) == expected
        assert sorted(path for path in tmp_path.rglob("*") if not path.is_relative_to(out)) == before
    assert "which is none: runs/METHOD/TASK/seedN/STAGE" in capsys.readouterr().err


def test_a_record_of_a_shipment_removes_nothing_outside_and_nothing_changed(results, tmp_path, capsys) -> None:
    out, folder = tmp_path / "shipped", results / "quickstart"
    (outside := tmp_path / "outside.csv").write_text("mine", encoding="utf-8")
    assert main(["ship", str(folder), "--out", str(out)]) == 0
    record = out / "quickstart" / "shipped.json"
    files = read_json(record)["files"]
    (out / "linked").symlink_to(tmp_path)
    digest = sha256(outside)
    write_json(record, {"files": files | {"../outside.csv": digest, "linked/outside.csv": digest}})
    (notes := out / "quickstart" / "notes.md").write_text("mine", encoding="utf-8")
    changed = out / "quickstart" / "toy" / "comparison" / "data.csv"
    changed.write_text("mine", encoding="utf-8")
    shutil.rmtree(folder / "toy" / "comparison")
    assert main(["ship", str(folder), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert outside.read_text(encoding="utf-8") == notes.read_text(encoding="utf-8") == "mine"
    assert sorted(path.name for path in changed.parent.iterdir()) == ["data.csv"]
    for path in (out / "../outside.csv", out / "linked/outside.csv", notes, changed):
        assert f"left: {path}: not what a shipment copied" in said


def test_what_is_shipped_is_called_as_its_folder_however_that_is_given(results, tmp_path, monkeypatch) -> None:
    """`mfql ship .` would replace the folder of all shipments, and `..` the one above it."""
    out = tmp_path / "shipped"
    (out / "other").mkdir(parents=True)
    (out / "other" / "scores.md").touch()
    for place, given in (("quickstart", "."), ("quickstart/toy", "..")):
        monkeypatch.chdir(results / place)
        assert main(["ship", given, "--out", str(out)]) == 0
        assert sorted(path.name for path in out.iterdir()) == ["other", "quickstart", "runs"]
        assert (out / "other" / "scores.md").exists()


def test_nothing_is_shipped_through_a_link(results, tmp_path, capsys) -> None:
    out, elsewhere = tmp_path / "shipped", tmp_path / "elsewhere"
    out.mkdir()
    (elsewhere / "mfql").mkdir(parents=True)
    (out / "runs").symlink_to(elsewhere)
    assert main(["ship", str(results / "quickstart"), "--out", str(out)]) == 2
    assert f"{out / 'runs'} is a link" in capsys.readouterr().err
    assert [path.name for path in elsewhere.rglob("*")] == ["mfql"]


def test_a_table_in_another_encoding_is_not_shipped(results, tmp_path, capsys) -> None:
    (results / "quickstart" / "claims").mkdir(exist_ok=True)
    (results / "quickstart" / "claims" / "table.md").write_bytes(b"| caf\xe9 |\n")
    assert main(["ship", str(results / "quickstart"), "--out", str(tmp_path / "shipped")]) == 2
    assert "table.md is no text in UTF-8" in capsys.readouterr().err
    assert not list((tmp_path / "shipped").rglob("*.*"))


def test_an_ablations_runs_are_shipped_with_its_panel(results: Path, tmp_path: Path) -> None:
    out, point = tmp_path / "shipped", {"method": "mfql+alpha=3", "task": "t"}
    plan = dict.fromkeys(("title", "asks", "shows", "command"), "") | {"x": None, "measures": []}
    for name, seed in (("drawn", 0), ("begun", 1)):
        points = [{**point, "series": "", "x": None, "seeds": [seed]}]
        whole = plan | {"cost": False, "proxy": False, "points": points}
        write_json(results / f"quickstart/ablations/{name}/plan.json", whole)
        run = write_run(results, [50.0], seed=seed, **point)
        (run.parent / "run" / "evaluation.json").write_text(run.read_text(encoding="utf-8"), encoding="utf-8")
    (results / "quickstart/ablations/drawn/panel.json").touch()
    assert main(["ship", str(results / "quickstart"), "--out", str(out)]) == 0
    shipped = {path.relative_to(out).as_posix() for path in out.glob("runs/mfql+*/**/*") if path.is_file()}
    run = "runs/mfql+alpha=3/t/seed0/offline"
    assert shipped == {f"{run}/{name}" for name in ("evaluation.json", "run/evaluation.json", "run/manifest.json")}


@pytest.fixture
def telling(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The study with what tells of its machine in each kind of file, by names that can be looked for."""
    monkeypatch.setenv("HOME", str(tmp_path / "home of" / "tellinguser"))
    home, study = Path.home(), results / "quickstart"
    panel, text = study / "claims" / "method", f"from {home}/study.yaml, {home}, /srv/telling-disk/study/x.csv"
    write_panel(panel, None, pd.DataFrame({"x": [1]}), Text("Ours", "Which?", text, f"snakemake --file={home}/a.yaml"))
    told = {"figure.svg": f"<svg><!-- {text} --></svg>", "figure.png": "png", "table.md": f"| {text} |\n"}
    for name, content in (told | {"table.csv": f"x\n{home}/y\n"}).items():
        (panel / name).write_text(content, encoding="utf-8")
    for place in results.glob("runs/**/manifest.json"):
        found = json.loads(place.read_text(encoding="utf-8"))
        found["hardware"]["host"] = "tellinghost.lab"
        session = {"started": "2026-11-22T18:41:04+0000", "from_step": 0}
        found["sessions"] = [session | {"host": host} for host in ("tellinghost.lab", "telling2")]
        found["image"] = {"file": f"{home}/m.sif"}
        write_json(place, found)
    return results


def report_on(results: Path, page: Path) -> str:
    study = results / "quickstart"
    made = ["--scores", study / "scores.csv", "--aggregates", study / "aggregate", "--results", results]
    assert main(["report", *map(str, [*made, "--panels", study / "claims", "--out", page])]) == 0
    return page.read_text(encoding="utf-8")


@pytest.mark.usefixtures("few_repetitions")
def test_what_is_shipped_and_reported_names_neither_host_nor_folder(
    telling: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, study, hosts = tmp_path / "shipped", telling / "quickstart", set()
    assert main(["aggregate", str(study / "scores.csv"), "--out", str(study / "aggregate")]) == 0
    assert main(["ship", str(study), "--out", str(out)]) == 0
    assert main(["ship", str(out / "quickstart"), "--out", str(tmp_path / "again")]) == 0
    for path in out.glob("runs/**/manifest.json"):
        given, own = (json.loads((top / path.relative_to(out)).read_text(encoding="utf-8")) for top in (out, telling))
        assert given["hardware"]["host"] == given["sessions"][0]["host"] != given["sessions"][1]["host"]
        assert {key for key in own if given[key] != own[key]} == {"hardware", "sessions", "image"}
        assert (tmp_path / "again" / path.relative_to(out)).read_bytes() == path.read_bytes()
        hosts.add(given["hardware"]["host"])
    (host,) = hosts
    # What is vouched for, and what tells nothing, is the same byte for byte.
    same = [*out.glob("runs/**/policy/*"), *out.glob("runs/**/evaluation.json"), out / "quickstart" / "scores.csv"]
    assert all(path.read_bytes() == (telling / path.relative_to(out)).read_bytes() for path in same)
    for results in (out, telling):
        said = report_on(results, tmp_path / "pages" / results.name / "report.html")
        assert host in said
        assert "snakemake --file=~/a.yaml" in said
    for path in (*out.rglob("*"), *(tmp_path / "pages").rglob("*")):
        assert b"telling" not in (path.read_bytes() if path.is_file() else path.name.encode()), path
    # From outside of a home, ../home/NAME/... names it, too.
    monkeypatch.setenv("HOME", str(tmp_path))
    with TemporaryDirectory() as elsewhere:
        said = report_on(telling, Path(elsewhere) / "report.html")
        assert link(study / "verdict.csv", Path(elsewhere)) == NOWHERE
    assert link(study / "verdict.csv", study / "aggregate") == "../verdict.csv"
    assert tmp_path.name not in said
    assert NOWHERE not in said
    assert "tasks.csv" in said


def test_who_has_no_home_can_ship_and_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a number in a container that no list of users has."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    assert without_places("see /home/mine/data/a.npz, 1/2") == "see a.npz, 1/2"
    assert link(Path("/srv/results/a.csv"), Path("/srv/results/page")) == "../a.csv"


def test_a_run_whose_identity_names_a_folder_is_not_shipped(
    telling: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in telling.glob("runs/**/manifest.json"):
        write_json(path, json.loads(path.read_text(encoding="utf-8")) | {"agent": f"{Path.home()}/agent.py"})
    assert main(["ship", str(telling / "quickstart"), "--out", str(tmp_path / "out")]) == 2
    assert "names a folder of this machine in its agent" in capsys.readouterr().err
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_results_are_not_shipped_into_themselves(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(results.rglob("*"))
    assert main(["ship", str(results / "quickstart"), "--out", str(results)]) == 2
    assert "holds the results themselves" in capsys.readouterr().err
    assert sorted(results.rglob("*")) == before


def test_shipping_what_is_not_finished_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ship", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert "scores.csv" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_pipe_in_a_files_place_is_not_shipped_and_called_what_it_is(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = next(results.glob("runs/*/*/seed0/offline/run/manifest.json"))
    manifest.unlink()
    os.mkfifo(manifest)
    assert main(["ship", str(results / "quickstart"), "--out", str(tmp_path / "out")]) == 2
    assert "manifest.json: it is a named pipe, no file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
