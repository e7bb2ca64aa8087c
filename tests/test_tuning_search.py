"""Searches with Optuna beside the grid: what is asked for, trained, told and frozen, and what a kill leaves."""

from __future__ import annotations

import csv
import os
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from mfql.cli import main
from mfql.documents import read_json, write_json
from mfql.errors import UserError
from mfql.experiment.configuration import read_configuration
from mfql.experiment.run import RunFolder
from mfql.experiment.search import Study, check_search, rungs, studies
from mfql.experiment.tuning import tuning_task
from mfql.files import hash_of
from mfql.methods import declared_settings, settings_hash, settings_source
from mfql.studies.tuning.choose import choose, write_proposal
from mfql.studies.tuning.freeze import freeze
from mfql.studies.tuning.search import Place, run
from mfql.studies.tuning.study import Optimiser, opened
from mfql.tasks import load_tasks
from tests.support.fake_results import write_run
from tests.support.training_runs import ROOT, TASK, Workplace

CONFIG = ROOT / "config"
SCENE = "scene-play-singletask-task2-v0"
SPACE = {"alpha": {"low": 0.1, "high": 100, "log": True}, "num_candidates": {"low": 1, "high": 8}}
IQL = {"expectile": {"low": 0.5, "high": 0.95}, "alpha": {"low": 0.1, "high": 10, "log": True}}


def section(**changes: Any) -> dict[str, Any]:
    """The section `tuning` of a configuration with a search."""
    search = {"trials": 6, "at_once": 2, "spaces": {"mfql-miniature": SPACE}} | changes
    return {"method": "mfql-miniature", "seeds": [100, 101], "tasks": [TASK], "search": search}


class Trainer:
    """Stands for the workflow: leaves runs as it would, with scores that follow from their points alone."""

    def __init__(self, score: Callable[[dict[str, Any]], float] | None = None) -> None:
        self.score = score or (lambda point: round(10.0 * point["num_candidates"] + 0.01 * point["alpha"], 3))
        self.launches: list[list[str]] = []
        self.dies_at: int | None = None

    def __call__(self, files: Sequence[str]) -> int:
        self.launches.append(list(files))
        if len(self.launches) == self.dies_at:
            raise KeyboardInterrupt  # As abruptly as a test can end it within a process.
        for file in files:
            self.train(Path(file))
        return 0

    def train(self, file: Path) -> None:
        _, _, method, task, seed, stage, name = file.parts
        settings = declared_settings(method, task, stage, CONFIG)[1].as_dict()
        known = {
            "method": method,
            "task": task,
            "seed": int(seed.removeprefix("seed")),
            "settings": settings,
            "settings_hash": settings_hash(method, task, stage, CONFIG),
        }
        value = self.score(settings)
        written = write_run(Path("results"), [value] * 3, **known)
        if name != "evaluation.json":
            result = read_json(written) | {"status": "paused", "steps": int(file.stem.partition("-")[2])}
            result["evaluations"] = result["evaluations"][:1]
            written.unlink()
            write_json(file, result)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def searched(trainer: Trainer, storage: str = "search.db", tuning: dict[str, Any] | None = None) -> list[Study]:
    """Search as `mfql tune search` does, with this in the workflow's place."""
    plans = studies(tuning or section(), CONFIG)
    with opened(Path(storage), plans, CONFIG) as optimisers:
        run(optimisers, Place(trainer, CONFIG))
    return plans


def trials(storage: str = "search.db", study: str = f"mfql-miniature on {TASK}") -> list[optuna.trial.FrozenTrial]:
    """The trials as Optuna itself reads them from its file."""
    return optuna.load_study(study_name=study, storage=f"sqlite:///{storage}").get_trials()


# --- what may be searched ---------------------------------------------------------------------------------------------

