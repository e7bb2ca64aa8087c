"""Datasets of one's own: what of a file becomes rows, which files are refused, and what is known a file by."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from mfql.cli import main
from mfql.data.arrays import refuse_missing
from mfql.data.own import _refuse_lost_variation
from mfql.data.own import describe as describe_own
from mfql.data.plausible import look_normalised, refuse_unmarked_ends
from mfql.documents import read_json, write_json
from mfql.envs.units import ActionUnits
from mfql.errors import UserError
from mfql.files import sha256
from mfql.suites import load, suite_of
from mfql.tasks import find_task
from tests.support.own_tasks import BOUNDED, VECTOR, arrays, registered, table

ROOT = Path(__file__).parents[1]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """The folder of a task `mine` with a dataset that is whole."""
    registered(tmp_path, observations=VECTOR, actions=BOUNDED)
    np.savez(tmp_path / "a.npz", **arrays())
    return tmp_path


def test_the_last_row_of_a_trajectory_is_an_observation_alone(mine: Path) -> None:
    found, given = load(find_task("mine"), mine), arrays()
    np.testing.assert_allclose(found.observations, given["observations"][[0, 1, 3, 4]], rtol=1e-6)
    np.testing.assert_allclose(found.next_observations, given["observations"][[1, 2, 4, 5]], rtol=1e-6)
    assert found.terminals.tolist() == [0, 1, 0, 1]
    low, high = BOUNDED.low, BOUNDED.high
    np.testing.assert_allclose(found.actions, 2 * (given["actions"][[0, 1, 3, 4]] - low) / (high - low) - 1, atol=1e-5)
    assert (found.source, len(found.val)) == ("unknown", 2)


def test_every_row_is_a_transition_where_the_file_has_next_observations(mine: Path) -> None:
    given = arrays()
    after = np.where(given["terminals"][:, None], 9.0, np.roll(given["observations"], -1, axis=0))
    np.savez(mine / "a.npz", **given, next_observations=after)
    found = load(find_task("mine"), mine)
    assert (len(found), found.terminals.tolist()) == (6, [0, 0, 1, 0, 0, 1])
    np.testing.assert_array_equal(found.next_observations, after.astype(np.float32))
    assert not found.fragmented()


@pytest.mark.parametrize("layout", ["npz", "hdf5"])
def test_rows_in_no_order_have_their_own_next_observations_and_no_returns(
    mine: Path, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given, rng = arrays(60), np.random.default_rng(1)
    given["observations"] = np.cumsum(given["observations"], axis=0)
    after = np.roll(given["observations"], -1, axis=0)
    order = rng.permutation(60)
    rows = {name: values[order] for name, values in (given | {"next_observations": after}).items()}
    if layout == "npz":
        np.savez(mine / "a.npz", **rows | {"terminals": np.arange(60) == 59})
    else:
        with h5py.File(mine / "a.hdf5", "w") as file:
            for name in ("observations", "actions", "rewards", "next_observations"):
                file[name] = rows[name]
            file["terminals"], file["timeouts"] = np.zeros(60, bool), np.zeros(60, bool)
        other = mine / "other"
        other.mkdir()
        table(other, f"mine,Odd-v0,{mine / 'a.hdf5'},return,10,,\n")
    found = load(find_task("mine"), mine)
    assert len(found) == 60
    np.testing.assert_array_equal(found.next_observations, after[order].astype(np.float32))
    assert found.fragmented()
    assert "the rows are in no order of time" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "before"), [("rows", {"train": 5}), ("episodes", 3)])
def test_a_file_of_which_others_were_read_before_is_no_dataset_of_earlier_runs(
    mine: Path, name: str, before: object
) -> None:
    describe_own(find_task("mine"), mine)
    load(find_task("mine"), mine)
    path = mine / "mine.json"
    write_json(path, read_json(path) | {name: before})
    for again in (load, describe_own):
        with pytest.raises(UserError, match=f"says {name} .*an earlier version read them otherwise"):
            again(find_task("mine"), mine)
    assert read_json(path)[name] == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_episodes", [1, 2]),
        ("num_episodes", 10**15),
        ("num_episodes", b"one"),
        ("terminated_0", [True, False]),
        ("rewards_0", 1.0),
        ("rewards_0", None),
    ],
)
def test_a_faulty_file_in_d3rlpys_layout_is_named(mine: Path, name: str, value: object) -> None:
    given = {"columns": [b"observations"], "num_episodes": 1, "terminated_0": True}
    given |= {f"{array}_0": arrays()[array] for array in ("observations", "actions", "rewards")}
    with h5py.File(mine / "a.hdf5", "w") as file:
        for array, values in (given | {name: value}).items():
            if values is None:
                file.create_group(array)
            else:
                file[array] = values
    table(mine, "mine,Odd-v0,a.hdf5,return,10,,\n")
    with pytest.raises(UserError, match=r"a\.hdf5 is no readable HDF5 file"):
        load(find_task("mine"), mine)


def test_a_validation_file_is_used(mine: Path) -> None:
    np.savez(mine / "a-val.npz", **arrays(9))
    assert len(load(find_task("mine"), mine).val) == 7


def change(name: str, index: object, value: float) -> Callable[[dict[str, np.ndarray]], None]:
    def apply(given: dict[str, np.ndarray]) -> None:
        given[name][index] = value

    return apply


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda given: given.pop("masks"), "rewards, terminals\n  masks [N] says where the future counts"),
        (lambda given: given.update(observations=np.zeros((6, 4))), "vectors of [4], and the environment's are of [3]"),
        (lambda given: given.update(rewards=np.zeros(5)), "observations has 6 rows, rewards 5, and a row is a step"),
        (lambda given: given.update(rewards=np.zeros((6, 2))), "rewards has the shape [6, 2], observations [6, 3]"),
        (lambda given: given.update(rewards=np.array(["a"] * 6)), "which is no number"),
        (change("terminals", -1, False), "the last row does not end its trajectory"),
        (change("observations", 5, np.nan), "next_observations of 1 of 4 transitions are no finite numbers"),
        (change("rewards", 3, np.inf), "rewards of 1 of 4 transitions are no finite numbers, first of transition 2"),
        (change("actions", (1, 0), 1.5), "actions of 1 of 4 transitions are out of the environment's bounds [0.0"),
        (change("masks", 0, 2.0), "masks of 1 of 6 rows are not between 0 and 1"),
    ],
)  # fmt: skip
def test_a_faulty_dataset_is_named_with_what_to_do(mine: Path, spoil: Callable, said: str) -> None:
    given = arrays()
    spoil(given)
    np.savez(mine / "a.npz", **given)
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        load(find_task("mine"), mine)
    assert "a.npz" in str(caught.value)
    assert "\n  " in str(caught.value)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("b.npz", "b.npz does not exist"),
        ("a.csv", "neither .npz nor .hdf5 nor minari:ID"),
        ("broken.npz", "is no readable .npz file"),
        ("minari:no/such-v0", "minari download no/such-v0"),
    ],
)
def test_a_dataset_that_cannot_be_read_is_named(mine: Path, data: str, said: str, monkeypatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(mine / "minari"))
    (mine / "a.csv").touch()
    (mine / "broken.npz").write_bytes(b"PK\x03\x04 cut")
    other = mine / "other"
    other.mkdir()
    for name in ("a.csv", "broken.npz"):
        (mine / name).rename(other / name)
    table(other, f"mine,Odd-v0,{data},return,10,,\n")
    with pytest.raises(UserError, match=re.escape(said)):
        load(find_task("mine"), mine)


def test_a_described_dataset_is_known_by_its_content_and_its_environment(mine: Path, tmp_path: Path) -> None:
    task, folder = find_task("mine"), tmp_path / "data"
    describe_own(task, folder)
    assert load(task, folder).source == "own"
    np.savez(mine / "a.npz", **arrays(9))
    with pytest.raises(UserError, match=r"a\.npz is not the file that mine\.json describes"):
        load(task, folder)
    other = tmp_path / "other"
    other.mkdir()
    table(other, f"mine,Odd-v0,{mine / 'a.npz'},return,20,,\n")
    with pytest.raises(UserError, match=r"max_episode_steps of mine is 20 in its task table, and .*mine\.json says 10"):
        load(find_task("mine"), folder)


def test_the_numbers_of_a_dataset_are_shown_beside_the_bounds_of_its_environment(mine: Path) -> None:
    np.savez(mine / "a.npz", **arrays() | {"observations": np.arange(18.0).reshape(6, 3), "rewards": np.arange(6.0)})
    shown = [line.split() for line in describe_own(find_task("mine"), mine).text().splitlines()]
    given = arrays()["actions"][[0, 1, 3, 4]]
    ends = [[f"{end(column):.4g}" for end in (np.min, np.max)] for column in given.T]
    assert shown[4:] == [
        ["least", "greatest", "bounds"],
        ["observation", "0", "0", "12"],
        ["observation", "1", "1", "13"],
        ["observation", "2", "2", "14"],
        ["action", "0", *ends[0], "0", "to", "1"],
        ["action", "1", *ends[1], "-2", "to", "4"],
        ["reward", "0", "4"],
    ]


def test_of_many_dimensions_the_ends_of_all_are_shown(tmp_path: Path) -> None:
    registered(tmp_path, observations=Box(-40.0, 40.0, (30,)), actions=BOUNDED)
    given = arrays() | {"observations": np.linspace(-3.0, 3.0, 180).reshape(6, 30)}
    np.savez(tmp_path / "a.npz", **given)
    shown = [line.split() for line in describe_own(find_task("mine"), tmp_path).text().splitlines()]
    assert ["observations,", "all", "30", "-3", "1.994", "-40", "to", "40"] in shown


def test_a_task_of_the_project_has_no_dataset_to_describe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(ROOT / "config")
    assert main(["data", "describe", "pen-human-v1", "--out", str(tmp_path), "--config-dir", config]) == 2
    assert "mfql data fetch" in capsys.readouterr().err


def test_an_array_of_the_layout_is_not_taken_for_another(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        refuse_missing("a.npz", ("observations", "terminals"), ("next_observations", "timeouts", "states"), "Do it.")
    assert str(caught.value) == (
        "a.npz lacks the arrays observations, terminals; it has next_observations, states, timeouts\n"
        "  Did you mean observations by states? Then rename what the file has. Do it."
    )


@pytest.mark.parametrize(
    ("high", "actions", "normalised"),
    [
        ([2.0, 1.0], [[-1.0, 0.3], [1.0, -0.2]], True),
        ([2.0, 5.0], [[-1.0, 0.3], [1.0, -0.2]], False),
        ([2.0, 5.0], [[-0.995, 1.0], [0.999, -1.0]], True),
        ([2.0, 1.0], [[-1.5, 0.0], [1.0, 0.0]], False),
        ([2.0, 1.0], [[-0.5, 1.0], [0.5, -1.0]], False),
        ([1.0, 1.0], [[-1.0, 1.0], [1.0, -1.0]], False),
    ],
)
def test_actions_look_normalised_that_reach_both_ends_where_these_are_no_bounds(
    high: list[float], actions: list[list[float]], normalised: bool
) -> None:
    units = ActionUnits.of_bounds([-end for end in high], high)
    assert look_normalised(np.array(actions), units) is normalised


# --- ends of episodes that are not marked ----------------------------------------------------------------------------


def drives(rng: np.random.Generator, steps: int, *, teleport: float = 0.0, new_goal: float = 0.0) -> np.ndarray:
    """An episode of a point and its goal, [steps, 4]: small steps, now and then to elsewhere or with another goal."""
    place, goal = rng.uniform(-1.0, 1.0, (2, 2))
    rows = []
    for _ in range(steps):
        rows.append(np.concatenate([place, goal]))
        place = np.clip(place + rng.uniform(-0.05, 0.05, 2), -1.0, 1.0)
        place = rng.uniform(-1.0, 1.0, 2) if rng.random() < teleport else place
        goal = rng.uniform(-1.0, 1.0, 2) if rng.random() < new_goal else goal
    return np.array(rows)


def random_episodes(name: str, count: int) -> list[np.ndarray]:
    """The observations of episodes of random actions in one of Gymnasium's environments."""
    env, found = gymnasium.make(name), []
    env.action_space.seed(0)
    for seed in range(count):
        seen, ended = [env.reset(seed=seed)[0]], False
        while not ended:
            observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
            seen.append(observation)
            ended = terminated or truncated
        found.append(np.array(seen))
    env.close()
    return found


