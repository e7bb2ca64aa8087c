"""Tuning: which runs it trains, what it chooses from them, and how a choice becomes settings."""

from __future__ import annotations

import csv
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mfql.cli import main
from mfql.documents import read_json, write_json
from mfql.errors import UserError
from mfql.experiment.configuration import check_configuration, read_configuration
from mfql.experiment.tuning import COLUMNS, carried_to, points_of, tuning_runs, tuning_task
from mfql.methods import method_name, settings_hash
from mfql.report.published import COLUMNS as PUBLISHED_COLUMNS
from mfql.report.scores import collect, read_scores, write_scores
from mfql.report.tasks import by_task
from mfql.studies.tuning.choose import choose, write_proposal
from mfql.studies.tuning.freeze import freeze
from mfql.tasks import load_tasks
from tests.support.fake_results import write_run
from tests.support.project import NOTHING_TO_DO, clone

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "config"
SCENE = "scene-play-singletask-task2-v0"
SCENES = [f"scene-play-singletask-task{number}-v0" for number in range(1, 6)]
GRID = {"alpha": [10, 100, 1000], "num_candidates": [5], "time_steps": [50]}
BASE = {"offline_steps": 200_000, "discount": 0.995}


def table(config: Path = CONFIG) -> dict[str, dict[str, str]]:
    with open(config / "tasks.csv", encoding="utf-8", newline="") as file:
        return {row["task"]: row for row in csv.DictReader(file)}


def open_tasks(config: Path = CONFIG) -> list[str]:
    return [name for name, row in table(config).items() if row["settings_source"].startswith("untuned")]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A copy of the configuration, whose task table may change."""
    shutil.copytree(CONFIG, tmp_path / "config")
    return tmp_path / "config"


# --- what is trained --------------------------------------------------------------------------------------------------


def test_a_task_is_tuned_on_the_default_of_its_environment() -> None:
    tasks = load_tasks(CONFIG / "tasks.csv")
    for dataset, number in (("antmaze-large-navigate", 1), ("antsoccer-arena-navigate", 4), ("scene-play", 2)):
        name = f"{dataset}-singletask-task{{}}-v0".format
        assert {tuning_task(name(other), tasks) for other in range(1, 6)} == {name(number)}


def test_a_task_without_its_environments_default_is_tuned_on_itself() -> None:
    tasks = load_tasks(CONFIG / "tasks.csv")
    assert tuning_task("pen-human-v1", tasks) == "pen-human-v1"
    pixels = [name for name in tasks if name.startswith("visual-")]
    assert all(tuning_task(name, tasks) == name for name in pixels)


def test_the_default_configuration_tunes_every_task_of_the_paper_without_settings() -> None:
    document = yaml.safe_load((CONFIG / "config.yaml").read_text(encoding="utf-8"))
    runs = tuning_runs(document["tuning"], CONFIG)
    tasks = load_tasks(CONFIG / "tasks.csv")
    reached = {taker for task in runs for taker in carried_to(task, tasks)}
    assert reached == {name for name in open_tasks() if not name.startswith("pointmaze")}
    published = ["cube-double-play-singletask-task2-v0", "humanoidmaze-medium-navigate-singletask-task1-v0"]
    expected = dict.fromkeys(runs, 7) | dict.fromkeys(
        published, 8
    )  # Their published alpha is none of the grid's seven.
    assert {task: len(methods) for task, methods in runs.items()} == expected
    assert not set(document["tuning"]["seeds"]) & set(document["seeds"])


@pytest.mark.parametrize(("tuned_on", "reported"), [([99], [0]), ([100], [0, 100]), (["99"], [0]), ([100], ["100"])])
def test_no_configuration_may_tune_on_seeds_that_it_reports(tuned_on: list[Any], reported: list[Any]) -> None:
    document = read_configuration(None, CONFIG)
    changed = document | {"seeds": reported, "tuning": document["tuning"] | {"seeds": tuned_on}}
    with pytest.raises(UserError, match=r"seeds: entry \d: \d+ is (above 99|below 100)"):
        check_configuration(changed, [], CONFIG)


def test_a_published_cell_is_not_searched_and_published_settings_are_a_point() -> None:
    tasks = load_tasks(CONFIG / "tasks.csv")
    grid = {"alpha": [10, 100], "num_candidates": [5, 10], "time_steps": [50]}
    giant = points_of("antmaze-giant-navigate-singletask-task1-v0", grid, tasks)
    assert {point["num_candidates"] for point in giant} == {1}
    assert len(giant) == 2
    cube = points_of("cube-double-play-singletask-task2-v0", grid, tasks)
    assert cube[:-1] == [dict(zip(COLUMNS, values, strict=True)) for values in product([10, 100], [5, 10], [50])]
    assert cube[-1] == {"alpha": 120, "num_candidates": 5, "time_steps": 50}
    assert "cube-double-play-singletask-task2-v0" not in carried_to("cube-double-play-singletask-task2-v0", tasks)


def test_tasks_with_published_settings_are_not_tuned() -> None:
    section = {"method": "mfql", "grid": GRID, "seeds": [100], "tasks": ["pen-cloned-v1", "antmaze-umaze-v2"]}
    assert tuning_runs(section, CONFIG) == {}


# --- what is chosen ---------------------------------------------------------------------------------------------------


class Grid:
    """Finished runs of a grid, with the scores given."""

    def __init__(self, folder: Path) -> None:
        self.results = folder / "results"
        self.files: list[Path] = []

    def add(self, scores: list[float], task: str = SCENE, seed: int = 100, **options: Any) -> Path:
        """A point's runs: one a score, for consecutive seeds; options that are columns set the point."""
        point = {key: options.pop(key, {"alpha": 100, "num_candidates": 5, "time_steps": 50}[key]) for key in COLUMNS}
        method = method_name(options.pop("method", "mfql-tuning"), point)
        given = {"settings": BASE | point} | options
        for number, score in enumerate(scores):
            evaluations = score if isinstance(score, list) else [0.0, score, score, score]
            self.files.append(
                write_run(self.results, evaluations, method=method, task=task, seed=seed + number, **given)
            )
        return self.files[-1]

    def choose(self, task: str = SCENE) -> dict[str, Any]:
        return choose(self.files, CONFIG)[task]


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    return Grid(tmp_path)


