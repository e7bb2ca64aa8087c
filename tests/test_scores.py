import json
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from mfql.errors import UserError
from mfql.report.scores import COLUMNS, collect, read_scores, write_scores
from mfql.report.tasks import runs
from tests.support.fake_results import EPISODES, TASK, write_quickstart, write_run


def values(scores: pd.DataFrame, metric: str, **where: object) -> list[float]:
    part = scores[scores["metric"] == metric]
    for column, value in where.items():
        part = part[part[column] == value]
    return part["value"].tolist()


def test_one_row_an_evaluation_and_metric(tmp_path: Path) -> None:
    scores = collect([write_run(tmp_path, [10.0, 20.0, 30.0, 40.0])])
    assert list(scores.columns) == COLUMNS
    assert values(scores, "success") == [10, 20, 30, 40]
    assert values(scores, "return") == [-90, -80, -70, -60]
    assert values(scores, "length") == [190, 180, 170, 160]
    assert values(scores, "episodes") == [EPISODES] * 4
    assert scores.loc[scores["metric"] == "success", "step"].tolist() == [1000, 2000, 3000, 4000]
    assert set(scores["run"]) == {f"runs/mfql/{TASK}/seed0/offline"}


def test_the_score_stands_at_the_last_step_with_the_episodes_it_rests_on(tmp_path: Path) -> None:
    scores = collect([write_run(tmp_path, [10.0, 20.0, 30.0, 40.0])])
    assert values(scores, "score", step=4000) == [30.0]
    assert values(scores, "score_episodes", step=4000) == [3 * EPISODES]


def test_a_normalised_return_has_no_count_of_episodes_to_rest_on(tmp_path: Path) -> None:
    scores = collect([write_run(tmp_path, [110.0, 120.0], metric="normalized_return")])
    assert values(scores, "score") == [115.0]
    assert values(scores, "score_episodes") == []
    assert values(scores, "normalized_return") == [110, 120]


def test_a_normalised_return_that_is_a_success_rate_says_on_how_many_episodes_it_rests(tmp_path: Path) -> None:
    files = [write_run(tmp_path, [0.0, 20.0], metric="normalized_return", is_success=True)]
    files.append(write_run(tmp_path, [], seed=1, metric="normalized_return", diverged_at=900))
    scores = collect(files)
    assert values(scores, "score_episodes", seed=0) == [3 * EPISODES // 3 * 2]
    assert values(scores, "score_episodes", seed=1) == []
    assert set(runs(scores)["unit"]) == {"normalized_return"}


@pytest.mark.parametrize("successes", [[], [90.0], [90.0, 95.0, 100.0]])
def test_a_diverged_run_scores_zero_whatever_it_had_reached(tmp_path: Path, successes: list[float]) -> None:
    scores = collect([write_run(tmp_path, successes, diverged_at=3500)])
    assert values(scores, "score") == [0.0]
    assert values(scores, "score_episodes") == [3 * EPISODES]
    assert values(scores, "diverged", step=3500) == [1]
    assert values(scores, "success") == successes


def test_an_online_run_rises_from_the_run_it_starts_from(tmp_path: Path) -> None:
    start = write_run(tmp_path, [10.0, 20.0, 30.0], stage="pretrain")
    online = write_run(tmp_path, [50.0, 60.0, 70.0, 80.0], stage="online", starts_from="pretrain")
    scores = collect([online])  # the start is read without being listed
    assert values(scores, "rise", step=4000) == [70.0 - 20.0]
    assert values(scores, "start", step=3000) == [20.0]
    assert scores.loc[scores["metric"] == "start", "run"].tolist() == [f"runs/mfql/{TASK}/seed0/pretrain"]
    assert values(scores, "success", stage="pretrain") == [10, 20, 30]
    start.rename(start.parent / "run" / "evaluation.json")  # the declared copy is lost, the trainer's own is there
    pd.testing.assert_frame_equal(collect([online]), scores)


def test_a_row_of_the_start_of_no_run_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, [10.0, 20.0, 30.0], stage="pretrain")
    scores = collect([write_run(tmp_path, [50.0, 60.0, 70.0, 80.0], stage="online", starts_from="pretrain")])
    scores.loc[scores["metric"] == "start", "task"] = "cube-none"
    scores.to_csv(tmp_path / "scores.csv", index=False)
    with pytest.raises(UserError, match="has rows of mfql cube-none seed 0 online, and no score of it"):
        read_scores(tmp_path / "scores.csv")