def refused(
    episodes: list[np.ndarray], limit: int, marked: slice | np.ndarray = slice(None), over: bool = False
) -> list[int]:
    """The rows that are named as unmarked ends where only these episodes' ends are marked; none where none is.

    Args:
        over: whether the task ends with each episode.
    """
    last = np.cumsum([len(episode) for episode in episodes]) - 1
    ends, told = np.zeros(last[-1] + 1, bool), np.zeros(last[-1] + 1, bool)
    told[last] = over
    ends[last[marked]] = True
    ends[-1] = True
    try:
        refuse_unmarked_ends(np.concatenate(episodes), ends, told, limit, "here")
    except UserError as error:
        named = [int(row) for row in re.findall(r"\d+", str(error).split("at the rows")[1].split("\n")[0])]
        assert set(named) <= set(last.tolist())
        return named
    return []


@pytest.mark.parametrize(
    ("name", "count", "limit", "over"),
    [("Pendulum-v1", 24, 200, False), ("Reacher-v5", 60, 50, False), ("Hopper-v5", 150, 1000, True)],
)
def test_unmarked_ends_of_real_episodes_are_found_and_marked_ones_are_not(
    name: str, count: int, limit: int, over: bool
) -> None:
    episodes = random_episodes(name, count)
    assert refused(episodes, limit, over=over) == []
    assert refused(episodes, limit, np.random.default_rng(0).random(count) < 0.5, over) != []