def test_the_highest_mean_is_chosen_and_told_apart(grid: Grid) -> None:
    grid.add([20.0, 22.0, 21.0], alpha=10)
    grid.add([90.0, 92.0, 91.0], alpha=100)
    grid.add([50.0, 52.0, 51.0], alpha=1000)
    entry = grid.choose()
    assert entry["chosen"] == {"alpha": 100, "num_candidates": 5, "time_steps": 50}
    assert (entry["certainty"], entry["remarks"]) == ("clear", [])
    assert [(point["alpha"], point["score"], point["behind"]) for point in entry["points"]] == [
        (100, 91.0, 0.0),
        (1000, 51.0, 40.0),
        (10, 21.0, 70.0),
    ]
    assert entry["carried_to"] == SCENES
    assert (entry["method"], entry["steps"], entry["seeds"]) == ("mfql-tuning", 200_000, [100, 101, 102])
    assert entry["points"][0]["by_seed"] == {100: 90.0, 101: 92.0, 102: 91.0}


def test_a_choice_within_noise_says_so(grid: Grid) -> None:
    grid.add([20.0, 80.0], alpha=10)
    grid.add([30.0, 90.0], alpha=100)
    grid.add([0.0, 0.0], alpha=1000)
    entry = grid.choose()
    assert (entry["chosen"]["alpha"], entry["certainty"]) == (100, "within noise")
    assert "2 of the 2 other points are not told apart from the best" in entry["remarks"]


def test_a_single_seed_tells_nothing_apart(grid: Grid) -> None:
    grid.add([0.0], alpha=10)
    grid.add([100.0], alpha=100)
    entry = grid.choose()
    assert (entry["certainty"], entry["points"][0]["interval"]) == ("within noise", [None, None])
    assert "a single seed tells nothing apart" in entry["remarks"]