def test_without_the_run_it_starts_from_an_online_run_has_no_rise(tmp_path: Path) -> None:
    scores = collect([write_run(tmp_path, [50.0], stage="online", starts_from="pretrain")])
    assert values(scores, "rise") == []
    assert values(scores, "score") == [50.0]


def test_order_and_repetition_of_files_change_nothing(tmp_path: Path) -> None:
    files = write_quickstart(tmp_path)
    pd.testing.assert_frame_equal(collect(files), collect([*reversed(files), *files]))


def test_the_table_survives_its_file(tmp_path: Path) -> None:
    scores = collect(write_quickstart(tmp_path))
    write_scores(scores, tmp_path / "scores.csv")
    pd.testing.assert_frame_equal(read_scores(tmp_path / "scores.csv"), scores)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("score", "high", "score"),
        ("seed", -1, "seed"),
        ("stage", "later", "stage"),
        ("status", "lost", "status"),
        ("evaluations", [], "evaluations"),
        ("evaluations", [{"step": 1, "episodes": 50, "success": 101}], "success"),
        ("evaluations", [{"step": 1, "episodes": 50, "return": 1}], "success"),
        ("task", "another-task", "another-task"),
        ("episodes", None, "episodes"),
    ],
)
def test_a_malformed_file_is_named_with_its_fault(tmp_path: Path, key: str, value: object, named: str) -> None:
    file = write_run(tmp_path, [10.0])
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | {key: value}), encoding="utf-8")
    with pytest.raises(UserError) as error:
        collect([file])
    assert str(file) in str(error.value)
    assert named in str(error.value)


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', "\x00"])
def test_a_file_that_is_no_result_is_named(tmp_path: Path, content: str) -> None:
    file = write_run(tmp_path, [10.0])
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=file.name):
        collect([file])


def test_an_absent_file_is_named_and_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        collect([tmp_path / "runs/mfql/task/seed0/offline/evaluation.json"])
    with pytest.raises(UserError, match="no evaluation"):
        collect([])


@pytest.mark.parametrize(
    "content", ["", "a,b\n1,2\n", ",".join(COLUMNS) + "\n", ",".join(COLUMNS) + "\nm,t,x,o,1,score,1,r\n"]
)
def test_a_foreign_table_of_scores_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "scores.csv").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"scores\.csv"):
        read_scores(tmp_path / "scores.csv")


SETTINGS = {"discount": 0.98, "batch_size": 256}


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"settings": SETTINGS | {"batch_size": 64}}, "setting batch_size: 256 .*; 64 "),
        ({"training_version": [2, 1]}, "training version"),
        ({"dataset": {"name": "other", "sha256": "cd" * 32}}, "dataset"),
        ({"simulation_version": 2}, "simulation version: 1 .*; 2 "),
        ({"settings": SETTINGS | {"replay_rows": 2_000_000}}, "setting replay_rows: 0 .*; 2000000 "),
    ],
)
def test_runs_of_other_settings_data_or_training_are_not_averaged(tmp_path: Path, other: dict, named: str) -> None:
    manifest = {"settings": SETTINGS}
    files = [write_run(tmp_path, [50.0], seed=seed, **manifest) for seed in range(2)]
    files.append(write_run(tmp_path, [90.0], seed=2, **manifest | other, finished="2025-01-02T00:00:00+0000"))
    with pytest.raises(UserError, match=named):
        collect(files)


def test_runs_from_before_a_setting_are_averaged_with_those_that_have_its_value_of_then(tmp_path: Path) -> None:
    files = [write_run(tmp_path, [50.0], settings=SETTINGS)]
    files.append(write_run(tmp_path, [90.0], seed=1, settings=SETTINGS | {"replay_rows": 0}, simulation_version=1))
    assert values(collect(files), "score") == [50.0, 90.0]