def test_unmarked_ends_are_found_by_the_length_of_other_episodes_where_no_limit_is_known() -> None:
    rng = np.random.default_rng(0)
    episodes = [drives(rng, int(steps)) for steps in rng.integers(30, 70, 150)]
    assert refused(episodes, 1000, rng.random(150) < 0.7) != []


def test_time_outs_none_of_which_is_marked_are_found_at_the_limit() -> None:
    episodes = random_episodes("Pendulum-v1", 5)
    assert refused(episodes, 200, slice(0)) == [200, 401, 602, 803]


@pytest.mark.parametrize("odd", [{"teleport": 0.02}, {"new_goal": 0.02}, {"teleport": 0.02, "new_goal": 0.02}])
@pytest.mark.parametrize("limit", [50, 20, 1000])
def test_leaps_within_episodes_are_no_ends(odd: dict[str, float], limit: int) -> None:
    rng = np.random.default_rng(0)
    assert refused([drives(rng, 51, **odd) for _ in range(100)], limit) == []
    assert refused([drives(rng, int(steps), **odd) for steps in rng.integers(20, 80, 100)], limit) == []


@pytest.mark.parametrize(("teleport", "ending"), [(0.003, 0.02), (0.01, 0.02), (0.02, 0.005)])
def test_leaps_within_episodes_that_end_by_chance_are_no_ends(
    teleport: float, ending: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """Long episodes are those in which leaps are, too: that their lengths tell of unmarked ends is said, not sure."""
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.geometric(ending, 150) + 1, 200)
    episodes = [drives(rng, int(steps), teleport=teleport)[:, :2] for steps in lengths]  # Without the goal.
    assert refused(episodes, 1000) == []
    assert "unmarked ends, or leaps within episodes" in capsys.readouterr().err


