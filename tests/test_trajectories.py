"""Trajectories over mazes: the policy's own episodes in the environment's own map, as a panel that the report shows."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mfql.cli import main
from mfql.envs.isolated import reset_env
from mfql.evaluation.policy import load_policy
from mfql.evaluation.trajectories import trajectories
from mfql.report.html import LARGE_FIGURE
from mfql.report.panels import read_panels
from mfql.report.svg import inlined
from mfql.suites import make_env, suite_of
from tests.support.policies import CUBE, POINTMAZE, write
from tests.support.project import clone, jobs

EPISODES = 2


def run_of(results: Path, method: str, seed: int, task: str = POINTMAZE) -> Path:
    """The folder of a run whose policy is drawn at random."""
    folder = results / "runs" / method / task / f"seed{seed}" / "offline"
    write(folder / "run" / "policy", task, seed=seed)
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trajectories")
    run_of(folder, "mfql", 0)
    run_of(folder, "mfql", 1)
    (folder / "runs" / "flow_bc" / POINTMAZE / "seed0" / "offline").mkdir(parents=True)
    return folder


def test_positions_are_those_of_a_plain_loop_in_the_same_episodes(results: Path) -> None:
    run = results / "runs" / "mfql" / POINTMAZE / "seed0" / "offline"
    maze, found = trajectories(run, EPISODES)
    policy = load_policy(run)
    env = policy.make_env()
    for episode, one in enumerate(found):
        observation, _ = reset_env(env, policy.begin(episode, EPISODES))
        places, ended, success = [env.base.get_xy().copy()], False, False
        while not ended:
            observation, _, terminated, truncated, info = env.step(policy(observation))
            places.append(env.base.get_xy().copy())
            ended, success = terminated or truncated, success or info["success"] > 0
        np.testing.assert_allclose(one.positions, places, rtol=0, atol=1e-6)  # An observation is of single precision.
        assert (one.episode, one.success) == (episode, success)
    # The map is the simulator's: its blocks stand where its geometries do, and nobody walks through them.
    model = env.base.model
    blocks = [at for at in range(model.ngeom) if model.geom(at).name.startswith("block_")]
    geoms = sorted(model.geom_pos[at][:2].tolist() for at in blocks)
    env.close()
    assert geoms == sorted(maze.walls.tolist())
    assert {tuple(model.geom_size[at][:2]) for at in blocks} == {(maze.unit / 2, maze.unit / 2)}
    walked = np.concatenate([one.positions for one in found])
    assert np.abs(walked[:, None] - maze.walls[None]).max(axis=2).min() > maze.unit / 2


def test_of_chunks_the_steps_are_the_environment_s(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mfql" / POINTMAZE / "seed0" / "offline"
    write(run / "run" / "policy", POINTMAZE, "mfql-miniature+horizon=3")
    _, (one,) = trajectories(run, 1)
    policy = load_policy(run)
    env = policy.make_env()
    observation, _ = reset_env(env, policy.begin(0, 1))
    places, ended = [env.base.get_xy().copy()], False
    while not ended:
        observation, _, terminated, truncated, _ = env.step(policy(observation))
        places.append(env.base.get_xy().copy())
        ended = terminated or truncated
    env.close()
    last = len(places) - 1
    assert one.steps.tolist() == [*range(0, last, 3), last]
    np.testing.assert_allclose(one.positions, np.array(places)[one.steps], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["pointmaze", "antmaze", "humanoidmaze"])
def test_an_observation_begins_with_the_place_in_every_maze_that_is_drawn(kind: str) -> None:
    task = f"{kind}-medium-navigate-singletask-task2-v0"
    assert suite_of(task).in_maze(task)
    env = make_env(task)
    observation, _ = reset_env(env, 3)
    np.testing.assert_allclose(observation[:2], env.base.get_xy(), rtol=1e-6)
    env.close()


@pytest.mark.parametrize("task", ["visual-antmaze-medium-navigate-singletask-task1-v0", "antmaze-umaze-v2", CUBE])
def test_other_tasks_are_not_drawn(task: str) -> None:
    assert not suite_of(task).in_maze(task)


def test_the_panel_says_what_it_shows_and_what_it_leaves_out(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study"
    runs = sorted(map(str, results.glob("runs/*/*/*/offline")))
    out = study / "trajectories" / POINTMAZE / "offline"
    assert main(["trajectories", *runs, "--episodes", str(EPISODES), "--out", str(out)]) == 0
    assert "its trajectories are left out" in capsys.readouterr().err
    (panel,) = read_panels(study)
    assert (panel.section, panel.text.task) == ("trajectories", POINTMAZE)
    assert "Left out: flow_bc seed 0 (" in panel.text.caption
    data = pd.read_csv(out / "data.csv")
    assert set(data["method"]) == {"mfql"}
    assert data.groupby(["seed", "episode"]).ngroups == 2 * EPISODES
    assert data.groupby(["seed", "episode"]).size().max() <= 60
    drawn = (out / "figure.svg").read_text(encoding="utf-8")
    assert f"of {2 * EPISODES} reached the goal" in drawn
    assert "0 of 0 reached the goal" in drawn
    assert len(inlined(drawn, "panel-1", "x") or "") < 60_000 < LARGE_FIGURE


def test_runs_of_other_tasks_or_none_are_refused(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(results / "runs" / "mfql" / POINTMAZE / "seed0" / "offline")
    other = str(run_of(results / "others", "mfql", 0, CUBE))
    out = ["--out", str(results / "out")]
    for runs, said in (([run, other], "several tasks or stages"), ([str(results)], "is no run's folder")):
        assert main(["trajectories", *runs, *out]) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["trajectories", run, "--episodes", "51", *out])
    assert "51 is above 50" in capsys.readouterr().err
    assert not (results / "out").exists()


def test_a_run_that_is_named_twice_counts_once_and_a_file_is_no_place_for_a_panel(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(results / "runs" / "mfql" / POINTMAZE / "seed0" / "offline")
    out = tmp_path / "panel"
    assert main(["trajectories", run, f"{run}/", "--episodes", "1", "--out", str(out)]) == 0
    rows = pd.read_csv(out / "data.csv")
    assert not rows.duplicated(["seed", "episode", "step"]).any()
    (file := tmp_path / "file").write_text("kept", encoding="utf-8")
    assert main(["trajectories", run, "--episodes", "1", "--out", str(file)]) == 2
    assert f"cannot write {file}" in capsys.readouterr().err
    assert file.read_text(encoding="utf-8") == "kept"


@pytest.mark.slow
def test_a_launch_draws_them_where_the_configuration_asks_and_the_report_waits_for_them(tmp_path: Path) -> None:
    project = clone(tmp_path / "mfql")
    options = ("-n", "report", "--configfile", "tests/miniature.yaml")
    assert "trajectories" not in jobs(project.snakemake(*options))
    printed = project.snakemake(*options, "--config", "trajectories=2")
    assert jobs(printed)["trajectories"] == 2
    asked = printed[printed.index("rule report:") :]
    for stage in ("offline", "online"):
        assert re.search(rf"input: .*results/miniature/trajectories/\S+/{stage}/panel\.json", asked)
