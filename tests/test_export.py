"""Datasets in others' layouts: what is read of them again, and what the libraries of those layouts read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import gymnasium
import minari
import numpy as np
import pytest
import torch
from minari.data_collector import EpisodeBuffer

from mfql import cli
from mfql.cli import main
from mfql.data.export import FORMS
from mfql.data.transitions import Transitions
from mfql.documents import read_json, write_json
from mfql.draws import derived_seed
from mfql.envs.isolated import Isolated, reset_env
from mfql.locks import locked
from mfql.suites import load, suite_of
from mfql.tasks import find_task
from mfql.training.episodes import online_episodes, online_run
from mfql.training.memory import Memory
from tests.support.own_tasks import BOUNDED, VECTOR, arrays, registered, table
from tests.support.training_runs import ROOT, SHORT, TASK, Workplace

ROWS = [field.name for field in fields(Transitions)]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a task `mine`: a trajectory that its time limit ends, and one that the task ends."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.chdir(Path(__file__).parents[1])
    registered(tmp_path, observations=VECTOR, actions=BOUNDED)
    given = arrays(12)
    given["masks"][10] = 0.0
    np.savez(tmp_path / "a.npz", **given)
    return tmp_path


def exported(folder: Path, form: str, name: str, *more: str, task: str = "mine") -> int:
    return main(["data", "export", task, str(folder / name), "--to", form, "--data", str(folder), *more])


def read(folder: Path, data: str) -> Transitions:
    """What training sees of a file, by a task table of its own."""
    other = folder / f"of-{data.partition(':')[2] or data}"
    other.mkdir()
    path = data if data.startswith("minari:") else folder / data
    table(other, f"mine,Odd-v0,{path},return,10,,\n")
    return load(find_task("mine"), other)


def assert_equal(found: Transitions, expected: Transitions) -> None:
    for name in ROWS:
        one, other = (np.asarray(getattr(rows, name)) for rows in (found, expected))
        assert (name, one.shape, one.tobytes()) == (name, other.shape, other.astype(one.dtype).tobytes())


def test_the_command_line_names_the_forms() -> None:
    assert set(cli._EXPORTED) == set(FORMS)


@pytest.mark.parametrize(
    "chain",
    [
        [("npz", "b.npz"), ("minari", "b-v0"), ("npz", "c.npz")],
        [("minari-arrow", "b-v0"), ("npz", "b.npz"), ("minari", "c-v0"), ("minari-arrow", "d-v0")],
    ],
)
def test_what_is_read_of_an_export_is_equal_to_the_last_bit(mine: Path, chain: list[tuple[str, str]]) -> None:
    expected = load(find_task("mine"), mine)
    for form, name in chain:
        assert exported(mine, form, name) == 0
        assert_equal(read(mine, name if form == "npz" else f"minari:{name}"), expected)
    assert expected.terminals.sum() == 2


@pytest.mark.parametrize("form", ["minari", "minari-arrow"])
def test_minari_reads_ends_spaces_and_where_the_data_come_from(
    mine: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exported(mine, form, "b-v0") == 0
    said = capsys.readouterr()
    assert "licence: unknown" in said.out
    given, found = np.load(mine / "a.npz"), minari.load_dataset("b-v0")
    assert [len(episode) for episode in found] == [2, 8]
    for episode, kept in zip(found, (slice(0, 3), slice(3, 12)), strict=True):
        np.testing.assert_array_equal(episode.observations, given["observations"][kept])
        np.testing.assert_array_equal(episode.actions, given["actions"][kept][:-1])
        assert (episode.observations.dtype, episode.actions.dtype) == (np.float64, np.float64)
    ends = [(episode.terminations[-1], episode.truncations[-1]) for episode in found]
    assert ends == [(False, True), (True, False)]
    assert (found.observation_space, found.action_space) == (VECTOR, BOUNDED)
    about = json.loads(found.storage.metadata["mfql"])
    assert (about["task"], about["source"], about["split"]) == ("mine", "unknown", "train")
    assert about["licence"].startswith("unknown")


def test_the_file_says_where_its_data_come_from(mine: Path) -> None:
    assert exported(mine, "npz", "b.npz") == 0
    about = json.loads(str(np.load(mine / "b.npz")["about"]))
    assert (about["task"], about["env_id"], about["citation"]) == ("mine", "Odd-v0", None)


def test_an_ogbench_dataset_is_exported_as_its_task_sees_it(
    finished_runs: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.chdir(Path(__file__).parents[1])
    data, expected = finished_runs.folder / "data", load(find_task(TASK), finished_runs.folder / "data").val
    options = ["--split", "val", "--data", str(data)]
    for form, name in (("npz", "b.npz"), ("minari", "b-v0")):
        assert main(["data", "export", TASK, str(tmp_path / name), "--to", form, *options]) == 0
    assert "licence: of whoever generated them" in capsys.readouterr().out
    file = np.load(tmp_path / "b.npz")
    assert_equal(Transitions(**{name: file[name] for name in ROWS}), expected)
    dataset = minari.load_dataset("b-v0")
    found = list(dataset)
    for name, values in {
        "observations": expected.observations,
        "next_observations": expected.next_observations,
    }.items():
        cut = slice(None, -1) if name == "observations" else slice(1, None)
        np.testing.assert_array_equal(np.concatenate([episode.observations[cut] for episode in found]), values)
    terminations = np.concatenate([episode.terminations for episode in found])
    np.testing.assert_array_equal(terminations, expected.masks == 0)
    assert dataset.recover_environment().spec.max_episode_steps == dataset.env_spec.max_episode_steps > 100


@pytest.mark.parametrize(
    ("form", "name", "change", "said"),
    [
        ("npz", "b.csv", {}, "is no name of an .npz file"),
        ("minari", "b", {}, "Name the folder NAME-v0: b-v0."),
        ("minari", "there-v0", {}, "there-v0 is there already"),
        ("minari", "b-v0", {"masks": 0.5}, "masks of 10 transitions are neither 0 nor 1"),
        ("minari-arrow", "b-v0", {"next_observations": 1e-9}, "are not to the last bit the observation of the row"),
    ],
)  # fmt: skip
def test_what_a_form_cannot_hold_is_refused(
    mine: Path, form: str, name: str, change: dict[str, float], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = dict(np.load(mine / "a.npz"))
    if "masks" in change:
        given["masks"][:] = change["masks"]
    if "next_observations" in change:
        after = np.roll(given["observations"], -1, axis=0)
        given["next_observations"] = after * (1 + change["next_observations"])
    np.savez(mine / "a.npz", **given)
    (mine / "there-v0").mkdir()
    before = sorted(mine.rglob("*"))
    assert exported(mine, form, name) == 2
    assert said in capsys.readouterr().err
    assert sorted(mine.rglob("*")) == before


def test_nothing_half_written_is_left(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("minari.dataset._storages.hdf5_storage.HDF5Storage.update_episodes", full)
    before = sorted(mine.rglob("*"))
    assert exported(mine, "minari", "b-v0") == 2
    assert sorted(mine.rglob("*")) == before


@pytest.mark.filterwarnings("ignore:.*is set to None:UserWarning")
def test_a_dataset_that_minari_wrote_is_exported_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.chdir(Path(__file__).parents[1])
    space, recorded = gymnasium.make("Pendulum-v1").observation_space, []
    rng = np.random.default_rng(0)
    for number in range(2):
        env = gymnasium.make("Pendulum-v1", max_episode_steps=30)
        observations, rewards, actions = [env.reset(seed=number)[0]], [], []
        for _ in range(30):
            actions.append(rng.uniform(-2, 2, 1).astype(np.float32))
            observation, reward, *_ = env.step(actions[-1])
            observations.append(observation)
            rewards.append(reward)
        ends = np.arange(30) == 29
        recorded.append(
            EpisodeBuffer(
                id=number,
                observations=np.array(observations),
                actions=np.array(actions),
                rewards=rewards,
                terminations=np.zeros(30, bool),
                truncations=ends,
                infos={"torque": np.arange(31.0)},
            )
        )
    minari.create_dataset_from_buffers("theirs/pendulum-v0", recorded, env=env)
    table(tmp_path, "mine,,minari:theirs/pendulum-v0,return,30,,\n")
    assert exported(tmp_path, "minari", "b-v0") == 0
    assert "has infos of its steps (torque), which are not written" in capsys.readouterr().err
    theirs, ours = (minari.load_dataset(name) for name in ("theirs/pendulum-v0", "b-v0"))
    assert (ours.env_spec, ours.observation_space, ours.action_space) == (theirs.env_spec, space, theirs.action_space)
    for one, other in zip(ours, theirs, strict=True):
        for name in ("observations", "actions", "rewards", "terminations", "truncations"):
            found, expected = getattr(one, name), getattr(other, name)
            assert (name, found.dtype, found.tobytes()) == (name, expected.dtype, expected.tobytes())


@pytest.mark.parametrize("recorded", ["hdf5", "arrow"])
@pytest.mark.parametrize(
    ("named", "env_id", "limit"), [("pendulum", "Pendulum-v1", 7), ("invertedpendulum", "InvertedPendulum-v5", 8)]
)
def test_what_minaris_collector_recorded_comes_back_from_every_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: str, named: str, env_id: str, limit: int
) -> None:
    """Every episode of a dataset that no code of this project has touched, to the last bit, over all forms."""
    shutil.copytree(ROOT / "tests" / "data" / "minari" / named, tmp_path / named)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.chdir(ROOT)
    theirs = list(minari.load_dataset(f"{named}/{recorded}-v0"))
    ended = [bool(episode.terminations[-1]) for episode in theirs]
    assert ended == ([False] * 4 if named == "pendulum" else [True, True, True, False])
    assert theirs[0].observations.dtype == (np.float32 if named == "pendulum" else np.float64)
    source = f"minari:{named}/{recorded}-v0"
    for number, form in enumerate(("minari-arrow", "npz", "minari", "npz", "minari-arrow", "minari")):
        (folder := tmp_path / str(number)).mkdir()
        table(folder, f"mine,{env_id},{source},return,{limit},,\n")
        name = f"case{number}.npz" if form == "npz" else f"case{number}-v0"
        assert exported(folder, form, f"../{name}") == 0
        source = str(tmp_path / name) if form == "npz" else f"minari:{name}"
        if form != "npz":
            ours = list(minari.load_dataset(name))
            assert len(ours) == len(theirs) == 4
            for one, other in zip(ours, theirs, strict=True):
                for part in ("observations", "actions", "rewards", "terminations", "truncations"):
                    found, expected = getattr(one, part), getattr(other, part)
                    assert (part, found.dtype, found.tobytes()) == (part, expected.dtype, expected.tobytes())


@pytest.fixture
def online(mine: Path, made_once: Callable[[str, Callable[[Path], object]], Path]) -> tuple[Path, Path]:
    """A folder with the task `mine`, and its online run of ten steps: three episodes of three steps, and a step."""

    def trained(folder: Path) -> None:
        shutil.copytree(ROOT / "config", folder / "config")
        shutil.copy(mine / "a.npz", folder)
        place = Workplace(folder)
        place.method("short", SHORT)
        for stage in ("offline", "online"):
            place.train_here("short", stage, (4,), task="mine", data=".")

    shutil.copytree(made_once("online-run-of-one's-own", trained) / "results", mine / "results")
    return mine, Workplace(mine).run("short", 4, "online", task="mine")


def stepped(actions: np.ndarray) -> list[list[np.ndarray]]:
    """What the environment shows in the run's episodes, done again with the same seeds and actions."""
    env, seen, rest = make_own(), [], list(actions)
    for number in range(4):
        seen.append([reset_env(env, derived_seed(4, "online/episode", number))[0]])
        while rest and len(seen[-1]) < 4:
            seen[-1].append(env.step(rest.pop(0))[0])
    env.close()
    return seen