def test_unmarked_ends_are_found_among_teleports() -> None:
    rng = np.random.default_rng(0)
    episodes = [drives(rng, 51) if i % 2 else drives(rng, 51, teleport=0.001) for i in range(100)]
    assert refused(episodes, 50, slice(0, None, 2)) != []


def test_a_dimension_that_is_always_0_is_no_warning_of_numpys(recwarn: pytest.WarningsRecorder) -> None:
    """In training the processor counts the spacing of numbers next to 0 as 0."""
    observations = np.random.default_rng(0).uniform(-1.0, 1.0, (9, 2)) * (0.0, 1.0)
    assert torch.set_flush_denormal(True)
    try:
        _refuse_lost_variation(observations, "data")
    finally:
        torch.set_flush_denormal(False)
    assert not recwarn.list


LEROBOT = ROOT / "tests" / "data" / "lerobot"


def recorded_by_lerobot() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What was given to LeRobot's writer, by feature, and the row after which each episode ends."""
    with np.load(LEROBOT / "episodes.npz") as file:
        rows = dict(file)
    return rows, np.cumsum(rows.pop("lengths")) - 1


@pytest.fixture
def point(tmp_path: Path) -> Path:
    """A folder with LeRobot's datasets and an environment of their spaces, as the tasks `mine` and `other`."""
    space, actions = Box(-2.0, 2.0, (4,), np.float64), Box(-0.2, 0.2, (2,), np.float32)
    for name, version in {"mine": "v2.1", "other": "v3.0"}.items():
        shutil.copytree(LEROBOT / version, tmp_path / name)
    rows = "".join(f"{name},Odd-v0,{name},return,40,,\n" for name in ("mine", "other"))
    registered(tmp_path, rows, observations=space, actions=actions)
    return tmp_path


