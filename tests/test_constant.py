"""Observation dimensions that do not vary in the data: found, divided by 1, named, and part of a run's identity."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mfql.cli import main
from mfql.data.constant import constant_dimensions
from mfql.data.description import describe, identifying, recorded_facts
from mfql.data.layouts import D4RL, OGBENCH
from mfql.data.own import describe as describe_own
from mfql.data.paths import description_path
from mfql.data.transitions import observation_statistics
from mfql.errors import UserError
from mfql.experiment.configuration import find_run, read_configuration
from mfql.experiment.run import Fate, RunFolder, changes, describe_run
from mfql.operations.verify import verify
from mfql.plan.outlook import Outlooks
from mfql.suites import load, split_paths
from mfql.tasks import find_task
from mfql.training.loop import Execution
from mfql.training.memory import Normaliser
from mfql.training.train import Job, train
from tests.support.d4rl_files import write_rollouts
from tests.support.own_tasks import BOUNDED, VECTOR, arrays, registered
from tests.support.training_runs import ROOT

CONFIG = ROOT / "config"
METHOD = "bc-miniature+observation_statistics=valid+offline_steps=4+eval_interval=4+eval_episodes=1+log_interval=2"


class Rows(SimpleNamespace):
    """What a normaliser asks of a dataset."""

    def __len__(self) -> int:
        return self.rows


def normaliser(rows: np.ndarray, kind: str) -> Normaliser:
    mean, std = observation_statistics(rows)
    return Normaliser.of(Rows(rows=len(rows), observation_mean=mean, observation_std=std), kind)


# --- what is constant -------------------------------------------------------------------------------------------------


@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(1, 500))
def test_equal_values_have_no_deviation_however_their_mean_is_rounded(value: float, rows: int) -> None:
    mean, std = observation_statistics(np.full((rows, 1), value, np.float32))
    assert std.tolist() == [0.0]
    assert mean.tolist() == [np.float32(value)]


@given(st.floats(-1e6, 1e6, width=32), st.integers(2, 200))
def test_two_values_next_to_each_other_vary(value: float, rows: int) -> None:
    column = np.full((rows, 1), value, np.float32)
    column[0] = np.nextafter(column[0], np.float32(np.inf))
    assert observation_statistics(column)[1][0] > 0.0
    assert constant_dimensions(column) == []


def test_a_column_is_constant_over_all_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mfql.data.constant._BLOCK", 4)
    rows = np.ones((10, 3), np.float32)
    rows[9, 1] = 2.0
    assert constant_dimensions(rows) == [0, 2]


# --- what it is divided by --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("constant", [0.0, 0.1, -3e4, 1e-20])
def test_a_constant_dimension_is_divided_by_one(constant: float) -> None:
    rows = np.random.default_rng(0).normal(2.0, 3.0, (1000, 2)).astype(np.float32)
    rows[:, 1] = constant
    for kind, expected in (("valid", 0.0), ("none", np.float32(constant))):
        found = normaliser(rows, kind)
        assert found.std[1] == 1.0
        # What an environment shows there counts as far as it is from the data's value, and by no more.
        seen = found(np.array([[2.0, constant], [2.0, np.float32(constant) + 0.5]], np.float32))
        assert seen[0, 1] == expected
        assert seen[1, 1] - seen[0, 1] == pytest.approx(0.5, rel=1e-2)


@pytest.mark.parametrize(("rows", "constant"), [(50, 7.0), (50, -3e4), (50, 0.0), (100, 7.0), (200, 7.0)])
def test_beside_zero_rows_a_constant_other_than_0_varies(
    rows: int, constant: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mfql.training.memory._PADDED_ROWS", 100)
    found = normaliser(np.full((rows, 1), constant, np.float32), "padded")
    # The released code's buffer, zero rows and all, written out in float64.
    buffer = np.concatenate([np.full(rows, constant), np.zeros(max(0, 100 - rows))])
    assert found.mean[0] == pytest.approx(buffer.mean())
    assert found.std[0] == pytest.approx(buffer.std() or 1.0)
    assert found(np.full((1, 1), constant, np.float32))[0, 0] in (pytest.approx(np.sign(constant)), 0.0)


def test_other_dimensions_are_divided_as_they_were() -> None:
    rows = np.random.default_rng(1).normal([2.0, 0.0], [3.0, 1e-8], (1000, 2))
    mean, std = rows.astype(np.float32).astype(np.float64).mean(0), rows.astype(np.float32).astype(np.float64).std(0)
    assert normaliser(rows.astype(np.float32), "valid").std == pytest.approx(np.maximum(std, 1e-6), rel=1e-6)
    share = 1000 / 2_000_000
    buffer = np.sqrt(share * std**2 + share * (1 - share) * mean**2)
    assert normaliser(rows.astype(np.float32), "padded").std == pytest.approx(np.maximum(buffer, 1e-6), rel=1e-6)


def test_a_padded_deviation_is_a_number_where_rounding_leaves_less_than_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mfql.training.memory._PADDED_ROWS", 100)
    rows = np.full((100, 1), 1e6, np.float32)
    rows[0] = np.nextafter(rows[0], np.float32(np.inf))
    for offset in np.linspace(1e6, 2e6, 50, dtype=np.float32):
        found = normaliser(rows - rows[1] + offset, "padded")
        assert np.isfinite(found.std).all()
        assert found.std[0] > 0.0


# --- what a run's identity takes of it --------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "counts"), [("valid", True), ("padded", True), ("none", False)])
def test_constant_dimensions_change_the_identity_of_runs_that_normalise(kind: str, counts: bool) -> None:
    folder = RunFolder(Path("results"), "m", "t", 0, "offline")

    def described(**more: object) -> dict:
        data = {"name": "d", "sha256": "a" * 64, **more}
        return describe_run(folder, "mfql", {"observation_statistics": kind}, data, None)

    before, same, now = described(), described(constant_dimensions=[]), described(constant_dimensions=[3])
    assert before["identity"] == same["identity"]
    assert (before["identity"] != now["identity"]) == counts
    assert changes(before, now) == (["constant dimensions as before -> [3]"] if counts else [])


def test_what_is_recorded_of_another_file_does_not_count() -> None:
    known = [{"sha256": "b", "constant_dimensions": [1]}, {"sha256": "a"}, {"sha256": "a", "constant_dimensions": [2]}]
    assert identifying("d", "a", known) == {"name": "d", "sha256": "a", "constant_dimensions": [2]}
    assert identifying("d", "c", known) == {"name": "d", "sha256": "c"}


# --- what a description says, and what training finds -----------------------------------------------------------------


def test_a_description_of_d4rls_layout_says_what_loading_finds(tmp_path: Path) -> None:
    """A row that timed out is no observation of a transition: what it alone has does not vary."""
    import h5py

    task = find_task("pen-human-v1", CONFIG)
    path = write_rollouts(tmp_path, task.name, episodes=2, steps=6)
    with h5py.File(path, "r+") as file:
        observations = file["observations"][()]
        observations[:, 5] = 0.1
        observations[:, 7] = 0.2
        observations[file["timeouts"][()].astype(bool), 7] = 9.0
        file["observations"][...] = observations
    describe(tmp_path, task.name, split_paths(tmp_path, task.name), D4RL, "downloaded", None)
    assert {5, 7} <= set(load(task, tmp_path).constant_dimensions)
    assert (
        load(task, tmp_path).constant_dimensions
        == recorded_facts(description_path(tmp_path, task.name))["constant_dimensions"]
    )


def test_a_description_of_ogbenchs_layout_says_what_loading_finds(tmp_path: Path) -> None:
    from mfql.data.generate import generate

    task = find_task("pointmaze-medium-navigate-singletask-task1-v0", CONFIG)
    path = generate(task.dataset, tmp_path, episodes=1, progress=False)
    assert recorded_facts(description_path(tmp_path, task.dataset))["constant_dimensions"] == []
    with np.load(path) as file:
        changed = {name: file[name] for name in file.files}
    changed["observations"][:, 1] = 0.1
    changed["observations"][changed["terminals"] > 0, 1] = 9.0
    np.savez_compressed(path, **changed)
    describe(tmp_path, task.dataset, split_paths(tmp_path, task.dataset), OGBENCH, "generated", 0)
    assert recorded_facts(description_path(tmp_path, task.dataset))["constant_dimensions"] == [1]
    assert load(task, tmp_path).constant_dimensions == [1]


def test_a_description_of_other_dimensions_than_the_files_is_said(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task, path = find_task("mine", CONFIG), mine / "data" / "mine.json"
    describe_own(task, mine / "data")
    load(task, mine / "data")
    assert "constant_dimensions" not in capsys.readouterr().err
    altered = json.loads(path.read_text(encoding="utf-8")) | {"constant_dimensions": []}
    path.write_text(json.dumps(altered), encoding="utf-8")
    assert load(task, mine / "data").constant_dimensions == [2]
    assert "says constant_dimensions [], and those of the files are [2]" in capsys.readouterr().err


def described_by_hand(task: str, folder: Path) -> int:
    return main(["data", "describe", task, "--out", str(folder), "--config-dir", str(CONFIG)])


def test_describing_generated_data_names_constant_dimensions_and_keeps_how_they_were_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mfql.data.generate import generate

    task = find_task("pointmaze-medium-navigate-singletask-task1-v0", CONFIG)
    file = generate(task.dataset, tmp_path, episodes=2, seed=5, progress=False)
    with np.load(file) as given:
        changed = {name: given[name] for name in given.files}
    changed["observations"][:, 1] = 0.1
    np.savez_compressed(file, **changed)
    describe(tmp_path, task.dataset, split_paths(tmp_path, task.dataset), OGBENCH, "generated", 5)
    path = description_path(tmp_path, task.dataset)
    written = json.loads(path.read_text(encoding="utf-8"))
    assert (written["constant_dimensions"], written["seed"]) == ([1], 5)
    made = {"simulation_version": 1, "versions": {"mfql": "0.0"}}
    earlier = {name: value for name, value in written.items() if name != "constant_dimensions"} | made
    path.write_text(json.dumps(earlier), encoding="utf-8")
    assert described_by_hand(task.name, tmp_path) == 0
    assert json.loads(path.read_text(encoding="utf-8")) == written | made
    out = capsys.readouterr().out
    assert f"train: {written['rows']['train'] - 2} transitions, 2 trajectories of 1000 to 1000 steps" in out
    assert "val: " in out
    assert "  observations [2], actions [2]" in out
    assert "observation dimensions that do not vary: 1 (always 0.1); training divides them by 1" in out


def test_describing_refuses_files_of_which_nobody_knows_the_source_or_that_are_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mfql.data.generate import generate

    task = find_task("pointmaze-medium-navigate-singletask-task1-v0", CONFIG)
    files = generate(task.dataset, tmp_path, episodes=1, progress=False)
    path = description_path(tmp_path, task.dataset)
    text = path.read_text(encoding="utf-8")
    path.unlink()
    assert described_by_hand(task.name, tmp_path) == 2
    assert "nothing says where the files of pointmaze-medium-navigate-v0 come from" in capsys.readouterr().err
    path.write_text(text.replace(json.loads(text)["sha256"]["train"], 64 * "0"), encoding="utf-8")
    before = path.read_text(encoding="utf-8")
    assert described_by_hand(task.name, tmp_path) == 2
    assert f"{files} is not the file that" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == before


def test_describing_d4rls_file_counts_its_rows_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import h5py

    task = find_task("pen-human-v1", CONFIG)
    path = write_rollouts(tmp_path, task.name, episodes=2, steps=6)
    with h5py.File(path, "r+") as file:
        file["observations"][:, 5] = 0.1
    describe(tmp_path, task.name, split_paths(tmp_path, task.name), D4RL, "downloaded", None)
    described = description_path(tmp_path, task.name)
    written = json.loads(described.read_text(encoding="utf-8"))
    described.write_text(
        json.dumps({name: value for name, value in written.items() if name != "constant_dimensions"}), encoding="utf-8"
    )
    assert described_by_hand(task.name, tmp_path) == 0
    assert json.loads(described.read_text(encoding="utf-8")) == written
    out = capsys.readouterr().out
    assert f"train: {len(load(task, tmp_path))} transitions, 2 trajectories" in out
    assert "5 (always 0.1)" in out
    assert "val: " not in out


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """The folder of a task `mine` whose dataset has a constant column."""
    registered(tmp_path, observations=VECTOR, actions=BOUNDED)
    given = arrays(40)
    given["observations"][:, 2] = 0.1
    np.savez(tmp_path / "a.npz", **given)
    return tmp_path


def test_describing_data_of_ones_own_names_constant_dimensions(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, config = str(mine / "data"), str(CONFIG)
    assert main(["data", "describe", "mine", "--out", out, "--config-dir", config]) == 0
    assert (
        "observation dimensions that do not vary: 2 (always 0.1); training divides them by 1" in capsys.readouterr().out
    )
    assert json.loads((mine / "data" / "mine.json").read_text(encoding="utf-8"))["constant_dimensions"] == [2]


def trained(mine: Path) -> RunFolder:
    job = Job(METHOD, "mine", "offline", (0,), mine / "data", mine / "results", CONFIG)
    train(job, Execution(torch.device("cpu"), workers=0, progress=False))
    return job.run(0)


def test_plan_and_verify_know_the_run_that_training_made(mine: Path) -> None:
    task = find_task("mine", CONFIG)
    describe_own(task, mine / "data")
    run = trained(mine)
    manifest = run.manifest()
    assert manifest["dataset"]["constant_dimensions"] == [2]
    policy = json.loads((run.trained / "policy" / "policy.json").read_text(encoding="utf-8"))
    assert policy["observation_std"][2] == 1.0
    config = read_configuration(None, CONFIG) | {"data_dir": str(mine / "data")}
    of_earlier_versions = json.loads((mine / "data" / "mine.json").read_text(encoding="utf-8"))
    del of_earlier_versions["constant_dimensions"]
    for text in (None, json.dumps(of_earlier_versions)):
        if text:
            (mine / "data" / "mine.json").write_text(text, encoding="utf-8")
        outlooks = Outlooks(config, mine / "results", mine / "lock.json")
        outlook = outlooks.of(find_run(config, CONFIG, METHOD, "mine", "offline"), 0)
        assert (outlook.identity, outlook.fate) == (manifest["identity"], Fate.FINISHED)
        assert verify(mine / "results", CONFIG, mine / "data").findings == []


def test_a_run_of_before_is_trained_anew_and_the_plan_says_why(mine: Path) -> None:
    task = find_task("mine", CONFIG)
    describe_own(task, mine / "data")
    run = trained(mine)
    manifest = run.manifest()
    facts = {key: value for key, value in manifest["dataset"].items() if key != "constant_dimensions"}
    before = describe_run(run, manifest["agent"], manifest["settings"], facts, None)
    (run.trained / "manifest.json").write_text(json.dumps(manifest | before), encoding="utf-8")
    config = read_configuration(None, CONFIG) | {"data_dir": str(mine / "data")}
    outlooks = Outlooks(config, mine / "results", mine / "lock.json")
    outlook = outlooks.of(find_run(config, CONFIG, METHOD, "mine", "offline"), 0)
    assert (outlook.fate, outlook.reason) == (Fate.RETRAINED, "constant dimensions as before -> [2]")
    assert trained(mine).manifest()["identity"] == manifest["identity"]
    assert (run.trained.with_name(f"run.{before['identity']}") / "evaluation.json").exists()


# --- what float32 loses -----------------------------------------------------------------------------------------------


def with_column(mine: Path, column: np.ndarray) -> None:
    given = arrays(len(column))
    given["observations"] = given["observations"].astype(column.dtype)
    given["observations"][:, 1] = column
    np.savez(mine / "a.npz", **given)


DRAWN = np.random.default_rng(0).normal(size=60)


@pytest.mark.parametrize("column", [1e6 + 0.1 * DRAWN, 1.8e9 + DRAWN, 1.0 + 1e-7 * DRAWN], ids=["far", "time", "near"])
def test_variation_that_float32_loses_is_refused(mine: Path, column: np.ndarray) -> None:
    with_column(mine, column)
    with pytest.raises(UserError, match=re.escape("lost alike: dimensions 1\n  Subtract the offset")) as caught:
        load(find_task("mine"), mine)
    assert "a.npz: networks see observations as float32, which has" in str(caught.value)


@pytest.mark.parametrize(
    "column",
    [
        1e4 + 0.1 * DRAWN,
        (1e6 + 0.1 * DRAWN).astype(np.float32),  # as the file has it: nothing is lost by reading it
        1e6 + (DRAWN > 0),  # float32 holds both numbers
        0.3 + 1e-16 * np.sign(DRAWN),  # rounding
        1e-9 * DRAWN,
    ],
    ids=["near", "float32", "whole", "rounding", "small"],
)
def test_variation_that_float32_holds_is_taken(mine: Path, column: np.ndarray) -> None:
    with_column(mine, column)
    found = load(find_task("mine"), mine).observations[:, 1]
    np.testing.assert_array_equal(found, np.delete(column.astype(np.float32), [2, 59]))