def test_of_equal_means_the_surer_then_the_more_conservative_is_chosen(grid: Grid) -> None:
    grid.add([20.0, 80.0], alpha=1000)
    grid.add([50.0, 50.0], alpha=10, num_candidates=5)
    grid.add([50.0, 50.0], alpha=100, num_candidates=10)
    grid.add([50.0, 50.0], alpha=100, num_candidates=5, time_steps=100)
    grid.add([50.0, 50.0], alpha=100, num_candidates=5, time_steps=50)
    entry = grid.choose()
    ranked = [(point["alpha"], point["num_candidates"], point["time_steps"]) for point in entry["points"]]
    assert ranked == [(100, 5, 50), (100, 5, 100), (100, 10, 50), (10, 5, 50), (1000, 5, 50)]


def test_nothing_is_chosen_where_nothing_was_learnt(grid: Grid) -> None:
    grid.add([0.0, 0.0], alpha=10)
    grid.add([0.0, 0.0], alpha=100)
    entry = grid.choose()
    assert (entry["chosen"], entry["certainty"]) == (None, "nothing learnt")


def test_a_diverged_run_scores_0_and_is_named(grid: Grid) -> None:
    grid.add([90.0, 90.0], alpha=100, diverged_at=5000)
    grid.add([10.0, 12.0], alpha=10, diverged_at=None)
    entry = grid.choose()
    assert (entry["chosen"]["alpha"], [point["diverged"] for point in entry["points"]]) == (10, [0, 2])
    assert entry["points"][1]["score"] == 0.0


def test_the_score_is_of_the_last_three_evaluations_for_normalised_returns_too(grid: Grid) -> None:
    returns = [[-5.0, 10.0, 20.0, 60.0], [-5.0, 20.0, 30.0, 40.0]]
    grid.add(returns, task="pen-human-v1", metric="normalized_return")
    grid.add([[9.0, 9.0, 9.0], [9.0, 9.0, 9.0]], task="pen-human-v1", metric="normalized_return", alpha=10)
    entry = grid.choose("pen-human-v1")
    assert entry["points"][0]["by_seed"] == {100: 30.0, 101: 30.0}
    assert (entry["carried_to"], entry["metric"]) == (["pen-human-v1"], "normalized_return")


def test_estimates_are_told_apart_by_their_own_intervals_as_in_the_report(grid: Grid) -> None:
    """Seeds that agree do not make an estimate surer: fake ones reach 5 below and 3 above."""
    points = {10: [-50.0, -50.1, -50.2], 100: [-40.0, -40.1, -40.2], 1000: [-44.0, -44.1, -44.2]}
    for alpha, values in points.items():
        grid.add([[value] for value in values], metric="fqe_return", alpha=alpha)
    entry = grid.choose()
    assert (entry["chosen"]["alpha"], entry["certainty"]) == (100, "within noise")
    assert entry["remarks"][0] == "1 of the 2 other points are not told apart from the best"
    # Newcombe's reaches of a difference: down by the best's 5 and the other's 3, up by 3 and 5.
    reach = np.hypot(5.0, 3.0)
    behind = [(point["alpha"], point["behind_interval"]) for point in entry["points"][1:]]
    assert behind == [
        (1000, pytest.approx([4 - reach, 4 + reach], abs=0.01)),
        (10, pytest.approx([10 - reach, 10 + reach], abs=0.01)),
    ]
    write_scores(collect(grid.files), path := grid.results / "scores.csv")
    reported = {row["method"]: row for _, row in by_task(read_scores(path)).iterrows()}
    for point in entry["points"]:
        row = reported[method_name("mfql-tuning", {key: point[key] for key in COLUMNS})]
        assert point["interval"] == pytest.approx([row["low"], row["high"]], abs=0.01)