@pytest.mark.parametrize("name", ["mine", "other"])
def test_what_lerobot_wrote_is_read_to_the_last_bit(point: Path, name: str) -> None:
    rows, last = recorded_by_lerobot()
    splits, _ = suite_of(name).recorded(find_task(name), point)
    found = splits["train"]
    seen = np.concatenate([rows["observation.state"], rows["observation.environment_state"]], axis=1)
    cut_off = last[~rows["next.success"][last, 0]]
    kept = np.delete(np.arange(len(seen)), cut_off)
    assert (len(last), len(cut_off)) == (5, 1)
    for given, read in (
        (seen, found.observations),
        (rows["action"], found.actions),
        (rows["next.reward"][:, 0], found.rewards),
    ):
        assert (read.dtype, read.tobytes()) == (given.dtype, given[kept].tobytes())
    np.testing.assert_array_equal(found.masks, 1.0 - rows["next.success"][kept, 0])
    goes_on = found.terminals == 0
    np.testing.assert_array_equal(np.asarray(found.next_observations)[goes_on], seen[kept[goes_on] + 1])
    np.testing.assert_array_equal(kept[~goes_on], np.where(np.isin(last, cut_off), last - 1, last))


def test_a_dataset_in_lerobots_layout_is_known_by_what_is_read_of_it_alone(point: Path) -> None:
    described = describe_own(find_task("mine"), point).splits["train"]
    known = load(find_task("mine"), point).sha256
    (point / "mine" / "videos").mkdir()
    (point / "mine" / "videos" / "a.mp4").write_bytes(b"film")
    (point / "mine" / "README.md").write_text("a card", encoding="utf-8")
    (point / "mine" / "meta" / "episodes_stats.jsonl").unlink()
    assert load(find_task("mine"), point).sha256 == known
    shutil.copytree(point / "mine", point / "copy")
    assert sha256(point / "copy") == known
    for name in ("data/chunk-000/episode_000001.parquet", "meta/episodes.jsonl", "meta/info.json"):
        path = point / "mine" / name
        before = path.read_bytes()
        path.write_bytes(before + b"\n")
        with pytest.raises(UserError, match=r"is not the file that mine\.json describes|no readable Parquet"):
            load(find_task("mine"), point)
        path.write_bytes(before)
    assert len(load(find_task("mine"), point)) == len(described)
