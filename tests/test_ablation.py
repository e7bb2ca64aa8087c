"""Ablations: what `config/ablations.yaml` makes, from its points to trained runs, figures and the plan."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from mfql.agents.interface import load_agent
from mfql.cli import main
from mfql.documents import write_json
from mfql.errors import UserError
from mfql.experiment.ablation import find_ablation, plan_of, points_of, read_ablations
from mfql.experiment.configuration import read_configuration
from mfql.extensions import extend
from mfql.methods import raw_settings
from mfql.settings import build_settings
from mfql.studies.ablation.measure import Runs, by_point, read_plan
from mfql.training.distance import DataDistance
from mfql.training.memory import Memory
from tests.support.ablations import drawn, miniature
from tests.support.fake_results import write_run
from tests.support.project import clone, jobs
from tests.support.training_runs import ROOT, Workplace

CONFIG = ROOT / "config"
NAMES = list(read_ablations(CONFIG))
TASKS = [f"pointmaze-medium-navigate-singletask-task{number}-v0" for number in (1, 2, 3)]
SECTION = {"method": "mfql-miniature", "tasks": {"one": TASKS[:1], "several": TASKS, "pixels": []}}


# --- what is trained --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["config/config.yaml", "config/quickstart.yaml"])
def test_every_point_of_every_configuration_is_a_possible_method(file: str):
    section = read_configuration(ROOT / file, CONFIG)["ablations"]
    found = {(point.method, point.task) for name in NAMES for point in points_of(name, section, CONFIG)}
    for method, task in found:
        raw = raw_settings(method, task, "offline", CONFIG)
        build_settings(load_agent(raw.pop("agent")).settings_type, raw, method)
    assert len(found) > 200


@pytest.fixture
def entry(tmp_path: Path) -> Callable[..., list]:
    """Makes the points of an ablation `mine` with these entries."""
    shutil.copytree(CONFIG, tmp_path / "config")

    def points(section: dict | None = None, **keys):
        whole = {"title": "t", "asks": "a", "shows": "s", "tasks": ["one"], **keys}
        (tmp_path / "config" / "ablations.yaml").write_text(
            yaml.safe_dump({"mine": whole}, sort_keys=False), encoding="utf-8"
        )
        return points_of("mine", section or SECTION, tmp_path / "config")

    return points


def test_a_point_is_the_base_method_with_its_settings_and_the_base_itself_where_it_has_them(entry):
    found = entry(
        x={"key": "alpha", "times": [0.1, 1, 10], "label": "alpha"},
        series={"on": {"adaptive_alpha": True}, "off": {"adaptive_alpha": False}},
    )
    assert [(point.series, point.x, point.method) for point in found] == [
        ("on", 0.1, "mfql-miniature+alpha=0.1"),
        ("on", 1, "mfql-miniature"),
        ("on", 10, "mfql-miniature+alpha=10"),
        ("off", 0.1, "mfql-miniature+adaptive_alpha=false+alpha=0.1"),
        ("off", 1, "mfql-miniature+adaptive_alpha=false"),
        ("off", 10, "mfql-miniature+adaptive_alpha=false+alpha=10"),
    ]


def test_a_points_name_has_null_where_its_setting_is(entry):
    section = {"method": "calql", "tasks": {"one": ["scene-play-singletask-task2-v0"]}}
    (point,) = entry(section, series={"gap": {"cql_alpha": None, "target_gap_beta": 1.0}})
    assert point.method == "calql+cql_alpha=null+target_gap_beta=1"


def test_multiples_are_of_the_tasks_own_value_and_whole_where_it_is(entry):
    tasks = ["scene-play-singletask-task2-v0", "humanoidmaze-medium-navigate-singletask-task1-v0"]
    section = {"method": "mfql+alpha_interval=25", "tasks": {"one": tasks}}
    found = entry(
        section,
        series={
            "a": {"alpha": {"times": 3}},
            "b": {"alpha_interval": {"times": 0.1}},
            "c": {"acting_candidates": {"times": 2, "of": "num_candidates"}},
        },
    )
    assert [point.method for point in found] == [
        "mfql+alpha_interval=25+alpha=300", "mfql+alpha_interval=2", "mfql+alpha_interval=25+acting_candidates=10",
        "mfql+alpha_interval=25+alpha=450", "mfql+alpha_interval=2", "mfql+alpha_interval=25+acting_candidates=10",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"series": {"a": {"alhpa": 3}}}, "alhpa"),
        ({"series": {"a": {"q_agg": {"times": 3}}}}, "q_agg is 'mean', of which there are no multiples"),
        ({"tasks": ["many"], "series": {"a": {}}}, "many"),
        ({"series": {"a": {"alpha": {"times": 3, "of": "alhpa"}}}}, "alhpa"),
        ({"seris": {"a": {}}}, "seris"),
    ],
)
def test_faulty_entries_are_named(entry, keys: dict, named: str):
    with pytest.raises(UserError, match=named):
        entry(**keys)


OWN = """
depth:
  title: The number of blocks
  asks: How deep must the policy be?
  shows: Score over blocks.
  tasks: [one]
  x: {key: policy_blocks, values: [1, 3], label: blocks}