def test_a_diverged_run_has_no_interval_of_an_estimate(grid: Grid) -> None:
    grid.add([[-40.0], [-41.0]], metric="fqe_return", alpha=100)
    grid.add([[]], metric="fqe_return", alpha=100, seed=102, diverged_at=5000)
    entry = grid.choose()
    point = entry["points"][0]
    assert (point["diverged"], point["by_seed"]) == (1, {100: -40.0, 101: -41.0, 102: -41.0})
    assert None not in point["interval"]


def test_the_end_of_the_grid_is_remarked(grid: Grid) -> None:
    grid.add([20.0, 22.0, 21.0], alpha=10)
    grid.add([90.0, 92.0, 91.0], alpha=100)
    assert grid.choose()["remarks"] == ["alpha 100 is the highest of the grid: a better one may lie beyond"]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.lists(st.integers(0, 50).map(lambda count: 2.0 * count), min_size=2, max_size=2), min_size=2, max_size=4
    ),
    st.randoms(use_true_random=False),
)
def test_the_choice_has_the_highest_mean_whatever_the_order_of_files(
    tmp_path_factory: pytest.TempPathFactory, scores: list[list[float]], random: Any
) -> None:
    grid = Grid(tmp_path_factory.mktemp("grid"))
    for number, own in enumerate(scores):
        grid.add(own, alpha=10 * (number + 1))
    entry = grid.choose()
    means = {10 * (number + 1): sum(own) / 2 for number, own in enumerate(scores)}
    assert {point["alpha"]: point["score"] for point in entry["points"]} == means
    if max(means.values()) > 0:
        assert means[entry["chosen"]["alpha"]] == max(means.values())
    else:
        assert entry["chosen"] is None
    random.shuffle(grid.files)
    assert grid.choose() == entry


def test_seeds_that_are_reported_are_refused(grid: Grid) -> None:
    grid.add([50.0, 60.0], seed=0)
    with pytest.raises(UserError, match=r"no tuning run.*seed 0"):
        grid.choose()


def test_points_of_other_seeds_are_refused(grid: Grid) -> None:
    grid.add([50.0, 60.0], alpha=10)
    grid.add([50.0], alpha=100)
    with pytest.raises(UserError, match=r"'alpha': 100.*lacks the seeds \[101\]"):
        grid.choose()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            {"settings": BASE | {"alpha": 100, "num_candidates": 5, "time_steps": 50, "discount": 0.9}},
            "setting discount",
        ),
        ({"dataset": {"name": "scene-play-v0", "source": "fetched", "sha256": "cd" * 32}}, "dataset"),
        ({"training_version": [9, 9]}, "training version"),
        ({"method": "mfql-laptop"}, "method"),
    ],
)
def test_runs_that_differ_in_more_than_the_point_are_refused(grid: Grid, change: dict[str, Any], named: str) -> None:
    grid.add([50.0, 60.0], alpha=10)
    grid.add([50.0, 60.0], alpha=100, **change)
    with pytest.raises(UserError, match=f"differ in {named}"):
        grid.choose()


def test_a_score_of_another_training_run_than_the_manifest_is_refused(grid: Grid) -> None:
    manifest = grid.add([50.0]).parent / "run" / "manifest.json"
    write_json(manifest, read_json(manifest) | {"identity": "another"})
    with pytest.raises(UserError, match="is not of the run in"):
        grid.choose()


def test_a_missing_run_is_named(grid: Grid) -> None:
    grid.add([50.0, 60.0])
    grid.files.append(grid.results / "runs/absent/evaluation.json")
    with pytest.raises(UserError, match="absent"):
        grid.choose()


# --- how a choice becomes settings ------------------------------------------------------------------------------------


def proposal(task: str = SCENE, takers: list[str] = SCENES, chosen: Any = "first", **changes: Any) -> dict[str, Any]:
    """An entry of a proposal, as `choose` writes it."""
    points = [{"alpha": alpha, "num_candidates": 7, "time_steps": 70, "score": 50.0} for alpha in (300, 30)]
    first = {key: points[0][key] for key in COLUMNS}
    return {
        task: {"chosen": first if chosen == "first" else chosen, "carried_to": takers, "method": "mfql-tuning"}
        | {"certainty": "within noise", "points": points}
        | changes
    }