FAULTS = {
    "{alphq: {low: 1, high: 2}}": r"spaces: iql: unknown setting 'alphq'\n  Did you mean alpha",
    "{expectile: {low: 0.5, high: 2}}": r"spaces: iql: method iql\+expectile=2 .*setting expectile is 2.0\n.*\(0, 1\)",
    "{alpha: {low: 0, high: 2, log: true}}": "spaces: iql: alpha: low 0 has no logarithm",
    "{alpha: {low: 2, high: 1}}": "spaces: iql: alpha: low 2 is not below high 1",
    "{alpha: {low: 0, high: 1, step: 0.3}}": "spaces: iql: alpha: from 0 no whole number of steps of 0.3 leads to 1",
    "{alpha: {low: 1, high: 2, log: true, step: 1}}": "spaces: iql: alpha: there is no step by the logarithm",
    "{batch_size: {low: 1.5, high: 2}}": "spaces: iql: batch_size: the setting is a whole number",
    "{q_agg: {low: 0, high: 1}}": "spaces: iql: q_agg: the setting is no number",
    "{precision: [float32, float33]}": r"spaces: iql: method iql\+precision=float33 .*setting precision is 'float33'",
    "{alpha: [1, '1']}": "alpha: .* has an entry twice",
    "{alpha: 3}": "spaces: iql: alpha: 3 is not a mapping or a list",
    "{alpha: {low: 1}}": "spaces: iql: alpha: lacks high",
    "{alpha: {lo: 1, high: 2}}": "unknown key 'lo' in .*: spaces: iql: alpha",
    "{offline_steps: {low: 10, high: 20}}": "iql: offline_steps: runs of another offline_steps are not compared",
    "{reward: [goal, dataset], reward_delay: [0, 5]}": "setting reward_delay is 5, which has no effect",
}