"""


@pytest.fixture
def extended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of ablations of an extension that has nothing else."""
    file = tmp_path / "ablations.yaml"
    file.write_text(OWN, encoding="utf-8")
    monkeypatch.setenv("MFQL_EXTENSIONS", "")  # It is what it was after the test.
    extend([tmp_path])
    return file


def test_an_extension_has_ablations_of_its_own(extended: Path) -> None:
    assert list(read_ablations(CONFIG)) == [*NAMES, "depth"]
    section = {"method": "mfql", "tasks": {"one": ["cube-single-play-singletask-task2-v0"]}}
    assert [point.method for point in points_of("depth", section, CONFIG)] == ["mfql+policy_blocks=1", "mfql"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (
            OWN.replace("depth", "alpha"),
            r"config/ablations.yaml and \S+ablations.yaml both have an ablation alpha\n  Rename",
        ),
        (OWN.replace("asks", "asked"), r"unknown key 'asked' in \S+ablations.yaml: depth\n"),
        ("", "ablations.yaml"),
    ],
)
def test_a_faulty_file_of_an_extensions_ablations_is_named(extended: Path, text: str, named: str) -> None:
    extended.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=named):
        read_ablations(CONFIG)


def test_an_unknown_ablation_is_named_with_the_nearest():
    with pytest.raises(UserError, match="Did you mean candidates"):
        find_ablation("candidate", CONFIG)


# --- what is measured -------------------------------------------------------------------------------------------------


def test_distances_are_to_the_rows_action_and_to_the_nearest_action_of_similar_states():
    """Of 40 rows the first half is at 0 and acts 0 or 1, the second is at 100 and acts 5."""
    at = np.repeat([0.0, 100.0], 20)[:, None]
    actions = np.concatenate([np.tile([0.0, 1.0], 10), np.full(20, 5.0)])[:, None]
    rows = {"observations": at, "actions": actions, "rewards": np.zeros(40)}
    distance = DataDistance(Memory(rows, 2, 0, None, torch.device("cpu")))
    batch = {"observations": torch.tensor([[[0.0], [100.0]]] * 2), "actions": torch.tensor([[[0.0], [5.0]]] * 2)}
    found = distance(batch, torch.tensor([[[1.25], [5.0]], [[5.0], [1.0]]]))
    assert found["row_distance"].tolist() == [0.625, 4.5]
    assert found["neighbour_distance"].tolist() == [0.125, 4.0]


# --- what is drawn ----------------------------------------------------------------------------------------------------


def write_results(folder: Path, plan: dict, scores: Callable[[dict, int], float], flow: Callable[[dict, int], float]):
    """Finished runs with these scores, whose flow loss falls while the distance from the data rises."""
    for point in plan["points"]:
        for seed in point["seeds"]:
            score = scores(point, seed)
            file = write_run(folder, [score] * 3, point["method"], point["task"], seed)
            rows = [
                (step, f"diagnostics/{name}", value)
                for step, (loss, distance) in enumerate([(3.0, 0.1), (2.0, 0.2), (flow(point, seed), 0.3 + 0.1 * seed)])
                for name, value in (("flow_loss", loss), ("neighbour_distance", distance), ("alpha_moves", 2.0))
            ]
            log = pd.DataFrame(rows, columns=["step", "metric", "value"])
            log.to_csv(file.parent / "run" / "metrics.csv", index=False)