def frozen(config: Path, *entries: dict[str, Any], **options: Any) -> str:
    """Freeze these entries; returns what is printed."""
    file = config.parent / "proposal.yaml"
    write_proposal({task: entry for one in entries for task, entry in one.items()}, file)
    return freeze(file, config, **options)


def cells(config: Path, task: str) -> tuple[str, ...]:
    row = table(config)[task]
    return (*(row[column] for column in COLUMNS), row["settings_source"])


def hashes(config: Path) -> dict[str, str]:
    """The settings' hashes of some tasks: what a run is trained anew for."""
    return {task: settings_hash("mfql", task, "offline", config) for task in (*SCENES, "pen-human-v1", "pen-cloned-v1")}


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """The tasks whose hashes differ."""
    return [task for task in before if before[task] != after[task]]


def test_a_frozen_choice_fills_the_cells_of_its_tasks_with_its_source(config: Path) -> None:
    before = (config / "tasks.csv").read_text(encoding="utf-8").splitlines()
    printed = frozen(config, proposal())
    for task in SCENES:
        assert cells(config, task) == ("300", "7", "70", f"tuned on {SCENE} with mfql-tuning (within noise)")
    after = (config / "tasks.csv").read_text(encoding="utf-8").splitlines()
    lost = [line for line in before if line not in after]
    assert [line.split(",")[0] for line in lost] == SCENES
    assert all(f"-{line}" in printed.splitlines() for line in lost)
    evidence = yaml.safe_load((config / "tuned.yaml").read_text(encoding="utf-8"))
    assert evidence[SCENE]["points"] == proposal()[SCENE]["points"]


@pytest.mark.parametrize(("encoding", "delimiter"), [("utf-8", ";"), ("utf-8-sig", ",")])
def test_no_cell_is_written_into_a_table_that_a_spreadsheet_saved(config: Path, encoding: str, delimiter: str) -> None:
    table = config / "tasks.csv"
    rows = list(csv.reader(table.read_text(encoding="utf-8").splitlines()))
    with open(table, "w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    before = table.read_bytes()
    with pytest.raises(UserError, match=r"tasks\.csv is a table as spreadsheets save one"):
        frozen(config, proposal())
    assert table.read_bytes() == before
    assert not (config / "tuned.yaml").exists()


def test_only_the_runs_of_the_frozen_tasks_are_trained_anew(config: Path) -> None:
    before = hashes(config)
    frozen(config, proposal())
    assert changed(before, hashes(config)) == SCENES


def test_published_cells_stay_in_a_row_that_is_tuned_else(config: Path) -> None:
    default, first = (f"antsoccer-arena-navigate-singletask-task{number}-v0" for number in (4, 1))
    frozen(config, proposal(default, [default, first]))
    assert cells(config, default) == ("300", "7", "70", f"tuned on {default} with mfql-tuning (within noise)")
    source = f"tuned on {default} with mfql-tuning (within noise); num_candidates published"
    assert cells(config, first) == ("300", "10", "70", source)


def test_settings_with_a_source_of_their_own_are_never_changed(config: Path) -> None:
    row = table(config)[SCENES[0]]
    edit(config, SCENES[0], alpha="250", settings_source="our note 3; untuned before")
    printed = frozen(config, proposal())
    assert cells(config, SCENES[0]) == ("250", row["num_candidates"], row["time_steps"], "our note 3; untuned before")
    assert f"{SCENES[0]}: has settings from 'our note 3; untuned before', which stay" in printed


def test_a_tuned_task_may_be_tuned_again_and_earlier_evidence_of_others_is_kept(config: Path) -> None:
    frozen(config, proposal("pen-human-v1", ["pen-human-v1"]))
    frozen(config, proposal())
    second = proposal(chosen={"alpha": 30, "num_candidates": 7, "time_steps": 70})
    frozen(config, second)
    assert cells(config, SCENE) == ("30", "7", "70", f"tuned on {SCENE} with mfql-tuning (chosen by hand)")
    evidence = yaml.safe_load((config / "tuned.yaml").read_text(encoding="utf-8"))
    assert (evidence[SCENE]["chosen"]["alpha"], evidence["pen-human-v1"]["chosen"]["alpha"]) == (30, 300)
    assert "has these settings already" in frozen(config, second)


def test_frozen_settings_do_not_change_what_tuning_trains(config: Path) -> None:
    section = {"method": "mfql-tuning", "grid": GRID, "seeds": [100], "tasks": ["scene", "antsoccer-arena"]}
    before = tuning_runs(section, config)
    identities = {name: settings_hash(name, SCENE, "offline", config) for name in before[SCENE]}
    frozen(config, proposal())
    assert tuning_runs(section, config) == before
    assert {name: settings_hash(name, SCENE, "offline", config) for name in before[SCENE]} == identities


def test_a_dry_run_and_a_withdrawn_choice_change_nothing(config: Path) -> None:
    before = (config / "tasks.csv").read_bytes()
    assert f"tuned on {SCENE}" in frozen(config, proposal(), dry_run=True)
    assert "nothing was chosen" in frozen(config, proposal(chosen=None))
    assert (config / "tasks.csv").read_bytes() == before
    assert not (config / "tuned.yaml").exists()


def test_a_method_that_would_not_use_the_cells_is_named(config: Path) -> None:
    printed = frozen(config, proposal(method="mfql-laptop"))
    assert "mfql-laptop sets num_candidates itself" in printed


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        (proposal(chosen={"alpha": 301, "num_candidates": 7, "time_steps": 70}), "no run has the chosen settings"),
        (proposal(chosen={"alpha": 300}), "chosen"),
        (proposal(takers=["scene-play-singletask-task9-v0"]), "unknown task"),
        (proposal(takers=["pen-human-v1"]), "pen-human-v1 is not tuned on this task"),
        (proposal(points=[]), "points"),
        ({SCENE: {"chosen": None, "points": []}}, "is a required property"),
    ],
)
def test_a_faulty_proposal_is_refused_by_name_and_nothing_is_written(
    config: Path, entry: dict[str, Any], named: str
) -> None:
    before = (config / "tasks.csv").read_bytes()
    with pytest.raises(UserError, match=named):
        frozen(config, proposal("pen-human-v1", ["pen-human-v1"]), entry)
    assert (config / "tasks.csv").read_bytes() == before
    assert not (config / "tuned.yaml").exists()