@pytest.mark.parametrize("space", FAULTS)
def test_what_a_method_does_not_take_is_refused_with_the_configuration(tmp_path: Path, space: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(f"tuning: {{tasks: [scene], search: {{trials: 3, spaces: {{iql: {space}}}}}}}", encoding="utf-8")
    with pytest.raises(UserError, match=rf"(?s){FAULTS[space]}") as refused:
        read_configuration(file, CONFIG)
    assert str(file) in str(refused.value)


@pytest.mark.parametrize(
    ("search", "named"),
    [
        ("{trials: 0, spaces: {iql: {alpha: [1, 2]}}}", "tuning: search: trials: 0 is below 1"),
        ("{trials: 3}", "tuning: search: lacks spaces"),
        ("{trials: 3, spaces: {}}", "tuning: search: spaces: "),
        ("{trials: 3, sampler: cmaes, spaces: {iql: {alpha: [1, 2]}}}", 'sampler: "cmaes" is none of tpe, random, qmc'),
        ("{trials: 3, spaces: {iqx: {alpha: [1, 2]}}}", "unknown method 'iqx'"),
        ("{trials: 3, spaces: {iql: {alpha: [1, 2]}}, pruning: {after: [2, 1]}}", "after: .* is not ascending"),
        ("{trials: 3, spaces: {iql: {alpha: [1, 2]}}, pruning: {after: [10]}}", "evaluation 10 of iql is no earlier"),
    ],
)
def test_a_faulty_search_is_refused_with_what_to_write(tmp_path: Path, search: str, named: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(f"tuning: {{tasks: [scene], search: {search}}}", encoding="utf-8")
    with pytest.raises(UserError, match=named):
        read_configuration(file, CONFIG)


def test_settings_of_the_task_table_are_searched_where_a_grid_would_and_published_ones_are_not() -> None:
    space = {"alpha": {"low": 1, "high": 1000, "log": True}, "num_candidates": {"low": 1, "high": 16}}
    tuning = {"seeds": [100], "search": {"trials": 1, "spaces": {"mfql-tuning": space}}}
    tasks = ["antmaze-giant", "pen-cloned-v1", "scene-play-singletask-task4-v0"]
    found = studies(tuning | {"tasks": tasks}, CONFIG)
    assert [(study.task, list(study.space)) for study in found] == [
        ("antmaze-giant-navigate-singletask-task1-v0", ["alpha"]),
        (SCENE, ["alpha", "num_candidates"]),
    ]
    assert {study.tabled for study in found} == {True}
    published = tuning | {"tasks": ["pen-cloned-v1"]}
    with pytest.raises(UserError, match="have published settings"):
        studies(published, CONFIG)
    check_search(published, lambda place: "study.yaml", CONFIG)  # Which is no reason to train nothing else.


def test_without_a_search_the_command_says_where_to_write_one() -> None:
    with pytest.raises(UserError, match=r"nothing to search: tuning: search is null\n.*docs/tuning.md"):
        studies(read_configuration(None, CONFIG)["tuning"], CONFIG)


# --- what is asked for, trained and told ------------------------------------------------------------------------------


def test_each_point_is_a_method_whose_name_has_its_values_and_is_trained_with_every_seed(place: Path) -> None:
    trainer = Trainer()
    searched(trainer)
    assert [len(files) for files in trainer.launches] == [4, 4, 4]
    ended = trials()
    assert [trial.state.name for trial in ended] == ["COMPLETE"] * 6
    by_point = [both for batch in trainer.launches for both in (batch[:2], batch[2:])]
    for trial, files in zip(ended, by_point, strict=True):
        point = declared_settings(Path(files[0]).parts[2], TASK, "offline", CONFIG)[1].as_dict()
        assert point["num_candidates"] == trial.params["num_candidates"]
        assert point["alpha"] == pytest.approx(trial.params["alpha"], rel=1e-5)
        assert trial.value == pytest.approx(trainer.score(point))
        assert [Path(file).parts[4] for file in files] == ["seed100", "seed101"]


# After ten points TPE goes by the scores.
@pytest.mark.parametrize(
    ("sampler", "count"), [pytest.param("tpe", 14, marks=pytest.mark.slow), ("random", 6), ("qmc", 6)]
)
def test_a_search_that_is_killed_goes_on_as_it_would_have(place: Path, sampler: str, count: int) -> None:
    tuning = section(trials=count, sampler=sampler, seed=3)
    searched(Trainer(), "whole.db", tuning)
    shutil.rmtree("results")
    trained: list[str] = []
    while True:
        trainer = Trainer()
        trainer.dies_at = 2
        try:
            searched(trainer, "killed.db", tuning)
        except KeyboardInterrupt:
            lost = trainer.launches.pop()
            waiting = [trial.number for trial in trials("killed.db") if trial.state.name == "RUNNING"]
            assert len(waiting) == 2
        else:
            break
        finally:
            trained += [file for files in trainer.launches for file in files]
    assert trainer.launches == [lost]
    found, whole = trials("killed.db"), trials("whole.db")
    assert [(one.number, one.params, one.value, one.state.name) for one in found] == [
        (one.number, one.params, one.value, "COMPLETE") for one in whole
    ]
    assert len(trained) == len(set(trained)) == 2 * len({str(trial.params) for trial in found})


def test_equal_seeds_ask_for_equal_points_and_others_for_others(place: Path) -> None:
    for storage, seed in (("a.db", 1), ("b.db", 1), ("c.db", 2)):
        searched(Trainer(), storage, section(seed=seed))
        shutil.rmtree("results")
    first, second, other = ([trial.params for trial in trials(storage)] for storage in ("a.db", "b.db", "c.db"))
    assert first == second
    assert first != other


def test_a_point_that_is_trained_already_trains_nothing(place: Path) -> None:
    first, second = Trainer(), Trainer()
    searched(first)
    searched(second, "another.db")
    assert second.launches == []
    assert [trial.value for trial in trials("another.db")] == [trial.value for trial in trials()]


def test_runs_of_other_settings_are_not_taken_for_a_points(place: Path) -> None:
    trainer = Trainer()
    searched(trainer)
    manifest = Path(trainer.launches[0][0]).parent / "run" / "manifest.json"
    write_json(manifest, read_json(manifest) | {"settings_hash": hash_of("other")})
    again = Trainer()
    searched(again, "another.db")
    assert [len(files) for files in again.launches] == [2]


def test_a_choice_of_whole_numbers_lists_and_words_reaches_the_methods_name(place: Path) -> None:
    space = {
        "critic_hidden": [[16, 16], [8]],
        "q_agg": ["mean", "min"],
        "batch_size": {"low": 8, "high": 16, "step": 8},
    }
    tuning = section(spaces={"fql-miniature": space}, trials=8, sampler="random")
    trainer = Trainer(lambda point: float(point["batch_size"]))
    searched(trainer, tuning=tuning)
    points = [
        declared_settings(Path(file).parts[2], TASK, "offline", CONFIG)[1]
        for files in trainer.launches
        for file in files
    ]
    assert {point.as_dict()["critic_hidden"] for point in points} == {(16, 16), (8,)}
    assert {point.as_dict()["batch_size"] for point in points} == {8, 16}


def test_points_that_failed_end_the_search_and_are_left_out_on_demand(place: Path) -> None:
    class Failing(Trainer):
        def train(self, file: Path) -> None:
            folder = RunFolder(Path("results"), file.parts[2], TASK, 100, "offline")
            if "seed100" in file.parts and not any(Path("results").glob("runs/*/*/seed100/offline/failure.json")):
                folder.record_failure(UserError("the card burns"))
            elif not folder.failure():
                super().train(file)

    plans = studies(section(), CONFIG)
    with opened(Path("search.db"), plans, CONFIG) as optimisers:
        with pytest.raises(UserError, match=r"1 of 2 points did not come to their end: mfql-miniature\+alpha"):
            run(optimisers, Place(Failing(), CONFIG))
        run(optimisers, Place(Failing(), CONFIG, skip_failed=True))
    assert [trial.state.name for trial in trials()] == ["FAIL", *["COMPLETE"] * 5]


# --- pruning ----------------------------------------------------------------------------------------------------------


def test_a_point_that_falls_behind_at_a_pause_is_given_up_and_finished_ones_never_are(place: Path) -> None:
    tuning = section(trials=12, sampler="random", pruning={"after": [1], "startup": 2, "percentile": 50})
    trainer = Trainer()
    (plan,) = searched(trainer, tuning=tuning)
    assert rungs(plan, CONFIG) == [30]
    ended = trials()
    states = [trial.state.name for trial in ended]
    assert states[:2] == ["COMPLETE"] * 2
    assert set(states) == {"COMPLETE", "PRUNED"}
    # Optuna's own rule, by the trials that were complete when a batch was looked at.
    for trial in ended[2:]:
        before = [one for one in ended[: trial.number - trial.number % 2] if one.state.name == "COMPLETE"]
        median = sorted(one.intermediate_values[30] for one in before)
        middle = (median[(len(median) - 1) // 2] + median[len(median) // 2]) / 2
        assert (trial.intermediate_values[30] < middle) == (trial.state.name == "PRUNED")
    finished = {Path(file).parts[2] for files in trainer.launches for file in files if file.endswith("evaluation.json")}
    assert len(finished) == states.count("COMPLETE")


def test_a_killed_search_prunes_as_it_would_have(place: Path) -> None:
    tuning = section(trials=8, sampler="tpe", pruning={"after": [1], "startup": 2})
    searched(Trainer(), "whole.db", tuning)
    shutil.rmtree("results")
    killed = Trainer()
    for dies_at in (3, 5, 6):
        killed.dies_at = dies_at  # Of all launches: at a pause, and on the way to the end.
        with pytest.raises(KeyboardInterrupt):
            searched(killed, "killed.db", tuning)
    killed.dies_at = None
    searched(killed, "killed.db", tuning)
    for whole, found in zip(trials("whole.db"), trials("killed.db"), strict=True):
        assert (found.params, found.state, found.intermediate_values) == (
            whole.params,
            whole.state,
            whole.intermediate_values,
        )


# --- the storage ------------------------------------------------------------------------------------------------------


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096 : 3 * 4096] = b"\xff" * (2 * 4096)
    path.write_bytes(content)


def another_database(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE experiments (name TEXT)")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: 5 * 4096])


def cut_entry(path: Path) -> None:
    """A page that lost its end, which SQLite does not notice."""
    with sqlite3.connect(path) as database:
        database.execute("UPDATE study_user_attributes SET value_json = substr(value_json, 1, 20)")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (damaged, "is damaged"),
        (cut_entry, "is damaged: JSONDecodeError"),
        (truncated, "is damaged"),
        (lambda path: path.write_text("a: b"), "does not begin as SQLite's files do"),
        (another_database, "a database of something else: it has the tables experiments"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "it is a named pipe, no file"),
    ],
)
def test_a_file_that_is_no_storage_is_said_and_left_as_it_is(
    place: Path, change: Callable[[Path], object], named: str
) -> None:
    searched(Trainer(), "search.db", section(trials=2))
    storage = Path("search.db")
    change(storage)
    before = storage.read_bytes() if storage.is_file() else None
    with pytest.raises(UserError, match=f"search.db.*{named}"):
        searched(Trainer())
    assert (storage.read_bytes() if storage.is_file() else None) == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"spaces": {"mfql-miniature": SPACE | {"alpha": [1, 2]}}}, "space"),
        ({"seed": 5}, "sampler's seed"),
        ({"sampler": "random"}, "sampler"),
        ({"pruning": {"after": [1]}}, "pruning"),
    ],
)
def test_a_study_of_other_conditions_is_refused_and_more_points_are_not(
    place: Path, changes: dict[str, Any], named: str
) -> None:
    searched(Trainer(), tuning=section(trials=2))
    with pytest.raises(UserError, match=rf"search.db: the study of mfql-miniature on {TASK} .* has other {named}\n"):
        searched(Trainer(), tuning=section(**changes))
    searched(Trainer(), tuning=section(trials=4))
    assert len(trials()) == 4