def test_a_partial_collection_has_the_newest_kind_of_runs_alone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    files = [write_run(tmp_path, [50.0], seed=seed) for seed in range(2)]
    files.append(write_run(tmp_path, [90.0], seed=2, training_version=2, finished="2025-01-02T00:00:00+0000"))
    scores = collect(files, partial=True)
    assert values(scores, "score") == [90.0]
    assert f"runs/mfql/{TASK}/seed0/offline, runs/mfql/{TASK}/seed1/offline" in capsys.readouterr().err


def test_runs_of_other_code_are_of_another_origin(tmp_path: Path) -> None:
    code = {"version": "0.1.0", "commit": "f" * 40, "dirty": False}
    files = [write_run(tmp_path, [50.0]), write_run(tmp_path, [50.0], seed=1)]
    files += [write_run(tmp_path, [50.0], seed=2, code=code), write_run(tmp_path, [50.0], seed=3)]
    (files[3].parent / "run" / "manifest.json").unlink()
    first, second, other, unknown = collect(files).query("metric == 'score'")["origin"]
    assert first == second
    assert len({first, other, unknown}) == 3
    assert unknown == "unknown"


def rewrite(path: Path, **entries: object) -> Path:
    """Give an evaluation.json other entries."""
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | entries), encoding="utf-8")
    return path


def test_a_run_without_a_finite_score_is_named_and_left_out_only_where_that_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As earlier versions left runs whose environments gave rewards that are not finite."""
    lost = rewrite(write_run(tmp_path, [10.0, 20.0], seed=0), score=None)
    files = [lost, write_run(tmp_path, [10.0, 20.0], seed=1)]
    run = f"runs/mfql/{TASK}/seed0/offline"
    with pytest.raises(UserError, match=f"the score of {run} is no finite number") as caught:
        collect(files)
    assert f"Remove {lost.parent / 'run'}, and launch again" in str(caught.value)
    assert set(collect(files, partial=True)["seed"]) == {1}
    assert f"Left out, without a finite score: {run}" in capsys.readouterr().err


def test_broken_episodes_are_counted_once_a_run(tmp_path: Path) -> None:
    whole = write_run(tmp_path, [10.0, 20.0, 30.0], seed=0)
    broke = write_run(tmp_path, [10.0, 20.0, 30.0], seed=1)
    evaluations = json.loads(broke.read_text(encoding="utf-8"))["evaluations"]
    for evaluation, count in zip(evaluations, (2, None, 3), strict=True):
        evaluation |= {"broken": count} if count else {}
    scores = collect([whole, rewrite(broke, evaluations=evaluations, broken_online=4)])
    assert values(scores, "broken", seed=1, step=3000) == [9]
    assert values(scores, "broken") == [9]
    assert runs(scores).set_index("seed")["broken"].to_dict() == {0: 0, 1: 9}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda row: f"{row},more", ":2 has not 10 cells"),
        (lambda row: row.rpartition(",")[0], ":2 has not 10 cells"),
        (lambda row: row.replace(f"runs/mfql/{TASK}/seed0/offline", ""), ":2: run is empty"),
        (lambda row: row.replace(f"runs/mfql/{TASK}/seed0/offline", "5"), None),
    ],
    ids=["long", "short", "empty", "number"],
)
def test_a_row_has_each_cell_and_a_text_stays_one(
    tmp_path: Path, change: Callable[[str], str], said: str | None
) -> None:
    path = tmp_path / "scores.csv"
    write_scores(collect([write_run(tmp_path, [50.0])]), path)
    head, row, rest = path.read_text(encoding="utf-8").split("\n", 2)
    path.write_text("\n".join([head, change(row), rest]), encoding="utf-8")
    if said is None:
        assert read_scores(path)["run"][0] == "5"
        return
    with pytest.raises(UserError, match=re.escape(f"{path}{said}")):
        read_scores(path)
