"""Suites: what each says of its tasks, held against the task table; and one more, of another format, in one module."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pytest
from typing_extensions import override

import mfql.suites
from mfql.data.description import verify
from mfql.data.paths import description_path
from mfql.data.transitions import Dataset, Transitions, observation_statistics
from mfql.envs.isolated import Isolated, reset_env
from mfql.envs.registered import RegisteredEnv
from mfql.errors import UserError
from mfql.evaluation.usage import usage_of
from mfql.evaluation.vector import EnvPool
from mfql.suites import load, replayed, score_range, split_paths, suite_of
from mfql.suites.suite import Row, Suite
from mfql.tasks import Task, find_task, known_tasks

CONFIG = Path(__file__).parents[1] / "config"
TASKS = known_tasks(CONFIG)


@pytest.mark.parametrize("name", TASKS)
def test_the_table_and_the_suites_agree(name: str) -> None:
    task, suite = TASKS[name], suite_of(name)
    assert suite.has(name)
    assert suite is not None
    assert type(suite_of(task.dataset)) is type(suite)
    assert (suite.row(task.dataset).image is not None) == task.pixels
    assert (score_range(task) is not None) == (task.metric == "normalized_return")
    assert suite.rows(task.dataset, None) >= 5_000


def test_a_metric_that_the_suite_cannot_score_by_is_refused() -> None:
    task = replace(find_task("cube-single-play-singletask-task2-v0", CONFIG), metric="normalized_return")
    with pytest.raises(UserError, match=r"is scored by normalized_return(.*\n)+.*task table"):
        score_range(task)


@pytest.mark.parametrize(
    ("name", "observations", "said"),
    [
        ("visual-cube-single-play-singletask-task1-v0", "state", r"has images\n  Write pixels there"),
        ("cube-single-play-singletask-task1-v0", "pixels", r"has vectors of numbers\n  Write state there"),
    ],
)
def test_a_row_whose_observations_are_not_the_datasets_is_refused(
    name: str, observations: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        load(replace(find_task(name, CONFIG), observations=observations), tmp_path)


class Demonstrations(Suite):
    """A suite whose datasets are one HDF5 file with a group an episode, as imitation benchmarks have them."""

    name = "demonstrations"

    @override
    def has(self, name: str) -> bool:
        return name.startswith("demo-")

    @override
    def make(self, task: str, render: bool = False) -> Isolated:
        return Isolated(RegisteredEnv(gymnasium.make("MountainCarContinuous-v0"), "return", task))

    @override
    def paths(self, folder: str | Path, dataset: str) -> dict[str, Path]:
        return {"train": Path(folder) / f"{dataset}.demos.hdf5"}

    @override
    def load(self, task: Task, folder: str | Path) -> Dataset:
        paths = self.paths(folder, task.dataset)
        rows: dict[str, list[np.ndarray]] = {name: [] for name in Transitions.__dataclass_fields__}
        with h5py.File(paths["train"]) as file:
            for episode in file["data"].values():
                seen, length = episode["obs"][()], len(episode["actions"])
                rows["observations"].append(seen[:-1])
                rows["next_observations"].append(seen[1:])
                rows["actions"].append(episode["actions"][()])
                rows["rewards"].append(episode["rewards"][()])
                rows["masks"].append(np.ones(length))
                rows["terminals"].append(np.arange(length) == length - 1)
        train = Transitions(**{name: np.concatenate(parts).astype(np.float32) for name, parts in rows.items()})
        source, digest = verify(folder, task.dataset, paths)
        mean, std = observation_statistics(train.observations)
        known = {"sha256": digest, "name": task.dataset, "source": source}
        return Dataset(**vars(train), val=train, observation_mean=mean, observation_std=std, **known)

    @override
    def score_range(self, task: str) -> None:
        return None

    @override
    def row(self, dataset: str) -> Row:
        return Row(2, 1, 0)


def demonstrations(path: Path) -> None:
    env, draw = Demonstrations().make("demo-car"), np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for episode in range(3):
            observation, _ = reset_env(env, episode)
            seen, actions, rewards = [observation], [], []
            for _ in range(20):
                actions.append(draw.uniform(-1, 1, 1))
                observation, reward, *_ = env.step(actions[-1])
                seen.append(observation)
                rewards.append(float(reward))
            group = file.create_group(f"data/demo_{episode}")
            group["obs"], group["actions"], group["rewards"] = seen, actions, rewards


def test_a_suite_of_another_format_is_one_class_and_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = mfql.suites.suites
    monkeypatch.setattr(mfql.suites, "suites", lambda: [Demonstrations(), *known()])
    row = find_task("cube-single-play-singletask-task2-v0", CONFIG)
    task = replace(row, name="demo-car", dataset="demo-car", metric="return")
    demonstrations(split_paths(tmp_path, "demo-car")["train"])
    dataset = load(task, tmp_path)
    assert len(dataset) == 60
    assert dataset.source == "unknown"
    assert usage_of("demo-car")["environment"]["suite"] == "demonstrations"
    with EnvPool("demo-car", 2, 0) as pool:
        pool.reset({0: 1, 1: 2})
        assert pool.observations.shape == (2, 2)
    assert score_range(task) is None
    with pytest.raises(UserError, match="published nowhere"):
        suite_of("demo-car").fetch("demo-car", tmp_path, lock=tmp_path / "lock.json")
    with pytest.raises(UserError, match="no states to put its simulator into"):
        suite_of("demo-car").replay(task, tmp_path, 5)
    assert replayed([task, row]) == [row.name]
    assert not description_path(tmp_path, "demo-car").exists()
    assert suite_of("demo-car").describe(task, tmp_path).splits.keys() == {"train"}
    described = json.loads(description_path(tmp_path, "demo-car").read_text(encoding="utf-8"))
    assert (described["source"], described["episodes"], described["rows"]) == ("own", 3, {"train": 60})
    assert described["sha256"] == {"train": load(task, tmp_path).sha256}


class Published(Demonstrations):
    @override
    def address(self, dataset: str, path: Path) -> str:
        return f"https://nowhere.example/{path.name}"


def test_files_of_another_format_are_fetched_by_their_sha256_and_described_by_loading(tmp_path: Path) -> None:
    suite, there, here = Published(), tmp_path / "there", tmp_path / "here"
    there.mkdir()
    demonstrations(suite.paths(there, "demo-car")["train"])
    suite.fetch("demo-car", here, lock=tmp_path / "lock.json", local=there)
    path = description_path(here, "demo-car")
    fetched = json.loads(path.read_text(encoding="utf-8"))
    assert fetched["source"] == "downloaded"
    assert "rows" not in fetched
    row = find_task("cube-single-play-singletask-task2-v0", CONFIG)
    suite.describe(replace(row, name="demo-car", dataset="demo-car", metric="return"), here)
    described = json.loads(path.read_text(encoding="utf-8"))
    assert (described["rows"], described["constant_dimensions"]) == ({"train": 60}, [])
    assert described | fetched == described
    with h5py.File(suite.paths(here, "demo-car")["train"], "r+") as file:
        file["data/demo_0/rewards"][0] = 1.0
    with pytest.raises(UserError, match="is not the file that"):
        suite.describe(replace(row, name="demo-car", dataset="demo-car", metric="return"), here)