# --- proposals and what becomes of them -------------------------------------------------------------------------------


def proposal(method: str, space: dict[str, Any], tuning: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a search proposes, whose points score the higher the larger their first setting."""
    key = next(iter(space))
    tuning = section(spaces={method: space}) | (tuning or {})
    trainer = Trainer(lambda point: round(float(point[key]), 3))
    plans = studies(tuning, CONFIG)
    with opened(Path("search.db"), plans, CONFIG) as optimisers:
        run(optimisers, Place(trainer, CONFIG))
        files = [file for optimiser in optimisers for file in evaluations(optimiser)]
    return choose(files, CONFIG, plans[0].chosen, {plan.task: plan.space for plan in plans})


def evaluations(optimiser: Optimiser) -> list[Path]:
    study = optimiser.study
    runs = [Path("results/runs", method, study.task) for method in optimiser.methods("COMPLETE")]
    return [folder / f"seed{seed}/offline/evaluation.json" for folder in runs for seed in study.seeds]


def test_a_proposal_has_the_settings_that_were_searched_and_the_best_of_them(place: Path) -> None:
    (entry,) = proposal("iql-miniature", IQL).values()
    assert entry["settings"] == ["alpha", "expectile"]  # By name, however the configuration lists them.
    assert len(entry["points"]) == 6
    assert entry["chosen"] == {key: entry["points"][0][key] for key in entry["settings"]}
    assert entry["chosen"]["expectile"] == max(point["expectile"] for point in entry["points"])
    assert entry["method"] == "iql-miniature"
    assert entry["carried_to"] == [name for name in load_tasks(CONFIG / "tasks.csv") if is_taker(name)]
    near = [f"expectile {entry['chosen']['expectile']} is near an end of 0.5 to 0.95: a better one may lie beyond"]
    is_near = entry["chosen"]["expectile"] >= 0.5 + 0.95 * 0.45
    assert [remark for remark in entry["remarks"] if "expectile" in remark] == (near if is_near else [])


def is_taker(name: str) -> bool:
    return tuning_task(name, load_tasks(CONFIG / "tasks.csv")) == TASK


def test_settings_of_the_task_table_are_frozen_as_a_grids_are(place: Path) -> None:
    shutil.copytree(CONFIG, "config")
    space = {"alpha": {"low": 1, "high": 90, "log": True}}
    found = proposal("mfql-tuning", space, {"tasks": ["scene"]})
    assert found[SCENE]["chosen"] == {"num_candidates": 5, "time_steps": 50} | {
        "alpha": found[SCENE]["points"][0]["alpha"]
    }
    write_proposal(found, Path("proposal.yaml"))
    before = settings_hash("mfql", SCENE, "offline", "config")
    freeze(Path("proposal.yaml"), Path("config"))
    assert settings_hash("mfql", SCENE, "offline", "config") != before
    assert (
        declared_settings("mfql", SCENE, "offline", "config")[1].as_dict()["alpha"] == found[SCENE]["chosen"]["alpha"]
    )


def test_other_settings_are_frozen_into_a_method_of_ones_own(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(CONFIG, "config")
    found = proposal("iql", {"expectile": {"low": 0.5, "high": 0.95}})
    write_proposal(found, Path("proposal.yaml"))
    assert main(["tune", "freeze", "proposal.yaml"]) == 0
    printed = capsys.readouterr().out
    assert "inherits: iql\ntable: tuned/iql-tuned.csv\n" in printed
    assert "Nothing is written: --new-method NAME" in printed
    assert not Path("config/tuned").exists()
    assert main(["tune", "freeze", "proposal.yaml", "--new-method", "mine"]) == 0
    settings, base = (declared_settings(name, TASK, "offline", "config")[1].as_dict() for name in ("mine", "iql"))
    assert settings == base | {"expectile": found[TASK]["chosen"]["expectile"]}
    assert (
        settings_source("mine", TASK, "offline", "config") == f"tuned on {TASK} with iql ({found[TASK]['certainty']})"
    )
    online = [declared_settings(name, TASK, "online", "config")[1].as_dict() for name in ("mine", "iql")]
    assert online[0] == online[1] | {"expectile": found[TASK]["chosen"]["expectile"]}
    evidence = yaml.safe_load(Path("config/tuned/mine.yaml").read_text(encoding="utf-8"))
    assert evidence[TASK]["points"] == found[TASK]["points"]
    with open("config/tuned/mine.csv", encoding="utf-8", newline="") as file:
        assert {row["stage"] for row in csv.DictReader(file)} == {"offline", "online"}
    # What it wrote it may write again, and nobody else's.
    assert main(["tune", "freeze", "proposal.yaml", "--new-method", "mine"]) == 0
    assert main(["tune", "freeze", "proposal.yaml", "--new-method", "iql"]) == 2
    assert "there is a method iql already" in capsys.readouterr().err


def test_a_choice_that_the_method_does_not_take_is_not_frozen(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = proposal("iql-miniature", IQL)
    found[TASK]["points"][0]["expectile"] = found[TASK]["chosen"]["expectile"] = 7
    write_proposal(found, Path("proposal.yaml"))
    assert main(["tune", "freeze", "proposal.yaml", "--new-method", "mine", "--into", "mine"]) == 2
    assert "setting expectile is 7" in capsys.readouterr().err
    assert not Path("mine").exists()


# --- the real thing ---------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_run_that_pauses_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    place = Workplace.make(tmp_path)
    place.train("flow_bc-miniature", "offline", [100, 101], "whole")
    place.train("flow_bc-miniature", "offline", [100, 101], "paused", "--pause-at", "30")
    paused, whole = (
        tmp_path / name / "runs/flow_bc-miniature" / TASK / "seed100/offline" for name in ("paused", "whole")
    )
    result = read_json(whole / "evaluation.json")
    refused = place.call(
        place.arguments("flow_bc-miniature", "offline", [100], "late", "--pause-at", str(result["steps"]))
    )
    assert (refused.returncode, (tmp_path / "late").exists()) == (2, False)
    assert f"flow_bc-miniature ends with step {result['steps']}" in refused.stderr
    at_step = read_json(paused / "paused-30.json")
    assert (at_step["status"], at_step["evaluations"]) == ("paused", result["evaluations"][:1])
    assert not (paused / "evaluation.json").exists()
    place.train("flow_bc-miniature", "offline", [100, 101], "paused")
    assert read_json(paused / "evaluation.json") == result
    # Of a finished run, too.
    place.train("flow_bc-miniature", "offline", [100, 101], "whole", "--pause-at", "30")
    assert read_json(whole / "paused-30.json") == at_step