def make_own() -> Isolated:
    return suite_of("mine").make("mine")


@pytest.mark.parametrize("form", ["npz", "minari", "minari-arrow"])
def test_a_runs_online_episodes_are_those_of_its_environment(
    online: tuple[Path, Path], form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, run = online
    name = "online.npz" if form == "npz" else "online-v0"
    assert exported(folder, form, name, "--run", str(run.parent)) == 0
    said = capsys.readouterr()
    assert "its checkpoint of step 10 has all 10 online steps so far" in said.out
    assert "the last episode was not finished: its 1 steps end" in said.err
    assert "licence: of whoever collected them" in said.out
    found = read(folder, name if form == "npz" else f"minari:{name}")
    assert np.flatnonzero(found.terminals).tolist() == [2, 5, 8, 9]
    assert np.flatnonzero(found.masks == 0).tolist() == [2, 5, 8]
    assert found.rewards.tolist() == [1.0] * 10
    if form == "npz":
        actions = np.load(folder / name)["actions"]
        about = json.loads(str(np.load(folder / name)["about"]))
    else:
        dataset = minari.load_dataset(name)
        actions = np.concatenate([episode.actions for episode in dataset])
        about = json.loads(dataset.storage.metadata["mfql"])
    assert (about["run"], about["step"], about["finished"]) == ("short/mine/seed4/online", 10, True)
    seen = stepped(actions)
    np.testing.assert_allclose(found.observations, np.concatenate([part[:-1] for part in seen]), rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.next_observations, np.concatenate([part[1:] for part in seen]), rtol=0, atol=1e-6)
    low, high = BOUNDED.low, BOUNDED.high
    np.testing.assert_allclose(found.actions, 2 * (actions - low) / (high - low) - 1, atol=1e-5)


def test_a_run_that_trains_is_exported_as_its_last_whole_checkpoint_has_it(
    online: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, run = online
    (run / "evaluation.json").unlink()
    last = run / "checkpoint" / "step-000000010.pt"
    last.write_bytes(last.read_bytes()[:-1])
    with locked(run.parent / "lock"):
        assert exported(folder, "npz", "online.npz", "--run", str(run.parent)) == 0
    said = capsys.readouterr()
    assert "not finished; its checkpoint of step 5 has all 5 online steps so far" in said.out
    assert "is cut or altered: its content does not match its checksum; passed over" in said.err
    found = read(folder, "online.npz")
    assert np.flatnonzero(found.terminals).tolist() == [2, 4]
    assert found.masks.tolist() == [1, 1, 0, 1, 1]


def test_how_many_rows_a_buffer_has_overwritten_is_as_the_memory_draws(
    online: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows by their numbers as rewards: 10 of the dataset and 10 online steps, in a buffer of 11 slots."""
    folder, run = online
    found, env, dataset = online_run(run.parent, "mine"), make_own(), load(find_task("mine"), folder)
    changed = replace(found, manifest=found.manifest | {"settings": found.manifest["settings"] | {"replay_rows": 5}})
    rows, _ = online_episodes(changed, dataset, env.units)
    env.close()
    assert (len(dataset), len(rows)) == (10, 10)
    assert "of its buffer of 11 rows 9 were overwritten, 0 of these online steps" in capsys.readouterr().out
    numbers = np.arange(10, dtype=np.float32)
    memory = Memory({"rewards": numbers}, 1, 10, None, torch.device("cpu"), replay_rows=5)
    for row in range(10):
        memory.append(row, {"rewards": torch.tensor([10.0 + row])})
    drawn = set(memory.batch(torch.arange(1000)[None])["rewards"].flatten().tolist())
    assert len(drawn) == 20 - 9 - 1  # The slot that is written next is not drawn.
    assert drawn == {9.0, *range(11, 20)}


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("offline", "is a run of the stage offline, which steps no environment"),
        ("no run", "holds no run"),
        ("other data", "was trained on another version of mine than lies here"),
        ("no checkpoint", "has no whole checkpoint, which alone has the online episodes"),
        ("altered", "is altered: it has other settings, versions or data than its identity is of"),
    ],
)
def test_a_run_whose_episodes_are_not_to_be_had_is_refused(
    online: tuple[Path, Path], fault: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, run = online
    asked = {"offline": run.parents[1] / "offline", "no run": folder}.get(fault, run.parent)
    if fault == "other data":
        np.savez(folder / "a.npz", **arrays(13))
    if fault == "no checkpoint":
        shutil.rmtree(run / "checkpoint")
    if fault == "altered":
        manifest = read_json(run / "manifest.json")
        write_json(run / "manifest.json", manifest | {"training_version": 99})
    assert exported(folder, "npz", "online.npz", "--run", str(asked)) == 2
    assert said in capsys.readouterr().err
    assert not (folder / "online.npz").exists()