def test_numbers_of_the_table_are_those_of_the_runs(tmp_path: Path):
    plan = plan_of("adaptive_alpha", miniature(seeds=[0, 1]), CONFIG)
    best = {TASKS[0]: "off", TASKS[1]: "window 5", TASKS[2]: "off"}

    def score(point: dict, seed: int) -> float:
        return 40.0 + 20.0 * (best[point["task"]] == point["series"]) + 2.0 * seed

    write_results(tmp_path, plan, score, lambda point, seed: 1.0 + seed / 2)
    write_json(tmp_path / "plan.json", plan)
    draw = ["ablation", "draw", str(tmp_path / "plan.json"), "--results", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(draw) == 0
    data = pd.read_csv(tmp_path / "out" / "data.csv", keep_default_na=False).set_index(["series", "task", "measure"])
    assert float(data.loc[("off", TASKS[0], "score"), "value"]) == 61.0
    assert float(data.loc[("off", "mean of 3 tasks", "score"), "value"]) == pytest.approx((61 + 41 + 61) / 3)
    assert float(data.loc[("off", "mean of 3 tasks", "behind"), "value"]) == pytest.approx(20 / 3)
    assert float(data.loc[("as published", "mean of 3 tasks", "behind"), "value"]) == pytest.approx(20)
    assert float(data.loc[("off", TASKS[0], "flow_loss"), "value"]) == 1.25
    assert data.loc[("off", TASKS[0], "flow_loss"), "by_seed"] == "0:1 1:1.5"
    table = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert "mean of 3 tasks" in table
    assert (
        json.loads((tmp_path / "out" / "panel.json").read_text(encoding="utf-8"))["command"]
        == "snakemake ablation_adaptive_alpha"
    )
    proxy = pd.read_csv(tmp_path / "out" / "proxy" / "data.csv")
    # The loss falls, the distance rises; settings that change nothing that is measured are one run of a seed.
    assert proxy["over_training"].tolist() == [-1.0] * len(TASKS) * 2
    correlations = pd.read_csv(tmp_path / "out" / "proxy" / "table.csv")
    assert set(zip(correlations["over"], correlations["rank correlation"].astype(str), strict=True)) == {
        ("runs", "1.00"),
        ("training", "-1.00 [-1.00, -1.00]"),
    }


def test_returns_are_not_averaged_over_tasks(tmp_path: Path):
    plan = plan_of("adaptive_alpha", miniature(seeds=[0, 1]), CONFIG)
    for point in plan["points"]:
        for seed in point["seeds"]:
            write_run(tmp_path, [50.0 + seed] * 3, point["method"], point["task"], seed, metric="return")
    table = by_point(Runs(plan | {"measures": []}, tmp_path), {})
    assert set(table["unit"]) == {"return"}
    assert set(table["task"]) == set(TASKS)


def test_an_unfinished_run_is_named_and_nothing_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    plan = plan_of("bound_loss", miniature(seeds=[0, 1]), CONFIG)
    write_results(tmp_path, plan, lambda point, seed: 50.0, lambda point, seed: 1.0)
    shutil.rmtree(tmp_path / "runs" / "mfql-miniature+bound_loss=false" / TASKS[0] / "seed1")
    write_json(tmp_path / "plan.json", plan)
    draw = ["ablation", "draw", str(tmp_path / "plan.json"), "--results", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(draw) == 2
    assert "bound_loss=false" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_ablations_are_trained_and_drawn_with_their_cost(finished_runs: Workplace, tmp_path: Path):
    """One over an axis and one side by side; the others are trained by `make check-science`."""
    place = Workplace(tmp_path)
    for name in ("data", "config"):
        shutil.copytree(finished_runs.folder / name, place.folder / name)
    entries = yaml.safe_load((place.folder / "config" / "ablations.yaml").read_text(encoding="utf-8"))
    entries["balance"]["x"]["times"] = [1, 10]
    entries["balance"]["series"] = {name: entries["balance"]["series"][name] for name in ("UPGrad", "equal norms")}
    (place.folder / "config" / "ablations.yaml").write_text(yaml.safe_dump(entries), encoding="utf-8")
    for name, measures in (
        (
            "balance",
            {"score", "flow_loss", "neighbour_distance", "training/conflict", "training/weight_share", "update_ms"},
        ),
        ("bound_loss", {"score", "out_of_bounds", "q_raw_minus_clipped"}),
    ):
        folder = drawn(place, name)
        data = pd.read_csv(folder / "data.csv")
        assert set(data["measure"]) == measures
        assert data.groupby("measure")["value"].count().nunique() == 1
        assert data["value"].notna().all()
        assert {path.name for path in folder.iterdir()} >= {"figure.svg", "figure.png", "table.tex", "panel.json"}
    assert (data.loc[data["measure"] == "score", "seeds"] == 2).all()


# --- the workflow and its plan ----------------------------------------------------------------------------------------


def test_the_list_and_the_plan_count_an_ablations_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(clone(tmp_path / "mfql").folder)
    configfile = ["--configfile", "tests/miniature.yaml"]
    assert main(["ablation", "list", *configfile]) == 0
    listed = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines())
    assert set(listed) == set(NAMES)
    plan = ["plan", "ablation_protocol", *configfile, "--gpus", "1"]
    assert main(plan) == 0
    printed = capsys.readouterr().out
    assert f"ablation_protocol: {listed['protocol']} runs" in printed
    # Eight points on three tasks, a job each; the list and the figure.
    assert "offline             24  96 runs: 96 new" in printed
    assert "report               2" in printed
    assert main([*plan[:2], "ablation_protocol", *plan[2:]]) == 0
    assert "report               2" in capsys.readouterr().out  # asked for twice, made once


@pytest.mark.slow
def test_a_panels_command_has_the_configuration_that_was_given(tmp_path: Path):
    project, plan = clone(tmp_path / "mfql"), "results/mine/ablations/alpha/plan.json"
    own = (
        (project.folder / "tests" / "miniature.yaml")
        .read_text(encoding="utf-8")
        .replace("name: miniature", "name: mine")
    )
    (project.folder / "study.yaml").write_text(own, encoding="utf-8")
    project.snakemake(plan, "--configfile", "study.yaml")
    command = json.loads((project.folder / plan).read_text(encoding="utf-8"))["command"]
    assert command == "snakemake ablation_alpha --configfile study.yaml"


@pytest.mark.slow
def test_the_workflow_trains_what_the_plan_counts(tmp_path: Path):
    printed = clone(tmp_path / "mfql").miniature("-n", "-p", "ablation_initialisation", "ablation_alpha")
    counts = jobs(printed)
    # Two points of one, twelve of the other; the base method's own runs serve both.
    assert (counts["train_offline_0_3"], counts["plan_ablation"]) == (13, 2)
    assert "mfql ablation draw results/miniature/ablations/alpha/plan.json --results results" in printed
    assert "--out results/miniature/ablations/alpha " in printed


SHIPPED = sorted((ROOT / "shipped").glob("*/ablations/*/plan.json"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parent.name)
def test_a_shipped_plan_is_one(path: Path) -> None:
    assert read_plan(path)["points"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"method": ["m"]}, r"points\[0\]\.method"),
        ({"task": "../elsewhere"}, r"points\[0\]\.task"),
        ({"seeds": "01"}, r"points\[0\]\.seeds"),
        ({"x": {}}, r"points\[0\]\.x"),
    ],
)
def test_a_plan_with_another_point_is_refused_by_the_entry(tmp_path: Path, changed: dict, said: str) -> None:
    plan = json.loads(SHIPPED[0].read_text(encoding="utf-8"))
    plan["points"][0] |= changed
    (tmp_path / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    with pytest.raises(UserError, match=rf"plan\.json is no plan of an ablation: \$\.{said}"):
        read_plan(tmp_path / "plan.json")