def test_what_is_no_proposal_is_refused(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = config.parent / "proposal.yaml"
    for text, named in [("a: [", "cannot read"), ("- 1", "is not of type 'object'"), ("scene: 3", "scene: 3")]:
        file.write_text(text, encoding="utf-8")
        assert main(["tune", "freeze", str(file), "--config-dir", str(config)]) == 2
        assert named in capsys.readouterr().err
    assert main(["tune", "freeze", str(config.parent / "absent.yaml"), "--config-dir", str(config)]) == 2
    assert "absent.yaml" in capsys.readouterr().err


def edit(config: Path, task: str, **changed: str) -> None:
    """Change cells of a row, as a person does."""
    rows = table(config)
    rows[task] |= changed
    with open(config / "tasks.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[task], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows.values())


SOURCES = st.sampled_from(
    [
        "untuned",
        "untuned; num_candidates published",
        "tuned on elsewhere with mfql",
        "tuned on elsewhere with mfql; alpha and time_steps published",
        "published table",
        'Table 7, "v2", p. 14',
        "tuned by hand",
    ]
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(SOURCES, min_size=5, max_size=5), st.sampled_from(["\n", "\r\n"]))
def test_whatever_the_sources_published_cells_and_other_rows_keep_their_bytes(
    tmp_path_factory: pytest.TempPathFactory, sources: list[str], end: str
) -> None:
    config = tmp_path_factory.mktemp("frozen") / "config"
    shutil.copytree(CONFIG, config)
    for task, source in zip(SCENES, sources, strict=True):
        edit(config, task, settings_source=source)
    path = config / "tasks.csv"
    path.write_bytes(path.read_bytes().replace(b"\n", end.encode()))
    before, lines = table(config), path.read_bytes().split(end.encode())
    frozen(config, proposal())
    after = table(config)
    for task, source in zip(SCENES, sources, strict=True):
        is_open = source.startswith(("untuned", "tuned on "))
        kept = {column for column in COLUMNS if not is_open or column in source}
        assert {column for column in COLUMNS if after[task][column] == before[task][column]} == kept
        assert after[task]["settings_source"].startswith(f"tuned on {SCENE}" if is_open else source)
        others = before[task].keys() - {*COLUMNS, "settings_source"}
        assert all(after[task][column] == before[task][column] for column in others)
    for old, new in zip(lines, path.read_bytes().split(end.encode()), strict=True):
        assert old == new or old.split(b",")[0].decode() in SCENES


def test_a_person_with_the_paper_adds_settings_and_only_those_tasks_train_anew(config: Path) -> None:
    before = hashes(config)
    edit(config, SCENES[0], alpha="250", settings_source="arXiv 2511.13035v2, Table 7")
    assert changed(before, hashes(config)) == [SCENES[0]]
    assert SCENES[0] not in carried_to(SCENE, load_tasks(config / "tasks.csv"))


def verdict(folder: Path, config: Path) -> str:
    """The verdict on 8 runs far below the published number."""
    long = {"offline_steps": 1_000_000, "online_steps": 1_000_000}
    files = [write_run(folder, [0.0] * 3, task=SCENE, seed=seed, settings=long) for seed in range(8)]
    write_scores(collect(files), folder / "scores.csv")
    (folder / "published").mkdir(exist_ok=True)
    row = f"{SCENE},MFQL,offline,90,1,8,A paper"
    (folder / "published" / "paper.csv").write_text(
        "\n".join([",".join(PUBLISHED_COLUMNS), row]) + "\n", encoding="utf-8"
    )
    places = ["--published", folder / "published", "--tasks", config / "tasks.csv", "--results", folder]
    arguments = ["verdict", "--scores", folder / "scores.csv", *places, "--out", folder / "verdict"]
    assert main(list(map(str, arguments))) == 0
    with open(folder / "verdict" / "verdict.csv", encoding="utf-8", newline="") as file:
        return next(row["verdict"] for row in csv.DictReader(file) if row["task"] == SCENE)


def test_a_tuned_task_is_judged_and_an_untuned_one_is_not(config: Path, tmp_path: Path) -> None:
    assert verdict(tmp_path, config) == "settings not at hand"
    frozen(config, proposal())
    assert verdict(tmp_path, config) == "lower"


# --- the whole of it --------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_workflow_tunes_a_person_freezes_and_nothing_is_tuned_again(tmp_path: Path) -> None:
    project = clone(tmp_path)
    one_point = ("tuning={grid: {alpha: [3]}}",)
    printed = project.miniature("tune", config=one_point)
    command = ("--extension", "tests/miniature", "tune", "freeze")
    assert f"mfql {' '.join(command)} results/miniature/tuning/proposal.yaml" in printed
    runs = {path.parts[-4:-2] for path in tmp_path.glob("results/runs/*/*/seed*/offline/evaluation.json")}
    (task,) = {task for task, _ in runs}
    assert {seed for _, seed in runs} == {"seed100", "seed101"}
    file = tmp_path / "results/miniature/tuning/proposal.yaml"
    entry = yaml.safe_load(file.read_text(encoding="utf-8"))[task]
    assert (entry["certainty"], [point["alpha"] for point in entry["points"]]) == ("nothing learnt", [3])
    reviewed = file.read_text(encoding="utf-8").replace(
        "chosen: null", "chosen: {alpha: 3, num_candidates: 2, time_steps: 10}"
    )
    (tmp_path / "reviewed.yaml").write_text(reviewed, encoding="utf-8")
    project.mfql(*command, "reviewed.yaml")
    assert cells(tmp_path / "config", task)[0] == "3"
    assert NOTHING_TO_DO in project.miniature("tune", "-n", config=one_point)
